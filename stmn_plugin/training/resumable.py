"""Find the newest intact checkpoint, and restore model, optimizer and schedule from one.

Files may be damaged, edited or mixed up, so all content is checked before anything is changed.
"""

import logging
import os
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from stmn_plugin.errors import InputError
from stmn_plugin.models.weight_files import read_weight_file
from stmn_plugin.models.weights import check_finite, fitted_weights, is_dense
from stmn_plugin.plain_values import is_like, is_positive

from .checkpoint import (
    BEST,
    UNFINISHED,
    check_fields,
    checkpoint_path,
    epoch_of_name,
    load_resumable,
)

logger = logging.getLogger(__name__)


def newest_checkpoint(folder: str, check: Callable[[str], object] = load_resumable) -> str | None:
    """Return the newest intact checkpoint that training can resume from.

    Training progress is read from the files, not from their names or times. Files that cannot be
    used are skipped with a warning.

    Args:
        folder: folder of checkpoints.
        check: called with a path; raises InputError for a checkpoint that cannot be used.

    Returns:
        The path; None if there is no such checkpoint.
    """
    names = sorted(os.listdir(folder)) if os.path.isdir(folder) else []
    names = [n for n in names if n in (BEST, UNFINISHED) or epoch_of_name(n) is not None]
    found = []
    for path in (os.path.join(folder, name) for name in names):
        try:
            epoch, batches = position(path)
            found.append((epoch, batches, path == checkpoint_path(folder, epoch), path))
        except InputError as error:
            logger.warning(f'Skipped: {error}')
    for *_, path in sorted(found, reverse=True):
        try:
            check(path)
            return path
        except InputError as error:
            logger.warning(f'Skipped: {error}')
    return None


def position(path: str) -> tuple[int, int]:
    """Return a checkpoint's finished epochs and batches of the next; -1: evaluation pending.

    Raises:
        InputError: the file cannot be read, or lacks these fields.
    """
    content = read_weight_file(path, lazily=True)
    if not isinstance(content, Mapping):
        raise InputError(f'{path} is no checkpoint: it holds a {type(content).__name__}')
    check_fields(content, path, ('epoch', 'unfinished'))
    log = content.get('unfinished')
    return content['epoch'], 0 if log is None else -1 if log['trained'] else log['batches']


def resume(
    checkpoint: Mapping[str, Any],
    path: str,
    model: nn.Module,
    optimizer: Optimizer,
    scheduler: Any,
    new_schedule: bool = False,
    keep_moments: bool = True,
    dry: bool = False,
) -> None:
    """Restore model, optimizer and scheduler from a checkpoint, all of them or none.

    Args:
        checkpoint: content of :func:`load_resumable`.
        path: its path, for errors.
        model: the model in its initial state.
        optimizer: the optimizer before its first step.
        scheduler: the scheduler in its initial state.
        new_schedule: keep the settings of the given optimizer and scheduler, advanced by the
            finished epochs, instead of the checkpoint's.
        keep_moments: restore the moments of the optimizer; False for another kind of optimizer.
        dry: only check whether the checkpoint fits.

    Raises:
        InputError: a part of the checkpoint does not fit or is not finite.
    """
    weights = fitted_weights(model, checkpoint['state_dict'], path)
    moments = schedule = None
    if keep_moments:
        moments = _fitted_optimizer(checkpoint['optimizer'], path, optimizer, new_schedule)
    if not new_schedule:
        schedule = _fitted_scheduler(checkpoint['scheduler'], path, scheduler)
    if dry:
        return
    model.load_state_dict(weights)
    if moments is not None:
        optimizer.load_state_dict(moments)
        _lay_out_like_weights(optimizer)
    if schedule is not None:
        scheduler.load_state_dict(schedule)
        return
    with warnings.catch_warnings():
        warnings.simplefilter('ignore', UserWarning)  # "step() before optimizer.step()": intended
        for _ in range(checkpoint['epoch']):
            scheduler.step()


