"""GLTR: dilated convolutions over time, then self-attention between all frames of a clip.

J. Li, J. Wang, Q. Tian, W. Gao, S. Zhang, "Global-Local Temporal Representations for Video Person
Re-Identification", ICCV 2019.

The released code's: vectors of frames of 128 numbers, dilations 1, 2, 3, the vectors themselves
first in what the attention gets, an attention without scaling whose batch norm starts at zero, the
mean over time before any batch norm. The paper, as remembered: dilations 1, 2, 4, and an attention
over the outputs of the convolutions alone. Ours: the shared encoder, BNNeck, triplet loss.

Letters: B clips, L frames, T = B*L, D channels of the encoder's map, d numbers of a frame vector x,
N dilations r_i, C = (1 + N)*d channels of F.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as functional
from torch import Tensor, nn
from torch.linalg import vector_norm

from stmn_plugin.config.rules import FLAG, ITEMS, ListOf, OneOf, Whole
from stmn_plugin.config.settings import setting
from stmn_plugin.losses.recipe import Recipe

from ..base import VideoModel, register_video_model
from ..encoder import Encoder, SharedEncoderConfig, shared_encoder
from ..heads import BNNeck, bias_free_classifier, full_precision, global_average
from ..non_local import NonLocal, attention


@dataclass(frozen=True)
class GLTRConfig(SharedEncoderConfig):
    """The section ``gltr``."""

    frame_dim: int = setting(128, ITEMS, 'd, length of a frame vector')
    dilations: list[int] = setting(
        [1, 2, 3],
        ListOf(Whole(1, 1_024), least=1),
        'r_i, frames between taps (code; the paper: 1, 2, 4)',
    )
    frames_in_stack: bool = setting(
        True, FLAG, 'start F with the frame vectors (code); False: convolutions alone (paper)'
    )
    neck: str = setting(
        'bnneck',
        OneOf(('bnneck', 'published')),
        'layers before the classifier; published: BN, ReLU, dropout, features from before them',
    )


def dilated_convolution(x: Tensor, taps: Tensor, dilation: int) -> Tensor:
    """f(t) = sum over j = -1, 0, 1 of V_j x(t + j*r), where x is 0 outside of the clip.

    Args:
        x: (B, d, L).
        taps: V, (d', d, 3), past, present and future.
        dilation: r.

    Returns:
        (B, d', L).
    """
    return functional.conv1d(x, taps, padding=dilation, dilation=dilation)


class DilatedTemporalPyramid(nn.Module):
    """Short-term cues: x (B, L, d) → F = [x; f_1; ...; f_N], (B, L, C).

    No bias, norm or activation. The convolutions start at a thousandth of the scale of x.

    Args:
        dim: d.
        dilations: r_i.
        with_frames: F begins with x.
    """

    def __init__(self, dim: int, dilations: Sequence[int], with_frames: bool = True):
        super().__init__()
        self.dilations = tuple(dilations)
        self.with_frames = with_frames
        self.channels = (len(self.dilations) + with_frames) * dim  # C
        self.branches = nn.ModuleList(nn.Conv1d(dim, dim, 3, bias=False) for _ in self.dilations)
        for taps in self.branches.parameters():
            nn.init.normal_(taps, std=0.001)

    def forward(self, x: Tensor) -> Tensor:
        x = x.transpose(1, 2)  # (B, d, L)
        cues = [
            dilated_convolution(x, taps, dilation)
            for taps, dilation in zip(self.branches.parameters(), self.dilations, strict=True)
        ]
        stacked = torch.cat([x, *cues] if self.with_frames else cues, dim=1)  # (B, C, L)
        return stacked.transpose(1, 2)


class GLTROutput(NamedTuple):
    """What the losses need; returned in training mode."""

    feature: Tensor  # (B, C) mean of F' over the frames, before any BN
    logits: Tensor  # (B, num_classes)


@register_video_model('gltr')
class GLTR(VideoModel):
    """GLTR: dilated convolutions and self-attention over time (ICCV 2019).

    Args:
        num_classes: training identities.
        seq_len: L of clips that images stand for; clips of any length are taken.
        config: sizes and choices.
        pretrained: start from ImageNet weights.

    Raises:
        InputError: backbone weights that cannot be loaded.
    """

    Config = GLTRConfig
    frame_once = True
    takes_any_length = True

    settings_in_shapes = {'gltr.frame_dim': {'embedding.weight': 0}}

    def __init__(self, num_classes: int, seq_len: int, config: GLTRConfig, pretrained: bool = True):
        super().__init__(num_classes, seq_len, config, pretrained)
        self.encoder = shared_encoder(config, 'gltr', pretrained)
        self.embedding = nn.Linear(self.encoder.dim, config.frame_dim)
        nn.init.kaiming_normal_(self.embedding.weight, mode='fan_out')
        nn.init.zeros_(self.embedding.bias)
        self.pyramid = DilatedTemporalPyramid(
            config.frame_dim, config.dilations, config.frames_in_stack
        )
        self.feature_dim = self.pyramid.channels
        self.attention = NonLocal(self.feature_dim)  # frames as tokens; F' = F at the start
        self.neck: nn.Module
        if config.neck == 'bnneck':
            self.neck = BNNeck(self.feature_dim)
            self.classifier = bias_free_classifier(self.feature_dim, num_classes)
        else:
            self.neck = nn.Sequential(nn.BatchNorm1d(self.feature_dim), nn.ReLU(), nn.Dropout(0.5))
            self.classifier = nn.Linear(self.feature_dim, num_classes)
            nn.init.normal_(self.classifier.weight, std=0.001)
            nn.init.zeros_(self.classifier.bias)

    def forward(self, clips: Tensor) -> Tensor | GLTROutput:
        """Normalised clips (B, L, 3, H, W), or images (B, 3, H, W), as the protocol has it."""
        if clips.dim() == 4:  # each image is encoded once and stands for all L frames
            vectors = self.encode_frames(clips).unsqueeze(1).expand(-1, self.seq_len, -1)
        else:
            clips = self.as_clips(clips)
            vectors = self.encode_frames(clips.flatten(0, 1)).unflatten(0, clips.shape[:2])
        if not self.training:
            return self.embed(vectors)
        with full_precision(vectors.device.type):
            feature = self.clip_feature(vectors)
            return GLTROutput(feature, self.classifier(self.neck(feature)))

    def losses(self, outputs: GLTROutput, pids: Tensor, recipe: Recipe) -> dict[str, Tensor]:
        return {
            'cross_entropy': recipe.cross_entropy(outputs.logits, pids),
            'triplet': recipe.triplet(outputs.feature, pids),
        }

    def backbone(self) -> Encoder:
        return self.encoder

    def encode_frames(self, frames: Tensor) -> Tensor:
        """(T, 3, H, W) → frame vectors x (T, d)."""
        return self._vectors(self.encoder(frames).frame_features)

    def clip_feature(self, vectors: Tensor) -> Tensor:
        """Compute the mean over the frames of F' = F + TSA(F), (B, C), from x (B, L, d)."""
        with full_precision(vectors.device.type):
            stacked = self.pyramid(vectors)  # (B, L, C)
            refined: Tensor = stacked + self.attention.residual(stacked)  # F', (B, L, C)
        return refined.mean(dim=1)

    def embed(self, vectors: Tensor) -> Tensor:
        """Clips of :meth:`encode_frames`, (B, L, d) → features (B, C).

        They are those after the BNNeck; with the published neck those before it.
        """
        with full_precision(vectors.device.type):
            return self._tested(self.clip_feature(vectors))

    @torch.no_grad()
    def explain(self, clips: Tensor) -> dict[str, Tensor]:
        """Return which frames meet in clips (B, L, 3, H, W); see ``explanations.py``."""
        clips = self.as_clips(clips)
        batch = clips.shape[:2]  # (B, L)
        with full_precision(clips.device.type):
            maps = self.encoder(clips.flatten(0, 1)).frame_features  # (T, D, H, W)
            vectors = self._vectors(maps).unflatten(0, batch)  # (B, L, d)
            stacked = self.pyramid(vectors)  # (B, L, C)
            queries, keys = self.attention.theta(stacked), self.attention.phi(stacked)
            return {
                'frame_attention': attention(queries, keys),
                'frame_norms': vector_norm(maps, dim=1).unflatten(0, batch),
                'frame_feature': global_average(maps).unflatten(0, batch).mean(dim=1),
                'clip_feature': self._tested(self.clip_feature(vectors)),
            }

    def _vectors(self, maps: Tensor) -> Tensor:
        """(T, D, H, W) → (T, d)."""
        with full_precision(maps.device.type):
            vectors: Tensor = self.embedding(global_average(maps))
        return vectors

    def _tested(self, feature: Tensor) -> Tensor:
        """Map the mean of F' (B, C) to the features that are ranked, (B, C)."""
        tested: Tensor = self.neck(feature) if self.config.neck == 'bnneck' else feature
        return tested
