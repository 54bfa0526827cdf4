"""State of a run ↔ a file that is whole or absent, and safe to load."""

import contextlib
import os
import re
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import nn

from stmn_plugin.errors import InputError
from stmn_plugin.models.weight_files import named_tensors, not_finite, read_weight_file
from stmn_plugin.models.weights import fitted_weights, largest_classifier
from stmn_plugin.whole_files import (
    check_writable,
    link_or_copy,
    remove_file,
    whole_file,
    write_errors,
)

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
    """Write ``folder/model.pth.tar-<epoch>``, the host's name and format.

    What :func:`save_unfinished` has written is removed: training is beyond it.

    Args:
        state: tensors and plain values only; ``state_dict`` and ``epoch`` as the host has.
        folder: made when missing.
        epoch: finished epochs, from 1.
        keep_last: older checkpoints beyond that many are removed.
        is_best: also as ``model-best.pth.tar``.

    Returns:
        The path.

    Raises:
        InputError: it could not be written, or a weight or moment is not finite.
    """
    path = checkpoint_path(folder, epoch)
    with _written(state, path) as temporary:
        if is_best:  # before the state that says so: killed in between, it is found best again
            link_or_copy(temporary, os.path.join(folder, BEST))
    remove_file(os.path.join(folder, UNFINISHED))
    if keep_last is not None:
        for old in sorted(e for e in saved_epochs(folder) if e <= epoch)[:-keep_last]:
            remove_file(checkpoint_path(folder, old))
    return path


def save_unfinished(state: Mapping[str, Any], folder: str) -> str:
    """Write ``folder/unfinished.pth.tar``, the state within an epoch; otherwise as above.

    It has a name of its own so that ``model.pth.tar-N`` stays what was evaluated after N epochs.
    """
    path = os.path.join(folder, UNFINISHED)
    with _written(state, path):
        pass
    return path


def check_folder(folder: str) -> None:
    """Make the folder of checkpoints; InputError where none could be written into it."""
    with write_errors(folder):
        os.makedirs(folder, exist_ok=True)
    check_writable(os.path.join(folder, BEST))


@contextlib.contextmanager
def _written(state: Mapping[str, Any], path: str) -> Iterator[str]:
    """In the block the state lies in a temporary file, after it at its path."""
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
    """The host's name of a checkpoint."""
    return os.path.join(folder, f'model.pth.tar-{epoch}')


def saved_epochs(folder: str) -> list[int]:
    """Epochs of the checkpoints in a folder, by their names."""
    names = os.listdir(folder) if os.path.isdir(folder) else []
    names = [name for name in names if os.path.isfile(os.path.join(folder, name))]
    return [epoch for epoch in map(epoch_of_name, names) if epoch is not None]


def epoch_of_name(name: str) -> int | None:
    """3 of 'model.pth.tar-3'; None for a file called otherwise."""
    match = NAME.fullmatch(name)
    return int(match[1]) if match else None


def load_checkpoint(path: str) -> dict[str, Any]:
    """Read a checkpoint of ours, the host's or another program's, running nothing that it contains.

    Returns:
        With ``state_dict``, named tensors; what else the file holds beside them.

    Raises:
        InputError: missing, damaged or no checkpoint.
    """
    path = os.path.expanduser(path)
    content = read_weight_file(path)
    tensors = named_tensors(content, path)
    beside = content if isinstance(content, Mapping) and tensors.keys() != content.keys() else {}
    return {**beside, 'state_dict': tensors}


def count_classes(path: str) -> int:
    """Training identities of a checkpoint, by the largest of its classifiers; 1 without one.

    Raises:
        InputError: as :func:`load_checkpoint`.
    """
    path = os.path.expanduser(path)
    return largest_classifier(named_tensors(read_weight_file(path, lazily=True), path))


def load_weights(model: nn.Module, path: str) -> dict[str, Any]:
    """Load the weights of a checkpoint into a model of the same architecture.

    Classifiers of another number of identities, or that are missing, keep their start, as testing
    on other data needs.

    Args:
        model: any model of the factory.
        path: checkpoint.

    Returns:
        The checkpoint.

    Raises:
        InputError: as :func:`load_checkpoint`, or weights of another architecture or seq_len, or
            that are not finite.
    """
    checkpoint = load_checkpoint(path)
    model.load_state_dict(fitted_weights(model, checkpoint['state_dict'], path, 'classifier'))
    return checkpoint
