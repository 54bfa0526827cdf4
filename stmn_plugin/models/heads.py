"""What follows an encoder: pooling, batch normalisation before a classifier, classifiers.

These run in full precision, also within ``torch.autocast``.
"""

import contextlib
from contextlib import AbstractContextManager

import torch
from torch import Tensor, nn


class BNNeck(nn.BatchNorm1d):
    """Batch normalisation before a classifier, with a bias that stays zero.

    The bias is a buffer: the host sets requires_grad on every parameter in each epoch, which would
    unfreeze a frozen parameter.
    """

    def __init__(self, dim: int):
        super().__init__(dim)
        del self.bias
        self.register_buffer('bias', torch.zeros(dim), persistent=False)

    def reset_parameters(self) -> None:
        self.reset_running_stats()
        nn.init.ones_(self.weight)


def bias_free_classifier(dim: int, num_classes: int) -> nn.Linear:
    """Build a linear layer from features (B, dim) to logits (B, num_classes)."""
    classifier = nn.Linear(dim, num_classes, bias=False)
    nn.init.normal_(classifier.weight, std=0.001)
    return classifier


def global_average(maps: Tensor) -> Tensor:
    """Average over the positions (GAP): (T, D, H, W) → (T, D), at least in float32."""
    return maps.mean(dim=(2, 3), dtype=torch.promote_types(maps.dtype, torch.float32))


def full_precision(device_type: str) -> AbstractContextManager[object]:
    """Disable a surrounding ``torch.autocast`` for a ``with`` block."""
    if not torch.amp.is_autocast_available(device_type):
        return contextlib.nullcontext()
    return torch.autocast(device_type, enabled=False)


def wide(x: Tensor) -> Tensor:
    """Convert half-precision values, as autocast computes them, to float32; keep wider types."""
    return x.to(torch.promote_types(x.dtype, torch.float32))
