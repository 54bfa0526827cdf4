"""Plan the runs of a table: every variant with every seed, each in a folder named by its recipe.

The folder is ``<output>/<variant>-<8 hex digits>-seed<N>``. Digits and seed say which run it is
(:func:`stmn_plugin.training.provenance.run_digest`); the variant is for the reader, so that a row
may get another title, and two rows of one recipe share their runs.
"""

import glob
import os
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from yacs.config import CfgNode

from stmn_plugin.config import load_config
from stmn_plugin.config.defaults import flatten
from stmn_plugin.errors import InputError
from stmn_plugin.training.provenance import run_digest

from .stored_run import StoredRun, read_or_reason
from .variants import Variant

TRAINING = {  # both strategies are tested afterwards, in processes of their own
    'test.evaluate': False,
    'test.rerank': False,
    'test.visrank': False,
    'test.verification': False,
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
SET_BY = {  # key → what sets it in every run
    'data.save_dir': '--output',
    **dict.fromkeys(
        ['model.resume', 'test.frames', *(key for key in TESTING if key in TRAINING)],
        'the comparison',
    ),
}
NOT_OF_A_ROW = {'train.seed': '--seeds', **SET_BY}  # the words give the first seed
LONGEST_NAME = 80  # characters of a variant in the name of a folder


class PlannedRun(NamedTuple):
    """One training, and the words that ask for it on the command line."""

    title: str
    seed: int | None  # None: of a damaged folder
    config_file: str
    words: tuple[str, ...]  # KEY VALUE words
    cfg: Any  # CfgNode, the merged config for training; None: it cannot be made
    record: StoredRun  # of its folder when the plan was made
    may_train: bool = True
    problem: str = ''  # why it can be neither trained nor tested

    @property
    def folder(self) -> str:
        return self.record.path

    @property
    def state(self) -> str:
        """One line: how far the run was when the plan was made, or its problem."""
        return self.problem or self.record.state(self.cfg.train.max_epoch)


def as_words(changes: Mapping[str, Any]) -> list[str]:
    """{'train.seed': 1} → ['train.seed', '1']."""
    return [word for key, value in changes.items() for word in (key, str(value))]


def plan_runs(
    variants: Sequence[Variant],
    num_seeds: int,
    config_file: str,
    words: Sequence[str],
    output: str,
) -> list[PlannedRun]:
    """Plan every variant with the config's ``train.seed`` and the following ones, and its folder.

    Args:
        variants: rows of the table.
        num_seeds: runs of each variant.
        config_file: config of all runs.
        words: KEY VALUE words of all runs.
        output: folder of run folders.

    Returns:
        Seeds of a variant together. A run whose folder is damaged has a problem.

    Raises:
        InputError: a config that cannot work, or two rows that would be one.
    """
    check_titles(variants)
    first = training_config(config_file, words).train.seed
    folders: dict[str, str] = {}  # '<8 hex digits>-seed<N>' → path
    planned = []
    for variant in variants:
        readable = re.sub(r'[^\w.=+,-]+', '-', variant.name)[:LONGEST_NAME]
        for seed in range(first, first + num_seeds):
            own = (*words, *as_words({**variant.changes, 'train.seed': seed}))
            cfg = training_config(config_file, own)
            key = f'{run_digest(flatten(cfg))}-seed{seed}'
            there = sorted(glob.glob(os.path.join(glob.escape(output), f'*-{key}')))
            folder = there[0] if there else os.path.join(output, f'{readable}-{key}')
            record, problem = read_or_reason(folders.setdefault(key, folder))
            known_as = (variant.title, seed, config_file, own)
            planned.append(PlannedRun(*known_as, cfg, record, problem=problem))
    return planned


def training_config(config_file: str, words: Sequence[str]) -> CfgNode:
    """Return the config of a training, without the words for testing.

    Raises:
        InputError: a config that cannot work, or that is not for video.
    """
    cfg = load_config(config_file, [*words, *as_words(TRAINING)])
    if cfg.data.type != 'video':
        raise InputError(f'data.type {cfg.data.type}: a comparison needs video data')
    return cfg


def check_titles(variants: Sequence[Variant]) -> None:
    """Raise InputError if two rows of a table have one title, or a row sets NOT_OF_A_ROW."""
    titles = [variant.title for variant in variants]
    twice = sorted({title for title in titles if titles.count(title) > 1})
    if twice:
        raise InputError(f'two rows are called {twice[0]!r}: give one of them another title')
    for variant in variants:
        for key in variant.changes.keys() & NOT_OF_A_ROW.keys():
            raise InputError(
                f'row {variant.title!r}: {key} is set by {NOT_OF_A_ROW[key]}, not by a row'
            )
