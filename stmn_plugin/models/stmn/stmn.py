"""STMN: Video-based Person Re-identification with Spatial and Temporal Memory Networks (ICCV 2021).

Clips → one feature per clip. The parts are in ``encoder.py``, ``memory.py`` and ``temporal.py``;
:class:`STMN` combines them as in Fig. 2 and Fig. 3. Letters are those of ``memory.py``.
"""

from collections.abc import Callable, Iterator
from dataclasses import fields
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.linalg import vector_norm

from stmn_plugin.config.checks import check_ranges
from stmn_plugin.config.rules import AUTO
from stmn_plugin.losses.recipe import Recipe

from ..base import VideoModel, register_video_model
from ..encoder import Encoder, still_statistics
from ..heads import BNNeck, bias_free_classifier, full_precision, global_average
from .config import STMNConfig
from .memory import SpatialMemory
from .temporal import TemporalAverage, TemporalMemory, TemporalMLP


class FrameParts(NamedTuple):
    """Vectors and maps of single frames from which a clip's outputs are computed."""

    refined: Tensor  # (T, D) GAP(f^s), or GAP(f^o) without a spatial memory
    temporal_queries: Tensor | None  # (T, D) GAP(q^t)
    spatial_probs: Tensor | None  # (T*K, M) A^s
    trunk: Tensor | None = None  # (T, C, H, W) of conv4, in training


class STMNOutput(NamedTuple):
    """Everything the losses need; returned in training mode."""

    clip_feature: Tensor  # (B, D) f^t, before the BNNeck
    frame_feature: Tensor  # (B, D) temporal average of GAP(f^s), for deep supervision
    clip_logits: Tensor  # (B, num_classes)
    frame_logits: Tensor  # (B, num_classes)
    spatial_probs: Tensor | None  # (B*L*K, M) A^s
    temporal_probs: Tensor | None  # (B, N) A^t
    temporal_attention: Tensor  # (B, L) o-hat^t


