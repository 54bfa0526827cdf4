"""Maps and queries of the encoder → refined frame vectors (spatial), one clip vector (temporal).

Letters: B clips, L frames, D channels, H W positions (K = H*W), M spatial items, N temporal items,
T = B*L frames, P accesses of a memory.

Both memories are key-value tables that learn by backpropagation and are addressed the same way
(Eq. 1, Eq. 5): softmax over the items of scale * cosine(query, key).

DEPARTURE from the letter of Eq. 1: the scale. The paper writes no temperature (scale 1). With that
the probabilities of M=10 items lie between 0.085 and 0.232 for orthogonal keys, so the paper's own
spread margin of 0.3 is out of reach; ``scale=None`` takes sqrt(D / items), about what the authors'
code reaches by normalising its keys across items. ``scale=1.0`` is Eq. 1 literally.
"""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stmn_plugin.distributed import total, world_size

from ..encoder import global_average


def auto_scale(dim: int, num_items: int) -> float:
    """The default similarity scale, sqrt(D / items)."""
    return math.sqrt(dim / num_items)


def cosine_probs(queries: Tensor, keys: Tensor, scale: float) -> Tensor:
    """Matching probabilities of Eq. 1 and Eq. 5.

    Args:
        queries: shape (..., D).
        keys: shape (items, D).
        scale: factor of the cosine before the softmax.

    Returns:
        Shape (..., items), rows sum to 1. A query of zeros matches all alike.
    """
    # (q.k) / |q||k| without a normalised copy of the queries, the largest tensor around
    query_norms = torch.linalg.vector_norm(queries, dim=-1, keepdim=True).clamp(min=1e-12)
    similarity = F.linear(queries, F.normalize(keys, dim=1)) / query_norms  # (..., items)
    return F.softmax(scale * similarity, dim=-1)


class SpatialMemoryOutput(NamedTuple):
    output: Tensor  # (T, D) GAP(f^s), the refined features pooled over positions
    probs: Tensor  # (T*H*W, M) A^s, frames in order, positions row by row


