"""Run a checked config: folder, log, engine and results; ``parts.py`` builds the parts."""

import contextlib
import logging
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torchreid
from torch import nn
from yacs.config import CfgNode

from stmn_plugin.config.defaults import flatten
from stmn_plugin.config.kwargs import (
    run_kwargs,
    training_kwargs,
)
from stmn_plugin.config.rules import AUTO
from stmn_plugin.device import device_line, device_name, usable_gpu
from stmn_plugin.distributed import is_main, main_first, peer_errors, process_group
from stmn_plugin.errors import printable, resource_errors
from stmn_plugin.evaluation.protocols import results_table
from stmn_plugin.models.facts import check_batch, model_facts
from stmn_plugin.randomness import deterministic_algorithms
from stmn_plugin.training.checkpoint import BEST, count_classes, load_weights
from stmn_plugin.training.metric_files import METRICS
from stmn_plugin.training.provenance import training_digest
from stmn_plugin.training.resuming import newest_of_run, path_to_resume, resume_run
from stmn_plugin.training.run_folder import run_folder, write_config
from stmn_plugin.training.run_record import RunRecord
from stmn_plugin.training.run_state import Reached, RunFacts
from stmn_plugin.training.settings import TrainingSettings
from stmn_plugin.training.speed import (
    tf32,
)

from .engine import VideoEngine
from .parts import (
    build_datamanager,
    build_model,
    build_objective,
    build_optimizer,
    check_arch,
    check_layers,
    check_processes,
    speed_up,
    test_settings,
)
from .registration import register

logger = logging.getLogger(__name__)


def run(cfg: CfgNode, try_next: str = '') -> VideoEngine:
    """Train and evaluate, or only evaluate, a config; under torchrun in all processes together.

    Args:
        cfg: a config of :func:`stmn_plugin.config.load_config`.
        try_next: a command to suggest at the end of the log.

    Returns:
        The engine after the run; ``.record.evaluations`` are its results.

    Raises:
        InputError: invalid settings or files.
    """
    with _started(cfg) as log:
        engine = prepare(cfg)
        reached = engine.record.reached
        if is_main() and not cfg.test.evaluate:
            # train.start_epoch only changes the count; existing files belong to another run
            resumed = reached.epochs if reached.path else 0
            batches = engine.trainer.batches
            batches.start_at(resumed)  # epochs may differ in length
            engine.record.remove_overwritten(cfg.data.save_dir, resumed, len(batches))
            write_config(cfg)
        engine.ends_with_table = True
        engine.run(start_epoch=reached.epochs, **run_kwargs(cfg))
        log_end(engine, cfg, log)
        if try_next:
            logger.info(f'Next: {try_next}')
    return engine


def run_tests(cfgs: Sequence[CfgNode], use: Callable[[int, VideoEngine], None]) -> None:
    """Test the same weights on the same data by several configs; both are loaded once.

    Args:
        cfgs: configs with ``test.evaluate`` that differ in ``test.*`` only.
        use: function that receives the number of a config, from 0, and the engine after its test.

    Raises:
        InputError: invalid settings or files.
    """
    with _started(cfgs[0]):
        engine = prepare(cfgs[0])
        for number, cfg in enumerate(cfgs):
            engine.test_by(test_settings(cfg), flatten(cfg))
            engine.run(**run_kwargs(cfg))
            use(number, engine)


@contextlib.contextmanager
def _started(cfg: CfgNode) -> Iterator[str]:
    """Set up processes, run folder and arithmetic of a run; yields the path of its log."""
    with (
        process_group(usable_gpu(cfg.use_gpu)),
        run_folder(cfg) as log,
        peer_errors(),
        deterministic_algorithms(cfg.train.deterministic),
        tf32(cfg.train.tf32),
    ):
        yield log


def log_end(engine: VideoEngine, cfg: CfgNode, log: str) -> None:
    """Log the table of the last evaluations and the paths of the files."""
    record, epoch = engine.record, None if cfg.test.evaluate else engine.max_epoch
    results = [one for one in record.evaluations if one['epoch'] == epoch]
    if results:
        logger.info(results_table(results[-len(engine.test_loader) :]))
    elif epoch is not None:
        logger.warning(f'{METRICS} has no evaluation after epoch {epoch}')
    folder, names = cfg.data.save_dir, [os.path.basename(log)]
    if os.path.exists(os.path.join(folder, METRICS)):
        names.insert(0, METRICS)
    if record.last_checkpoint and not cfg.test.evaluate:
        names.insert(0, os.path.relpath(record.last_checkpoint, folder))
    logger.info(printable(f'Written into {folder}: {", ".join(names)}'))


