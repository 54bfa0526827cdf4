"""QAN: every frame has a quality, and a clip is the mean of its frames weighted by it.

Y. Liu, J. Yan, W. Ouyang, "Quality Aware Network for Set to Set Recognition", CVPR 2017.

The paper's: two branches on one trunk, the feature of a frame and its quality from a map of a
middle stage; sigmoid, L1 normalisation over the frames of a set, cross-entropy on every frame. Its
quality branch is remembered as convolution, pooling and a linear layer; the released code (a later
version with parts) has variants without a convolution. Ours: ResNet instead of Inception, the sizes
of the quality branch, cross-entropy through a BNNeck and triplet loss on the clip.

Letters: B clips, L frames, T = B*L, D channels of f, C channels and H W positions of the map that
the quality is read from.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.linalg import vector_norm

from stmn_plugin.config.rules import WEIGHT, OneOf, Whole
from stmn_plugin.config.settings import setting
from stmn_plugin.losses.recipe import Recipe

from ..base import VideoModel, register_video_model
from ..encoder import Encoder, SharedEncoderConfig, shared_encoder
from ..heads import BNNeck, bias_free_classifier, full_precision, global_average


@dataclass(frozen=True)
class QANConfig(SharedEncoderConfig):
    """The section ``qan``."""

    quality_map: str = setting(
        'conv4', OneOf(('conv3', 'conv4')), 'stage whose map gives the quality'
    )
    quality_channels: int = setting(256, Whole(1, 4_096), 'channels of the quality convolutions')
    quality_layers: int = setting(
        1, Whole(1, 8), 'quality convolutions (paper: not known); the first halves the map'
    )
    quality_weights: str = setting(
        'l1',
        OneOf(('l1', 'softmax')),
        'how scores become weights of frames; l1: sigmoid over its sum (paper)',
    )
    clip_weight: float = setting(
        1.0,
        WEIGHT,
        'weight of the cross-entropy of the clip; 0: of frames alone (paper)',
        in_vectors=False,
    )
    frame_weight: float = setting(
        1.0, WEIGHT, 'weight of the cross-entropy of every frame', in_vectors=False
    )
    frame_embedding: int = setting(
        0,
        Whole(0, 65_536),
        'size of a linear layer between f and the classifier of frames (paper: not known); 0: none',
    )


def quality_weights(scores: Tensor, kind: str = 'l1') -> Tensor:
    """Scores z of the frames of sets → their weights w.

    Args:
        scores: (..., L).
        kind: ``l1`` is q = sigmoid(z), w = q / sum(q) over the frames; ``softmax`` of z.

    Returns:
        (..., L), not negative, sums to 1 over the frames.
    """
    if kind == 'softmax':
        return scores.softmax(dim=-1)
    # q / sum(q) = softmax(log q), which has no 0 / 0 where every sigmoid underflows
    return F.logsigmoid(scores).softmax(dim=-1)


def weighted_mean(features: Tensor, weights: Tensor) -> Tensor:
    """Features of frames f (B, L, D) and their weights w (B, L) → features of clips F (B, D)."""
    return torch.einsum('bl,bld->bd', weights, features)


class QualityUnit(nn.Module):
    """Maps of a middle stage (T, C, H, W) → scores z of frames (T,), sigmoid to come.

    The weights of the last layer are small at the start and its bias is 0: every quality is about
    0.5, and training starts from the plain mean.

    Args:
        dim: C.
        channels: of the convolutions.
        layers: number of convolutions; the first has stride 2.
    """

    def __init__(self, dim: int, channels: int, layers: int = 1):
        super().__init__()
        self.conv = nn.Conv2d(dim, channels, 3, stride=2, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(channels)
        self.more = nn.Sequential()
        for _ in range(layers - 1):
            conv = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
            self.more.extend([conv, nn.BatchNorm2d(channels), nn.ReLU()])
        self.linear = nn.Linear(channels, 1)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode='fan_out', nonlinearity='relu')
        nn.init.normal_(self.linear.weight, std=0.01)
        nn.init.zeros_(self.linear.bias)

    def forward(self, maps: Tensor) -> Tensor:
        maps = self.more(F.relu(self.bn(self.conv(maps))))  # (T, channels, H/2, W/2)
        with full_precision(maps.device.type):
            scores: Tensor = self.linear(global_average(maps)).squeeze(1)
        return scores


class WeighedFrames(NamedTuple):
    """What a frame contributes to its clip."""

    features: Tensor  # (T, D) f, GAP of conv5
    scores: Tensor  # (T,) z


class QANOutput(NamedTuple):
    """What the losses need; returned in training mode."""

    feature: Tensor  # (B, D) F, before the BNNeck
    logits: Tensor  # (B, num_classes) of the clip
    frame_logits: Tensor  # (B, L, num_classes)


@register_video_model('qan')
class QAN(VideoModel):
    """QAN: frames weighted by a learned quality (CVPR 2017).

    Args:
        num_classes: training identities.
        seq_len: L of clips that images stand for; clips of any length are taken.
        config: sizes and weights.
        pretrained: start from ImageNet weights.

    Raises:
        InputError: backbone weights that cannot be loaded.
    """

    Config = QANConfig
    frame_once = True
    takes_any_length = True

    settings_in_shapes = {
        'qan.quality_channels': {'quality.conv.weight': 0},
        'qan.frame_embedding': {'classifier_embedding.weight': 0},
    }

    def __init__(self, num_classes: int, seq_len: int, config: QANConfig, pretrained: bool = True):
        super().__init__(num_classes, seq_len, config, pretrained)
        self.encoder = shared_encoder(config, 'qan', pretrained)
        channels = self.encoder.channels[config.quality_map][-1]
        self.quality = QualityUnit(channels, config.quality_channels, config.quality_layers)
        self.feature_dim = dim = self.encoder.dim
        embedded = config.frame_embedding
        self.classifier_embedding = nn.Linear(dim, embedded, bias=False) if embedded else None
        self.bnneck_clip = BNNeck(dim)
        self.bnneck_frame = BNNeck(embedded or dim)
        self.classifier_clip = bias_free_classifier(dim, num_classes)
        self.classifier_frame = bias_free_classifier(embedded or dim, num_classes)

    def forward(self, clips: Tensor) -> Tensor | QANOutput:
        """Normalised clips (B, L, 3, H, W), or images (B, 3, H, W), as the protocol has it.

        An image is a clip of one frame: all weights of a still clip are equal.
        """
        clips = clips.unsqueeze(1) if clips.dim() == 4 else self.as_clips(clips)
        if not self.training:
            return self.embed(self.encode_frames(clips.flatten(0, 1)).unflatten(0, clips.shape[:2]))
        parts = self._frame_parts(clips.flatten(0, 1))
        with full_precision(clips.device.type):
            weights = self.weights(parts.scores.unflatten(0, clips.shape[:2]))  # (B, L)
            feature = weighted_mean(parts.features.unflatten(0, clips.shape[:2]), weights)
            frames = parts.features
            if self.classifier_embedding is not None:
                frames = self.classifier_embedding(frames)
            frame_logits = self.classifier_frame(self.bnneck_frame(frames))
            return QANOutput(
                feature=feature,
                logits=self.classifier_clip(self.bnneck_clip(feature)),
                frame_logits=frame_logits.unflatten(0, clips.shape[:2]),
            )

    def losses(self, outputs: QANOutput, pids: Tensor, recipe: Recipe) -> dict[str, Tensor]:
        """Apply the recipe to the clip, and cross-entropy to every frame.

        A frame of little weight gets little gradient from the clip; its own term keeps its feature
        meaningful.
        """
        frames = outputs.frame_logits.flatten(0, 1)  # (B*L, num_classes)
        of_frames = recipe.cross_entropy(frames, pids.repeat_interleave(len(frames) // len(pids)))
        of_clip = recipe.cross_entropy(outputs.logits, pids)
        return {
            'cross_entropy_clip': self.config.clip_weight * of_clip,
            'cross_entropy_frame': self.config.frame_weight * of_frames,
            'triplet': recipe.triplet(outputs.feature, pids),
        }

    def logits(self, outputs: QANOutput) -> Tensor:
        """Return those of the clip, or the mean of its frames' if only they are trained."""
        return outputs.logits if self.config.clip_weight else outputs.frame_logits.mean(dim=1)

    def backbone(self) -> Encoder:
        return self.encoder

    def encode_frames(self, frames: Tensor) -> Tensor:
        """(T, 3, H, W) → f and the score z of each frame, (T, D + 1)."""
        parts = self._frame_parts(frames)
        return torch.cat([parts.features, parts.scores.unsqueeze(1)], dim=1)

    def embed(self, vectors: Tensor) -> Tensor:
        """Clips of :meth:`encode_frames`, (B, L, D + 1) → the BNNeck of F, (B, D)."""
        with full_precision(vectors.device.type):
            feature = weighted_mean(vectors[..., :-1], self.weights(vectors[..., -1]))
            features: Tensor = self.bnneck_clip(feature)
        return features

    def weights(self, scores: Tensor) -> Tensor:
        """Scores z (B, L) → weights w (B, L), as ``qan.quality_weights`` says."""
        return quality_weights(scores, self.config.quality_weights)

    @torch.no_grad()
    def explain(self, clips: Tensor) -> dict[str, Tensor]:
        """Return quality and weight of each frame of clips (B, L, 3, H, W)."""
        clips = self.as_clips(clips)
        batch = clips.shape[:2]  # (B, L)
        with full_precision(clips.device.type):
            middle, maps = self._maps(clips.flatten(0, 1))
            vectors = global_average(maps).unflatten(0, batch)  # (B, L, D)
            scores = self.quality(middle).unflatten(0, batch)  # (B, L)
            weights = self.weights(scores)
            return {
                'attention': weights,
                'quality': scores.sigmoid(),
                'frame_norms': vector_norm(maps, dim=1).unflatten(0, batch),
                'frame_feature': vectors.mean(dim=1),
                'clip_feature': self.bnneck_clip(weighted_mean(vectors, weights)),
            }

    def _frame_parts(self, frames: Tensor) -> WeighedFrames:
        middle, maps = self._maps(frames)
        return WeighedFrames(global_average(maps), self.quality(middle))

    def _maps(self, frames: Tensor) -> tuple[Tensor, Tensor]:
        """Frames (T, 3, height, width) → the map that the quality is read from, and conv5's."""
        encoder = self.encoder
        conv3 = encoder.run([encoder.stem, *encoder.conv2, *encoder.conv3], frames)
        conv4 = encoder.run(encoder.conv4, conv3)
        middle = conv3 if self.config.quality_map == 'conv3' else conv4
        return middle, encoder.run(encoder.conv5, conv4)
