"""Write and read checkpoints: complete files that are safe to load, with checked fields."""

import contextlib
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from stmn_plugin.errors import InputError
from stmn_plugin.models.weight_files import named_tensors, not_finite, read_weight_file
from stmn_plugin.models.weights import fitted_weights, largest_classifier
from stmn_plugin.plain_values import is_count, is_number, is_positive, is_setting, is_share, named
from stmn_plugin.whole_files import (
    check_writable,
    link_or_copy,
    remove_file,
    whole_file,
    write_errors,
)

from .run_state import is_epoch_log

BEST = 'model-best.pth.tar'
UNFINISHED = 'unfinished.pth.tar'  # saved within an epoch
NAME = re.compile(r'model\.pth\.tar-(0|[1-9][0-9]{0,8})')


def save_checkpoint(
    state: Mapping[str, Any],
    folder: str,
    epoch: int,
    keep_last: int | None = None,
    is_best: bool = False,
) -> str:
    """Write ``folder/model.pth.tar-<epoch>``, in the host's format and under its name.

    The file of :func:`save_unfinished` is removed, because it is older.

    Args:
        state: tensors and plain values only; ``state_dict`` and ``epoch`` as in the host.
        folder: folder of checkpoints, created if missing.
        epoch: finished epochs, from 1.
        keep_last: number of checkpoints to keep; older ones are removed.
        is_best: also write ``model-best.pth.tar``.

    Returns:
        The path of the checkpoint.

    Raises:
        InputError: the file could not be written, or a weight or moment is not finite.
    """
    path = checkpoint_path(folder, epoch)
    with _written(state, path) as temporary:
        if is_best:  # first: if killed before the state is written, a resumed run repeats both
            link_or_copy(temporary, os.path.join(folder, BEST))
    remove_file(os.path.join(folder, UNFINISHED))
    if keep_last is not None:
        for old in sorted(e for e in saved_epochs(folder) if e <= epoch)[:-keep_last]:
            remove_file(checkpoint_path(folder, old))
    return path


def save_unfinished(state: Mapping[str, Any], folder: str) -> str:
    """Write ``folder/unfinished.pth.tar``, the state within an epoch; see save_checkpoint.

    The separate name keeps ``model.pth.tar-N`` as it was evaluated after N epochs.
    """
    path = os.path.join(folder, UNFINISHED)
    with _written(state, path):
        pass
    return path


def check_folder(folder: str) -> None:
    """Create the folder of checkpoints; raise InputError if files cannot be written into it."""
    with write_errors(folder):
        os.makedirs(folder, exist_ok=True)
    check_writable(os.path.join(folder, BEST))


@contextlib.contextmanager
def _written(state: Mapping[str, Any], path: str) -> Iterator[str]:
    """Write the state to a temporary file; rename it to its path after the ``with`` block."""
    tensors = dict(state.get('state_dict', {}))
    for index, moments in state.get('optimizer', {}).get('state', {}).items():
        tensors.update({f'{name} of weight {index}': value for name, value in moments.items()})
    tensors = {name: value for name, value in tensors.items() if isinstance(value, torch.Tensor)}
    broken = not_finite(tensors)
    if broken:
        raise InputError(
            f'{path} is not written: {len(broken)} of {len(tensors)} tensors are not finite, '
            f'first {broken[0]}'
        )
    with whole_file(path) as file:
        torch.save(state, file)
        file.flush()
        yield file.name


def checkpoint_path(folder: str, epoch: int) -> str:
    """Return the path of a checkpoint, named as by the host."""
    return os.path.join(folder, f'model.pth.tar-{epoch}')


def saved_epochs(folder: str) -> list[int]:
    """Return the epochs of the checkpoints in a folder, from their names."""
    names = os.listdir(folder) if os.path.isdir(folder) else []
    names = [name for name in names if os.path.isfile(os.path.join(folder, name))]
    return [epoch for epoch in map(epoch_of_name, names) if epoch is not None]


def epoch_of_name(name: str) -> int | None:
    """Return 3 for 'model.pth.tar-3', and None for another name."""
    match = NAME.fullmatch(name)
    return int(match[1]) if match else None


def load_checkpoint(path: str) -> dict[str, Any]:
    """Read a checkpoint of any program without executing its content.

    Returns:
        The content of the file with the named tensors under ``state_dict``.

    Raises:
        InputError: the file is missing, damaged or not a checkpoint.
    """
    path = os.path.expanduser(path)
    content = read_weight_file(path)
    tensors = named_tensors(content, path)
    metadata = content if isinstance(content, Mapping) and tensors.keys() != content.keys() else {}
    return {**metadata, 'state_dict': tensors}


