"""Find the k nearest gallery tracklets of every query, exactly: each is compared with all.

Letters: Q queries, G gallery tracklets, D channels, q rows of a chunk of queries.
"""

import operator
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stmn_plugin.errors import InputError

from .distances import (
    MAX_CHUNK,
    NOT_FINITE,
    Features,
    blocks_of,
    check_features,
    distances_of_prepared,
    prepared,
    squared_lengths,
)
from .screening import may_be_nearest

try:
    import faiss
except ImportError:  # an extra; torch finds the same
    faiss = None  # type: ignore[assignment]

BACKENDS = ('faiss', 'torch')
TOP_K_BLOCK = 32768  # gallery vectors of which the nearest are found together
FEW_QUERIES, FEW_BLOCK = 256, 512  # so many at a time stay in the cache, also when converted
TIES_AT_ONCE = 1 << 20  # distances of rows whose ties are resolved together


class Nearest(NamedTuple):
    """The nearest gallery tracklets of every query."""

    distances: Tensor  # (Q, k) ascending
    indices: Tensor  # (Q, k) into the gallery; equal distances keep its order


def top_k(
    query_features: Tensor,
    gallery_features: Features,
    k: int,
    dist_metric: str = 'cosine',
    backend: str | None = None,
    among: NDArray[np.int64] | None = None,
    unit: bool = False,
) -> Nearest:
    """Find the k nearest gallery tracklets of every query, by comparing with all of them.

    Args:
        query_features: shape (Q, D).
        gallery_features: shape (G, D), as in ``distance_rows``.
        k: between 1 and G, or the length of ``among``.
        dist_metric: 'cosine' or 'euclidean' (squared); distances below 0 become 0.
        backend: 'faiss' or 'torch'; by default faiss when it is installed and the queries
            are on the CPU. Both find the same up to the rounding of their matrix products.
        among: ascending indices of the gallery tracklets that count; all by default.
        unit: for 'cosine', the vectors have length 1 up to the rounding of their type, and are
            compared as they are, after a screening in half precision where that is faster.

    Returns:
        Distances and indices into the gallery, both (Q, k).

    Raises:
        ValueError: shapes, k or a name are invalid.
        InputError: features are not finite.
    """
    check_features(query_features, gallery_features, dist_metric)
    on_cpu = query_features.device.type == 'cpu'
    backend = backend or ('faiss' if faiss is not None and on_cpu else 'torch')
    if backend not in BACKENDS or (backend == 'faiss' and (faiss is None or not on_cpu)):
        raise ValueError(f'backend must be one of {BACKENDS} and usable here, got {backend!r}')
    count = len(gallery_features) if among is None else len(among)
    if not 1 <= k <= count:
        raise ValueError(f'k must lie between 1 and {count}, got {k}')
    k = operator.index(k)  # faiss takes none of NumPy's numbers
    preparation = 'unit' if unit and dist_metric == 'cosine' else dist_metric
    query = prepared(query_features, preparation, query_features.device)
    if preparation == 'unit' and on_cpu:
        among = may_be_nearest(query, gallery_features, k, among)
    few = on_cpu and len(query) <= FEW_QUERIES
    length = min(TOP_K_BLOCK, FEW_BLOCK) if few else TOP_K_BLOCK
    blocks = blocks_of(gallery_features, preparation, query.device, length, among)
    if few and backend == 'torch':
        parts = _joined_nearest(query, blocks, k, dist_metric)
    else:
        search = _block_nearest_faiss if backend == 'faiss' else _block_nearest
        parts = (
            (start, search(query, gallery, min(k, len(gallery)), dist_metric))
            for start, gallery in blocks
        )
    best: Nearest | None = None
    for start, found in parts:
        found = Nearest(found.distances, found.indices + start)
        if best is not None:  # what was found before comes from earlier in the gallery
            joined = Nearest(*(torch.cat(pair, dim=1) for pair in zip(best, found, strict=True)))
            found = Nearest(*(x[:, :k] for x in _in_order(*joined)))
        best = found
    assert best is not None  # of at least one block, as k <= count
    if among is not None:
        best = best._replace(indices=torch.from_numpy(among).to(query.device)[best.indices])
    return best


