"""A checked config → a run: folder, log, data, model, engine, results."""

import difflib
from typing import Any

import torchreid
from torch import nn
from yacs.config import CfgNode

from stmn_plugin.config.defaults import flatten
from stmn_plugin.config.kwargs import (
    imagedata_kwargs,
    lr_scheduler_kwargs,
    optimizer_kwargs,
    plan_kwargs,
    recipe_kwargs,
    run_kwargs,
    testing_kwargs,
    training_kwargs,
    videodata_kwargs,
)
from stmn_plugin.config.ranges import AUTO
from stmn_plugin.data.clip_plans import ClipPlan
from stmn_plugin.data.datamanager import VideoDataManager
from stmn_plugin.data.host_errors import host_errors_named
from stmn_plugin.data.loaders import FrameLoader, check_shared_memory
from stmn_plugin.device import device_line, device_name, usable_gpu
from stmn_plugin.distributed import is_main, main_first, peer_errors, process_group, world_size
from stmn_plugin.errors import InputError, resource_errors
from stmn_plugin.evaluation.settings import TestSettings
from stmn_plugin.losses import Recipe
from stmn_plugin.models import FrameByFrame, ModelSpec, VideoModel, build_video_model
from stmn_plugin.models.encoder import checkpoint_activations
from stmn_plugin.models.facts import check_batch, model_facts
from stmn_plugin.models.image_models import build_image_model
from stmn_plugin.models.sync_batch_norm import synchronize_batch_norm
from stmn_plugin.randomness import deterministic_algorithms
from stmn_plugin.training.checkpoint import count_classes, load_weights
from stmn_plugin.training.objective import ClipObjective, FrameObjective
from stmn_plugin.training.provenance import training_digest
from stmn_plugin.training.resuming import newest_of_run, path_to_resume, resume_run
from stmn_plugin.training.run_folder import run_folder, write_config
from stmn_plugin.training.run_record import RunRecord
from stmn_plugin.training.run_state import Reached, RunFacts
from stmn_plugin.training.settings import TrainingSettings
from stmn_plugin.training.speed import (
    check_amp,
    compile_in_place,
    give_back_freed_memory,
    tf32,
    use_channels_last,
    with_fused_steps,
)

from .engine import VideoEngine
from .registration import model_registry, register

# architectures whose code views maps as vectors, which channels_last maps are not
CONTIGUOUS_ONLY = ('mudeep', 'pcb_p4', 'pcb_p6')


def run(cfg: CfgNode) -> VideoEngine:
    """Train and evaluate, or only evaluate, as the config says; with the others under torchrun.

    Args:
        cfg: from :func:`stmn_plugin.config.load_config`.

    Returns:
        The engine after the run; ``.record.evaluations`` are its results.

    Raises:
        InputError: anything the user gave that cannot work.
    """
    with (
        process_group(usable_gpu(cfg.use_gpu)),
        run_folder(cfg),
        peer_errors(),
        deterministic_algorithms(cfg.train.deterministic),
        tf32(cfg.train.tf32),
    ):
        engine = prepare(cfg)
        reached = engine.record.reached
        if is_main() and not cfg.test.evaluate:
            # train.start_epoch is where counting starts: what is there is another run all the same
            resumed = reached.epochs if reached.path else 0
            batches = engine.trainer.batches
            batches.go_to(resumed)  # epochs may differ in length
            engine.record.make_way(cfg.data.save_dir, resumed, len(batches))
            write_config(cfg)
        engine.run(start_epoch=reached.epochs, **run_kwargs(cfg))
    return engine


@resource_errors('model.name')
def prepare(cfg: CfgNode) -> VideoEngine:
    """Everything up to the run: data, model with its weights, optimizer, settings.

    With ``test.evaluate`` no training set is read and no optimizer made.

    Raises:
        InputError: anything the user gave that cannot work, as a model beyond the memory.
    """
    print(device_line(cfg.use_gpu))
    cfg = with_usable_device(cfg)
    register(cfg)
    check_arch(cfg.model.name)
    check_processes(cfg)
    torchreid.utils.set_random_seed(cfg.train.seed)
    return prepare_test(cfg) if cfg.test.evaluate else prepare_training(cfg)


