"""State of a run ↔ a file that is whole or absent, and safe to load."""

import codecs
import os
import re
import warnings
import zipfile

import numpy as np
import torch

from .errors import InputError
from .whole_files import link_or_copy, whole_file

# tensors whose shape holds L, with the dimension that does
SEQ_LEN_TENSORS = {'temporal_memory.values': 1, 'temporal_memory.regress.weight': 0}


def save_checkpoint(state, folder, epoch, keep_last=None, is_best=False):
    """Write ``folder/model.pth.tar-<epoch>``, the host's name and format.

    Args:
        state (dict): tensors and plain values only; ``state_dict`` and ``epoch`` as the host has.
        folder (str): made when missing.
        epoch (int): finished epochs, from 1.
        keep_last (int, optional): older checkpoints beyond that many are removed.
        is_best (bool): also as ``model-best.pth.tar``.

    Returns:
        str: the path.

    Raises:
        InputError: it could not be written.
    """
    path = checkpoint_path(folder, epoch)
    with whole_file(path) as file:
        torch.save(state, file)
        if is_best:  # before the state that says so: killed in between, it is found best again
            file.flush()
            link_or_copy(file.name, os.path.join(folder, 'model-best.pth.tar'))
    if keep_last is not None:
        for old in sorted(e for e in saved_epochs(folder) if e <= epoch)[:-keep_last]:
            os.unlink(checkpoint_path(folder, old))
    return path


def checkpoint_path(folder, epoch):
    """The host's name of a checkpoint."""
    return os.path.join(folder, f'model.pth.tar-{epoch}')


def saved_epochs(folder):
    """Epochs of the checkpoints in a folder."""
    names = os.listdir(folder) if os.path.isdir(folder) else []
    return [int(m[1]) for m in map(re.compile(r'model\.pth\.tar-(\d+)').fullmatch, names) if m]


def newest_checkpoint(folder):
    """The last written checkpoint of a folder that is whole and can be gone on from.

    One that is damaged is skipped with a printed word.

    Returns:
        str: path; None when there is none.
    """
    paths = {epoch: checkpoint_path(folder, epoch) for epoch in saved_epochs(folder)}
    # by time first: someone may have gone back to an earlier epoch and on from there
    for epoch in sorted(paths, key=lambda e: (os.stat(paths[e]).st_mtime_ns, e), reverse=True):
        try:
            _check_sums(paths[epoch])
            _check_resumable(paths[epoch], load_checkpoint(paths[epoch]))
            return paths[epoch]
        except InputError as error:
            print(f'Skipped: {error}')
    return None


def _check_sums(path):
    """InputError unless every byte is what was written; torch itself does not look."""
    try:
        with zipfile.ZipFile(path) as file:
            broken = file.testzip()
    except (OSError, zipfile.BadZipFile) as error:
        raise InputError(f'{path} is damaged: {error}') from error
    if broken:
        raise InputError(f'{path} is damaged: wrong checksum of {broken}')


def _check_resumable(path, checkpoint):
    for key in ('epoch', 'optimizer', 'scheduler'):
        if key not in checkpoint:
            raise InputError(f'model.resume: {path} has no {key}, it holds weights only')


def allow_numpy_scalars():
    """Let torch's safe loader read the one numpy scalar, ``rank1``, of the host's checkpoints."""
    core = np._core if int(np.__version__.split('.')[0]) >= 2 else np.core
    dtypes = [type(np.dtype(kind)) for kind in (np.float32, np.float64)]
    torch.serialization.add_safe_globals(
        [core.multiarray.scalar, np.dtype, *dtypes, codecs.encode]  # the last by numpy 1 only
    )


def load_checkpoint(path):
    """Read a checkpoint of ours or the host's, running nothing that it may contain.

    Returns:
        dict: with ``state_dict``; keys without DataParallel's ``module.``.

    Raises:
        InputError: missing, damaged or no checkpoint.
    """
    allow_numpy_scalars()
    path = os.path.expanduser(path)
    if not os.path.isfile(path):
        raise InputError(f'no checkpoint {path}')
    try:
        checkpoint = torch.load(path, map_location='cpu', weights_only=True)
    except Exception as error:  # torch raises many types on a damaged or unsafe file
        reason = ' '.join(str(error).split())[:200]
        raise InputError(f'{path} is damaged or no checkpoint: {reason}') from error
    if not isinstance(checkpoint, dict):
        raise InputError(f'{path} is no checkpoint: it holds a {type(checkpoint).__name__}')
    if 'state_dict' not in checkpoint:
        checkpoint = {'state_dict': checkpoint}
    checkpoint['state_dict'] = {
        key.removeprefix('module.'): value for key, value in checkpoint['state_dict'].items()
    }
    return checkpoint


