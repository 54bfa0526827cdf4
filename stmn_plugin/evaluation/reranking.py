"""Re-rank distances by k-reciprocal encoding, row by row.

Zhong et al., Re-ranking Person Re-identification with k-reciprocal Encoding, CVPR 2017. A tracklet
is described by a sparse vector over its k-reciprocal neighbours; the final distance mixes the
Jaccard distance of two such vectors with the original one. Only neighbour lists and these vectors
are held (sparse, some tens of numbers per tracklet), never a matrix of all pairs.

Equal to torchreid's ``re_ranking``, with one departure. The paper's original distance is the
*squared* Euclidean one, and ``re_ranking`` squares its input, so it needs plain Euclidean
distances; torchreid's engine gives it squared ones, which makes them fourth powers. Here the
distances are squared once: ``rerank`` equals ``re_ranking`` of the square roots of
``pairwise_distances``. The same for 'cosine': 1 - cos is half the squared distance of unit vectors
already (factors do not matter, every row is divided by its maximum).

Letters: Q queries, G gallery tracklets, N = Q + G, D channels, q rows of a chunk of queries.
"""

from collections.abc import Iterable, Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import sparse
from torch import Tensor

from stmn_plugin.errors import InputError

from .distances import NOT_FINITE, Features, distance_rows, pair_distances
from .search import nearest

CHUNK = 64  # queries whose Jaccard distances are computed together


def rerank(
    query_features: Tensor,
    gallery_features: Features,
    dist_metric: str = 'cosine',
    k1: int = 20,
    k2: int = 6,
    lambda_value: float = 0.3,
    memory_limit: int | None = None,
) -> Iterator[Tensor]:
    """Compute final distances in chunks of queries, for ``ranking.rank_rows``.

    Neighbours at equal distances are taken in the order queries, gallery. The neighbour search and
    the encoding are computed before this returns; the result can be iterated once.

    Args:
        query_features: shape (Q, D).
        gallery_features: shape (G, D).
        dist_metric: 'cosine' or 'euclidean'.
        k1: neighbours that must have each other as neighbours.
        k2: nearest tracklets (with itself) whose encodings are averaged; 1 averages none.
        lambda_value: weight of the original distance, in 0..1.
        memory_limit: bytes of the distances held, see ``search.distance_rows``.

    Returns:
        Rows (q, G), float32 on the CPU, the first queries first.

    Raises:
        ValueError: shapes, the metric or a parameter are invalid.
        InputError: features are not finite.
    """
    if k1 < 1 or k2 < 1 or not 0 <= lambda_value <= 1:
        raise ValueError(
            f'expected k1 >= 1, k2 >= 1, lambda in 0..1, got {k1}, {k2}, {lambda_value}'
        )
    gallery = torch.as_tensor(gallery_features).to(query_features)
    features = torch.cat([query_features, gallery])  # (N, D)
    neighbours, farthest = _neighbours(features, dist_metric, k1 + 1, memory_limit)
    encoding = k_reciprocal_encoding(features, neighbours, farthest, dist_metric, k1)
    if k2 > 1:
        encoding = expand_queries(encoding, neighbours[:, :k2])
    original = distance_rows(query_features, gallery, dist_metric, memory_limit)
    return _final_rows(original, farthest, encoding, len(query_features), lambda_value)


def k_reciprocal_encoding(
    features: Tensor,
    neighbours: NDArray[np.int64],
    farthest: NDArray[np.float32],
    dist_metric: str,
    k1: int,
) -> sparse.csr_matrix:
    """Encode every tracklet by Gaussian weights of its expanded neighbours, CSR (N, N), sum 1.

    Args:
        features: shape (N, D).
        neighbours: shape (N, k1 + 1), the nearest first, usually itself.
        farthest: largest distances of rows, shape (N,), by which they are divided.
        dist_metric: 'cosine' or 'euclidean'.
        k1: see :func:`rerank`.
    """
    reciprocal = _reciprocal(neighbours)  # R(i, k1)
    half = _reciprocal(neighbours[:, : int(np.around(k1 / 2)) + 1])  # R(i, k1 / 2)
    size = half.getnnz(axis=1)
    common = (reciprocal @ half.T).multiply(reciprocal).tocoo()  # |R(i, k1) n R(j, k1 / 2)|
    joins = common.data > 2 / 3 * size[common.col]
    joined = sparse.csr_matrix(
        (common.data[joins], (common.row[joins], common.col[joins])), shape=common.shape
    )
    row, column = (reciprocal + joined @ half).nonzero()  # row by row
    distances = pair_distances(features, row, column, dist_metric) / farthest[row]
    weights = sparse.csr_matrix((np.exp(-distances), (row, column)), shape=common.shape)
    total = np.asarray(weights.sum(axis=1))  # (N, 1)
    return sparse.csr_matrix(weights.multiply(1 / np.maximum(total, np.finfo(total.dtype).tiny)))


