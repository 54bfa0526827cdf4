"""Build the parts of a run from a checked config: data, model, optimizer, objective, tests."""

import difflib
from typing import Any

import torchreid
from torch import nn
from torch.optim import Optimizer
from yacs.config import CfgNode

from stmn_plugin.config.defaults import flatten
from stmn_plugin.config.kwargs import (
    imagedata_kwargs,
    lr_scheduler_kwargs,
    optimizer_kwargs,
    plan_kwargs,
    recipe_kwargs,
    testing_kwargs,
    videodata_kwargs,
)
from stmn_plugin.data.datamanager import VideoDataManager
from stmn_plugin.data.frame_samplers import ClipPlan
from stmn_plugin.data.image_data import build_image_data
from stmn_plugin.distributed import world_size
from stmn_plugin.errors import InputError
from stmn_plugin.evaluation.settings import TestSettings
from stmn_plugin.losses import Recipe
from stmn_plugin.models import FrameByFrame, ModelSpec, VideoModel, build_video_model
from stmn_plugin.models.encoder import checkpoint_activations
from stmn_plugin.models.image_models import build_image_model
from stmn_plugin.models.sync_batch_norm import synchronize_batch_norm
from stmn_plugin.training.objective import ClipObjective, FrameObjective, Objective
from stmn_plugin.training.settings import scale_memory_rate
from stmn_plugin.training.speed import (
    check_amp,
    compile_in_place,
    return_freed_memory,
    use_channels_last,
    with_fused_steps,
)

from .registration import model_registry

# architectures whose code calls view() on maps, which fails for channels_last
CONTIGUOUS_ONLY = ('mudeep', 'pcb_p4', 'pcb_p6')


def check_arch(name: str) -> None:
    """Raise InputError with the nearest name unless the model factory knows the name."""
    known = list(model_registry())
    if name not in known:
        nearest = difflib.get_close_matches(name, known, n=1, cutoff=0)[0]
        raise InputError(
            f'model.name: {name!r} is no architecture; the nearest is {nearest!r} '
            '(--list-archs shows all, --import FILE.py adds one)'
        )


def check_processes(cfg: CfgNode) -> None:
    """Raise InputError for settings that need a single process."""
    if world_size() == 1:
        return
    if cfg.data.type == 'image':
        raise InputError(f'data.type image is for a single process, these are {world_size()}')
    if cfg.test.features_dir:
        raise InputError(f'test.features_dir is for a single process, these are {world_size()}')


def build_datamanager(cfg: CfgNode) -> Any:
    """Build the data manager of videos or images; a test reads the targets only."""
    if cfg.data.type == 'video':
        return VideoDataManager(**videodata_kwargs(cfg))
    return build_image_data(imagedata_kwargs(cfg), cfg.test.evaluate)


def build_model(cfg: CfgNode, num_classes: int) -> nn.Module:
    """Build the network to train: a video model, or an image model of the host's factory."""
    spec = ModelSpec.from_config(flatten(cfg))
    if cfg.data.type == 'image':
        pretrained, use_gpu = cfg.model.pretrained, cfg.use_gpu
        return build_image_model(spec.arch, num_classes, cfg.loss.name, pretrained, use_gpu)
    model = build_video_model(spec, num_classes, cfg.model.pretrained, cfg.use_gpu)
    return model.network if isinstance(model, FrameByFrame) else model


def speed_up(cfg: CfgNode, model: nn.Module) -> nn.Module:
    """Move the model to its device, with the memory layout, compilation and BNs of the config."""
    for key in ('train.amp', 'test.amp'):
        check_amp(flatten(cfg)[key], key, cfg.use_gpu)
    if cfg.train.checkpoint_activations:
        checkpoint_activations(model, cfg.model.name)
        if not cfg.use_gpu:
            return_freed_memory()
    if cfg.train.sync_bn and world_size() > 1:
        # only the backbone of a video model: BNs after it are always synchronised
        part = model.backbone() if isinstance(model, VideoModel) else model
        synchronize_batch_norm(part, cfg.use_gpu)
    if cfg.use_gpu:
        model = model.cuda()
    if cfg.train.channels_last and cfg.model.name not in CONTIGUOUS_ONLY:
        use_channels_last(model)
    if cfg.train.compile:
        compile_in_place(model)
    return model


def build_optimizer(cfg: CfgNode, model: nn.Module) -> tuple[Optimizer, Any]:
    """Build the host's optimizer and learning rate scheduler."""
    options = optimizer_kwargs(cfg)
    try:
        optimizer = torchreid.optim.build_optimizer(model, **options)
    except ValueError as error:  # torch's error for a number out of range
        raise InputError(f'train.optim {cfg.train.optim}: {error}') from error
    scale_memory_rate(optimizer, model, cfg.train.memory_lr_mult)
    if cfg.train.fused:
        optimizer = with_fused_steps(optimizer)
    return optimizer, torchreid.optim.build_lr_scheduler(optimizer, **lr_scheduler_kwargs(cfg))


def check_layers(cfg: CfgNode, model: nn.Module) -> None:
    """Raise InputError for a layer that the model lacks; the host notices late or never."""
    names = [name for name, _ in model.named_children()]
    required = []
    if cfg.train.fixbase_epoch > 0:
        required += [('train.open_layers', layer) for layer in cfg.train.open_layers]
    if cfg.train.staged_lr:
        required += [('train.new_layers', layer) for layer in cfg.train.new_layers]
    for key, layer in required:
        if layer not in names:
            raise InputError(
                f'{key}: {layer!r} is no layer of {cfg.model.name}; it has {", ".join(names)}'
            )


def build_objective(cfg: CfgNode, datamanager: Any, model: nn.Module) -> Objective:
    """Build the losses for the model, the loss and the data of the config."""
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


def test_settings(cfg: CfgNode) -> TestSettings:
    """Build the settings of testing."""
    plan = ClipPlan(**plan_kwargs(cfg)) if cfg.data.type == 'video' else None
    return TestSettings(plan=plan, **testing_kwargs(cfg))
