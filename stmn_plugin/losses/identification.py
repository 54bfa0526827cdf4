"""Triplet losses: batch-hard (Sec. 3.3), with cosine distances, and over all triplets."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def batch_hard_triplet_loss(features: Tensor, pids: Tensor, margin: float | None = None) -> Tensor:
    """Compute the batch-hard triplet loss with Euclidean distances (Hermans et al., Sec. 3.3).

    Each anchor compares its farthest positive with its nearest negative. The anchor counts as its
    own positive (distance 0), so an identity with one sample contributes only its negative.

    Args:
        features: shape (B, D).
        pids: identities, shape (B,).
        margin: ``None`` is the soft margin, softplus(positive - negative), of the
            authors' recipe; a number is the margin of the hinge.

    Returns:
        Scalar, the mean over anchors.

    Raises:
        ValueError: shapes that do not fit, or a batch with fewer than two identities. On a GPU,
            where the check would wait for the device, such a batch gives NaN instead.
    """
    _check(features, pids)
    return _batch_hard(_distances(features), pids, margin)


def cosine_triplet_loss(features: Tensor, pids: Tensor, margin: float | None = None) -> Tensor:
    """Compute :func:`batch_hard_triplet_loss` with the negative cosine as distance (TCLNet).

    Distances are between -1 and 1; the margin is on that scale.
    """
    _check(features, pids)
    unit = F.normalize(features, dim=1)
    return _batch_hard(-unit @ unit.T, pids, margin)


def all_triplets_loss(features: Tensor, pids: Tensor, margin: float = 0.2) -> Tensor:
    """Compute the triplet loss over every triplet of a batch, with squared distances.

    The sum of [d(a, p)^2 - d(a, n)^2 + margin]_+ is divided by the number of triplets above 0;
    without such a triplet the loss is 0 (Part-Aligned's code; FaceNet's hinge).

    Args:
        features: shape (B, D).
        pids: identities, shape (B,).
        margin: margin of the hinge.

    Returns:
        Scalar.

    Raises:
        ValueError: shapes that do not fit.
    """
    _check(features, pids)
    distances = _distances(features).square()  # (B, B)
    same = pids[:, None] == pids[None, :]
    positive = same & ~torch.eye(len(pids), dtype=torch.bool, device=pids.device)
    triplets = positive.unsqueeze(2) & ~same.unsqueeze(1)  # (B, B, B) anchor, positive, negative
    hinge = (distances.unsqueeze(2) - distances.unsqueeze(1) + margin).clamp(min=0)
    hinge = hinge.where(triplets, 0)
    return hinge.sum() / (hinge > 0).sum().clamp(min=1)


def _check(features: Tensor, pids: Tensor) -> None:
    if features.dim() != 2 or pids.shape != features.shape[:1]:
        raise ValueError(
            'expected features of shape (B, D) and pids of shape (B,), '
            f'got {tuple(features.shape)} and {tuple(pids.shape)}'
        )


def _distances(features: Tensor) -> Tensor:
    """Compute Euclidean distances (B, B) of features (B, D) from their differences.

    The shortcut by a matrix product loses half the digits for similar features, and its gradient
    for equal features (a tracklet drawn twice) is not finite.
    """
    return torch.cdist(features, features, compute_mode='donot_use_mm_for_euclid_dist')


def _batch_hard(distances: Tensor, pids: Tensor, margin: float | None) -> Tensor:
    """Compute the batch-hard loss of distances (B, B)."""
    same = pids[:, None] == pids[None, :]  # (B, B)
    if not same.is_cuda and same.all():
        raise ValueError('the triplet loss needs two identities in a batch, got one')
    hardest_positive = distances.masked_fill(~same, -torch.inf).amax(dim=1)
    hardest_negative = distances.masked_fill(same, torch.inf).amin(dim=1)
    # the last term is 0, or NaN without a negative
    difference = hardest_positive - hardest_negative + 0 * hardest_negative
    if margin is None:
        return F.softplus(difference).mean()
    return (difference + margin).clamp(min=0).mean()


class BatchHardTripletLoss(nn.Module):
    """:func:`batch_hard_triplet_loss` as a module that stores the margin."""

    def __init__(self, margin: float | None = None):
        super().__init__()
        self.margin = margin

    def forward(self, features: Tensor, pids: Tensor) -> Tensor:
        return batch_hard_triplet_loss(features, pids, self.margin)
