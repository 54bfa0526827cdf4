"""Statistics of clips → plain values of the memory items that a page shows."""

from collections.abc import Iterable
from typing import Any

import numpy as np
from scipy.special import softmax

from ..clip_statistics import ClipStatistics, highest

FRAMES_OF_ITEM = 10  # shown for each spatial item
CLIPS_OF_ITEM = 4  # shown for each temporal item


def memory_items(statistics: ClipStatistics) -> dict[str, Any] | None:
    """Spatial and temporal items, each None where the model has none; None where it has neither.

    Args:
        statistics: of one clip of each tracklet of the page, in its order; the first is kept.
    """
    memory = {'spatial': _spatial_items(statistics), 'temporal': _temporal_items(statistics)}
    return memory if any(memory.values()) else None


def _spatial_items(statistics: ClipStatistics) -> dict[str, Any] | None:
    use, tracklets = statistics.spatial, statistics.clip_tracklets
    if use is None:
        return None
    best, places = use.best_probs, use.best_places
    return {
        'grid': list(statistics.kept[0]['spatial_probs'].shape[1:3]),
        'items': [
            {
                'mean': digits(mean),
                # tracklet, frame of its clip, row and column of the cell, probability
                'frames': [
                    [
                        int(t),
                        statistics.clip_frames[t].tolist().index(places[t, m, 0]),
                        *places[t, m, 1:].tolist(),
                        digits(best[t, m]),
                    ]
                    for t in highest(best[:, m], FRAMES_OF_ITEM, tracklets)
                ],
            }
            for m, mean in enumerate(use.mean_probs.mean(axis=0))
        ],
    }


def _temporal_items(statistics: ClipStatistics) -> dict[str, Any] | None:
    probs, values = statistics.temporal_probs, statistics.temporal_values
    if probs is None or values is None:
        return None
    stored = softmax(values.astype(np.float64), axis=1)  # (N, L)
    return {
        'items': [
            {
                'mean': digits(mean),
                'attention': rounded(stored[n], 4),  # (L,)
                'clips': [
                    [int(t), digits(probs[t, n])]
                    for t in highest(probs[:, n], CLIPS_OF_ITEM, statistics.clip_tracklets)
                ],
            }
            for n, mean in enumerate(probs.mean(axis=0))
        ],
    }


def digits(value: Any) -> float:
    """Five digits: no more are read, and the page stays small."""
    return float(f'{value:.5g}')


def rounded(values: Iterable[Any], places: int) -> list[float]:
    """Plain numbers with so many decimal places."""
    return [round(float(x), places) for x in values]
