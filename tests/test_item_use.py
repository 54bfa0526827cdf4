"""Use of memory items, against loops over drawn views of clips."""

import numpy as np
import pytest

from stmn_plugin.analysis.clip_views import ClipView
from stmn_plugin.analysis.item_use import strongest, use_of_items

CLIPS, L, H, W, M, N = 6, 3, 4, 2, 5, 2


def draw_views(spatial=True, temporal=True):
    rng = np.random.default_rng(0)

    def probs(*shape):
        return rng.dirichlet(np.ones(shape[-1]), shape[:-1]).astype(np.float32)

    return [
        ClipView(
            tracklet,
            np.arange(L),
            probs(L),
            probs(N) if temporal else None,
            probs(L, H, W, M) if spatial else None,
            *np.ones((3, L, H, W)),
            *np.zeros((3, 8)),
        )
        for tracklet in range(CLIPS)
    ]


def test_use_equals_loops_over_frames_and_cells():
    views = draw_views()
    use = use_of_items(iter(views))
    assert use.grid == (H, W)
    assert np.array_equal(use.attention, [view.attention for view in views])
    assert np.array_equal(use.temporal.probs, [view.temporal_probs for view in views])
    for n in range(N):
        expected = sum(float(view.temporal_probs[n]) for view in views) / CLIPS
        assert use.temporal.mean[n] == pytest.approx(expected, abs=1e-6)
    for m in range(M):
        total = 0.0
        for t, view in enumerate(views):
            best = (-1.0, None)
            for frame in range(L):
                for row in range(H):
                    for column in range(W):
                        value = float(view.spatial_probs[frame, row, column, m])
                        total += value
                        best = max(best, (value, (frame, row, column)))
            assert use.spatial.best[t, m] == best[0]
            assert tuple(use.spatial.where[t, m]) == best[1]
        assert use.spatial.mean[m] == pytest.approx(total / (CLIPS * L * H * W), abs=1e-6)


def test_a_memory_that_is_not_there_is_none():
    use = use_of_items(draw_views(spatial=False, temporal=False))
    assert use.spatial is None and use.temporal is None and use.attention.shape == (CLIPS, L)


def test_the_strongest_rows_of_each_item_come_in_order():
    scores = np.array([[0.1, 0.5], [0.9, 0.5], [0.3, 0.2]])
    assert strongest(scores, 2).tolist() == [[1, 2], [0, 1]]  # equal ones as they stand
    assert strongest(scores, 9).tolist() == [[1, 2, 0], [0, 1, 2]]
