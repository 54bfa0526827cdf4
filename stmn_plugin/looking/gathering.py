"""Views of clips, one after another → the arrays that measures and figures need of all of them.

What is kept grows with tracklets x items and never with positions: no map of probabilities of a
whole dataset is held. Letters are those of ``models/memory.py``; C clips, T tracklets.
"""

from typing import NamedTuple

import numpy as np

from stmn_plugin.errors import InputError

from .clip_views import ClipView


class SpatialUse(NamedTuple):
    """How the spatial memory was accessed, at every position of every frame."""

    mean_probs: np.ndarray  # (C, M) over the L*H*W accesses of a clip
    second_moments: np.ndarray  # (C, M, M) mean of p p'
    entropies: np.ndarray  # (C,) mean entropy of an access, nats
    best_probs: np.ndarray  # (T, M) the highest in any access of the tracklet
    best_places: np.ndarray  # (T, M, 3) where: frame (index into the paths), row, column


class Changes(NamedTuple):
    """What the refinement did at every position; float32 (C, L, H, W)."""

    change_norms: np.ndarray  # |f^s - f^o|
    norm_changes: np.ndarray  # |f^s| - |f^o|, Fig. 7


class Gathered(NamedTuple):
    clip_tracklets: np.ndarray  # (C,) int64
    clip_frames: np.ndarray  # (C, L) int64, indices into the tracklet's paths
    attention: np.ndarray  # (C, L)
    temporal_probs: np.ndarray | None  # (C, N)
    frame_features: np.ndarray  # (T, D) float32, mean over clips of the pooled f^o
    refined_features: np.ndarray  # (T, D) the same of f^s
    original_energy: np.ndarray  # (C,) mean |f^o|^2 of a position
    change_energy: np.ndarray  # (C,) mean |f^s - f^o|^2 of a position
    spatial: SpatialUse | None
    changes: Changes | None  # when asked for
    kept: dict  # tracklet → ClipView of its first clip


def gather(views, num_tracklets, keep=(), keep_changes=False):
    """One pass over the clips of a dataset.

    Args:
        views (iterable of ClipView): clips of one tracklet stand together.
        num_tracklets (int): T.
        keep (set): tracklets whose first clip is kept whole.
        keep_changes (bool): keep ``changes``, which do grow with the positions.

    Returns:
        Gathered

    Raises:
        InputError: features that are not finite.
    """
    rows, changes, kept = [], [], {}
    features = {name: [0.0] * num_tracklets for name in ('frame', 'refined')}
    clips_of = np.zeros(num_tracklets, dtype=np.int64)
    best = None
    for view in views:
        rows.append(_row(view))
        clips_of[view.tracklet] += 1
        for name, sums in features.items():
            sums[view.tracklet] = sums[view.tracklet] + getattr(view, f'{name}_feature')
        if view.tracklet in keep and view.tracklet not in kept:
            kept[view.tracklet] = view
        if keep_changes:
            changes.append((view.change_norms, view.refined_norms - view.frame_norms))
        if view.spatial_probs is not None:
            best = best or _no_best(num_tracklets, view.spatial_probs.shape[-1])
            _keep_best(best, view)
    columns = {name: _stack([row[name] for row in rows]) for name in rows[0]}
    if not np.isfinite(columns['original_energy'] + columns['change_energy']).all():
        raise InputError('the model gives features that are NaN or infinite')
    means = {
        f'{name}_features': np.stack(sums).astype(np.float32) / clips_of[:, None]
        for name, sums in features.items()
    }
    use = {name: columns.pop(name) for name in ('mean_probs', 'second_moments', 'entropies')}
    return Gathered(
        **columns,
        **{name: values.astype(np.float32) for name, values in means.items()},
        spatial=None
        if best is None
        else SpatialUse(**use, best_probs=best[0], best_places=best[1]),
        changes=Changes(*map(np.stack, zip(*changes, strict=True))) if keep_changes else None,
        kept=kept,
    )


def highest(probs, count, tracklets):
    """Rows of the highest of different tracklets, the highest first; the earlier of equal ones.

    Args:
        probs (numpy.ndarray): (n,)
        count (int): rows at most.
        tracklets (numpy.ndarray): (n,) that the rows belong to.
    """
    order = np.argsort(-probs, kind='stable')
    _, firsts = np.unique(tracklets[order], return_index=True)
    return order[np.sort(firsts)[:count]].tolist()


def entropy(probs):
    """Entropy in nats over the last dimension; 0 log 0 is 0."""
    return -(probs * np.log(np.where(probs > 0, probs, 1))).sum(axis=-1)


def _row(view: ClipView):
    """What of a clip is kept, by the names of Gathered and SpatialUse."""
    mean_probs = second_moments = entropies = None
    if view.spatial_probs is not None:
        accesses = view.spatial_probs.reshape(-1, view.spatial_probs.shape[-1])  # (L*H*W, M)
        accesses = accesses.astype(np.float64)
        mean_probs = accesses.mean(axis=0)
        second_moments = accesses.T @ accesses / len(accesses)
        entropies = entropy(accesses).mean()
    return {
        'clip_tracklets': view.tracklet,
        'clip_frames': view.frames,
        'attention': view.attention,
        'temporal_probs': view.temporal_probs,
        'original_energy': np.square(view.frame_norms, dtype=np.float64).mean(),
        'change_energy': np.square(view.change_norms, dtype=np.float64).mean(),
        'mean_probs': mean_probs,
        'second_moments': second_moments,
        'entropies': entropies,
    }


def _stack(values):
    return None if values[0] is None else np.stack(values)


def _no_best(num_tracklets, num_items):
    return (
        np.zeros((num_tracklets, num_items), dtype=np.float32),
        np.zeros((num_tracklets, num_items, 3), dtype=np.int64),
    )


def _keep_best(best, view):
    """Remember the place where each item is addressed most, over the clips of a tracklet."""
    probs, places = (of_all[view.tracklet] for of_all in best)
    shape = view.spatial_probs.shape[:-1]  # (L, H, W)
    flat = view.spatial_probs.reshape(-1, view.spatial_probs.shape[-1])
    highest = flat.argmax(axis=0)  # (M,)
    for item, position in enumerate(highest):
        if flat[position, item] > probs[item]:
            frame, row, column = np.unravel_index(position, shape)
            probs[item] = flat[position, item]
            places[item] = view.frames[frame], row, column
