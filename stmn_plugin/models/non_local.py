"""Tokens → tokens that have attended to each other: the non-local block, embedded Gaussian.

Wang, Girshick, Gupta, He: "Non-local Neural Networks" (CVPR 2018), with batch normalisation at the
end of the residual; the systems that use it choose which positions make up a group. Letters: G
groups, n tokens of a group, m of them as keys, C channels, I inner width.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .encoder import full_precision, wide


def attended_values(queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """softmax(theta phi^T) g, without the scale 1/sqrt(I), in float32 at least.

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
    """A = softmax over the keys of theta phi^T: (..., n, I) and (..., m, I) → (..., n, m)."""
    return torch.matmul(wide(queries), wide(keys).transpose(-1, -2)).softmax(dim=-1)


class NonLocal(nn.Module):
    """X + BN(out(A g(X))), A = softmax(theta(X) phi(X)^T); all four layers have a bias.

    Args:
        dim: C.
        inner: I; None is C/2.
        pooled_keys: phi(X) and g(X) are max-pooled 2x2 (stride 2, an odd last row or column is
            dropped), so that positions attend to a quarter of them.
        bn_scale: scale of the BN at the start; with 0 the block is the identity then.

    In training the biases of phi, g and out change nothing and have no gradient but rounding: the
    softmax takes out the first, the BN the others. They are published so.
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
        """All positions of a map are a group, be they of one frame or of several.

        Args:
            maps: shape (G, C, H, W) or (G, C, L, H, W); with ``pooled_keys`` the former.

        Returns:
            The same shape.
        """
        positions = maps.shape[2:]
        tokens = maps.flatten(2).transpose(1, 2)  # (G, n, C)
        residual = self.residual(tokens, positions).transpose(1, 2)  # (G, C, n)
        attended: Tensor = maps + residual.unflatten(2, positions)
        return attended

    def residual(self, tokens: Tensor, positions: tuple[int, ...] = ()) -> Tensor:
        """BN(out(A g(X))); in training its statistics are those of all G*n tokens.

        Args:
            tokens: X, shape (G, n, C).
            positions: (H, W) with H*W = n, row by row; needed with ``pooled_keys``.

        Returns:
            Shape (G, n, C).

        Raises:
            ValueError: the keys are pooled, and tokens are no map of 2x2 positions or more.
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
    """(G, H*W, I) → (G, (H/2)*(W/2), I)."""
    if len(positions) != 2 or min(positions) < 2 or math.prod(positions) != tokens.shape[1]:
        raise ValueError(
            f'expected tokens of a map of 2x2 positions or more, got {tuple(tokens.shape)} '
            f'of {tuple(positions)}'
        )
    maps = tokens.transpose(1, 2).unflatten(2, positions)  # (G, I, H, W)
    return F.max_pool2d(maps, 2).flatten(2).transpose(1, 2)
