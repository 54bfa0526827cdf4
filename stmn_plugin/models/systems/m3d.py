"""M3D: convolutions over neighbouring frames inside a ResNet, and a second ResNet without them.

J. Li, S. Zhang, T. Huang, "Multi-scale 3D Convolution Network for Video Based Person
Re-Identification", AAAI 2019.

The paper's: M3D layers (parallel 3x1x1 convolutions of growing dilation, added to their input),
residual attention layers (RAL), two streams whose vectors are fused. The released code's: where
the layers stand, sizes, strides. Ours: a start from which they train (``m3d.released_start`` is
the other), clips of any length, the triplet loss, both streams in one network.

Letters: B clips, L frames, T frames left at a stage, C channels, H W positions.
"""

from dataclasses import dataclass
from typing import NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.linalg import vector_norm

from stmn_plugin.config.rules import FLAG, ListOf, OneOf, Whole
from stmn_plugin.config.settings import setting
from stmn_plugin.errors import InputError
from stmn_plugin.losses.recipe import Recipe

from ..backbones import RESNETS, Block
from ..base import VideoModel, register_video_model
from ..encoder import Encoder, SharedEncoderConfig, shared_encoder
from ..heads import BNNeck, bias_free_classifier, full_precision
from ..m3d_layers import (
    Branches,
    M3DLayer,
    ResidualAttention,
    attention_factor,
    convolutions_of,
    first_block,
    frame_by_frame,
    over_time,
)

STRIDES = (1, 1, 2, 2, 2)  # over time, of the M3D layers in the stem and in conv2 to conv5


@dataclass(frozen=True)
class M3DConfig(SharedEncoderConfig):
    """The section ``m3d``."""

    two_stream: bool = setting(True, FLAG, 'add the stream of single frames')
    attention: bool = setting(
        True, FLAG, 'RAL after conv2, conv3 and conv4; its weights depend on video.seq_len'
    )
    branches: list[int] = setting(
        [3, 3, 3, 2, 1], ListOf(Whole(1, 16), length=5), 'n of the M3D layers, stem to conv5'
    )
    released_start: bool = setting(
        False,
        FLAG,
        'initial weights and ReLUs of the released code: M3D layers and RAL never train',
    )
    embedding: int = setting(128, Whole(1, 4_096), "length of a stream's vector")
    head: str = setting(
        'bnneck',
        OneOf(('bnneck', 'released')),
        'layers before the classifiers; released: BN, ReLU, dropout, classifiers with bias',
    )


class StreamHead(nn.Module):
    """Maps of a stream (B, C, T, H, W) → its vector (B, m3d.embedding), logits (B, num_classes)."""

    def __init__(self, dim: int, config: M3DConfig, num_classes: int):
        super().__init__()
        size = config.embedding
        self.embedding = nn.Linear(dim, size)
        self.neck: nn.Module = BNNeck(size)
        self.classifier = bias_free_classifier(size, num_classes)
        if config.head == 'released':
            self.neck = nn.Sequential(nn.BatchNorm1d(size), nn.ReLU(), nn.Dropout(0.5))
            self.classifier = nn.Linear(size, num_classes)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        precise = torch.promote_types(x.dtype, torch.float32)
        with full_precision(x.device.type):
            vector = self.embedding(x.mean(dim=(2, 3, 4), dtype=precise))
            return vector, self.classifier(self.neck(vector))


class M3DOutput(NamedTuple):
    """What the losses need; returned in training mode."""

    feature: Tensor  # (B, D) vectors of the streams, each of length 1
    temporal_logits: Tensor  # (B, num_classes)
    spatial_logits: Tensor | None  # (B, num_classes) of the stream of single frames


