"""Compute distances of features in chunks of rows; the gallery may be larger than memory.

It is read block by block, as a tensor of any float type or as a NumPy array mapped from a file.
Ranking, re-ranking and search use these distances.

Letters: Q queries, G gallery tracklets, D channels, q rows of a chunk of queries.
"""

import itertools
import mmap
from collections.abc import Iterator
from typing import Any, TypeAlias

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from stmn_plugin.errors import InputError

Features: TypeAlias = Tensor | NDArray[Any]
"""Vectors (n, D) of any float type; a ``numpy.memmap`` stays on disk."""

DIST_METRICS = ('cosine', 'euclidean')
MEMORY_LIMIT = 2 << 30  # bytes of distances: of the chunk in use and of the next
MAX_CHUNK = 256  # queries; more make the matrix product no faster
MAX_BLOCK = 2048  # gallery vectors; larger ones leave the cache, smaller ones cost more calls
ROWS_AT_ONCE = 64  # whose neighbours are gathered together
SHORTEST = 1e-12  # torch's normalize takes shorter vectors for zero
SMALLEST_SQUARE = 1e-30  # float32 still holds differences of such numbers
TOO_SMALL = 'all features are so small that their squared distances are 0 in float32: scale them'
NOT_FINITE = 'distances hold NaN or infinity: features that are broken, or too large for float32'


def pairwise_distances(
    query_features: Tensor, gallery_features: Features, dist_metric: str = 'cosine'
) -> Tensor:
    """Compute distances (Q, G) with the host's values, in float32 on the device of the queries.

    'cosine' is 1 - cos, 'euclidean' is the *squared* Euclidean distance, as in torchreid. Rounding
    can leave the distance of a vector to itself slightly below 0.
    """
    check_features(query_features, gallery_features, dist_metric)
    device = query_features.device
    query = prepared(query_features, dist_metric, device)
    return distances_of_prepared(
        query, prepared(gallery_features, dist_metric, device), dist_metric
    )


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
    features = prepared(features, dist_metric, features.device)
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
    check_features(query_features, gallery_features, dist_metric)
    limit = MEMORY_LIMIT if memory_limit is None else memory_limit
    chunk = min(max(limit // 2 // (4 * max(len(gallery_features), 1)), 1), MAX_CHUNK)
    return _distance_rows(query_features, gallery_features, dist_metric, chunk, limit // 2)


def _distance_rows(
    query_features: Tensor, gallery_features: Features, dist_metric: str, chunk: int, num_bytes: int
) -> Iterator[Tensor]:
    device = query_features.device
    block = max(num_bytes // (8 * query_features.shape[1]), 1)  # as it is and prepared: 8 bytes
    whole = None
    if len(gallery_features) <= block:  # prepared once for all chunks
        whole = [(0, prepared(gallery_features, dist_metric, device))]
    block = min(block, MAX_BLOCK)
    for start in range(0, len(query_features), chunk):
        query = prepared(query_features[start : start + chunk], dist_metric, device)
        rows = torch.empty(len(query), len(gallery_features), device=device)  # (q, G)
        for first, gallery in whole or blocks_of(gallery_features, dist_metric, device, block):
            rows[:, first : first + len(gallery)] = distances_of_prepared(
                query, gallery, dist_metric
            )
        yield rows


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


def prepared(features: Features, dist_metric: str, device: torch.device) -> Tensor:
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


def distances_of_prepared(query: Tensor, gallery: Tensor, dist_metric: str) -> Tensor:
    """Compute distances (q, g) of prepared features."""
    if dist_metric == 'cosine':
        return torch.mm(query, gallery.t()).neg_().add_(1)
    of_query, of_gallery = squared_lengths(query, gallery)
    squares = of_query[:, None] + of_gallery  # (q, g)
    return squares.addmm_(query, gallery.t(), alpha=-2)


def squared_lengths(query: Tensor, gallery: Tensor) -> tuple[Tensor, Tensor]:
    """Compute squared lengths (q,) and (g,); raise InputError if all are almost zero."""
    squares = [features.square().sum(dim=1) for features in (query, gallery)]
    largest = max((float(x.max()) for x in squares if len(x)), default=0.0)
    if largest < SMALLEST_SQUARE and (query.any() or gallery.any()):
        raise InputError(TOO_SMALL)
    return squares[0], squares[1]


def blocks_of(
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
        yield start, prepared(features[rows], dist_metric, device)
        _release(features)


def _release(features: Features) -> None:
    """Release the pages of a mapped file, which count as memory of the process once read."""
    if isinstance(features, np.memmap) and features.mode == 'r':
        base: object = features
        while isinstance(base, np.ndarray):
            base = base.base
        if isinstance(base, mmap.mmap) and hasattr(base, 'madvise'):
            base.madvise(mmap.MADV_DONTNEED)


def check_features(query: Features, gallery: Features, dist_metric: str) -> None:
    """Raise ValueError for another metric or shapes that are not (Q, D) and (G, D)."""
    if dist_metric not in DIST_METRICS:
        raise ValueError(f'dist_metric must be one of {DIST_METRICS}, got {dist_metric!r}')
    if query.ndim != 2 or gallery.ndim != 2 or query.shape[1] != gallery.shape[1]:
        shapes = f'{tuple(query.shape)} and {tuple(gallery.shape)}'
        raise ValueError(f'expected features of shapes (Q, D) and (G, D), got {shapes}')
