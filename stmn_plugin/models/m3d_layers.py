"""Layers that let the frames of a clip meet inside a ResNet, for M3D.

Letters: B clips, T frames left at a stage, C channels, H W positions. Maps of the ResNet are
(B*T, C, H, W), those of clips (B, C, T, H, W).
"""

from typing import NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .backbones import Block
from .encoder import Encoder, full_precision, global_average


def over_time(maps: Tensor, frames: int) -> Tensor:
    """Maps of frames (B*T, C, H, W) → of clips (B, C, T, H, W)."""
    clips: Tensor = maps.unflatten(0, (-1, frames))  # (B, T, C, H, W)
    return clips.transpose(1, 2)


def frame_by_frame(x: Tensor) -> Tensor:
    """(B, C, T, H, W) → (B*T, C, H, W)."""
    return x.transpose(1, 2).flatten(0, 1)


def mean_of_groups(x: Tensor, size: int) -> Tensor:
    """Average groups of consecutive frames, the last of which may be smaller.

    Args:
        x: (B, C, T, H, W).
        size: of a group.

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

    conv_i sees the frames t - i, t, t + i. At the start the scales of BN are 0, and the layer is
    the mean over groups of frames. The released code has a ReLU after each BN and zeroes the
    convolutions instead: no gradient passes the ReLU at 0, and they stay zero.

    Args:
        channels: C.
        branches: n; i runs from 1 to n.
        stride: over time.
        released: as in the released code.
    """

    def __init__(self, channels: int, branches: int, stride: int = 1, released: bool = False):
        super().__init__()
        self.stride, self.released = stride, released
        self.convs, self.norms = nn.ModuleList(), nn.ModuleList()
        for i in range(1, branches + 1):
            strides, padding, dilation = (stride, 1, 1), (i, 0, 0), (i, 1, 1)
            conv = nn.Conv3d(channels, channels, (3, 1, 1), strides, padding, dilation, bias=False)
            norm = nn.BatchNorm3d(channels)
            # of a convolution that starts at zero BN makes unit variance as soon as it moves
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
    """What the mask of residual attention is the product of."""

    spatial: Tensor  # S (B, 1, H, W)
    channel: Tensor  # Ch (B, C)
    time: Tensor  # Tm (B, T)


def attention_factor(branches: Branches) -> Tensor:
    """1/2 + m with the mask m = sigmoid(S * Ch * Tm): (B, C, T, H, W), between 1/2 and 3/2."""
    spatial, channel, time = branches
    product = channel[:, :, None] * time[:, None]  # (B, C, T)
    return 0.5 + (spatial.unsqueeze(2) * product[..., None, None]).sigmoid()


class ResidualAttention(nn.Module):
    """The branches of a RAL on x (B, C, T, H, W), which is to become x/2 + m*x. ReLUs before BNs.

    The last weights of S start at zero, so that x stays x. Released, those of all three do: of a
    product of three zeros every factor has no gradient, and they stay zero.

    Args:
        channels: C.
        frames: T; the weights of Tm are of that length.
        released: start as in the released code.
    """

    def __init__(self, channels: int, frames: int, released: bool = False):
        super().__init__()
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
                # x is not negative: weights of both signs would close the ReLU of S, which has one
                # channel, for every input in about half of all starts
                before.data.abs_()

    def forward(self, x: Tensor) -> Branches:
        """At least in float32."""
        precise = torch.promote_types(x.dtype, torch.float32)
        with full_precision(x.device.type):
            of_positions = x.mean(dim=2, dtype=precise)  # (B, C, H, W)
            of_frames = x.mean(dim=(1, 3, 4), dtype=precise)  # (B, T)
            channel = self.channel(global_average(of_positions))
            return Branches(self.spatial(of_positions), channel, self.time(of_frames))


def two_linear(size: int, hidden: int) -> nn.Sequential:
    """size → hidden → size, with ReLU and BN between, without biases."""
    return nn.Sequential(
        nn.Linear(size, hidden, bias=False),
        nn.ReLU(),
        nn.BatchNorm1d(hidden),
        nn.Linear(hidden, size, bias=False),
    )


def convolutions_of(block: Block) -> list[tuple[nn.Conv2d, nn.Module]]:
    """The convolutions of a residual block, each with its batch norm."""
    pairs = [(block.conv1, block.bn1), (block.conv2, block.bn2)]
    if hasattr(block, 'conv3'):  # Bottleneck
        pairs.append((block.conv3, block.bn3))
    return pairs


def first_block(encoder: Encoder, block: Block, layer: M3DLayer, x: Tensor) -> Tensor:
    """A residual block of an encoder with an M3D layer before its last convolution.

    (B, C, T, H, W) → (B, C', T', H', W').
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
