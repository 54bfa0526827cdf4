"""Collect the content of a run's page as plain values, and the clips whose pictures it needs.

Distances and scores are those of the run's own evaluation (all its frames, clips and mirrored
frames). Pictures, attention and memory items are those of one clip of each tracklet.
"""

import os
from collections.abc import Hashable, Iterable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import softmax

from stmn_plugin.data.frame_samplers import ClipPlan
from stmn_plugin.data.tracklets import Tracklet
from stmn_plugin.evaluation.evaluator import Evaluator
from stmn_plugin.evaluation.protocols import Evaluation, Stopwatch
from stmn_plugin.evaluation.ranked_lists import rank_and_list
from stmn_plugin.evaluation.settings import TestOptions

from ..clip_statistics import ClipStatistics, highest, reduce_clips
from ..hidden_folders import without_folders
from ..opened_run import OpenedRun, view_clips

FRAMES_OF_ITEM = 10  # shown for each spatial item
CLIPS_OF_ITEM = 4  # shown for each temporal item


def memory_items(statistics: ClipStatistics) -> dict[str, Any] | None:
    """Return spatial and temporal items, each None if the model has none; None if it has neither.

    Args:
        statistics: statistics of one clip per tracklet of the page; the first view is kept.
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
    """Round to five digits, which keeps the page small."""
    return float(f'{value:.5g}')


def rounded(values: Iterable[Any], places: int) -> list[float]:
    """Convert to plain numbers with so many decimal places."""
    return [round(float(x), places) for x in values]


class Browser(NamedTuple):
    """The data of the page's script, and the clips of its pictures."""

    data: dict[str, Any]  # 'folder', 'datasets', 'tracklets', 'memory': plain values
    evaluations: list[dict[str, Any]]  # as in metrics.json, of the rankings that are shown
    # paths and chosen frames (L,), one of every item of data['tracklets']
    clips: list[tuple[Any, NDArray[np.int64]]]


class _Tracklets:
    """The tracklets on the page, numbered in the order of their first use."""

    def __init__(self) -> None:
        self.items: list[Tracklet] = []
        self._numbers: dict[Hashable, int] = {}

    def number(self, place: Hashable, tracklet: Tracklet) -> int:
        """Return the number of a tracklet (4-tuple), which ``place`` identifies."""
        if place not in self._numbers:
            self._numbers[place] = len(self.items)
            self.items.append(tracklet)
        return self._numbers[place]


def rank_for_page(
    run: OpenedRun,
    options: TestOptions,
    root: str = '',
    top_k: int = 10,
    max_queries: int | None = None,
) -> Browser:
    """Rank every target of a run and collect the content of its page.

    Args:
        run: a run of :func:`stmn_plugin.looking.opened_run.open_run`.
        options: metric and re-ranking, as in testing.
        root: ``data.root``, which the page does not show.
        top_k: tracklets to show for every query.
        max_queries: queries to show per target, evenly spread; None shows all.

    Raises:
        InputError: unreadable frames, or no query with a match.
    """
    shown, datasets, evaluations = _Tracklets(), [], []
    evaluator = run.evaluator_with(options)
    for name in run.targets:
        dataset, evaluation = _dataset(evaluator, name, shown, top_k, max_queries)
        datasets.append(dataset)
        evaluations.append(evaluation.as_dict(options.ranks))
    plan = one_clip(run.plan)
    clips = [(paths, plan.clip(len(paths), 0)) for paths, *_ in shown.items]
    views = view_clips(run, shown.items, plan) if run.explains else ()
    statistics = reduce_clips(views, len(shown.items), keep={0})
    attention = statistics.attention
    firsts = [os.path.abspath(paths[chosen[0]]) for paths, chosen in clips]
    folder = os.path.commonpath(map(os.path.dirname, firsts))
    tracklets = [
        {
            'pid': pid,
            'camid': camid,
            'length': len(paths),
            'frames': (chosen + 1).tolist(),
            'path': os.path.relpath(firsts[i], folder),
            'attention': None if attention is None else rounded(attention[i], 4),
        }
        for i, ((paths, pid, camid, _), (_, chosen)) in enumerate(
            zip(shown.items, clips, strict=True)
        )
    ]
    data = {
        'folder': _below(os.path.abspath(os.path.expanduser(root)), folder),
        'datasets': datasets,
        'tracklets': tracklets,
        'memory': memory_items(statistics),
    }
    return Browser(data, evaluations, clips)


def one_clip(plan: ClipPlan) -> ClipPlan:
    """Return the plan with one clip per tracklet, whose pictures are shown."""
    frames = 'rrs' if plan.frames == 'all' else plan.frames
    return plan._replace(frames=frames, clips_per_tracklet=1)


def _dataset(
    evaluator: Evaluator,
    name: str,
    shown: _Tracklets,
    top_k: int,
    max_queries: int | None,
) -> tuple[dict[str, Any], Evaluation]:
    """Return plain values of a target's queries, and the Evaluation of all of them."""
    watch = Stopwatch()
    searched = evaluator.features(name)
    assert searched is not None  # a single process
    seconds = {'extraction': watch()}
    rows, precision = evaluator.distances(searched), evaluator.protocol.average_precision
    lists = rank_and_list(rows, *searched, top_k, precision)
    seconds['ranking'] = watch()
    queries, gallery, _ = evaluator.targets[name]

    def query_number(row: int) -> int:
        return shown.number((name, 'query', row), queries[row])

    def gallery_number(row: int) -> int:
        if row >= len(gallery):  # the protocol searches the queries, too
            return query_number(row - len(gallery))
        return shown.number((name, 'gallery', row), gallery[row])

    values = []
    for row in _spread(len(queries), max_queries):
        found = [
            [gallery_number(index), digits(distance), int(is_match)]
            for index, distance, is_match in zip(
                lists.indices[row].tolist(),
                lists.distances[row].tolist(),
                lists.is_match[row].tolist(),
                strict=True,
            )
            if np.isfinite(distance)
        ]
        first_rank = int(lists.scores.first_ranks[row])
        values.append(
            {
                'row': row,
                'tracklet': query_number(row),
                'ap': round(float(lists.scores.aps[row]), 4) if first_rank else None,
                'firstRank': first_rank,
                'found': found,
                # the first right one, where the list ends before it
                'first': [
                    gallery_number(int(lists.first_match[row])),
                    digits(lists.first_distance[row]),
                    1,
                ]
                if first_rank > len(found)
                else None,
            }
        )
    dataset = {'name': name, 'numQueries': len(queries), 'queries': values}
    return dataset, evaluator.describe(name, lists.scores, searched, seconds)


def _spread(count: int, limit: int | None) -> list[int]:
    """Return 0 .. count - 1, or ``limit`` of them, evenly spread."""
    if limit is None or limit >= count:
        return list(range(count))
    spread: list[int] = np.linspace(0, count - 1, limit).round().astype(int).tolist()
    return spread


def _below(root: str, path: str) -> str:
    """Replace the root of a path by ``data.root`` if the path is below it."""
    if os.path.commonpath([root, path]) != root:
        return str(without_folders(path))
    return os.path.normpath(os.path.join('data.root', os.path.relpath(path, root)))
