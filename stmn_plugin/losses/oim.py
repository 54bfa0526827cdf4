"""Features with identities → Online Instance Matching: a table of features is the classifier.

T. Xiao, S. Li, B. Wang, L. Lin, X. Wang, "Joint Detection and Identification Feature Learning for
Person Search", CVPR 2017. Letters: N samples, I identities, d channels.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def oim_loss(features: Tensor, pids: Tensor, table: Tensor, scale: float = 30.0) -> Tensor:
    """Cross-entropy of scaled inner products with the table.

    Args:
        features: of length 1, (N, d).
        pids: identities, (N,).
        table: a feature of each identity, (I, d); no gradient goes there.
        scale: of the inner products.

    Returns:
        Scalar, the mean over samples.
    """
    return F.cross_entropy(scale * features @ table.T, pids)


@torch.no_grad()
def updated_table(table: Tensor, features: Tensor, pids: Tensor, momentum: float = 0.5) -> Tensor:
    """The table after a batch: one sample after the other moves the row of its identity.

    A row becomes momentum * row + (1 - momentum) * feature, of length 1. Samples of different
    identities do not meet, so the first of each move together, then the second, and so on.

    Args:
        table: (I, d).
        features: (N, d).
        pids: identities, (N,); rows of others stay.
        momentum: what stays of a row.

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
    """How many samples before each are of the same identity: (N,) → (N,), from 0.

    >>> nth_of_identity(torch.tensor([5, 7, 5, 5, 7])).tolist()
    [0, 0, 1, 2, 1]
    """
    return (pids[:, None] == pids).tril(-1).sum(dim=1)


class OIMTable(nn.Module):
    """A row for each identity, zero at the start: a buffer, saved with the weights.

    On many processes each gets the whole batch in the same order, so that all tables stay one.

    Args:
        num_classes: I.
        dim: d.
        scale: of the inner products.
        momentum: what stays of a row when a sample moves it.
    """

    weight: Tensor

    def __init__(self, num_classes: int, dim: int, scale: float = 30.0, momentum: float = 0.5):
        super().__init__()
        self.scale = scale
        self.momentum = momentum
        self.register_buffer('weight', torch.zeros(num_classes, dim))

    def forward(self, features: Tensor, pids: Tensor) -> Tensor:
        """:func:`oim_loss` with the table as it is; in training mode the batch then moves it.

        The authors' code moves it in the backward pass, which gives the same.
        """
        table = self.weight.clone()  # the backward pass needs it as it was
        if self.training:
            self.weight.copy_(updated_table(table, features.detach(), pids, self.momentum))
        return oim_loss(features, pids, table, self.scale)
