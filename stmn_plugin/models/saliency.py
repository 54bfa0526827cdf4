"""TCLNet's temporal saliency boosting and erasing (TSB and TSE).

R. Hou, H. Chang, B. Ma, S. Shan, X. Chen, "Temporal Complementary Learning for Video Person
Re-Identification", ECCV 2020. Borders and ties are treated as in the released code.

Letters: B clips, L frames, N pairs of frames, C channels, D channels of a learner's output, H W
positions, K = H*W.
"""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .heads import full_precision, global_average, wide

TEMPERATURE = 5.0  # of TSB's softmax
LEAST_ROWS = 4  # minimum height of a map, as up to three rows are erased


# --- TSB, temporal saliency boosting ---


def box_mean(maps: Tensor) -> Tensor:
    """Average each position with those above, left, and above left; zeros outside.

    Args:
        maps: (T, C, H, W).
    """
    return F.avg_pool2d(F.pad(maps, (1, 0, 1, 0)), 2, stride=1)


def boost_weights(maps: Tensor) -> Tensor:
    """Compute a_t(s, k), the weight in frame t of each position k of the other frames s.

    Args:
        maps: X, (B, L, C, H, W), L >= 2.

    Returns:
        (B, L, L, K), sums to 1 over the last two dimensions, 0 at the frame's own positions.
    """
    queries = F.normalize(maps.mean(dim=(3, 4)), dim=2)  # (B, L, C)
    memory = box_mean(maps.flatten(0, 1)).unflatten(0, (-1, maps.shape[1])).flatten(3)
    memory = F.normalize(memory, dim=2)  # (B, L, C, K)
    logits = TEMPERATURE * torch.einsum('btc,bsck->btsk', queries, memory)
    own = torch.eye(maps.shape[1], dtype=torch.bool, device=maps.device).unsqueeze(2)
    logits = logits.masked_fill(own, -torch.inf)
    return logits.flatten(2).softmax(dim=2).view_as(logits)


class SaliencyBoosting(nn.Module):
    """Add to each frame a summary r of similar positions of the others: X_t + BN(W r_t + b).

    Args:
        dim: C.
    """

    def __init__(self, dim: int):
        super().__init__()
        self.linear = _linear(dim, dim)
        self.norm = _silent_norm(dim)

    def forward(self, maps: Tensor) -> Tensor:
        """Boost maps X (B, L, C, H, W), L >= 2; the shape stays the same."""
        with full_precision(maps.device.type):
            values = wide(maps)
            weights = boost_weights(values)
            taken = torch.einsum('btsk,bsck->btc', weights, values.flatten(3))  # r (B, L, C)
            boost = self.norm(self.linear(taken.flatten(0, 1)))  # (B*L, C)
        boost = boost.view(*maps.shape[:3], 1, 1).to(maps.dtype)
        boosted: Tensor = maps + boost
        return boosted


# --- TSE, temporal saliency erasing ---


def erased_rows(correlation: Tensor) -> Tensor:
    """Select the three adjacent rows with the largest sum, the topmost of equal sums.

    Rows outside the map count as 0 and may be among the three; then two rows are erased.

    Args:
        correlation: f, (N, H, W).

    Returns:
        (N, H) bool.
    """
    rows = correlation.mean(dim=2)
    scores = F.pad(rows, (1, 1)).unfold(1, 3, 1).sum(dim=2)  # (N, H)
    middle = scores.argmax(dim=1, keepdim=True)
    distance = torch.arange(rows.shape[1], device=rows.device) - middle
    return distance.abs() <= 1


def kept_weights(correlation: Tensor, erased: Tensor) -> Tensor:
    """Compute the softmax of f (N, H, W) over the positions outside erased rows (N, H), else 0."""
    logits = correlation.masked_fill(erased.unsqueeze(2), -torch.inf)
    return logits.flatten(1).softmax(dim=1).view_as(logits)


class Erased(NamedTuple):
    """The second frame of a pair after erasing."""

    maps: Tensor  # (N, C, H, W) x1', for learner 2
    correlation: Tensor  # (N, H, W) f, with the feature of learner 1
    rows: Tensor  # (N, H) bool


class SaliencyErasing(nn.Module):
    """Erase from a frame the region that the first learner used in the previous frame.

    Args:
        dim: C, channels of the maps.
        found_dim: D, channels of a learner's output.
    """

    def __init__(self, dim: int, found_dim: int):
        super().__init__()
        self.project = nn.Linear(found_dim, dim, bias=False)  # V
        nn.init.normal_(self.project.weight, std=math.sqrt(2 / dim))
        self.linear = _linear(dim, dim)  # U, c
        self.norm = _silent_norm(dim)

    def first(self, maps: Tensor) -> Tensor:
        """Compute x0' = x0 + E(mean of x0 over the positions), the input of learner 1.

        Args:
            maps: x0, (N, C, H, W).
        """
        with full_precision(maps.device.type):
            return maps + self._enhancement(global_average(maps), maps)

    def second(self, maps: Tensor, found: Tensor) -> Erased:
        """Erase rows of the second frame, the input of learner 2.

        Args:
            maps: x1, (N, C, H, W).
            found: y0, output (N, D, H, W) of learner 1; it gets no gradient.
        """
        with full_precision(maps.device.type):
            values = wide(maps)
            vectors = self.project(global_average(found).detach())  # (N, C) V g
            correlation = torch.einsum('nc,nchw->nhw', vectors, values) / math.sqrt(values.shape[1])
            rows = erased_rows(correlation)
            weights = kept_weights(correlation, rows)
            kept = torch.einsum('nhw,nchw->nc', weights, values)
            masked = maps.masked_fill(rows[:, None, :, None], 0)
            return Erased(masked + self._enhancement(kept, maps), correlation, rows)

    def _enhancement(self, vectors: Tensor, maps: Tensor) -> Tensor:
        """Compute E: (N, C) → (N, C, 1, 1) in the type of the maps."""
        enhancement: Tensor = self.norm(self.linear(vectors))
        return enhancement.to(maps.dtype)[:, :, None, None]


def _linear(inputs: int, outputs: int) -> nn.Linear:
    linear = nn.Linear(inputs, outputs)
    nn.init.normal_(linear.weight, std=math.sqrt(2 / outputs))
    nn.init.zeros_(linear.bias)
    return linear


def _silent_norm(dim: int) -> nn.BatchNorm1d:
    """Build a BN whose scale and shift start at 0, so that adding its output changes nothing."""
    norm = nn.BatchNorm1d(dim)
    nn.init.zeros_(norm.weight)
    return norm
