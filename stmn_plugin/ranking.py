"""Distances between query and gallery → CMC, mAP, mINP.

Every gallery tracklet with the query's pid *and* camid is left out for that query, as in all
protocols of the field; pid -1 is junk and left out for everybody. Queries and gallery go in chunks,
so that nothing of size Q x G is held besides the distances.
"""

from typing import NamedTuple

import numpy as np

from .errors import InputError

AVERAGE_PRECISIONS = ('rectangle', 'trapezoid')
JUNK_PID = -1


class Ranking(NamedTuple):
    """Fractions in 0..1 over the queries that have a match."""

    cmc: np.ndarray  # (G,) cmc[r - 1] is rank-r
    mean_ap: float
    mean_inp: float
    num_valid: int  # queries with at least one match in the gallery; the others are skipped

    def rank(self, r):
        """Rank-r matching rate; beyond the end of a small gallery that of its last rank."""
        return float(self.cmc[min(r, len(self.cmc)) - 1])


def evaluate_ranking(
    distances,
    query_pids,
    gallery_pids,
    query_camids,
    gallery_camids,
    average_precision='rectangle',
    chunk_size=256,
):
    """CMC, mAP and mINP of a distance matrix.

    Equal distances keep the order of the gallery. mINP is the mean over queries of
    (number of matches) / (rank of the last match) (Ye et al., TPAMI 2021).

    Args:
        distances (array): shape (Q, G), NumPy or torch on the CPU.
        query_pids, gallery_pids (array): identities, shapes (Q,) and (G,).
        query_camids, gallery_camids (array): cameras, shapes (Q,) and (G,).
        average_precision (str): 'rectangle', the precision at each match averaged (host, most
            papers), or 'trapezoid', the area under the interpolated curve (the official MATLAB
            code of MARS).
        chunk_size (int): queries at a time; changes memory and speed, not the result.

    Returns:
        Ranking

    Raises:
        ValueError: shapes that do not fit, an unknown ``average_precision``.
        InputError: distances that are not finite, or no query with a match.
    """
    distances = np.asarray(distances)
    query_pids, gallery_pids, query_camids, gallery_camids = map(
        np.asarray, (query_pids, gallery_pids, query_camids, gallery_camids)
    )
    expected = (len(query_pids), len(gallery_pids))
    if distances.shape != expected or (len(query_camids), len(gallery_camids)) != expected:
        raise ValueError(f'distances of shape {distances.shape} for {expected} pids and camids')
    if average_precision not in AVERAGE_PRECISIONS:
        raise ValueError(
            f'average_precision must be one of {AVERAGE_PRECISIONS}, got {average_precision!r}'
        )
    nothing = np.empty(0, dtype=np.int64)
    first_hits, aps, inps = [nothing], [nothing], [nothing]
    for start in range(0, len(query_pids), chunk_size):
        rows = slice(start, start + chunk_size)
        chunk = distances[rows]
        if not np.isfinite(chunk).all():
            raise InputError('distances hold NaN or infinity: the features of the model are broken')
        first_hit, ap, inp = _rank_chunk(
            np.argsort(chunk, axis=1, kind='stable'),
            query_pids[rows, None],
            gallery_pids,
            query_camids[rows, None],
            gallery_camids,
            average_precision,
        )
        first_hits.append(first_hit)
        aps.append(ap)
        inps.append(inp)
    first_hits = np.concatenate(first_hits)
    if len(first_hits) == 0:
        raise InputError('no query has a match in the gallery (same pid, another camid)')
    hits_at_rank = np.bincount(first_hits, minlength=len(gallery_pids))  # (G,)
    return Ranking(
        cmc=hits_at_rank.cumsum() / len(first_hits),
        mean_ap=float(np.concatenate(aps).mean()),
        mean_inp=float(np.concatenate(inps).mean()),
        num_valid=len(first_hits),
    )


def count_matchable(query_pids, gallery_pids, query_camids, gallery_camids):
    """How many queries have a match: the same pid under another camid. Needs no distances."""
    cameras = {}  # pid → its cameras in the gallery
    for pid, camid in zip(gallery_pids, gallery_camids, strict=True):
        cameras.setdefault(int(pid), set()).add(int(camid))
    return sum(
        bool(cameras.get(int(pid), set()) - {int(camid)}) and int(pid) != JUNK_PID
        for pid, camid in zip(query_pids, query_camids, strict=True)
    )


def _rank_chunk(order, query_pids, gallery_pids, query_camids, gallery_camids, average_precision):
    """First hit (0-based rank), AP and INP of those queries of a chunk that have a match.

    Args:
        order (numpy.ndarray): gallery indices by distance, shape (q, G).
        query_pids, query_camids (numpy.ndarray): shape (q, 1).
    """
    pids = gallery_pids[order]  # (q, G)
    same_pid = pids == query_pids
    kept = ~(same_pid & (gallery_camids[order] == query_camids)) & (pids != JUNK_PID)
    hits = same_pid & kept  # (q, G)
    matched = hits.any(axis=1)
    kept, hits = kept[matched], hits[matched]
    query, column = np.nonzero(hits)  # matches, query by query in order of rank
    rank = kept.cumsum(axis=1, dtype=np.int32)[query, column].astype(np.int64)  # 1-based
    num_matches = np.bincount(query, minlength=len(hits))  # (q',)
    first = num_matches.cumsum() - num_matches  # where each query's matches begin
    nth = np.arange(len(query)) - first[query] + 1  # 1-based number of the match of its query
    precision = nth / rank
    if average_precision == 'trapezoid':
        # precision just before the match; the curve starts at 1
        before = np.where(rank == 1, 1.0, (nth - 1) / np.maximum(rank - 1, 1))
        precision = (precision + before) / 2
    ap = np.bincount(query, weights=precision, minlength=len(hits)) / num_matches
    last = rank[first + num_matches - 1] if len(query) else rank
    return rank[first] - 1 if len(query) else rank, ap, num_matches / last
