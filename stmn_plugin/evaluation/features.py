"""Combine vectors of frames to features of clips, and these to features of tracklets.

Letters: T frames, V values per frame, B clips, L frames of a clip, G tracklets, D feature
dimensions.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stmn_plugin.data.tracklets import Tracklet
from stmn_plugin.errors import InputError
from stmn_plugin.models.base import VideoModel

from .distances import unit_vectors

# weight of a clip without a readable frame, negligible compared with other clips of its tracklet
STAND_IN_WEIGHT = 1e-12


class TrackletClips(NamedTuple):
    """Vectors of ``VideoModel.pair_features``, ordered by tracklet.

    ``score_pairs`` compares those of clips, ``rescore`` the mean of each tracklet.
    """

    features: Tensor  # (N, D) on the CPU
    counts: NDArray[np.int64]  # (G,) clips of each tracklet, at least 1, N in all


class TrackletFeatures(NamedTuple):
    """Features of tracklets with their labels."""

    features: Tensor  # (G, D) on the CPU
    pids: NDArray[Any]  # (G,)
    camids: NDArray[Any]  # (G,)
    clips: TrackletClips | None = None  # of a model that compares pairs itself

    def normalized(self) -> 'TrackletFeatures':
        """Return the features scaled to length 1."""
        return self._replace(features=unit_vectors(self.features))


def join_tracklets(parts: Sequence[TrackletFeatures]) -> TrackletFeatures:
    """Concatenate the features of several lists of tracklets."""
    clips = [part.clips for part in parts if part.clips is not None]
    return TrackletFeatures(
        torch.cat([part.features for part in parts]),
        np.concatenate([part.pids for part in parts]),
        np.concatenate([part.camids for part in parts]),
        TrackletClips(
            torch.cat([own.features for own in clips]),
            np.concatenate([own.counts for own in clips]),
        )
        if clips
        else None,
    )


class ClipVectors(NamedTuple):
    """A batch of clips as vectors of frames; mirrored frames are a second view."""

    vectors: Tensor  # (1 or 2, T, V)
    rows: Tensor  # (B, L) rows of T that make each clip
    tracklets: Tensor  # (B,)
    stand_ins: Tensor  # (B,) bool: the clip itself has no readable frame


class ClipFeatures(NamedTuple):
    """A batch of clips as features."""

    features: Tensor  # (B, D) mean over the views
    weights: Tensor  # (B,) float64, of the clip in the mean of its tracklet
    tracklets: Tensor  # (B,)
    stand_ins: Tensor  # (B,) bool
    pairs: Tensor | None = None  # (B, D') compared by a model that compares pairs itself


def mean_over_views(views: Sequence[Tensor]) -> Tensor:
    """Average the features (B, D) of clips over their views, original and mirrored."""
    return torch.stack(list(views)).mean(dim=0)


def clips_of_vectors(
    batches: Iterable[ClipVectors], model: VideoModel, every_frame: bool = False
) -> Iterator[ClipFeatures]:
    """Compute features of clips from the vectors of their frames.

    Args:
        batches: batches of clips.
        model: a model with ``frame_once`` in eval mode.
        every_frame: weight a clip by its number of distinct frames, all equally, so that the mean
            over a tracklet's clips is the mean over its frames; for models with ``weighs_frames``.
    """
    for vectors, rows, tracklets, stand_ins in batches:
        there = rows.to(vectors.device)
        weights = torch.ones(len(rows), dtype=torch.float64)
        if every_frame:
            repeats = (rows.unsqueeze(2) == rows.unsqueeze(1)).tril(-1).any(dim=2)  # (B, L)
            distinct = (~repeats).double()
            weights = distinct.sum(dim=1)  # (B,)
            share = (distinct / weights[:, None]).to(vectors)  # (B, L)
            means = (torch.einsum('bl,blv->bv', share, view[there]) for view in vectors)
            views = [model.embed(mean.unsqueeze(1).expand(-1, rows.shape[1], -1)) for mean in means]
        else:
            views = [model.embed(view[there]) for view in vectors]  # of (B, L, V)
        pairs = None
        if model.join_scores is not None or model.rescored:
            pairs = mean_over_views([model.pair_features(view[there]) for view in vectors])
        yield ClipFeatures(mean_over_views(views), weights, tracklets, stand_ins, pairs)


def mean_over_clips(
    batches: Iterable[ClipFeatures],
    tracklets: Sequence[Tracklet],
    finish: Callable[[Tensor], Tensor] = lambda features: features,
    average_pairs: bool = False,
) -> TrackletFeatures:
    """Average the clips of each tracklet with weights, apply ``finish``, and keep compared vectors.

    Args:
        batches: batches of all clips.
        tracklets: G tracklets, the host's 4-tuples.
        finish: means (G, D) in float32 → features (G, D), see ``VideoModel.finish``.
        average_pairs: average the compared vectors, too, in place of keeping those of every clip.

    Raises:
        InputError: a feature is not finite.
    """
    sums, pair_sums = torch.zeros(0), torch.zeros(0)
    weights = torch.zeros(len(tracklets), dtype=torch.float64)
    kept: list[ClipFeatures] = []
    for batch in batches:
        features, weight, owners, stand_ins, pairs = batch
        weight = torch.where(stand_ins, STAND_IN_WEIGHT * weight, weight)
        if pairs is not None and average_pairs:
            if not len(pair_sums):
                pair_sums = torch.zeros(len(tracklets), pairs.shape[1])
            pair_sums.index_add_(0, owners, pairs.float().cpu() * weight[:, None].float())
        elif pairs is not None:
            kept.append(batch._replace(pairs=pairs.float().cpu()))
        if not len(sums):
            sums = torch.zeros(len(tracklets), features.shape[1], dtype=torch.float64)
        sums.index_add_(0, owners, features.double().cpu() * weight[:, None])
        weights.index_add_(0, owners, weight)
    features = finish((sums / weights[:, None]).float())
    clips = kept_clips(kept, len(tracklets)) if kept else None
    if len(pair_sums):
        means = pair_sums.div_(weights[:, None].float())
        clips = TrackletClips(means, np.ones(len(tracklets), dtype=np.int64))
    is_finite = torch.isfinite(features).all(dim=1)  # (G,)
    if clips is not None:
        rows = torch.isfinite(clips.features).all(dim=1).numpy()  # (N,)
        first = np.cumsum(clips.counts) - clips.counts
        is_finite &= torch.from_numpy(np.logical_and.reduceat(rows, first))
    broken = (~is_finite).nonzero().flatten().tolist()
    if broken:
        raise InputError(
            f'the model gives features that are NaN or infinite for {len(broken)} of '
            f'{len(tracklets)} tracklets, first {tracklets[broken[0]][0][0]}'
        )
    return TrackletFeatures(
        features,
        np.array([pid for _, pid, _, _ in tracklets]),
        np.array([camid for _, _, camid, _ in tracklets]),
        clips,
    )


def kept_clips(batches: Sequence[ClipFeatures], num_tracklets: int) -> TrackletClips:
    """Collect the compared vectors of the clips of all tracklets.

    A clip without a readable frame is skipped if its tracklet has others.

    Args:
        batches: batches with ``pairs`` on the CPU; every tracklet has a clip.
        num_tracklets: G.
    """
    owners = torch.cat([batch.tracklets for batch in batches])  # (N,)
    stand_ins = torch.cat([batch.stand_ins for batch in batches])
    own = torch.bincount(owners[~stand_ins], minlength=num_tracklets)  # (G,) clips of their own
    chosen = (~stand_ins | (own[owners] == 0)).nonzero().flatten()
    chosen = chosen[owners[chosen].argsort(stable=True)]
    pairs = torch.cat([batch.pairs for batch in batches if batch.pairs is not None])
    counts = torch.bincount(owners[chosen], minlength=num_tracklets)
    return TrackletClips(pairs[chosen], counts.numpy())
