"""Synchronise batch normalisation over the batches of all processes.

torch provides this for GPUs; :class:`SyncBatchNorm` also runs on CPUs. Names in state dicts do not
change.
"""

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from stmn_plugin.distributed import total
from stmn_plugin.errors import InputError

from .base import VideoModel


class SyncBatchNorm(_BatchNorm):
    """``nn.SyncBatchNorm`` in plain operations, for any device; input (N, C) or (N, C, ...)."""

    def _check_input_dim(self, input: Tensor) -> None:
        if input.dim() < 2:
            raise ValueError(f'expected input of shape (N, C, ...), got {tuple(input.shape)}')

    def forward(self, input: Tensor) -> Tensor:
        if not self.training:
            return super().forward(input)
        self._check_input_dim(input)
        rows = input.to(torch.promote_types(input.dtype, torch.float32))
        over = [0, *range(2, rows.dim())]
        per_channel = [1, -1] + [1] * (rows.dim() - 2)
        count = total(torch.tensor(rows.numel() // rows.shape[1], device=rows.device))
        mean = total(rows.sum(over)) / count  # (C,)
        deviation = rows - mean.view(per_channel)
        # in a second pass, because the difference of squares would lose digits
        var = total(deviation.square().sum(over)) / count  # (C,) biased
        if self.track_running_stats:
            self._update_running_statistics(mean, var * count / (count - 1).clamp(min=1))
        output = deviation * torch.rsqrt(var + self.eps).view(per_channel)
        if self.affine:
            output = output * self.weight.view(per_channel) + self.bias.view(per_channel)
        return output.to(input.dtype)

    @torch.no_grad()
    def _update_running_statistics(self, mean: Tensor, var: Tensor) -> None:
        assert self.running_mean is not None and self.running_var is not None
        assert self.num_batches_tracked is not None
        self.num_batches_tracked += 1
        momentum = 1 / self.num_batches_tracked if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean, momentum)
        self.running_var.lerp_(var, momentum)


def synchronize_batch_norm(module: nn.Module, use_gpu: bool) -> None:
    """Synchronise every batch normalisation inside a module, in place.

    Args:
        module: any module; its parameters and buffers are kept.
        use_gpu: whether it will run on a GPU.

    Raises:
        InputError: a batch norm contains an activation, as in some networks of timm.
    """
    for name, child in module.named_children():
        if not isinstance(child, _BatchNorm):
            synchronize_batch_norm(child, use_gpu)
        elif isinstance(getattr(child, 'act', None), nn.Module):
            raise InputError(
                f'train.sync_bn True: cannot, the encoder has batch norms of its own kind '
                f'({type(child).__name__})'
            )
        elif use_gpu:
            setattr(module, name, nn.SyncBatchNorm.convert_sync_batchnorm(child))
        else:
            setattr(module, name, _synchronized(child))


def synchronize_outside_backbone(model: VideoModel) -> None:
    """Synchronise every batch normalisation outside the backbone, in place.

    These get one or a few vectors per clip, so the statistics of half a batch would differ from
    those of the whole. The result is as exact as with one process, on any device; parameters and
    buffers are kept. Modules that run in the losses get the whole batch already.
    """
    apart = (model.backbone(), *model.parts_of_losses())
    inside = {module for part in apart for module in part.modules()}
    for parent in list(model.modules()):
        for name, child in parent.named_children():
            if isinstance(child, _BatchNorm) and child not in inside:
                setattr(parent, name, _synchronized(child))


def _synchronized(norm: _BatchNorm) -> SyncBatchNorm:
    synced = SyncBatchNorm(
        norm.num_features, norm.eps, norm.momentum, norm.affine, norm.track_running_stats
    )
    saved = norm.state_dict()
    for name, parameter in norm.named_parameters():
        setattr(synced, name, parameter)
    for name, buffer in norm.named_buffers():
        if name in dict(synced.named_parameters()):  # the bias of a BNNeck
            delattr(synced, name)
        synced.register_buffer(name, buffer, persistent=name in saved)
    return synced.train(norm.training)
