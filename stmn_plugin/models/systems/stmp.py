"""STMP: a recurrent unit repairs each frame's map from those before it, 3-D convolutions join them.

Y. Liu, Z. Yuan, W. Zhou, H. Li, "Spatial and Temporal Mutual Promotion for Video-Based Person
Re-Identification", AAAI 2019.

The paper's, from memory and in part confirmed: the refining recurrent unit (RRU), the
spatial-temporal integration module (STIM), triplet losses on the clip and on horizontal parts.
The released code's: every layer below with its start, the margin 0.4, the hidden classifier. Ours:
the shared encoder in place of Inception-v3 at 299x299 with its auxiliary head, so maps of 16x8 and
16 parts; clips of L frames at test time, where the code takes whole tracklets.

Letters: B clips, L frames, C channels, H W positions, R reduced channels, E numbers of the feature.
"""

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.linalg import vector_norm

from stmn_plugin.config.rules import WEIGHT, Number
from stmn_plugin.config.settings import setting
from stmn_plugin.losses.recipe import Recipe

from ..base import VideoModel, register_video_model
from ..encoder import Encoder, SharedEncoderConfig, shared_encoder
from ..heads import full_precision, wide
from ..map_shapes import check_sizes


@dataclass(frozen=True)
class STMPConfig(SharedEncoderConfig):
    """The section ``stmp``."""

    part_weight: float = setting(
        1.0,
        WEIGHT,
        'weight of the triplet loss on parts, multiplied by loss.triplet.weight_t',
        in_vectors=False,
    )
    part_margin: float = setting(
        0.4, WEIGHT, 'margin of the triplet loss on parts', in_vectors=False
    )
    dropout: float = setting(
        0.5,
        Number(0, 1, below=True),
        'dropout before the last layer of the classifier',
        in_vectors=False,
    )


