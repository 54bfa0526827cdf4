"""Frame samplers: number of frames of a tracklet → indices of the frames of a clip.

``rrs`` is restricted random sampling (Sec. 4.1): the tracklet is divided into L chunks in order;
training draws one frame of each chunk, testing takes the first frame of each.
``consecutive`` is what several systems of Table 2 train on, ``every_8th`` what TCLNet trains on;
the others are the host's. ``ClipPlan`` says which clips of a tracklet a test takes. F below is the
number of frames, L is ``seq_len``.
"""

from collections.abc import Callable
from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

Indices: TypeAlias = NDArray[np.int64]
"""Frame indices."""

RRS_CHUNKS = ('balanced', 'ceil')


def sample_rrs(
    num_frames: int, seq_len: int, rng: Generator | None = None, chunks: str = 'balanced'
) -> Indices:
    """Sample a tracklet by restricted random sampling.

    Corner cases, with ``chunks='balanced'`` (edges floor(i*F/L)): chunk sizes differ by at most
    one, every frame can be drawn, and with F < L frame floor(i*F/L) is taken, so that frames
    repeat in order. With ``chunks='ceil'`` (the authors' code) chunks have ceil(F/L) frames and are
    filled with the last frame; trailing chunks may hold only that (F=7, L=6: 0 2 4 6 6 6).

    Args:
        num_frames: F >= 1.
        seq_len: L >= 1.
        rng: generator that draws one frame per chunk; ``None`` is the test protocol, the first
            frame of each chunk.
        chunks: 'balanced' or 'ceil'.

    Returns:
        Frame indices in temporal order, shape (L,).

    Raises:
        ValueError: num_frames or seq_len below 1, or an unknown ``chunks``.
    """
    _check(num_frames, seq_len)
    if chunks == 'balanced':
        edges = np.arange(seq_len + 1, dtype=np.int64) * num_frames // seq_len
        first, last = edges[:-1], np.maximum(edges[1:] - 1, edges[:-1])
    elif chunks == 'ceil':
        size = -(-num_frames // seq_len)
        first = np.arange(seq_len, dtype=np.int64) * size
        last = first + size - 1
    else:
        raise ValueError(f'chunks must be one of {RRS_CHUNKS}, got {chunks!r}')
    drawn = first if rng is None else rng.integers(first, last, endpoint=True)
    return np.minimum(drawn, num_frames - 1)


def sample_consecutive(num_frames: int, seq_len: int, rng: Generator | None = None) -> Indices:
    """Take L consecutive frames from a uniformly random start; with F < L the tracklet is looped.

    The released codes of COSAM, GLTR, M3D and MGH do the same, but never draw the last start. With
    ``rng=None`` (testing) the clip starts at the first frame.

    Args:
        num_frames: F >= 1.
        seq_len: L >= 1.
        rng: generator that draws the start.

    Returns:
        Frame indices, shape (L,).

    Raises:
        ValueError: num_frames or seq_len below 1.
    """
    _check(num_frames, seq_len)
    last = max(num_frames - seq_len, 0)
    start = 0 if rng is None else rng.integers(0, last, endpoint=True)
    return (start + np.arange(seq_len, dtype=np.int64)) % num_frames


def sample_every_8th(num_frames: int, seq_len: int, rng: Generator | None = None) -> Indices:
    """Take L frames that are 8 apart from a uniformly random start, as TCLNet's released code does.

    A tracklet with F < 8L gives L random frames instead, see :func:`sample_random`. In testing
    (``rng=None``) the clip starts at the first frame, and frames are 8, 4 or 2 apart, whichever
    fits first; if none does, the clip is that of :func:`sample_consecutive`.

    Args:
        num_frames: F >= 1.
        seq_len: L >= 1.
        rng: generator that draws the start, or the frames.

    Returns:
        Frame indices in temporal order (but for F < L in testing), shape (L,).

    Raises:
        ValueError: num_frames or seq_len below 1.
    """
    _check(num_frames, seq_len)
    places = np.arange(seq_len, dtype=np.int64)
    if rng is None:
        step = next((step for step in (8, 4, 2) if step * (seq_len - 1) < num_frames), 1)
        return step * places % num_frames
    if num_frames < 8 * seq_len:
        return sample_random(num_frames, seq_len, rng)
    return rng.integers(0, num_frames - 8 * (seq_len - 1)) + 8 * places


def sample_evenly(num_frames: int, seq_len: int, rng: Generator | None = None) -> Indices:
    """Take every floor(F/L)-th frame, as the host's 'evenly' does.

    The remainder is never used; with F < L the last frame repeats. ``rng`` is not used.
    """
    _check(num_frames, seq_len)
    step = max(num_frames // seq_len, 1)
    return np.minimum(np.arange(seq_len, dtype=np.int64) * step, num_frames - 1)


def sample_random(num_frames: int, seq_len: int, rng: Generator | None = None) -> Indices:
    """Draw L frames and sort them, as the host's 'random' does; with replacement only if F < L.

    ``rng=None`` (testing) draws from a fixed generator, so that evaluations are reproducible.
    """
    _check(num_frames, seq_len)
    rng = np.random.default_rng(0) if rng is None else rng
    drawn = rng.choice(num_frames, size=seq_len, replace=num_frames < seq_len)
    return np.sort(drawn).astype(np.int64)


def sample_all(num_frames: int, seq_len: int, rng: Generator | None = None) -> Indices:
    """Take all frames in order, for batches of one tracklet; ignores ``seq_len`` and ``rng``."""
    _check(num_frames, seq_len)
    return np.arange(num_frames, dtype=np.int64)


def count_clips(num_frames: int, seq_len: int, clips: str = 'ceil') -> int:
    """Return the number of clips of an all-frames test.

    Args:
        num_frames: F >= 1.
        seq_len: L >= 1.
        clips: 'ceil' and 'consecutive': ceil(F / L) clips, which contain all frames; 'floor':
            max(floor(F / L), 1) clips, without the remainder.

    Raises:
        ValueError: num_frames or seq_len below 1, or an unknown ``clips``.
    """
    _check(num_frames, seq_len)
    if clips not in ALL_CLIPS:
        raise ValueError(f'clips must be one of {tuple(ALL_CLIPS)}, got {clips!r}')
    return max(num_frames // seq_len, 1) if clips == 'floor' else -(-num_frames // seq_len)


def interleaved_clip(num_frames: int, seq_len: int, index: int) -> Indices:
    """Return clip ``index`` of the ceil(F / L) clips of a tracklet in all-frames testing.

    Clip i of n consists of the frames i, i + n, i + 2n, ..., so frames are as far apart as in
    training and every frame is in exactly one clip. A clip with fewer than L frames repeats them in
    order, as evenly as L allows and the last one first: F=7, L=6 gives 0 2 2 4 6 6 and 1 1 3 3 5 5.
    The counts of any two frames of a tracklet therefore differ by at most one.

    Returns:
        Frame indices, shape (L,).
    """
    frames = np.arange(index, num_frames, count_clips(num_frames, seq_len), dtype=np.int64)
    return frames[(np.arange(1, seq_len + 1) * len(frames) - 1) // seq_len]


def dropping_clip(num_frames: int, seq_len: int, index: int) -> Indices:
    """Return clip ``index`` of the floor(F / L) clips that the authors' released code tests.

    Clip i of n consists of the frames i, i + n, ..., i + (L-1)n; no clip has the last F - nL
    frames. With F < L their code appends the last but one of the frames so far until there are L,
    so the last two frames alternate: F=3, L=6 gives 0 1 2 1 2 1. With F=1 their code does not
    terminate; here the frame repeats.

    Returns:
        Frame indices, shape (L,).
    """
    count = count_clips(num_frames, seq_len, 'floor')
    frames = index + count * np.arange(seq_len, dtype=np.int64)
    alternating = np.maximum(num_frames - 2 + (frames - num_frames) % 2, 0)
    return np.where(frames < num_frames, frames, alternating)


def consecutive_clip(num_frames: int, seq_len: int, index: int) -> Indices:
    """Return clip ``index`` of the ceil(F / L) clips of adjacent frames.

    The last clip repeats its own frames from its first on: F=6, L=4 gives 0 1 2 3 and 4 5 4 5. The
    released codes of COSAM, MGH and TCLNet test these clips.

    Returns:
        Frame indices, shape (L,).
    """
    start = index * seq_len
    return start + np.arange(seq_len, dtype=np.int64) % min(seq_len, num_frames - start)


def dealt_clip(
    num_frames: int, seq_len: int, num_clips: int, index: int, chunks: str = 'balanced'
) -> Indices:
    """Return clip ``index`` of ``num_clips`` that take RRS of num_clips * L frames in turns.

    With one clip this is RRS; with ceil(F / L) every frame is used.

    Returns:
        Frame indices, shape (L,).
    """
    return sample_rrs(num_frames, num_clips * seq_len, chunks=chunks)[index::num_clips]


ALL_CLIPS: dict[str, Callable[[int, int, int], Indices]] = {
    'ceil': interleaved_clip,
    'floor': dropping_clip,
    'consecutive': consecutive_clip,
}

FRAME_SAMPLERS: dict[str, Callable[..., Indices]] = {
    'rrs': sample_rrs,
    'consecutive': sample_consecutive,
    'every_8th': sample_every_8th,
    'evenly': sample_evenly,
    'random': sample_random,
    'all': sample_all,
}


class ClipPlan(NamedTuple):
    """The rule by which a tracklet is divided into clips for testing."""

    seq_len: int  # L
    frames: str = 'rrs'  # 'all', 'in_order' (all of them), or a frame sampler that takes one clip
    clips_per_tracklet: int = 1  # maximum with 'rrs'
    rrs_chunks: str = 'balanced'
    all_clips: str = 'ceil'  # one of ALL_CLIPS: the clips with 'all'

    def count(self, num_frames: int) -> int:
        """Return the number of clips of a tracklet of F frames."""
        if self.frames in ('all', 'in_order'):
            clips = self.all_clips if self.frames == 'all' else 'ceil'
            return count_clips(num_frames, self.seq_len, clips)
        return min(self.clips_per_tracklet, count_clips(num_frames, self.seq_len))

    def clip(self, num_frames: int, index: int) -> Indices:
        """Return the frame indices of a clip, int64 (L,)."""
        if self.frames == 'all':
            return ALL_CLIPS[self.all_clips](num_frames, self.seq_len, index)
        if self.frames == 'in_order':
            start = index * self.seq_len
            return np.minimum(np.arange(start, start + self.seq_len), num_frames - 1)
        if self.frames == 'rrs':
            count = self.count(num_frames)
            return dealt_clip(num_frames, self.seq_len, count, index, self.rrs_chunks)
        return FRAME_SAMPLERS[self.frames](num_frames, self.seq_len)

    @property
    def title(self) -> str:
        """Name for tables: 'all', 'all (floor)', 'all (consecutive)', 'rrs', 'rrs x 4'."""
        if self.frames == 'all' and self.all_clips != 'ceil':
            return f'all ({self.all_clips})'
        many = self.frames == 'rrs' and self.clips_per_tracklet > 1
        return f'rrs x {self.clips_per_tracklet}' if many else self.frames


def _check(num_frames: int, seq_len: int) -> None:
    if num_frames < 1:
        raise ValueError(f'a tracklet needs at least one frame, got {num_frames}')
    if seq_len < 1:
        raise ValueError(f'seq_len must be at least 1, got {seq_len}')