def load_weights(model, path, with_classifiers=False):
    """Load the weights of a checkpoint into a model of the same architecture.

    Args:
        model (nn.Module): any model of the factory.
        path (str): checkpoint.
        with_classifiers (bool): also the classifiers, which must then have as many identities;
            otherwise classifiers of another size keep their start, as testing on other data needs.

    Returns:
        dict: the checkpoint.

    Raises:
        InputError: as :func:`load_checkpoint`, or weights of another architecture or seq_len.
    """
    checkpoint = load_checkpoint(path)
    state, own = checkpoint['state_dict'], model.state_dict()
    shape = {key: tuple(getattr(value, 'shape', ())) for key, value in state.items()}
    for key, dimension in SEQ_LEN_TENSORS.items():
        if key in own and key in state and len(shape[key]) == own[key].dim():
            trained, here = shape[key][dimension], own[key].shape[dimension]
            if trained != here:
                raise InputError(
                    f'{path} was trained with video.seq_len {trained}, the config says {here}'
                )
    trained = (checkpoint.get('facts') or {}).get('seq_len')
    here = getattr(model, 'seq_len', trained)  # of an image model it does not matter
    if trained is not None and trained != here:
        raise InputError(f'{path} was trained with video.seq_len {trained}, the config says {here}')
    unfit = [key for key in own if key not in state or shape[key] != tuple(own[key].shape)]
    unfit += [key for key in state if key not in own]
    if not with_classifiers:
        unfit = [key for key in unfit if not key.startswith('classifier')]
    if unfit:
        raise InputError(
            f'{path} holds another architecture than {type(model).__name__} as configured: '
            f'{len(unfit)} tensors are missing, unknown or of another shape, first {unfit[0]}'
        )
    own.update({key: state[key] for key in own if shape.get(key) == tuple(own[key].shape)})
    model.load_state_dict(own)
    return checkpoint


def resume(path, model, optimizer, scheduler, new_schedule=False):
    """Load weights, optimizer and scheduler to go on training.

    Args:
        path (str): checkpoint.
        model (nn.Module), optimizer (Optimizer), scheduler (LRScheduler): as at the start of a run.
        new_schedule (bool): learning rate and all other settings of optimizer and scheduler stay
            those of the arguments, moved on by the finished epochs; by default they are those of
            the checkpoint.

    Returns:
        dict: the checkpoint; ``epoch`` is the number of finished epochs.

    Raises:
        InputError: as :func:`load_weights`, or a file with weights only.
    """
    checkpoint = load_weights(model, path, with_classifiers=True)
    _check_resumable(path, checkpoint)
    settings = [
        {key: value for key, value in group.items() if key != 'params'}
        for group in optimizer.param_groups
    ]
    for saved, own in zip(checkpoint['optimizer']['param_groups'], settings, strict=False):
        saved.update({key: own[key] for key in ('fused', 'foreach') if key in own})
    try:
        optimizer.load_state_dict(checkpoint['optimizer'])
    except ValueError as error:
        raise InputError(f'model.resume: the optimizer of {path} differs: {error}') from error
    _lay_out_like_weights(optimizer)
    if not new_schedule:
        scheduler.load_state_dict(checkpoint['scheduler'])
        return checkpoint
    for group, own in zip(optimizer.param_groups, settings, strict=True):
        group.update(own)
    with warnings.catch_warnings():
        warnings.simplefilter('ignore', UserWarning)  # "step() before optimizer.step()": meant so
        for _ in range(checkpoint['epoch']):
            scheduler.step()
    return checkpoint


def _lay_out_like_weights(optimizer):
    """Put moments into the memory layout of their weights, which may be another than was saved.

    Fused steps walk through weights, gradients and moments as they lie in memory.
    """
    for weight, state in optimizer.state.items():
        for name, value in state.items():
            if isinstance(value, torch.Tensor) and value.shape == weight.shape:
                state[name] = torch.empty_like(weight, dtype=value.dtype).copy_(value)
