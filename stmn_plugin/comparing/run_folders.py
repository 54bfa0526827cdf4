"""A run folder → its recipe, how far it is, and what is known of its last weights."""

import os
from typing import NamedTuple

from stmn_plugin.config import read_yaml
from stmn_plugin.config.defaults import flatten, get_default_config
from stmn_plugin.training.checkpoint import UNFINISHED, saved_epochs
from stmn_plugin.training.metric_files import read_lines, read_metrics
from stmn_plugin.training.resuming import changed_keys

CONFIG = 'config.yaml'
START = (
    'model.pretrained',
    'model.load_weights',
    'stmn.backbone_weights',
    'stmn.backbone_sha256',
    'data.root',
    'train.start_epoch',
    'train.allow_changed',  # weights of two recipes
)


class RunFolder(NamedTuple):
    """What ``data.save_dir`` of a run holds, read without loading a checkpoint."""

    path: str
    config: dict  # key → value of the run as it was started last; empty: none was
    epochs: int  # finished ones in the newest checkpoint
    metrics: dict  # facts of the model, and 'evaluations'
    lines: list  # of metrics.jsonl, one an epoch

    def checkpoint(self, epoch):
        """Path of the weights after an epoch."""
        return os.path.join(self.path, 'model', f'model.pth.tar-{epoch}')

    def final_evaluations(self, max_epoch):
        """Those that ended the training; [] unless it has ended, after ``max_epoch`` epochs."""
        reported = self.lines and self.lines[-1]['epoch'] == max_epoch == self.epochs
        last = [e for e in self.metrics['evaluations'] if e['epoch'] == max_epoch]
        return last if reported else []

    @property
    def settings(self):
        """The config with the defaults of keys that it does not know yet."""
        return {**flatten(get_default_config()), **self.config}

    @property
    def made_from(self):
        """Digests of config and data of the last weights; {} of older or unfinished runs."""
        final = self.final_evaluations(self.settings['train.max_epoch'])
        return final[0].get('made_from') or {} if final else {}

    @property
    def epoch_without_weights(self):
        """The last evaluated epoch if it is beyond every checkpoint, else 0.

        A checkpoint is written before the evaluation, so this one was deleted. Epochs without an
        evaluation may have none: a run that was killed trains them again.
        """
        last = max((e['epoch'] or 0 for e in self.metrics['evaluations']), default=0)
        return last if last > self.epochs else 0

    @property
    def training_seconds(self):
        """Of all steps with the waiting for data; evaluations are not counted."""
        return sum(line['seconds'] for line in self.lines)


def is_run(path):
    """Whether a training was started in a folder."""
    return os.path.isfile(os.path.join(path, CONFIG))


def read_run(path):
    """A run folder as it is now.

    Raises:
        InputError: a damaged file in it.
    """
    lines = read_lines(path)
    return RunFolder(
        path=path,
        config=read_yaml(os.path.join(path, CONFIG)) if is_run(path) else {},
        epochs=_finished_epochs(os.path.join(path, 'model'), lines),
        metrics=read_metrics(path),
        lines=lines,
    )


def _finished_epochs(folder, lines):
    """Of the newest checkpoint; the name of the state within an epoch does not say how many."""
    reported = os.path.isfile(os.path.join(folder, UNFINISHED)) and lines
    return max([*saved_epochs(folder), lines[-1]['epoch'] if reported else 0])


def recipe_changes(run, cfg):
    """What keeps a run from being the one that a config asks for: key → (it was, it is asked for).

    Fewer finished epochs than asked for keep nobody from going on; more cannot be taken back.
    """
    changes = changed_keys(run.config, flatten(cfg))
    if run.epochs > cfg.train.max_epoch:
        changes['train.max_epoch'] = (run.epochs, cfg.train.max_epoch)
    return changes


def start_changes(run, cfg):
    """Where a run started and on which data, as far as a config asks for another; as above.

    Free to change for who goes on with a run of his own, but no reason to take it for another.
    """
    return _start_changes(run.settings, flatten(cfg))


def _start_changes(before, now):
    same_root = os.path.realpath(before['data.root']) == os.path.realpath(now['data.root'])
    keys = [key for key in START if not (key == 'data.root' and same_root)]
    return {key: (before[key], now[key]) for key in keys if before[key] != now[key]}


def experiment_changes(run, other):
    """In what two runs are more than two seeds of one experiment: key → (one's, the other's).

    Recipe, length, start and training data. Data is the same when its digest is, wherever it lies;
    runs that know no digest have the same data when they have the same ``data.root``.
    """
    before, now = ({**one.settings, 'train.seed': None} for one in (run, other))
    changes = changed_keys(before, now) | _start_changes(before, now)
    if before['train.max_epoch'] != now['train.max_epoch']:
        changes['train.max_epoch'] = before['train.max_epoch'], now['train.max_epoch']
    trained_on = run.made_from.get('train'), other.made_from.get('train')
    if all(trained_on):
        changes.pop('data.root', None)
        if trained_on[0] != trained_on[1]:
            changes['training data'] = trained_on
    return changes


def describe_state(run, cfg):
    """'finished', 'interrupted after epoch 3 of 30', 'new' or what has lost its weights."""
    if run.epoch_without_weights:
        return name_lost(run)
    if run.final_evaluations(cfg.train.max_epoch):
        return 'finished'
    if run.epochs or run.config:
        return f'interrupted after epoch {run.epochs} of {cfg.train.max_epoch}'
    return 'new'


def name_lost(run):
    """One line that says why a run is neither tested nor trained again."""
    epoch = run.epoch_without_weights
    return f'{run.path} holds results of epoch {epoch} without its weights, left alone'


def name_changes(run, changes):
    """One line that says why a folder is left alone."""
    named = ', '.join(f'{key} was {old!r}, is {new!r}' for key, (old, new) in changes.items())
    return f'{run.path} holds another run and is left alone: {named}'