@resource_errors('model.name')
def prepare(cfg: CfgNode) -> VideoEngine:
    """Build everything that a run needs: data, model with its weights, optimizer, settings.

    With ``test.evaluate`` no training set is read and no optimizer is built.

    Raises:
        InputError: invalid settings or files, or a model that does not fit into memory.
    """
    logger.info(device_line(cfg.use_gpu))
    cfg = with_usable_device(cfg)
    register(cfg)
    check_arch(cfg.model.name)
    check_processes(cfg)
    torchreid.utils.set_random_seed(cfg.train.seed)
    return prepare_test(cfg) if cfg.test.evaluate else prepare_training(cfg)


def prepare_training(cfg: CfgNode) -> VideoEngine:
    """Build an engine that trains from the beginning or from a checkpoint."""
    with main_first():
        datamanager = build_datamanager(cfg)
        model = build_model(cfg, datamanager.num_train_pids)
    facts = facts_of(cfg, model)  # first, as it reports frame sizes that the model cannot take
    check_layers(cfg, model)
    check_batch(cfg, model)  # in eval mode
    if cfg.model.load_weights:
        load_weights(model, cfg.model.load_weights)
    model = speed_up(cfg, model)
    parts = model, *build_optimizer(cfg, model)
    run = RunFacts(facts, flatten(cfg), training_digest(datamanager))
    path = path_to_resume(cfg, *parts, run)
    reached = Reached(epochs=cfg.train.start_epoch)
    if path:
        reached = resume_run(path, *parts, run, cfg.train.allow_changed)
    reached.auto = cfg.model.resume == AUTO
    return VideoEngine(
        datamanager,
        *parts,
        cfg.use_gpu,
        objective=build_objective(cfg, datamanager, model),
        training=TrainingSettings(**training_kwargs(cfg)),
        testing=test_settings(cfg),
        record=RunRecord(
            run=run,
            reached=reached,
            keep_last=cfg.train.keep_last,
            overwrite=cfg.train.overwrite,
            best_by=cfg.test.best,
        ),
        pooling_method=cfg.video.pooling_method,
    )


def prepare_test(cfg: CfgNode) -> VideoEngine:
    """Build an engine that only tests the weights of ``model.load_weights`` or ``model.resume``."""
    path = path_to_test(cfg)
    with main_first():
        datamanager = build_datamanager(cfg)
        model = build_model(cfg, count_classes(path) if path else datamanager.num_train_pids or 1)
    facts = facts_of(cfg, model)
    checkpoint = load_weights(model, path) if path else {}
    trained_on, chosen_by = (str(checkpoint.get(name, '')) for name in ('trained_on', 'chosen_by'))
    if chosen_by and os.path.basename(path) == BEST:
        logger.warning(f'{printable(path)} is the epoch with the best {chosen_by}')
    return VideoEngine(
        datamanager,
        speed_up(cfg, model),
        None,
        use_gpu=cfg.use_gpu,
        testing=test_settings(cfg),
        record=RunRecord(run=RunFacts(facts, flatten(cfg), trained_on, path)),
        pooling_method=cfg.video.pooling_method,
    )


def path_to_test(cfg: CfgNode) -> str:
    """Return the path of the checkpoint to test; '' for the initial weights."""
    resumed = newest_of_run(cfg) if cfg.model.resume == AUTO else cfg.model.resume
    path = resumed or cfg.model.load_weights
    if not path and not cfg.model.resume:
        logger.warning('Testing the initial weights: model.load_weights is not set')
    return path


def facts_of(cfg: CfgNode, model: nn.Module) -> dict[str, Any]:
    """Return and log the size and cost of the model and its device."""
    facts = {**model_facts(cfg, model), 'device': device_name(cfg.use_gpu)}
    logger.info('Model: ' + ', '.join(f'{key} {value}' for key, value in facts.items()))
    return facts


def with_usable_device(cfg: CfgNode) -> CfgNode:
    """Return the config with ``use_gpu`` unset if there is no GPU."""
    cfg = cfg.clone()
    cfg.defrost()
    cfg.use_gpu = usable_gpu(cfg.use_gpu)
    cfg.freeze()
    return cfg
