"""Build image models of the host's factory, and check them on a frame."""

import logging
import pickle
from typing import Any

import torch
from torch import Tensor, nn

from stmn_plugin.errors import InputError
from stmn_plugin.log import prints_logged

logger = logging.getLogger(__name__)

NATURAL_SIZES = ((256, 128), (160, 64), (299, 299))  # each is the input of some architecture


def build_image_model(
    name: str,
    num_classes: int,
    loss: str = 'softmax',
    pretrained: bool = True,
    use_gpu: bool = False,
) -> nn.Module:
    """Build a model of the host's factory; the arguments are those of the factory.

    Raises:
        InputError: the factory has no such name, or the ImageNet weights cannot be loaded.
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
        build(pretrained=False)  # an error that is not about the weights is raised here
        reason = ' '.join(str(error).split())[:200] or type(error).__name__
        raise InputError(
            f'model.name {name}: its ImageNet weights cannot be downloaded or read '
            f'({reason}): set model.pretrained False'
        ) from error


def _download_errors() -> tuple[type[Exception], ...]:
    """Return the errors that the host raises when it cannot download or read weights."""
    from gdown.exceptions import DownloadError  # slow to import

    return OSError, RuntimeError, EOFError, pickle.UnpicklingError, DownloadError


def black_frame_feature(name: str, model: nn.Module, height: int, width: int, seq_len: int) -> Any:
    """Run an image model in eval mode on a black frame.

    Args:
        name: name of its architecture, for errors.
        model: the network.
        height: height of the frame in pixels.
        width: width of the frame in pixels.
        seq_len: length of the clips that are tried if the model rejects frames.

    Returns:
        The output of the model.

    Raises:
        InputError: the model cannot process frames of this size, or takes clips instead. An error
            that it raises for every input is passed on.
    """
    try:
        return _forward(model, 1, 3, height, width)
    except Exception as error:  # passed on unless the frame is its cause
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
    """Return the feature if it is a tensor (B, D); otherwise raise InputError."""
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
    except Exception:  # any error means that the model does not take this shape
        return False
    return True
