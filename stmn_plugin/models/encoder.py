"""Frames → feature maps f^o, q^s, q^t (Sec. 3.2): one ResNet trunk, one copy of conv5 per map.

The trunk is torchvision's ResNet up to conv4 (``layer3``). Each head starts from the ImageNet
weights of conv5 (``layer4``) with stride 1, so that 256x128 frames give 16x8 positions.
"""

import copy
import hashlib
import os
import tempfile
from typing import NamedTuple

import torch
import torchvision
from torch import nn

from stmn_plugin.errors import InputError

BACKBONES = ('resnet18', 'resnet34', 'resnet50', 'resnet101', 'resnet152')


class FrameMaps(NamedTuple):
    frame_features: torch.Tensor  # (T, D, H, W) f^o, not negative
    spatial_queries: torch.Tensor | None  # (T, D, H, W) q^s
    temporal_queries: torch.Tensor | None  # (T, D, H, W) q^t


class Encoder(nn.Module):
    """ResNet with one frame head and up to two query heads.

    Args:
        backbone (str): one of BACKBONES.
        spatial (bool): has a head for q^s.
        temporal (bool): has a head for q^t.
        pretrained (bool): start from ImageNet weights, torchvision's own or ``weights``.
        weights (str): a file or link with a torchvision ResNet's weights instead of torchvision's.
        sha256 (str): expected digest of ``weights``.

    Raises:
        InputError: unknown backbone, weights that cannot be had or do not fit.
    """

    def __init__(
        self, backbone, spatial=True, temporal=True, pretrained=True, weights='', sha256=''
    ):
        super().__init__()
        if backbone not in BACKBONES:
            raise InputError(f'stmn.backbone: {backbone!r} is not one of {", ".join(BACKBONES)}')
        resnet = torchvision.models.get_model(backbone)
        if pretrained:
            load_backbone_weights(resnet, backbone, weights, sha256)
        self.dim = resnet.fc.in_features  # D
        self.trunk = nn.Sequential(
            resnet.conv1,
            resnet.bn1,
            resnet.relu,
            resnet.maxpool,
            resnet.layer1,
            resnet.layer2,
            resnet.layer3,
        )
        self.frame_head = with_stride_one(resnet.layer4)
        self.spatial_head = copy.deepcopy(self.frame_head) if spatial else None
        self.temporal_head = copy.deepcopy(self.frame_head) if temporal else None

    def forward(self, frames):
        """
        Args:
            frames (torch.Tensor): normalised images, shape (T, 3, height, width).

        Returns:
            FrameMaps: a map whose head does not exist is None.
        """
        maps = self.trunk(frames)
        return FrameMaps(
            self.frame_head(maps),
            None if self.spatial_head is None else run_query_head(self.spatial_head, maps),
            None if self.temporal_head is None else run_query_head(self.temporal_head, maps),
        )


def with_stride_one(conv5):
    """Set the stride of a ResNet's ``layer4`` to 1, in place."""
    for module in conv5.modules():
        if isinstance(module, nn.Conv2d):
            module.stride = (1, 1)
    return conv5


def run_query_head(conv5, maps):
    """conv5 without its very last ReLU, so that queries can be negative."""
    *blocks, last = conv5
    for block in blocks:
        maps = block(maps)
    residual = last.bn1(last.conv1(maps))
    residual = last.bn2(last.conv2(last.relu(residual)))
    if hasattr(last, 'conv3'):  # Bottleneck; BasicBlock ends here
        residual = last.bn3(last.conv3(last.relu(residual)))
    return residual + (maps if last.downsample is None else last.downsample(maps))


def load_backbone_weights(resnet, backbone, source='', sha256=''):
    """Load ImageNet weights into a torchvision ResNet.

    Args:
        resnet (nn.Module): torchvision's model.
        backbone (str): its name.
        source (str): local file or http(s)/Google Drive link; '' is torchvision's own download.
        sha256 (str): expected digest of the file, checked when given.

    Raises:
        InputError: no network, missing or damaged file, wrong digest, weights of another network.
    """
    if not source:
        weights = torchvision.models.get_model_weights(backbone).IMAGENET1K_V1
        try:
            state = weights.get_state_dict(progress=True, check_hash=True, weights_only=True)
        except Exception as error:  # network errors, and many types on a damaged file in the cache
            raise InputError(
                f'cannot download the ImageNet weights of {backbone}, or the downloaded file '
                f'in {torch.hub.get_dir()} is damaged ({_short(error)}): give a file as '
                'stmn.backbone_weights PATH, or train from scratch with model.pretrained False'
            ) from error
        resnet.load_state_dict(state)
        return
    with tempfile.TemporaryDirectory() as folder:
        is_link = source.startswith(('http://', 'https://'))
        path = _download(source, folder) if is_link else os.path.expanduser(source)
        if not os.path.isfile(path):
            raise InputError(f'stmn.backbone_weights: no file {path}')
        try:
            if sha256 and (found := _sha256(path)) != sha256.lower():
                raise InputError(
                    f'stmn.backbone_weights: {source} has sha256 {found}, not {sha256}'
                )
            state = torch.load(path, map_location='cpu', weights_only=True)
        except InputError:
            raise
        except Exception as error:  # torch raises many types on a damaged or unsafe file
            raise InputError(
                f'stmn.backbone_weights: {source} is no weights file ({_short(error)})'
            ) from error
    if isinstance(state, dict):
        state = state.get('state_dict', state)
    if not isinstance(state, dict) or not all(isinstance(key, str) for key in state):
        raise InputError(f'stmn.backbone_weights: {source} holds no dictionary of named tensors')
    state = {k: v for k, v in state.items() if not k.startswith('fc.')}  # the class scores go
    try:
        missing, unexpected = resnet.load_state_dict(state, strict=False)
    except RuntimeError as error:
        raise InputError(
            f'stmn.backbone_weights: {source} does not fit {backbone} ({_short(error)})'
        ) from error
    missing = [key for key in missing if not key.startswith('fc.')]
    if missing or unexpected:
        raise InputError(
            f'stmn.backbone_weights: {source} does not fit {backbone}: '
            f'{len(missing)} tensors missing, {len(unexpected)} unknown '
            f'(first: {(missing + unexpected)[0]})'
        )


def _download(link, folder):
    """Fetch a link into a folder: gdown knows Google Drive's pages and takes plain links too."""
    import gdown  # slow to import, and needed for links only

    try:
        path = gdown.download(link, os.path.join(folder, 'weights'), quiet=False)
    except Exception as error:  # gdown passes on whatever its network library raises
        raise InputError(f'stmn.backbone_weights: cannot fetch {link} ({_short(error)})') from error
    if path is None:
        raise InputError(f'stmn.backbone_weights: cannot fetch {link}')
    return path


def _sha256(path):
    with open(path, 'rb') as file:
        return hashlib.sha256(file.read()).hexdigest()


def _short(error):
    return str(error).strip().splitlines()[-1].strip() if str(error).strip() else repr(error)
