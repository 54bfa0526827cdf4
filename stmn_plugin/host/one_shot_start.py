"""What one-shot learning checks and reads before its first step: settings, tracklets, the split."""

import glob
import os
from collections.abc import Sequence

from yacs.config import CfgNode

from stmn_plugin.config import read_yaml
from stmn_plugin.config.defaults import flatten, recorded_settings
from stmn_plugin.config.kwargs import videodata_kwargs
from stmn_plugin.config.rules import AUTO
from stmn_plugin.data.host_lists import hold_out_target, read_training, unique_names
from stmn_plugin.data.tracklets import Tracklet
from stmn_plugin.errors import InputError
from stmn_plugin.numerals import counted
from stmn_plugin.training.one_shot import draw_labelled
from stmn_plugin.training.one_shot_files import (
    SPLIT,
    SPLIT_KEY,
    Split,
    read_split,
    split_of,
    step_folder,
    write_split,
)
from stmn_plugin.training.resuming import changed_keys

# keys outside the recipe that determine the result of a step: its length, its start, and the
# features that pseudo-labels are estimated from
DECISIVE = (
    'train.max_epoch',
    'model.pretrained',
    'model.load_weights',
    'test.frames',
    'test.clips_per_tracklet',
    'test.all_clips',
    'test.flip',
    'test.amp',
)


def check_one_shot(cfg: CfgNode) -> None:
    """Raise InputError for settings of ordinary runs that one-shot learning does not support."""
    if cfg.data.type != 'video':
        raise InputError(f'data.type {cfg.data.type}: one-shot learning needs video data')
    if cfg.train.max_epoch == 0:
        raise InputError('train.max_epoch 0: the steps would train nothing')
    refused = {
        'test.evaluate': cfg.test.evaluate,
        'train.overwrite': cfg.train.overwrite,
        'train.start_epoch': cfg.train.start_epoch,
        'data.train_list': cfg.data.train_list,
        'model.resume': cfg.model.resume.replace(AUTO, ''),
    }
    for key, value in refused.items():
        if value:
            raise InputError(
                f'{key} {value}: one-shot learning sets this itself and resumes the steps in '
                'data.save_dir; take another folder to start again'
            )


def check_unchanged(cfg: CfgNode, folder: str) -> None:
    """Raise InputError if the steps of a folder have another recipe, or choices have none.

    The first step that is there is compared: all have one recipe, and folders of finished steps may
    have been removed. An unfinished step is also compared when it resumes.
    """
    if cfg.train.allow_changed:
        return
    inside = glob.escape(folder)
    paths = sorted(glob.glob(os.path.join(inside, 'step-[0-9]*', 'config.yaml')))
    choices = sorted(glob.glob(os.path.join(inside, 'chosen-[0-9]*.json')))
    if not paths:
        if choices:
            raise InputError(
                f'data.save_dir: {choices[0]} was chosen by a recipe that no {folder}/step-*/'
                'config.yaml tells: restore one, or take another folder'
            )
        return
    before, now = recorded_settings(read_yaml(paths[0])), flatten(cfg)
    changed = changed_keys(before, now)
    changed |= {key: (before[key], now[key]) for key in DECISIVE if before[key] != now[key]}
    if cfg.one_shot.warm_start and os.path.dirname(paths[0]) != step_folder(folder, 0):
        changed.pop('model.load_weights', None)  # of the step before
    if changed:
        named = ', '.join(f'{key} was {old!r}, is {new!r}' for key, (old, new) in changed.items())
        raise InputError(f'data.save_dir: {folder} holds steps of another recipe: {named}')


def training_set(cfg: CfgNode) -> list[Tracklet]:
    """Read all training tracklets except those of identities held out for validation."""
    options = videodata_kwargs(cfg)
    ways = ('root', 'combineall', 'split_id', 'seq_len', 'sample_method')
    sources = unique_names('data.sources', cfg.data.sources) or []
    training = read_training(sources, {key: options[key] for key in ways})
    if cfg.data.validation_ids:
        training, _ = hold_out_target(training, cfg.data.validation_ids, cfg.data.validation_seed)
    return training.tracklets


def split_of_folder(cfg: CfgNode, tracklets: Sequence[Tracklet]) -> Split:
    """Return the split of the folder, writing it the first time.

    Raises:
        InputError: as :func:`split_of_config`, or the folder has another split than the config.
    """
    path, given = os.path.join(cfg.data.save_dir, SPLIT), cfg.one_shot.split_file
    split, seed = split_of_config(cfg, tracklets), cfg.one_shot.split_seed
    if not os.path.exists(path):
        write_split(path, split, tracklets, None if given else seed)
        return split
    there = read_split(path, tracklets)
    if sorted(there.labelled) != sorted(split.labelled):
        asked = f'{SPLIT_KEY} {given}' if given else f'one_shot.split_seed {seed}'
        raise InputError(
            f'{asked}: {path} is another split, which the steps there were trained on: '
            'take another data.save_dir'
        )
    return there


def split_of_config(cfg: CfgNode, tracklets: Sequence[Tracklet]) -> Split:
    """Read the split of ``one_shot.split_file``, or draw one with ``one_shot.split_seed``.

    Raises:
        InputError: the file is unusable or belongs to other data.
    """
    if cfg.one_shot.split_file:
        return read_split(cfg.one_shot.split_file, tracklets)
    pids, camids = [int(pid) for _, pid, *_ in tracklets], [int(cam) for _, _, cam, _ in tracklets]
    return split_of(draw_labelled(pids, camids, cfg.one_shot.split_seed), len(tracklets))


def plan_line(split: Split, counts: Sequence[int]) -> str:
    """Describe the number of trainings and of tracklets in each."""
    sizes = [len(split.labelled) + count for count in [0, *counts[:-1]]]
    shown = ', '.join(map(str, sizes if len(sizes) <= 8 else [*sizes[:3], '...', sizes[-1]]))
    return (
        f'One-shot learning: {len(split.labelled)} labelled and {len(split.unlabelled)} unlabelled '
        f'tracklets; trained on {shown} of them in {counted(len(counts), "step")}'
    )
