"""A config and a checkpoint → a run that goes on where it stopped, if the recipe is the same.

The recipe is what the weights at the end depend on. It is every key but those below, so a new key
belongs to it until someone says otherwise here.
"""

import logging
import os
from collections.abc import Callable, Mapping
from typing import Any

from torch import nn
from torch.optim import Optimizer
from yacs.config import CfgNode

from stmn_plugin.config.ranges import AUTO
from stmn_plugin.config.recorded import recorded_settings
from stmn_plugin.config.sections import general_key, is_of_another
from stmn_plugin.distributed import broadcast, is_main
from stmn_plugin.errors import InputError, printable

from .checkpoint_fields import load_resumable
from .epoch_log import EpochLog
from .resumable import newest_checkpoint, resume
from .run_state import Reached, RunFacts

logger = logging.getLogger(__name__)

FREE_KEYS = {
    'use_gpu',
    'model.load_weights',  # where the run started: the checkpoint is beyond that
    'model.pretrained',
    'model.resume',
    '*.backbone_weights',
    '*.backbone_sha256',
    'data.root',
    'data.download',
    'data.targets',
    'data.train_list',  # what it holds is compared as training data
    'data.workers',
    'data.bad_frames',  # so that a run stopped by a bad frame can go on
    'data.save_dir',
    'market1501.use_500k_distractors',  # of the gallery
    'cuhk03.use_metric_cuhk03',
    'one_shot.split_file',  # what it holds is compared, too
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
    """Whether the weights at the end depend on a key of a config (key → value)."""
    if key == 'train.max_epoch':
        return bool(config['train.lr_scheduler'] == 'cosine')  # other schedules do not know the end
    if is_of_another(key, config['model.name']):
        return False
    return general_key(key) not in FREE_KEYS and not key.startswith('test.')


def changed_keys(before: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Keys of the recipe that differ between two configs → (value before, value now).

    What ``before`` does not know is as :func:`recorded_settings` says.
    """
    before = recorded_settings(before)
    keys = [key for key in now if is_recipe(key, now) or is_recipe(key, before)]
    return {key: (before[key], now[key]) for key in keys if before[key] != now[key]}


def changes_since(checkpoint: Mapping[str, Any], run: RunFacts) -> dict[str, tuple[Any, Any]]:
    """As :func:`changed_keys`, from a checkpoint to a run; 'training data' is the digest of it.

    What a checkpoint does not say it has in common.
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
    """``model.resume``; for ``auto`` the furthest checkpoint of the run folder, '' if none.

    Args:
        cfg: of the run.
        model, optimizer, scheduler: as at the start of a run.
        run: what the checkpoints of the run say.
    """
    if cfg.model.resume != AUTO:
        return os.path.expanduser(str(cfg.model.resume))

    def check(path: str) -> None:
        checkpoint = load_resumable(path)
        if not changes_since(checkpoint, run):
            resume(checkpoint, path, model, optimizer, scheduler, dry=True)

    return newest_of_run(cfg, check)


def newest_of_run(cfg: CfgNode, check: Callable[[str], object] = load_resumable) -> str:
    """The furthest checkpoint of the run folder, '' with a message if there is none.

    Args:
        cfg: of the run.
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
    """Put everything where the checkpoint left it.

    Args:
        path: checkpoint.
        model, optimizer, scheduler: as at the start of a run.
        run: its config and training data are compared with the checkpoint's.
        allow_changed: let the recipe or the training data differ. Optimizer settings and schedule
            are then the new ones, and an interrupted epoch starts anew.

    Raises:
        InputError: another recipe (names the keys), training data or architecture, a file with
            weights only, or a damaged one.
    """
    checkpoint = load_resumable(path)
    if not checkpoint.get('config'):
        logger.warning(f'{printable(path)} does not say which recipe made it')
    changed = changes_since(checkpoint, run)
    named = ', '.join(f'{key} was {old!r}, is {new!r}' for key, (old, new) in changed.items())
    if changed and not allow_changed:
        raise InputError(
            f'model.resume: {path} was made by another recipe: {named}; '
            'train.allow_changed True goes on all the same'
        )
    if changed:
        logger.warning(f'Going on with another recipe: {named}')
    keep_moments = 'train.optim' not in changed
    if not keep_moments:
        logger.warning('The moments of the other optimizer are left behind')
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
    """Of the evaluations so far, by ``test.best``; of another score nothing is known yet."""
    before = (checkpoint.get('config') or {}).get('test.best', 'mAP')
    if run.config.get('test.best', before) != before:
        return Reached.best_map
    return float(checkpoint.get('best_map', Reached.best_map))
