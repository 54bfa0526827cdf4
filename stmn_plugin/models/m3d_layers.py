"""Layers of M3D that combine the frames of a clip inside a ResNet.

Letters: B clips, T frames that remain at a stage, C channels, H W positions. The ResNet processes
maps (B*T, C, H, W); the layers here process clips (B, C, T, H, W).
"""

from typing import NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .backbones import Block
from .encoder import Encoder
from .heads import full_precision, global_average
from .map_shapes import check_sizes


def over_time(maps: Tensor, frames: int) -> Tensor:
    """Reshape maps of frames (B*T, C, H, W) to clips (B, C, T, H, W)."""
    clips: Tensor = maps.unflatten(0, (-1, frames))  # (B, T, C, H, W)
    return clips.transpose(1, 2)


def frame_by_frame(x: Tensor) -> Tensor:
    """Reshape clips (B, C, T, H, W) to maps of frames (B*T, C, H, W)."""
    return x.transpose(1, 2).flatten(0, 1)


def mean_of_groups(x: Tensor, size: int) -> Tensor:
    """Average groups of consecutive frames; the last group may be smaller.

    Args:
        x: (B, C, T, H, W).
        size: frames of a group.

    Returns:
        (B, C, ceil(T / size), H, W).
    """
    if size == 1:
        return x
    count, left = divmod(x.shape[2], size)
    means: Tensor = x[:, :, : count * size].unflatten(2, (count, size)).mean(dim=3)
    if left == 0:
        return means
    return torch.cat([means, x[:, :, count * size :].mean(dim=2, keepdim=True)], dim=2)


class M3DLayer(nn.Module):
    """pool(x) + sum over i of BN_i(conv_i(x)): (B, C, T, H, W) → (B, C, ceil(T / stride), H, W).

    conv_i reads the frames t - i, t, t + i. The scales of BN start at 0, so the layer starts as the
    mean over groups of frames. The released code has a ReLU after each BN and starts the
    convolutions at zero instead: the gradient of the ReLU at 0 is 0, so they stay zero.

    Args:
        channels: C.
        branches: n; i runs from 1 to n.
        stride: stride over time.
        released: compute what the released code computes.
    """

    def __init__(self, channels: int, branches: int, stride: int = 1, released: bool = False):
        super().__init__()
        self.stride, self.released = stride, released
        self.convs, self.norms = nn.ModuleList(), nn.ModuleList()
        for i in range(1, branches + 1):
            strides, padding, dilation = (stride, 1, 1), (i, 0, 0), (i, 1, 1)
            conv = nn.Conv3d(channels, channels, (3, 1, 1), strides, padding, dilation, bias=False)
            norm = nn.BatchNorm3d(channels)
            # BN would scale a convolution that starts at zero to unit variance at its first update
            nn.init.zeros_(conv.weight if released else norm.weight)
            if not released:
                nn.init.kaiming_normal_(conv.weight, nonlinearity='relu')
            self.convs.append(conv)
            self.norms.append(norm)

    def forward(self, x: Tensor) -> Tensor:
        y = mean_of_groups(x, self.stride)
        for conv, norm in zip(self.convs, self.norms, strict=True):
            branch = norm(conv(x))
            y = y + (F.relu(branch) if self.released else branch)
        return y


class Branches(NamedTuple):
    """The three factors of the mask of residual attention."""

    spatial: Tensor  # S (B, 1, H, W)
    channel: Tensor  # Ch (B, C)
    time: Tensor  # Tm (B, T)


def attention_factor(branches: Branches) -> Tensor:
    """Return 1/2 + m with the mask m = sigmoid(S * Ch * Tm): (B, C, T, H, W) in (1/2, 3/2)."""
    spatial, channel, time = branches
    product = channel[:, :, None] * time[:, None]  # (B, C, T)
    return 0.5 + (spatial.unsqueeze(2) * product[..., None, None]).sigmoid()


