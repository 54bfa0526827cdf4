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

from stmn_plugin.config.rules import AUTO
from stmn_plugin.data.tracklets import Tracklet
from stmn_plugin.data.train_list import (
    TrainList,
    read_train_list,
    train_list,
    write_train_list,
)
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
    nearest_labels,
    nearest_of_rows,
)
from stmn_plugin.training.one_shot_files import (
    SPLIT,
    SUMMARY,
    TABLE,
    Chosen,
    Split,
    StepResult,
    chosen_path,
    read_chosen,
    read_summary,
    step_folder,
    steps_text,
    write_chosen,
    write_summary,
)
from stmn_plugin.training.run_folder import hold_folder

from .engine import VideoEngine
from .one_shot_start import (
    check_one_shot,
    check_unchanged,
    plan_line,
    split_of_config,
    split_of_folder,
    training_set,
)
from .parts import check_arch
from .registration import register
from .runner import run

logger = logging.getLogger(__name__)

TRAIN_LIST = 'train_list.json'  # of a step's folder


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
        chosen, known = Chosen({}), read_summary(folder) if is_main() else {}
        for step, count in enumerate(counts):
            path = chosen_path(folder, step + 1)
            done = is_main() and os.path.exists(path)
            if done:
                check_trained_on(folder, step, labels_of(split, chosen, tracklets))
            if not broadcast(done):
                number = f'Step {step} of {len(counts) - 1}'
                parts = f'{len(split.labelled)} labelled, {len(chosen.labels)} pseudo-labelled'
                logger.info(f'{number}: {parts} tracklets')
                run_step(cfg, step, count, split, chosen, tracklets)
            following = broadcast(read_chosen(path, count, split) if is_main() else None)
            evaluations = _evaluations(cfg, step) or known.get(step, [])
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
        write_train_list(os.path.join(folder, TRAIN_LIST), labels_of(split, chosen, tracklets))
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


def labels_of(split: Split, chosen: Chosen, tracklets: Sequence[Tracklet]) -> TrainList:
    """Return the training list of a step with the pseudo-labels S_k."""
    labels = [(index, int(tracklets[index][1])) for index in split.labelled]
    return train_list([*labels, *chosen.labels.items()], tracklets)


def check_trained_on(folder: str, step: int, labels: TrainList) -> None:
    """Raise InputError if a finished step was trained on other labels, unless its list is gone."""
    path = os.path.join(step_folder(folder, step), TRAIN_LIST)
    if os.path.exists(path) and read_train_list(path) != labels:
        raise InputError(
            f'data.save_dir: {path} holds other labels than {SPLIT} and the choice before: '
            f'delete its folder and {chosen_path(folder, step + 1)} to train the step again'
        )


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


def _evaluations(cfg: CfgNode, step: int) -> list[Mapping[str, Any]]:
    """Read the evaluations at the end of a step; [] if its folder was removed."""
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
