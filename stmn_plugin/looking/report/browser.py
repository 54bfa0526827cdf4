"""An engine → plain values of what the page shows, and the clips of which it needs pictures.

Distances and scores are those of the run's own evaluation (all its frames, clips and mirrored
frames). Pictures, attention and memory items are those of one clip of each tracklet.
"""

import os
from typing import NamedTuple

import numpy as np
import torch

from stmn_plugin.errors import InputError
from stmn_plugin.evaluation.protocols import PROTOCOLS, Stopwatch, distances_in_rows
from stmn_plugin.evaluation.ranked_lists import rank_and_list
from stmn_plugin.models import STMN

from ..clip_views import view_clips
from ..gathering import gather, highest
from ..hidden_folders import without_folders

FRAMES_OF_ITEM = 10  # shown for each spatial item
CLIPS_OF_ITEM = 4  # shown for each temporal item


class Browser(NamedTuple):
    """What the page's script reads, and what its pictures are made from."""

    data: dict  # 'folder', 'datasets', 'tracklets', 'memory': plain values
    evaluations: list  # as in metrics.json, of the rankings that are shown
    clips: list  # of paths and chosen frames (L,), one of every item of data['tracklets']


class _Tracklets:
    """The tracklets that are shown, each numbered when it is first asked for."""

    def __init__(self):
        self.items, self._numbers = [], {}

    def number(self, place, tracklet):
        """Number of a host's 4-tuple; ``place`` tells it from all others."""
        if place not in self._numbers:
            self._numbers[place] = len(self.items)
            self.items.append(tracklet)
        return self._numbers[place]


def collect(engine, options, root='', top_k=10, max_queries=None):
    """Rank every target of a run and gather what its page shows.

    Args:
        engine: from :func:`stmn_plugin.looking.trained_run.open_run`, on video data.
        options (TestOptions): metric and re-ranking, as in testing.
        root (str): ``data.root``, which is not spelt out on the page.
        top_k (int): tracklets shown of every query.
        max_queries (int, optional): shown of every target, evenly spread over all.

    Returns:
        Browser

    Raises:
        InputError: no video data, unreadable frames, or no query with a match.
    """
    if engine.datamanager.data_type != 'video':
        raise InputError('data.type: the page needs video data')
    shown, datasets, evaluations = _Tracklets(), [], []
    for name in engine.test_loader:
        dataset, evaluation = _dataset(engine, name, options, shown, top_k, max_queries)
        datasets.append(dataset)
        evaluations.append(evaluation.as_dict(options.ranks))
    plan = one_clip(engine.settings.plan)
    clips = [(paths, plan.clip(len(paths), 0)) for paths, *_ in shown.items]
    use = None
    if isinstance(engine.model, STMN):
        use = gather(view_clips(engine, shown.items, plan), len(shown.items), keep={0})
    firsts = [os.path.abspath(paths[chosen[0]]) for paths, chosen in clips]
    folder = os.path.commonpath(map(os.path.dirname, firsts))
    tracklets = [
        {
            'pid': pid,
            'camid': camid,
            'length': len(paths),
            'frames': (chosen + 1).tolist(),
            'path': os.path.relpath(firsts[i], folder),
            'attention': None if use is None else _rounded(use.attention[i], 4),
        }
        for i, ((paths, pid, camid, _), (_, chosen)) in enumerate(
            zip(shown.items, clips, strict=True)
        )
    ]
    data = {
        'folder': _below(os.path.abspath(os.path.expanduser(root)), folder),
        'datasets': datasets,
        'tracklets': tracklets,
        'memory': None if use is None else _memory(engine.model, use),
    }
    return Browser(data, evaluations, clips)


def one_clip(plan):
    """The plan with one clip a tracklet, of which the pictures are taken."""
    frames = 'rrs' if plan.frames == 'all' else plan.frames
    return plan._replace(frames=frames, clips_per_tracklet=1)


def _dataset(engine, name, options, shown, top_k, max_queries):
    """Plain values of a target's queries, and the Evaluation of all of them."""
    watch, protocol = Stopwatch(), PROTOCOLS[engine.settings.protocol]
    query, searched = engine.searched_features(name, options)
    seconds = {'extraction': watch()}
    rows = distances_in_rows(query, searched, options)
    lists = rank_and_list(rows, query, searched, top_k, protocol.average_precision)
    seconds['ranking'] = watch()
    queries, gallery = (engine.datamanager.test_dataset[name][x] for x in ('query', 'gallery'))

    def query_number(row):
        return shown.number((name, 'query', row), queries[row])

    def gallery_number(row):
        if row >= len(gallery):  # the protocol searches the queries, too
            return query_number(row - len(gallery))
        return shown.number((name, 'gallery', row), gallery[row])

    values = []
    for row in _spread(len(queries), max_queries):
        found = [
            [gallery_number(index), _digits(distance), int(is_match)]
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
                    _digits(lists.first_distance[row]),
                    1,
                ]
                if first_rank > len(found)
                else None,
            }
        )
    dataset = {'name': name, 'numQueries': len(queries), 'queries': values}
    return dataset, engine.describe(name, lists.scores, query, searched, options, seconds)


def _memory(model, use):
    """Plain values of the memories' items; a memory that the model has not is None."""
    memory = {'spatial': None, 'temporal': None}
    tracklets = np.arange(len(use.attention))  # of one clip each
    if use.spatial is not None:
        best, places = use.spatial.best_probs, use.spatial.best_places
        memory['spatial'] = {
            'grid': list(use.kept[0].frame_norms.shape[1:]),
            'items': [
                {
                    'mean': _digits(mean),
                    # tracklet, frame of its clip, row and column of the cell, probability
                    'frames': [
                        [
                            int(t),
                            use.clip_frames[t].tolist().index(places[t, m, 0]),
                            *places[t, m, 1:].tolist(),
                            _digits(best[t, m]),
                        ]
                        for t in highest(best[:, m], FRAMES_OF_ITEM, tracklets)
                    ],
                }
                for m, mean in enumerate(use.spatial.mean_probs.mean(axis=0))
            ],
        }
    if use.temporal_probs is not None:
        probs = use.temporal_probs
        stored = torch.softmax(model.temporal_memory.values.detach().float(), dim=1).cpu().numpy()
        memory['temporal'] = {
            'items': [
                {
                    'mean': _digits(mean),
                    'attention': _rounded(stored[n], 4),  # (L,)
                    'clips': [
                        [int(t), _digits(probs[t, n])]
                        for t in highest(probs[:, n], CLIPS_OF_ITEM, tracklets)
                    ],
                }
                for n, mean in enumerate(probs.mean(axis=0))
            ],
        }
    return memory


def _spread(count, limit):
    """All of 0 .. count - 1, or ``limit`` of them, evenly spread."""
    if limit is None or limit >= count:
        return list(range(count))
    return np.linspace(0, count - 1, limit).round().astype(int).tolist()


def _below(root, path):
    """The path with ``data.root`` for the root, where it lies below it."""
    if os.path.commonpath([root, path]) != root:
        return without_folders(path)
    return os.path.normpath(os.path.join('data.root', os.path.relpath(path, root)))


def _digits(value):
    """Five digits: no more are read, and the page stays small."""
    return float(f'{value:.5g}')


def _rounded(values, digits):
    return [round(float(x), digits) for x in values]
