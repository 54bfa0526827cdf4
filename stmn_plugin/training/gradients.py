"""Gradients of a step → their norms, limited on the device, read on the host a step later."""

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.optim import Optimizer


class Arriving:
    """Scalar tensors on their way to the host: on a GPU the computation goes on meanwhile."""

    def __init__(self, tensors: Mapping[str, Tensor]):
        self.names = list(tensors)
        stacked = torch.stack([tensor.detach() for tensor in tensors.values()])
        self.values = stacked.to('cpu', non_blocking=True)
        self.arrived = torch.cuda.Event() if stacked.is_cuda else None
        if self.arrived:
            self.arrived.record()

    def numbers(self) -> dict[str, float]:
        """Name → number, once they are there."""
        if self.arrived:
            self.arrived.synchronize()
        return dict(zip(self.names, self.values.tolist(), strict=True))


class Step(NamedTuple):
    """A step that the device was told to make."""

    batch_idx: int  # after which batch
    norms: Arriving  # of the gradients, by parameter


def gradients_of(model: nn.Module, optimizer: Optimizer) -> dict[str, Tensor]:
    """Name of a parameter → its gradient, of those that the optimizer moves."""
    names = {parameter: name for name, parameter in model.named_parameters()}
    moved = [p for group in optimizer.param_groups for p in group['params']]
    return {
        names.get(parameter, f'parameter {number} of the optimizer'): parameter.grad
        for number, parameter in enumerate(moved)
        if parameter.grad is not None
    }


def norms_of(gradients: list[Tensor], limit: float = 0.0) -> list[Tensor]:
    """The norm of each gradient, as scalar tensors on their device: nothing waits for them.

    With a positive ``limit`` the gradients are scaled in place so that the norm of all together is
    at most that; the norms returned are those before.
    """
    norms = list(torch._foreach_norm(gradients))
    if limit:
        norm = torch.linalg.vector_norm(torch.stack(norms))
        torch._foreach_mul_(gradients, (limit / norm).clamp(max=1))
    return norms
