"""Convert convolutional networks of timm, ``timm:NAME``, to the stages of an encoder.

timm tells which modules of a network compute its feature maps. A network is accepted if running
its modules in order gives its own output, and rejected with a message otherwise.
"""

import difflib
import re
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from stmn_plugin.errors import InputError
from stmn_plugin.extras import require

from .backbones import Family, Network, Stages, network_of, plain_query
from .map_shapes import SMALL_FRAME, in_eval_mode, shapes_through

TIMM = 'timm:'
STRIDES = (4, 8, 16, 32)  # of conv2 to conv5, before the last one's becomes 1


def build_timm_network(name: str, key: str) -> Network:
    """Build a network of timm with random weights and stride 1 in its last stage.

    Args:
        name: ``timm:`` and timm's name.
        key: config key that names it, for errors.

    Raises:
        InputError: timm is not installed or does not know the name, or the network is not a chain
            of stages on maps of a quarter to a 32nd of the frame.
    """
    require('timm')
    import timm  # slow to import, and optional

    own = name.removeprefix(TIMM)
    if not timm.is_model(own):
        near = difflib.get_close_matches(own, timm.list_models(), n=1)
        hint = f'; the nearest is {TIMM}{near[0]}' if near else ''
        raise InputError(f'{key}: timm has no network {own!r}{hint}')
    module: Any = timm.create_model(own)
    cuts = _cuts(module)
    chain = dict(_chain(module, cuts))
    if len(cuts) < len(STRIDES) or any(cut not in chain for cut in cuts):
        raise InputError(f'{key} {name}: it has not the four stages of a convolutional network')
    if not _is_chain(module, list(chain.values()), cuts[-1]):
        raise InputError(f'{key} {name}: its modules are no chain, one after the other')
    stages = _stages(chain, cuts)
    _check_sizes(stages, name, key)
    activation = _last_activation(stages)
    scores = module.default_cfg.get('classifier') or ()
    scores = (scores,) if isinstance(scores, str) else scores
    family = Family(
        (name,),
        lambda _: stages,
        plain_query,
        activation=type(stages.conv5[-1].get_submodule(activation)).__name__ if activation else '',
        shortened=False,
        class_scores='|'.join(rf'{re.escape(one)}\.' for one in scores) or '$.',
        activation_name=activation,
    )
    return network_of(name, family, module, stages)


def _cuts(module: Any) -> list[str]:
    """Return the names of the modules that end conv2, conv3, conv4 and conv5."""
    info = getattr(module, 'feature_info', None) or []
    ends = {one['reduction']: one['module'] for one in info}  # the last of each size
    return [ends[stride] for stride in STRIDES if stride in ends]


def _chain(module: nn.Module, cuts: list[str]) -> Iterator[tuple[str, nn.Module]]:
    """Yield named modules up to the last cut, in the order of their registration."""
    for name, child in module.named_children():
        inside = [cut for cut in cuts if cut.startswith(f'{name}.')]
        parts = (
            [(f'{name}.{inner}', part) for inner, part in child.named_children()]
            if inside
            else [(name, child)]
        )
        for part_name, part in parts:
            yield part_name, part
            if part_name == cuts[-1]:
                return


@torch.no_grad()
def _is_chain(module: Any, chain: list[nn.Module], last: str) -> bool:
    """Return whether running the modules in order gives the last one's output in the network."""
    frames = torch.linspace(-2, 2, 3 * 64 * 64).view(1, 3, 64, 64)
    given: list[Tensor] = []
    hook = module.get_submodule(last).register_forward_hook(lambda *x: given.append(x[2]))
    try:
        with in_eval_mode([module]):
            module.forward_features(frames)
            maps = frames
            for part in chain:
                maps = part(maps)
    except (RuntimeError, TypeError, AttributeError, NotImplementedError):
        return False  # a module does not map a map to a map, or the order differs
    finally:
        hook.remove()
    return torch.equal(maps, given[0])


def _stages(chain: dict[str, nn.Module], cuts: list[str]) -> Stages:
    names = list(chain)
    ends = [names.index(cut) + 1 for cut in cuts]
    starts = [ends[0] - 1, *ends[:-1]]  # modules before the first cut are the stem
    conv2, conv3, conv4, conv5 = (
        [block for name in names[start:end] for block in _blocks(chain[name])]
        for start, end in zip(starts, ends, strict=True)
    )
    conv5 = _with_strides_one([block for block in conv5 if not isinstance(block, nn.Identity)])
    return Stages([chain[name] for name in names[: starts[0]]], conv2, conv3, conv4, conv5)


def _blocks(stage: Any) -> list[nn.Module]:
    """Return the blocks of a stage; the layer that halves the map belongs to the first one."""
    if isinstance(stage, nn.Sequential):
        return list(stage)
    if isinstance(getattr(stage, 'downsample', None), nn.Sequential) and hasattr(stage, 'blocks'):
        first, *rest = stage.blocks  # ConvNeXt
        return [nn.Sequential(*stage.downsample, first), *rest]
    return [stage]


def _with_strides_one(blocks: list[nn.Module]) -> list[nn.Module]:
    """Change the blocks of conv5 so that they keep the map size; convolutions in place."""
    for module in [module for block in blocks for module in block.modules()]:
        if isinstance(module, nn.Conv2d):
            module.stride = (1, 1)
        for name, child in module.named_children():
            if isinstance(child, nn.AvgPool2d):  # in front of a shortcut's 1x1 convolution
                setattr(module, name, nn.Identity())
    first = blocks[0]
    if isinstance(first, nn.Sequential):
        parts: list[nn.Module] = []
        for part in first:
            if isinstance(part, nn.Conv2d) and part.kernel_size == (2, 2):
                parts.append(nn.ZeroPad2d((0, 1, 0, 1)))  # one more row and column keep the size
            parts.append(part)
        blocks = [nn.Sequential(*parts), *blocks[1:]]
    return blocks


def _check_sizes(stages: Stages, name: str, key: str) -> None:
    """Raise InputError unless the maps of the stages have the sizes of an encoder."""
    blocks = [block for stage in stages for block in stage]
    try:
        sizes = [shape[1:] for shape in shapes_through(blocks, (3, *SMALL_FRAME))]
    except RuntimeError:  # a shortcut and its residual differ in size
        sizes = []
    ends = [sum(map(len, stages[: i + 1])) - 1 for i in range(1, len(stages))]
    expected = [(SMALL_FRAME[0] // stride,) * 2 for stride in (4, 8, 16, 16)]
    if not sizes or [sizes[end] for end in ends] != expected:
        raise InputError(f'{key} {name}: its last stage cannot have stride 1')


@torch.no_grad()
def _last_activation(stages: Stages) -> str:
    """Return the name, in the last block, of the activation that ends it; '' if there is none."""
    blocks = [block for stage in stages for block in stage]
    maps = torch.linspace(-2, 2, 3 * 64 * 64).view(1, 3, 64, 64)
    given: list[tuple[str, Tensor]] = []
    hooks = [
        module.register_forward_hook(lambda *x, name=name: given.append((name, x[2])))
        for name, module in blocks[-1].named_modules()
        if name and not list(module.parameters()) and not list(module.children())
    ]
    try:
        with in_eval_mode(blocks):
            for block in blocks:
                maps = block(maps)
            last = [name for name, output in given if output is maps]
            for name in reversed(last):
                if not torch.equal(blocks[-1].get_submodule(name)(-torch.ones(1)), -torch.ones(1)):
                    return name
    finally:
        for hook in hooks:
            hook.remove()
    return ''
