"""The COCO pose network of OpenPose up to its second stage: frames → limb and joint maps.

Z. Cao, T. Simon, S. Wei, Y. Sheikh, "Realtime Multi-Person 2D Pose Estimation using Part Affinity
Fields", CVPR 2017. Ten convolutions of VGG-19 and two more compute maps P; two branches, limbs (L1)
and joints (L2), are refined once. Layers have the names of the model ``pose_iter_440000``.
"""

import logging
import os
from collections.abc import Iterator, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stmn_plugin.errors import InputError

from .backbone_weights import torchvision_weights
from .weight_files import named_tensors, read_weight_file
from .weights import fitted_weights

logger = logging.getLogger(__name__)

VGG = {  # layers of VGG-19: channels, and their number in torchvision's ``features``
    'conv1_1': (64, 0), 'conv1_2': (64, 2),
    'conv2_1': (128, 5), 'conv2_2': (128, 7),
    'conv3_1': (256, 10), 'conv3_2': (256, 12), 'conv3_3': (256, 14), 'conv3_4': (256, 16),
    'conv4_1': (512, 19), 'conv4_2': (512, 21),
}  # fmt: skip
TRUNK = {**{name: channels for name, (channels, _) in VGG.items()},
         'conv4_3_CPM': 256, 'conv4_4_CPM': 128}  # fmt: skip
POOLED = ('conv1_2', 'conv2_2', 'conv3_4')  # a max-pooling follows
STAGES = {  # names, and channels and kernel of each layer before the maps
    'conv5_{}_CPM_{}': ((128, 3), (128, 3), (128, 3), (512, 1)),
    'Mconv{}_stage2_{}': (*[(128, 7)] * 5, (128, 1)),
}
MAPS = {'L1': 38, 'L2': 19}  # two numbers a limb, one each joint and the background
NOT_VGG = r'(?!conv[123]_\d\.|conv4_[12]\.)'
LATER_STAGES = r'Mconv\d_stage[3-6]_L[12]\.'
# normalisation of the frames: the defaults of data.norm_mean and data.norm_std
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def layer_sizes(width: float = 1.0) -> Iterator[tuple[str, int, int, int]]:
    """Yield name, input channels, output channels and kernel size of every convolution.

    Args:
        width: factor of the published number of channels, except those of the maps.
    """

    def scaled(channels: int) -> int:
        return max(1, round(width * channels))

    inputs = 3
    for name, channels in TRUNK.items():
        yield name, inputs, scaled(channels), 3
        inputs = scaled(channels)
    start = inputs  # channels of P; the second stage also reads the maps of the first
    for name, layers in STAGES.items():
        for branch, maps in MAPS.items():
            inputs = start
            for number, (channels, kernel) in enumerate(layers, start=1):
                yield name.format(number, branch), inputs, scaled(channels), kernel
                inputs = scaled(channels)
            yield name.format(len(layers) + 1, branch), inputs, maps, 1
        start = scaled(TRUNK['conv4_4_CPM']) + sum(MAPS.values())


def pose_input(frames: Tensor) -> Tensor:
    """Convert normalised frames (T, 3, h, w) to the pose model's input: BGR, x / 256 - 0.5."""
    mean, std = (frames.new_tensor(numbers).view(1, 3, 1, 1) for numbers in (MEAN, STD))
    return (255 * (frames * std + mean)).flip(1) / 256 - 0.5


class PoseMaps(nn.Module):
    """Normalised frames (T, 3, h, w) → limb maps, joint maps and P, (T, channels, h/8, w/8).

    Every convolution has a bias; a ReLU follows all but those that compute limb and joint maps.
    Weights start by He's rule, those of the maps with a standard deviation of 0.01.

    Args:
        width: factor of the published number of channels.
        takes_pose_input: convert the colours by :func:`pose_input` first.
    """

    def __init__(self, width: float = 1.0, takes_pose_input: bool = False):
        super().__init__()
        self.takes_pose_input = takes_pose_input
        self.layers = nn.ModuleDict()
        sizes = {name: sizes for name, *sizes in layer_sizes(width)}
        self.channels = sizes['Mconv1_stage2_L1'][0]  # of the output, equal for both stages
        for name, (inputs, outputs, kernel) in sizes.items():
            layer = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2)
            self.layers[name] = layer
            if gives_maps(name):
                nn.init.normal_(layer.weight, std=0.01)
            else:
                nn.init.kaiming_normal_(layer.weight, mode='fan_out', nonlinearity='relu')
            assert layer.bias is not None
            nn.init.zeros_(layer.bias)

    def forward(self, frames: Tensor) -> Tensor:
        maps = pose_input(frames) if self.takes_pose_input else frames
        for name in TRUNK:
            maps = F.relu(self.layers[name](maps), inplace=True)
            if name in POOLED:
                maps = F.max_pool2d(maps, 2, ceil_mode=True)
        stacked = trunk = maps
        for name, layers in STAGES.items():
            branches = [self._branch(name, len(layers), branch, stacked) for branch in MAPS]
            stacked = torch.cat([*branches, trunk], dim=1)
        return stacked

    def _branch(self, name: str, hidden: int, branch: str, maps: Tensor) -> Tensor:
        for number in range(1, hidden + 1):
            maps = F.relu(self.layers[name.format(number, branch)](maps), inplace=True)
        maps = self.layers[name.format(hidden + 1, branch)](maps)
        return maps

    def load_vgg(self, path: str, section: str) -> None:
        """Load torchvision's ImageNet weights into the layers of VGG-19.

        Args:
            path: path of a file; '' is torchvision's own download.
            section: section of the config, for errors.

        Raises:
            InputError: no internet connection, a missing or damaged file, or weights of another
                architecture.
        """
        key = f'{section}.vgg_weights'
        state = _read(path, key) if path else torchvision_weights('vgg19', key)
        named = {
            f'{name}.{kind}': state[f'features.{number}.{kind}']
            for name, (_, number) in VGG.items()
            for kind in ('weight', 'bias')
            if f'features.{number}.{kind}' in state
        }
        self._load(named, path or "torchvision's vgg19", key, NOT_VGG)
        logger.info('%s: the part stream starts from ImageNet (VGG-19), not from poses', section)

    def load_pose_model(self, path: str, section: str) -> None:
        """Load the COCO model ``pose_iter_440000`` into all layers, without its later stages.

        Raises:
            InputError: a missing or damaged file, or weights of another architecture.
        """
        key = f'{section}.pose_weights'
        self._load(_read(path, key), path, key, LATER_STAGES)
        logger.info('%s: the part stream starts from the pose model %s', section, path)

    def _load(self, tensors: Mapping[str, Tensor], path: str, key: str, skip: str) -> None:
        try:
            state = fitted_weights(self.layers, tensors, path, skip)
        except InputError as error:
            raise InputError(f'{key}: {error}') from error
        self.layers.load_state_dict(state)


def gives_maps(name: str) -> bool:
    """Return whether a layer is the last of a branch."""
    return any(
        name == stage.format(len(layers) + 1, branch)
        for stage, layers in STAGES.items()
        for branch in MAPS
    )


def _read(path: str, key: str) -> dict[str, Tensor]:
    try:
        return named_tensors(read_weight_file(os.path.expanduser(path)), path)
    except InputError as error:
        raise InputError(f'{key}: {error}') from error