def _joined_nearest(
    query: Tensor, blocks: Iterable[tuple[int, Tensor]], k: int, dist_metric: str
) -> Iterator[tuple[int, Nearest]]:
    """Select from TOP_K_BLOCK distances at a time: in each small block it takes most of the time.

    Yields the index of the first gallery vector and the nearest, counted from it.
    """
    parts: list[Tensor] = []
    first = columns = 0
    for start, gallery in blocks:
        if columns >= TOP_K_BLOCK:
            yield first, _nearest_finite(torch.cat(parts, dim=1), k)
            first, parts, columns = start, [], 0
        parts.append(distances_of_prepared(query, gallery, dist_metric))
        columns += len(gallery)
    yield first, _nearest_finite(torch.cat(parts, dim=1), k)


def _block_nearest(query: Tensor, gallery: Tensor, k: int, dist_metric: str) -> Nearest:
    parts = [
        _nearest_finite(distances_of_prepared(rows, gallery, dist_metric), k)
        for rows in query.split(MAX_CHUNK)
    ]
    return Nearest(*(torch.cat(part) for part in zip(*parts, strict=True)))


def _block_nearest_faiss(query: Tensor, gallery: Tensor, k: int, dist_metric: str) -> Nearest:
    if not (torch.isfinite(query).all() and torch.isfinite(gallery).all()):
        raise InputError(NOT_FINITE)
    if dist_metric == 'euclidean':
        squared_lengths(query, gallery)
    candidates = min(k + 1, len(gallery))
    metric = faiss.METRIC_INNER_PRODUCT if dist_metric == 'cosine' else faiss.METRIC_L2
    found = faiss.knn(query.numpy(), gallery.numpy(), candidates, metric=metric)
    values, indices = (torch.from_numpy(x) for x in found)
    values = (1 - values if dist_metric == 'cosine' else values).clamp_min(0)
    if not torch.isfinite(values).all() or (indices < 0).any():  # squares beyond float32
        raise InputError(NOT_FINITE)
    result = _in_order(values[:, :k], indices[:, :k])
    # faiss keeps any of several equal ones at the k-th place; we keep the first of the gallery
    crossing = (values[:, k - 1] == values[:, -1]) & (candidates > k)
    if crossing.any():
        again = _block_nearest(query[crossing], gallery, k, dist_metric)
        result.distances[crossing], result.indices[crossing] = again
    return result


def _nearest_finite(distances: Tensor, k: int) -> Nearest:
    """``nearest`` of rows (q, g), at most g of them; distances below 0 become 0, in place."""
    if not torch.isfinite(distances).all():
        raise InputError(NOT_FINITE)
    return nearest(distances.clamp_min_(0), min(k, distances.shape[1]))


def nearest(distances: Tensor, k: int) -> Nearest:
    """Find the k smallest distances of every row (q, G), equal ones in the order of columns."""
    k = operator.index(k)  # comparing with NumPy's numbers gives no bool, which torch needs
    candidates = min(k + 1, distances.shape[1])  # one more shows a tie across the k-th place
    values, indices = distances.topk(candidates, dim=1, largest=False)
    crossing = (values[:, k - 1] == values[:, -1]) & (candidates > k)
    result = _in_order(values[:, :k], indices[:, :k])
    crossed = crossing.nonzero().flatten()
    for some in crossed.split(max(TIES_AT_ONCE // distances.shape[1], 1)):
        of_these = _first_of_ties(distances[some], values[some, k - 1], k)
        result.distances[some], result.indices[some] = of_these
    return result


def _first_of_ties(distances: Tensor, kth: Tensor, k: int) -> Nearest:
    """Find the nearest of rows (q, G) whose k-th smallest value ``kth`` (q,) has ties."""
    nearer, equal = distances < kth[:, None], distances == kth[:, None]
    missing = k - nearer.sum(dim=1, keepdim=True)
    chosen = nearer | (equal & (equal.cumsum(dim=1) <= missing))
    indices = chosen.nonzero()[:, 1].view(-1, k)
    return _in_order(distances.gather(1, indices), indices)


def _in_order(distances: Tensor, indices: Tensor) -> Nearest:
    """Sort rows of neighbours by distance, then by index."""
    indices, order = indices.sort(dim=1)
    distances, by_distance = distances.gather(1, order).sort(dim=1, stable=True)
    return Nearest(distances, indices.gather(1, by_distance))