def prepare_training(cfg: CfgNode) -> VideoEngine:
    """An engine that trains, at the start of its run or where a checkpoint left it."""
    with main_first():
        datamanager = build_datamanager(cfg)
        model = build_model(cfg, datamanager.num_train_pids)
    check_layers(cfg, model)
    facts = facts_of(cfg, model)  # first: it names frames that a model cannot take
    check_batch(cfg, model)
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
            run=run, reached=reached, keep_last=cfg.train.keep_last, overwrite=cfg.train.overwrite
        ),
        pooling_method=cfg.video.pooling_method,
    )


def prepare_test(cfg: CfgNode) -> VideoEngine:
    """An engine that only tests the weights of ``model.load_weights`` or ``model.resume``."""
    path = path_to_test(cfg)
    with main_first():
        datamanager = build_datamanager(cfg)
        model = build_model(cfg, count_classes(path) if path else datamanager.num_train_pids or 1)
    facts = facts_of(cfg, model)
    checkpoint = load_weights(model, path) if path else {}
    trained_on = str(checkpoint.get('trained_on', ''))
    return VideoEngine(
        datamanager,
        speed_up(cfg, model),
        None,
        use_gpu=cfg.use_gpu,
        testing=test_settings(cfg),
        record=RunRecord(run=RunFacts(facts, flatten(cfg), trained_on)),
        pooling_method=cfg.video.pooling_method,
    )


def path_to_test(cfg: CfgNode) -> str:
    """The checkpoint that is tested; '' for the initial weights."""
    resumed = newest_of_run(cfg) if cfg.model.resume == AUTO else cfg.model.resume
    path = resumed or cfg.model.load_weights
    if not path and not cfg.model.resume:
        print('Testing the initial weights: model.load_weights is not set')
    return path


def facts_of(cfg: CfgNode, model: nn.Module) -> dict[str, Any]:
    """Size and cost of the model, and where it runs; printed."""
    facts = {**model_facts(cfg, model), 'device': device_name(cfg.use_gpu)}
    print('Model: ' + ', '.join(f'{key} {value}' for key, value in facts.items()))
    return facts


def test_settings(cfg: CfgNode) -> TestSettings:
    """How the model is tested."""
    plan = ClipPlan(**plan_kwargs(cfg)) if cfg.data.type == 'video' else None
    return TestSettings(plan=plan, **testing_kwargs(cfg))


def with_usable_device(cfg):
    """The config, with ``use_gpu`` only where there is one."""
    cfg = cfg.clone()
    cfg.defrost()
    cfg.use_gpu = usable_gpu(cfg.use_gpu)
    cfg.freeze()
    return cfg


def check_arch(name):
    """InputError with the nearest name unless the model factory knows the name."""
    known = list(model_registry())
    if name not in known:
        nearest = difflib.get_close_matches(name, known, n=1, cutoff=0)[0]
        raise InputError(
            f'model.name: {name!r} is no architecture; the nearest is {nearest!r} '
            '(--list-archs shows all, --import FILE.py adds one)'
        )


def check_processes(cfg):
    """InputError for what needs a single process."""
    if world_size() == 1:
        return
    if cfg.data.type == 'image':
        raise InputError(f'data.type image is for a single process, these are {world_size()}')
    if cfg.test.features_dir:
        raise InputError(f'test.features_dir is for a single process, these are {world_size()}')


