"""NVAN and STE-NVAN: positions of all frames attend to each other inside conv3 and conv4.

C.-T. Liu, C.-W. Wu, Y.-C. F. Wang, S.-Y. Chien, "Spatially and Temporally Efficient Non-local
Attention Network for Video-based Person Re-Identification", BMVC 2019.

The paper's: five non-local blocks; the efficient version attends between horizontal stripes and
halves the number of frames twice. Known from the released code: where the blocks stand, that groups
are two neighbouring frames in every block, that no ReLU follows a block's sum.
Ours: the stem with its ReLU, clips of any length, the last frame repeated.

Letters: B clips, L frames (fewer after a maximum over pairs), C channels, H W positions, S stripes
of a frame, G groups of n tokens.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.linalg import vector_norm

from stmn_plugin.config.rules import FLAG, Whole
from stmn_plugin.config.settings import setting
from stmn_plugin.errors import InputError
from stmn_plugin.losses.recipe import Recipe

from ..base import VideoModel, fill_up, register_video_model
from ..encoder import Encoder, SharedEncoderConfig, shared_encoder
from ..heads import BNNeck, bias_free_classifier, full_precision
from ..non_local import NonLocal, attention

BLOCKS = Whole(0, 36)
PAIRS = 2  # frames of a group where stripes and pairs are combined
MULTIPLE = 4  # of L: a maximum over pairs, twice


@dataclass(frozen=True)
class NVANConfig(SharedEncoderConfig):
    """The section ``nvan``."""

    conv3_attention: int = setting(2, BLOCKS, 'non-local blocks, after the last blocks of conv3')
    conv4_attention: int = setting(3, BLOCKS, 'non-local blocks, after the last blocks of conv4')


@dataclass(frozen=True)
class STENVANConfig(NVANConfig):
    """The section ``ste_nvan``."""

    stripes: int = setting(
        16, Whole(0, 256), 'S, stripes of a frame that attend (at most its rows); 0: all positions'
    )
    halve_frames: bool = setting(
        True, FLAG, 'maximum over pairs of frames after conv3 and after conv4'
    )


def tokens_of(maps: Tensor, stripes: int, window: int) -> Tensor:
    """Return the tokens: positions, or means of the stripes of neighbouring frames.

    Args:
        maps: (B, L, C, H, W).
        stripes: S, which divides H; 0 takes all positions.
        window: frames of a group, which divides L.

    Returns:
        (G, n, C), G = B*L/window, n = window*S (or window*H*W), frame by frame, top to bottom.
    """
    if stripes:
        maps = maps.unflatten(3, (stripes, -1)).mean(dim=(4, 5)).unsqueeze(4)  # (B, L, C, S, 1)
    groups = maps.unflatten(1, (-1, window))  # (B, L/window, window, C, S, 1 or H, W)
    tokens: Tensor = groups.permute(0, 1, 2, 4, 5, 3).flatten(2, 4).flatten(0, 1)
    return tokens


def spread(tokens: Tensor, maps: Tensor, stripes: int) -> Tensor:
    """Put tokens (G, n, C) of :func:`tokens_of` at their positions, equal within a stripe.

    Args:
        tokens: (G, n, C).
        maps: the maps from which the tokens were computed.
        stripes: number of stripes; 0 if tokens are positions.

    Returns:
        The shape of maps, or one that broadcasts to it.
    """
    length, channels, height, width = maps.shape[1:]
    if not stripes:
        return tokens.reshape(-1, length, height, width, channels).permute(0, 1, 4, 2, 3)
    bands = tokens.reshape(-1, length, stripes, channels).transpose(2, 3)  # (B, L, C, S)
    return bands.repeat_interleave(height // stripes, dim=3).unsqueeze(4)


def attend_in_stripes(block: NonLocal, maps: Tensor, stripes: int, window: int) -> Tensor:
    """Add the block's residual to every position; arguments are those of :func:`tokens_of`."""
    residual = spread(block.residual(tokens_of(maps, stripes, window)), maps, stripes)
    attended: Tensor = maps + residual
    return attended


