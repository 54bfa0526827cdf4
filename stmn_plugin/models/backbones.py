"""Convolutional networks → the stages of an encoder: a row of :data:`FAMILIES` for each family.

A row says where a network's stages lie, how its last block gives queries, and which file names its
weights may have. Everything else (channels, sizes of maps, which batch norms can be folded) is
found by running the stages on the meta device.
"""

import contextlib
import copy
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeAlias

import torch
import torchvision
from torch import Tensor, nn
from torch.func import functional_call
from torchvision.models.resnet import BasicBlock, Bottleneck

Block: TypeAlias = BasicBlock | Bottleneck
Query: TypeAlias = Callable[[Any, Tensor, bool], Tensor]


class Stages(NamedTuple):
    """A network in parts, between which architectures may put modules of their own.

    Maps of conv2, conv3 and conv4 have a quarter, an eighth and a sixteenth of the frame's height
    and width, those of conv5 as many positions as those of conv4.
    """

    stem: list[nn.Module]
    conv2: list[nn.Module]  # blocks, as of the other stages
    conv3: list[nn.Module]
    conv4: list[nn.Module]
    conv5: list[nn.Module]  # the last stage, at stride 1


@dataclass(frozen=True, eq=False)
class Family:
    """What an encoder must know of networks that are built alike."""

    names: tuple[str, ...]
    """Of the networks in torchvision."""

    stages: Callable[[Any], Stages]
    """Network → its stages."""

    query: Query
    """(last block, maps (T, C, H, W), pooled) → its output without its last activation; pooled, it
    may be averaged over the positions, (T, D, 1, 1), before whatever is linear in eval mode."""

    activation: str
    """The last one of the block, which f^o has and queries have not; '' if there is none."""

    shortened: bool
    """Whether something follows the average of a pooled query."""

    class_scores: str
    """Pattern of names (by ``re.match``) of weights that an encoder does not take."""

    options: Mapping[str, Any] = field(default_factory=dict)
    """Of torchvision's constructor."""

    own_name: Callable[[str], str] = str
    """Name of a weight in files of other programs → the network's own."""

    activation_name: str = ''
    """Within the last block, of the activation that heads of queries lack, where ``query`` does not
    leave it out itself."""

    def query_head(self, last_stage: nn.Sequential) -> nn.Sequential:
        """A copy of the last stage for :attr:`query`."""
        head = copy.deepcopy(last_stage)
        if self.activation_name:
            parent, _, name = self.activation_name.rpartition('.')
            setattr(head[-1].get_submodule(parent), name, nn.Identity())
        return head


# --- where stages lie ---


def resnet_stages(network: Any) -> Stages:
    """ResNet, ResNeXt, Wide ResNet."""
    stem = [network.conv1, network.bn1, network.relu, network.maxpool]
    stages = (network.layer1, network.layer2, network.layer3, network.layer4)
    return with_stride_one(Stages(stem, *(list(stage) for stage in stages)))


def regnet_stages(network: Any) -> Stages:
    stages = (list(stage) for stage in network.trunk_output)
    return with_stride_one(Stages([network.stem], *stages))


def mobilenet_stages(network: Any) -> Stages:
    """MobileNetV2: the convolution in front of the class scores is the last block."""
    blocks = list(network.features)
    cuts = (0, 2, 4, 7, 14, len(blocks))
    return with_stride_one(Stages(*(blocks[a:b] for a, b in zip(cuts, cuts[1:], strict=False))))


def efficientnet_stages(network: Any) -> Stages:
    """EfficientNet: as of MobileNetV2."""
    first, one, two, three, four, five, six, seven, last = network.features
    stages = ([*two], [*three], [*four, *five], [*six, *seven, last])
    return with_stride_one(Stages([first, *one], *stages))


