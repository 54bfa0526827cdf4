"""Take run folders that the user names (``--runs``) into a table: titled, each seed once."""

import logging
import os
import re
from collections.abc import Collection, Sequence
from typing import Any

from yacs.config import CfgNode

from stmn_plugin.config.defaults import flatten
from stmn_plugin.errors import InputError, printable
from stmn_plugin.training.provenance import experiment_of
from stmn_plugin.training.resuming import changed_keys, is_recipe

from .run_plan import PlannedRun, as_words, training_config
from .stored_run import CONFIG, StoredRun, is_run, read_or_reason, same_folder

logger = logging.getLogger(__name__)

MOST_KEYS = 4  # in a title


def existing_runs(
    paths: Sequence[str], words: Sequence[str], taken: Collection[str] = ()
) -> list[PlannedRun]:
    """Plan runs that are tested but never trained; seeds of one experiment share a title.

    Args:
        paths: run folders of any name; other folders and files are skipped with a printed
            line. A folder counts once, however its path is written.
        words: KEY VALUE words on top of their configs, no key of the recipe.
        taken: titles of other rows, which none of these gets.

    Returns:
        In the order of the paths. Of two finished runs of one experiment and seed the second has a
        problem, and so has a damaged one.

    Raises:
        InputError: a path that leads nowhere, or no run folder among them.
    """
    found = [read_or_reason(path) for path in distinct_folders(paths)]
    titles = titles_of([record for record, problem in found if not problem], taken)
    runs: list[PlannedRun] = []
    counted: dict[tuple[str, int], str] = {}  # (title, seed) → path
    for record, problem in found:
        path, file = record.path, os.path.join(record.path, CONFIG)
        if problem:
            runs.append(PlannedRun(printable(path), None, file, (), None, record, False, problem))
            continue
        settings, title = record.settings, titles[path]
        same = {'video.image_models': settings['video.image_models']}  # its config may not say it
        own = (*as_words(same), *words, *as_words({'model.load_weights': '', 'model.resume': ''}))
        cfg, problem = _config_of(record, settings, own)
        seed = settings['train.seed']
        if cfg and not problem and record.final_evaluations(cfg.train.max_epoch):
            first = counted.setdefault((title, seed), path)
            if first != path:
                problem = f'{path} repeats seed {seed} of {first}: a seed counts once'
        runs.append(PlannedRun(title, seed, file, own, cfg, record, False, problem))
    return runs


def distinct_folders(paths: Sequence[str]) -> list[str]:
    """Return the run folders among paths, each once, as first given.

    Raises:
        InputError: a path that leads nowhere, or no run folder among them.
    """
    for path in paths:
        if not os.path.exists(path):
            raise InputError(f'--runs: no such folder: {path}')
    others = [printable(path) for path in paths if not is_run(path)]
    if others:
        logger.info(f'Skipped, no run folder (no {CONFIG}): {", ".join(others)}')
    folders: dict[str, str] = {}  # real path → as given
    for path in filter(is_run, paths):
        folders.setdefault(os.path.realpath(path), path.rstrip(os.sep))
    if not folders:
        raise InputError(f'--runs: no run folder among {", ".join(paths)}')
    return list(folders.values())


def _config_of(
    record: StoredRun, settings: dict[str, Any], words: Sequence[str]
) -> tuple[CfgNode | None, str]:
    """Return a run's config with words, or None, and why it cannot be tested with them, or ''."""
    try:
        cfg = training_config(os.path.join(record.path, CONFIG), words)
    except InputError as error:
        return None, str(error)
    changes = changed_keys(record.config, flatten(cfg))
    length = settings['train.max_epoch'], cfg.train.max_epoch
    if length[0] != length[1]:
        changes['train.max_epoch'] = length
    named = ', '.join(f'{key} was {old!r}, is {new!r}' for key, (old, new) in changes.items())
    return cfg, f'{record.path} is of another recipe: {named}' if changes else ''


def _experiment(record: StoredRun) -> dict[str, Any]:
    """Return what runs that differ only in their seed share: key → value, and their data."""
    settings, trained_on = record.settings, record.digests.get('train')
    data = {'training data': trained_on, 'data.root': settings['data.root']}
    return {**experiment_of(settings), **data}


def _changes(one: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    """Return in what another experiment differs: key → its value.

    Data is the same when its digest is, wherever it lies; runs that know no digest have the same
    data when they have the same ``data.root``.
    """
    changes = {key: value for key, value in other.items() if one.get(key) != value}
    both_known = one['training data'] and other['training data']
    if both_known or same_folder(one['data.root'], other['data.root']):
        changes.pop('data.root', None)
    if not both_known:
        changes.pop('training data', None)
    return changes


def titles_of(records: Sequence[StoredRun], taken: Collection[str] = ()) -> dict[str, str]:
    """Return the titles of existing runs; folders of one experiment share a title.

    It is the first folder's name without digits and seed; where another experiment has that name,
    or the same recipe, the title says in what it differs.

    Args:
        records: of the folders.
        taken: titles that none gets.

    Returns:
        Path → title.
    """
    groups: list[tuple[dict[str, Any], list[StoredRun]]] = []
    for record in records:
        experiment = _experiment(record)
        same = (runs for known, runs in groups if not _changes(known, experiment))
        runs = next(same, None)
        if runs is None:
            groups.append((experiment, [record]))
        else:
            runs.append(record)
    titles: dict[str, str] = {}
    used = set(taken)
    for experiment, runs in groups:
        title = _folder_title(runs[0])
        own: dict[str, Any] = {}  # key → value where another group could be taken for it
        for other, others in groups:
            changes = {} if other is experiment else _changes(other, experiment)
            same_recipe = not any(is_recipe(key, experiment) for key in changes)
            if _folder_title(others[0]) == title or same_recipe:
                own.update(changes)
        if own:
            named = [f'{key} {printable(value)}' for key, value in own.items()]
            rest = [f'and {len(named) - MOST_KEYS} more keys'] if len(named) > MOST_KEYS else []
            title += f' ({", ".join(named[:MOST_KEYS] + rest)})'
        if title in used:
            title = printable(runs[0].path)
        used.add(title)
        titles.update((record.path, title) for record in runs)
    return titles


def _folder_title(record: StoredRun) -> str:
    name = os.path.basename(os.path.abspath(record.path))
    name = re.sub(r'(-[0-9a-f]{8})?[-_ ]*seed[-_ =]*\d+$', '', name)
    return printable(name or record.path)
