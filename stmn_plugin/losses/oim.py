"""Online Instance Matching, a classifier whose weights are a table of features of identities.

T. Xiao, S. Li, B. Wang, L. Lin, X. Wang, "Joint Detection and Identification Feature Learning for
Person Search", CVPR 2017. Letters: N samples, I identities, d channels.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def oim_loss(features: Tensor, pids: Tensor, table: Tensor, scale: float = 30.0) -> Tensor:
    """Compute the cross-entropy of scaled inner products with the table.

    Args:
        features: vectors of length 1, (N, d).
        pids: identities, (N,).
        table: a feature of each identity, (I, d); it gets no gradient.
        scale: factor of the inner products.

    Returns:
        Scalar, the mean over samples.
    """
    return F.cross_entropy(scale * features @ table.T, pids)


@torch.no_grad()
def updated_table(table: Tensor, features: Tensor, pids: Tensor, momentum: float = 0.5) -> Tensor:
    """Update the table by a batch; samples change the rows of their identities in order.

    A row becomes momentum * row + (1 - momentum) * feature, normalised to length 1. Samples of
    different identities are independent, so the first of each are processed together, then the
    second of each, and so on.

    Args:
        table: (I, d).
        features: (N, d).
        pids: identities, (N,); rows of other identities do not change.
        momentum: weight of the old row.

    Returns:
        (I, d), a new tensor.
    """
    table = table.clone()
    nth = nth_of_identity(pids)
    for turn in range(int(nth.max()) + 1 if len(nth) else 0):
        now = nth == turn
        rows = pids[now]
        moved = momentum * table[rows] + (1 - momentum) * features[now].to(table.dtype)
        table[rows] = F.normalize(moved, dim=1)
    return table


def nth_of_identity(pids: Tensor) -> Tensor:
    """Return the index of every sample within its identity, from 0: (N,) → (N,).

    >>> nth_of_identity(torch.tensor([5, 7, 5, 5, 7])).tolist()
    [0, 0, 1, 2, 1]
    """
    return (pids[:, None] == pids).tril(-1).sum(dim=1)


class OIMTable(nn.Module):
    """A table with a row for each identity, initially zero; a buffer, saved with the weights.

    With several processes each gets the whole batch in the same order, so all tables stay equal.

    Args:
        num_classes: I.
        dim: d.
        scale: factor of the inner products.
        momentum: weight of the old row in an update.
    """

    weight: Tensor

    def __init__(self, num_classes: int, dim: int, scale: float = 30.0, momentum: float = 0.5):
        super().__init__()
        self.scale = scale
        self.momentum = momentum
        self.register_buffer('weight', torch.zeros(num_classes, dim))

    def forward(self, features: Tensor, pids: Tensor) -> Tensor:
        """Compute :func:`oim_loss`, then, in training mode, update the table by the batch.

        The authors' code updates it in the backward pass, with the same result.
        """
        table = self.weight.clone()  # the backward pass needs the old table
        if self.training:
            self.weight.copy_(updated_table(table, features.detach(), pids, self.momentum))
        return oim_loss(features, pids, table, self.scale)
