"""Views of clips → how much each memory item is used, and by which frames and clips most.

Letters are those of ``models/memory.py``; T here counts clips, one of each tracklet.
"""

from typing import NamedTuple

import numpy as np


class SpatialUse(NamedTuple):
    """Use of the M spatial items."""

    mean: np.ndarray  # (M,) probability averaged over clips, frames and positions
    best: np.ndarray  # (T, M) highest probability in the clip
    where: np.ndarray  # (T, M, 3) int64: frame of the clip, row and column where that is


class TemporalUse(NamedTuple):
    """Use of the N temporal items."""

    mean: np.ndarray  # (N,) probability averaged over clips
    probs: np.ndarray  # (T, N)


class ClipUse(NamedTuple):
    """What the memories did in T clips; None for a memory that the model does not have."""

    attention: np.ndarray  # (T, L)
    spatial: SpatialUse | None
    temporal: TemporalUse | None
    grid: tuple  # (H, W)


def use_of_items(views):
    """Sum up views of one clip per tracklet, in the order of the tracklets.

    The maps of a view are let go as the next one comes.

    Args:
        views (iterable): of ``clip_views.ClipView``, at least one.

    Returns:
        ClipUse
    """
    attention, temporal, means, best, where, grid = [], [], [], [], [], ()
    for view in views:
        attention.append(view.attention)
        grid = view.frame_norms.shape[1:]
        if view.temporal_probs is not None:
            temporal.append(view.temporal_probs)
        if view.spatial_probs is not None:
            rows = view.spatial_probs.reshape(-1, view.spatial_probs.shape[-1])  # (L*K, M)
            means.append(rows.mean(axis=0))
            best.append(rows.max(axis=0))
            places = np.unravel_index(rows.argmax(axis=0), view.spatial_probs.shape[:-1])
            where.append(np.stack(places, axis=1))  # (M, 3)
    probs = np.array(temporal)
    return ClipUse(
        np.array(attention),
        SpatialUse(np.mean(means, axis=0), np.array(best), np.array(where)) if best else None,
        TemporalUse(probs.mean(axis=0), probs) if temporal else None,
        tuple(grid),
    )


def strongest(scores, k):
    """The k rows (T, items) → (items, k) with the highest score of each item, highest first.

    Equal scores keep the order of the rows; with fewer rows than k all are given.
    """
    return np.argsort(-scores, axis=0, kind='stable')[:k].T
