"""A checked config → one-shot learning in steps (EUG, CVPR 2018), each step an ordinary run.

A step is a run folder, ``step-00`` and so on, whose training set is a file (``data.train_list``) of
the labelled tracklets with their identities and of chosen ones with pseudo-labels: true labels of
unlabelled tracklets are in no data set that is trained on. A step is done when what it has chosen
is written, so that the procedure can end at any moment and go on from there.
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
from stmn_plugin.config.defaults import flatten
from stmn_plugin.config.kwargs import videodata_kwargs
from stmn_plugin.config.ranges import AUTO
from stmn_plugin.config.recorded import recorded_settings
from stmn_plugin.data.host_lists import hold_out_target, names_once, read_training
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
    steps_table,
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
# beyond the recipe, what decides the result of a step: its length, its start, and how the features
# are made that pseudo-labels are given by
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
    """Train all steps, or go on with them, as the section ``one_shot`` of the config says.

    Under torchrun every step runs on all processes.

    Args:
        cfg: from :func:`stmn_plugin.config.load_config`; ``data.save_dir`` is the folder of the
            steps, ``train.max_epoch`` the epochs of each.

    Returns:
        The results of the steps, in order.

    Raises:
        InputError: anything the user gave that cannot work.
        Interrupted: a signal came; what was running has saved itself.
    """
    check_one_shot(cfg)
    folder, results = cfg.data.save_dir, list[StepResult]()
    with process_group(usable_gpu(cfg.use_gpu)), peer_errors(), _main_alone(folder):
        register(cfg)
        check_arch(cfg.model.name)
        with main_first():
            tracklets = training_set(cfg)
        check_unchanged(cfg, folder)
        split = broadcast(take_split(cfg, tracklets) if is_main() else None)
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
                take_step(cfg, step, count, split, chosen, tracklets)
            following = broadcast(read_chosen(path, count, split) if is_main() else None)
            evaluations = _evaluations(cfg, step)
            results.append(StepResult(step, len(split.labelled), chosen, following, evaluations))
            if is_main():
                write_summary(folder, cfg.model.name, cfg.one_shot.factor, split, results)
            chosen = following
        logger.info(f'\n{steps_table(results)}\n')
        logger.info(printable(f'Written into {folder}: {TABLE}, {SUMMARY}, {SPLIT}, chosen-*.json'))
    return results


def plan_one_shot(cfg: CfgNode) -> None:
    """Log what :func:`run_one_shot` would train on; nothing is written.

    Raises:
        InputError: anything the user gave that cannot work.
    """
    check_one_shot(cfg)
    register(cfg)
    check_arch(cfg.model.name)
    tracklets = training_set(cfg)
    split = asked_split(cfg, tracklets)
    logger.info(plan_line(split, chosen_counts(len(split.unlabelled), cfg.one_shot.factor)))


def take_step(
    cfg: CfgNode,
    step: int,
    count: int,
    split: Split,
    chosen: Chosen,
    tracklets: Sequence[Tracklet],
) -> None:
    """Train and evaluate a step, or what is left of it, and write what it chooses for the next.

    Args:
        cfg: of all steps.
        step: k.
        count: how many tracklets it chooses, the size of S_{k+1}.
        split: of the training set.
        chosen: S_k.
        tracklets: the whole training set.

    Raises:
        InputError: anything that a run can fail of.
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
    del engine  # its memory is the next one's
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    broadcast(None)


def step_config(cfg: CfgNode, step: int) -> CfgNode:
    """The config of a step: an ordinary run, which goes on where it was stopped."""
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
    """Pseudo-labels of the unlabelled tracklets by the network of an engine, as it is tested.

    Where the network scores pairs of tracklets itself, the nearest is that of the highest score.

    Returns:
        None in all processes but the main one.
    """
    broadcast_buffers(engine.model)
    parts = {'labelled': split.labelled, 'unlabelled': split.unlabelled}
    found = {}
    with Interruption() as interruption, interruption.at_once():
        for name, indices in parts.items():
            # frames alone: no identity goes in
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
    """All training tracklets, those of identities that are held out for validation left out."""
    options = videodata_kwargs(cfg)
    ways = ('root', 'combineall', 'split_id', 'seq_len', 'sample_method')
    sources = names_once('data.sources', cfg.data.sources) or []
    training = read_training(sources, {key: options[key] for key in ways})
    if cfg.data.validation_ids:
        training, _ = hold_out_target(training, cfg.data.validation_ids, cfg.data.validation_seed)
    return training.tracklets


def take_split(cfg: CfgNode, tracklets: Sequence[Tracklet]) -> Split:
    """The split of the folder, which is written the first time.

    Raises:
        InputError: as :func:`asked_split`, or another split than the folder's is asked for.
    """
    path, given = os.path.join(cfg.data.save_dir, SPLIT), cfg.one_shot.split_file
    split, seed = asked_split(cfg, tracklets), cfg.one_shot.split_seed
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


def asked_split(cfg: CfgNode, tracklets: Sequence[Tracklet]) -> Split:
    """The split of ``one_shot.split_file``, or one drawn by ``one_shot.split_seed``.

    Raises:
        InputError: a file that cannot be used, or one of other data.
    """
    if cfg.one_shot.split_file:
        return read_split(cfg.one_shot.split_file, tracklets)
    pids, camids = [int(pid) for _, pid, *_ in tracklets], [int(cam) for _, _, cam, _ in tracklets]
    return split_of(draw_labelled(pids, camids, cfg.one_shot.split_seed), len(tracklets))


def check_one_shot(cfg: CfgNode) -> None:
    """InputError for what an ordinary run may be asked and this procedure may not."""
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
                f'{key} {value}: one-shot learning trains steps of its own and goes on with those '
                'that data.save_dir holds; take another folder to start anew'
            )


def check_unchanged(cfg: CfgNode, folder: str) -> None:
    """InputError where the first step of a folder was started with another recipe.

    A step that is under way is compared by itself when it goes on; those that are done are not.
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
    """How many trainings there will be, of how many tracklets."""
    sizes = [len(split.labelled) + count for count in [0, *counts[:-1]]]
    shown = ', '.join(map(str, sizes if len(sizes) <= 8 else [*sizes[:3], '...', sizes[-1]]))
    return (
        f'One-shot learning: {len(split.labelled)} labelled and {len(split.unlabelled)} unlabelled '
        f'tracklets; trained on {shown} of them in {len(counts)} steps'
    )


def _evaluations(cfg: CfgNode, step: int) -> list[Mapping[str, Any]]:
    """Those at the end of a step; [] where its folder is gone."""
    found = read_evaluations(step_folder(cfg.data.save_dir, step))
    return [one for one in found if one['epoch'] == cfg.train.max_epoch]


@contextlib.contextmanager
def _main_alone(folder: str) -> Iterator[None]:
    """The main process holds the folder, the others say nothing."""
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
