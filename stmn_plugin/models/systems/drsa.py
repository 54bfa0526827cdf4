"""DRSA: Diversity Regularized Spatiotemporal Attention for Video-based Person Re-identification.

Shuang Li, Slawomir Bak, Peter Carr, Xiaogang Wang; CVPR 2018, pages 369-378. Its released code has
the spatial attention and its penalty alone.

The paper's, as remembered: spatial models with a hidden layer of their own, the squared penalty, a
weight of each frame for each part, the parts side by side; by key a last layer of 128 and OIM. The
code's: one linear layer and length 1 in place of the paper's enhancement of a part; its hidden
layer for all models and its penalty are keys. Ours: the layers of the temporal attention, no last
layer, the recipe's losses in place of OIM, end to end from ImageNet weights.

Letters: B clips, L frames, T = B*L, D channels, H W positions, K = H*W, S spatial models (K in the
paper), E numbers of a part. e responses, a maps, x gated features, y parts, u temporal responses, t
weights of frames, F feature of a clip, Q penalty of a frame.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.linalg import vector_norm

from stmn_plugin.config.rules import COUNT, FLAG, WEIGHT, OneOf, Whole
from stmn_plugin.config.settings import setting
from stmn_plugin.losses.diversity import PENALTIES, diversity_loss, diversity_penalty
from stmn_plugin.losses.recipe import Recipe

from ..base import VideoModel, register_video_model
from ..encoder import SharedEncoderConfig, shared_encoder
from ..heads import BNNeck, bias_free_classifier, full_precision, global_average, wide
from ..oim_keys import OIMConfig


@dataclass(frozen=True)
class DRSAConfig(OIMConfig, SharedEncoderConfig):
    """The section ``drsa``."""

    models: int = setting(6, Whole(1, 64), 'S, spatial attention models, each to find a part')
    hidden: str = setting(
        'own',
        OneOf(('own', 'shared')),
        'hidden layer: own, of each model; shared, of all with batch norms (released code)',
    )
    hidden_size: int = setting(256, COUNT, 'channels of the hidden layer; 64 in the released code')
    embedding: int = setting(128, COUNT, 'E, length of the vector of a part')
    temporal_size: int = setting(
        64, COUNT, 'channels of the hidden layer of the temporal attention of a part'
    )
    last_layer: int = setting(
        0,
        Whole(0, 65_536),
        'size of a last linear layer, whose output has length 1 (paper, not checked: 128); 0: none',
    )
    diversity: str = setting(
        'squared',
        OneOf(PENALTIES),
        "penalty: mean of the frames' Q (paper), mean of their roots, or root of their sum (code)",
        in_vectors=False,
    )
    diversity_weight: float = setting(1.0, WEIGHT, 'weight of the penalty', in_vectors=False)
    oim: bool = setting(False, FLAG, 'add the loss OIM on F (paper, not checked: it alone)')

    @property
    def own_losses(self) -> bool:
        """Whether persons are told apart without the section ``loss``."""
        return self.oim


class SpatialAttention(nn.Module):
    """Maps (T, D, H, W) → log a (T, S, K), the logarithms of S maps that each sum to 1.

    A bias of a response has no effect, as the softmax cancels it.

    Args:
        dim: D.
        models: S.
        size: of a hidden layer.
        shared: one hidden layer for all models, and batch norms, of which that of the responses
            sets how sharp a map can be.
    """

    def __init__(self, dim: int, models: int, size: int, shared: bool = False):
        super().__init__()
        layers: list[nn.Module]
        if shared:
            first = nn.Conv2d(dim, size, 1, bias=False)
            last = nn.Conv2d(size, models, 1, bias=False)
            layers = [first, nn.BatchNorm2d(size), nn.ReLU(), last, nn.BatchNorm2d(models)]
            nn.init.kaiming_normal_(last.weight, mode='fan_out')
        else:
            first = nn.Conv2d(dim, models * size, 1)
            last = nn.Conv2d(models * size, models, 1, groups=models)
            layers = [first, nn.ReLU(), last]
            # models that start equal stay equal: the penalty has no gradient there
            nn.init.normal_(last.weight, std=0.02)
        nn.init.kaiming_normal_(first.weight, mode='fan_out')
        self.layers = nn.Sequential(*layers)
        zero_biases(self)

    def forward(self, maps: Tensor) -> Tensor:
        responses = self.layers(maps).flatten(2)  # e (T, S, K)
        with full_precision(maps.device.type):
            return wide(responses).log_softmax(dim=2)


class TemporalAttention(nn.Module):
    """Parts y (B, L, S, E) → weights t (B, L, S), of each part sum to 1 over the frames.

    The second bias has no effect, as the softmax cancels it.

    Args:
        models: S, each with layers of its own.
        embedding: E.
        size: of a hidden layer.
    """

    def __init__(self, models: int, embedding: int, size: int):
        super().__init__()
        last = nn.Conv1d(models * size, models, 1, groups=models)
        nn.init.normal_(last.weight, std=0.01)
        zero_biases(last)
        self.layers = nn.Sequential(
            nn.Conv1d(models * embedding, models * size, 1, groups=models), nn.ReLU(), last
        )

    def forward(self, parts: Tensor) -> Tensor:
        responses: Tensor = self.layers(parts.flatten(2).mT)  # u (B, S, L)
        return responses.softmax(dim=2).mT


def gated_features(log_maps: Tensor, maps: Tensor) -> Tensor:
    """Compute x, the sum of f (T, D, K) over the positions by maps (T, S, K): (T, S, D)."""
    return log_maps.exp() @ maps.mT


def weighted_parts(weights: Tensor, parts: Tensor) -> Tensor:
    """Compute F, the sum of y (B, L, S, E) over frames by t (B, L, S), parts in a row: (B, S*E)."""
    return (weights.unsqueeze(3) * parts).sum(dim=1).flatten(1)


def used_positions(log_maps: Tensor) -> Tensor:
    """Count the positions that a map uses, 1 to K: exp of the entropy of log a (..., K), (...)."""
    return (-(log_maps.exp() * log_maps).sum(dim=-1)).exp()


def zero_biases(module: nn.Module) -> None:
    """Set the biases of a module to zero."""
    for name, parameter in module.named_parameters():
        if name.endswith('bias'):
            nn.init.zeros_(parameter)


class DRSAOutput(NamedTuple):
    """Outputs that the losses need."""

    feature: Tensor  # (B, feature_dim) F, before the BNNeck
    logits: Tensor  # (B, num_classes)
    penalties: Tensor  # (B, L) Q
    positions: Tensor  # (B, L) used by a map, mean over the models; without gradient


@register_video_model('drsa')
class DRSA(VideoModel):
    """DRSA: maps of body parts kept apart, a softmax over frames for each part (CVPR 2018).

    Args:
        num_classes: training identities.
        seq_len: L of still clips; clips of any length are taken.
        config: sizes of the attention, kind and weight of the penalty.
        pretrained: start from ImageNet weights.
    """

    Config = DRSAConfig
    frame_once = True
    takes_any_length = True

    # keys of the config that shapes of weights tell: key → {name of a weight: dimension}
    settings_in_shapes = {
        'drsa.models': {'temporal.layers.2.weight': 0},
        'drsa.embedding': {'project.weight': 0},
        'drsa.last_layer': {'last.weight': 0},
    }

    def __init__(self, num_classes: int, seq_len: int, config: DRSAConfig, pretrained: bool = True):
        super().__init__(num_classes, seq_len, config, pretrained)
        models, embedding = config.models, config.embedding
        self.encoder = shared_encoder(config, 'drsa', pretrained)
        dim = self.encoder.dim
        self.spatial = SpatialAttention(dim, models, config.hidden_size, config.hidden == 'shared')
        self.project = nn.Linear(dim, embedding)
        nn.init.normal_(self.project.weight, std=0.01)
        zero_biases(self.project)
        self.temporal = TemporalAttention(models, embedding, config.temporal_size)
        self.feature_dim = config.last_layer or models * embedding
        self.last = nn.Linear(models * embedding, self.feature_dim) if config.last_layer else None
        if self.last is not None:
            nn.init.normal_(self.last.weight, std=0.01)
            zero_biases(self.last)
        self.bnneck = BNNeck(self.feature_dim)
        self.classifier = bias_free_classifier(self.feature_dim, num_classes)
        self.classifier_oim = config.table(num_classes, self.feature_dim) if config.oim else None

    def forward(self, clips: Tensor) -> Tensor | DRSAOutput:
        """Normalised clips (B, L, 3, H, W), or images (B, 3, H, W), as the protocol has it."""
        clips = self.as_clips(clips)
        _, log_maps, parts = self._frame_parts(clips.flatten(0, 1))
        vectors = parts.flatten(1).unflatten(0, clips.shape[:2])  # (B, L, S*E)
        if not self.training:
            return self.embed(vectors)
        with full_precision(clips.device.type):
            feature, _ = self._pooled(vectors)
            log_maps = log_maps.unflatten(0, clips.shape[:2])  # (B, L, S, K)
            return DRSAOutput(
                feature=feature,
                logits=self.classifier(self.bnneck(feature)),
                penalties=diversity_penalty(log_maps),
                positions=used_positions(log_maps.detach()).mean(dim=2),
            )

    def losses(self, outputs: DRSAOutput, pids: Tensor, recipe: Recipe) -> dict[str, Tensor]:
        config: DRSAConfig = self.config
        diversity = diversity_loss(outputs.penalties, config.diversity)
        terms = {
            'cross_entropy': recipe.cross_entropy(outputs.logits, pids),
            'triplet': recipe.triplet(outputs.feature, pids),
            'diversity': config.diversity_weight * diversity,
        }
        if self.classifier_oim is not None:
            unit = F.normalize(outputs.feature, dim=1)
            terms['oim'] = config.oim_weight * self.classifier_oim(unit, pids)
        return terms

    def logged(self, outputs: DRSAOutput) -> dict[str, Tensor]:
        """Return the mean squared overlap of two maps, 0 to 1, and the positions a map uses."""
        pairs = max(self.config.models * (self.config.models - 1), 1)
        return {
            'overlap': outputs.penalties.mean() / pairs,
            'positions': outputs.positions.mean(),
        }

    def backbone(self) -> nn.Module:
        return self.encoder

    def encode_frames(self, frames: Tensor) -> Tensor:
        """(T, 3, H, W) → the parts y of each frame, (T, S*E)."""
        return self._frame_parts(frames)[2].flatten(1)

    def embed(self, vectors: Tensor) -> Tensor:
        """Clips of :meth:`encode_frames`, (B, L, S*E) → F after the BNNeck, (B, feature_dim)."""
        with full_precision(vectors.device.type):
            features: Tensor = self.bnneck(self._pooled(vectors)[0])
        return features

    @torch.no_grad()
    def explain(self, clips: Tensor) -> dict[str, Tensor]:
        """Return where the spatial models look, and which frames count, in eval mode."""
        clips = self.as_clips(clips)
        batch = clips.shape[:2]  # (B, L)
        with full_precision(clips.device.type):
            maps, log_maps, parts = self._frame_parts(clips.flatten(0, 1))
            feature, weights = self._pooled(parts.flatten(1).unflatten(0, batch))
            part_maps = log_maps.exp().unflatten(2, maps.shape[2:])  # (T, S, H, W)
            return {
                'attention': weights.mean(dim=2),
                'part_attention': weights,
                'part_maps': part_maps.unflatten(0, batch),
                'frame_norms': vector_norm(maps, dim=1).unflatten(0, batch),
                'frame_feature': global_average(maps).unflatten(0, batch).mean(dim=1),
                'clip_feature': self.bnneck(feature),
            }

    def _frame_parts(self, frames: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Compute f (T, D, H, W), log a (T, S, K) and y (T, S, E) of frames (T, 3, H, W)."""
        maps = self.encoder(frames).frame_features
        log_maps = self.spatial(maps)
        with full_precision(frames.device.type):
            maps = wide(maps)
            gated = gated_features(log_maps, maps.flatten(2))  # x (T, S, D)
            return maps, log_maps, F.normalize(self.project(gated), dim=2)

    def _pooled(self, vectors: Tensor) -> tuple[Tensor, Tensor]:
        """Compute F (B, S*E or that of the last layer) and t (B, L, S) from y as (B, L, S*E)."""
        parts = vectors.unflatten(2, (self.config.models, -1))
        weights = self.temporal(parts)
        feature = weighted_parts(weights, parts)
        if self.last is not None:
            feature = F.normalize(self.last(feature), dim=1)
        return feature, weights
