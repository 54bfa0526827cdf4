"""Addressing of a memory, and the spatial memory: maps and queries → refined frame vectors.

Letters: B clips, L frames, D channels, H W positions (K = H*W), M spatial items, N temporal items,
T = B*L frames, P accesses of a memory.

Both memories are tables of keys and values that are trained by backpropagation and addressed in the
same way (Eq. 1, Eq. 5): a softmax over the items of scale * cosine(query, key).

DEPARTURE from the letter of Eq. 1: the scale. The paper writes no temperature (scale 1). The
probabilities of M=10 items then lie between 0.085 and 0.232 for orthogonal keys, so the paper's own
spread margin of 0.3 is out of reach. ``scale=None`` is sqrt(D / items), about the scale that the
authors' code reaches by normalising its keys across items; ``scale=1.0`` is Eq. 1 literally.

Two arguments reproduce the authors' released code (docs/released-code.md):
``key_normalisation='channel'`` and ``addressing='group'``.
"""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stmn_plugin.distributed import total, world_size

from ..heads import global_average

ADDRESSINGS = ('position', 'group')
KEY_NORMALISATIONS = ('item', 'channel')


def auto_scale(dim: int, num_items: int) -> float:
    """Return the default similarity scale, sqrt(D / items)."""
    return math.sqrt(dim / num_items)


def cosine_probs(
    queries: Tensor, keys: Tensor, scale: float, key_normalisation: str = 'item'
) -> Tensor:
    """Compute the matching probabilities of Eq. 1 and Eq. 5.

    Args:
        queries: shape (..., D).
        keys: shape (items, D).
        scale: factor of the similarity before the softmax.
        key_normalisation: one of KEY_NORMALISATIONS. 'item' scales each key to length 1, so that
            the similarity is the cosine; 'channel', as in the authors' code, scales each channel to
            length 1 over the items.

    Returns:
        Shape (..., items), rows sum to 1. A query of zeros matches all items equally.
    """
    keys = F.normalize(keys, dim=1 if key_normalisation == 'item' else 0)
    # (q.k) / |q| without a normalised copy of the queries, the largest tensor here
    query_norms = torch.linalg.vector_norm(queries, dim=-1, keepdim=True).clamp(min=1e-12)
    similarity = F.linear(queries, keys) / query_norms  # (..., items)
    return F.softmax(scale * similarity, dim=-1)


class SpatialMemoryOutput(NamedTuple):
    """Refined frame vectors and the matching probabilities."""

    output: Tensor  # (T, D) GAP(f^s), the refined features pooled over positions
    probs: Tensor  # (T*K, M) A^s, frames in order; positions row by row, or groups


