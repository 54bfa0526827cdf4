"""A checkpoint or a file of weights → the trained network, with no dataset and no config file."""

import os
from collections.abc import Mapping

import torch

from stmn_plugin.errors import InputError
from stmn_plugin.plain_values import is_setting, named
from stmn_plugin.plugins import load_plugins

from .base import VideoModel
from .building import ModelSpec, build_video_model
from .frame_pooling import FrameByFrame
from .weight_files import named_tensors, read_weight_file
from .weights import fitted_weights, largest_classifier


def load_model(path: str | os.PathLike[str], device: str | torch.device = 'cpu') -> VideoModel:
    """Load the network of a checkpoint in eval mode; its attribute ``spec`` holds its settings.

    Architectures of other packages must be registered first, by importing their module.

    Args:
        path: a checkpoint of this package (of any version), or a file of weights that
            ``tools/export.py --weights`` wrote.
        device: device of the network.

    Raises:
        InputError: the file is missing, damaged, or does not name its architecture; the
            architecture is not registered; the weights do not fit it.

    Example::

        model = stmn_plugin.load_model('log/stmn_mars/model/model-best.pth.tar')
        spec = model.spec  # spec.height, spec.width, spec.seq_len, spec.norm_mean, ...
        features = model(clips)  # normalised clips (B, spec.seq_len, 3, height, width) → (B, D)
    """
    path = os.path.expanduser(os.fspath(path))
    content = read_weight_file(path)
    tensors = named_tensors(content, path)
    config = content.get('config') if isinstance(content, Mapping) else None
    if not (config and named(config, is_setting) and 'model.name' in config):
        raise InputError(
            f'{path} does not say which architecture it holds: load_model takes checkpoints of '
            'this package and what tools/export.py --weights makes of them'
        )
    load_plugins()
    try:
        spec = ModelSpec.from_config(config)
        use_gpu = torch.device(device).type == 'cuda'
        model = build_video_model(
            spec, largest_classifier(tensors), pretrained=False, use_gpu=use_gpu
        )
    except InputError as error:
        raise InputError(f'{path}: {error}') from error
    part = model.network if isinstance(model, FrameByFrame) else model  # what was saved
    part.load_state_dict(fitted_weights(part, tensors, path, 'classifier'))
    model.spec = spec
    return model.to(device).eval()
