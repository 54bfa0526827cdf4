"""Names of datasets → the host's lists of tracklets, each split read only where it is needed."""

import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import torchreid
from tabulate import tabulate

from stmn_plugin.errors import InputError, printable
from stmn_plugin.labels import UNKNOWN
from stmn_plugin.log import prints_logged

from .host_errors import host_errors_named
from .sources import refuse_empty_tracklets, refuse_shared_frames
from .tracklets import Target, Tracklet
from .validation import hold_out

logger = logging.getLogger(__name__)


class Training(NamedTuple):
    """The sum of the sources."""

    tracklets: list[Tracklet]
    num_pids: int
    num_cams: int


def read_training(names: Sequence[str], options: Mapping[str, Any]) -> Training:
    """The training tracklets of some datasets, their people and cameras numbered on.

    Args:
        names: of registered datasets.
        options: of the host's ``init_video_dataset``.

    Raises:
        InputError: a missing or broken dataset; a tracklet without a frame; datasets that share
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
    """What is left to train on, and the part to validate on, see :func:`.validation.hold_out`."""
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
    """The query and gallery tracklets of a dataset; its training data need not be there.

    Raises:
        InputError: a missing or broken dataset; a tracklet without a frame; not a single query has
            a match although all tracklets are labelled.
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
    # the host's transform must be something; what it gives is never used
    options = {'transform': len, 'verbose': False, **options}
    return torchreid.data.datasets.init_video_dataset(name, mode=mode, **options)


def summary_table(parts: Iterable[tuple[str, str, Sequence[Tracklet]]]) -> str:
    """Lists of tracklets as text, a row each: dataset, split, ids, tracklets, cameras, frames."""
    rows = [
        {
            'data': printable(name),
            'split': split,
            'ids': len({pid for _, pid, _, _ in tracklets} - {UNKNOWN}),
            'tracklets': len(tracklets),
            'cameras': len({camid for _, _, camid, _ in tracklets}),
            'frames': sum(len(paths) for paths, *_ in tracklets),
            'unlabelled': sum(pid == UNKNOWN for _, pid, _, _ in tracklets),
        }
        for name, split, tracklets in parts
    ]
    if not any(row['unlabelled'] for row in rows):
        for row in rows:
            del row['unlabelled']
    table: str = tabulate(rows, headers='keys')
    return table
