"""List the nearest tracklets of every query, and score it.

As in ``ranking.py``, junk and tracklets of the query's person from the query's camera are skipped.

Letters: Q queries, G gallery tracklets, q rows of a chunk of queries.
"""

import csv
import io
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stmn_plugin.data.tracklets import Tracklet
from stmn_plugin.labels import JUNK_PID, comparable
from stmn_plugin.whole_files import write_json, write_text

from .features import TrackletFeatures
from .ranking import QueryScores, score_queries
from .search import nearest


class RankedLists(NamedTuple):
    """The nearest tracklets of every query; an empty place has the distance infinity."""

    indices: NDArray[np.int64]  # (Q, k) into the gallery, nearest first
    distances: NDArray[np.float32]  # (Q, k)
    is_match: NDArray[np.bool_]  # (Q, k) the query's person
    first_match: NDArray[np.int64]  # (Q,) into the gallery, the nearest match; -1 without one
    first_distance: NDArray[np.float32]  # (Q,) its distance
    scores: QueryScores


def rank_and_list(
    chunks: Iterable[Tensor],
    query: TrackletFeatures,
    gallery: TrackletFeatures,
    k: int,
    average_precision: str = 'rectangle',
) -> RankedLists:
    """List the k nearest tracklets that count, and score every query.

    Args:
        chunks: distances (q, G), the first queries first, as
            ``evaluation.distances_in_rows`` gives them.
        query: Q queries.
        gallery: G tracklets that the protocol searches.
        k: length of a list, at least 1; a smaller gallery is listed completely.
        average_precision: 'rectangle' or 'trapezoid', see ``ranking.evaluate_ranking``.

    Raises:
        ValueError: distances do not fit.
        InputError: distances are not finite, or labels cannot be compared exactly.
    """
    pids = comparable(query.pids, gallery.pids, 'pids')
    labels = *pids, *comparable(query.camids, gallery.camids, 'camids')
    parts: list[list[NDArray[Any]]] = []
    start = 0

    def listed() -> Iterator[Tensor]:
        nonlocal start
        for rows in chunks:
            some = slice(start, start + len(rows))
            parts.append(_list(rows, labels, some, min(k, rows.shape[1])))
            start += len(rows)
            yield rows

    scores = score_queries(listed(), *labels, average_precision)
    return RankedLists._make([*map(np.concatenate, zip(*parts, strict=True)), scores])


def _list(
    rows: Tensor, labels: Iterable[NDArray[np.int64]], some: slice, k: int
) -> list[NDArray[Any]]:
    """Return the fields of RankedLists except scores, for rows (q, G) of the queries ``some``."""
    query_pids, gallery_pids, query_camids, gallery_camids = (
        torch.as_tensor(x, device=rows.device) for x in labels
    )
    same_pid = query_pids[some, None] == gallery_pids  # (q, G)
    same_camid = query_camids[some, None] == gallery_camids
    counts = (gallery_pids != JUNK_PID) & ~(same_pid & same_camid)
    found = nearest(rows.masked_fill(~counts, torch.inf), k)
    first = nearest(rows.masked_fill(~(counts & same_pid), torch.inf), 1)
    first_distance, first_match = first.distances[:, 0], first.indices[:, 0]
    values = (
        found.indices,
        found.distances,
        same_pid.gather(1, found.indices),
        first_match.masked_fill(first_distance.isinf(), -1),
        first_distance,
    )
    return [x.cpu().numpy() for x in values]


def write_ranked_list(
    stem: str,
    chunks: Iterable[Tensor],
    queries: Sequence[Tracklet],
    gallery: Sequence[Tracklet],
    k: int = 20,
) -> list[str]:
    """Write the nearest tracklets of every query as ``<stem>.json`` and ``<stem>.csv``.

    Labels are not used; only the query itself, the tracklet of the same frames, is skipped. A
    tracklet is named by its first frame.

    Args:
        stem: path without its suffix.
        chunks: distances (q, G), the first queries first.
        queries: Q tracklets.
        gallery: G tracklets.
        k: number of tracklets per query.

    Returns:
        The two paths.

    Raises:
        InputError: a file cannot be written.
    """
    lists = list(_nearest_of_each(chunks, queries, gallery, k))
    table = io.StringIO()
    rows = csv.writer(table, lineterminator='\n')
    rows.writerow(['query', 'rank', 'tracklet', 'distance'])
    for one in lists:
        for rank, found in enumerate(one['ranked'], 1):
            rows.writerow([one['query'], rank, found['tracklet'], found['distance']])
    paths = [f'{stem}.json', f'{stem}.csv']
    write_json(paths[0], lists)
    write_text(paths[1], table.getvalue())
    return paths


def _nearest_of_each(
    chunks: Iterable[Tensor], queries: Sequence[Tracklet], gallery: Sequence[Tracklet], k: int
) -> Iterator[dict[str, Any]]:
    places: dict[tuple[str, ...], list[int]] = {}  # frames → columns
    for column, (paths, *_) in enumerate(gallery):
        places.setdefault(tuple(paths), []).append(column)
    start = 0
    for rows in chunks:
        rows, some = rows.clone(), queries[start : start + len(rows)]
        start += len(rows)
        for row, (paths, *_) in enumerate(some):
            rows[row, places.get(tuple(paths), [])] = torch.inf
        found = nearest(rows, min(k, rows.shape[1]))
        for (paths, *_), distances, indices in zip(
            some, found.distances.tolist(), found.indices.tolist(), strict=True
        ):
            ranked = [
                {'tracklet': _first(gallery[index][0]), 'distance': round(distance, 6)}
                for distance, index in zip(distances, indices, strict=True)
                if distance < np.inf
            ]
            yield {'query': _first(paths), 'ranked': ranked}


def _first(paths: Sequence[str]) -> str:
    return paths if isinstance(paths, str) else paths[0]  # of image data it is one path
