"""Determine a model's size and cost, and check that it can train on the configured batches."""

import math
from collections.abc import Callable
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.flop_counter import FlopCounterMode
from yacs.config import CfgNode

from stmn_plugin.distributed import world_size
from stmn_plugin.errors import InputError

from .base import VideoModel
from .frame_pooling import FrameByFrame
from .image_models import black_frame_feature, check_feature

Shape: TypeAlias = torch.Size


def model_facts(cfg: CfgNode, model: nn.Module) -> dict[str, Any]:
    """Return the model's name, size and cost at test time, for log, metrics.json and checkpoints.

    Parameters of classifiers are not counted. GFLOPs are those of convolutions and matrix products
    per frame; a multiply-add counts as two. What runs once a clip is divided by its length.

    Raises:
        InputError: the model cannot process such frames, takes clips instead, or does not return
            features. Any other error of the model is passed on.
    """
    size = sum(
        parameter.numel()
        for name, parameter in model.named_parameters()
        if not any(part.startswith('classifier') for part in name.split('.'))
    )
    model.eval()
    feature, flops = _black_feature(cfg, model)
    feature = check_feature(cfg.model.name, feature)
    facts = {
        'arch': cfg.model.name,
        'parameters': size,
        'gflops_per_frame': round(flops / 1e9, 4),
        'feature_dim': feature.shape[1],
    }
    if cfg.data.type == 'video':
        facts['seq_len'] = cfg.video.seq_len
    return facts


def flop_counter() -> FlopCounterMode:
    """Return torch's counter, which also counts what it does not know of the kernels of a CPU."""
    aten = torch.ops.aten
    fused: dict[Any, Callable[..., int]] = {
        aten.mkldnn_rnn_layer: _rnn_flops,
        aten._scaled_dot_product_flash_attention_for_cpu: _attention_flops,
    }
    return FlopCounterMode(display=False, custom_mapping=fused)


def _rnn_flops(
    inputs: Shape, of_inputs: Shape, of_state: Shape, *others: object, **named: object
) -> int:
    """Count a layer of an LSTM, one direction; a row of weights is that of a gate's channel."""
    steps = math.prod(inputs[:-1])  # of all sequences
    return 2 * steps * (math.prod(of_inputs) + math.prod(of_state))


def _attention_flops(
    query: Shape, key: Shape, value: Shape, *others: object, **named: object
) -> int:
    """Count the products with keys and with values, (..., L, D) each."""
    return 2 * math.prod(query[:-1]) * key[-2] * (key[-1] + value[-1])


@torch.no_grad()
def _black_feature(cfg: CfgNode, model: nn.Module) -> tuple[Any, float]:
    """Compute the feature of a clip of black frames, and the operations per frame.

    The frame of the clip is encoded once if possible.
    """
    size, length = (cfg.data.height, cfg.data.width), cfg.video.seq_len
    of_frame, of_clip = flop_counter(), flop_counter()
    if not isinstance(model, VideoModel) or isinstance(model, FrameByFrame):
        network = model.network if isinstance(model, FrameByFrame) else model
        with of_frame:
            feature = black_frame_feature(cfg.model.name, network, *size, length)
    elif not model.frame_once:
        with of_clip:
            feature = model(torch.zeros(1, length, 3, *size))
    else:
        with of_frame:
            vectors = model.encode_frames(torch.zeros(1, 3, *size))  # (1, V)
        with of_clip:
            feature = model.embed(vectors.unsqueeze(1).expand(-1, length, -1))
    return feature, of_frame.get_total_flops() + of_clip.get_total_flops() / length


def check_batch(cfg: CfgNode, model: nn.Module) -> None:
    """Check that every batch norm gets more than one value per channel in a training batch.

    All training batches have the same number of clips, so that this is known before the first.
    The model is left in eval mode.

    Raises:
        InputError: a batch norm gets a single value per channel.
    """
    clips, length, name = cfg.train.batch_size, cfg.video.seq_len, cfg.model.name
    own = clips // world_size()  # clips per process
    if not isinstance(model, VideoModel):  # its inputs are frames
        frames = length if cfg.data.type == 'video' else 1
        seen = own * frames if not cfg.train.sync_bn else clips * frames
        inside, outside = list(model.modules()), []
        values = _values_per_channel(model, torch.zeros(1, 3, cfg.data.height, cfg.data.width))
    else:
        seen = clips if cfg.train.sync_bn else own
        inside = list(model.backbone().modules())
        shape = (1, length, 3, cfg.data.height, cfg.data.width)
        values = _values_per_channel(model, torch.zeros(shape))
        norms = [module for module in model.modules() if isinstance(module, _BatchNorm)]
        outside = [norm for norm in norms if norm not in set(inside)]
    # outside the backbone they are synchronised; one that only training runs gets a value per clip
    if any(values.get(norm, 1) * clips < 2 for norm in outside):
        raise InputError(
            f'train.batch_size {clips}: the batch norms of {name} take two clips or more'
        )
    if any(values[norm] * seen < 2 for norm in inside if norm in values):
        clip = f', video.seq_len {length}' if cfg.data.type == 'video' else ''
        where = '' if world_size() == 1 else f' in each of {world_size()} processes'
        raise InputError(
            f'train.batch_size {clips}{clip}: the batch norms of {name} take two frames or '
            f'more{where}'
        )


@torch.no_grad()
def _values_per_channel(model: nn.Module, images: Tensor) -> dict[nn.Module, int]:
    """Count the values per channel that each batch norm gets, of those that run in eval mode."""
    values: dict[nn.Module, int] = {}

    def count(norm: Any, inputs: tuple[Tensor, ...]) -> None:
        values[norm] = inputs[0].numel() // norm.num_features

    hooks = [
        module.register_forward_pre_hook(count)
        for module in model.modules()
        if isinstance(module, _BatchNorm)
    ]
    try:
        model.eval()(images)
    finally:
        for hook in hooks:
            hook.remove()
    return values
