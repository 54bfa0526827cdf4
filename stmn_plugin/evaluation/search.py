"""Compute distances of features in chunks of rows, and find the k nearest exactly.

The gallery may be larger than memory. It is read block by block, as a tensor of any float type or
as a NumPy array mapped from a file. Ranking and re-ranking use these distances.

Letters: Q queries, G gallery tracklets, D channels, q rows of a chunk of queries.
"""

import itertools
import mmap
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from stmn_plugin.errors import InputError

try:
    import faiss
except ImportError:  # an extra; torch finds the same
    faiss = None  # type: ignore[assignment]

Features: TypeAlias = Tensor | NDArray[Any]
"""Vectors (n, D) of any float type; a ``numpy.memmap`` stays on disk."""

DIST_METRICS = ('cosine', 'euclidean')
BACKENDS = ('faiss', 'torch')
MEMORY_LIMIT = 2 << 30  # bytes of distances: of the chunk in use and of the next
TOP_K_BLOCK = 32768  # gallery vectors of which the nearest are found together
FEW_QUERIES, FEW_BLOCK = 256, 512  # so many at a time stay in the cache, also when converted
MAX_CHUNK = 256  # queries; more make the matrix product no faster
MAX_BLOCK = 2048  # gallery vectors; larger ones leave the cache, smaller ones cost more calls
ROWS_AT_ONCE = 64  # whose neighbours are gathered together
TIES_AT_ONCE = 1 << 20  # distances of rows whose ties are resolved together
SHORTEST = 1e-12  # torch's normalize takes shorter vectors for zero
SMALLEST_SQUARE = 1e-30  # float32 still holds differences of such numbers
TOO_SMALL = 'all features are so small that their squared distances are 0 in float32: scale them'
NOT_FINITE = 'distances hold NaN or infinity: features that are broken, or too large for float32'


class Nearest(NamedTuple):
    """The nearest gallery tracklets of every query."""

    distances: Tensor  # (Q, k) ascending
    indices: Tensor  # (Q, k) into the gallery; equal distances keep its order


def pairwise_distances(
    query_features: Tensor, gallery_features: Features, dist_metric: str = 'cosine'
) -> Tensor:
    """Compute distances (Q, G) with the host's values, in float32 on the device of the queries.

    'cosine' is 1 - cos, 'euclidean' is the *squared* Euclidean distance, as in torchreid. Rounding
    can leave the distance of a vector to itself slightly below 0.
    """
    _check(query_features, gallery_features, dist_metric)
    device = query_features.device
    query = _prepare(query_features, dist_metric, device)
    return _distances(query, _prepare(gallery_features, dist_metric, device), dist_metric)


def pair_distances(
    features: Tensor, row: NDArray[np.int64], column: NDArray[np.int64], dist_metric: str = 'cosine'
) -> NDArray[np.float32]:
    """Compute distances (p,) of chosen pairs of features (N, D), as a NumPy array, float32.

    Args:
        features: shape (N, D).
        row: indices into the features, shape (p,), ascending.
        column: indices into the features, shape (p,).
        dist_metric: 'cosine' or 'euclidean'.
    """
    features = _prepare(features, dist_metric, features.device)
    squares = features.square().sum(dim=1).cpu().numpy()  # (N,)
    nth = np.arange(len(row)) - np.searchsorted(row, row)  # of its row
    starts = np.searchsorted(row, np.arange(0, len(features) + ROWS_AT_ONCE, ROWS_AT_ONCE))
    products = np.empty(len(row), dtype=np.float32)
    for first, (start, stop) in enumerate(itertools.pairwise(starts)):
        if start == stop:
            continue
        part, first = slice(start, stop), first * ROWS_AT_ONCE
        left = features[first : first + ROWS_AT_ONCE]  # (b, D), each with m others, filled up by 0
        table = np.zeros((len(left), nth[part].max() + 1), dtype=np.int64)  # (b, m)
        at = row[part] - first, nth[part]
        table[at] = column[part]
        right = features[torch.from_numpy(table).to(features.device)]  # (b, m, D)
        products[part] = torch.bmm(right, left.unsqueeze(2)).squeeze(2).cpu().numpy()[at]
    if dist_metric == 'cosine':
        return np.maximum(1 - products, 0)
    distances: NDArray[np.float32] = squares[row] + squares[column] - 2 * products
    return np.maximum(distances, 0)


