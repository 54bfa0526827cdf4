"""Part-Aligned: products of an appearance vector and a body-part vector, summed over positions.

Y. Suh, J. Wang, S. Tang, T. Mei, K. M. Lee, "Part-Aligned Bilinear Representations for Person
Re-identification", ECCV 2018.

The paper's: two streams, the second of a pose network; their bilinear pooling, whose inner product
of two frames compares like parts, wherever they lie; triplets alone as the loss. The released
code's: count sketch of 512 numbers with the hashes drawn here, batch norms without scale and shift,
all triplets of a batch. Ours: the shared encoder as the appearance stream in place of GoogLeNet,
part stream on frames of half the size and, by default, from ImageNet instead of poses, the mean
over the frames, the recipe of STMN. Nothing meets over time but in that mean.

Letters: B clips, L frames, T = B*L, D channels of the encoder, K = H*W positions, Ca and Cp
channels of appearance a and parts p, d numbers of a descriptor.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as functional
from torch import Tensor, nn
from torch.linalg import vector_norm

from stmn_plugin.config.rules import FILE, ITEMS, WEIGHT, Number, OneOf, Whole
from stmn_plugin.config.settings import setting
from stmn_plugin.errors import InputError
from stmn_plugin.losses.identification import all_triplets_loss
from stmn_plugin.losses.recipe import Recipe

from ..base import VideoModel, register_video_model
from ..bilinear import CountSketch, bilinear
from ..encoder import Encoder, SharedEncoderConfig, shared_encoder
from ..heads import BNNeck, bias_free_classifier, full_precision, global_average, wide
from ..pose_maps import PoseMaps

RANDOM = 'random'


@dataclass(frozen=True)
class PartAlignedConfig(SharedEncoderConfig):
    """The section ``part_aligned``."""

    appearance_dim: int = setting(512, ITEMS, 'Ca, channels of the appearance map')
    part_dim: int = setting(128, ITEMS, 'Cp, channels of the part map')
    sketch_dim: int = setting(512, ITEMS, 'd, length of the count sketch')
    hash_seed: int = setting(
        1, Whole(0, 4_294_967_289), 'seed of the hashes of the sketch; 1 as in the released code'
    )
    part_input: str = setting(
        'half',
        OneOf(('half', 'full')),
        'size of frames in the part stream; full: its map is max-pooled (code)',
    )
    part_width: float = setting(
        1.0,
        Number(0, 1, above=True),
        'channels of the part stream as a share of the published ones',
    )
    vgg_weights: str = setting(
        '',
        FILE,
        f"weights of VGG-19 for the part stream; empty: torchvision's; {RANDOM}: none",
        in_vectors=False,
    )
    pose_weights: str = setting(
        '', FILE, 'weights of the COCO model pose_iter_440000 instead, by the names of its layers'
    )
    pooling: str = setting(
        'mean',
        OneOf(('mean', 'max')),
        'pooling of the descriptors over the frames; max: then to length 1 (evaluation of MARS)',
    )
    metric_loss: str = setting(
        'batch_hard',
        OneOf(('batch_hard', 'all_triplets')),
        'triplet term: that of the section loss, or of all triplets (paper)',
        in_vectors=False,
    )
    margin: float = setting(
        0.2, WEIGHT, 'margin of all_triplets, between squared distances', in_vectors=False
    )

    @property
    def keeps_default(self) -> dict[str, str]:
        """The normalisation of frames, which is undone before the pose network."""
        keys = ('data.norm_mean', 'data.norm_std') if self.pose_weights else ()
        return dict.fromkeys(keys, 'part_aligned.pose_weights')


def pooled(descriptors: Tensor, pooling: str = 'mean') -> Tensor:
    """Descriptors of frames f (B, L, d) → of clips F (B, d): mean, or max and then length 1."""
    if pooling == 'mean':
        return descriptors.mean(dim=1)
    return functional.normalize(descriptors.amax(dim=1), dim=1)


class Projection(nn.Module):
    """Maps (T, channels, H, W) → (T, outputs, H, W): convolution, batch norm, signed vectors.

    The batch norm has no scale and no shift, and no ReLU follows: the sign is part of a vector.
    """

    def __init__(self, channels: int, outputs: int, kernel: int):
        super().__init__()
        self.conv = nn.Conv2d(channels, outputs, kernel, padding=kernel // 2)
        self.norm = nn.BatchNorm2d(outputs, affine=False)
        nn.init.xavier_uniform_(self.conv.weight)
        assert self.conv.bias is not None
        nn.init.zeros_(self.conv.bias)

    def forward(self, maps: Tensor) -> Tensor:
        maps = self.conv(maps)
        with full_precision(maps.device.type):
            projected: Tensor = self.norm(wide(maps))
        return projected


class AlignedFrames(NamedTuple):
    """What is in a frame."""

    appearance: Tensor  # (T, Ca, K)
    parts: Tensor  # (T, Cp, K)
    sketch: Tensor  # (T, d) c
    maps: Tensor  # (T, D, H, W) of the encoder


class PartAlignedOutput(NamedTuple):
    """What the losses need; returned in training mode."""

    feature: Tensor  # (B, d) F
    logits: Tensor  # (B, num_classes)


@register_video_model('part_aligned')
class PartAligned(VideoModel):
    """Part-Aligned: bilinear pooling of appearance and body parts (ECCV 2018).

    Args:
        num_classes: training identities.
        seq_len: L of clips that images stand for; clips of any length are taken.
        config: sizes and choices.
        pretrained: start from ImageNet weights, or the part stream from those of a pose model.

    Raises:
        InputError: weights that cannot be loaded, or a part stream too narrow for a file.
    """

    Config = PartAlignedConfig
    frame_once = True
    takes_any_length = True

    settings_in_shapes = {
        'part_aligned.appearance_dim': {'sketch.h1': 0},
        'part_aligned.part_dim': {'sketch.h2': 0},
        'part_aligned.sketch_dim': {'bnneck.weight': 0},
    }

    def __init__(
        self, num_classes: int, seq_len: int, config: PartAlignedConfig, pretrained: bool = True
    ):
        super().__init__(num_classes, seq_len, config, pretrained)
        self.encoder = shared_encoder(config, 'part_aligned', pretrained)
        self.pose = PoseMaps(config.part_width, takes_pose_input=bool(config.pose_weights))
        if pretrained:
            self._start_part_stream()
        self.appearance = Projection(self.encoder.dim, config.appearance_dim, 1)
        self.parts = Projection(self.pose.channels, config.part_dim, 3)
        self.sketch = CountSketch(
            config.appearance_dim, config.part_dim, config.sketch_dim, config.hash_seed
        )
        self.feature_dim = config.sketch_dim
        self.bnneck = BNNeck(self.feature_dim)
        self.classifier = bias_free_classifier(self.feature_dim, num_classes)

    @property
    def weighs_frames(self) -> bool:  # type: ignore[override]
        return bool(self.config.pooling == 'mean')

    def forward(self, clips: Tensor) -> Tensor | PartAlignedOutput:
        """Normalised clips (B, L, 3, H, W), or images (B, 3, H, W), as the protocol has it.

        An image is a clip of one frame: all descriptors of a still clip are equal.
        """
        clips = clips.unsqueeze(1) if clips.dim() == 4 else self.as_clips(clips)
        vectors = self.encode_frames(clips.flatten(0, 1)).unflatten(0, clips.shape[:2])
        feature = self.embed(vectors)
        if not self.training:
            return feature
        with full_precision(clips.device.type):
            return PartAlignedOutput(feature, self.classifier(self.bnneck(feature)))

    def losses(self, outputs: PartAlignedOutput, pids: Tensor, recipe: Recipe) -> dict[str, Tensor]:
        """Apply the recipe; by default the triplet term is unchanged: distances are 2 at most."""
        if self.config.metric_loss == 'batch_hard':
            triplet = recipe.triplet(outputs.feature, pids)
        else:
            triplet = all_triplets_loss(outputs.feature, pids, self.config.margin)
            triplet = recipe.triplet_weight * triplet
        return {
            'cross_entropy': recipe.cross_entropy(outputs.logits, pids),
            'triplet': triplet,
        }

    def backbone(self) -> Encoder:
        return self.encoder

    def encode_frames(self, frames: Tensor) -> Tensor:
        """(T, 3, H, W) → descriptors f = c / |c| of frames, (T, d)."""
        return functional.normalize(self._frame_parts(frames).sketch, dim=1)

    def embed(self, vectors: Tensor) -> Tensor:
        """Clips of :meth:`encode_frames`, (B, L, d) → F (B, d), which is tested without BNNeck."""
        return pooled(vectors, self.config.pooling)

    @torch.no_grad()
    def explain(self, clips: Tensor) -> dict[str, Tensor]:
        """Return where descriptors come from in clips (B, L, 3, H, W); see ``explanations.py``."""
        clips = self.as_clips(clips)
        batch = clips.shape[:2]  # (B, L)
        with full_precision(clips.device.type):
            found = self._frame_parts(clips.flatten(0, 1))
            positions = found.maps.shape[2:]
            # <c_k, c> of each position k: its share of |c|^2, as c is the sum of the c_k
            along = self.sketch.spread(found.sketch) @ found.parts  # (T, Ca, K)
            square = found.sketch.square().sum(dim=1, keepdim=True)  # (T, 1)
            shares = (found.appearance * along).sum(dim=1) / square.clamp(min=1e-12)  # (T, K)
            vectors = functional.normalize(found.sketch, dim=1).unflatten(0, batch)
            features = global_average(found.maps).unflatten(0, batch)
            return {
                'position_shares': shares.unflatten(1, positions).unflatten(0, batch),
                'part_norms': vector_norm(found.parts, dim=1)
                .unflatten(1, positions)
                .unflatten(0, batch),
                'frame_norms': vector_norm(found.maps, dim=1).unflatten(0, batch),
                'frame_feature': features.mean(dim=1),
                'clip_feature': self.embed(vectors),
            }

    def _frame_parts(self, frames: Tensor) -> AlignedFrames:
        maps = self.encoder(frames).frame_features  # (T, D, H, W)
        full = self.config.part_input == 'full'
        # pooled to eight, or sixteen, pixels a position: half of 256x128 for 16x8
        scale = 16 if full else 8
        size = (scale * maps.shape[2], scale * maps.shape[3])
        stacked = self.pose(functional.adaptive_avg_pool2d(frames, size))
        if full:
            stacked = functional.max_pool2d(stacked, 2)
        appearance, parts = self.appearance(maps).flatten(2), self.parts(stacked).flatten(2)
        with full_precision(frames.device.type):
            sketch: Tensor = self.sketch(bilinear(appearance, parts))
        return AlignedFrames(appearance, parts, sketch, maps)

    def _start_part_stream(self) -> None:
        config = self.config
        if config.part_width != 1 and (config.pose_weights or config.vgg_weights != RANDOM):
            raise InputError(
                f'part_aligned.part_width {config.part_width}: weights of the published width do '
                f'not fit, it needs part_aligned.vgg_weights {RANDOM} and no pose_weights'
            )
        if config.pose_weights:
            self.pose.load_pose_model(config.pose_weights, 'part_aligned')
        elif config.vgg_weights != RANDOM:
            self.pose.load_vgg(config.vgg_weights, 'part_aligned')