def count_classes(path: str) -> int:
    """Return the number of training identities, from the largest classifier; 1 without one.

    Raises:
        InputError: as :func:`load_checkpoint`.
    """
    path = os.path.expanduser(path)
    return largest_classifier(named_tensors(read_weight_file(path, lazily=True), path))


def load_weights(model: nn.Module, path: str) -> dict[str, Any]:
    """Load the weights of a checkpoint into a model of the same architecture.

    Classifiers that are missing or have another number of identities keep their initial weights,
    as testing on other data requires.

    Args:
        model: any model of the factory.
        path: path of the checkpoint.

    Returns:
        The checkpoint.

    Raises:
        InputError: as :func:`load_checkpoint`; or the weights are of another architecture or
            seq_len, or not finite.
    """
    checkpoint = load_checkpoint(path)
    model.load_state_dict(fitted_weights(model, checkpoint['state_dict'], path, 'classifier'))
    return checkpoint


MOST_EPOCHS = 10**6
REQUIRED = ('epoch', 'optimizer', 'scheduler')
SCALER = {'scale', 'growth_factor', 'backoff_factor', 'growth_interval', '_growth_tracker'}


def is_optimizer_state(value: Any) -> bool:
    """Return whether a value has the structure of ``Optimizer.state_dict`` of any optimizer."""
    if not isinstance(value, Mapping):
        return False
    state, groups = value.get('state'), value.get('param_groups')
    return (
        isinstance(state, Mapping)
        and all(is_count(key) and isinstance(entry, Mapping) for key, entry in state.items())
        and isinstance(groups, list)
        and all(isinstance(group, Mapping) for group in groups)
        and all(
            isinstance(group.get('params'), list) and all(map(is_count, group['params']))
            for group in groups
        )
    )


FIELDS: dict[
    str, tuple[Callable[[Any], bool], str]
] = {  # name → (check of the value, its description)
    'epoch': (lambda v: is_count(v) and v <= MOST_EPOCHS, 'a number of finished epochs'),
    'unfinished': (lambda v: v is None or is_epoch_log(v), 'how far an epoch is'),
    'optimizer': (is_optimizer_state, 'the state of an optimizer'),
    'scheduler': (
        lambda v: isinstance(v, Mapping) and is_count(v.get('last_epoch')),
        'the state of a learning rate scheduler',
    ),
    'rank1': (is_share, 'a number from 0 to 1'),
    'best_map': (lambda v: is_number(v) and -1 <= v <= 1, 'a number from 0 to 1, or -1'),
    'chosen_by': (lambda v: isinstance(v, str), 'how it was chosen'),
    'facts': (lambda v: isinstance(v, Mapping), 'a dictionary'),
    'config': (lambda v: named(v, is_setting), 'a dictionary of keys and values'),
    'trained_on': (lambda v: isinstance(v, str), 'a digest'),
    'scaler': (
        lambda v: v is None or named(v, is_positive) and SCALER <= v.keys(),
        'the state of a GradScaler',
    ),
}


def check_fields(
    checkpoint: Mapping[str, Any], path: str, names: Sequence[str] = tuple(FIELDS)
) -> None:
    """Raise InputError unless the fields are present and valid, so that training can resume."""
    for name in names:
        if name not in checkpoint:
            if name in REQUIRED:
                raise InputError(f'model.resume: {path} has no {name}, it holds weights only')
            continue
        fits, what = FIELDS[name]
        if not fits(checkpoint[name]):
            raise InputError(
                f'model.resume: {path} is damaged: {name} is not {what}, '
                f'got {str(checkpoint[name])[:60]!r}'
            )
    log = checkpoint.get('unfinished')
    if log is not None and log['epoch'] != checkpoint['epoch'] + (not log['trained']):
        raise InputError(
            f'model.resume: {path} is damaged: {checkpoint["epoch"]} epochs are finished and the '
            f'one in progress is {log["epoch"]}'
        )


def load_resumable(path: str) -> dict[str, Any]:
    """Load a checkpoint and check every field that resuming reads.

    Raises:
        InputError: as :func:`load_checkpoint`, or a field is missing or invalid.
    """
    checkpoint = load_checkpoint(path)
    check_fields(checkpoint, path)
    return checkpoint
