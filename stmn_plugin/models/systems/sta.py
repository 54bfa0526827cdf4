"""STA: Spatial-Temporal Attention for Large-Scale Video-based Person Re-Identification.

Yang Fu, Xiaoyang Wang, Yunchao Wei, Thomas Huang; AAAI 2019, 33(01), pages 8287-8294. Its authors
released no code that is known; a public re-implementation is part of AGRL.pytorch.

The paper's: energy maps, horizontal parts, scores without parameters, the two fused
representations, the distance of two frames' maps as a regulariser. The re-implementation's: the
head and its start, the feature after the ReLU. Ours: the weight of the regulariser and the size of
the feature, which are not known; triplet and cross-entropy are those of the recipe.

Letters: B clips, L frames, T = B*L, D channels, H W positions, P horizontal parts, E numbers of the
feature. f, e, g, s, S, v, b, m, u below are (..., D, H, W), (..., H, W), (..., H, W), (..., P),
(B, L, P), (..., P, D), (B, P, D), (B, P, D), (B, 2*D).
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.linalg import vector_norm

from stmn_plugin.config.rules import COUNT, WEIGHT, OneOf, Whole
from stmn_plugin.config.settings import setting
from stmn_plugin.losses.recipe import Recipe

from ..base import VideoModel, register_video_model
from ..encoder import SharedEncoderConfig, shared_encoder
from ..heads import full_precision, global_average, wide

SMALLEST = 1e-12  # of a denominator: black frames have no energy


@dataclass(frozen=True)
class STAConfig(SharedEncoderConfig):
    """The section ``sta``."""

    parts: int = setting(4, Whole(1, 64), 'P, horizontal bands of a frame')
    map: str = setting(
        'energy',
        OneOf(('energy', 'norm')),
        'map g: energy over its sum (paper), or its root over their norm (re-implementation)',
    )
    embedding: int = setting(1024, COUNT, 'E, length of the feature')
    reg_weight: float = setting(
        0.1,
        WEIGHT,
        'lambda, weight of the distance between the maps of two frames',
        in_vectors=False,
    )


def energy_maps(maps: Tensor, kind: str = 'energy') -> Tensor:
    """Compute g, how the energy of a frame spreads over its positions.

    Args:
        maps: f, (..., D, H, W).
        kind: 'energy' is e / sum(e) with e = sum_d f_d^2, sums to 1; 'norm' is sqrt(e) over the
            Euclidean norm of all sqrt(e), its squares sum to 1.

    Returns:
        Shape (..., H, W); zeros for a frame of zeros.
    """
    if kind == 'norm':
        # not the root of a sum: its slope at zero, where a ReLU leaves nothing, is infinite
        norms: Tensor = vector_norm(maps, dim=-3)  # (..., H, W)
        length: Tensor = vector_norm(norms, dim=(-2, -1), keepdim=True)
        return norms / length.clamp(min=SMALLEST)
    energy = maps.square().sum(dim=-3)  # e (..., H, W)
    return energy / energy.sum(dim=(-2, -1), keepdim=True).clamp(min=SMALLEST)


def bands(height: int, parts: int) -> list[slice]:
    """Return the rows of each part; parts share rows if they do not divide the height.

    >>> bands(16, 4)
    [slice(0, 4, None), slice(4, 8, None), slice(8, 12, None), slice(12, 16, None)]
    """
    # without a negative number, which ONNX divides otherwise than Python
    return [
        slice(k * height // parts, ((k + 1) * height + parts - 1) // parts) for k in range(parts)
    ]


def part_shares(spread: Tensor, parts: int) -> Tensor:
    """Compute s, the sum of g (..., H, W) over each band, (..., P)."""
    rows = bands(spread.shape[-2], parts)
    return torch.stack([spread[..., band, :].sum(dim=(-2, -1)) for band in rows], dim=-1)


def part_features(maps: Tensor, parts: int) -> Tensor:
    """Compute v, the mean of f (..., D, H, W) over each band, (..., P, D)."""
    rows = bands(maps.shape[-2], parts)
    return torch.stack([maps[..., band, :].mean(dim=(-2, -1)) for band in rows], dim=-2)


def part_scores(shares: Tensor) -> Tensor:
    """Compute S, the shares (B, L, P) of each part over their sum over the frames; no softmax."""
    return shares / shares.sum(dim=1, keepdim=True).clamp(min=SMALLEST)


def fuse(features: Tensor, scores: Tensor) -> Tensor:
    """Compute u: each part's best frame and weighted sum over frames, averaged over the parts.

    Args:
        features: v, (B, L, P, D).
        scores: S, (B, L, P). Which frame is the best has no gradient; of equal ones the first is.

    Returns:
        Shape (B, 2*D), the best before the sum.
    """
    best = scores.argmax(dim=1)  # (B, P)
    places = best[:, None, :, None].expand(-1, 1, -1, features.shape[3])
    chosen = features.gather(1, places).squeeze(1)  # b (B, P, D)
    summed = (scores.unsqueeze(3) * features).sum(dim=1)  # m (B, P, D)
    return torch.cat([chosen.mean(dim=1), summed.mean(dim=1)], dim=1)


def map_distance(one: Tensor, other: Tensor) -> Tensor:
    """Compute Reg, the Frobenius norm of the difference of two g (..., H, W), (...).

    Equal maps have 1e-6, where the gradient is zero.
    """
    return ((one - other).square().sum(dim=(-2, -1)) + SMALLEST).sqrt()


def random_pairs(spread: Tensor) -> tuple[Tensor, Tensor]:
    """Draw two different frames of each clip's g (B, L, H, W); the only one twice where L is 1.

    They are drawn from torch's global generator of the CPU, so that they are the same on a GPU.
    """
    order = torch.rand(spread.shape[:2]).argsort(dim=1).to(spread.device)  # (B, L)
    clips = torch.arange(len(spread), device=spread.device)
    pair = order[:, :2]
    return spread[clips, pair[:, 0]], spread[clips, pair[:, -1]]


class STAOutput(NamedTuple):
    """Outputs that the losses need."""

    feature: Tensor  # (B, E)
    logits: Tensor  # (B, num_classes)
    map_distance: Tensor  # (B,) of two frames of each clip


@register_video_model('sta')
class STA(VideoModel):
    """STA: energy of feature maps scores frames for each body part (AAAI 2019).

    Args:
        num_classes: training identities.
        seq_len: L of still clips; clips of any length are taken.
        config: parts, kind of map, size of the feature, weight of the regulariser.
        pretrained: start from ImageNet weights.
    """

    Config = STAConfig
    frame_once = True
    takes_any_length = True

    # keys of the config that shapes of weights tell: key → {name of a weight: dimension}
    settings_in_shapes = {'sta.embedding': {'reduce.weight': 0}}

    def __init__(self, num_classes: int, seq_len: int, config: STAConfig, pretrained: bool = True):
        super().__init__(num_classes, seq_len, config, pretrained)
        self.encoder = shared_encoder(config, 'sta', pretrained)
        self.reduce = nn.Linear(2 * self.encoder.dim, config.embedding, bias=False)
        self.bn = nn.BatchNorm1d(config.embedding)
        self.classifier = nn.Linear(config.embedding, num_classes)
        nn.init.normal_(self.reduce.weight, std=0.01)
        nn.init.normal_(self.classifier.weight, std=0.01)
        nn.init.zeros_(self.classifier.bias)

    def forward(self, clips: Tensor) -> Tensor | STAOutput:
        """Normalised clips (B, L, 3, H, W), or images (B, 3, H, W), as the protocol has it."""
        clips = self.as_clips(clips)
        maps = self._maps(clips.flatten(0, 1))  # (T, D, H, W)
        with full_precision(clips.device.type):
            vectors = self._vectors(maps).unflatten(0, clips.shape[:2])
            feature = self.embed(vectors)
            if not self.training:
                return feature
            spread = energy_maps(maps, self.config.map).unflatten(0, clips.shape[:2])
            distance = map_distance(*random_pairs(spread))
            return STAOutput(feature, self.classifier(feature), distance)

    def losses(self, outputs: STAOutput, pids: Tensor, recipe: Recipe) -> dict[str, Tensor]:
        return {
            'cross_entropy': recipe.cross_entropy(outputs.logits, pids),
            'triplet': recipe.triplet(outputs.feature, pids),
            'inter_frame': self.config.reg_weight * outputs.map_distance.mean(),
        }

    def backbone(self) -> nn.Module:
        return self.encoder

    def encode_frames(self, frames: Tensor) -> Tensor:
        """(T, 3, H, W) → means and energy shares of its parts, v and s, (T, P*D + P)."""
        maps = self._maps(frames)
        with full_precision(frames.device.type):
            return self._vectors(maps)

    def embed(self, vectors: Tensor) -> Tensor:
        """Clips of :meth:`encode_frames`, (B, L, P*D + P) → features after the ReLU, (B, E)."""
        with full_precision(vectors.device.type):
            fused = fuse(*self._parts(vectors))  # u (B, 2*D)
            feature: Tensor = self.bn(self.reduce(fused)).relu()
        return feature

    @torch.no_grad()
    def explain(self, clips: Tensor) -> dict[str, Tensor]:
        """Return the weights of the frames of clips (B, L, 3, H, W) in eval mode."""
        clips = self.as_clips(clips)
        batch = clips.shape[:2]  # (B, L)
        with full_precision(clips.device.type):
            maps = self._maps(clips.flatten(0, 1))
            vectors = self._vectors(maps).unflatten(0, batch)
            _, scores = self._parts(vectors)
            return {
                'attention': scores.mean(dim=2),
                'part_attention': scores,
                'energy_maps': energy_maps(maps, self.config.map).unflatten(0, batch),
                'frame_norms': vector_norm(maps, dim=1).unflatten(0, batch),
                'frame_feature': global_average(maps).unflatten(0, batch).mean(dim=1),
                'clip_feature': self.embed(vectors),
            }

    def _maps(self, frames: Tensor) -> Tensor:
        """Compute f at least in float32, in which a sum of 2048 squares does not overflow."""
        return wide(self.encoder(frames).frame_features)

    def _vectors(self, maps: Tensor) -> Tensor:
        """Compute v and s, concatenated, (T, P*D + P), from f (T, D, H, W)."""
        parts = self.config.parts
        shares = part_shares(energy_maps(maps, self.config.map), parts)
        return torch.cat([part_features(maps, parts).flatten(1), shares], dim=1)

    def _parts(self, vectors: Tensor) -> tuple[Tensor, Tensor]:
        """(B, L, P*D + P) → v (B, L, P, D) and S (B, L, P)."""
        parts = self.config.parts
        features = vectors[..., :-parts].unflatten(2, (parts, -1))
        return features, part_scores(vectors[..., -parts:])
