"""Mixed precision of a training: where the model runs in it, and the scaler that fp16 needs."""

import contextlib
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from .speed import autocast

NEVER = 2**31 - 1  # steps until a scale grows


class Precision:
    """``train.amp`` of one run.

    The scaler checks gradients on the device, where nothing waits for it: one that is not finite
    makes :meth:`step` leave the weights where they are. Its scale is 1 and stays so unless ``amp``
    is fp16, which loses small gradients without a larger one.

    Args:
        device_type: 'cuda' or 'cpu'.
        amp: 'off', 'bf16' or 'fp16'.
        state: of the scaler, where a run is resumed.
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
        """The block in which the model runs; losses are computed outside."""
        block: contextlib.AbstractContextManager[Any] = autocast(self.device_type, self.amp)
        return block

    def backward(self, loss: Tensor) -> None:
        self.scaler.scale(loss).backward()

    def unscale(self, optimizer: Optimizer) -> None:
        """Make the gradients those of the loss itself."""
        self.scaler.unscale_(optimizer)

    def step(self, optimizer: Optimizer) -> None:
        self.scaler.step(optimizer)
        self.scaler.update()

    @property
    def may_be_too_high(self) -> bool:
        """Whether the scale explains gradients that overflow: it was halved, the next may pass."""
        return self.amp == 'fp16' and self.scaler.get_scale() >= 1

    def state(self) -> dict[str, Any] | None:
        """For checkpoints; None where there is nothing to keep."""
        return self.scaler.state_dict() if self.amp == 'fp16' else None
