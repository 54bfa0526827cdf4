"""A trained encoder → one for testing whose batch norms are part of its convolutions.

In eval mode BN is affine with fixed numbers, so that conv and BN are one convolution with a bias:
the same features up to float32 rounding, and nothing reads and writes a map a second time.
"""

import contextlib
import copy
from collections.abc import Callable, Iterator
from typing import Any, cast

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils.fusion import fuse_conv_bn_weights

from .encoder import Encoder


class FoldedEncoders:
    """Every :class:`Encoder` of a model, folded, to stand in for the model's own in a block."""

    def __init__(self, model: nn.Module):
        self.places = [
            (parent, name, child, fold_batch_norms(child))
            for parent in model.modules()
            for name, child in parent.named_children()
            if isinstance(child, Encoder)
        ]

    def refold(self) -> None:
        """Take up the weights and statistics of now."""
        for _, _, encoder, folded in self.places:
            refold(folded, encoder)

    def compile(self, backend: str | Callable[..., Any]) -> None:
        """Compile each, in place."""
        for *_, folded in self.places:
            folded.compile(backend=backend)

    @contextlib.contextmanager
    def in_model(self) -> Iterator[None]:
        """In the block the model encodes by the folded copies."""
        try:
            for parent, name, _, folded in self.places:
                setattr(parent, name, folded)
            yield
        finally:
            for parent, name, encoder, _ in self.places:
                setattr(parent, name, encoder)


def fold_batch_norms(encoder: Encoder) -> Encoder:
    """A copy of an encoder, in eval mode, without batch norms.

    Args:
        encoder: with the ResNet's layers of torchvision.

    Returns:
        Of the same device and memory format; :func:`refold` brings it up to date.
    """
    folded = copy.deepcopy(encoder).eval().requires_grad_(False)
    for conv_name, norm_name in conv_norm_pairs(folded):
        conv = cast(nn.Conv2d, folded.get_submodule(conv_name))
        conv.bias = nn.Parameter(conv.weight.new_zeros(conv.out_channels), requires_grad=False)
        parent, _, name = norm_name.rpartition('.')
        setattr(folded.get_submodule(parent), name, nn.Identity())
    refold(folded, encoder)
    return folded


@torch.no_grad()
def refold(folded: Encoder, encoder: Encoder) -> None:
    """Give the result of :func:`fold_batch_norms` the weights and statistics of now, in place."""
    for conv_name, norm_name in conv_norm_pairs(encoder):
        conv = cast(nn.Conv2d, encoder.get_submodule(conv_name))
        norm = cast(_BatchNorm, encoder.get_submodule(norm_name))
        target = cast(nn.Conv2d, folded.get_submodule(conv_name))
        assert norm.running_mean is not None and norm.running_var is not None
        weight, bias = fuse_conv_bn_weights(
            conv.weight,
            conv.bias,
            norm.running_mean,
            norm.running_var,
            norm.eps,
            norm.weight,
            norm.bias,
        )
        target.weight.copy_(weight)
        assert target.bias is not None
        target.bias.copy_(bias)


def conv_norm_pairs(encoder: nn.Module) -> list[tuple[str, str]]:
    """Names of every convolution and of the batch norm behind it.

    In torchvision's ResNet they are registered one after the other, and nowhere else is a batch
    norm behind a convolution; a test folds every backbone.
    """
    names, last = [], ''
    for name, module in encoder.named_modules():
        if isinstance(module, _BatchNorm):
            names.append((last, name))
        if isinstance(module, nn.Conv2d):
            last = name
    return names
