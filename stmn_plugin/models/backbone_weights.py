"""Load initial weights into a network from torchvision, a file, a link or a checkpoint."""

import hashlib
import os
import tempfile
from collections.abc import Callable, Mapping

import torch
import torchvision
from torch import Tensor

from stmn_plugin.errors import InputError

from .backbones import Network
from .timm_networks import TIMM
from .weight_files import named_tensors, read_weight_file
from .weights import fitted_weights, own_names


def load_backbone_weights(
    network: Network, source: str = '', sha256: str = '', section: str = 'stmn'
) -> None:
    """Load weights into a network, by default those trained on ImageNet.

    Args:
        network: a freshly built network.
        source: local file or http(s)/Google Drive link; '' is torchvision's own download. From a
            checkpoint of this package the weights of its encoder are taken.
        sha256: expected digest of the file, checked when given.
        section: section of the config, for errors.

    Raises:
        InputError: no internet connection, a link of plain http without a digest, a missing or
            damaged file, a wrong digest, or weights of another architecture.
    """
    module, family = network.module, network.family
    if not source:
        download = timm_weights if network.name.startswith(TIMM) else torchvision_weights
        module.load_state_dict(download(network.name, f'{section}.backbone_weights'))
        return
    if source.startswith('http://') and not sha256:
        raise InputError(
            f'{section}.backbone_weights {source}: plain http needs {section}.backbone_sha256, or '
            'use https'
        )
    with tempfile.TemporaryDirectory() as folder:
        is_link = source.startswith(('http://', 'https://'))
        path = _download(source, folder, section) if is_link else os.path.expanduser(source)
        try:
            content = read_weight_file(path)
            if sha256 and (found := _sha256(path)) != sha256.lower():
                raise InputError(f'{path} has sha256 {found}, not {sha256}')
            tensors = network_of_encoder(named_tensors(content, path), network.names)
            tensors = _with_own_names(tensors, module.state_dict(), family.own_name, path)
            place = f'{path} does not fit {network.name}: it'
            state = fitted_weights(module, tensors, place, family.class_scores)
        except InputError as error:
            reason = str(error).replace(path, source)
            raise InputError(f'{section}.backbone_weights: {reason}') from error
    module.load_state_dict(state)


def _with_own_names(
    tensors: Mapping[str, Tensor],
    own: Mapping[str, Tensor],
    own_name: Callable[[str], str],
    path: str,
) -> dict[str, Tensor]:
    """Rename weights of another implementation as in torchvision; keep torchvision's own names."""
    plain = own_names(tensors, own, path)
    renamed = {own_name(name): tensor for name, tensor in plain.items()}
    return max(plain, renamed, key=lambda named: len(named.keys() & own.keys()))


def network_of_encoder(
    tensors: Mapping[str, Tensor], names: Mapping[str, str]
) -> Mapping[str, Tensor]:
    """Return the tensors of a model's :class:`.encoder.Encoder` under torchvision's names.

    The head of the frame features is conv5. Tensors of a model without an Encoder are returned
    unchanged.

    Args:
        tensors: the tensors of a file.
        names: name within an encoder → torchvision's.
    """
    first = next(iter(names))
    prefix = next((key[: -len(first)] for key in tensors if key.endswith(f'encoder.{first}')), None)
    if prefix is None:
        return tensors
    inside = {
        key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)
    }
    return {
        names.get(key, key): tensor
        for key, tensor in inside.items()
        if key.startswith(('trunk.', 'frame_head.'))
    }


def torchvision_weights(name: str, key: str) -> Mapping[str, Tensor]:
    """Return the ImageNet weights of a torchvision model, from its cache or by download.

    Args:
        name: name of the model.
        key: config key that takes a file instead, for the error.

    Raises:
        InputError: no internet connection, or a damaged file.
    """
    weights = torchvision.models.get_model_weights(name).IMAGENET1K_V1
    try:
        state: Mapping[str, Tensor] = weights.get_state_dict(
            progress=True, check_hash=True, weights_only=True
        )
    except Exception as error:  # network errors, and many types on a damaged file in the cache
        raise _no_download(name, torch.hub.get_dir(), key, error) from error
    return state


def timm_weights(name: str, key: str) -> Mapping[str, Tensor]:
    """Return the default weights of ``timm:NAME``, from timm's cache or by download."""
    import timm  # optional dependency

    try:
        network = timm.create_model(name.removeprefix(TIMM), pretrained=True)
    except Exception as error:  # of its hub's network library, or on a damaged file in its cache
        raise _no_download(name, "timm's cache", key, error) from error
    state: Mapping[str, Tensor] = network.state_dict()
    return state


def _no_download(name: str, cache: str, key: str, error: Exception) -> InputError:
    return InputError(
        f'cannot download the ImageNet weights of {name}, or the downloaded file in {cache} is '
        f'damaged ({_short(error)}): give a file as {key} PATH, or train from scratch with '
        'model.pretrained False'
    )


def _download(link: str, folder: str, section: str) -> str:
    """Download a link into a folder; gdown handles Google Drive's pages and plain links."""
    import gdown  # slow to import, and needed for links only

    try:
        path = gdown.download(link, os.path.join(folder, 'weights'), quiet=False)
    except Exception as error:  # gdown passes on all errors of its network library
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
    # do not repeat torch's advice to execute what a file contains
    advice = not last or 'weights_only' in str(error)
    return type(error).__name__ if advice else last[0].strip()
