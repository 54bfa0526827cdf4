"""A checkpoint → model, optimizer and schedule as it left them; which one of a folder to take.

Files are damaged, edited and mixed up: what one holds is checked whole before anything is changed.
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

from .checkpoint import BEST, UNFINISHED, checkpoint_path, epoch_of_name
from .checkpoint_fields import check_fields, load_resumable

logger = logging.getLogger(__name__)


def newest_checkpoint(folder: str, check: Callable[[str], object] = load_resumable) -> str | None:
    """The checkpoint of a folder that is furthest in training, by what the files say.

    One that cannot be used is skipped with a warning.

    Args:
        folder: of checkpoints.
        check: called with a path; raises InputError for a checkpoint that cannot be used.

    Returns:
        Its path; None when there is none.
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
    """Finished epochs of a checkpoint, and batches of the next; -1 is 'still to be evaluated'.

    Raises:
        InputError: the file cannot be read, or does not say it.
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
    """Put model, optimizer and scheduler where a checkpoint left them; all of it or nothing.

    Args:
        checkpoint: from :func:`load_resumable`.
        path: of it, for errors.
        model, optimizer, scheduler: as at the start of a run.
        new_schedule: learning rate and all other settings of optimizer and scheduler stay those of
            the arguments, moved on by the finished epochs; by default they are the checkpoint's.
        keep_moments: of the optimizer; False is for another kind of optimizer.
        dry: only look whether it can be done.

    Raises:
        InputError: something does not fit or is not finite.
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
        warnings.simplefilter('ignore', UserWarning)  # "step() before optimizer.step()": meant so
        for _ in range(checkpoint['epoch']):
            scheduler.step()


def _fitted_optimizer(
    saved: Mapping[str, Any], path: str, optimizer: Optimizer, own_settings: bool
) -> dict[str, Any]:
    """The state to load into an optimizer: saved moments, saved settings or its own."""
    groups = [
        {key: value for key, value in group.items() if key != 'params'}
        for group in optimizer.param_groups
    ]
    sizes = [len(group['params']) for group in optimizer.param_groups]
    saved_sizes = [len(group['params']) for group in saved['param_groups']]
    if sizes != saved_sizes:
        raise InputError(
            f'model.resume: the optimizer of {path} differs: it moves {saved_sizes} weights '
            f'(by groups), this one {sizes}'
        )
    indexes = [index for group in saved['param_groups'] for index in group['params']]
    parameters = [p for group in optimizer.param_groups for p in group['params']]
    by_index = dict(zip(indexes, parameters, strict=True))
    if len(by_index) < len(parameters) or not saved['state'].keys() <= by_index.keys():
        raise InputError(f'model.resume: {path} is damaged: moments of weights that are none')
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
    """What an optimizer of this kind keeps of a weight, after a step."""
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
    """InputError unless every weight that was moved has moments as the optimizer makes them."""
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
    """The state to load into a scheduler: its own keys, saved values of the same kinds."""
    own = scheduler.state_dict()
    for key in own.keys() & saved.keys():
        if not is_like(saved[key], own[key]):
            raise InputError(
                f'model.resume: {path} is damaged: {key} of its scheduler is {saved[key]!r}'
            )
    return {key: saved.get(key, value) for key, value in own.items()}


def _lay_out_like_weights(optimizer: Optimizer) -> None:
    """Put moments into the memory layout of their weights, which may be another than was saved.

    Fused steps walk through weights, gradients and moments as they lie in memory.
    """
    for weight, state in optimizer.state.items():
        for name, value in state.items():
            if isinstance(value, Tensor) and value.shape == weight.shape:
                state[name] = torch.empty_like(weight, dtype=value.dtype).copy_(value)
