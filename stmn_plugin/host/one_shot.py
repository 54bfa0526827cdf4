"""Run one-shot learning (EUG, CVPR 2018) in steps, each of which is an ordinary run.

A step is a run folder, ``step-00`` and so on. Its training set is a file (``data.train_list``) of
the labelled tracklets with their identities and of selected ones with pseudo-labels; true labels of
unlabelled tracklets are never used in training. A step is finished when its selection is written,
so the procedure can stop at any moment and resume.
"""

import contextlib
import gc
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from yacs.config import CfgNode

from stmn_plugin.config import read_yaml
from stmn_plugin.config.defaults import flatten, recorded_settings
from stmn_plugin.config.kwargs import videodata_kwargs
from stmn_plugin.config.rules import AUTO
from stmn_plugin.data.host_lists import hold_out_target, read_training, unique_names
from stmn_plugin.data.tracklets import Tracklet
from stmn_plugin.data.train_list import train_list, write_train_list
from stmn_plugin.device import usable_gpu
from stmn_plugin.distributed import (
    broadcast,
    broadcast_buffers,
    is_main,
    main_first,
    peer_errors,
    process_group,
)
from stmn_plugin.errors import InputError, printable
from stmn_plugin.evaluation.evaluator import Searched
from stmn_plugin.interrupt import Interruption
from stmn_plugin.labels import UNKNOWN
from stmn_plugin.log import not_shown
from stmn_plugin.training.checkpoint import checkpoint_path
from stmn_plugin.training.metric_files import read_evaluations
from stmn_plugin.training.one_shot import (
    PseudoLabels,
    chosen_counts,
    draw_labelled,
    nearest_labels,
    nearest_of_rows,
)
from stmn_plugin.training.one_shot_files import (
    SPLIT,
    SPLIT_KEY,
    SUMMARY,
    TABLE,
    Chosen,
    Split,
    StepResult,
    chosen_path,
    read_chosen,
    read_split,
    split_of,
    step_folder,
    steps_text,
    write_chosen,
    write_split,
    write_summary,
)
from stmn_plugin.training.resuming import changed_keys
from stmn_plugin.training.run_folder import hold_folder

from .engine import VideoEngine
from .parts import check_arch
from .registration import register
from .runner import run

logger = logging.getLogger(__name__)

TRAIN_LIST = 'train_list.json'  # of a step's folder
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


def run_one_shot(cfg: CfgNode) -> list[StepResult]:
    """Train all steps, or resume them, with the config section ``one_shot``.

    Under torchrun every step runs on all processes.

    Args:
        cfg: from :func:`stmn_plugin.config.load_config`; ``data.save_dir`` is the folder of the
            steps, ``train.max_epoch`` the epochs of each.

    Returns:
        The results of the steps, in order.

    Raises:
        InputError: invalid settings or files.
        Interrupted: a signal arrived; the state is saved.
    """
    check_one_shot(cfg)
    folder, results = cfg.data.save_dir, list[StepResult]()
    with process_group(usable_gpu(cfg.use_gpu)), peer_errors(), _main_alone(folder):
        register(cfg)
        check_arch(cfg.model.name)
        with main_first():
            tracklets = training_set(cfg)
        check_unchanged(cfg, folder)
        split = broadcast(split_of_folder(cfg, tracklets) if is_main() else None)
        counts = chosen_counts(len(split.unlabelled), cfg.one_shot.factor)
        logger.info(plan_line(split, counts))
        chosen = Chosen({})
        for step, count in enumerate(counts):
            path = chosen_path(folder, step + 1)
            done = is_main() and os.path.exists(path)
            if not broadcast(done):
                number = f'Step {step} of {len(counts) - 1}'
                parts = f'{len(split.labelled)} labelled, {len(chosen.labels)} pseudo-labelled'
                logger.info(f'{number}: {parts} tracklets')
                run_step(cfg, step, count, split, chosen, tracklets)
            following = broadcast(read_chosen(path, count, split) if is_main() else None)
            evaluations = _evaluations(cfg, step)
            results.append(StepResult(step, len(split.labelled), chosen, following, evaluations))
            if is_main():
                write_summary(folder, cfg.model.name, cfg.one_shot.factor, split, results)
            chosen = following
        logger.info(f'\n{steps_text(results)}\n')
        logger.info(printable(f'Written into {folder}: {TABLE}, {SUMMARY}, {SPLIT}, chosen-*.json'))
    return results


def plan_one_shot(cfg: CfgNode) -> None:
    """Log the data that :func:`run_one_shot` would train on, without writing anything.

    Raises:
        InputError: invalid settings or files.
    """
    check_one_shot(cfg)
    register(cfg)
    check_arch(cfg.model.name)
    tracklets = training_set(cfg)
    split = split_of_config(cfg, tracklets)
    logger.info(plan_line(split, chosen_counts(len(split.unlabelled), cfg.one_shot.factor)))


