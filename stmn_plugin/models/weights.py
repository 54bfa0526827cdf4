"""Fit named tensors of any origin to a model of the same architecture."""

import re
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from stmn_plugin.errors import InputError

from .weight_files import not_finite

CLASSIFIER = re.compile(r'(^|\.)classifier[^.]*(\.\d+)?\.weight$')
NOTHING = '$.'  # a pattern that matches no name
# parts of names that wrappers of a model add: DataParallel and DDP, torch.compile, FSDP
WRAPPERS = {'module', '_orig_mod', '_fsdp_wrapped_module', '_checkpoint_wrapped_module'}


def fitted_weights(
    model: nn.Module, tensors: Mapping[str, Tensor], path: str, skip: str = ''
) -> dict[str, Tensor]:
    """Convert named tensors to a state dict for a model's ``load_state_dict``.

    Args:
        model: a model of the same architecture.
        tensors: tensors of a file of any program, in any floating-point type; names may contain
            the names of wrappers.
        path: path of the file, for errors.
        skip: pattern (for ``re.match``) of names that may be missing, unknown or of another shape;
            for these the model keeps its own tensors.

    Raises:
        InputError: weights of another architecture, type or setting, or not finite.
    """
    own = model.state_dict()
    given = own_names(tensors, own, path)
    _check_settings(model, given, own, path)
    fitting = {key: given[key] for key in own if key in given and fits(given[key], own[key])}
    # counters of batches have no effect; old files lack them and half-precision files round them
    skipped = re.compile(rf'{skip or NOTHING}|.*\bnum_batches_tracked$')
    mismatched = [key for key in {**own, **given} if key not in fitting and not skipped.match(key)]
    if mismatched:
        raise InputError(
            f'{path} holds another architecture than {type(model).__name__} as configured: '
            f'{len(mismatched)} tensors are missing, unknown or of another shape or type, first '
            f'{mismatched[0]}'
        )
    converted = {key: tensor.detach().to(own[key].dtype) for key, tensor in fitting.items()}
    check_finite(converted, path)
    return {**own, **converted}


def largest_classifier(tensors: Mapping[str, Tensor]) -> int:
    """Return the number of training identities from a model's largest classifier; 1 without one."""
    rows = [len(tensor) for name, tensor in tensors.items() if CLASSIFIER.search(name)]
    return max(rows, default=1)


def own_names(
    tensors: Mapping[str, Tensor], own: Mapping[str, Tensor], path: str
) -> dict[str, Tensor]:
    """Return the tensors under the names of the model.

    Either side may have names of wrappers, and all names of the file may have one more prefix, that
    of the model inside a larger module.

    Args:
        tensors: the tensors of a file.
        own: the model's state dict.
        path: path of the file, for errors.
    """
    plain = {_unwrapped(key): key for key in own}
    if len(plain) < len(own):  # two of its names differ only by the name of a wrapper
        return dict(tensors)
    named = without_wrappers(tensors, path)
    while named and not named.keys() & plain.keys():
        above = {key.partition('.')[0] for key in named if '.' in key}
        if len(above) != 1 or not all('.' in key for key in named):
            break
        named = {key.partition('.')[2]: tensor for key, tensor in named.items()}
    return {plain.get(key, key): tensor for key, tensor in named.items()}


def without_wrappers(tensors: Mapping[str, Tensor], path: str) -> dict[str, Tensor]:
    """Return the tensors under their names without those of wrappers.

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
    """Raise InputError for a setting that is evident from a tensor's shape and differs."""
    for setting, places in getattr(model, 'settings_in_shapes', {}).items():
        for key, dimension in places.items():
            if key in own and is_dense(given.get(key)) and given[key].dim() == own[key].dim():
                trained, here = given[key].shape[dimension], own[key].shape[dimension]
                if trained != here:
                    raise InputError(
                        f'{path} was trained with {setting} {trained}, the config says {here}'
                    )


def fits(tensor: Tensor, like: Tensor) -> bool:
    """Return whether a tensor can replace another: same shape, same kind of number."""
    return is_dense(tensor) and tensor.shape == like.shape and _kind(tensor) == _kind(like)


def is_dense(value: object) -> bool:
    """Return whether this is an ordinary dense tensor in main memory."""
    return (
        isinstance(value, Tensor)
        and not (value.is_nested or value.is_quantized)  # first, because nested ones have no shape
        and value.layout is torch.strided
        and value.device.type == 'cpu'
    )


def _kind(tensor: Tensor) -> torch.dtype | str:
    if tensor.dtype == torch.bool or tensor.is_complex():
        return tensor.dtype
    return 'real' if tensor.is_floating_point() else 'whole'


def check_finite(tensors: Mapping[str, Tensor], path: str) -> None:
    """Raise InputError if a tensor holds a NaN or an infinite number."""
    broken = not_finite(tensors)
    if broken:
        raise InputError(
            f'{path} is of no use: {len(broken)} of {len(tensors)} tensors are not finite, first '
            f'{broken[0]}'
        )
