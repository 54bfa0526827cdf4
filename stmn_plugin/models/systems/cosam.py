"""COSAM: what the frames of a clip have in common is kept, after conv4 and again after conv5.

A. Subramaniam, A. Nambiar, A. Mittal, "Co-Segmentation Inspired Attention Networks for Video-Based
Person Re-Identification", ICCV 2019.

The paper's: a mask of every frame from the correlations of its positions with those of the other
frames, a gate of channels averaged over the clip, and where the two stand. The released code's: two
convolutions from correlations to a mask (the paper's supplement has one), the gated maps added to
the ungated ones (the supplement has the gated ones alone), the 1e-4, the default start. Ours: the
shared encoder, and the BNNeck before the classifier, which the code has not.

Letters: B clips, L frames, T = B*L, C channels, H W positions, K = H*W, R reduced channels.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.linalg import vector_norm

from stmn_plugin.config.rules import AUTO, Flag, OneOf, Whole, WordOr
from stmn_plugin.config.settings import setting
from stmn_plugin.errors import InputError
from stmn_plugin.losses.recipe import Recipe

from ..base import VideoModel, register_video_model
from ..encoder import Encoder, SharedEncoderConfig, shared_encoder
from ..heads import BNNeck, bias_free_classifier, full_precision, wide
from ..map_shapes import check_sizes

HIDDEN = 64  # channels between the two convolutions of a mask


@dataclass(frozen=True)
class COSAMConfig(SharedEncoderConfig):
    """The section ``cosam``."""

    reduced: str | int = setting(
        AUTO,
        WordOr(AUTO, Whole(2, 65_536)),
        'R, channels that are correlated; auto: 256, or 64 of at most 256 channels',
    )
    mask_layers: int = setting(
        2, Whole(1, 2), 'convolutions from correlations to a mask: 2 (code), 1 (supplement)'
    )
    gate_adds: bool = setting(
        True,
        Flag(),
        'output y * (1 + g) (code) instead of y * g (supplement), g the gate of channels',
    )
    neck: str = setting(
        'bnneck',
        OneOf(('bnneck', 'none')),
        'layer before the classifier and at test time; none (code): a classifier with a bias',
    )


def standardise(descriptors: Tensor) -> Tensor:
    """Subtract from descriptors d (..., R) their mean over R; divide by their deviation + 1e-4.

    The variance has the divisor R - 1. A constant descriptor, as of a position where the ReLU
    leaves nothing, becomes zero, with finite gradients: torch.std has the slope 0 there.
    """
    mean = descriptors.mean(dim=-1, keepdim=True)
    return (descriptors - mean) / (descriptors.std(dim=-1, keepdim=True) + 1e-4)


def correlations(standardised: Tensor) -> Tensor:
    """Correlate every position with all positions of the other frames of its clip.

    Args:
        standardised: z, (B, L, K, R).

    Returns:
        (B, L, L-1, K, K): at [b, t, i, k', k] of position k of frame t with position k' of the
        i-th other frame, those in their order in the clip.
    """
    length, positions, reduced = standardised.shape[1:]
    rows = standardised.flatten(1, 2)  # (B, L*K, R)
    pairs = rows @ rows.mT / reduced  # (B, L*K, L*K)
    pairs = pairs.view(-1, length, positions, length, positions)  # [b, s, k', t, k]
    pairs = pairs.permute(0, 3, 1, 2, 4)  # [b, t, s, k', k]
    others = [torch.cat([pairs[:, t, :t], pairs[:, t, t + 1 :]], dim=1) for t in range(length)]
    return torch.stack(others, dim=1)


class CoSegmented(NamedTuple):
    """What :class:`CoSegmentation` gives."""

    maps: Tensor  # (B, L, C, H, W)
    masks: Tensor  # (B, L, H, W) m, from 0 to 1
    gates: Tensor  # (B, C) g, from 0 to 1


class CoSegmentation(nn.Module):
    """The module of the paper: a mask of positions for each frame, a gate of channels for a clip.

    Args:
        channels: C.
        reduced: R.
        seq_len: L; the mask has a weight for each position of each other frame.
        map_size: H and W.
        mask_layers: 2, or 1.
        gate_adds: add the gated maps to the ungated ones.
    """

    def __init__(
        self,
        channels: int,
        reduced: int,
        seq_len: int,
        map_size: tuple[int, int],
        mask_layers: int = 2,
        gate_adds: bool = True,
    ):
        super().__init__()
        self.gate_adds = gate_adds
        self.sizes = {'L': seq_len, 'H': map_size[0], 'W': map_size[1]}
        correlated = (seq_len - 1) * map_size[0] * map_size[1]
        self.reduce = nn.Sequential(
            nn.Conv2d(channels, reduced, 1), nn.BatchNorm2d(reduced), nn.ReLU()
        )
        self.summarise = nn.Sequential(
            nn.Conv2d(correlated, HIDDEN, 1), nn.BatchNorm2d(HIDDEN), nn.ReLU()
        )
        self.mask = nn.Conv2d(HIDDEN, 1, 1)
        if mask_layers == 1:
            self.summarise, self.mask = nn.Sequential(), nn.Conv2d(correlated, 1, 1)
        self.gate = nn.Sequential(
            nn.Linear(channels, reduced), nn.Tanh(), nn.Linear(reduced, channels), nn.Sigmoid()
        )

    def forward(self, maps: Tensor) -> CoSegmented:
        """Mask and gate maps x (B, L, C, H, W); the shape stays the same.

        Raises:
            ValueError: maps of another L, H or W.
        """
        check_sizes(maps, 'BLCHW', **self.sizes)
        masks = self.masks(maps)
        masked = maps * masks.unsqueeze(2)  # y (B, L, C, H, W)
        gates = self.gate(masked.mean(dim=(3, 4))).mean(dim=1)  # g (B, C)
        factors = 1 + gates if self.gate_adds else gates
        return CoSegmented(masked * factors[:, None, :, None, None], masks, gates)

    def masks(self, maps: Tensor) -> Tensor:
        """Compute the masks m, (B, L, H, W), of maps (B, L, C, H, W)."""
        batch, size = maps.shape[:2], maps.shape[3:]
        descriptors = self.reduce(maps.flatten(0, 1)).flatten(2).mT  # d (T, K, R)
        related = correlations(standardise(descriptors).unflatten(0, batch))
        # the other frames' positions become channels, frame by frame and row by row
        related = related.flatten(2, 3).flatten(0, 1).unflatten(2, size)  # (T, (L-1)*K, H, W)
        masks: Tensor = self.mask(self.summarise(related)).sigmoid().squeeze(1)  # (T, H, W)
        return masks.view(*batch, *size)


class COSAMOutput(NamedTuple):
    """What the losses need; returned in training mode."""

    feature: Tensor  # (B, D) v
    logits: Tensor  # (B, num_classes)


class COSAMMaps(NamedTuple):
    """The maps of a clip on their way."""

    conv4: CoSegmented
    conv5: Tensor  # (B, L, D, H, W) before the second module
    last: CoSegmented


@register_video_model('cosam')
class COSAM(VideoModel):
    """COSAM: masks and channel gates from what frames have in common (ICCV 2019).

    The encoder's stages may run in reduced precision, the modules between them do not.

    Args:
        num_classes: training identities.
        seq_len: L, at least 2; the weights are of this length.
        config: sizes and variants.
        pretrained: start the encoder from ImageNet weights.
        frame_size: height and width of frames; the weights are of this size.

    Raises:
        InputError: clips of one frame, or backbone weights that cannot be loaded.
    """

    Config = COSAMConfig
    size_in_weights = True

    # what shapes of weights tell: words of a message → {name of a weight: dimension}
    settings_in_shapes = {
        'cosam.reduced': {'cosam_conv4.gate.0.weight': 0, 'cosam_conv5.gate.0.weight': 0},
        '(video.seq_len - 1) * (positions of a map, data.height/16 * data.width/16) =': {
            'cosam_conv4.summarise.0.weight': 1
        },
    }

    def __init__(
        self,
        num_classes: int,
        seq_len: int,
        config: COSAMConfig,
        pretrained: bool = True,
        frame_size: tuple[int, int] = (256, 128),
    ):
        super().__init__(num_classes, seq_len, config, pretrained)
        if seq_len < 2:
            raise InputError(
                f'video.seq_len: cosam takes clips of two frames or more, got {seq_len}'
            )
        self.frame_size = frame_size
        self.encoder = shared_encoder(config, 'cosam', pretrained)
        self.feature_dim = self.encoder.dim
        self.cosam_conv4, self.cosam_conv5 = (
            CoSegmentation(
                channels,
                (64 if channels <= 256 else 256) if config.reduced == AUTO else int(config.reduced),
                seq_len,
                self.encoder.map_size(frame_size),
                config.mask_layers,
                config.gate_adds,
            )
            for channels in (self.encoder.channels['conv4'][-1], self.feature_dim)
        )
        if config.neck == 'bnneck':
            self.neck: nn.Module = BNNeck(self.feature_dim)
            self.classifier = bias_free_classifier(self.feature_dim, num_classes)
        else:
            self.neck = nn.Identity()
            self.classifier = nn.Linear(self.feature_dim, num_classes)

    def forward(self, clips: Tensor) -> Tensor | COSAMOutput:
        """Normalised clips (B, L, 3, H, W), or images (B, 3, H, W), as the protocol has it."""
        maps = self._maps(self.as_clips(clips)).last.maps  # (B, L, D, H, W)
        with full_precision(clips.device.type):
            feature = maps.mean(dim=(1, 3, 4))  # v (B, D)
            neck: Tensor = self.neck(feature)
            return COSAMOutput(feature, self.classifier(neck)) if self.training else neck

    def losses(self, outputs: COSAMOutput, pids: Tensor, recipe: Recipe) -> dict[str, Tensor]:
        """Apply both of the recipe to the same vector v; the system has none of its own."""
        return {
            'cross_entropy': recipe.cross_entropy(outputs.logits, pids),
            'triplet': recipe.triplet(outputs.feature, pids),
        }

    def backbone(self) -> Encoder:
        return self.encoder

    @torch.no_grad()
    def explain(self, clips: Tensor) -> dict[str, Tensor]:
        """Return masks and gates of clips (B, L, 3, H, W); see ``explanations.py``."""
        with full_precision(clips.device.type):
            maps = self._maps(self.as_clips(clips))
            refined = maps.last.maps
            feature = refined.mean(dim=(1, 3, 4))
            return {
                'masks_conv4': maps.conv4.masks,
                'masks_conv5': maps.last.masks,
                'gates_conv4': maps.conv4.gates,
                'gates_conv5': maps.last.gates,
                'frame_norms': vector_norm(maps.conv5, dim=2),
                'refined_norms': vector_norm(refined, dim=2),
                'change_norms': vector_norm(refined - maps.conv5, dim=2),
                'frame_feature': maps.conv5.mean(dim=(1, 3, 4)),
                'refined_feature': feature,
                'clip_feature': self.neck(feature),
            }

    def _maps(self, clips: Tensor) -> COSAMMaps:
        encoder, batch = self.encoder, clips.shape[:2]  # (B, L)
        blocks = [encoder.stem, *encoder.conv2, *encoder.conv3, *encoder.conv4]
        maps = encoder.run(blocks, clips.flatten(0, 1)).unflatten(0, batch)
        # the 1e-4 added to a deviation vanishes in half precision
        with full_precision(clips.device.type):
            conv4 = self.cosam_conv4(wide(maps))
        maps = encoder.run(encoder.conv5, conv4.maps.flatten(0, 1)).unflatten(0, batch)
        with full_precision(clips.device.type):
            conv5 = wide(maps)
            return COSAMMaps(conv4, conv5, self.cosam_conv5(conv5))