class ResidualAttention(nn.Module):
    """The branches of a RAL on x (B, C, T, H, W), which becomes x/2 + m*x; ReLUs before BNs.

    The last weights of S start at zero, so the layer starts as the identity. In the released code
    those of all three branches do: each factor of a product of three zeros has a zero gradient, so
    they stay zero.

    Args:
        channels: C.
        frames: T, the length of the weights of Tm.
        released: start as in the released code.
    """

    def __init__(self, channels: int, frames: int, released: bool = False):
        super().__init__()
        self.frames = frames
        hidden = max(channels // 16, 1)
        first = nn.Conv2d(channels, 1, 3, padding=1, bias=False)
        last = nn.Conv2d(1, 1, 1, bias=False)
        self.spatial = nn.Sequential(first, nn.ReLU(), nn.BatchNorm2d(1), last)
        self.channel = nn.Sequential(*two_linear(channels, hidden), nn.ReLU())
        self.time = two_linear(frames, 2 * frames)
        for branch in (self.spatial, self.channel, self.time):
            before, after = (cast(nn.Linear, branch[i]).weight for i in (0, 3))
            nn.init.kaiming_normal_(before, nonlinearity='relu')
            nn.init.kaiming_normal_(after, nonlinearity='relu')
            if released or branch is self.spatial:
                nn.init.zeros_(after)
            if not released:
                # x is not negative: with weights of both signs all channels behind a ReLU can be 0
                # for every input (S, with one, in half of all starts), and m has no gradient then
                before.data.abs_()

    def forward(self, x: Tensor) -> Branches:
        """Compute the factors of x (B, C, T, H, W), at least in float32.

        Raises:
            ValueError: another T.
        """
        check_sizes(x, 'BCTHW', T=self.frames)
        precise = torch.promote_types(x.dtype, torch.float32)
        with full_precision(x.device.type):
            of_positions = x.mean(dim=2, dtype=precise)  # (B, C, H, W)
            of_frames = x.mean(dim=(1, 3, 4), dtype=precise)  # (B, T)
            channel = self.channel(global_average(of_positions))
            return Branches(self.spatial(of_positions), channel, self.time(of_frames))


def two_linear(size: int, hidden: int) -> nn.Sequential:
    """Build two linear layers, size → hidden → size, with ReLU and BN between, without biases."""
    return nn.Sequential(
        nn.Linear(size, hidden, bias=False),
        nn.ReLU(),
        nn.BatchNorm1d(hidden),
        nn.Linear(hidden, size, bias=False),
    )


def convolutions_of(block: Block) -> list[tuple[nn.Conv2d, nn.Module]]:
    """Return the convolutions of a residual block, each with its batch norm."""
    pairs = [(block.conv1, block.bn1), (block.conv2, block.bn2)]
    if hasattr(block, 'conv3'):  # Bottleneck
        pairs.append((block.conv3, block.bn3))
    return pairs


def first_block(encoder: Encoder, block: Block, layer: M3DLayer, x: Tensor) -> Tensor:
    """Run a residual block of an encoder with an M3D layer before its last convolution.

    Args:
        encoder: runs the layers, with activation checkpoints if they are set.
        block: a block of the encoder.
        layer: the M3D layer.
        x: (B, C, T, H, W).

    Returns:
        (B, C', T', H', W').
    """
    *before, (last, last_norm) = convolutions_of(block)

    def inner(maps: Tensor) -> Tensor:
        for conv, norm in before:
            maps = block.relu(norm(conv(maps)))
        return maps

    def after(maps: Tensor) -> Tensor:
        return cast(Tensor, block.relu(last_norm(last(maps)) + shortcut))

    maps = frame_by_frame(x)
    y = layer(over_time(encoder.run([inner], maps), x.shape[2]))
    if block.downsample is not None:
        maps = encoder.run([block.downsample], maps)
    shortcut = frame_by_frame(mean_of_groups(over_time(maps, x.shape[2]), layer.stride))
    return over_time(encoder.run([after], frame_by_frame(y)), y.shape[2])
