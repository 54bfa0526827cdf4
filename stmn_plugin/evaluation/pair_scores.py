"""A model's own score of pairs of tracklets, ``VideoModel.score_pairs`` → rows of distances.

It is one of pairs of tracklets, or of pairs of clips that ``VideoModel.join_scores`` makes one of
tracklets. Such a score is no distance of two vectors, so what works on distances of vectors refuses
it.
"""

from collections.abc import Callable, Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stmn_plugin.errors import InputError

from .features import TrackletClips

PAIRS_LIMIT = 1 << 26  # bytes of the features of the pairs that are scored at a time
QUERIES_AT_ONCE = 64  # the gallery's clips travel to the device once for so many queries

ScorePairs = Callable[[Tensor, Tensor], Tensor]
JoinScores = Callable[[Tensor], Tensor]


@torch.no_grad()
def scored_rows(
    query: Tensor,
    gallery: Tensor,
    score_pairs: ScorePairs,
    device: str | torch.device = 'cpu',
    limit: int = PAIRS_LIMIT,
) -> Iterator[Tensor]:
    """Rows of negative scores in chunks of queries; pairs are scored in chunks of both.

    Args:
        query: (Q, D).
        gallery: (G, D).
        score_pairs: (q, D), (g, D) on the device → (q, g), larger is nearer.
        device: of the model.
        limit: bytes of the q * g pairs of D numbers that are scored at a time.

    Yields:
        (q, G) on the CPU.
    """
    pairs = max(limit // (query.element_size() * query.shape[1]), 1)
    width = max(min(len(gallery), int(pairs**0.5)), 1)
    for queries in query.split(max(pairs // width, 1)):
        queries = queries.to(device)
        parts = [
            score_pairs(queries, some.to(device)).float().cpu() for some in gallery.split(width)
        ]
        yield -torch.cat(parts, dim=1)


@torch.no_grad()
def joined_rows(
    query: TrackletClips,
    gallery: TrackletClips,
    score_pairs: ScorePairs,
    join_scores: JoinScores,
    device: str | torch.device = 'cpu',
    limit: int = PAIRS_LIMIT,
) -> Iterator[Tensor]:
    """Rows of negative scores of tracklets whose clips are compared, in chunks of queries.

    Tracklets of as many clips are scored together, so that nothing is filled up. What is held at a
    time is bounded, but for the scores of the clips of the two longest tracklets.

    Args:
        query, gallery: what is compared of the clips of Q and G tracklets.
        score_pairs: (n, D), (m, D) of clips on the device → (n, m), larger is nearer.
        join_scores: of the clips of tracklets (q, g, n, m) → (q, g), larger is nearer.
        device: of the model.
        limit: bytes of the n * m pairs of D numbers that are scored at a time.

    Yields:
        (q, G) on the CPU.
    """
    pairs = max(limit // (query.features.element_size() * query.features.shape[1]), 1)
    side = max(int(pairs**0.5), 1)  # clips
    for start in range(0, len(query.counts), QUERIES_AT_ONCE):
        some = np.arange(start, min(start + QUERIES_AT_ONCE, len(query.counts)))
        rows = torch.empty(len(some), len(gallery.counts))
        for columns, theirs in _alike(gallery, np.arange(len(gallery.counts)), side):
            theirs = theirs.to(device)
            for queries, ours in _alike(query, some, side):
                scores = _score_clips(ours.to(device), theirs, score_pairs, side)
                q, g = len(queries), len(columns)
                by_tracklet = scores.view(q, len(ours) // q, g, len(theirs) // g).transpose(1, 2)
                places = torch.from_numpy(queries - start)[:, None], torch.from_numpy(columns)
                rows[places] = join_scores(by_tracklet).float().cpu()
        yield -rows


def _alike(
    clips: TrackletClips, numbers: NDArray[np.int64], most: int
) -> Iterator[tuple[NDArray[np.int64], Tensor]]:
    """Tracklets of as many clips each → their numbers (g,) and all their clips (g * m, D).

    Args:
        clips: of all tracklets.
        numbers: of the tracklets that are wanted.
        most: clips together; no less than one tracklet.
    """
    first, counts = np.cumsum(clips.counts) - clips.counts, clips.counts[numbers]
    for count in np.unique(counts):
        alike, step = numbers[counts == count], max(most // int(count), 1)
        for start in range(0, len(alike), step):
            part = alike[start : start + step]
            rows = (first[part, None] + np.arange(count)).ravel()
            yield part, clips.features[torch.from_numpy(rows)]


def _score_clips(query: Tensor, gallery: Tensor, score_pairs: ScorePairs, side: int) -> Tensor:
    """Clips (n, D), (m, D) → scores (n, m), in squares of so many clips."""
    return torch.cat(
        [
            torch.cat([score_pairs(ours, theirs) for theirs in gallery.split(side)], dim=1)
            for ours in query.split(side)
        ]
    )


def refuse_pair_scores(model: object, what: str) -> None:
    """InputError, if a model scores pairs itself, for what needs distances of vectors.

    Args:
        model: any.
        what: key or name for the message.
    """
    if getattr(model, 'score_pairs', None) is not None:
        raise InputError(
            f'{what}: {type(model).__name__} scores pairs of tracklets itself, there is no '
            'distance of vectors'
        )
