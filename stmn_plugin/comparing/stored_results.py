"""Find the results in a run folder that belong to given weights, test settings and data."""

import functools
import json
import logging
import os
from collections.abc import Sequence
from typing import Any

from yacs.config import CfgNode

from stmn_plugin.config.defaults import flatten
from stmn_plugin.config.kwargs import videodata_kwargs
from stmn_plugin.data.datamanager import VideoDataManager
from stmn_plugin.data.validation import validation_name
from stmn_plugin.errors import InputError
from stmn_plugin.host.registration import register
from stmn_plugin.log import not_shown
from stmn_plugin.training.provenance import (
    config_digests,
    data_digests,
    decides_test,
    first_version_digests,
)

from .stored_run import CONFIG, StoredRun, same_folder

logger = logging.getLogger(__name__)

TESTED = ('query', 'gallery')
LISTS = ('train', *TESTED)
DATA_KEYS = ('data.', 'synthetic.', 'sampler.', 'video.', 'train.batch_size')


def stored_evaluations(record: StoredRun, cfg: CfgNode) -> list[dict[str, Any]]:
    """Return the evaluations of the last weights that a config for testing requests.

    Args:
        record: of a finished run.
        cfg: says everything else: recipe, protocol, frames, metric, targets, data.

    Returns:
        Plain dictionaries, one per target; [] unless every target was tested.

    Raises:
        InputError: requested data other than the run's own cannot be loaded.
    """
    final = record.final_evaluations(cfg.train.max_epoch)
    values = flatten(cfg)
    asked = (
        config_digests(values),
        first_version_digests({key: values[key] for key in record.config if key in values}),
    )
    fitting = [
        e
        for e in record.metrics['evaluations']
        if final
        and e['epoch'] is None
        and final[0].get('weights') in (None, e.get('weights'))  # older ones have no digest
        and any(digests.items() <= _digests(e).items() for digests in asked)
    ]
    held_out = cfg.data.validation_ids > 0
    targets = [validation_name(cfg.data.sources)] if held_out else cfg.data.targets
    if not set(targets) <= {e['dataset'] for e in fitting}:
        return []
    data = requested_digests(record, cfg, TESTED)
    found = {e['dataset']: e for e in fitting if not _other_lists(e, data, TESTED)}
    return [found[name] for name in dict.fromkeys(targets)] if set(targets) <= set(found) else []


def requested_digests(
    record: StoredRun, cfg: CfgNode, lists: Sequence[str] = LISTS
) -> dict[str, dict[str, str]]:
    """Target → digests of some lists now, under the ``data.root`` of a config.

    Where the run's own data is no longer there, its results stand as they are: those of the data
    that it was tested on when it was trained.

    Raises:
        InputError: requested data cannot be loaded.
    """
    try:
        return data_on_disk(cfg, lists)
    except InputError as error:
        if not same_folder(record.settings['data.root'], cfg.data.root):
            raise
        _say_once(f'Results are shown without checking their data: {error}')
        return {e['dataset']: _digests(e) for e in record.final_evaluations(cfg.train.max_epoch)}


@functools.cache
def _say_once(line: str) -> None:
    logger.warning(line)


_read: dict[str, dict[str, dict[str, str]]] = {}  # keys that name the data → digests


def data_on_disk(cfg: CfgNode, lists: Sequence[str] = LISTS) -> dict[str, dict[str, str]]:
    """Return the digests of the lists that a run with this config would train and test on now.

    A dataset is read once in a process, see :func:`forget_data`.

    Args:
        cfg: for video.
        lists: what is needed; without 'train' no training set is read, nor has to be there.

    Returns:
        Target → :func:`stmn_plugin.training.provenance.data_digests`.

    Raises:
        InputError: data that cannot be loaded.
    """
    values = flatten(cfg)
    named = {k: v for k, v in values.items() if k.startswith(DATA_KEYS) and k != 'data.save_dir'}
    test_only = 'train' not in lists
    key = json.dumps([named, test_only], sort_keys=True)
    if key not in _read:
        register(cfg)
        with not_shown():  # the table of every dataset
            options = {**videodata_kwargs(cfg), 'test_only': test_only}
            datamanager = VideoDataManager(**options)
        _read[key] = {name: data_digests(datamanager, name) for name in datamanager.test_loader}
    return _read[key]


def forget_data() -> None:
    """Read every dataset anew at the next call."""
    _read.clear()


def data_difference(record: StoredRun, cfg: CfgNode, lists: Sequence[str] = LISTS) -> str:
    """Return one line when the data under ``data.root`` is not what a finished run saw, else ''.

    Raises:
        InputError: as :func:`requested_digests`.
    """
    data = requested_digests(record, cfg, lists) if record.digests else {}
    for e in record.final_evaluations(cfg.train.max_epoch):
        other = _other_lists(e, data, lists) if e['dataset'] in data else []
        if other:
            return (
                f'{record.path} saw other data than {cfg.data.root} holds now '
                f'({", ".join(other)} of {e["dataset"]}): give another --output'
            )
    return ''


def testing_difference(record: StoredRun, cfg: CfgNode) -> str:
    """Return one line when a run was tested at its end otherwise than a config says, else ''."""
    before, now = record.settings, flatten(cfg)
    keys = [key for key in now if decides_test(key) and before[key] != now[key]]
    named = ', '.join(f'{key} was {before[key]!r}, is {now[key]!r}' for key in keys)
    return f'{record.path} was tested otherwise at its end: {named}' if keys else ''


def config_difference(record: StoredRun) -> str:
    """Return one line when a finished run's config.yaml is not that of its weights, else ''."""
    recipe, config = record.digests.get('recipe'), record.config
    known = (config_digests(config), first_version_digests(config))
    if recipe is None or any(digests['recipe'] == recipe for digests in known):
        return ''
    file = os.path.join(record.path, CONFIG)
    return f'{file} is not the config of the weights: it was changed since'


def _other_lists(
    evaluation: dict[str, Any], data: dict[str, dict[str, str]], lists: Sequence[str]
) -> list[str]:
    """Return names of the lists of its target that an evaluation was not made from."""
    digests, now = _digests(evaluation), data.get(evaluation['dataset'], {})
    return [kind for kind in lists if digests.get(kind) != now.get(kind)]


def _digests(evaluation: dict[str, Any]) -> dict[str, str]:
    return evaluation.get('made_from') or {}
