"""Split convolutional networks into the stages of an encoder, by one row of :data:`FAMILIES` each.

A row tells where the stages of a network are, how its last block computes queries, and which names
its weights have in files. Everything else (channels, map sizes, which batch norms can be folded)
is found by running the stages on the meta device.
"""

import copy
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeAlias

import torchvision
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, Bottleneck

from .map_shapes import named_parts

Block: TypeAlias = BasicBlock | Bottleneck
Query: TypeAlias = Callable[[Any, Tensor, bool], Tensor]


class Stages(NamedTuple):
    """A network in parts; architectures may insert modules of their own between them.

    Maps of conv2, conv3 and conv4 have a quarter, an eighth and a sixteenth of the frame's height
    and width; maps of conv5 have as many positions as those of conv4.
    """

    stem: list[nn.Module]
    conv2: list[nn.Module]  # blocks, as of the other stages
    conv3: list[nn.Module]
    conv4: list[nn.Module]
    conv5: list[nn.Module]  # the last stage, at stride 1


@dataclass(frozen=True, eq=False)
class Family:
    """Networks with the same structure, and how to build an encoder from them."""

    names: tuple[str, ...]
    """Names of the networks in torchvision."""

    stages: Callable[[Any], Stages]
    """Function that splits a network into its stages."""

    query: Query
    """(last block, maps (T, C, H, W), pooled) → the output of the block without its last
    activation. With ``pooled``, maps may be averaged over the positions, (T, D, 1, 1), before
    layers that are linear in eval mode."""

    activation: str
    """Type of the last activation of a block, which f^o has and queries lack; '' if none."""

    shortened: bool
    """Whether layers follow the average of a pooled query."""

    class_scores: str
    """Pattern (for ``re.match``) of the names of weights that an encoder does not use."""

    options: Mapping[str, Any] = field(default_factory=dict)
    """Return the arguments of torchvision's constructor."""

    own_name: Callable[[str], str] = str
    """Function from a weight's name in files of other programs to the network's own name."""

    activation_name: str = ''
    """Name, within the last block, of the activation to remove for queries; '' if ``query`` leaves
    it out."""

    def query_head(self, last_stage: nn.Sequential) -> nn.Sequential:
        """Return a copy of the last stage for :attr:`query`."""
        head = copy.deepcopy(last_stage)
        if self.activation_name:
            parent, _, name = self.activation_name.rpartition('.')
            setattr(head[-1].get_submodule(parent), name, nn.Identity())
        return head


# --- the stages of each family ---


def resnet_stages(network: Any) -> Stages:
    """Split a ResNet, ResNeXt or Wide ResNet."""
    stem = [network.conv1, network.bn1, network.relu, network.maxpool]
    stages = (network.layer1, network.layer2, network.layer3, network.layer4)
    return with_stride_one(Stages(stem, *(list(stage) for stage in stages)))


def regnet_stages(network: Any) -> Stages:
    """Split a RegNet."""
    stages = (list(stage) for stage in network.trunk_output)
    return with_stride_one(Stages([network.stem], *stages))


def mobilenet_stages(network: Any) -> Stages:
    """Split a MobileNetV2; the convolution before the class scores is the last block."""
    blocks = list(network.features)
    cuts = (0, 2, 4, 7, 14, len(blocks))
    return with_stride_one(Stages(*(blocks[a:b] for a, b in zip(cuts, cuts[1:], strict=False))))


def efficientnet_stages(network: Any) -> Stages:
    """Split an EfficientNet; the convolution before the class scores is the last block."""
    first, one, two, three, four, five, six, seven, last = network.features
    stages = ([*two], [*three], [*four, *five], [*six, *seven, last])
    return with_stride_one(Stages([first, *one], *stages))


def convnext_stages(network: Any) -> Stages:
    """Split a ConvNeXt; the convolution that halves a map belongs to the block after it."""
    stem, first, *others = network.features
    stages = [list(first)]
    for halve, (head, *rest) in zip(others[::2], others[1::2], strict=True):
        stages.append([nn.Sequential(halve, head), *rest])
    norm, conv = others[-2]
    conv.stride = (1, 1)  # an even kernel: padding by one row and one column keeps the size
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
    """Run a ResNet block; after the last but one ReLU it is linear, so a 1x1 takes pooled maps."""
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
    """Run a RegNet block, pooled as the bottleneck of a ResNet."""
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
    """Run a 1x1 convolution with batch norm on the pooled map, without its activation."""
    conv, norm, _ = block
    before: Tensor = norm(conv(_average(maps) if pooled else maps))
    return before


def plain_query(block: Any, maps: Tensor, pooled: bool) -> Tensor:
    """Run a block that does not end in an activation."""
    output: Tensor = block(maps)
    return output


def _average(maps: Tensor) -> Tensor:
    return maps.mean(dim=(2, 3), keepdim=True)


# --- the table ---


def mobilenet_name(name: str) -> str:
    """Translate a weight's name of the first MobileNetV2 code, which numbers layers of a block.

    >>> mobilenet_name('features.2.conv.4.bias'), mobilenet_name('features.1.conv.3.weight')
    ('features.2.conv.1.1.bias', 'features.1.conv.1.weight')
    """
    found = re.fullmatch(r'(.*features\.(\d+)\.conv)\.(\d)\.(\w+)', name)
    if found is None:
        return name
    block, index, layer, leaf = found.groups()
    of_first = {'0': '0.0', '1': '0.1', '3': '1', '4': '2'}  # it has no expansion
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
# no stochastic depth: the recipe has no such regularisation for other encoders
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
    """A network and its modules as the parts of an encoder.

    Attributes:
        name: torchvision's name, or ``timm:`` and timm's.
        family: the structure of the network.
        module: the whole network with class scores.
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
        theirs = {id(tensor): name for name, tensor in named_parts(self.module)}
        parts = {'trunk': self.trunk, 'frame_head': self.last_stage}
        return {
            f'{part}.{name}': theirs[id(tensor)]
            for part, module in parts.items()
            for name, tensor in named_parts(module)
        }


def build_network(name: str) -> Network:
    """Build a torchvision network with random weights and stride 1 in its last stage."""
    family = FAMILY_OF[name]
    module = torchvision.models.get_model(name, **family.options)
    return network_of(name, family, module, family.stages(module))


def network_of(name: str, family: Family, module: nn.Module, stages: Stages) -> Network:
    """Return a network with its stages as the parts of an encoder."""
    trunk = nn.Sequential(*stages.stem, *(nn.Sequential(*blocks) for blocks in stages[1:-1]))
    return Network(name, family, module, trunk, nn.Sequential(*stages.conv5))
