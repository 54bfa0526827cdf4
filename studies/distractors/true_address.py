"""What could a spatial memory gain if it always found the distractors, learning with the features?

python tools/compare.py --import studies/distractors/true_address.py \
    --config-file studies/distractors/true_address.yaml \
    --variants studies/distractors/true_address_variants.yaml --output log/studies/distractors

An oracle in training and in testing. The dataset ``frames_and_masks`` is the study's, each frame
with its distractor mask below it, so that both are resized and flipped alike. The architecture
``true_address`` encodes the upper half, and takes from the lower half the share of each position of
a map that distractors cover. With that share it changes f^o, or the output of an earlier stage:

* *nothing*: the baseline. It is not that of the study, as a box that is erased at random
  (``data.transforms``) lies somewhere in both halves. In a mask, nothing there counts as covered.
  Resizing mixes the last row of a frame a little with the first of its mask.
* *positions*: each position is weighted by the share of it that is not covered; the mean of the
  weights is 1.
* *replaced*: what is covered of a position is replaced by one learned vector, as it has one colour
  in painted frames.
* *memory*: a spatial memory of Eq. 2 and 3 whose first item is that of positions without a
  distractor. Its matching probability is the share that is not covered; the other items divide the
  rest by Eq. 1, with f^o as the query.
* *mlp*: the share that is covered of what a network of one hidden layer makes of f^o of the
  position is subtracted.
"""

import dataclasses

import torch
import torch.nn.functional as F
import torchreid
from torch import nn

from stmn_plugin.config.rules import ITEMS, Number, OneOf
from stmn_plugin.config.settings import setting
from stmn_plugin.data.clips import IMAGENET_MEAN, IMAGENET_STD
from stmn_plugin.datasets.host_datasets import Mars
from stmn_plugin.datasets.synthetic import PRESETS, ensure_changed, mask_below
from stmn_plugin.models import STMN, SpatialMemory, STMNConfig, register_video_model
from stmn_plugin.models.heads import full_precision, wide
from stmn_plugin.models.stmn.memory import cosine_probs

WHITE = [(1 - mean) / std for mean, std in zip(IMAGENET_MEAN, IMAGENET_STD, strict=True)]
BLACK = [-mean / std for mean, std in zip(IMAGENET_MEAN, IMAGENET_STD, strict=True)]
PRESET = 'study'
STAGES = 'conv2', 'conv3', 'conv4', 'conv5'
LEAST = 0.01  # weight of a position that is covered as a whole


class FramesAndMasks(Mars):
    """The study's data with its masks; ``data.height`` is that of two frames."""

    def __init__(self, root='', **kwargs):
        super().__init__(
            root=str(ensure_changed(root, PRESETS[PRESET], 'masks', mask_below)), **kwargs
        )


torchreid.data.register_video_dataset('frames_and_masks', FramesAndMasks)


class Nothing(nn.Module):
    """Maps as they are."""

    def __init__(self, dim, items, bn_scale):
        super().__init__()

    def forward(self, maps, covered):
        return maps


class Positions(nn.Module):
    """Weights of the positions."""

    def __init__(self, dim, items, bn_scale):
        super().__init__()

    def forward(self, maps, covered):
        weights = (1 - covered).clamp(min=LEAST)[:, None]  # (T, 1, H, W)
        return maps * (weights / weights.mean(dim=(2, 3), keepdim=True))


class Replaced(nn.Module):
    """A learned vector in the place of what is covered."""

    def __init__(self, dim, items, bn_scale):
        super().__init__()
        self.vector = nn.Parameter(torch.zeros(dim, 1, 1))

    def forward(self, maps, covered):
        return torch.lerp(maps, self.vector, covered[:, None])


class TrueMemory(SpatialMemory):
    """A spatial memory that knows which positions are covered."""

    def __init__(self, dim, items, bn_scale):
        super().__init__(dim, items, bn_scale=bn_scale)

    def forward(self, maps, covered):
        covered = covered.flatten()[:, None]  # (T*K, 1)
        rows = maps.permute(0, 2, 3, 1).flatten(0, 2)
        kinds = cosine_probs(rows, self.keys[1:], self.scale)  # (T*K, M - 1)
        read = self.bn(torch.cat([1 - covered, covered * kinds], dim=1) @ self.values)  # Eq. 2
        return maps - read.view(len(maps), *maps.shape[2:], -1).permute(0, 3, 1, 2)  # Eq. 3


class PositionMLP(nn.Module):
    """A network from f^o of a covered position to what is subtracted from it."""

    def __init__(self, dim, items, bn_scale):
        super().__init__()
        self.hidden, self.subtracted = nn.Conv2d(dim, items, 1), nn.Conv2d(items, dim, 1)
        nn.init.zeros_(self.subtracted.weight)
        nn.init.zeros_(self.subtracted.bias)

    def forward(self, maps, covered):
        unit = F.normalize(maps, dim=1) * maps.shape[1] ** 0.5
        return maps - covered[:, None] * self.subtracted(F.relu(self.hidden(unit)))


USES = {
    'nothing': Nothing,
    'positions': Positions,
    'replaced': Replaced,
    'memory': TrueMemory,
    'mlp': PositionMLP,
}


class StackedEncoder(nn.Module):
    """Frames with their masks (T, 3, 2 * height, width) → maps of the encoder.

    The output of a stage is changed by what is covered of its positions.
    """

    def __init__(self, encoder, stage, use):
        super().__init__()
        self.encoder, self.use, self.masks = encoder, use, None
        getattr(encoder, stage)[-1].register_forward_hook(self.change)

    def forward(self, stacked):
        frames, self.masks = stacked.chunk(2, dim=2)
        maps = self.encoder(frames)
        self.masks = None
        return maps

    def change(self, block, inputs, maps):
        """Replace the output of the last block of the stage."""
        if self.masks is None:  # the encoder alone, for the sizes of its maps
            return maps
        with full_precision(maps.device.type):
            return self.use(wide(maps), share_covered(self.masks, maps.shape[2:]))


def share_covered(masks, size):
    """Normalised pictures of masks (T, 3, height, width) → share of each position (T, H, W)."""
    black, white = masks.new_tensor(BLACK).view(3, 1, 1), masks.new_tensor(WHITE).view(3, 1, 1)
    level = ((masks - black) / (white - black)).mean(dim=1, keepdim=True)
    return F.adaptive_avg_pool2d((level > 0.5).float(), size)[:, 0]


@register_video_model('true_address')
class TrueAddress(STMN):
    """The baseline, with known masks."""

    @dataclasses.dataclass(frozen=True)
    class Config(STMNConfig):
        use: str = setting('memory', OneOf(tuple(USES)), 'what is done with the masks')
        stage: str = setting('conv5', OneOf(STAGES), 'whose output is changed')
        units: int = setting(10, ITEMS, 'items of the memory, hidden units of the network')
        bn_scale: float = setting(0.0, Number(-100, 100), "initial scale of Eq. 3's BN")

    def __init__(self, num_classes, seq_len, config, pretrained=True):
        baseline = dataclasses.replace(config, spatial_mode='none', temporal_mode='average')
        super().__init__(num_classes, seq_len, baseline, pretrained)
        channels = self.encoder.channels[config.stage][-1]
        use = USES[config.use](channels, config.units, config.bn_scale)
        self.encoder = StackedEncoder(self.encoder, config.stage, use)

    def memory_parameters(self):
        yield from self.encoder.use.parameters()