def pair_maximum(maps: Tensor) -> Tensor:
    """Frames 2i and 2i+1 → their elementwise maximum: (B, L, ...) → (B, L/2, ...)."""
    pairs: Tensor = maps.unflatten(1, (-1, 2))  # (B, L/2, 2, ...)
    return pairs.amax(dim=2)


class NVANOutput(NamedTuple):
    """What the losses need; returned in training mode."""

    feature: Tensor  # (B, D) p, mean over frames and positions, before the BNNeck
    logits: Tensor  # (B, num_classes)


class Maps(NamedTuple):
    """What a clip goes through."""

    conv5: Tensor  # (B, L, D, H, W)
    attending: Tensor | None  # (B, L, C, H, W) what the last non-local block of conv4 takes


@register_video_model('nvan')
class NVAN(VideoModel):
    """NVAN: all positions of all frames attend to each other (BMVC 2019).

    Args:
        num_classes: training identities.
        seq_len: L; clips of any length are taken.
        config: numbers of blocks and, of STE-NVAN, its two reductions.
        pretrained: start from ImageNet weights.

    Raises:
        InputError: backbone weights that cannot be loaded, or, at the first clip, frames whose
            height cannot be cut into stripes.
    """

    Config: ClassVar[type[NVANConfig]] = NVANConfig
    section: ClassVar[str] = 'nvan'
    takes_any_length = True

    def __init__(self, num_classes: int, seq_len: int, config: NVANConfig, pretrained: bool = True):
        super().__init__(num_classes, seq_len, config, pretrained)
        self.encoder = shared_encoder(config, self.section, pretrained)
        self.conv3_attention = _blocks(self.encoder.channels['conv3'], config.conv3_attention)
        self.conv4_attention = _blocks(self.encoder.channels['conv4'], config.conv4_attention)
        self.stripes, self.halve_frames = 0, False
        self.feature_dim = self.encoder.dim
        self.bnneck = BNNeck(self.feature_dim)
        self.classifier = bias_free_classifier(self.feature_dim, num_classes)

    def forward(self, clips: Tensor) -> Tensor | NVANOutput:
        """Normalised clips (B, L, 3, H, W) → features after the BNNeck (B, D) in eval mode.

        Images (B, 3, H, W) are taken as still clips, as short as they can be: equal frames give
        the same feature however many they are.
        """
        clips = self.as_clips(clips.unsqueeze(1) if clips.dim() == 4 else clips)
        maps = self.maps(clips).conv5
        with full_precision(clips.device.type):
            feature = _mean(maps)
            neck: Tensor = self.bnneck(feature)
            return NVANOutput(feature, self.classifier(neck)) if self.training else neck

    def losses(self, outputs: NVANOutput, pids: Tensor, recipe: Recipe) -> dict[str, Tensor]:
        return {
            'cross_entropy': recipe.cross_entropy(outputs.logits, pids),
            'triplet': recipe.triplet(outputs.feature, pids),
        }

    def backbone(self) -> Encoder:
        return self.encoder

    def maps(self, clips: Tensor) -> Maps:
        """Normalised clips (B, L, 3, height, width) through all stages.

        Of STE-NVAN, L is filled up to a multiple of 4 with the last frame, and a quarter of it is
        left of conv5.
        """
        if self.halve_frames:
            clips = fill_up(clips, MULTIPLE)
        encoder, height = self.encoder, clips.shape[3]
        maps = self._run([encoder.stem, *encoder.conv2], clips)
        maps, _ = self._stage(encoder.conv3, self.conv3_attention, maps, height)
        if self.halve_frames:
            maps = pair_maximum(maps)
        maps, attending = self._stage(encoder.conv4, self.conv4_attention, maps, height)
        if self.halve_frames:
            maps = pair_maximum(maps)
        return Maps(self._run(encoder.conv5, maps), attending)

    def _run(self, layers: Iterable[nn.Module], maps: Tensor) -> Tensor:
        """Run layers of the encoder on frames of clips, (B, L, C, H, W)."""
        frames: Tensor = self.encoder.run(layers, maps.flatten(0, 1))
        of_clips: Tensor = frames.unflatten(0, (-1, maps.shape[1]))
        return of_clips

    def _stage(
        self, stage: nn.Sequential, blocks: nn.ModuleList, maps: Tensor, image_height: int
    ) -> tuple[Tensor, Tensor | None]:
        """Run residual blocks, the last of them followed by a non-local block each.

        Returns:
            The stage's maps, and those that the last non-local block was given.
        """
        attending, plain = None, len(stage) - len(blocks)
        for number, residual_block in enumerate(stage):
            maps = self._run([residual_block], maps)
            if number >= plain:
                attending = maps
                stripes, window = self._tokens(maps, image_height)
                block = cast(NonLocal, blocks[number - plain])
                maps = attend_in_stripes(block, maps, stripes, window)
        return maps, attending

    def _tokens(self, maps: Tensor, image_height: int) -> tuple[int, int]:
        """Return stripes of a frame and frames of a group, for :func:`attend_in_stripes`."""
        length, _, height, _ = maps.shape[1:]
        stripes = min(self.stripes, height)
        if stripes and height % stripes:
            raise InputError(
                f'data.height {image_height}: the {height} rows of a map cannot be cut into '
                f'{stripes} stripes ({self.section}.stripes)'
            )
        return stripes, PAIRS if stripes and self.halve_frames else length

    @torch.no_grad()
    def explain(self, clips: Tensor) -> dict[str, Tensor]:
        """Return where clips (B, L, 3, H, W) are attended to; frames of one map share it."""
        clips = self.as_clips(clips)
        length = clips.shape[1]

        def of_frames(x: Tensor) -> Tensor:
            """(B, frames left, ...) → (B, L, ...)."""
            left = x.shape[1]
            filled = MULTIPLE * -(-length // MULTIPLE) if self.halve_frames else length
            return x.repeat_interleave(filled // left, dim=1)[:, :length]

        with full_precision(clips.device.type):
            maps, attending = self.maps(clips)
            feature = _mean(maps)
            explained = {
                'frame_norms': of_frames(vector_norm(maps, dim=2)),
                'frame_feature': feature,
                'clip_feature': self.bnneck(feature),
            }
            if attending is not None:
                stripes, window = self._tokens(attending, clips.shape[3])
                block = cast(NonLocal, self.conv4_attention[-1])
                tokens = tokens_of(attending, stripes, window)
                weights = attention(block.theta(tokens), block.phi(tokens))  # (G, n, n)
                received = weights.mean(dim=1) * weights.shape[2]  # (G, n), mean 1
                places = spread(received.unsqueeze(2), attending[:, :, :1], stripes).squeeze(2)
                places = places.expand(*attending.shape[:2], *attending.shape[3:])
                explained['attention_received'] = of_frames(places)
        return explained


@register_video_model('ste_nvan')
class STENVAN(NVAN):
    """STE-NVAN: stripes of two frames attend, pairs of frames become one (BMVC 2019).

    Its weights are those of NVAN, by name and shape. With both reductions a group is two
    neighbouring frames, which after a maximum stand for more of them; with stripes alone, or the
    maxima alone, it is the whole clip.
    """

    Config = STENVANConfig
    section = 'ste_nvan'

    def __init__(
        self, num_classes: int, seq_len: int, config: STENVANConfig, pretrained: bool = True
    ):
        super().__init__(num_classes, seq_len, config, pretrained)
        self.stripes, self.halve_frames = config.stripes, config.halve_frames


def _blocks(channels: tuple[int, ...], number: int) -> nn.ModuleList:
    """Build non-local blocks for the last blocks of a stage, given all blocks' channels."""
    return nn.ModuleList(NonLocal(size) for size in channels[max(len(channels) - number, 0) :])


def _mean(maps: Tensor) -> Tensor:
    """(B, L, D, H, W) → (B, D), in float32 at least."""
    return maps.mean(dim=(1, 3, 4), dtype=torch.promote_types(maps.dtype, torch.float32))
