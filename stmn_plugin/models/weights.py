"""Tensors by name, from anywhere → the weights of a model, if they are of the same network."""

import re
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from stmn_plugin.errors import InputError

from .weight_files import not_finite

CLASSIFIER = re.compile(r'(^|\.)classifier[^.]*(\.\d+)?\.weight$')
NOTHING = '$.'  # a pattern that no name has
# parts of names that come and go as a model is wrapped: DataParallel and DDP, torch.compile, FSDP
WRAPPERS = {'module', '_orig_mod', '_fsdp_wrapped_module', '_checkpoint_wrapped_module'}


def fitted_weights(
    model: nn.Module, tensors: Mapping[str, Tensor], path: str, skip: str = ''
) -> dict[str, Tensor]:
    """What a model's ``load_state_dict`` takes, made of tensors by names that may be wrapped.

    Args:
        model: of the same architecture.
        tensors: of a file of any program, in any floating-point type.
        path: of the file, for errors.
        skip: pattern of names (by ``re.match``) that may be missing, unknown or of another shape;
            the model keeps its own then.

    Raises:
        InputError: weights of another architecture, type or setting, or not finite.
    """
    own = model.state_dict()
    given = own_names(tensors, own, path)
    _check_settings(model, given, own, path)
    fitting = {key: given[key] for key in own if key in given and _fits(given[key], own[key])}
    # counters of batches, which old files lack and which are rounded in others, change nothing
    skipped = re.compile(rf'{skip or NOTHING}|.*\bnum_batches_tracked$')
    unfit = [key for key in {**own, **given} if key not in fitting and not skipped.match(key)]
    if unfit:
        raise InputError(
            f'{path} holds another architecture than {type(model).__name__} as configured: '
            f'{len(unfit)} tensors are missing, unknown or of another shape or type, first '
            f'{unfit[0]}'
        )
    converted = {key: tensor.detach().to(own[key].dtype) for key, tensor in fitting.items()}
    check_finite(converted, path)
    return {**own, **converted}


def largest_classifier(tensors: Mapping[str, Tensor]) -> int:
    """Training identities, by the largest classifier among tensors of a model; 1 without one."""
    rows = [len(tensor) for name, tensor in tensors.items() if CLASSIFIER.search(name)]
    return max(rows, default=1)


def own_names(
    tensors: Mapping[str, Tensor], own: Mapping[str, Tensor], path: str
) -> dict[str, Tensor]:
    """Tensors under the names that a model has for them.

    Wrappers may have come or gone on either side, and all names of the file may stand below one
    name more, that of the model in a bigger module.
    """
    plain = {_unwrapped(key): key for key in own}
    if len(plain) < len(own):  # two of its names differ by what a wrapper is called
        return dict(tensors)
    named = without_wrappers(tensors, path)
    while named and not named.keys() & plain.keys():
        above = {key.partition('.')[0] for key in named if '.' in key}
        if len(above) != 1 or not all('.' in key for key in named):
            break
        named = {key.partition('.')[2]: tensor for key, tensor in named.items()}
    return {plain.get(key, key): tensor for key, tensor in named.items()}


def without_wrappers(tensors: Mapping[str, Tensor], path: str) -> dict[str, Tensor]:
    """Tensors by name without what wrappers of a model add to it.

    Raises:
        InputError: the file at ``path`` holds a name twice, with and without a wrapper.
    """
    named: dict[str, Tensor] = {}
    for key, tensor in tensors.items():
        if named.setdefault(_unwrapped(key), tensor) is not tensor:
            raise InputError(f'{path} holds {_unwrapped(key)} twice, with and without a wrapper')
    return named


def _unwrapped(key: str) -> str:
    return '.'.join(part for part in key.split('.') if part not in WRAPPERS)


def _check_settings(
    model: nn.Module, given: Mapping[str, Tensor], own: Mapping[str, Tensor], path: str
) -> None:
    """InputError for a setting that the model says its tensors' shapes tell, if it differs."""
    for setting, places in getattr(model, 'settings_in_shapes', {}).items():
        for key, dimension in places.items():
            if key in own and is_dense(given.get(key)) and given[key].dim() == own[key].dim():
                trained, here = given[key].shape[dimension], own[key].shape[dimension]
                if trained != here:
                    raise InputError(
                        f'{path} was trained with {setting} {trained}, the config says {here}'
                    )


def _fits(tensor: Tensor, like: Tensor) -> bool:
    """Whether a tensor can take another's place: any precision of the same kind of number."""
    return is_dense(tensor) and tensor.shape == like.shape and _kind(tensor) == _kind(like)


def is_dense(value: object) -> bool:
    """Whether this is a tensor with a number for each of its places, in memory."""
    return (
        isinstance(value, Tensor)
        and not (value.is_nested or value.is_quantized)  # first: nested ones have no shape
        and value.layout is torch.strided
        and value.device.type == 'cpu'
    )


def _kind(tensor: Tensor) -> torch.dtype | str:
    if tensor.dtype == torch.bool or tensor.is_complex():
        return tensor.dtype
    return 'real' if tensor.is_floating_point() else 'whole'


def check_finite(tensors: Mapping[str, Tensor], path: str) -> None:
    """InputError when a tensor holds a NaN or an infinite number."""
    broken = not_finite(tensors)
    if broken:
        raise InputError(
            f'{path} is of no use: {len(broken)} of {len(tensors)} tensors are not finite, first '
            f'{broken[0]}'
        )
