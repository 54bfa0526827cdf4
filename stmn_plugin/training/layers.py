"""Which layers of a model train in an epoch, and which of them faster."""

import logging

import torchreid
from torch import nn
from torch.optim import Optimizer

from stmn_plugin.models.base import VideoModel

from .settings import TrainingSettings

logger = logging.getLogger(__name__)


def choose_layers(model: nn.Module, epoch: int, settings: TrainingSettings) -> None:
    """Let all layers train, or in the first ``fixbase_epoch`` epochs ``open_layers`` alone."""
    layers = settings.open_layers
    if epoch < settings.fixbase_epoch and layers is not None:
        logger.info(f'* Only train {layers} (epoch: {epoch + 1}/{settings.fixbase_epoch})')
        torchreid.utils.open_specified_layers(model, layers)
    else:
        torchreid.utils.open_all_layers(model)


def scale_memory_rate(optimizer: Optimizer, model: nn.Module, factor: float) -> None:
    """Multiply the learning rate of ``model.memory_parameters()``, in groups of their own.

    The optimizer has not made a step, and no scheduler knows its groups. Those of the memories come
    first, since the rate that is logged is the last group's. A factor of 1 leaves the groups alone.
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