def distance_rows(
    query_features: Tensor,
    gallery_features: Features,
    dist_metric: str = 'cosine',
    memory_limit: int | None = None,
) -> Iterator[Tensor]:
    """Compute :func:`pairwise_distances` in chunks of queries, rows (q, G), in their order.

    The gallery is read once per chunk, in blocks.

    Args:
        query_features: shape (Q, D); the computation runs on their device.
        gallery_features: shape (G, D), any float type; a
            ``numpy.memmap`` stays on disk.
        dist_metric: 'cosine' or 'euclidean'.
        memory_limit: bytes that two chunks may take (one in use, the next in the making);
            MEMORY_LIMIT by default. At least one row is held. The block of the gallery in use takes
            at most half as much in addition.
    """
    _check(query_features, gallery_features, dist_metric)
    limit = MEMORY_LIMIT if memory_limit is None else memory_limit
    chunk = min(max(limit // 2 // (4 * max(len(gallery_features), 1)), 1), MAX_CHUNK)
    return _distance_rows(query_features, gallery_features, dist_metric, chunk, limit // 2)


def nearest(distances: Tensor, k: int) -> Nearest:
    """Find the k smallest distances of every row (q, G), equal ones in the order of columns."""
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
            compared as they are: a lone query takes a fifth of the time.

    Returns:
        Distances and indices into the gallery, both (Q, k).

    Raises:
        ValueError: shapes, k or a name are invalid.
        InputError: features are not finite.
    """
    _check(query_features, gallery_features, dist_metric)
    on_cpu = query_features.device.type == 'cpu'
    backend = backend or ('faiss' if faiss is not None and on_cpu else 'torch')
    if backend not in BACKENDS or (backend == 'faiss' and (faiss is None or not on_cpu)):
        raise ValueError(f'backend must be one of {BACKENDS} and usable here, got {backend!r}')
    count = len(gallery_features) if among is None else len(among)
    if not 1 <= k <= count:
        raise ValueError(f'k must lie between 1 and {count}, got {k}')
    prepared = 'unit' if unit and dist_metric == 'cosine' else dist_metric
    query = _prepare(query_features, prepared, query_features.device)
    few = on_cpu and len(query) <= FEW_QUERIES
    length = min(TOP_K_BLOCK, FEW_BLOCK) if few else TOP_K_BLOCK
    blocks = _blocks(gallery_features, prepared, query.device, length, among)
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


def _check(query: Features, gallery: Features, dist_metric: str) -> None:
    if dist_metric not in DIST_METRICS:
        raise ValueError(f'dist_metric must be one of {DIST_METRICS}, got {dist_metric!r}')
    if query.ndim != 2 or gallery.ndim != 2 or query.shape[1] != gallery.shape[1]:
        shapes = f'{tuple(query.shape)} and {tuple(gallery.shape)}'
        raise ValueError(f'expected features of shapes (Q, D) and (G, D), got {shapes}')


def unit_vectors(features: Tensor) -> Tensor:
    """Scale features (n, D) of any float type to length 1, float32; zeros stay zeros.

    Vectors whose squared length float32 cannot hold (above 1.8e19, or tiny) are rescaled first.
    """
    vectors = features.float()
    lengths: Tensor = torch.linalg.vector_norm(vectors, dim=1, keepdim=True)
    vectors = vectors / lengths.clamp_min(SHORTEST)
    out_of_reach = ~(torch.isfinite(lengths) & (lengths > SHORTEST)).flatten()
    if out_of_reach.any():
        extreme = features[out_of_reach]
        largest = extreme.abs().amax(dim=1, keepdim=True)
        extreme = (extreme / torch.where(largest > 0, largest, 1)).float()
        vectors[out_of_reach] = F.normalize(extreme, dim=1)
    return vectors


def _prepare(features: Features, dist_metric: str, device: torch.device) -> Tensor:
    """Convert features to float32 on the device, for the cosine with length 1, see ``unit``."""
    if isinstance(features, np.ndarray):
        # a copy of what torch may not have: a file that is mapped for reading
        features = torch.from_numpy(np.require(features, requirements='W'))
    features = features.detach().to(device)
    if dist_metric == 'cosine':
        return unit_vectors(features)
    vectors = features.float()
    if dist_metric == 'unit':
        return vectors
    if vectors.dtype != features.dtype and features.any() and not vectors.any():
        raise InputError(TOO_SMALL)
    return vectors


def _distances(query: Tensor, gallery: Tensor, dist_metric: str) -> Tensor:
    """Compute distances (q, g) of prepared features."""
    if dist_metric == 'cosine':
        return torch.mm(query, gallery.t()).neg_().add_(1)
    of_query, of_gallery = _squared_lengths(query, gallery)
    squares = of_query[:, None] + of_gallery  # (q, g)
    return squares.addmm_(query, gallery.t(), alpha=-2)


def _squared_lengths(query: Tensor, gallery: Tensor) -> tuple[Tensor, Tensor]:
    """Compute squared lengths (q,) and (g,); raise InputError if all are almost zero."""
    squares = [features.square().sum(dim=1) for features in (query, gallery)]
    largest = max((float(x.max()) for x in squares if len(x)), default=0.0)
    if largest < SMALLEST_SQUARE and (query.any() or gallery.any()):
        raise InputError(TOO_SMALL)
    return squares[0], squares[1]


def _blocks(
    features: Features,
    dist_metric: str,
    device: torch.device,
    length: int,
    among: NDArray[np.int64] | None = None,
) -> Iterator[tuple[int, Tensor]]:
    """Yield the first index and the prepared vectors of every block of the gallery.

    With ``among`` only the chosen vectors are read, and indices count within them.
    """
    for start in range(0, len(features if among is None else among), length):
        rows: slice | NDArray[np.int64] = slice(start, start + length)
        if among is not None:
            some = among[rows]
            first, last = int(some[0]), int(some[-1])
            # a slice of a file is not copied
            rows = slice(first, last + 1) if last - first + 1 == len(some) else some
        yield start, _prepare(features[rows], dist_metric, device)
        _release(features)


def _release(features: Features) -> None:
    """Release the pages of a mapped file, which count as memory of the process once read."""
    if isinstance(features, np.memmap) and features.mode == 'r':
        base: object = features
        while isinstance(base, np.ndarray):
            base = base.base
        if isinstance(base, mmap.mmap) and hasattr(base, 'madvise'):
            base.madvise(mmap.MADV_DONTNEED)


def _distance_rows(
    query_features: Tensor, gallery_features: Features, dist_metric: str, chunk: int, num_bytes: int
) -> Iterator[Tensor]:
    device = query_features.device
    block = max(num_bytes // (8 * query_features.shape[1]), 1)  # as it is and prepared: 8 bytes
    whole = None
    if len(gallery_features) <= block:  # prepared once for all chunks
        whole = [(0, _prepare(gallery_features, dist_metric, device))]
    block = min(block, MAX_BLOCK)
    for start in range(0, len(query_features), chunk):
        query = _prepare(query_features[start : start + chunk], dist_metric, device)
        rows = torch.empty(len(query), len(gallery_features), device=device)  # (q, G)
        for first, gallery in whole or _blocks(gallery_features, dist_metric, device, block):
            rows[:, first : first + len(gallery)] = _distances(query, gallery, dist_metric)
        yield rows


def _in_order(distances: Tensor, indices: Tensor) -> Nearest:
    """Sort rows of neighbours by distance, then by index."""
    indices, order = indices.sort(dim=1)
    distances, by_distance = distances.gather(1, order).sort(dim=1, stable=True)
    return Nearest(distances, indices.gather(1, by_distance))


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
        parts.append(_distances(query, gallery, dist_metric))
        columns += len(gallery)
    yield first, _nearest_finite(torch.cat(parts, dim=1), k)


def _block_nearest(query: Tensor, gallery: Tensor, k: int, dist_metric: str) -> Nearest:
    parts = [
        _nearest_finite(_distances(rows, gallery, dist_metric), k)
        for rows in query.split(MAX_CHUNK)
    ]
    return Nearest(*(torch.cat(part) for part in zip(*parts, strict=True)))


def _nearest_finite(distances: Tensor, k: int) -> Nearest:
    """``nearest`` of rows (q, g), at most g of them; distances below 0 become 0, in place."""
    distances.clamp_min_(0)
    if not torch.isfinite(distances).all():
        raise InputError(NOT_FINITE)
    return nearest(distances, min(k, distances.shape[1]))


def _block_nearest_faiss(query: Tensor, gallery: Tensor, k: int, dist_metric: str) -> Nearest:
    if not (torch.isfinite(query).all() and torch.isfinite(gallery).all()):
        raise InputError(NOT_FINITE)
    if dist_metric == 'euclidean':
        _squared_lengths(query, gallery)
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