def build_datamanager(cfg):
    """Our video data manager, or the host's for images."""
    if cfg.data.type == 'video':
        return VideoDataManager(**videodata_kwargs(cfg))
    with host_errors_named():
        datamanager = torchreid.data.ImageDataManager(**imagedata_kwargs(cfg))
    image_bytes = 4 * 3 * cfg.data.height * cfg.data.width
    check_shared_memory(
        cfg.data.workers,
        {key: flatten(cfg)[key] * image_bytes for key in ('train.batch_size', 'test.batch_size')},
    )
    datamanager.train_loader = FrameLoader.like(datamanager.train_loader)
    for loaders in datamanager.test_loader.values():
        for mode, loader in loaders.items():
            loaders[mode] = FrameLoader.like(loader)
    return datamanager


def build_model(cfg: CfgNode, num_classes: int) -> nn.Module:
    """What is trained: a video model, or an image model of the host's factory by its own ways."""
    spec = ModelSpec.from_config(flatten(cfg))
    if cfg.data.type == 'image':
        pretrained, use_gpu = cfg.model.pretrained, cfg.use_gpu
        return build_image_model(spec.arch, num_classes, cfg.loss.name, pretrained, use_gpu)
    model = build_video_model(spec, num_classes, cfg.model.pretrained, cfg.use_gpu)
    return model.network if isinstance(model, FrameByFrame) else model


def speed_up(cfg: CfgNode, model: nn.Module) -> nn.Module:
    """The model on its device, with the memory layout, compilation and BNs of the config."""
    for key in ('train.amp', 'test.amp'):
        check_amp(flatten(cfg)[key], key, cfg.use_gpu)
    if cfg.train.checkpoint_activations:
        checkpoint_activations(model, cfg.model.name)
        if not cfg.use_gpu:
            give_back_freed_memory()
    if cfg.train.sync_bn and world_size() > 1:
        # of a video model the backbone: what follows sees the whole batch in any case
        part = model.backbone() if isinstance(model, VideoModel) else model
        synchronize_batch_norm(part, cfg.use_gpu)
    if cfg.use_gpu:
        model = model.cuda()
    if cfg.train.channels_last and cfg.model.name not in CONTIGUOUS_ONLY:
        use_channels_last(model)
    if cfg.train.compile:
        compile_in_place(model)
    return model


def build_optimizer(cfg, model):
    """The host's optimizer and learning rate scheduler."""
    options = optimizer_kwargs(cfg)
    try:
        optimizer = torchreid.optim.build_optimizer(model, **options)
    except ValueError as error:  # torch's word for a number that cannot be
        raise InputError(f'train.optim {cfg.train.optim}: {error}') from error
    if cfg.train.fused:
        optimizer = with_fused_steps(optimizer)
    return optimizer, torchreid.optim.build_lr_scheduler(optimizer, **lr_scheduler_kwargs(cfg))


def check_layers(cfg, model):
    """InputError for a layer that the model does not have; the host finds out late or never."""
    names = [name for name, _ in model.named_children()]
    wanted = []
    if cfg.train.fixbase_epoch > 0:
        wanted += [('train.open_layers', layer) for layer in cfg.train.open_layers]
    if cfg.train.staged_lr:
        wanted += [('train.new_layers', layer) for layer in cfg.train.new_layers]
    for key, layer in wanted:
        if layer not in names:
            raise InputError(
                f'{key}: {layer!r} is no layer of {cfg.model.name}; it has {", ".join(names)}'
            )


def build_objective(cfg, datamanager, model):
    """The losses for the model, the loss and the data."""
    if isinstance(model, VideoModel):
        return ClipObjective(model, Recipe(**recipe_kwargs(cfg)))
    weight_t = None if cfg.loss.name == 'softmax' else cfg.loss.triplet.weight_t
    return FrameObjective(
        model,
        datamanager.num_train_pids,
        margin=cfg.loss.triplet.margin,
        weight_t=weight_t,
        weight_x=cfg.loss.triplet.weight_x,
        label_smooth=cfg.loss.softmax.label_smooth,
        soft_margin=cfg.loss.name == 'stmn' and cfg.data.type == 'video',
        use_gpu=cfg.use_gpu,
    )
