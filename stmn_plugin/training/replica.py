"""A model → what a step calls in its place: on many processes its DDP, which averages gradients."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from stmn_plugin.distributed import replicate, world_size
from stmn_plugin.models.base import VideoModel
from stmn_plugin.models.sync_batch_norm import synchronize_outside_backbone


class Replica:
    """The model, or where there are many processes its DDP replica.

    There the batch norms outside the backbone of a video model become ones over all processes.

    Args:
        model: on its device.
        options: of torch's DDP.
    """

    def __init__(self, model: nn.Module, options: Mapping[str, Any]):
        if world_size() > 1 and isinstance(model, VideoModel):
            synchronize_outside_backbone(model)
        self.model = model
        self.options = options
        self.replica: nn.Module | None = None
        self._trained: list[bool] | None = None

    def refresh(self) -> None:
        """Make the replica; again when other parameters train than before."""
        trained = [parameter.requires_grad for parameter in self.model.parameters()]
        if trained != self._trained:
            self.replica = None  # its hooks go before those of the next come
            self.replica = replicate(self.model, **self.options)
            self._trained = trained

    def __call__(self, images: Tensor) -> Any:
        """Outputs for the images of this process."""
        return (self.model if self.replica is None else self.replica)(images)
