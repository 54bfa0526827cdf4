"""Read the host's lists of tracklets, check them, and turn its errors about data into one line."""

import contextlib
import logging
import os.path as osp
import traceback
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torchreid

from stmn_plugin.console_table import console_table
from stmn_plugin.errors import InputError, printable
from stmn_plugin.labels import UNKNOWN
from stmn_plugin.log import prints_logged

from .tracklets import Target, Tracklet
from .validation import hold_out

logger = logging.getLogger(__name__)


HOST_ERRORS = (RuntimeError, AssertionError, OSError, ValueError, LookupError, ImportError)


@contextlib.contextmanager
def host_errors_named(
    what: str = 'dataset cannot be loaded', default_reason: str = ''
) -> Iterator[None]:
    """Convert errors that the host's code raises about data to InputError.

    Errors of our readers and samplers, which the host calls, are bugs and are passed on.

    Args:
        what: start of the message.
        default_reason: the reason if the host gives none.
    """
    try:
        yield
    except InputError:
        raise
    except HOST_ERRORS as error:
        if not _raised_by_host(error):
            raise
        reason = ' '.join(str(error).split()) or default_reason or type(error).__name__
        raise InputError(f'{what}: {reason}') from error


def _raised_by_host(error: Exception) -> bool:
    """Return whether the innermost stack frame of the two packages is the host's."""
    modules = [
        frame.f_globals.get('__name__', '') for frame, _ in traceback.walk_tb(error.__traceback__)
    ]
    packages = [module.partition('.')[0] for module in modules]
    known = [package for package in packages if package in ('stmn_plugin', 'torchreid')]
    return known[-1:] == ['torchreid']


def unique_names(key: str, names: str | list[str] | None) -> list[str] | None:
    """Return names of datasets as a list, or None.

    Args:
        key: config key, for the error.
        names: names in the host's format.

    Raises:
        InputError: a name is repeated, which would make each of its persons two classes.
    """
    if names is None:
        return None
    names = [names] if isinstance(names, str) else names
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise InputError(f'{key}: {twice[0]} is there twice')
    return names


def refuse_empty_tracklets(tracklets: Iterable[Tracklet]) -> None:
    """Raise InputError for a tracklet without frames, as other packages' datasets may have."""
    for paths, pid, camid, _ in tracklets:
        if not len(paths):
            raise InputError(f'a tracklet of person {pid} at camera {camid} has no frame')


def refuse_shared_frames(sources: Sequence[str], tracklets: Iterable[Tracklet]) -> None:
    """Raise InputError if two sources share a frame, which would make its person two classes.

    Args:
        sources: names of datasets.
        tracklets: the host's 4-tuples of all sources; the fourth item is the source's number.
    """
    if len(sources) < 2:
        return
    folders: dict[str, str] = {}  # folder → its real path
    owners: dict[tuple[str, str], int] = {}  # (real folder, name) → source
    for paths, _, _, source in tracklets:
        for path in paths:
            folder, name = osp.split(path)
            if folder not in folders:
                folders[folder] = osp.realpath(folder)
            first = owners.setdefault((folders[folder], name), source)
            if first != source:
                raise InputError(
                    f'data.sources: {sources[first]} and {sources[source]} both hold {path}'
                )


class Training(NamedTuple):
    """The training tracklets of all sources."""

    tracklets: list[Tracklet]
    num_pids: int
    num_cams: int


def read_training(names: Sequence[str], options: Mapping[str, Any]) -> Training:
    """Read the training tracklets of datasets; persons and cameras are numbered consecutively.

    Args:
        names: names of registered datasets.
        options: arguments of the host's ``init_video_dataset``.

    Raises:
        InputError: a missing or broken dataset; a tracklet without frames; datasets that share
            frames.
    """
    with host_errors_named(), prints_logged(logger):
        total = sum(_open(name, 'train', options) for name in names)
    refuse_shared_frames(names, total.train)
    refuse_empty_tracklets(total.train)
    return Training(total.train, total.num_train_pids, total.num_train_cams)


def hold_out_target(
    training: Training, validation_ids: float, seed: int
) -> tuple[Training, Target]:
    """Split into training and validation parts, see :func:`.validation.hold_out`."""
    split = hold_out(training.tracklets, validation_ids, seed)
    num_pids = len({pid for _, pid, _, _ in split.train})
    logger.info(
        f'Held out for validation: {len({pid for _, pid, _, _ in split.gallery})} identities, '
        f'{len(split.gallery)} tracklets, {len(split.query)} of them queries; '
        f'trained on: {num_pids} identities, {len(split.train)} tracklets'
    )
    target = Target(split.query, split.gallery, gallery_needs_queries=False)
    return Training(split.train, num_pids, training.num_cams), target


def read_target(name: str, options: Mapping[str, Any]) -> Target:
    """Read the query and gallery tracklets of a dataset, whose training data may be missing.

    Raises:
        InputError: a missing or broken dataset; a tracklet without frames; all tracklets are
            labelled and no query has a match.
    """
    with host_errors_named(), prints_logged(logger):
        parts = [_open(name, mode, options) for mode in ('query', 'gallery')]
    needs = getattr(parts[0], 'gallery_needs_queries', False)
    target = Target(parts[0].query, parts[1].gallery, needs)
    refuse_empty_tracklets([*target.query, *target.gallery])
    if target.is_labelled and not target.count_matchable():
        raise InputError(
            f'data.targets {name}: none of the {len(target.query)} queries has a match in the '
            'gallery (same person, another camera)'
        )
    return target


def _open(name: str, mode: str, options: Mapping[str, Any]) -> Any:
    # the host requires a transform, whose result is never used
    options = {'transform': len, 'verbose': False, **options}
    return torchreid.data.datasets.init_video_dataset(name, mode=mode, **options)


def summary_table(parts: Iterable[tuple[str, str, Sequence[Tracklet]]]) -> str:
    """Format a table with a row per list: dataset, split, ids, tracklets, cameras, frames."""
    rows = [
        {
            'data': printable(name),
            'split': split,
            'ids': len({pid for _, pid, _, _ in tracklets} - {UNKNOWN}),
            'tracklets': len(tracklets),
            'cameras': len({camid for _, _, camid, _ in tracklets}),
            'frames': sum(len(paths) for paths, *_ in tracklets),
            'unlabelled': sum(pid == UNKNOWN for _, pid, _, _ in tracklets) or None,
        }
        for name, split, tracklets in parts
    ]
    return console_table(rows)