def run_step(
    cfg: CfgNode,
    step: int,
    count: int,
    split: Split,
    chosen: Chosen,
    tracklets: Sequence[Tracklet],
) -> None:
    """Train and evaluate a step, or the rest of it, and write its selection for the next.

    Args:
        cfg: config of all steps.
        step: k.
        count: number of tracklets to select, the size of S_{k+1}.
        split: split of the training set.
        chosen: S_k.
        tracklets: the whole training set.

    Raises:
        InputError: any error of a run.
    """
    folder = step_folder(cfg.data.save_dir, step)
    if is_main():
        labels = [(index, int(tracklets[index][1])) for index in split.labelled]
        content = train_list([*labels, *chosen.labels.items()], tracklets)
        write_train_list(os.path.join(folder, TRAIN_LIST), content)
    broadcast(None)  # the others wait for the file
    engine = run(step_config(cfg, step))
    estimated = estimate_labels(engine, tracklets, split)
    if estimated is not None:
        path = chosen_path(cfg.data.save_dir, step + 1)
        write_chosen(path, estimated, count, split, tracklets)
    del engine  # free its memory for the next one
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    broadcast(None)


def step_config(cfg: CfgNode, step: int) -> CfgNode:
    """Return the config of a step, an ordinary run that resumes automatically."""
    folder = step_folder(cfg.data.save_dir, step)
    own = cfg.clone()
    own.defrost()
    own.model.resume = AUTO
    own.data.train_list = os.path.join(folder, TRAIN_LIST)
    own.data.save_dir = folder
    if cfg.one_shot.warm_start and step:
        before = os.path.join(step_folder(cfg.data.save_dir, step - 1), 'model')
        own.model.load_weights = checkpoint_path(before, cfg.train.max_epoch)
    own.freeze()
    return own


def estimate_labels(
    engine: VideoEngine, tracklets: Sequence[Tracklet], split: Split
) -> PseudoLabels | None:
    """Estimate pseudo-labels of the unlabelled tracklets with the engine's network and test.

    If the network scores pairs of tracklets itself, the nearest has the highest score.

    Returns:
        The labels in the main process, None in others.
    """
    broadcast_buffers(engine.model)
    parts = {'labelled': split.labelled, 'unlabelled': split.unlabelled}
    found = {}
    with Interruption() as interruption, interruption.at_once():
        for name, indices in parts.items():
            # only frames, without identities
            bare = [(tracklets[index][0], UNKNOWN, UNKNOWN, 0) for index in indices]
            found[name] = engine.embedder(bare, name) if bare else None
        labelled, unlabelled = found['labelled'], found['unlabelled']
        if not is_main():
            return None
        if labelled is None or unlabelled is None:
            return nearest_of_rows((), ())
        identities = [int(tracklets[index][1]) for index in split.labelled]
        evaluator = engine.evaluator()
        if evaluator.scores_pairs:
            rows = evaluator.distances(Searched(unlabelled, labelled))
            return nearest_of_rows(rows, identities)
        return nearest_labels(unlabelled.features, labelled.features, identities)


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
    """Raise InputError if the first step of a folder was started with another recipe.

    An unfinished step is also compared when it resumes; other steps are not.
    """
    path = os.path.join(step_folder(folder, 0), 'config.yaml')
    if not os.path.exists(path) or cfg.train.allow_changed:
        return
    before, now = recorded_settings(read_yaml(path)), flatten(cfg)
    changed = changed_keys(before, now)
    changed |= {key: (before[key], now[key]) for key in DECISIVE if before[key] != now[key]}
    if changed:
        named = ', '.join(f'{key} was {old!r}, is {new!r}' for key, (old, new) in changed.items())
        raise InputError(f'data.save_dir: {folder} holds steps of another recipe: {named}')


def plan_line(split: Split, counts: Sequence[int]) -> str:
    """Describe the number of trainings and of tracklets in each."""
    sizes = [len(split.labelled) + count for count in [0, *counts[:-1]]]
    shown = ', '.join(map(str, sizes if len(sizes) <= 8 else [*sizes[:3], '...', sizes[-1]]))
    return (
        f'One-shot learning: {len(split.labelled)} labelled and {len(split.unlabelled)} unlabelled '
        f'tracklets; trained on {shown} of them in {len(counts)} steps'
    )


def _evaluations(cfg: CfgNode, step: int) -> list[Mapping[str, Any]]:
    """Read the evaluations at the end of a step; [] if its folder is missing."""
    found = read_evaluations(step_folder(cfg.data.save_dir, step))
    return [one for one in found if one['epoch'] == cfg.train.max_epoch]


@contextlib.contextmanager
def _main_alone(folder: str) -> Iterator[None]:
    """Lock the folder in the main process; silence the others."""
    if not is_main():
        with not_shown():
            yield
        return
    try:
        os.makedirs(folder, exist_ok=True)
    except OSError as error:
        raise InputError(f'data.save_dir: cannot write {folder}: {error.strerror}') from error
    with hold_folder(folder):
        yield