class SpatialMemory(nn.Module):
    """Spatial memory (Sec. 3.2, Eq. 1-3): read the distractor of each position and subtract it.

    Args:
        dim: D.
        num_items: M.
        scale: similarity scale; None is :func:`auto_scale`.
        bn_scale: initial scale of Eq. 3's BN. With 0 training starts from the plain encoder; until
            the scale has grown, keys, values and queries get no gradient of L_ID.
        addressing: one of ADDRESSINGS, the meaning of the D numbers of a query. 'position': the
            channels of one position (Eq. 1). 'group', as in the authors' code: D consecutive
            numbers of a frame's map (D, H, W), that is D/K channels at all K positions (16 x 128
            for 256x128 frames); the read-out is subtracted from the same numbers.
        key_normalisation: see :func:`cosine_probs`.
    """

    def __init__(
        self,
        dim: int,
        num_items: int,
        scale: float | None = None,
        bn_scale: float = 0.0,
        addressing: str = 'position',
        key_normalisation: str = 'item',
    ):
        super().__init__()
        check_choices(key_normalisation, addressing)
        self.scale = auto_scale(dim, num_items) if scale is None else float(scale)
        self.addressing = addressing
        self.key_normalisation = key_normalisation
        self.keys = nn.Parameter(torch.randn(num_items, dim))  # k^s
        self.values = nn.Parameter(torch.randn(num_items, dim))  # v^s
        self.bn = nn.BatchNorm1d(dim)
        nn.init.constant_(self.bn.weight, bn_scale)

    def forward(self, frame_features: Tensor, spatial_queries: Tensor) -> SpatialMemoryOutput:
        """Refine and pool without computing the (T*K, D) read-out.

        The layers after the spatial memory need only GAP(f^s), the read-out is linear in the
        probabilities, and BN is affine, so its statistics follow from the mean and covariance of
        the probabilities: mean_d = mean(A) v_d, var_d = v_d' Cov(A) v_d. :meth:`refine` computes
        the same step by step, on full maps. With groups the positions of a channel are in one row
        if K divides D; then the values are pooled instead of the read-out. Otherwise the read-out
        is computed.

        Args:
            frame_features: f^o, shape (T, D, H, W).
            spatial_queries: q^s, shape (T, D, H, W).

        Raises:
            ValueError: the two shapes differ.
        """
        _check_maps(frame_features, spatial_queries)
        probs = self.address(spatial_queries)  # (T*K, M)
        if self.training:
            mean, var = self._batch_statistics(probs)
            self._update_running_statistics(mean, var, len(probs) * world_size())
        else:
            assert self.bn.running_mean is not None and self.bn.running_var is not None
            mean, var = self.bn.running_mean, self.bn.running_var
        factor = self.bn.weight * torch.rsqrt(var + self.bn.eps)  # (D,)
        by_frame = probs.unflatten(0, (frame_features.shape[0], -1))  # (T, K, M)
        if self.addressing == 'position':
            pooled = by_frame.mean(dim=1)  # (T, M)
            distraction = (pooled @ self.values - mean) * factor + self.bn.bias  # (T, D)
        else:
            # probabilities sum to 1: BN of the weighted values is the weighted BN of the values
            distraction = _pool_groups(by_frame, (self.values - mean) * factor + self.bn.bias)
        return SpatialMemoryOutput(global_average(frame_features) - distraction, probs)

    def refine(self, frame_features: Tensor, spatial_queries: Tensor) -> Tensor:
        """Compute f^s at every position (Eq. 3), for figures and analysis.

        Shapes are those of :meth:`forward`. In training mode this also updates the running
        statistics of the BN.

        Returns:
            Shape (T, D, H, W).
        """
        _check_maps(frame_features, spatial_queries)
        probs = self.address(spatial_queries)  # (T*K, M)
        readout: Tensor = self.bn(probs @ self.values)  # (T*K, D), Eq. 2
        num_frames, dim, height, width = frame_features.shape
        if self.addressing == 'group':
            return frame_features - readout.view(num_frames, dim, height, width)
        readout = readout.view(num_frames, height, width, dim).permute(0, 3, 1, 2)  # (T, D, H, W)
        return frame_features - readout

    def address(self, spatial_queries: Tensor) -> Tensor:
        """Compute A^s (Eq. 1) of q^s (T, D, H, W): (T*K, M)."""
        dim = spatial_queries.shape[1]
        if self.addressing == 'position':
            spatial_queries = spatial_queries.permute(0, 2, 3, 1)
        rows = spatial_queries.reshape(-1, dim)  # (T*K, D)
        rows = rows.to(torch.promote_types(rows.dtype, self.keys.dtype))  # of a bf16 encoder
        return cosine_probs(rows, self.keys, self.scale, self.key_normalisation)

    def _batch_statistics(self, probs: Tensor) -> tuple[Tensor, Tensor]:
        """Compute mean and biased variance, each (D,), of the read-out over all accesses.

        The statistics are over all processes, each with the same number of accesses; no other part
        of the network communicates. They are in float64, which is cheap at this size. A component
        that all items share does not vary, as probabilities sum to 1; subtracting it first avoids
        its rounding error.
        """
        probs, values = probs.double(), self.values.double()
        count = len(probs) * world_size()
        center = total(probs.sum(dim=0)) / count  # (M,)
        mean = center @ values  # (D,)
        deviation, spread = probs - center, values - mean
        covariance = total(deviation.T @ deviation) / count  # (M, M)
        var = (spread * (covariance @ spread)).sum(dim=0)  # (D,)
        return mean.to(self.values.dtype), var.to(self.values.dtype)

    @torch.no_grad()
    def _update_running_statistics(self, mean: Tensor, var: Tensor, count: int) -> None:
        bn = self.bn
        assert bn.running_mean is not None and bn.running_var is not None
        assert bn.num_batches_tracked is not None and bn.momentum is not None
        bn.num_batches_tracked += 1
        bn.running_mean.lerp_(mean, bn.momentum)
        bn.running_var.lerp_(var * (count / max(count - 1, 1)), bn.momentum)


def _check_maps(frame_features: Tensor, spatial_queries: Tensor) -> None:
    if frame_features.dim() != 4 or frame_features.shape != spatial_queries.shape:
        raise ValueError(
            'expected frame_features and spatial_queries of one shape (T, D, H, W), '
            f'got {tuple(frame_features.shape)} and {tuple(spatial_queries.shape)}'
        )


def _pool_groups(probs: Tensor, values: Tensor) -> Tensor:
    """Average the read-out of groups (GAP): (T, K, M) and normalised values (M, D) → (T, D).

    Channel c of a frame consists of the numbers c*K .. (c+1)*K of its K concatenated rows of D.
    """
    num_frames, positions, _ = probs.shape
    num_items, dim = values.shape
    if dim % positions:  # a channel may extend from one row into the next
        return (probs @ values).view(num_frames, dim, positions).mean(dim=2)
    pooled = values.view(num_items, -1, positions).mean(dim=2)  # (M, D/K)
    return (probs @ pooled).flatten(1)  # (T, K, D/K) → (T, D)


def check_choices(key_normalisation: str, addressing: str = 'position') -> None:
    """Raise ValueError for a word that is not among the choices."""
    if key_normalisation not in KEY_NORMALISATIONS:
        raise ValueError(
            f'key_normalisation must be one of {KEY_NORMALISATIONS}, got {key_normalisation!r}'
        )
    if addressing not in ADDRESSINGS:
        raise ValueError(f'addressing must be one of {ADDRESSINGS}, got {addressing!r}')