def convnext_stages(network: Any) -> Stages:
    """ConvNeXt: the convolution that halves a map belongs to the first block behind it."""
    stem, first, *others = network.features
    stages = [list(first)]
    for halve, (head, *rest) in zip(others[::2], others[1::2], strict=True):
        stages.append([nn.Sequential(halve, head), *rest])
    norm, conv = others[-2]
    conv.stride = (1, 1)  # its kernel is even: one row and one column more keep the size
    stages[-1][0][0] = nn.Sequential(norm, nn.ZeroPad2d((0, 1, 0, 1)), conv)
    return Stages([stem], *stages)


def with_stride_one(stages: Stages) -> Stages:
    """Set the strides of conv5 to 1, in place."""
    for block in stages.conv5:
        for module in block.modules():
            if isinstance(module, nn.Conv2d):
                module.stride = (1, 1)
    return stages


# --- queries: the last block without its last activation ---


def resnet_query(block: Block, maps: Tensor, pooled: bool) -> Tensor:
    """All behind the last but one ReLU is linear: a 1x1 there runs on the pooled map."""
    residual: Tensor = block.bn1(block.conv1(maps))
    if hasattr(block, 'conv3'):  # Bottleneck
        residual = block.relu(block.bn2(block.conv2(block.relu(residual))))
        if pooled:
            residual, maps = _average(residual), _average(maps)
        residual = block.bn3(block.conv3(residual))
    else:  # BasicBlock
        residual = block.bn2(block.conv2(block.relu(residual)))
    return residual + (maps if block.downsample is None else block.downsample(maps))


def regnet_query(block: Any, maps: Tensor, pooled: bool) -> Tensor:
    """As of a ResNet's bottleneck."""
    *inner, last = block.f
    residual = maps
    for layer in inner:
        residual = layer(residual)
    if pooled:
        residual, maps = _average(residual), _average(maps)
    shortcut = maps if block.proj is None else block.proj(maps)
    added: Tensor = shortcut + last(residual)
    return added


def last_convolution_query(block: Any, maps: Tensor, pooled: bool) -> Tensor:
    """Of a 1x1 convolution with batch norm and activation: it runs on the pooled map."""
    conv, norm, _ = block
    before: Tensor = norm(conv(_average(maps) if pooled else maps))
    return before


def plain_query(block: Any, maps: Tensor, pooled: bool) -> Tensor:
    """Of a block that ends in no activation."""
    output: Tensor = block(maps)
    return output


def _average(maps: Tensor) -> Tensor:
    return maps.mean(dim=(2, 3), keepdim=True)


# --- the table ---


def mobilenet_name(name: str) -> str:
    """A name of the first implementation of MobileNetV2, which numbers a block's layers flat.

    >>> mobilenet_name('features.2.conv.4.bias'), mobilenet_name('features.1.conv.3.weight')
    ('features.2.conv.1.1.bias', 'features.1.conv.1.weight')
    """
    found = re.fullmatch(r'(.*features\.(\d+)\.conv)\.(\d)\.(\w+)', name)
    if found is None:
        return name
    block, index, layer, leaf = found.groups()
    of_first = {'0': '0.0', '1': '0.1', '3': '1', '4': '2'}  # which widens nothing
    of_others = {'0': '0.0', '1': '0.1', '3': '1.0', '4': '1.1', '6': '2', '7': '3'}
    return f'{block}.{(of_first if index == "1" else of_others).get(layer, layer)}.{leaf}'


def _regnets(letter: str) -> list[str]:
    return [f'regnet_{letter}_{size}' for size in ('400mf', '800mf', '1_6gf', '3_2gf', '8gf')]


