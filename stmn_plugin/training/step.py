"""The parts of a training step: DDP replica, mixed precision, and norms of the gradients."""

import contextlib
import copy
import dataclasses
from collections.abc import Callable, Mapping, MutableMapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from stmn_plugin.distributed import replicate, world_size
from stmn_plugin.models.base import VideoModel
from stmn_plugin.models.sync_batch_norm import synchronize_outside_backbone

from .speed import autocast


class Replica:
    """The model, or with several processes its DDP replica, which averages gradients.

    With several processes the batch norms outside the backbone of a video model are synchronised.

    Args:
        model: the model on its device.
        options: options of torch's DDP.
    """

    def __init__(self, model: nn.Module, options: Mapping[str, Any]):
        if world_size() > 1 and isinstance(model, VideoModel):
            synchronize_outside_backbone(model)
        self.model = model
        self.options = options
        self.replica: nn.Module | None = None
        self._trained: list[bool] | None = None

    def refresh(self) -> None:
        """Create the replica, or create it again if the trained parameters have changed."""
        trained = [parameter.requires_grad for parameter in self.model.parameters()]
        if trained != self._trained:
            self.replica = None  # removes its hooks before the next one adds its own
            self.replica = replicate(self.model, **self.options)
            self._trained = trained

    def __call__(self, images: Tensor) -> Any:
        """Compute the outputs for the images of this process."""
        return (self.model if self.replica is None else self.replica)(images)


NEVER = 2**31 - 1  # steps until a scale grows


class Precision:
    """The mixed precision of a run (``train.amp``).

    The scaler checks gradients on the device, without synchronisation; if one is not finite,
    :meth:`step` does not change the weights. Its scale is constantly 1 unless ``amp`` is fp16, in
    which small gradients would vanish without a larger scale.

    Args:
        device_type: 'cuda' or 'cpu'.
        amp: 'off', 'bf16' or 'fp16'.
        state: state of the scaler of a resumed run.
    """

    def __init__(self, device_type: str, amp: str = 'off', state: dict[str, Any] | None = None):
        self.device_type = device_type
        self.amp = amp
        if amp == 'fp16':
            self.scaler = torch.amp.GradScaler(device_type)
            if state:
                self.scaler.load_state_dict(state)
        else:
            self.scaler = torch.amp.GradScaler(device_type, init_scale=1.0, growth_interval=NEVER)

    def autocast(self) -> contextlib.AbstractContextManager[Any]:
        """Return the context in which the model runs; losses are computed outside of it."""
        block: contextlib.AbstractContextManager[Any] = autocast(self.device_type, self.amp)
        return block

    def backward(self, loss: Tensor) -> None:
        """Compute the gradients of the scaled loss."""
        self.scaler.scale(loss).backward()

    def unscale(self, optimizer: Optimizer) -> None:
        """Divide the gradients by the scale of the loss."""
        self.scaler.unscale_(optimizer)

    def step(self, optimizer: Optimizer) -> None:
        """Update the weights if all gradients are finite, then the scale."""
        self.scaler.step(optimizer)
        self.scaler.update()

    @property
    def scale_may_overflow(self) -> bool:
        """Whether the scale, which was halved, may have caused gradients to overflow."""
        return self.amp == 'fp16' and self.scaler.get_scale() >= 1

    def state(self) -> dict[str, Any] | None:
        """Return the scaler's state for checkpoints; None unless ``amp`` is fp16."""
        return self.scaler.state_dict() if self.amp == 'fp16' else None


class PendingScalars:
    """Scalar tensors that are copied to the host while a GPU continues its computation."""

    def __init__(self, tensors: Mapping[str, Tensor]):
        self.names = list(tensors)
        stacked = torch.stack([tensor.detach() for tensor in tensors.values()])
        self.values = stacked.to('cpu', non_blocking=True)
        self.arrived = torch.cuda.Event() if stacked.is_cuda else None
        if self.arrived:
            self.arrived.record()

    def numbers(self) -> dict[str, float]:
        """Wait for the values and return them by name."""
        if self.arrived:
            self.arrived.synchronize()
        return dict(zip(self.names, self.values.tolist(), strict=True))


class Step(NamedTuple):
    """A step of the optimizer that the device may not have finished."""

    batch_idx: int  # the last batch of the step
    norms: PendingScalars  # norms of the gradients, by parameter


def gradients_of(model: nn.Module, optimizer: Optimizer) -> dict[str, Tensor]:
    """Return the gradients of the parameters that the optimizer updates, by name."""
    names = {parameter: name for name, parameter in model.named_parameters()}
    updated = [p for group in optimizer.param_groups for p in group['params']]
    return {
        names.get(parameter, f'parameter {number} of the optimizer'): parameter.grad
        for number, parameter in enumerate(updated)
        if parameter.grad is not None
    }


def norms_of(gradients: list[Tensor], limit: float = 0.0) -> list[Tensor]:
    """Compute the norm of each gradient as a scalar tensor, without waiting for the device.

    With a positive ``limit`` the gradients are scaled in place so that their total norm is at most
    the limit; the returned norms are those before scaling.
    """
    norms = list(torch._foreach_norm(gradients))
    if limit:
        norm = torch.linalg.vector_norm(torch.stack(norms))
        torch._foreach_mul_(gradients, (limit / norm).clamp(max=1))
    return norms


def map_tensors(function: Callable[[Tensor], Any], outputs: Any) -> Any:
    """Apply a function to every tensor of a model's outputs.

    Args:
        function (callable): tensor → tensor.
        outputs: a tensor; a tuple (also one with names), list, dictionary or dataclass of outputs;
            anything else is kept as it is.

    Returns:
        Outputs of the same types.

    >>> map_tensors(torch.neg, {'a': [torch.tensor(1), None]})
    {'a': [tensor(-1), None]}
    """
    if isinstance(outputs, Tensor):
        return function(outputs)
    changed: Any
    if isinstance(outputs, MutableMapping):
        changed = copy.copy(outputs)
        for key, value in outputs.items():
            changed[key] = map_tensors(function, value)
        return changed
    if dataclasses.is_dataclass(outputs):
        changed = copy.copy(outputs)
        for field in dataclasses.fields(outputs):
            value = map_tensors(function, getattr(outputs, field.name))
            object.__setattr__(changed, field.name, value)  # of a frozen one, too
        return changed
    if isinstance(outputs, (tuple, list)):
        mapped = [map_tensors(function, value) for value in outputs]
        return outputs._make(mapped) if hasattr(outputs, '_make') else type(outputs)(mapped)
    return outputs
