"""Distances of every query → its nearest tracklets that count, and how well it was answered.

What counts is what ``ranking.py`` ranks: junk and tracklets of the query's person from the query's
camera take no place.

Letters: Q queries, G gallery tracklets, q rows of a chunk of queries.
"""

from typing import NamedTuple

import numpy as np
import torch

from stmn_plugin.labels import JUNK_PID, comparable

from .ranking import QueryScores, score_queries
from .search import nearest


class RankedLists(NamedTuple):
    """What was found for every query; a place that nothing takes has the distance infinity."""

    indices: np.ndarray  # (Q, k) int64 into the gallery, nearest first
    distances: np.ndarray  # (Q, k) float32
    is_match: np.ndarray  # (Q, k) bool, the query's person
    first_match: np.ndarray  # (Q,) int64 into the gallery, the nearest match; -1 where none is
    first_distance: np.ndarray  # (Q,) float32 its distance
    scores: QueryScores


def rank_and_list(chunks, query, gallery, k, average_precision='rectangle'):
    """The k nearest tracklets that count, and the scores, of every query.

    Args:
        chunks (iterable of torch.Tensor): distances (q, G), the first queries first, as
            ``evaluation.distances_in_rows`` gives them.
        query, gallery (TrackletFeatures): Q queries, and the gallery that the protocol searches.
        k (int): how many, at least 1; a smaller gallery is listed as a whole.
        average_precision (str): 'rectangle' or 'trapezoid', see ``ranking.evaluate_ranking``.

    Returns:
        RankedLists

    Raises:
        ValueError: distances that do not fit.
        InputError: distances that are not finite, labels that cannot be compared exactly.
    """
    pids = comparable(query.pids, gallery.pids, 'pids')
    labels = *pids, *comparable(query.camids, gallery.camids, 'camids')
    parts, start = [], 0

    def listed():
        nonlocal start
        for rows in chunks:
            some = slice(start, start + len(rows))
            parts.append(_list(rows, labels, some, min(k, rows.shape[1])))
            start += len(rows)
            yield rows

    scores = score_queries(listed(), *labels, average_precision)
    return RankedLists(*map(np.concatenate, zip(*parts, strict=True)), scores)


def _list(rows, labels, some, k):
    """The fields of RankedLists but the scores, for rows (q, G) of the queries ``some``."""
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