RESNETS = Family(
    (
        *('resnet18', 'resnet34', 'resnet50', 'resnet101', 'resnet152'),
        *('resnext50_32x4d', 'resnext101_32x8d', 'resnext101_64x4d'),
        *('wide_resnet50_2', 'wide_resnet101_2'),
    ),
    resnet_stages,
    resnet_query,
    activation='ReLU',
    shortened=True,
    class_scores=r'fc\.',
)
REGNETS = Family(
    (*_regnets('x'), *_regnets('y')),
    regnet_stages,
    regnet_query,
    activation='ReLU',
    shortened=True,
    class_scores=r'fc\.',
)
MOBILENETS = Family(
    ('mobilenet_v2',),
    mobilenet_stages,
    last_convolution_query,
    activation='ReLU6',
    shortened=True,
    class_scores=r'classifier\.',
    own_name=mobilenet_name,
)
# the recipe drops nothing at random in other encoders, so neither here
EFFICIENTNETS = Family(
    tuple(f'efficientnet_b{n}' for n in range(5)),
    efficientnet_stages,
    last_convolution_query,
    activation='SiLU',
    shortened=True,
    class_scores=r'classifier\.',
    options={'stochastic_depth_prob': 0.0},
)
CONVNEXTS = Family(
    ('convnext_tiny', 'convnext_small', 'convnext_base'),
    convnext_stages,
    plain_query,
    activation='',
    shortened=False,
    class_scores=r'classifier\.',
    options={'stochastic_depth_prob': 0.0},
)
FAMILIES = (RESNETS, REGNETS, MOBILENETS, EFFICIENTNETS, CONVNEXTS)
FAMILY_OF = {name: family for family in FAMILIES for name in family.names}
BACKBONES = tuple(FAMILY_OF)


@dataclass(frozen=True, eq=False)
class Network:
    """A network and its parts in an encoder, which are its own modules.

    Attributes:
        name: torchvision's.
        family: what is known of it.
        module: the whole, with class scores.
        trunk: the layers of the stem, then conv2, conv3 and conv4.
        last_stage: conv5.
    """

    name: str
    family: Family
    module: nn.Module
    trunk: nn.Sequential
    last_stage: nn.Sequential

    @property
    def names(self) -> dict[str, str]:
        """Names of weights within an encoder → torchvision's."""
        theirs = {id(tensor): name for name, tensor in _tensors(self.module)}
        parts = {'trunk': self.trunk, 'frame_head': self.last_stage}
        return {
            f'{part}.{name}': theirs[id(tensor)]
            for part, module in parts.items()
            for name, tensor in _tensors(module)
        }


def build_network(name: str) -> Network:
    """A network of torchvision with random weights, its last stage at stride 1."""
    family = FAMILY_OF[name]
    module = torchvision.models.get_model(name, **family.options)
    return network_of(name, family, module, family.stages(module))


def network_of(name: str, family: Family, module: nn.Module, stages: Stages) -> Network:
    """A network and its stages as the parts of an encoder."""
    trunk = nn.Sequential(*stages.stem, *(nn.Sequential(*blocks) for blocks in stages[1:-1]))
    return Network(name, family, module, trunk, nn.Sequential(*stages.conv5))


def _tensors(module: nn.Module) -> list[tuple[str, Tensor]]:
    return [*module.named_parameters(), *module.named_buffers()]


# --- what the stages themselves say ---

SMALL_FRAME = (64, 64)  # height and width that show the channels of any network


@torch.no_grad()
def shapes_through(blocks: Sequence[nn.Module], shape: tuple[int, ...]) -> list[tuple[int, ...]]:
    """Shapes (C, H, W) of the maps behind each block; nothing is computed.

    Args:
        blocks: one after the other.
        shape: (C, H, W) of what the first one takes.
    """
    like = next((p for block in blocks for p in block.parameters()), torch.empty(()))
    maps = torch.empty(1, *shape, dtype=like.dtype, device='meta')
    shapes = []
    with in_eval_mode(blocks):
        for block in blocks:
            maps = functional_call(block, on_meta(block), (maps,))
            shapes.append(tuple(maps.shape[1:]))
    return shapes


@contextlib.contextmanager
def in_eval_mode(blocks: Sequence[nn.Module]) -> Iterator[None]:
    """In the block; afterwards every module is in the mode in which it was."""
    before = [(module, module.training) for block in blocks for module in block.modules()]
    for module, _ in before:
        module.training = False
    try:
        yield
    finally:
        for module, mode in before:
            module.training = mode


def on_meta(module: nn.Module) -> dict[str, Tensor]:
    """A module's parameters and buffers by name, without their numbers."""
    return {name: tensor.detach().to('meta') for name, tensor in _tensors(module)}
