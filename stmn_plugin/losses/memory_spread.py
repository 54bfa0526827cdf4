"""The memory spread loss (Eq. 9), which makes a memory use all of its items."""

from torch import Tensor, nn

REDUCTIONS = ('sum', 'mean')


def memory_spread_loss(probs: Tensor, margin: float = 0.3, reduction: str = 'sum') -> Tensor:
    """Compute the memory spread loss of one memory (Eq. 9).

    Each item's smallest and largest matching probability over all accesses of the mini-batch
    should differ by at least the margin alpha, so that no item is always or never addressed.

    Args:
        probs: matching probabilities A, shape (P, items): P = B*L*K accesses of the
            spatial memory, P = B of the temporal one.
        margin: alpha.
        reduction: 'sum' over the items as in Eq. 9, 'mean' as in the authors' code.

    Returns:
        Scalar.

    Raises:
        ValueError: probs are not two-dimensional or are empty, or the reduction is unknown.
    """
    if probs.dim() != 2 or len(probs) == 0:
        raise ValueError(f'expected probs of shape (P, items), got {tuple(probs.shape)}')
    if reduction not in REDUCTIONS:
        raise ValueError(f'reduction must be one of {REDUCTIONS}, got {reduction!r}')
    # min/max along a dimension give the whole gradient to one access, also if several are equal
    smallest, largest = probs.min(dim=0).values, probs.max(dim=0).values
    per_item = (smallest - largest + margin).clamp(min=0)  # (items,)
    return per_item.sum() if reduction == 'sum' else per_item.mean()


class MemorySpreadLoss(nn.Module):
    """:func:`memory_spread_loss` as a module that stores its settings."""

    def __init__(self, margin: float = 0.3, reduction: str = 'sum'):
        super().__init__()
        if reduction not in REDUCTIONS:
            raise ValueError(f'reduction must be one of {REDUCTIONS}, got {reduction!r}')
        self.margin = margin
        self.reduction = reduction

    def forward(self, probs: Tensor) -> Tensor:
        return memory_spread_loss(probs, self.margin, self.reduction)
