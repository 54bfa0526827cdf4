"""Shapes of maps: those of a network, found on the meta device, and those that weights take."""

import contextlib
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn
from torch.func import functional_call

SMALL_FRAME = (64, 64)  # height and width; enough to find the channels of any network


@torch.no_grad()
def shapes_through(blocks: Sequence[nn.Module], shape: tuple[int, ...]) -> list[tuple[int, ...]]:
    """Return the shapes (C, H, W) of the maps after each block, without computing them.

    Args:
        blocks: blocks in the order in which they run.
        shape: (C, H, W) of the input of the first block.
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
    """Put modules into eval mode for a ``with`` block; restore each module's mode afterwards."""
    before = [(module, module.training) for block in blocks for module in block.modules()]
    for module, _ in before:
        module.training = False
    try:
        yield
    finally:
        for module, mode in before:
            module.training = mode


def on_meta(module: nn.Module) -> dict[str, Tensor]:
    """Return a module's parameters and buffers by name, on the meta device."""
    return {name: tensor.detach().to('meta') for name, tensor in named_parts(module)}


def named_parts(module: nn.Module) -> list[tuple[str, Tensor]]:
    """Return a module's parameters, then its buffers, by name."""
    return [*module.named_parameters(), *module.named_buffers()]


def check_sizes(maps: Tensor, letters: str, **sizes: int) -> None:
    """Refuse maps of other sizes than those that a module's weights were built for.

    Args:
        maps: the input of the module.
        letters: a letter for each dimension, such as 'BLCHW'.
        sizes: letter → size.

    Raises:
        ValueError: another number of dimensions, or another size.

    >>> check_sizes(torch.zeros(2, 6, 512, 8, 8), 'BLCHW', H=16, W=8)
    Traceback (most recent call last):
    ...
    ValueError: expected maps of shape (B, L, C, 16, 8), got (2, 6, 512, 8, 8)
    """
    shape = tuple(maps.shape)
    fits = len(shape) == len(letters)
    if fits and all(shape[letters.index(letter)] == size for letter, size in sizes.items()):
        return
    expected = ', '.join(str(sizes.get(letter, letter)) for letter in letters)
    raise ValueError(f'expected maps of shape ({expected}), got {shape}')
