"""Protect the files of an earlier run in a run folder, or remove them with train.overwrite."""

import contextlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from stmn_plugin.errors import InputError
from stmn_plugin.whole_files import remove_file

from .checkpoint import BEST, UNFINISHED, epoch_of_name
from .metric_files import EPOCHS, METRICS, read_evaluations
from .resumable import position

# other files derived from a run's weights, which would look like those of the next run; logs and
# files of the user are kept
DERIVED_FILES = (
    'config.yaml',
    'events.out.tfevents.*',
    'report.html',
    'cost_curve.json',
    'cost_curve.png',
    'figures/analysis.json',
    'figures/figure-*.png',
    'figures/figure-*.svg',
    'figures/figure-*.txt',
    f'report_files/{"[0-9a-f]" * 20}.webp',
    'visrank_*/*/query_top000/*',
    'visrank_*/*/gallery_top*_*/*',
    'visrank_*/person*_camera*.jpg',
)
FOLDERS = ('figures', 'report_files', 'visrank_*/*/*', 'visrank_*/*', 'visrank_*')  # inner first


class Start(NamedTuple):
    """The point at which a run starts."""

    epochs: int = 0  # finished epochs
    path: str = ''  # checkpoint from which it resumes
    auto: bool = False  # whether that is the newest one (model.resume auto)


FRESH = Start()


def check_no_overwrite(
    folder: str, start: Start = FRESH, models: Sequence[str] = ('model',)
) -> None:
    """Raise InputError if a run would overwrite files in its folder; the message says what to do.

    Args:
        folder: folder of the run.
        start: the point at which the run starts.
        models: names of the folders of checkpoints.
    """
    lost = _overwritten(folder, start, models)
    if not lost:
        return
    names = [os.path.relpath(path, folder) for path in lost]
    more = f' and {len(names) - 3} more' if len(names) > 3 else ''
    what = ', '.join(names[:3]) + more
    if start.auto:
        raise InputError(
            f'data.save_dir: {folder} holds results ({what}) and no checkpoint to resume from: '
            'train.overwrite True removes them and starts again, or take another folder'
        )
    if _resumes_here(folder, start, models):
        raise InputError(
            f'data.save_dir: {folder} holds training beyond {start.path or "train.start_epoch"} '
            f'({what}): model.resume auto resumes it, train.overwrite True removes it, or take '
            'another folder'
        )
    raise InputError(
        f'data.save_dir: {folder} holds a run already ({what}): model.resume auto resumes it, '
        'train.overwrite True removes it and starts again, or take another folder'
    )


def remove_overwritten_files(
    folder: str,
    start: Start = FRESH,
    models: Sequence[str] = ('model',),
    needed: Mapping[str, Any] | None = None,
) -> list[str]:
    """Remove the files that :func:`check_no_overwrite` names and those derived from them.

    Args:
        folder: folder of the run.
        start: the point at which the run starts.
        models: names of the folders of checkpoints.
        needed: config key → file from which the new run starts.

    Returns:
        The removed paths.

    Raises:
        InputError: a needed file is among them, or a file cannot be removed.
    """
    lost = _overwritten(folder, start if start.path else start._replace(auto=False), models)
    if not lost:
        return []
    if not _resumes_here(folder, start, models):
        lost += [str(path) for pattern in DERIVED_FILES for path in Path(folder).glob(pattern)]
    real = {os.path.realpath(path) for path in lost}
    for key, path in (needed or {}).items():
        if path and os.path.realpath(os.path.expanduser(path)) in real:
            raise InputError(f'{key}: train.overwrite would remove {path}: take another folder')
    for path in lost:
        remove_file(path)
    for path in [path for pattern in FOLDERS for path in Path(folder).glob(pattern)]:
        with contextlib.suppress(OSError):  # not a folder, or it holds files of the user
            path.rmdir()
    return lost


def _overwritten(folder: str, start: Start, models: Sequence[str]) -> list[str]:
    """List the files that a run would replace or remove, or that would look like its own."""
    if start.auto:
        has_results = not start.path and read_evaluations(folder)
        return [os.path.join(folder, METRICS)] if has_results else []
    resumes, lost = _resumes_here(folder, start, models), list[str]()
    for model in models:
        weights = [path for path in _files(os.path.join(folder, model)) if _is_checkpoint(path)]
        lost += [path for path in weights if not resumes or _is_beyond(path, start)]
    if not resumes:
        results = [os.path.join(folder, name) for name in (METRICS, EPOCHS)]
        lost += [path for path in results if os.path.isfile(path) and os.path.getsize(path)]
    return lost


def _is_checkpoint(path: str) -> bool:
    name = os.path.basename(path)
    return name in (BEST, UNFINISHED) or epoch_of_name(name) is not None


def _is_beyond(path: str, start: Start) -> bool:
    """Return whether a checkpoint is from later in the run than its start."""
    name = os.path.basename(path)
    if start.path and os.path.realpath(path) == os.path.realpath(start.path):
        return False
    if name == BEST:
        try:
            return position(path)[0] > start.epochs
        except InputError:  # a damaged file has no epoch
            return True
    return name == UNFINISHED or (epoch_of_name(name) or 0) > start.epochs


def _resumes_here(folder: str, start: Start, models: Sequence[str]) -> bool:
    """Return whether a run resumes from a checkpoint in its own folder."""
    if not start.path:
        return start.epochs > 0
    own = {os.path.realpath(os.path.join(folder, model)) for model in models}
    places = {os.path.realpath(os.path.dirname(start.path) or '.')}
    return bool(own & (places | {os.path.dirname(os.path.realpath(start.path))}))


def _files(folder: str) -> list[str]:
    names = sorted(os.listdir(folder)) if os.path.isdir(folder) else []
    paths = [os.path.join(folder, name) for name in names]
    return [path for path in paths if os.path.isfile(path) or os.path.islink(path)]
