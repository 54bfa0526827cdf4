"""Features and logits with identities → the identification terms of Sec. 3.3."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def batch_hard_triplet_loss(features: Tensor, pids: Tensor, margin: float | None = None) -> Tensor:
    """Batch-hard triplet loss with Euclidean distances (Hermans et al., used in Sec. 3.3).

    For every anchor: its farthest positive against its nearest negative. The anchor counts as its
    own positive (distance 0), so an identity with one sample contributes its negative alone.

    Args:
        features: shape (B, D).
        pids: identities, shape (B,).
        margin: ``None`` is the soft margin, softplus(positive - negative), of the
            authors' recipe; a number is the hinge.

    Returns:
        Scalar, the mean over anchors.

    Raises:
        ValueError: shapes that do not fit, or a batch with fewer than two identities; on a GPU,
            where to look at identities would be to wait for them, its loss is NaN instead.
    """
    _check(features, pids)
    # exact differences: the matrix-product shortcut loses half the digits between near features,
    # and its gradient at equal features (a tracklet drawn twice) is not finite
    distances = torch.cdist(
        features, features, compute_mode='donot_use_mm_for_euclid_dist'
    )  # (B, B)
    return _batch_hard(distances, pids, margin)


def cosine_triplet_loss(features: Tensor, pids: Tensor, margin: float | None = None) -> Tensor:
    """:func:`batch_hard_triplet_loss` with minus cosine as the distance (TCLNet).

    A margin is one of cosines, which lie between -1 and 1.
    """
    _check(features, pids)
    unit = F.normalize(features, dim=1)
    return _batch_hard(-unit @ unit.T, pids, margin)


def _check(features: Tensor, pids: Tensor) -> None:
    if features.dim() != 2 or pids.shape != features.shape[:1]:
        raise ValueError(
            'expected features of shape (B, D) and pids of shape (B,), '
            f'got {tuple(features.shape)} and {tuple(pids.shape)}'
        )


def _batch_hard(distances: Tensor, pids: Tensor, margin: float | None) -> Tensor:
    """Of distances (B, B)."""
    same = pids[:, None] == pids[None, :]  # (B, B)
    if not same.is_cuda and same.all():
        raise ValueError('the triplet loss needs two identities in a batch, got one')
    hardest_positive = distances.masked_fill(~same, -torch.inf).amax(dim=1)
    hardest_negative = distances.masked_fill(same, torch.inf).amin(dim=1)
    # the second term is 0, and NaN without a negative
    difference = hardest_positive - hardest_negative + 0 * hardest_negative
    if margin is None:
        return F.softplus(difference).mean()
    return (difference + margin).clamp(min=0).mean()


class BatchHardTripletLoss(nn.Module):
    """:func:`batch_hard_triplet_loss` with its margin kept."""

    def __init__(self, margin: float | None = None):
        super().__init__()
        self.margin = margin

    def forward(self, features: Tensor, pids: Tensor) -> Tensor:
        return batch_hard_triplet_loss(features, pids, self.margin)
