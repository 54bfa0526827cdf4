"""Reduce the views of all clips to the arrays that measures and figures need.

Memory grows with tracklets x items but not with positions: maps of probabilities of a whole
dataset are not stored. Letters are those of ``models/explanations.py``; C clips, T tracklets.
"""

from collections.abc import Collection, Iterable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from stmn_plugin.errors import InputError

from .opened_run import ClipView

Floats = NDArray[np.floating[Any]]
Indices = NDArray[np.int64]
NO_CLIPS = np.zeros(0, dtype=np.int64)


class SpatialUse(NamedTuple):
    """Accesses of the spatial memory at every position of every frame."""

    mean_probs: Floats  # (C, M) over the L*H*W accesses of a clip
    second_moments: Floats  # (C, M, M) mean of p p'
    entropies: Floats  # (C,) mean entropy of an access, nats
    best_probs: Floats  # (T, M) the highest in any access of the tracklet
    best_places: Indices  # (T, M, 3) where: frame (index into the paths), row, column


class Changes(NamedTuple):
    """Changes by the refinement at every position; float32 (C, L, H, W)."""

    change_norms: Floats  # |f^s - f^o|
    norm_changes: Floats  # |f^s| - |f^o|, Fig. 7


class ClipStatistics(NamedTuple):
    """Statistics of all clips; None for those that need tensors the model does not explain."""

    clip_tracklets: Indices = NO_CLIPS  # (C,)
    clip_frames: Indices = NO_CLIPS  # (C, L), indices into the tracklet's paths
    attention: Floats | None = None  # (C, L)
    temporal_probs: Floats | None = None  # (C, N)
    temporal_values: Floats | None = None  # (N, L)
    spatial_values: Floats | None = None  # (M, D)
    frame_feature: Floats | None = None  # (T, D) float32, mean over the clips of a tracklet
    refined_feature: Floats | None = None  # (T, D) the same
    original_energy: Floats | None = None  # (C,) mean |f^o|^2 of a position
    change_energy: Floats | None = None  # (C,) mean |f^s - f^o|^2 of a position
    spatial: SpatialUse | None = None
    changes: Changes | None = None  # on request
    kept: dict[int, ClipView] = {}  # tracklet → its first clip


def reduce_clips(
    views: Iterable[ClipView],
    num_tracklets: int,
    keep: Collection[int] = (),
    keep_changes: bool = False,
) -> ClipStatistics:
    """Reduce the views of a dataset's clips in one pass.

    Args:
        views: views with the same names; clips of one tracklet are adjacent.
        num_tracklets: T.
        keep: tracklets whose first view is kept.
        keep_changes: keep ``changes``, which grow with the positions.

    Raises:
        InputError: what the model explains is not finite.
    """
    rows: list[dict[str, Any]] = []
    changes: list[tuple[Floats, Floats]] = []
    kept: dict[int, ClipView] = {}
    sums: dict[str, list[Any]] = {}
    clips_of = np.zeros(num_tracklets, dtype=np.int64)
    best = _Best(num_tracklets)
    for view in views:
        rows.append(_row(view))
        clips_of[view.tracklet] += 1
        for name in [x for x in ('frame_feature', 'refined_feature') if x in view]:
            own = sums.setdefault(name, [0.0] * num_tracklets)
            own[view.tracklet] = own[view.tracklet] + view[name]
        if view.tracklet in keep:
            kept.setdefault(view.tracklet, view)
        if keep_changes:
            changes.append((view['change_norms'], view['refined_norms'] - view['frame_norms']))
        if 'spatial_probs' in view:
            best.update(view)
    if not rows:
        return ClipStatistics()
    columns = {name: np.stack([row[name] for row in rows]) for name in rows[0]}
    for name, values in columns.items():
        if not np.isfinite(values).all():
            raise InputError(f'the model gives features that are NaN or infinite ({name})')
    for name in ('temporal_values', 'spatial_values'):
        if name in view:
            columns[name] = view[name]
    for name, of_tracklets in sums.items():
        means = np.stack(of_tracklets).astype(np.float32) / clips_of[:, None]
        columns[name] = means.astype(np.float32)
    use = {name: columns.pop(name) for name in SpatialUse._fields if name in columns}
    return ClipStatistics(
        **columns,
        spatial=SpatialUse(**use, best_probs=best.probs, best_places=best.places) if use else None,
        changes=Changes(*map(np.stack, zip(*changes, strict=True))) if keep_changes else None,
        kept=kept,
    )


def highest(probs: Floats, count: int, tracklets: Indices) -> list[int]:
    """Return the rows of the highest values of different tracklets, in descending order.

    Args:
        probs: values, (n,); the earlier of equal values wins.
        count: maximum number of rows.
        tracklets: tracklets of the rows, (n,).
    """
    order = np.argsort(-probs, kind='stable')
    _, firsts = np.unique(tracklets[order], return_index=True)
    chosen: list[int] = order[np.sort(firsts)[:count]].tolist()
    return chosen


def entropy(probs: Floats) -> Floats:
    """Compute the entropy in nats over the last dimension; 0 log 0 is 0."""
    negative: Floats = (probs * np.log(np.where(probs > 0, probs, 1))).sum(axis=-1)
    return -negative


def _row(view: ClipView) -> dict[str, Any]:
    """Reduce a clip to values with the names of ClipStatistics and SpatialUse."""
    row: dict[str, Any] = {'clip_tracklets': view.tracklet, 'clip_frames': view.frames}
    row |= {name: view[name] for name in ('attention', 'temporal_probs') if name in view}
    for name, norms in (('original_energy', 'frame_norms'), ('change_energy', 'change_norms')):
        if norms in view:
            row[name] = np.square(view[norms], dtype=np.float64).mean()
    if 'spatial_probs' in view:
        probs = view['spatial_probs']
        accesses = probs.reshape(-1, probs.shape[-1]).astype(np.float64)  # (L*H*W, M)
        row['mean_probs'] = accesses.mean(axis=0)
        row['second_moments'] = accesses.T @ accesses / len(accesses)
        row['entropies'] = entropy(accesses).mean()
    return row


class _Best:
    """The place where each spatial item is addressed most, over the clips of a tracklet."""

    def __init__(self, num_tracklets: int):
        self.num_tracklets = num_tracklets
        self.probs: Floats = np.zeros((0, 0), dtype=np.float32)
        self.places: Indices = np.zeros((0, 0, 3), dtype=np.int64)

    def update(self, view: ClipView) -> None:
        *shape, items = view['spatial_probs'].shape  # L, H, W, M
        if not len(self.probs):
            # below 0: an item that underflows to 0 everywhere has its place in the clip, too
            self.probs = np.full((self.num_tracklets, items), -1, dtype=np.float32)
            self.places = np.zeros((self.num_tracklets, items, 3), dtype=np.int64)
        probs, places = self.probs[view.tracklet], self.places[view.tracklet]
        flat = view['spatial_probs'].reshape(-1, items)  # (L*H*W, M)
        for item, position in enumerate(flat.argmax(axis=0)):
            if flat[position, item] > probs[item]:
                frame, row, column = np.unravel_index(position, tuple(shape))
                probs[item] = flat[position, item]
                places[item] = view.frames[frame], row, column
