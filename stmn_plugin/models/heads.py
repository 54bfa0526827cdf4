"""What stands between features and losses: batch normalisation before a classifier, classifiers."""

import torch
from torch import nn


class BNNeck(nn.BatchNorm1d):
    """Batch normalisation before a classifier, with a bias that stays zero.

    The bias is a buffer: the host sets requires_grad on every parameter at each epoch, which would
    un-freeze a frozen one.
    """

    def __init__(self, dim: int):
        super().__init__(dim)
        del self.bias
        self.register_buffer('bias', torch.zeros(dim), persistent=False)

    def reset_parameters(self) -> None:
        self.reset_running_stats()
        nn.init.ones_(self.weight)


def bias_free_classifier(dim: int, num_classes: int) -> nn.Linear:
    """Features (B, dim) → logits (B, num_classes)."""
    classifier = nn.Linear(dim, num_classes, bias=False)
    nn.init.normal_(classifier.weight, std=0.001)
    return classifier
