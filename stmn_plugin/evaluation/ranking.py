"""Rank gallery tracklets by distances, and compute CMC, mAP and mINP.

Gallery tracklets with the query's pid *and* camid are excluded for that query, as in all protocols
of the field; pid -1 is junk and excluded for all queries.

A query's scores need only the ranks of its few matches. Therefore the distances of a row are sorted
without their indices (about ten times faster than an argsort), and each match is looked up. Queries
are processed in chunks; only given distances are ever held completely.

Letters: Q queries, G gallery tracklets, q rows of a chunk, p pairs of a query and a gallery
tracklet that have the same pid.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stmn_plugin.errors import InputError
from stmn_plugin.labels import JUNK_PID, comparable

from .distances import NOT_FINITE, Features, distance_rows
from .sorting import nth_of_row, places_of, sortable

Labels: TypeAlias = Any
"""Identities or cameras, a sequence, array or tensor that ``labels.comparable`` accepts."""

Numbers: TypeAlias = NDArray[np.int64]

AVERAGE_PRECISIONS = ('rectangle', 'trapezoid')
UNMATCHED = ('skip', 'zero')
SORTED_AT_ONCE = 1 << 22  # distances; a copy that stays in the cache


class QueryScores(NamedTuple):
    """Scores of every query."""

    first_ranks: Numbers  # (Q,) rank of its first match, from 1; 0 without a match
    aps: NDArray[np.float64]  # (Q,) average precision; NaN without a match
    inps: NDArray[np.float64]  # (Q,) matches / rank of the last; NaN without a match
    tied: NDArray[np.bool_]  # (Q,) whether a match ties with another person


class Ranking(NamedTuple):
    """Fractions in 0..1, over the queries that have a match or (unmatched='zero') over all."""

    cmc: NDArray[np.float64]  # (G,) cmc[r - 1] is rank-r
    mean_ap: float
    mean_inp: float
    num_valid: int  # queries with at least one match in the gallery

    def rank(self, r: int) -> float:
        """Return the rank-r matching rate, for a small gallery at most that of its last rank.

        Raises:
            ValueError: r is below 1.
        """
        if r < 1:
            raise ValueError(f'ranks begin at 1, got {r}')
        return float(self.cmc[min(r, len(self.cmc)) - 1])


def evaluate_ranking(
    distances: Any,
    query_pids: Labels,
    gallery_pids: Labels,
    query_camids: Labels,
    gallery_camids: Labels,
    average_precision: str = 'rectangle',
    chunk_size: int = 256,
    unmatched: str = 'skip',
) -> Ranking:
    """Compute CMC, mAP and mINP of a distance matrix.

    Equal distances keep the order of the gallery. mINP is the mean over queries of
    (number of matches) / (rank of the last match) (Ye et al., TPAMI 2021).

    Args:
        distances: shape (Q, G), NumPy or torch.
        query_pids: identities, shape (Q,); whole numbers, texts or bytes, of the
            gallery's kind, see :func:`stmn_plugin.labels.comparable`.
        gallery_pids: identities, shape (G,).
        query_camids: cameras, shape (Q,), of the gallery's kind.
        gallery_camids: cameras, shape (G,).
        average_precision: 'rectangle', the precision at each match averaged (host, most
            papers), or 'trapezoid', the area under the interpolated curve (the official MATLAB
            code of MARS).
        chunk_size: queries per chunk; affects memory and speed, not the result.
        unmatched: a query without a match is skipped ('skip') or counts as 0 ('zero', as
            in the official code of LS-VID).

    Raises:
        ValueError: shapes do not fit, or ``average_precision`` or ``unmatched`` is unknown.
        InputError: distances are not finite or not real numbers, labels cannot be
            compared exactly; no query with a match.
    """
    if not isinstance(distances, torch.Tensor | np.ndarray):
        distances = np.asarray(distances)
    labels = checked_labels(distances.shape, query_pids, gallery_pids, query_camids, gallery_camids)
    chunks = (distances[i : i + chunk_size] for i in range(0, len(distances), chunk_size))
    return rank_rows(chunks, *labels, average_precision, unmatched)


def rank_features(
    query_features: Tensor,
    gallery_features: Features,
    query_pids: Labels,
    gallery_pids: Labels,
    query_camids: Labels,
    gallery_camids: Labels,
    dist_metric: str = 'cosine',
    average_precision: str = 'rectangle',
    unmatched: str = 'skip',
    memory_limit: int | None = None,
) -> Ranking:
    """Compute :func:`evaluate_ranking` of features, chunk by chunk of their distances.

    Args:
        query_features: shape (Q, D); the computation runs on their device.
        gallery_features: shape (G, D), any float type, on any device or in a file
            (``numpy.memmap``).
        query_pids: see :func:`evaluate_ranking`, as the next three.
        gallery_pids: identities of the gallery.
        query_camids: cameras of the queries.
        gallery_camids: cameras of the gallery.
        dist_metric: 'cosine' or 'euclidean'.
        average_precision: see :func:`evaluate_ranking`, which also documents the errors.
        unmatched: see :func:`evaluate_ranking`.
        memory_limit: bytes of the distances held, see ``search.distance_rows``.
    """
    shape = len(query_features), len(gallery_features)
    labels = checked_labels(shape, query_pids, gallery_pids, query_camids, gallery_camids)
    rows = distance_rows(query_features, gallery_features, dist_metric, memory_limit)
    return rank_rows(rows, *labels, average_precision, unmatched)


def rank_rows(
    chunks: Iterable[object],
    query_pids: Labels,
    gallery_pids: Labels,
    query_camids: Labels,
    gallery_camids: Labels,
    average_precision: str = 'rectangle',
    unmatched: str = 'skip',
) -> Ranking:
    """Compute :func:`evaluate_ranking` of distances in chunks of queries.

    Args:
        chunks: rows (q, G), the first queries first, Q rows in total.
        query_pids: see :func:`evaluate_ranking`, as all that follow.
        gallery_pids: identities of the gallery.
        query_camids: cameras of the queries.
        gallery_camids: cameras of the gallery.
        average_precision: 'rectangle' or 'trapezoid'.
        unmatched: 'skip' or 'zero'.
    """
    if unmatched not in UNMATCHED:
        raise ValueError(f'expected one of {UNMATCHED}, got unmatched {unmatched!r}')
    labels = query_pids, gallery_pids, query_camids, gallery_camids
    scores = score_queries(chunks, *labels, average_precision)
    return summarize(scores, len(gallery_pids), unmatched)


def summarize(scores: QueryScores, num_gallery: int, unmatched: str = 'skip') -> Ranking:
    """Summarise the scores of queries; raise InputError if no query has a match."""
    matched = scores.first_ranks > 0
    num_valid = int(matched.sum())
    if num_valid == 0:
        raise InputError('no query has a match in the gallery (same pid, another camid)')
    counted = len(matched) if unmatched == 'zero' else num_valid
    hits = np.bincount(scores.first_ranks[matched] - 1, minlength=num_gallery)
    return Ranking(
        cmc=hits.cumsum() / counted,
        mean_ap=float(scores.aps[matched].sum() / counted),
        mean_inp=float(scores.inps[matched].sum() / counted),
        num_valid=num_valid,
    )


def score_queries(
    chunks: Iterable[object],
    query_pids: Labels,
    gallery_pids: Labels,
    query_camids: Labels,
    gallery_camids: Labels,
    average_precision: str = 'rectangle',
) -> QueryScores:
    """Score queries by distances in chunks of queries, as in :func:`rank_rows`.

    Raises:
        ValueError: shapes that do not fit, an unknown ``average_precision``.
        InputError: distances that are not finite.
    """
    shape = num_query, num_gallery = len(query_pids), len(gallery_pids)
    labels = checked_labels(shape, query_pids, gallery_pids, query_camids, gallery_camids)
    query_pids, gallery_pids, query_camids, gallery_camids = labels
    if average_precision not in AVERAGE_PRECISIONS:
        got = f'average_precision {average_precision!r}'
        raise ValueError(f'expected one of {AVERAGE_PRECISIONS}, got {got}')
    searched = np.flatnonzero(gallery_pids != JUNK_PID)
    gallery_pids, gallery_camids = gallery_pids[searched], gallery_camids[searched]
    by_pid = np.argsort(gallery_pids, kind='stable')
    aps, inps = np.full((2, num_query), np.nan)
    first_ranks, tied = np.zeros(num_query, dtype=np.int64), np.zeros(num_query, dtype=bool)
    scores, start = QueryScores(first_ranks, aps, inps, tied), 0
    for rows in _pieces(chunks):
        stop = start + len(rows)
        if rows.shape[1] != num_gallery or stop > num_query:
            raise ValueError(f'rows {start} to {stop} of {rows.shape[1]} distances for {shape}')
        if len(searched) < num_gallery:
            rows = rows[:, torch.from_numpy(searched).to(rows.device)]
        row, column = _same_pid(query_pids[start:stop], gallery_pids, by_pid)
        is_match = gallery_camids[column] != query_camids[start:stop][row]
        position, nearer, equal = places_of(rows, row, column)
        scores.tied[start + row[is_match & _with_others(row, nearer, equal)]] = True
        matched, *own = _score(row, position, is_match, average_precision)
        for values, some in zip(scores[:3], own, strict=True):
            values[start + matched] = some
        start = stop
    if start != num_query:
        raise ValueError(f'{start} rows of distances for {num_query} queries')
    return scores


def checked_labels(
    shape: Sequence[int],
    query_pids: Labels,
    gallery_pids: Labels,
    query_camids: Labels,
    gallery_camids: Labels,
) -> tuple[Numbers, Numbers, Numbers, Numbers]:
    """Convert pids and camids of queries and gallery to int64 arrays that fit the shape.

    Raises:
        ValueError: the labels do not fit.
        InputError: labels cannot be compared exactly.
    """
    labels = (
        *comparable(query_pids, gallery_pids, 'pids'),
        *comparable(query_camids, gallery_camids, 'camids'),
    )
    shape, counts = tuple(shape), tuple(len(x) for x in labels)
    if counts != shape * 2:
        raise ValueError(f'distances of shape {shape} for {counts[:2]} pids, {counts[2:]} camids')
    return labels


def _pieces(chunks: Iterable[object]) -> Iterator[Tensor]:
    """Yield finite tensors of at most SORTED_AT_ONCE distances, or one row."""
    for chunk in map(sortable, chunks):
        for rows in chunk.split(max(SORTED_AT_ONCE // max(chunk.shape[1], 1), 1)):
            if rows.numel() and not torch.isfinite(torch.stack(rows.aminmax())).all():
                raise InputError(NOT_FINITE)
            yield rows


def _same_pid(
    query_pids: Numbers, gallery_pids: Numbers, by_pid: Numbers
) -> tuple[Numbers, Numbers]:
    """Find rows and columns, both (p,), of all pairs with the same pid, in ascending order.

    Args:
        query_pids: identities of the queries, (q,).
        gallery_pids: identities of the gallery, (G,).
        by_pid: the stable order of ``gallery_pids`` (G,).
    """
    first, end = (np.searchsorted(gallery_pids, query_pids, s, by_pid) for s in ('left', 'right'))
    row = np.repeat(np.arange(len(query_pids)), end - first)
    return row, by_pid[first[row] + nth_of_row(row)]


def _with_others(row: Numbers, nearer: Numbers, equal: Numbers) -> NDArray[np.bool_]:
    """Return whether a tracklet of another pid has the same distance, for pairs (p,)."""
    others = equal > 1
    tied = np.flatnonzero(others)
    place = row[tied] * (1 + nearer.max(initial=0)) + nearer[tied]
    _, own, counts = np.unique(place, return_inverse=True, return_counts=True)
    others[tied] = equal[tied] > counts[own]
    return others


def _score(
    row: Numbers, position: Numbers, is_match: NDArray[np.bool_], average_precision: str
) -> tuple[Numbers, Numbers, NDArray[np.float64], NDArray[np.float64]]:
    """Return the queries with a match, and for each the rank of the first (from 1), AP and INP.

    Args:
        row: rows of the pairs with the same pid, shape (p,), ascending.
        position: places of the pairs in their rows, shape (p,).
        is_match: shape (p,); the other pairs, of the query's camera, have no rank.
        average_precision: 'rectangle' or 'trapezoid'.
    """
    order = np.lexsort((position, row))
    row, position, is_match = row[order], position[order], is_match[order]
    left_out = np.concatenate([[0], (~is_match).cumsum()])  # (p + 1,) up to each pair
    rank = position - (left_out[1:] - left_out[np.searchsorted(row, row)])
    row, rank = row[is_match], rank[is_match]  # the matches, query by query in order of rank
    matched, query, num_matches = np.unique(row, return_inverse=True, return_counts=True)
    first = num_matches.cumsum() - num_matches  # where each query's matches begin
    nth = nth_of_row(row) + 1
    precision = nth / rank
    if average_precision == 'trapezoid':
        # precision just before the match; the curve starts at 1
        before = np.where(rank == 1, 1.0, (nth - 1) / np.maximum(rank - 1, 1))
        precision = (precision + before) / 2
    ap = np.bincount(query, weights=precision, minlength=len(first)) / num_matches
    return matched, rank[first], ap, num_matches / rank[first + num_matches - 1]