def _fitted_optimizer(
    saved: Mapping[str, Any], path: str, optimizer: Optimizer, own_settings: bool
) -> dict[str, Any]:
    """Combine the saved moments with saved settings, or with the optimizer's own."""
    groups = [
        {key: value for key, value in group.items() if key != 'params'}
        for group in optimizer.param_groups
    ]
    sizes = [len(group['params']) for group in optimizer.param_groups]
    saved_sizes = [len(group['params']) for group in saved['param_groups']]
    if sizes != saved_sizes:
        raise InputError(
            f'model.resume: the optimizer of {path} differs: it updates {saved_sizes} weights '
            f'(by groups), this one {sizes}'
        )
    indexes = [index for group in saved['param_groups'] for index in group['params']]
    parameters = [p for group in optimizer.param_groups for p in group['params']]
    by_index = dict(zip(indexes, parameters, strict=True))
    if len(by_index) < len(parameters) or not saved['state'].keys() <= by_index.keys():
        raise InputError(f'model.resume: {path} is damaged: moments of unknown weights')
    _check_moments(saved['state'], by_index, _example_state(optimizer), path)
    for group, given in zip(groups, saved['param_groups'], strict=True):
        if own_settings:
            continue
        for key in group.keys() & given.keys() - {'fused', 'foreach'}:
            if not is_like(given[key], group[key]):
                raise InputError(
                    f'model.resume: {path} is damaged: {key} of its optimizer is {given[key]!r}'
                )
            group[key] = given[key]
    filled = [
        {**group, 'params': given['params']}
        for group, given in zip(groups, saved['param_groups'], strict=True)
    ]
    return {'state': saved['state'], 'param_groups': filled}


def _example_state(optimizer: Optimizer) -> dict[str, Any]:
    """Return the state that an optimizer of this kind has for a weight after a step."""
    parameter = nn.Parameter(torch.zeros(1))
    parameter.grad = torch.zeros(1)
    options = {key: optimizer.param_groups[0][key] for key in optimizer.defaults}
    twin = type(optimizer)([parameter], **options)
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')  # the host's RAdam uses what torch calls deprecated
        twin.step()
    return dict(twin.state[parameter])


def _check_moments(
    state: Mapping[int, Any],
    parameters: Mapping[int, Tensor],
    example: Mapping[str, Any],
    path: str,
) -> None:
    """Raise InputError unless the moments of every updated weight are as in ``example``."""
    tensors = {}
    for index, entry in state.items():
        for name, like in example.items() if entry else ():
            value, weight = entry.get(name), parameters[index]
            single = not isinstance(like, Tensor) or like.dim() == 0
            if like is None or (single and is_positive(value)):
                continue
            shape = torch.Size() if single else weight.shape
            if not is_dense(value) or value.shape != shape or not value.is_floating_point():
                raise InputError(
                    f'model.resume: {path} is damaged: {name} of weight {index} is no moment of it'
                )
            tensors[f'{name} of weight {index}'] = value
    check_finite(tensors, path)


def _fitted_scheduler(saved: Mapping[str, Any], path: str, scheduler: Any) -> dict[str, Any]:
    """Fill the keys of a scheduler's state with saved values, which must be of the same kinds."""
    own = scheduler.state_dict()
    for key in own.keys() & saved.keys():
        if not is_like(saved[key], own[key]):
            raise InputError(
                f'model.resume: {path} is damaged: {key} of its scheduler is {saved[key]!r}'
            )
    return {key: saved.get(key, value) for key, value in own.items()}


def _lay_out_like_weights(optimizer: Optimizer) -> None:
    """Convert moments to the memory layout of their weights, which may differ from the saved one.

    Fused steps process weights, gradients and moments in their order in memory.
    """
    for weight, state in optimizer.state.items():
        for name, value in state.items():
            if isinstance(value, Tensor) and value.shape == weight.shape:
                state[name] = torch.empty_like(weight, dtype=value.dtype).copy_(value)
