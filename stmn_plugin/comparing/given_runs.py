"""Run folders that exist → the runs of a comparison, named, each experiment and seed once."""

import os
import re

from stmn_plugin.errors import InputError, printable
from stmn_plugin.training.resuming import is_recipe

from .run_folders import CONFIG, experiment_changes, is_run, name_changes, read_run, recipe_changes
from .wanted_runs import NO_RUN, Wanted, as_words, training_config

MOST_KEYS = 4  # in a title


def given_runs(paths, words, taken=()):
    """Runs that exist, to be tested and never trained; seeds of one experiment get one title.

    Args:
        paths (list): run folders; other folders and files are passed over with a printed word. A
            folder counts once, whatever its path is written like.
        words (list): KEY VALUE words on top of their configs, no key of the recipe.
        taken (list): titles of other rows, which none of these gets.

    Returns:
        list: of Wanted. Of two finished runs of one experiment and seed the second has a problem.

    Raises:
        InputError: a path that leads nowhere, or no run folder among them.
    """
    runs, problems = [], {}
    for path in distinct_folders(paths):
        try:
            runs.append(read_run(path))
        except InputError as error:
            runs.append(NO_RUN._replace(path=path))
            problems[path] = str(error)
    titles = titles_of([run for run in runs if run.path not in problems], taken)
    own = (*words, *as_words({'model.load_weights': '', 'model.resume': ''}))
    wanted, counted = [], {}  # counted: (title, seed) → path
    for run in runs:
        path, cfg, seed = run.path, None, None
        title, problem = titles.get(path, printable(path)), problems.get(path, '')
        if not problem:
            seed = run.settings['train.seed']
            cfg, problem = _config_of(run, own)
        if not problem and run.final_evaluations(cfg.train.max_epoch):
            first = counted.setdefault((title, seed), path)
            if first != path:
                problem = f'{path} repeats seed {seed} of {first}: a seed counts once'
        file = os.path.join(path, CONFIG)
        wanted.append(Wanted(title, seed, file, own, cfg, path, run, False, problem))
    return wanted


def distinct_folders(paths):
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
    folders = {}  # real path → as given
    for path in filter(is_run, paths):
        folders.setdefault(os.path.realpath(path), path.rstrip(os.sep))
    if not folders:
        raise InputError(f'--runs: no run folder among {", ".join(paths)}')
    return list(folders.values())


def _config_of(run, words):
    """The config of a run under words, or None, and why it cannot be tested with them, or ''."""
    try:
        cfg = training_config(os.path.join(run.path, CONFIG), words)
    except InputError as error:
        return None, str(error)
    changes = recipe_changes(run, cfg)
    return cfg, name_changes(run, changes) if changes else ''


def titles_of(runs, taken=()):
    """What the rows of given runs are called: run folders of one experiment get one title.

    It is the first folder's name without its seed; where another experiment has that name, or
    differs in no key of the recipe, the title says in what.

    Args:
        runs (list): of RunFolder.
        taken (list): titles that none gets.

    Returns:
        dict: path → title.
    """
    groups = []  # of runs of one experiment
    for run in runs:
        same = (group for group in groups if not experiment_changes(group[0], run))
        group = next(same, None)
        if group is None:
            groups.append([run])
        else:
            group.append(run)
    titles, used = {}, set(taken)
    for group in groups:
        run = group[0]
        title = _folder_title(run)
        own = {}  # key → value of this group where a group differs that could be taken for it
        for other in (group[0] for group in groups if group[0] is not run):
            changes = experiment_changes(other, run)
            recipe = [key for key in changes if is_recipe(key, run.settings)]
            if _folder_title(other) == title or not recipe:
                own.update((key, value) for key, (_, value) in changes.items())
        if own:
            named = [f'{key} {printable(value)}' for key, value in own.items()]
            more = [f'and {len(named) - MOST_KEYS} more keys'] if len(named) > MOST_KEYS else []
            title += f' ({", ".join(named[:MOST_KEYS] + more)})'
        if title in used:
            title = printable(run.path)
        used.add(title)
        titles.update((one.path, title) for one in group)
    return titles


def _folder_title(run):
    name = os.path.basename(os.path.abspath(run.path))
    return printable(re.sub(r'[-_ ]*seed[-_ =]*\d+$', '', name) or run.path)
