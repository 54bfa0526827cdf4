"""Rule out most vectors of a large gallery for a few queries by products in half precision.

A product of float16 vectors reads them once and writes no float32 copy, so it is faster than one
in float32 (``benchmarks/index.py``). Its error has a bound: what is further away than the bound
explains is not among the nearest, and the few vectors that are left are compared in float32. The
result is exact.
"""

import math
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

MOST_QUERIES = 8  # a pass over the gallery each; more are faster together, in float32
SPARSEST = 16  # vectors that are read per vector that counts; beyond that reading those is faster


def error_bound(dim: int) -> float:
    """Bound the error of a half-precision product of two unit vectors, plus that in float32.

    Half precision rounds the query (2⁻¹¹ of its length; 2⁻²⁵ for numbers that are almost 0) and the
    product (2⁻¹¹); float32 rounds each of D sums (2⁻²⁴), here and where products are compared with.

    Args:
        dim: D.
    """
    return 1.01 * (2 * 2.0**-11 + 2 * dim * 2.0**-24 + (math.sqrt(dim) + 1) * 2.0**-25)


def may_be_nearest(
    query: Tensor,
    gallery: Tensor | NDArray[Any],
    k: int,
    among: NDArray[np.int64] | None = None,
) -> NDArray[np.int64] | None:
    """Find the vectors that can be among the k nearest of any query by the cosine distance.

    Args:
        query: shape (Q, D), float32 of length 1, on the CPU.
        gallery: shape (G, D), of length 1 up to the rounding of their type, on the CPU; a mapped
            file is not copied. Only float16 that torch may write is screened.
        k: at least 1, at most the number of vectors that count.
        among: ascending indices of the gallery vectors that count; all by default.

    Returns:
        Ascending indices of such vectors, all that tie included; ``among`` itself where screening
        does not help, or cannot be relied on.
    """
    first, last = (0, len(gallery) - 1) if among is None else (int(among[0]), int(among[-1]))
    count, span = len(gallery) if among is None else len(among), last - first + 1
    if len(query) > MOST_QUERIES or count < 2 * k or span > SPARSEST * count or not _is_reliable():
        return among
    if isinstance(gallery, np.ndarray):
        if not gallery.flags.writeable:
            return among
        gallery = torch.from_numpy(gallery)
    if gallery.dtype != torch.float16:
        return among
    margin = 2 * error_bound(query.shape[1])
    ignored = torch.zeros(span, dtype=torch.bool)
    if among is not None:
        ignored[:] = True
        ignored[torch.from_numpy(among - first)] = False
    chosen = torch.zeros(span, dtype=torch.bool)
    for one in query.half():
        products = torch.mv(gallery[first : last + 1], one).float()
        if not torch.isfinite(products).all():
            return among
        products.masked_fill_(ignored, -torch.inf)
        kth = float(products.topk(k).values[-1])
        chosen |= products >= min(kth, 1.0) - margin  # above 1 all are at distance 0
    left = chosen.nonzero().flatten().numpy() + first
    return left if len(left) < count // 4 else among


def _is_reliable() -> bool:
    """Whether products of float16 are summed in float32 here: torch can be told not to."""
    ones = torch.ones(64, 4096, dtype=torch.float16)  # a sum in half precision ends at 2048
    return bool((torch.mv(ones, ones[0]) == 4096).all())
