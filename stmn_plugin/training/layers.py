"""An epoch → which layers of a model train in it."""

import logging

import torchreid
from torch import nn

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