class SpatialMemory(nn.Module):
    """Spatial memory (Sec. 3.2, Eq. 1-3): what distracts at a position is read and subtracted.

    Args:
        dim: D.
        num_items: M.
        scale: similarity scale; None is :func:`auto_scale`.
        bn_scale: where the scale of Eq. 3's BN starts. With 0 training starts from the
            plain encoder, and L_ID teaches keys, values and queries nothing until it has grown.
    """

    def __init__(self, dim: int, num_items: int, scale: float | None = None, bn_scale: float = 0.0):
        super().__init__()
        self.scale = auto_scale(dim, num_items) if scale is None else float(scale)
        self.keys = nn.Parameter(torch.randn(num_items, dim))  # k^s
        self.values = nn.Parameter(torch.randn(num_items, dim))  # v^s
        self.bn = nn.BatchNorm1d(dim)
        nn.init.constant_(self.bn.weight, bn_scale)

    def forward(self, frame_features: Tensor, spatial_queries: Tensor) -> SpatialMemoryOutput:
        """Refine and pool, without ever building the (T*K, D) read-out.

        What follows the spatial memory needs only GAP(f^s), the read-out is linear in the
        probabilities, and BN is affine, so its statistics follow from the mean and covariance of
        the probabilities: mean_d = mean(A) v_d, var_d = v_d' Cov(A) v_d. :meth:`refine` is the same
        step by step, on full maps.

        Args:
            frame_features: f^o, shape (T, D, H, W).
            spatial_queries: q^s, shape (T, D, H, W).

        Raises:
            ValueError: the two shapes differ.
        """
        probs = self._probs(frame_features, spatial_queries)  # (T*K, M)
        pooled = probs.view(frame_features.shape[0], -1, probs.shape[1]).mean(dim=1)  # (T, M)
        if self.training:
            mean, var = self._batch_statistics(probs)
            self._update_running_statistics(mean, var, len(probs) * world_size())
        else:
            assert self.bn.running_mean is not None and self.bn.running_var is not None
            mean, var = self.bn.running_mean, self.bn.running_var
        factor = self.bn.weight * torch.rsqrt(var + self.bn.eps)  # (D,)
        distraction = (pooled @ self.values - mean) * factor + self.bn.bias  # (T, D) GAP(BN(o^s))
        return SpatialMemoryOutput(global_average(frame_features) - distraction, probs)

    def refine(self, frame_features: Tensor, spatial_queries: Tensor) -> Tensor:
        """f^s at every position (Eq. 3), for figures and analysis; shapes as in :meth:`forward`.

        In training mode this, too, updates the running statistics of the BN.

        Returns:
            Shape (T, D, H, W).
        """
        probs = self._probs(frame_features, spatial_queries)  # (T*K, M)
        readout: Tensor = self.bn(probs @ self.values)  # (T*K, D), Eq. 2
        num_frames, dim, height, width = frame_features.shape
        readout = readout.view(num_frames, height, width, dim).permute(0, 3, 1, 2)  # (T, D, H, W)
        return frame_features - readout

    def _probs(self, frame_features: Tensor, spatial_queries: Tensor) -> Tensor:
        if frame_features.dim() != 4 or frame_features.shape != spatial_queries.shape:
            raise ValueError(
                'expected frame_features and spatial_queries of one shape (T, D, H, W), '
                f'got {tuple(frame_features.shape)} and {tuple(spatial_queries.shape)}'
            )
        dim = spatial_queries.shape[1]
        rows = spatial_queries.permute(0, 2, 3, 1).reshape(-1, dim)  # (T*K, D)
        rows = rows.to(torch.promote_types(rows.dtype, self.keys.dtype))  # of a bf16 encoder
        return cosine_probs(rows, self.keys, self.scale)

    def _batch_statistics(self, probs: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and biased variance, each (D,), of the read-out over all accesses.

        Those of all processes, each of which has as many: the one place where this network knows of
        others. In float64, which costs nothing at this size. What all items have in common does not
        vary, as probabilities sum to 1: taken out first, it leaves no rounding error of its own
        size.
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


class TemporalOutput(NamedTuple):
    output: torch.Tensor  # (B, D) f^t, Eq. 7
    probs: torch.Tensor | None  # (B, N) A^t, Eq. 5; None where there is no memory
    attention: torch.Tensor  # (B, L) o-hat^t, sums to 1 over the frames


def attend(frame_vectors: Tensor, attention: Tensor) -> Tensor:
    """Weighted sum over the frames (Eq. 7): (B, L, D) and (B, L) → (B, D)."""
    return torch.einsum('bl,bld->bd', attention, frame_vectors)


class TemporalMemory(nn.Module):
    """Temporal memory (Sec. 3.2, Eq. 4-7): a clip's pattern addresses stored attentions.

    Args:
        dim: D.
        num_items: N.
        seq_len: L, the length of the stored attentions.
        scale: similarity scale; None is :func:`auto_scale`.
    """

    def __init__(self, dim: int, num_items: int, seq_len: int, scale: float | None = None):
        super().__init__()
        self.scale = auto_scale(dim, num_items) if scale is None else float(scale)
        self.lstm = nn.LSTM(dim, dim, batch_first=True)
        self.keys = nn.Parameter(torch.randn(num_items, dim))  # k^t
        self.values = nn.Parameter(torch.rand(num_items, seq_len))  # v^t

    def forward(self, clip_queries: Tensor, frame_vectors: Tensor) -> TemporalOutput:
        """
        Args:
            clip_queries: GAP(q^t) of every frame, shape (B, L, D).
            frame_vectors: GAP(f^s) of every frame, shape (B, L, D).

        Raises:
            ValueError: shapes that differ, or clips of another length than the stored attentions.
        """
        _check_clips(clip_queries, frame_vectors, self.values.shape[1])
        probs = cosine_probs(
            encode_pattern(self.lstm, clip_queries), self.keys, self.scale
        )  # (B, N)
        attention = F.softmax(probs @ self.values, dim=1)  # (B, L), Eq. 6 and its softmax
        return TemporalOutput(attend(frame_vectors, attention), probs, attention)


class TemporalMLP(nn.Module):
    """The variant of Sec. 4.2: two layers D x N and N x L regress the attention, no memory.

    As many parameters as the memory with the same N; ``num_items=512`` is the paper's larger one.
    """

    def __init__(self, dim: int, num_items: int, seq_len: int):
        super().__init__()
        self.lstm = nn.LSTM(dim, dim, batch_first=True)
        self.hidden = nn.Linear(dim, num_items, bias=False)
        self.regress = nn.Linear(num_items, seq_len, bias=False)

    def forward(self, clip_queries: Tensor, frame_vectors: Tensor) -> TemporalOutput:
        """As :meth:`TemporalMemory.forward`; ``probs`` is None."""
        _check_clips(clip_queries, frame_vectors, self.regress.out_features)
        pattern = encode_pattern(self.lstm, clip_queries)  # (B, D)
        attention = F.softmax(self.regress(F.relu(self.hidden(pattern))), dim=1)  # (B, L)
        return TemporalOutput(attend(frame_vectors, attention), None, attention)


class TemporalAverage(nn.Module):
    """Temporal average pooling, the baseline of Table 1; takes clips of any length."""

    def forward(self, clip_queries: Tensor | None, frame_vectors: Tensor) -> TemporalOutput:
        """As :meth:`TemporalMemory.forward`; ``clip_queries`` is not used and may be None."""
        num_clips, seq_len, _ = frame_vectors.shape
        attention = frame_vectors.new_full((num_clips, seq_len), 1 / seq_len)
        return TemporalOutput(frame_vectors.mean(dim=1), None, attention)


def encode_pattern(lstm: nn.LSTM, clip_queries: Tensor) -> Tensor:
    """The temporal context q^t of each clip (Eq. 4): the last hidden state, (B, L, D) → (B, D)."""
    hidden: Tensor
    _, (hidden, _) = lstm(clip_queries)  # hidden (1, B, D)
    return hidden[0]


def _check_clips(clip_queries: Tensor, frame_vectors: Tensor, seq_len: int) -> None:
    if frame_vectors.dim() != 3 or clip_queries.shape != frame_vectors.shape:
        raise ValueError(
            'expected clip_queries and frame_vectors of one shape (B, L, D), '
            f'got {tuple(clip_queries.shape)} and {tuple(frame_vectors.shape)}'
        )
    if frame_vectors.shape[1] != seq_len:
        raise ValueError(
            f'expected clips of {seq_len} frames (video.seq_len), got {frame_vectors.shape[1]}'
        )