@register_video_model('stmn')
class STMN(VideoModel):
    """STMN: memories remove distractors from frames and weight the frames (ICCV 2021).

    Under ``torch.autocast`` the encoder runs in reduced precision and everything after it in
    float32; the weights must be in float32 or float64, so a model after ``.half()`` or
    ``.bfloat16()`` raises ValueError.

    ``torch.export`` supports a dynamic number of clips for every variant in eval mode. The number
    of frames can be dynamic only with temporal_mode 'average': the values of the temporal memory
    and the last layer of the MLP hold an attention for ``seq_len`` frames.

    Args:
        num_classes: training identities.
        seq_len: L.
        config: variant and sizes.
        pretrained: start from ImageNet weights, see :class:`.encoder.Encoder`.

    Raises:
        InputError: a setting out of its range, or backbone weights that cannot be loaded.
    """

    Config = STMNConfig
    frame_once = True

    # config keys that are evident from shapes of weights: key → {name of a weight: dimension}
    settings_in_shapes = {
        'video.seq_len': {'temporal_memory.values': 1, 'temporal_memory.regress.weight': 0},
        'stmn.spatial_items': {'spatial_memory.keys': 0},
        'stmn.temporal_items': {'temporal_memory.keys': 0, 'temporal_memory.hidden.weight': 0},
    }

    def __init__(self, num_classes: int, seq_len: int, config: STMNConfig, pretrained: bool = True):
        super().__init__(num_classes, seq_len, config, pretrained)
        ours = (field.name for field in fields(STMNConfig))  # a subclass may have more
        check_ranges({f'stmn.{name}': getattr(config, name) for name in ours})
        has_memory = config.spatial_mode == 'memory'
        self.takes_any_length = config.temporal_mode == 'average'
        self.encoder = Encoder(
            config.backbone,
            spatial=has_memory,
            temporal=config.temporal_mode != 'average',
            pretrained=pretrained,
            weights=config.backbone_weights,
            sha256=config.backbone_sha256,
            section='stmn',
            stem_relu=config.stem_relu,
        )
        dim = self.encoder.dim
        scale = None if config.similarity_scale == AUTO else float(config.similarity_scale)
        self.feature_dim = dim
        self.spatial_memory = (
            SpatialMemory(
                dim,
                config.spatial_items,
                scale,
                config.spatial_bn_scale,
                config.addressing,
                config.key_normalisation,
            )
            if has_memory
            else None
        )
        temporal: dict[str, Callable[[], TemporalMemory | TemporalMLP | TemporalAverage]] = {
            'memory': lambda: TemporalMemory(
                dim,
                config.temporal_items,
                seq_len,
                scale,
                config.key_normalisation,
                config.attention_scale,
                config.temporal_value_range,
            ),
            'mlp': lambda: TemporalMLP(dim, config.temporal_items, seq_len),
            'average': TemporalAverage,
        }
        self.temporal_memory = temporal[config.temporal_mode]()
        self.bnneck_clip = BNNeck(dim)
        self.bnneck_frame = BNNeck(dim)
        self.classifier_clip = bias_free_classifier(dim, num_classes)
        self.classifier_frame = bias_free_classifier(dim, num_classes)

    def forward(self, clips: Tensor) -> Tensor | STMNOutput:
        """Map normalised clips (B, L, 3, H, W) to features after the BNNeck (B, D) in eval mode.

        Each image of a batch (B, 3, H, W) is repeated as all L frames of a still clip. In training
        mode the outputs are an :class:`STMNOutput`.

        Raises:
            ValueError: another shape, or a number of frames that the model does not take.
        """
        # each image is encoded once; its vectors are repeated for all L frames
        frames = clips if clips.dim() == 4 else self.as_clips(clips).flatten(0, 1)
        if self.training:
            return self._training_output(self._frame_parts(frames), clips)
        return self.embed(self._clips_of(self.encode_frames(frames), clips))

    def _training_output(self, parts: FrameParts, clips: Tensor) -> STMNOutput:
        with full_precision(clips.device.type):
            refined = self._clips_of(parts.refined, clips)  # (B, L, D)
            queries = parts.temporal_queries
            clip = self.temporal_memory(
                None if queries is None else self._clips_of(queries, clips), refined
            )
            frame_feature = refined.mean(dim=1)  # (B, D)
            spatial_probs, temporal_probs = parts.spatial_probs, clip.probs
        if self.spread_reach == 'heads' and parts.trunk is not None:
            spatial_probs, temporal_probs = self._probs_apart(parts.trunk.detach(), clips)
        with full_precision(clips.device.type):
            return STMNOutput(
                clip_feature=clip.output,
                frame_feature=frame_feature,
                clip_logits=self.classifier_clip(self.bnneck_clip(clip.output)),
                frame_logits=self.classifier_frame(self._supervised(refined)),
                spatial_probs=spatial_probs,
                temporal_probs=temporal_probs,
                temporal_attention=clip.attention,
            )

    def _probs_apart(self, trunk: Tensor, clips: Tensor) -> tuple[Tensor | None, Tensor | None]:
        """Compute A^s and A^t again from detached maps, so that L_S does not train the trunk.

        The query heads run twice because the gradient of L_ID goes through them into the trunk.
        """
        with still_statistics(self.encoder):
            spatial, temporal = self.encoder.queries(trunk)
        memory, spatial_probs, temporal_probs = self.temporal_memory, None, None
        with full_precision(clips.device.type):
            if self.spatial_memory is not None and spatial is not None:
                spatial_probs = self.spatial_memory.address(spatial)
            if isinstance(memory, TemporalMemory) and temporal is not None:
                temporal_probs = memory.address(self._clips_of(temporal, clips))
        return spatial_probs, temporal_probs

    def _supervised(self, refined: Tensor) -> Tensor:
        """Compute the input of the classifier of deep supervision, (B, L, D) → (B, D).

        The classifier is linear, so its logits of the mean are the mean of its logits.
        """
        if self.config.frame_bnneck == 'clip':
            normalised: Tensor = self.bnneck_frame(refined.mean(dim=1))
            return normalised
        by_frame: Tensor = self.bnneck_frame(refined.flatten(0, 1)).view_as(refined)
        return by_frame.mean(dim=1)

    def losses(self, outputs: STMNOutput, pids: Tensor, recipe: Recipe) -> dict[str, Tensor]:
        """Compute L_S and L_ID with deep supervision (Eq. 8, Eq. 9, Sec. 3.3).

        The spread loss of a memory that the variant does not have is zero.
        """
        num_clips, nothing = len(pids), outputs.clip_logits.new_zeros(())
        spatial, temporal = outputs.spatial_probs, outputs.temporal_probs
        return {
            'cross_entropy_clip': recipe.cross_entropy(outputs.clip_logits, pids),
            'cross_entropy_frame': recipe.cross_entropy(outputs.frame_logits, pids),
            'triplet_clip': recipe.triplet(outputs.clip_feature, pids),
            'triplet_frame': recipe.triplet(outputs.frame_feature, pids),
            'spread_spatial': nothing if spatial is None else recipe.spread(spatial, num_clips),
            'spread_temporal': nothing if temporal is None else recipe.spread(temporal, num_clips),
        }

    def logits(self, outputs: STMNOutput) -> Tensor:
        return outputs.clip_logits

    def backbone(self) -> Encoder:
        return self.encoder

    def memory_parameters(self) -> Iterator[nn.Parameter]:
        """Yield the parameters of the memories, including the LSTM, the BN of Eq. 3 and the MLP."""
        for memory in (self.spatial_memory, self.temporal_memory):
            if memory is not None:
                yield from memory.parameters()

    def encode_frames(self, frames: Tensor) -> Tensor:
        """Compute GAP(f^s) and GAP(q^t) of frames (T, 3, H, W): (T, 2*D); (T, D) with 'average'."""
        parts = self._frame_parts(frames)
        queries = parts.temporal_queries
        return parts.refined if queries is None else torch.cat([parts.refined, queries], dim=1)

    def embed(self, vectors: Tensor) -> Tensor:
        """Map clips of :meth:`encode_frames`, (B, L, V), to features after the BNNeck (B, D)."""
        refined = vectors[..., : self.feature_dim]  # (B, L, D)
        queries = vectors[..., self.feature_dim :]  # (B, L, D), empty with the average
        with full_precision(vectors.device.type):
            features: Tensor = self.bnneck_clip(self.temporal_memory(queries, refined).output)
        return features

    @torch.no_grad()
    def explain(self, clips: Tensor) -> dict[str, Tensor]:
        """Return attention and memory accesses of clips in eval mode; see ``explanations.py``.

        Attention is absent with the temporal average; the tensors of a memory are absent without
        it; matching probabilities of positions are absent if groups address the spatial memory.

        Args:
            clips: normalised clips (B, L, 3, H, W).
        """
        clips = self.as_clips(clips)
        batch = clips.shape[:2]  # (B, L)
        with full_precision(clips.device.type):
            maps = self.encoder(clips.flatten(0, 1))
            original = maps.frame_features  # (T, D, H, W)
            vectors = global_average(original).unflatten(0, batch)  # (B, L, D)
            explained = {
                'frame_norms': vector_norm(original, dim=1).unflatten(0, batch),
                'frame_feature': vectors.mean(dim=1),
            }
            if self.spatial_memory is not None:
                refined = self.spatial_memory.refine(original, maps.spatial_queries)
                vectors = global_average(refined).unflatten(0, batch)
                explained |= self._explained_items(original, maps.spatial_queries, batch)
                explained |= {
                    'refined_norms': vector_norm(refined, dim=1).unflatten(0, batch),
                    'change_norms': vector_norm(refined - original, dim=1).unflatten(0, batch),
                    'refined_feature': vectors.mean(dim=1),
                }
            queries = maps.temporal_queries
            clip = self.temporal_memory(
                None if queries is None else queries.unflatten(0, batch), vectors
            )
            if queries is not None:
                explained['attention'] = clip.attention
            if clip.probs is not None:
                values = cast(TemporalMemory, self.temporal_memory).values.detach()
                explained |= {
                    'temporal_probs': clip.probs,
                    'temporal_values': values.expand(len(clips), *values.shape),
                }
            explained['clip_feature'] = self.bnneck_clip(clip.output)
        return explained

    def _explained_items(
        self, original: Tensor, queries: Tensor, batch: torch.Size
    ) -> dict[str, Tensor]:
        """Return the spatial memory's accesses of maps (T, D, H, W); groups have no position."""
        memory = self.spatial_memory
        if memory is None or memory.addressing == 'group':
            return {}
        probs = memory(original, queries).probs  # (T*K, M)
        values = memory.values.detach()
        return {
            'spatial_probs': probs.view(*batch, *original.shape[2:], -1),
            'spatial_values': values.expand(batch[0], *values.shape),
        }

    def _frame_parts(self, frames: Tensor) -> FrameParts:
        """Compute everything that depends on single frames; frames (T, 3, H, W)."""
        dtype: torch.dtype = self.bnneck_clip.weight.dtype
        if dtype.itemsize < 4:
            raise ValueError(
                f'the weights of STMN are {dtype}: they stay in float32, in which memories and '
                'softmaxes are computed; torch.autocast (train.amp, test.amp) runs the encoder '
                'in half precision'
            )
        maps = self.encoder(frames)
        with full_precision(frames.device.type):
            if self.spatial_memory is None:
                refined, probs = global_average(maps.frame_features), None
            else:
                refined, probs = self.spatial_memory(maps.frame_features, maps.spatial_queries)
        return FrameParts(refined, maps.temporal_queries, probs, maps.trunk)

    def _clips_of(self, vectors: Tensor, clips: Tensor) -> Tensor:
        """Reshape (T, ...) to (B, L, ...), repeating the vectors of an image for all L frames."""
        if clips.dim() == 4:
            return vectors.unsqueeze(1).expand(-1, self.seq_len, -1)
        of_clips: Tensor = vectors.unflatten(0, clips.shape[:2])
        return of_clips
