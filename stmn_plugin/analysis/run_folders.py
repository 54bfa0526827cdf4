"""A run folder → its recipe, how far it is, and what is known of its last weights."""

import os
from typing import NamedTuple

from stmn_plugin.checkpoint import saved_epochs
from stmn_plugin.config import read_yaml
from stmn_plugin.config.defaults import flatten, get_default_config
from stmn_plugin.config.kwargs import plan_kwargs
from stmn_plugin.data.clip_plans import ClipPlan
from stmn_plugin.data.validation import validation_name
from stmn_plugin.epoch_log import read_lines
from stmn_plugin.evaluation import read_metrics
from stmn_plugin.resuming import changed_keys

CONFIG = 'config.yaml'
START = (
    'model.pretrained',
    'model.load_weights',
    'stmn.backbone_weights',
    'stmn.backbone_sha256',
    'data.root',
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
    return RunFolder(
        path=path,
        config=read_yaml(os.path.join(path, CONFIG)) if is_run(path) else {},
        epochs=max(saved_epochs(os.path.join(path, 'model')), default=0),
        metrics=read_metrics(path),
        lines=read_lines(path),
    )


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
    now = flatten(cfg)
    before = {**flatten(get_default_config()), **run.config}
    if os.path.abspath(before['data.root']) == os.path.abspath(now['data.root']):
        before['data.root'] = now['data.root']
    return {key: (before[key], now[key]) for key in START if before[key] != now[key]}


def describe_state(run, cfg):
    """'finished', 'interrupted after epoch 3 of 30', 'new' or what has lost its weights."""
    if run.epoch_without_weights:
        return name_lost(run)
    if run.final_evaluations(cfg.train.max_epoch):
        return 'finished'
    if run.epochs or run.config:
        return f'interrupted after epoch {run.epochs} of {cfg.train.max_epoch}'
    return 'new'


def standalone_evaluations(run, cfg):
    """The evaluations of the last weights alone that a config for testing asks for.

    Args:
        run (RunFolder): finished.
        cfg (CfgNode): says protocol, frames, metric and targets.

    Returns:
        list: of plain dictionaries, one per target; [] unless every target was tested.
    """
    final = run.final_evaluations(cfg.train.max_epoch)
    asked = {
        'epoch': None,
        'protocol': cfg.test.protocol,
        'frames': ClipPlan(**plan_kwargs(cfg)).title,
        'flip': cfg.test.flip,
        'dist_metric': cfg.test.dist_metric,
        'normalize_feature': cfg.test.normalize_feature,
        'reranked': cfg.test.rerank,
        'amp': cfg.test.amp,
    }
    if final and final[0].get('weights'):
        asked['weights'] = final[0]['weights']
    unsaid = {'amp': 'off'}  # by older evaluations, which have no digest of the weights either
    found = {
        e['dataset']: e
        for e in run.metrics['evaluations']
        if final and asked.items() <= {**unsaid, **e}.items()
    }
    held_out = cfg.data.validation_ids > 0
    targets = [validation_name(cfg.data.sources)] if held_out else cfg.data.targets
    return [found[name] for name in targets] if set(targets) <= set(found) else []


def name_lost(run):
    """One line that says why a run is neither tested nor trained again."""
    epoch = run.epoch_without_weights
    return f'{run.path} holds results of epoch {epoch} without its weights, left alone'


def name_changes(run, changes):
    """One line that says why a folder is left alone."""
    named = ', '.join(f'{key} was {old!r}, is {new!r}' for key, (old, new) in changes.items())
    return f'{run.path} holds another run and is left alone: {named}'
