"""Features with identities → the hinge over all triplets of a batch, the mean of those active."""

import torch
from torch import Tensor


def all_triplets_loss(features: Tensor, pids: Tensor, margin: float = 0.2) -> Tensor:
    """Triplet loss over every (anchor, positive, negative) of a batch, squared distances.

    The sum of [d(a, p)^2 - d(a, n)^2 + margin]_+ over the number of triplets above 0; no triplet,
    or none above 0, gives 0 (Part-Aligned's code; FaceNet's hinge).

    Args:
        features: shape (B, D).
        pids: identities, shape (B,).
        margin: of the hinge.

    Returns:
        Scalar.

    Raises:
        ValueError: shapes that do not fit.
    """
    if features.dim() != 2 or pids.shape != features.shape[:1]:
        raise ValueError(
            'expected features of shape (B, D) and pids of shape (B,), '
            f'got {tuple(features.shape)} and {tuple(pids.shape)}'
        )
    # exact differences, and a finite gradient at equal features
    distances = torch.cdist(
        features, features, compute_mode='donot_use_mm_for_euclid_dist'
    ).square()  # (B, B)
    same = pids[:, None] == pids[None, :]
    positive = same & ~torch.eye(len(pids), dtype=torch.bool, device=pids.device)
    triplets = positive.unsqueeze(2) & ~same.unsqueeze(1)  # (B, B, B) anchor, positive, negative
    hinge = (distances.unsqueeze(2) - distances.unsqueeze(1) + margin).clamp(min=0)
    hinge = hinge.where(triplets, 0)
    return hinge.sum() / (hinge > 0).sum().clamp(min=1)
