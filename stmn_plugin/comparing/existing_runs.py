"""Take run folders that the user names (``--runs``) into a table: titled, each seed once."""

import os
import re
from collections.abc import Collection, Sequence
from typing import Any, NamedTuple

from yacs.config import CfgNode

from stmn_plugin.config.defaults import flatten
from stmn_plugin.errors import InputError, printable
from stmn_plugin.training.provenance import experiment_of
from stmn_plugin.training.resuming import changed_keys, is_recipe

from .run_plan import PlannedRun, as_words, training_config
from .run_record import CONFIG, RunRecord, is_run, read_run, same_folder

MOST_KEYS = 4  # in a title


def existing_runs(
    paths: Sequence[str], words: Sequence[str], taken: Collection[str] = ()
) -> list[PlannedRun]:
    """Runs to be tested and never trained; seeds of one experiment get one title.

    Args:
        paths: run folders of any name; other folders and files are passed over with a printed
            line. A folder counts once, however its path is written.
        words: KEY VALUE words on top of their configs, no key of the recipe.
        taken: titles of other rows, which none of these gets.

    Returns:
        In the order of the paths. Of two finished runs of one experiment and seed the second has a
        problem, and so has a damaged one.

    Raises:
        InputError: a path that leads nowhere, or no run folder among them.
    """
    records, problems = [], {}
    for path in distinct_folders(paths):
        try:
            records.append(read_run(path))
        except InputError as error:
            records.append(RunRecord(path))
            problems[path] = str(error)
    titles = titles_of([record for record in records if record.path not in problems], taken)
    own = (*words, *as_words({'model.load_weights': '', 'model.resume': ''}))
    runs: list[PlannedRun] = []
    counted: dict[tuple[str, int | None], str] = {}  # (title, seed) → path
    for record in records:
        path, seed = record.path, None
        cfg: CfgNode | None = None
        title, problem = titles.get(path, printable(path)), problems.get(path, '')
        if not problem:
            seed = record.settings['train.seed']
            cfg, problem = _config_of(record, own)
        if cfg is not None and not problem and record.final_evaluations(cfg.train.max_epoch):
            first = counted.setdefault((title, seed), path)
            if first != path:
                problem = f'{path} repeats seed {seed} of {first}: a seed counts once'
        file = os.path.join(path, CONFIG)
        runs.append(PlannedRun(title, seed, file, own, cfg, record, False, problem))
    return runs


def distinct_folders(paths: Sequence[str]) -> list[str]:
    """The run folders among paths, each once, as it is given first.

    Raises:
        InputError: a path that leads nowhere, or no run folder among them.
    """
    for path in paths:
        if not os.path.exists(path):
            raise InputError(f'--runs: no such folder: {path}')
    others = [printable(path) for path in paths if not is_run(path)]
    if others:
        print(f'Passed over, no run folder (no {CONFIG}): {", ".join(others)}')
    folders: dict[str, str] = {}  # real path → as given
    for path in filter(is_run, paths):
        folders.setdefault(os.path.realpath(path), path.rstrip(os.sep))
    if not folders:
        raise InputError(f'--runs: no run folder among {", ".join(paths)}')
    return list(folders.values())


def _config_of(record: RunRecord, words: Sequence[str]) -> tuple[CfgNode | None, str]:
    """The config of a run under words, or None, and why it cannot be tested with them, or ''."""
    try:
        cfg = training_config(os.path.join(record.path, CONFIG), words)
    except InputError as error:
        return None, str(error)
    changes = changed_keys(record.config, flatten(cfg))
    asked = cfg.train.max_epoch
    if asked != record.settings['train.max_epoch']:
        changes['train.max_epoch'] = record.settings['train.max_epoch'], asked
    if not changes:
        return cfg, ''
    named = ', '.join(f'{key} was {old!r}, is {new!r}' for key, (old, new) in changes.items())
    return cfg, f'{record.path} is of another recipe: {named}'


class Experiment(NamedTuple):
    """What runs have in common that differ in their seed only."""

    settings: dict[str, Any]  # key → value
    keys: dict[str, Any]  # those of its experiment
    trained_on: str | None  # digest of the training data, if the run knows it

    def changes_to(self, other: 'Experiment') -> dict[str, Any]:
        """In what another one differs: key → its value.

        Data is the same when its digest is, wherever it lies; runs that know no digest have the
        same data when they have the same ``data.root``.
        """
        changes = {
            key: value
            for key, value in other.settings.items()
            if self.keys.get(key) != other.keys.get(key)
        }
        if self.trained_on and other.trained_on:
            if self.trained_on != other.trained_on:
                changes['training data'] = other.trained_on
        elif not same_folder(self.settings['data.root'], other.settings['data.root']):
            changes['data.root'] = other.settings['data.root']
        return changes


def experiment_of_run(record: RunRecord) -> Experiment:
    """The experiment that a run folder is of."""
    settings = record.settings
    return Experiment(settings, experiment_of(settings), record.made_from.get('train'))


def titles_of(records: Sequence[RunRecord], taken: Collection[str] = ()) -> dict[str, str]:
    """What the rows of existing runs are called: folders of one experiment get one title.

    It is the first folder's name without digits and seed; where another experiment has that name,
    or the same recipe, the title says in what it differs.

    Args:
        records: of the folders.
        taken: titles that none gets.

    Returns:
        Path → title.
    """
    groups: list[tuple[Experiment, list[RunRecord]]] = []
    for record in records:
        experiment = experiment_of_run(record)
        same = (runs for known, runs in groups if not known.changes_to(experiment))
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
            changes = {} if other is experiment else other.changes_to(experiment)
            same_recipe = not any(is_recipe(key, experiment.settings) for key in changes)
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


def _folder_title(record: RunRecord) -> str:
    name = os.path.basename(os.path.abspath(record.path))
    name = re.sub(r'(-[0-9a-f]{8})?[-_ ]*seed[-_ =]*\d+$', '', name)
    return printable(name or record.path)
