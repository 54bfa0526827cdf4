"""CSA: embeddings of pairs of snippets → same or different → one distance of two tracklets.

The matcher, the loss that trains it and the competitive aggregation of ``csa.py``, whose header has
the paper and the origin of each part. Letters: P probe and G gallery snippets, d channels of an
embedding.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Matcher(nn.Module):
    """delta = (e(p) - e(g|p))^2, (P, G, d) → logits z (P, G, 2) of different and of same."""

    def __init__(self, dim: int):
        super().__init__()
        self.norm = nn.BatchNorm1d(dim)
        self.linear = nn.Linear(dim, 2)
        nn.init.normal_(self.linear.weight, std=0.001)
        nn.init.zeros_(self.linear.bias)

    def forward(self, delta: Tensor) -> Tensor:
        logits: Tensor = self.linear(self.norm(delta.flatten(0, 1)))  # (P*G, 2)
        return logits.view(*delta.shape[:2], 2)

    def as_weights(self) -> tuple[Tensor, Tensor]:
        """Compute alpha (d,) and c: in eval mode z0 - z1 = c + sum_i alpha_i delta_i."""
        norm, (different, same), bias = self.norm, self.linear.weight, self.linear.bias
        assert norm.running_mean is not None and norm.running_var is not None
        scale = norm.weight / (norm.running_var + norm.eps).sqrt()
        shifted = norm.bias - scale * norm.running_mean
        return (different - same) * scale, (different - same) @ shifted + bias[0] - bias[1]


def weighted_squares(probe: Tensor, gallery: Tensor, alpha: Tensor) -> Tensor:
    """sum_c alpha_c (p_c - g_c)^2 of (P, d) and (G, d) → (P, G), by matrix products alone.

    alpha (d,) may be negative: it is no squared distance.
    """
    squares = probe.square() @ alpha, gallery.square() @ alpha
    return squares[0][:, None] + squares[1] - 2 * (probe * alpha) @ gallery.T


def verification_loss(log_odds: Tensor, same: Tensor, negative_weight: float = 3.0) -> Tensor:
    """Compute the binary cross-entropy of P(same) of pairs, weighted and summed.

    Args:
        log_odds: of P(same), (P, G).
        same: bool, the pairs of one person, (P, G).
        negative_weight: of all other pairs together, against those of one person together.

    Returns:
        Scalar; the weights of the pairs sum to 1/10.
    """
    positive = same.to(log_odds)
    share = positive.sum() / (1 - positive).sum().clamp(min=1)
    weights = positive + negative_weight * share * (1 - positive)
    weights = weights / (10 * weights.sum())
    return F.binary_cross_entropy_with_logits(log_odds, positive, weights, reduction='sum')


def aggregate(different: Tensor, percentile: float = 20.0) -> Tensor:
    """Competitive aggregation: P(different) of all snippet pairs (..., n) → distances (...).

    The mean of the entries at or below a percentile. One between two entries cuts off what the
    lower of them does, so the percentile itself is not computed.
    """
    nearest = _nearest(different, percentile)
    return torch.where(nearest, different, 0).sum(dim=-1) / nearest.sum(dim=-1)


def aggregate_logits(logits: Tensor, percentile: float = 20.0) -> Tensor:
    """:func:`aggregate` from logits of P(different) to the logit of the distance.

    It ranks alike, and tells far pairs apart whose P(different) rounds to 1; that of one pair is
    its own.
    """
    others = ~_nearest(logits, percentile)
    parts = (F.logsigmoid(z).masked_fill(others, -torch.inf) for z in (logits, -logits))
    different, same = (part.logsumexp(dim=-1) for part in parts)
    return different - same


def _nearest(entries: Tensor, percentile: float) -> Tensor:
    below = int(percentile * (entries.shape[-1] - 1) / 100)  # entries before the last that counts
    return entries <= entries.kthvalue(below + 1, dim=-1, keepdim=True).values
