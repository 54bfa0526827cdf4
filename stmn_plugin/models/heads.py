"""Layers between features and losses: batch normalisation before a classifier, and classifiers."""

import torch
from torch import nn


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
