"""Weights that a ResNet starts from: torchvision's own download, a file, a link, a checkpoint."""

import hashlib
import os
import tempfile
from collections.abc import Mapping

import torch
import torchvision
from torch import Tensor, nn

from stmn_plugin.errors import InputError

from .weight_files import named_tensors, read_weight_file
from .weights import fitted_weights

# part of an Encoder → what it is in torchvision's ResNet
RESNET_NAMES = {
    'trunk.0': 'conv1',
    'trunk.1': 'bn1',
    'trunk.4': 'layer1',
    'trunk.5': 'layer2',
    'trunk.6': 'layer3',
    'frame_head': 'layer4',
}


def load_backbone_weights(
    resnet: nn.Module, backbone: str, source: str = '', sha256: str = '', section: str = 'stmn'
) -> None:
    """Load weights into a torchvision ResNet, those of ImageNet by default.

    Args:
        resnet: torchvision's model.
        backbone: its name.
        source: local file or http(s)/Google Drive link; '' is torchvision's own download. A
            checkpoint of this package gives the weights of its encoder.
        sha256: expected digest of the file, checked when given.
        section: of the config, for errors.

    Raises:
        InputError: no network, missing or damaged file, wrong digest, weights of another network.
    """
    if not source:
        resnet.load_state_dict(torchvision_weights(backbone, f'{section}.backbone_weights'))
        return
    with tempfile.TemporaryDirectory() as folder:
        is_link = source.startswith(('http://', 'https://'))
        path = _download(source, folder, section) if is_link else os.path.expanduser(source)
        try:
            content = read_weight_file(path)
            if sha256 and (found := _sha256(path)) != sha256.lower():
                raise InputError(f'{path} has sha256 {found}, not {sha256}')
            # the class scores go
            tensors = resnet_of_encoder(named_tensors(content, path))
            state = fitted_weights(resnet, tensors, f'{path} does not fit {backbone}: it', r'fc\.')
        except InputError as error:
            reason = str(error).replace(path, source)
            raise InputError(f'{section}.backbone_weights: {reason}') from error
    resnet.load_state_dict(state)


def resnet_of_encoder(tensors: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """Of a model with an :class:`.encoder.Encoder`, the encoder's tensors by torchvision's names.

    The head of the frame features stands for conv5. Tensors of anything else stay as they are.
    """
    first = 'encoder.trunk.0.weight'
    prefix = next((key[: -len('trunk.0.weight')] for key in tensors if key.endswith(first)), None)
    if prefix is None:
        return tensors
    return {
        name + key[len(prefix + part) :]: tensor
        for key, tensor in tensors.items()
        for part, name in RESNET_NAMES.items()
        if key.startswith(f'{prefix}{part}.')
    }


def torchvision_weights(name: str, key: str) -> Mapping[str, Tensor]:
    """The ImageNet weights of a model of torchvision, as torchvision downloads and keeps them.

    Args:
        name: of the model.
        key: of the config that takes a file instead, for the error.

    Raises:
        InputError: no network, or a damaged file.
    """
    weights = torchvision.models.get_model_weights(name).IMAGENET1K_V1
    try:
        state: Mapping[str, Tensor] = weights.get_state_dict(
            progress=True, check_hash=True, weights_only=True
        )
    except Exception as error:  # network errors, and many types on a damaged file in the cache
        raise InputError(
            f'cannot download the ImageNet weights of {name}, or the downloaded file '
            f'in {torch.hub.get_dir()} is damaged ({_short(error)}): give a file as '
            f'{key} PATH, or train from scratch with model.pretrained False'
        ) from error
    return state


def _download(link: str, folder: str, section: str) -> str:
    """Fetch a link into a folder: gdown knows Google Drive's pages and takes plain links too."""
    import gdown  # slow to import, and needed for links only

    try:
        path = gdown.download(link, os.path.join(folder, 'weights'), quiet=False)
    except Exception as error:  # gdown passes on whatever its network library raises
        raise InputError(
            f'{section}.backbone_weights: cannot fetch {link} ({_short(error)})'
        ) from error
    if not isinstance(path, str):
        raise InputError(f'{section}.backbone_weights: cannot fetch {link}')
    return path


def _sha256(path: str) -> str:
    with open(path, 'rb') as file:
        return hashlib.sha256(file.read()).hexdigest()


def _short(error: Exception) -> str:
    last = str(error).strip().splitlines()[-1:]
    # torch's advice to run what a file contains is not passed on
    advice = not last or 'weights_only' in str(error)
    return type(error).__name__ if advice else last[0].strip()