@register_video_model('m3d')
class M3D(VideoModel):
    """M3D: multi-scale convolutions over time, and a stream without them (AAAI 2019).

    Args:
        num_classes: training identities.
        seq_len: L; with attention no other length is taken.
        config: parts and sizes.
        pretrained: start from ImageNet weights.

    Raises:
        InputError: a backbone that is no ResNet, or weights of it that cannot be loaded.
    """

    Config = M3DConfig

    settings_in_shapes = {
        'video.seq_len': {'attentions.0.time.0.weight': 1},
        'm3d.embedding': {'heads.temporal.embedding.weight': 0},
    }

    def __init__(self, num_classes: int, seq_len: int, config: M3DConfig, pretrained: bool = True):
        super().__init__(num_classes, seq_len, config, pretrained)
        self.takes_any_length = not config.attention
        streams = ('temporal', 'spatial') if config.two_stream else ('temporal',)
        self.encoders = nn.ModuleDict(
            {stream: shared_encoder(config, 'm3d', pretrained) for stream in streams}
        )
        encoder = cast(Encoder, self.encoders['temporal'])
        stages = stages_of(encoder)
        if not all(isinstance(block, Block) for stage in stages for block in stage):
            raise InputError(
                f'm3d.backbone {encoder.name}: m3d puts layers into the residual blocks of a '
                f'ResNet; it takes {", ".join(RESNETS.names)}'
            )
        widths = [cast(nn.Conv2d, encoder.stem[0]).out_channels]
        widths += [convolutions_of(stage[0])[-1][0].in_channels for stage in stages]
        released = config.released_start
        self.layers = nn.ModuleList(
            M3DLayer(*sizes, released)
            for sizes in zip(widths, config.branches, STRIDES, strict=True)
        )
        self.attentions = nn.ModuleList()
        frames = seq_len
        for stage, stride in zip(('conv2', 'conv3', 'conv4'), STRIDES[1:4], strict=True):
            frames = -(-frames // stride)
            if config.attention:
                channels = encoder.channels[stage][-1]
                self.attentions.append(ResidualAttention(channels, frames, released))
        self.heads = nn.ModuleDict(
            {stream: StreamHead(encoder.dim, config, num_classes) for stream in streams}
        )
        self.feature_dim = config.embedding * len(streams)

    def forward(self, clips: Tensor) -> Tensor | M3DOutput:
        """Normalised clips (B, L, 3, H, W), or images (B, 3, H, W), as the protocol has it."""
        clips = self.as_clips(clips)
        maps = {'temporal': self.temporal_maps(clips)[0]}
        if 'spatial' in self.encoders:
            maps['spatial'] = self.spatial_maps(clips)
        vectors, logits = {}, {}
        for stream, head in self.heads.items():
            vectors[stream], logits[stream] = head(maps[stream])
        feature = torch.cat([F.normalize(vector) for vector in vectors.values()], dim=1)
        if not self.training:
            return feature
        return M3DOutput(feature, logits['temporal'], logits.get('spatial'))

    def losses(self, outputs: M3DOutput, pids: Tensor, recipe: Recipe) -> dict[str, Tensor]:
        """Return the cross-entropy of each stream (paper) and the triplet of the clip's feature."""
        losses = {'cross_entropy_temporal': recipe.cross_entropy(outputs.temporal_logits, pids)}
        if outputs.spatial_logits is not None:
            losses['cross_entropy_spatial'] = recipe.cross_entropy(outputs.spatial_logits, pids)
        return losses | {'triplet': recipe.triplet(outputs.feature, pids)}

    def logits(self, outputs: M3DOutput) -> Tensor:
        return outputs.temporal_logits

    def backbone(self) -> nn.ModuleDict:
        """Return the encoders of the streams."""
        return self.encoders

    def finish(self, features: Tensor) -> Tensor:
        """Normalise the vector of each stream to length 1 again after the mean over clips."""
        return F.normalize(features.unflatten(1, (len(self.heads), -1)), dim=2).flatten(1)

    def temporal_maps(self, clips: Tensor) -> tuple[Tensor, list[Branches]]:
        """Clips (B, L, 3, height, width) → maps (B, C, T, H, W), branches of the attentions."""
        encoder, (first, *layers) = cast(Encoder, self.encoders['temporal']), self.layers
        branches: list[Branches] = []
        maps = encoder.run([encoder.stem[:3]], clips.flatten(0, 1))
        x = first(over_time(maps, clips.shape[1]))
        x = over_time(encoder.stem[3](frame_by_frame(x)), x.shape[2])
        for stage, layer in zip(stages_of(encoder), layers, strict=True):
            x = first_block(encoder, stage[0], cast(M3DLayer, layer), x)
            x = over_time(encoder.run(stage[1:], frame_by_frame(x)), x.shape[2])
            if len(branches) < len(self.attentions):
                branches.append(self.attentions[len(branches)](x))
                x = x * attention_factor(branches[-1]).to(x.dtype)
        return x, branches

    def spatial_maps(self, clips: Tensor) -> Tensor:
        """Clips (B, L, 3, height, width) → maps of single frames (B, C, L, H, W)."""
        maps = self.encoders['spatial'](clips.flatten(0, 1)).frame_features
        return over_time(maps, clips.shape[1])

    @torch.no_grad()
    def explain(self, clips: Tensor) -> dict[str, Tensor]:
        """Return attention and maps of clips (B, L, 3, H, W); see ``explanations.py``."""
        clips = self.as_clips(clips)
        with full_precision(clips.device.type):
            explained = {'clip_feature': self(clips)}
            if self.attentions:
                branches = self.temporal_maps(clips)[1]
                explained['residual_attention'] = attention_factor(branches[0]).mean(dim=1)
            if 'spatial' in self.encoders:
                x = self.spatial_maps(clips)
                explained['frame_norms'] = vector_norm(x, dim=1)  # (B, L, H, W)
                explained['frame_feature'] = x.mean(dim=(2, 3, 4))
        return explained


def stages_of(encoder: Encoder) -> list[nn.Sequential]:
    """Return conv2 to conv5."""
    return [encoder.conv2, encoder.conv3, encoder.conv4, encoder.conv5]
