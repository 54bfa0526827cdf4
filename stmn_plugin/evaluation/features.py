"""Vectors of frames → features of clips → one feature a tracklet.

Letters: T frames, V numbers of a frame, B clips, L frames of a clip, G tracklets, D numbers of a
feature.
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

from .search import unit_vectors

# of a clip without a readable frame of its own: nothing beside any other clip of its tracklet
STAND_IN_WEIGHT = 1e-12


class TrackletFeatures(NamedTuple):
    features: Tensor  # (G, D) on the CPU
    pids: NDArray[Any]  # (G,)
    camids: NDArray[Any]  # (G,)

    def normalized(self) -> 'TrackletFeatures':
        """With features of length 1."""
        return self._replace(features=unit_vectors(self.features))


def join_tracklets(parts: Sequence[TrackletFeatures]) -> TrackletFeatures:
    """The features of several lists of tracklets, one after the other."""
    return TrackletFeatures(
        torch.cat([part.features for part in parts]),
        np.concatenate([part.pids for part in parts]),
        np.concatenate([part.camids for part in parts]),
    )


class ClipVectors(NamedTuple):
    """A batch of clips as vectors of frames; mirrored frames come as a second set."""

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


def mean_over_views(views: Sequence[Tensor]) -> Tensor:
    """Features (B, D) of clips as they are and mirrored → (B, D)."""
    return torch.stack(list(views)).mean(dim=0)


def clips_of_vectors(
    batches: Iterable[ClipVectors], model: VideoModel, every_frame: bool = False
) -> Iterator[ClipFeatures]:
    """Put clips together from the vectors of their frames.

    Args:
        batches: of clips.
        model: with ``frame_once``, in eval mode.
        every_frame: weigh a clip by its distinct frames and each of those alike, so that the mean
            over a tracklet's clips is one over all its frames; for models that ``weighs_frames``.
    """
    for vectors, rows, tracklets, stand_ins in batches:
        there = rows.to(vectors.device)
        weights = torch.ones(len(rows), dtype=torch.float64)
        if every_frame:
            distinct = torch.ones_like(rows, dtype=torch.float64)
            distinct[:, 1:] = (rows[:, 1:] != rows[:, :-1]).double()  # repeats stand together
            weights = distinct.sum(dim=1)  # (B,)
            share = (distinct / weights[:, None]).to(vectors)  # (B, L)
            means = (torch.einsum('bl,blv->bv', share, view[there]) for view in vectors)
            views = [model.embed(mean.unsqueeze(1).expand(-1, rows.shape[1], -1)) for mean in means]
        else:
            views = [model.embed(view[there]) for view in vectors]  # of (B, L, V)
        yield ClipFeatures(mean_over_views(views), weights, tracklets, stand_ins)


def mean_over_clips(
    batches: Iterable[ClipFeatures],
    tracklets: Sequence[Tracklet],
    finish: Callable[[Tensor], Tensor] = lambda features: features,
) -> TrackletFeatures:
    """The weighted mean over the clips of each tracklet, finished.

    Args:
        batches: of all clips.
        tracklets: G of the host's 4-tuples.
        finish: means (G, D) in float32 → features (G, D), see ``VideoModel.finish``.

    Raises:
        InputError: a feature is not finite.
    """
    sums, weights = torch.zeros(0), torch.zeros(len(tracklets), dtype=torch.float64)
    for features, weight, owners, stand_ins in batches:
        weight = torch.where(stand_ins, STAND_IN_WEIGHT * weight, weight)
        if not len(sums):
            sums = torch.zeros(len(tracklets), features.shape[1], dtype=torch.float64)
        sums.index_add_(0, owners, features.double().cpu() * weight[:, None])
        weights.index_add_(0, owners, weight)
    features = finish((sums / weights[:, None]).float())
    broken = (~torch.isfinite(features).all(dim=1)).nonzero().flatten().tolist()
    if broken:
        raise InputError(
            f'the model gives features that are NaN or infinite for {len(broken)} of '
            f'{len(tracklets)} tracklets, first {tracklets[broken[0]][0][0]}'
        )
    return TrackletFeatures(
        features,
        np.array([pid for _, pid, _, _ in tracklets]),
        np.array([camid for _, _, camid, _ in tracklets]),
    )
