"""State of a run ↔ a file that is whole or absent, and safe to load."""

import contextlib
import os
import re
from collections.abc import Mapping

import torch

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


def save_checkpoint(state, folder, epoch, keep_last=None, is_best=False):
    """Write ``folder/model.pth.tar-<epoch>``, the host's name and format.

    What :func:`save_unfinished` has written is removed: training is beyond it.

    Args:
        state (dict): tensors and plain values only; ``state_dict`` and ``epoch`` as the host has.
        folder (str): made when missing.
        epoch (int): finished epochs, from 1.
        keep_last (int, optional): older checkpoints beyond that many are removed.
        is_best (bool): also as ``model-best.pth.tar``.

    Returns:
        str: the path.

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


def save_unfinished(state, folder):
    """Write ``folder/unfinished.pth.tar``, the state within an epoch; otherwise as above.

    It has a name of its own so that ``model.pth.tar-N`` stays what was evaluated after N epochs.
    """
    path = os.path.join(folder, UNFINISHED)
    with _written(state, path):
        return path


def check_folder(folder):
    """Make the folder of checkpoints; InputError where none could be written into it."""
    with write_errors(folder):
        os.makedirs(folder, exist_ok=True)
    check_writable(os.path.join(folder, BEST))


@contextlib.contextmanager
def _written(state, path):
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


def checkpoint_path(folder, epoch):
    """The host's name of a checkpoint."""
    return os.path.join(folder, f'model.pth.tar-{epoch}')


def saved_epochs(folder):
    """Epochs of the checkpoints in a folder, by their names."""
    names = os.listdir(folder) if os.path.isdir(folder) else []
    names = [name for name in names if os.path.isfile(os.path.join(folder, name))]
    return [epoch for epoch in map(epoch_of_name, names) if epoch is not None]


def epoch_of_name(name):
    """3 of 'model.pth.tar-3'; None for a file called otherwise."""
    match = NAME.fullmatch(name)
    return int(match[1]) if match else None


def load_checkpoint(path):
    """Read a checkpoint of ours, the host's or another program's, running nothing that it contains.

    Returns:
        dict: with ``state_dict``, named tensors; what else the file holds beside them.

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


def load_weights(model, path):
    """Load the weights of a checkpoint into a model of the same architecture.

    Classifiers of another number of identities, or that are missing, keep their start, as testing
    on other data needs.

    Args:
        model (nn.Module): any model of the factory.
        path (str): checkpoint.

    Returns:
        dict: the checkpoint.

    Raises:
        InputError: as :func:`load_checkpoint`, or weights of another architecture or seq_len, or
            that are not finite.
    """
    checkpoint = load_checkpoint(path)
    model.load_state_dict(fitted_weights(model, checkpoint['state_dict'], path, 'classifier'))
    return checkpoint
