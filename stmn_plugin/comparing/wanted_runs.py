"""Flags and words of a comparison → the runs it needs, each with a folder under the output."""

import hashlib
import os
import re
from typing import NamedTuple

from yacs.config import CfgNode

from stmn_plugin.config import load_config
from stmn_plugin.config.defaults import flatten
from stmn_plugin.errors import InputError
from stmn_plugin.training.resuming import is_recipe

from .run_folders import (
    RunFolder,
    describe_state,
    is_run,
    name_changes,
    read_run,
    recipe_changes,
    start_changes,
)

TRAINING = {  # both strategies are tested afterwards, in processes of their own
    'test.evaluate': False,
    'test.rerank': False,
    'test.visrank': False,
    'test.features_dir': '',
    'test.frames': 'rrs',
}
TESTING = {
    'test.evaluate': True,
    'test.visrank': False,
    'test.features_dir': '',  # the seconds of vectors that are read back say nothing
    'model.resume': '',
    'model.pretrained': False,  # the checkpoint holds every weight
}
LONGEST_NAME = 80
NO_RUN = RunFolder('', {}, 0, {'evaluations': []}, [])


class Wanted(NamedTuple):
    """One training, and how it is asked for on the command line."""

    title: str
    seed: int
    config_file: str
    words: tuple  # KEY VALUE words
    cfg: CfgNode | None  # the merged config for training; None: it cannot be made
    folder: str
    run: RunFolder  # what the folder held when it was looked at
    may_train: bool = True
    problem: str = ''  # why it can be neither trained nor tested

    @property
    def state(self):
        return self.problem or describe_state(self.run, self.cfg)


def as_words(changes):
    """{'train.seed': 1} → ['train.seed', '1']."""
    return [word for key, value in changes.items() for word in (key, str(value))]


def place_variants(variants, num_seeds, config_file, words, output):
    """Every variant with every seed, in the folder that holds it already or shall hold it.

    A run is found by its recipe, whatever its folder under ``output`` is called.

    Args:
        variants (list): of Variant.
        num_seeds (int): the config's ``train.seed`` and those after it.
        config_file (str), words (list): common to all.
        output (str): folder of run folders.

    Returns:
        list: of Wanted, seeds of a variant together.

    Raises:
        InputError: a config that cannot work, or two rows that would be one.
    """
    check_titles(variants)
    known, damaged = [], {}
    for path in run_folders(output):
        try:
            known.append(read_run(path))
        except InputError as error:
            print(f'Passed over: {error}')
            damaged[path] = str(error)
    first = training_config(config_file, words).train.seed
    placed = []
    for variant in variants:
        for seed in range(first, first + num_seeds):
            own = [*words, *as_words({**variant.changes, 'train.seed': seed})]
            cfg = training_config(config_file, own)
            path = os.path.join(output, folder_name(variant, words, seed, cfg))
            for other in known:  # only where it started, or its data, tells them apart
                if other.path == path and not recipe_changes(other, cfg):
                    also = start_changes(other, cfg)
                    path = os.path.join(output, folder_name(variant, words, seed, cfg, also))
            run, problem = _find(cfg, path, known)
            if run is None and path in damaged:
                run, problem = NO_RUN._replace(path=path), damaged[path]
            elif run is None:
                run = read_run(path)
                known.append(run._replace(config=flatten(cfg)))  # for the next with this recipe
            known_as = (variant.title, seed, config_file, tuple(own))
            placed.append(Wanted(*known_as, cfg, run.path, run, problem=problem))
    return placed


def training_config(config_file, words):
    """The config of a training; words for testing are set aside.

    Raises:
        InputError: a config that cannot work, or that is not for video.
    """
    cfg = load_config(config_file, [*words, *as_words(TRAINING)])
    if cfg.data.type != 'video':
        raise InputError(f'data.type {cfg.data.type}: a comparison needs video data')
    return cfg


def _find(cfg, path, known):
    """The run of a recipe, (None, '') if there is none, or what is in its way with a problem."""
    changes = [{**recipe_changes(run, cfg), **start_changes(run, cfg)} for run in known]
    fitting = [run for run, changed in zip(known, changes, strict=True) if not changed]
    if fitting:
        return max(fitting, key=lambda run: (run.epochs, run.path == path)), ''
    for run, changed in zip(known, changes, strict=True):
        if run.path == path:
            return run, name_changes(run, changed)
    return None, ''


def folder_name(variant, words, seed, cfg, also=()):
    """Readable and stable: variant, common words that change the weights, ``also`` keys, seed."""
    values = flatten(cfg)
    keys = dict.fromkeys(words[::2])
    given = {key: values[key] for key in keys if key in values and is_recipe(key, values)}
    given.update((key, values[key]) for key in also)
    for key in ('train.seed', *variant.changes):
        given.pop(key, None)
    parts = [variant.name, *(f'{key.split(".")[-1]}={value}' for key, value in given.items())]
    name = re.sub(r'[^\w.=+,-]+', '', '_'.join(parts))
    if len(name) > LONGEST_NAME:
        digest = hashlib.sha256(name.encode()).hexdigest()[:8]
        name = f'{name[:LONGEST_NAME]}-{digest}'
    return f'{name}_seed{seed}'


def run_folders(output):
    """Paths of the run folders in a folder, in order; none when it is not there."""
    names = sorted(os.listdir(output)) if os.path.isdir(output) else []
    return [path for path in (os.path.join(output, name) for name in names) if is_run(path)]


def check_titles(variants):
    """InputError where two rows of a table could not be told apart, or a row sets the seeds."""
    titles = [variant.title for variant in variants]
    twice = sorted({title for title in titles if titles.count(title) > 1})
    if twice:
        raise InputError(f'two rows are called {twice[0]!r}: give one of them another title')
    for variant in variants:
        if 'train.seed' in variant.changes:
            raise InputError(f'row {variant.title!r}: train.seed is set by --seeds, not by a row')