def expand_queries(encoding: sparse.csr_matrix, neighbours: NDArray[np.int64]) -> sparse.csr_matrix:
    """Average the encodings of the nearest k2 tracklets (local query expansion), CSR (N, N)."""
    count, k2 = neighbours.shape
    weight = np.full(count * k2, 1 / k2, dtype=np.float32)
    row_starts = np.arange(0, count * k2 + 1, k2)
    return sparse.csr_matrix((weight, neighbours.ravel(), row_starts), (count, count)) @ encoding


def _neighbours(
    features: Tensor, dist_metric: str, k: int, memory_limit: int | None
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Find the k nearest of every tracklet, (N, k), and its largest distance, (N,)."""
    indices, largest_of_rows = [], []
    for rows in distance_rows(features, features, dist_metric, memory_limit):
        largest = rows.amax(dim=1)
        if not torch.isfinite(largest).all():
            raise InputError(NOT_FINITE)
        indices.append(nearest(rows.clamp_min_(0), min(k, len(features))).indices.cpu())
        largest_of_rows.append(largest.cpu())
    farthest = torch.cat(largest_of_rows).numpy()
    return torch.cat(indices).numpy(), np.where(farthest > 0, farthest, 1)


def _reciprocal(neighbours: NDArray[np.int64]) -> sparse.csr_matrix:
    """Return CSR (N, N) with ones for pairs that are mutual neighbours in (N, k)."""
    count, k = neighbours.shape
    ones = np.ones(count * k, dtype=np.float32)
    row_starts = np.arange(0, count * k + 1, k)
    forward = sparse.csr_matrix((ones, neighbours.ravel(), row_starts), (count, count))
    return forward.multiply(forward.T).tocsr()


def _final_rows(
    original: Iterable[Tensor],
    farthest: NDArray[np.float32],
    encoding: sparse.csr_matrix,
    num_query: int,
    lambda_value: float,
) -> Iterator[Tensor]:
    """Yield lambda * original + (1 - lambda) * Jaccard for chunks of queries."""
    gallery = encoding[num_query:].tocsc()  # by what is encoded: who has it, and how much
    start = 0
    for chunk in original:
        for rows in chunk.cpu().clamp_min_(0).split(CHUNK):
            stop = start + len(rows)
            common = torch.from_numpy(_common(encoding[start:stop], gallery))  # (q, G)
            jaccard = 1 - common / (2 - common)
            rows *= lambda_value / torch.from_numpy(farthest[start:stop, None])
            yield rows.add_(jaccard, alpha=1 - lambda_value)
            start = stop


def _common(query: sparse.csr_matrix, gallery: sparse.csc_matrix) -> NDArray[np.float32]:
    """Sum the smaller weights over the entries of two encodings, float32 (q, G).

    Args:
        query: (q, N).
        gallery: (G, N).
    """
    shape = query.shape[0], gallery.shape[0]
    row = np.repeat(np.arange(shape[0]), np.diff(query.indptr))
    first, end = gallery.indptr[query.indices], gallery.indptr[query.indices + 1]
    times = end - first  # gallery tracklets that share the entry with the query
    entry = np.arange(times.sum()) + np.repeat(first - times.cumsum() + times, times)
    smaller = np.minimum(np.repeat(query.data, times), gallery.data[entry])
    place = np.repeat(row * shape[1], times) + gallery.indices[entry]
    total = np.bincount(place, weights=smaller, minlength=shape[0] * shape[1])
    return total.astype(np.float32).reshape(shape)