class RefiningUnit(nn.Module):
    """The recurrent unit (RRU): it carries a map through a clip and lets in what is to change.

    With h_0 = x_1, for each frame: a = h_{t-1} - x_t and m = x_t - x_{t-1}, of the frames as they
    come, 0 at first; r = ReLU(BN(W [a; m])); z = sigmoid(s c), s of a position and c of a channel,
    both of r; h_t = (1 - z) h_{t-1} + z x_t. In training the BN sees one time step of all clips at
    a time, L times a batch (released code).

    Args:
        channels: C.
        map_size: H and W; the spatial gate has a weight for each position.
        reduced: R.
        hidden: numbers between the two layers of the spatial gate.
    """

    def __init__(
        self, channels: int, map_size: tuple[int, int], reduced: int = 256, hidden: int = 128
    ):
        super().__init__()
        self.map_size = map_size
        self.reduce = nn.Conv2d(2 * channels, reduced, 1, bias=False)
        self.norm = nn.BatchNorm2d(reduced, eps=1e-3)
        self.spatial = nn.Sequential(
            nn.Conv2d(1, hidden, map_size, bias=False),
            nn.ReLU(),
            nn.Conv2d(hidden, map_size[0] * map_size[1], 1, bias=False),
        )
        self.channel = nn.Conv2d(reduced, channels, 1, bias=False)

    def forward(self, maps: Tensor) -> Tensor:
        """Refine maps x (B, L, C, H, W) to h; the shape stays the same."""
        return torch.stack([state for state, _ in self.steps(maps)], dim=1)

    def steps(self, maps: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield h_t and z_t, (B, C, H, W), of maps (B, L, C, H, W), frame by frame.

        Raises:
            ValueError: maps of another size.
        """
        check_sizes(maps, 'BLCHW', H=self.map_size[0], W=self.map_size[1])
        appearance, motion = self.reduce.weight.split(maps.shape[2], dim=1)
        moved = torch.cat([torch.zeros_like(maps[:, :1]), maps.diff(dim=1)], dim=1)  # m
        # its half of W for all frames at once: only the other half needs the state
        moved = F.conv2d(moved.flatten(0, 1), motion).unflatten(0, maps.shape[:2])
        state = maps[:, 0]
        for t in range(maps.shape[1]):
            difference = state - maps[:, t]  # a
            gate = self.gate(F.conv2d(difference, appearance) + moved[:, t])
            # (1 - z) h + z x, exactly h where h = x
            state = state - gate * difference
            yield state, gate

    def gate(self, reduced: Tensor) -> Tensor:
        """W [a; m], (B, R, H, W) → z (B, C, H, W), from 0 to 1."""
        rows = F.relu(self.norm(reduced))  # r
        spatial = self.spatial(rows.mean(dim=1, keepdim=True))  # (B, H*W, 1, 1)
        spatial = spatial.view(-1, 1, *rows.shape[2:])  # s, row by row
        channel = self.channel(rows.mean(dim=(2, 3), keepdim=True))  # c (B, C, 1, 1)
        gates: Tensor = (spatial * channel).sigmoid()
        return gates


class IntegrationModule(nn.Sequential):
    """The integration module (STIM): refined maps (B, C, L, H, W) → a map (B, E, L, H, W).

    Args:
        channels: C.
        dim: E.
    """

    def __init__(self, channels: int, dim: int = 256):
        super().__init__(
            nn.Conv3d(channels, dim, 1, bias=False),
            nn.BatchNorm3d(dim),
            nn.ReLU(),
            nn.Conv3d(dim, dim, 3, padding=1, bias=False),
            nn.BatchNorm3d(dim),
            nn.ReLU(),
        )


def part_vectors(refined: Tensor) -> Tensor:
    """Refined maps (B, L, C, H, W) → means of each row over width and time, (B, C, H)."""
    return refined.mean(dim=(1, 4))


class HiddenClassifier(nn.Module):
    """Features (B, E) → logits (B, identities) by a hidden layer; its start is the code's.

    Args:
        dim: E.
        num_classes: identities.
        dropout: of the hidden layer.
        hidden: its size.
    """

    def __init__(self, dim: int, num_classes: int, dropout: float, hidden: int = 512):
        super().__init__()
        self.hidden = nn.Linear(dim, hidden)
        self.norm = nn.BatchNorm1d(hidden)
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(hidden, num_classes)
        nn.init.kaiming_normal_(self.hidden.weight, mode='fan_out')
        nn.init.normal_(self.norm.weight, mean=1, std=0.02)
        nn.init.normal_(self.classifier.weight, std=0.001)
        for layer in (self.hidden, self.classifier):
            nn.init.zeros_(layer.bias)

    def forward(self, features: Tensor) -> Tensor:
        hidden = F.leaky_relu(self.norm(self.hidden(features)), 0.1)
        logits: Tensor = self.classifier(self.dropout(hidden))
        return logits


class STMPOutput(NamedTuple):
    """What the losses need; returned in training mode."""

    feature: Tensor  # (B, E)
    logits: Tensor  # (B, num_classes)
    parts: Tensor  # (B, C, H)


@register_video_model('stmp')
class STMP(VideoModel):
    """STMP: recurrent refinement of feature maps, 3-D convolutions on them (AAAI 2019).

    Under ``torch.autocast`` the encoder runs in reduced precision, everything after it in float32.

    Args:
        num_classes: training identities.
        seq_len: L of still clips; clips of any length are taken.
        config: weight and margin of the triplet loss on parts, dropout.
        pretrained: start the encoder from ImageNet weights.
        frame_size: height and width of frames; the weights are of this size.

    Raises:
        InputError: backbone weights that cannot be loaded.
    """

    Config = STMPConfig
    size_in_weights = True
    takes_any_length = True

    # what shapes of weights tell: words of a message → {name of a weight: dimension}
    settings_in_shapes = {
        'data.height / 16 =': {'rru.spatial.0.weight': 2},
        'data.width / 16 =': {'rru.spatial.0.weight': 3},
    }

    def __init__(
        self,
        num_classes: int,
        seq_len: int,
        config: STMPConfig,
        pretrained: bool = True,
        frame_size: tuple[int, int] = (256, 128),
    ):
        super().__init__(num_classes, seq_len, config, pretrained)
        self.frame_size = frame_size
        self.encoder = shared_encoder(config, 'stmp', pretrained)
        self.feature_dim = 256
        self.rru = RefiningUnit(self.encoder.dim, self.encoder.map_size(frame_size))
        self.stim = IntegrationModule(self.encoder.dim, self.feature_dim)
        self.classifier = HiddenClassifier(self.feature_dim, num_classes, config.dropout)

    def forward(self, clips: Tensor) -> Tensor | STMPOutput:
        """Normalised clips (B, L, 3, H, W), or images (B, 3, H, W), as the protocol has it."""
        clips = self.as_clips(clips)
        maps = self._maps(clips)
        with full_precision(clips.device.type):
            refined = self.rru(maps)
            feature = self.integrate(refined)
            if not self.training:
                return feature
            return STMPOutput(feature, self.classifier(feature), part_vectors(refined))

    def integrate(self, refined: Tensor) -> Tensor:
        """Refined maps (B, L, C, H, W) → features (B, E)."""
        feature: Tensor = self.stim(refined.transpose(1, 2)).mean(dim=(2, 3, 4))
        return feature

    def losses(self, outputs: STMPOutput, pids: Tensor, recipe: Recipe) -> dict[str, Tensor]:
        """Apply the recipe to the clip, and the mean over the parts of a triplet loss on each.

        Parts are as long as the encoder's maps make them; their hinge keeps the code's margin.
        """
        hinge = dataclasses.replace(recipe, triplet_margin=self.config.part_margin)
        parts = [hinge.triplet(part, pids) for part in outputs.parts.unbind(dim=2)]
        return {
            'cross_entropy': recipe.cross_entropy(outputs.logits, pids),
            'triplet': recipe.triplet(outputs.feature, pids),
            'triplet_parts': self.config.part_weight * torch.stack(parts).mean(),
        }

    def backbone(self) -> Encoder:
        return self.encoder

    @torch.no_grad()
    def explain(self, clips: Tensor) -> dict[str, Tensor]:
        """Return the effect of the refinement on clips (B, L, 3, H, W) in eval mode."""
        clips = self.as_clips(clips)
        with full_precision(clips.device.type):
            maps = self._maps(clips)
            states, gates = zip(
                *((state, gate.mean(dim=1)) for state, gate in self.rru.steps(maps)), strict=True
            )
            refined = torch.stack(states, dim=1)  # (B, L, C, H, W)
            return {
                'update_gates': torch.stack(gates, dim=1),
                'frame_norms': vector_norm(maps, dim=2),
                'refined_norms': vector_norm(refined, dim=2),
                'change_norms': vector_norm(refined - maps, dim=2),
                'frame_feature': maps.mean(dim=(1, 3, 4)),
                'refined_feature': refined.mean(dim=(1, 3, 4)),
                'clip_feature': self.integrate(refined),
            }

    def _maps(self, clips: Tensor) -> Tensor:
        """Compute x (B, L, C, H, W), at least in float32."""
        maps = wide(self.encoder(clips.flatten(0, 1)).frame_features)
        return maps.view(*clips.shape[:2], *maps.shape[1:])
