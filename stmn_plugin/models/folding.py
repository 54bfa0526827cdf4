"""Fold batch norms into convolutions to speed up a trained encoder for testing.

In eval mode BN is affine with fixed coefficients, so a convolution and its BN are one convolution
with a bias: features are the same up to float32 rounding, and each map is read and written once
less. This requires that the batch norm alone reads the output of the convolution; other batch
norms remain.
"""

import contextlib
import copy
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils.fusion import fuse_conv_bn_weights
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from .encoder import Encoder
from .map_shapes import SMALL_FRAME, on_meta
from .sync_batch_norm import SyncBatchNorm


class FoldedEncoders:
    """Folded copies of all :class:`Encoder` s of a model, to replace them in a ``with`` block."""

    def __init__(self, model: nn.Module):
        self.places = [
            (parent, name, FoldedEncoder(child))
            for parent in model.modules()
            for name, child in parent.named_children()
            if isinstance(child, Encoder)
        ]

    def refold(self) -> None:
        """Update the copies from the encoders' current weights and statistics."""
        for *_, one in self.places:
            one.refold()

    def compile(self, backend: str | Callable[..., Any]) -> None:
        """Compile each copy, in place."""
        for *_, one in self.places:
            one.folded.compile(backend=backend)

    @contextlib.contextmanager
    def in_model(self) -> Iterator[None]:
        """Let the model use the folded copies in a ``with`` block."""
        try:
            for parent, name, one in self.places:
                setattr(parent, name, one.folded)
            yield
        finally:
            for parent, name, one in self.places:
                setattr(parent, name, one.encoder)


class FoldedEncoder:
    """An encoder with its folded copy in eval mode, on the same device and in the same format.

    Attributes:
        encoder: the original.
        pairs: names of the convolutions and of the batch norms folded into them.
        folded: the copy.
    """

    def __init__(self, encoder: Encoder):
        self.encoder = encoder
        self.folded = copy.deepcopy(encoder).eval().requires_grad_(False)
        self.pairs = conv_norm_pairs(self.folded)
        for conv_name, norm_name in self.pairs:
            conv = cast(nn.Conv2d, self.folded.get_submodule(conv_name))
            if conv.bias is None:
                zeros = conv.weight.new_zeros(conv.out_channels)
                conv.bias = nn.Parameter(zeros, requires_grad=False)
            parent, _, name = norm_name.rpartition('.')
            activation = _activation_of(self.folded.get_submodule(norm_name))
            setattr(self.folded.get_submodule(parent), name, activation)
        self.refold()

    @torch.no_grad()
    def refold(self) -> None:
        """Update the copy from the encoder's current weights and statistics."""
        changed = {name for pair in self.pairs for name in pair}
        own = self.folded.state_dict()
        for name, tensor in self.encoder.state_dict().items():
            if name.rpartition('.')[0] not in changed:
                own[name].copy_(tensor)
        for conv_name, norm_name in self.pairs:
            conv = cast(nn.Conv2d, self.encoder.get_submodule(conv_name))
            norm = cast(_BatchNorm, self.encoder.get_submodule(norm_name))
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
            own[f'{conv_name}.weight'].copy_(weight)
            own[f'{conv_name}.bias'].copy_(bias)


def conv_norm_pairs(encoder: nn.Module) -> list[tuple[str, str]]:
    """Find the convolutions whose output is read by one batch norm only.

    The encoder is run on the meta device, where nothing is computed.

    Args:
        encoder: any, in eval mode.

    Returns:
        Names of each such convolution and its batch norm.
    """
    weights = on_meta(encoder)
    frames = torch.empty(1, 3, *SMALL_FRAME, dtype=next(iter(weights.values())).dtype)
    with torch.no_grad(), _Reading(weights) as reading:
        functional_call(encoder, weights, (frames.to('meta'),))
    return [
        (conv, norm)
        for conv, norm, output in reading.pairs
        if reading.readers[id(output)] == 1
        and _activation_of(encoder.get_submodule(norm)) is not None
    ]


def _activation_of(norm: nn.Module) -> nn.Module | None:
    """Return the activation inside a batch norm, as timm's may have; the identity without one.

    None stands for an unknown kind of batch norm.
    """
    if type(norm) in (nn.BatchNorm2d, nn.SyncBatchNorm, SyncBatchNorm):
        return nn.Identity()
    activation = getattr(norm, 'act', None)
    if not isinstance(activation, nn.Module) or list(activation.parameters()):
        return None
    return activation


class _Reading(TorchFunctionMode):
    """Records, in a ``with`` block, which batch norms read convolutions, and reads of a tensor."""

    def __init__(self, weights: Mapping[str, Tensor]):
        super().__init__()
        self.names = {id(tensor): name.rpartition('.')[0] for name, tensor in weights.items()}
        self.convolved: dict[int, str] = {}
        self.pairs: list[tuple[str, str, Tensor]] = []
        self.readers: Counter[int] = Counter()
        self.kept: list[Any] = []  # keeps objects alive so that ids stay unique

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        read = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
        if any(isinstance(x, Tensor) for x in tree_leaves(result)):  # not a size or type
            self.readers.update({id(x) for x in read})
        self.kept.append(result)
        if func in (torch.conv2d, F.conv2d) and id(args[1]) in self.names:
            self.convolved[id(result)] = self.names[id(args[1])]
        elif func is F.batch_norm and id(args[0]) in self.convolved and id(args[1]) in self.names:
            self.pairs.append((self.convolved[id(args[0])], self.names[id(args[1])], args[0]))
        return result
