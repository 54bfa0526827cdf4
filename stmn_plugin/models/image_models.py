"""Image models of the host's factory: built by name, and tried on a frame."""

import logging
import pickle
from typing import Any

import torch
from torch import Tensor, nn

from stmn_plugin.errors import InputError
from stmn_plugin.log import prints_logged

logger = logging.getLogger(__name__)

NATURAL_SIZES = ((256, 128), (160, 64), (299, 299))  # some architecture is made for each


def build_image_model(
    name: str,
    num_classes: int,
    loss: str = 'softmax',
    pretrained: bool = True,
    use_gpu: bool = False,
) -> nn.Module:
    """A model of the host's factory, with its arguments.

    Raises:
        InputError: the factory has no such name, or the ImageNet weights cannot be had.
    """
    import torchreid  # slow to import, and not needed by the architectures of this package

    def build(pretrained: bool) -> nn.Module:
        with prints_logged(logger):
            model: nn.Module = torchreid.models.build_model(
                name, num_classes, loss=loss, pretrained=pretrained, use_gpu=use_gpu
            )
        return model

    try:
        return build(pretrained)
    except KeyError as error:
        if 'Unknown model' not in str(error):
            raise
        raise InputError(
            f'model.name: {name!r} is no architecture here (--list-archs shows all); a file that '
            'registers one is imported first: --import FILE.py'
        ) from error
    except Exception as error:
        if not pretrained or not isinstance(error, _download_errors()):
            raise
        build(pretrained=False)  # what is wrong without weights, too, is another matter
        reason = ' '.join(str(error).split())[:200] or type(error).__name__
        raise InputError(
            f'model.name {name}: its ImageNet weights cannot be downloaded or read '
            f'({reason}): set model.pretrained False'
        ) from error


def _download_errors() -> tuple[type[Exception], ...]:
    """What the host raises to download or read weights: network, disk, torch, pickles, Drive."""
    from gdown.exceptions import DownloadError  # slow to import

    return OSError, RuntimeError, EOFError, pickle.UnpicklingError, DownloadError


def black_frame_feature(name: str, model: nn.Module, height: int, width: int, seq_len: int) -> Any:
    """What an image model in eval mode makes of a black frame.

    Args:
        name: of its architecture, for errors.
        seq_len: frames of the clips that it may want instead.

    Raises:
        InputError: it cannot take such frames, or takes clips. An error that it raises whatever it
            is given is its own, and goes on as it is.
    """
    try:
        return _forward(model, 1, 3, height, width)
    except Exception as error:  # goes on unless it is shown to be of the frame
        reason = ' '.join(str(error).split())[:200]
        if any(_takes(model, 1, 3, *size) for size in NATURAL_SIZES):
            raise InputError(
                f'data.height, data.width: {name} cannot take frames of {height}x{width}: {reason}'
            ) from error
        sizes = ((height, width), *NATURAL_SIZES)
        if any(_takes(model, 1, seq_len, 3, *size) for size in sizes):
            raise InputError(
                f'model.name {name} takes clips (B, L, 3, H, W), not frames (B, 3, H, W): '
                'register it as a VideoModel (register_video_model)'
            ) from error
        raise


def check_feature(name: str, feature: Any) -> Tensor:
    """The feature itself; InputError unless it is a tensor (B, D)."""
    if isinstance(feature, Tensor) and feature.dim() == 2:
        return feature
    found = tuple(feature.shape) if isinstance(feature, Tensor) else type(feature).__name__
    raise InputError(
        f'model.name {name}: in eval mode it must give features of shape (B, D), not {found}'
    )


@torch.no_grad()
def _forward(model: nn.Module, *shape: int) -> Any:
    return model(torch.zeros(shape))


def _takes(model: nn.Module, *shape: int) -> bool:
    try:
        _forward(model, *shape)
    except Exception:  # whatever it is
        return False
    return True
