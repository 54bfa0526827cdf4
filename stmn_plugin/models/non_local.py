"""The non-local block (embedded Gaussian), in which tokens attend to each other.

Wang, Girshick, Gupta, He: "Non-local Neural Networks" (CVPR 2018), with batch normalisation at the
end of the residual; the systems that use it define which positions form a group. Letters: G
groups, n tokens of a group, m of them as keys, C channels, I inner width.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .heads import full_precision, wide


def attended_values(queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """Compute softmax(theta phi^T) g without the scale 1/sqrt(I), in float32 at least.

    Args:
        queries: theta, shape (..., n, I).
        keys: phi, shape (..., m, I).
        values: g, shape (..., m, I).

    Returns:
        Shape (..., n, I).
    """
    attended: Tensor = torch.matmul(attention(queries, keys), wide(values))
    return attended


def attention(queries: Tensor, keys: Tensor) -> Tensor:
    """Compute A = softmax(theta phi^T) over the keys: (..., n, I), (..., m, I) → (..., n, m)."""
    return torch.matmul(wide(queries), wide(keys).transpose(-1, -2)).softmax(dim=-1)


class NonLocal(nn.Module):
    """X + BN(out(A g(X))), A = softmax(theta(X) phi(X)^T); all four layers have a bias.

    Args:
        dim: C.
        inner: I; None is C/2.
        pooled_keys: max-pool phi(X) and g(X) 2x2 (stride 2, dropping an odd last row or column),
            so that positions attend to a quarter of them.
        bn_scale: initial scale of the BN; with 0 the block starts as the identity.

    In training the biases of phi, g and out have no effect and no gradient but rounding errors: the
    softmax cancels the first, the BN the others. They are kept because the papers have them.
    """

    def __init__(
        self,
        dim: int,
        inner: int | None = None,
        pooled_keys: bool = False,
        bn_scale: float = 0.0,
    ):
        super().__init__()
        inner = dim // 2 if inner is None else inner
        self.pooled_keys = pooled_keys
        # linear layers start as 1x1 convolutions do
        self.theta = nn.Linear(dim, inner)
        self.phi = nn.Linear(dim, inner)
        self.g = nn.Linear(dim, inner)
        self.out = nn.Linear(inner, dim)
        self.bn = nn.BatchNorm1d(dim)
        nn.init.constant_(self.bn.weight, bn_scale)

    def forward(self, maps: Tensor) -> Tensor:
        """Let all positions of a map, of one frame or several, attend to each other.

        Args:
            maps: shape (G, C, H, W) or, without ``pooled_keys``, (G, C, L, H, W).

        Returns:
            Maps of the same shape.
        """
        positions = maps.shape[2:]
        tokens = maps.flatten(2).transpose(1, 2)  # (G, n, C)
        residual = self.residual(tokens, positions).transpose(1, 2)  # (G, C, n)
        attended: Tensor = maps + residual.unflatten(2, positions)
        return attended

    def residual(self, tokens: Tensor, positions: tuple[int, ...] = ()) -> Tensor:
        """Compute BN(out(A g(X))); in training the BN takes its statistics over all G*n tokens.

        Args:
            tokens: X, shape (G, n, C).
            positions: (H, W) with H*W = n, row by row; needed with ``pooled_keys``.

        Returns:
            Shape (G, n, C).

        Raises:
            ValueError: the keys are pooled and the tokens do not form a map of 2x2 or more.
        """
        queries, keys, values = self.theta(tokens), self.phi(tokens), self.g(tokens)
        if self.pooled_keys:
            keys, values = _max_pooled(keys, positions), _max_pooled(values, positions)
        with full_precision(tokens.device.type):
            attended = attended_values(queries, keys, values)  # (G, n, I)
        rows: Tensor = self.bn(self.out(attended).flatten(0, 1))  # (G*n, C)
        residual: Tensor = rows.unflatten(0, tokens.shape[:2])
        return residual


def _max_pooled(tokens: Tensor, positions: tuple[int, ...]) -> Tensor:
    """Max-pool a map of tokens: (G, H*W, I) → (G, (H/2)*(W/2), I)."""
    if len(positions) != 2 or min(positions) < 2 or math.prod(positions) != tokens.shape[1]:
        raise ValueError(
            f'expected tokens of a map of 2x2 positions or more, got {tuple(tokens.shape)} '
            f'of {tuple(positions)}'
        )
    maps = tokens.transpose(1, 2).unflatten(2, positions)  # (G, I, H, W)
    return F.max_pool2d(maps, 2).flatten(2).transpose(1, 2)
