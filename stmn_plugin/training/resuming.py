"""Resume a run from a checkpoint if the recipe is the same.

The recipe consists of the keys that determine the final weights: every key except FREE_KEYS, so a
new key belongs to it unless it is added there.
"""

import logging
import os
from collections.abc import Callable, Mapping
from typing import Any

from torch import nn
from torch.optim import Optimizer
from yacs.config import CfgNode

from stmn_plugin.config.defaults import recorded_settings
from stmn_plugin.config.rules import AUTO
from stmn_plugin.config.sections import general_key, is_of_another
from stmn_plugin.distributed import broadcast, is_main
from stmn_plugin.errors import InputError, printable

from .checkpoint import load_resumable
from .resumable import newest_checkpoint, resume
from .run_state import EpochLog, Reached, RunFacts

logger = logging.getLogger(__name__)

FREE_KEYS = {
    'use_gpu',
    'model.load_weights',  # the start of the run, before the checkpoint
    'model.pretrained',
    'model.resume',
    '*.backbone_weights',
    '*.backbone_sha256',
    'data.root',
    'data.download',
    'data.targets',
    'data.train_list',  # its content is compared as training data
    'data.workers',
    'data.bad_frames',  # so that a run stopped by a bad frame can be resumed
    'data.save_dir',
    'market1501.use_500k_distractors',  # of the gallery
    'cuhk03.use_metric_cuhk03',
    'one_shot.split_file',  # its content is compared as well
    'train.start_epoch',
    'train.print_freq',
    'train.save_freq',
    'train.keep_last',
    # the same computation in another order
    'train.channels_last',
    'train.checkpoint_activations',
    'train.compile',
    'train.deterministic',
    'train.fused',
    'train.allow_changed',
    'train.overwrite',
}


def is_recipe(key: str, config: Mapping[str, Any]) -> bool:
    """Return whether the final weights depend on a key of a config (key → value)."""
    if key == 'train.max_epoch':
        return bool(config['train.lr_scheduler'] == 'cosine')  # others do not depend on the end
    if is_of_another(key, config['model.name']):
        return False
    return general_key(key) not in FREE_KEYS and not key.startswith('test.')


def changed_keys(before: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Return the keys of the recipe that differ between two configs → (value before, value now).

    Keys that ``before`` lacks have the values of :func:`recorded_settings`.
    """
    before = recorded_settings(before)
    keys = [key for key in now if is_recipe(key, now) or is_recipe(key, before)]
    return {key: (before[key], now[key]) for key in keys if before[key] != now[key]}


def changes_since(checkpoint: Mapping[str, Any], run: RunFacts) -> dict[str, tuple[Any, Any]]:
    """Compare the recipe and training data of a checkpoint with a run, as :func:`changed_keys`.

    The key 'training data' holds the digests. Fields that a checkpoint lacks count as equal.
    """
    config, trained_on = run.config, run.trained_on
    changes = changed_keys(checkpoint.get('config') or config, config)
    before = checkpoint.get('trained_on') or trained_on
    if trained_on and before != trained_on:
        changes['training data'] = before, trained_on
    return changes


def path_to_resume(
    cfg: CfgNode, model: nn.Module, optimizer: Optimizer, scheduler: Any, run: RunFacts
) -> str:
    """Return ``model.resume``; for ``auto`` the newest checkpoint of the run folder, or ''.

    Args:
        cfg: config of the run.
        model: the model in its initial state.
        optimizer: the optimizer before its first step.
        scheduler: the scheduler in its initial state.
        run: facts of the run that its checkpoints record.
    """
    if cfg.model.resume != AUTO:
        return os.path.expanduser(str(cfg.model.resume))

    def check(path: str) -> None:
        checkpoint = load_resumable(path)
        if not changes_since(checkpoint, run):
            resume(checkpoint, path, model, optimizer, scheduler, dry=True)

    return newest_of_run(cfg, check)


def newest_of_run(cfg: CfgNode, check: Callable[[str], object] = load_resumable) -> str:
    """Return the newest checkpoint of the run folder, or '' with a message if there is none.

    Args:
        cfg: config of the run.
        check: see :func:`.resumable.newest_checkpoint`.
    """
    folder = os.path.join(cfg.data.save_dir, 'model')
    path: str | None = broadcast(newest_checkpoint(folder, check) if is_main() else None)
    if path is None:
        then = 'testing the initial weights' if cfg.test.evaluate else 'starting from the beginning'
        logger.info(f'model.resume auto: no checkpoint in {printable(folder)}, {then}')
    return path or ''


def resume_run(
    path: str,
    model: nn.Module,
    optimizer: Optimizer,
    scheduler: Any,
    run: RunFacts,
    allow_changed: bool = False,
) -> Reached:
    """Restore a run from a checkpoint.

    Args:
        path: path of the checkpoint.
        model: the model in its initial state.
        optimizer: the optimizer before its first step.
        scheduler: the scheduler in its initial state.
        run: the run, whose config and training data are compared with the checkpoint's.
        allow_changed: allow another recipe or other training data. Optimizer settings and schedule
            are then the new ones, and an interrupted epoch starts again.

    Raises:
        InputError: another recipe (the message names the keys), training data or architecture, a
            file with weights only, or a damaged file.
    """
    checkpoint = load_resumable(path)
    if not checkpoint.get('config'):
        logger.warning(f'{printable(path)} does not record its recipe')
    changed = changes_since(checkpoint, run)
    named = ', '.join(f'{key} was {old!r}, is {new!r}' for key, (old, new) in changed.items())
    if changed and not allow_changed:
        raise InputError(
            f'model.resume: {path} was made by another recipe: {named}; '
            'train.allow_changed True resumes it nevertheless'
        )
    if changed:
        logger.warning(f'Resuming with another recipe: {named}')
    keep_moments = 'train.optim' not in changed
    if not keep_moments:
        logger.warning('The moments of the other optimizer are discarded')
    parts = (model, optimizer, scheduler)
    resume(checkpoint, path, *parts, new_schedule=bool(changed), keep_moments=keep_moments)
    reached = Reached(
        checkpoint['epoch'],
        path,
        best_map=_best_score(checkpoint, run),
        rank1=float(checkpoint.get('rank1', Reached.rank1)),
        scaler=checkpoint.get('scaler'),
    )
    log, where = checkpoint.get('unfinished'), f'epoch {reached.epochs}'
    if log is not None and (log['trained'] or not changed):
        reached.unfinished = EpochLog(**log)
        if log['trained']:
            where += ', still to be evaluated'
        else:
            where += f' and batch {log["batches"]} of the next'
    logger.info(f'Resumed from {printable(path)} after {where}')
    return reached


def _best_score(checkpoint: Mapping[str, Any], run: RunFacts) -> float:
    """Return the best score so far, unknown if ``test.best`` has changed."""
    before = (checkpoint.get('config') or {}).get('test.best', 'mAP')
    if run.config.get('test.best', before) != before:
        return Reached.best_map
    return float(checkpoint.get('best_map', Reached.best_map))
