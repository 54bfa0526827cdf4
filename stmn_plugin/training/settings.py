"""Settings of a training, and which layers it trains at which learning rate."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import torchreid
from torch import nn
from torch.optim import Optimizer

from stmn_plugin.models.base import VideoModel

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainingSettings:
    """Settings of a :class:`.trainer.Trainer`; the defaults are those of torchreid."""

    amp: str = 'off'  # precision of the model: off | bf16 | fp16
    accumulate: int = 1  # batches per step of the optimizer
    clip_grad_norm: float = 0.0  # limit of the norm of a step's gradients; 0 is no limit
    seed: int | None = None  # of all randomness in a step; None does not seed
    fixbase_epoch: int = 0  # first epochs in which only open_layers train
    open_layers: Sequence[str] | str | None = None
    start_eval: int = 0  # first epoch after which to evaluate
    eval_freq: int = -1  # epochs between evaluations; -1 is only at the end
    save_freq: int = 1  # epochs between checkpoints
    print_freq: int = 10  # batches between two printed lines


def choose_layers(model: nn.Module, epoch: int, settings: TrainingSettings) -> None:
    """Train all layers, or only ``open_layers`` in the first ``fixbase_epoch`` epochs."""
    layers = settings.open_layers
    if epoch < settings.fixbase_epoch and layers is not None:
        logger.info(f'* Only train {layers} (epoch: {epoch + 1}/{settings.fixbase_epoch})')
        torchreid.utils.open_specified_layers(model, layers)
    else:
        torchreid.utils.open_all_layers(model)


def scale_memory_rate(optimizer: Optimizer, model: nn.Module, factor: float) -> None:
    """Multiply the learning rate of ``model.memory_parameters()``, in separate groups.

    Call this before the first step and before a scheduler is made. The groups of the memories come
    first, because the logged rate is that of the last group. A factor of 1 changes nothing.
    """
    if factor == 1:
        return
    memory = {id(p) for p in model.memory_parameters()} if isinstance(model, VideoModel) else set()
    if not memory:
        logger.warning(f'train.memory_lr_mult {factor:g}: the model has no memories, nothing to do')
        return
    groups = [
        {**group, 'params': params, 'lr': group['lr'] * rate}
        for chosen, rate in ((True, factor), (False, 1.0))
        for group in optimizer.param_groups
        if (params := [p for p in group['params'] if (id(p) in memory) == chosen])
    ]
    optimizer.param_groups[:] = groups
