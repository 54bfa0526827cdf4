"""STMN: Video-based Person Re-identification with Spatial and Temporal Memory Networks (ICCV 2021).

Clips → one feature per clip. The parts stand in ``encoder.py`` and ``memory.py``; here is the
whole, Fig. 2 and Fig. 3 in one forward. Letters are those of ``memory.py``.
"""

from typing import NamedTuple

import torch
from torch import nn

from stmn_plugin.distributed import gather
from stmn_plugin.errors import InputError

from .encoder import Encoder, full_precision, global_average
from .memory import SpatialMemory, TemporalAverage, TemporalMemory, TemporalMLP, TemporalOutput

SPATIAL_MODES = ('memory', 'none')
TEMPORAL_MODES = ('memory', 'mlp', 'average')


class FrameVectors(NamedTuple):
    """What a frame contributes to its clip; clips are put together from these."""

    refined: torch.Tensor  # (T, D) GAP(f^s), or GAP(f^o) without a spatial memory
    temporal_queries: torch.Tensor | None  # (T, D) GAP(q^t)
    spatial_probs: torch.Tensor | None  # (T*H*W, M) A^s


class STMNOutput(NamedTuple):
    """Everything the losses need; returned in training mode.

    On many processes each holds its part of the batch; B here is the whole, the same on all.
    """

    clip_feature: torch.Tensor  # (B, D) f^t, before the BNNeck
    frame_feature: torch.Tensor  # (B, D) temporal average of GAP(f^s), for deep supervision
    clip_logits: torch.Tensor  # (B, num_classes)
    frame_logits: torch.Tensor  # (B, num_classes)
    spatial_probs: torch.Tensor | None  # (B*L*K, M) A^s
    temporal_probs: torch.Tensor | None  # (B, N) A^t
    temporal_attention: torch.Tensor  # (B, L) o-hat^t


class BNNeck(nn.BatchNorm1d):
    """Batch normalisation before a classifier, with a bias that stays zero.

    The bias is a buffer: the host sets requires_grad on every parameter at each epoch, which would
    un-freeze a frozen one.
    """

    def __init__(self, dim):
        super().__init__(dim)
        del self.bias
        self.register_buffer('bias', torch.zeros(dim), persistent=False)

    def reset_parameters(self):
        self.reset_running_stats()
        nn.init.ones_(self.weight)


class STMN(nn.Module):
    """Spatial and Temporal Memory Networks.

    Under ``torch.autocast`` the encoder runs in reduced precision, everything after it in float32;
    the weights stay in float32 or float64, so ``.half()`` and ``.bfloat16()`` are refused.

    ``torch.export`` takes a dynamic number of clips of every variant in eval mode. The number of
    frames can be dynamic with temporal_mode 'average' alone: the values of the temporal memory and
    the last layer of the MLP hold an attention for ``seq_len`` frames.

    Args:
        num_classes (int): training identities.
        backbone (str): see :class:`Encoder`.
        spatial_mode (str): 'memory', or 'none' for the variants of Table 1 without it.
        spatial_items (int): M.
        spatial_bn_scale (float): see :class:`SpatialMemory`.
        temporal_mode (str): 'memory', 'mlp' (Sec. 4.2) or 'average' (baseline).
        temporal_items (int): N, in 'mlp' the hidden size.
        seq_len (int): L.
        similarity_scale (float, optional): of both memories; None is auto, see ``memory.py``.
        pretrained (bool), backbone_weights (str), backbone_sha256 (str): see :class:`Encoder`.

    Raises:
        InputError: an unknown mode or backbone, or backbone weights that cannot be loaded.
    """

    # keys of the config that shapes of weights tell: key → {name of a weight: dimension}
    settings_in_shapes = {
        'video.seq_len': {'temporal_memory.values': 1, 'temporal_memory.regress.weight': 0},
        'stmn.spatial_items': {'spatial_memory.keys': 0},
        'stmn.temporal_items': {'temporal_memory.keys': 0, 'temporal_memory.hidden.weight': 0},
    }

    def __init__(
        self,
        num_classes,
        backbone='resnet50',
        spatial_mode='memory',
        spatial_items=10,
        spatial_bn_scale=0.0,
        temporal_mode='memory',
        temporal_items=5,
        seq_len=6,
        similarity_scale=None,
        pretrained=True,
        backbone_weights='',
        backbone_sha256='',
    ):
        super().__init__()
        _check_mode('stmn.spatial_mode', spatial_mode, SPATIAL_MODES)
        _check_mode('stmn.temporal_mode', temporal_mode, TEMPORAL_MODES)
        self.seq_len = seq_len
        self.encoder = Encoder(
            backbone,
            spatial=spatial_mode == 'memory',
            temporal=temporal_mode != 'average',
            pretrained=pretrained,
            weights=backbone_weights,
            sha256=backbone_sha256,
        )
        dim = self.encoder.dim
        self.feature_dim = dim
        self.spatial_memory = (
            SpatialMemory(dim, spatial_items, similarity_scale, spatial_bn_scale)
            if spatial_mode == 'memory'
            else None
        )
        self.temporal_memory = {
            'memory': lambda: TemporalMemory(dim, temporal_items, seq_len, similarity_scale),
            'mlp': lambda: TemporalMLP(dim, temporal_items, seq_len),
            'average': TemporalAverage,
        }[temporal_mode]()
        self.bnneck_clip = BNNeck(dim)
        self.bnneck_frame = BNNeck(dim)
        self.classifier_clip = _classifier(dim, num_classes)
        self.classifier_frame = _classifier(dim, num_classes)

    def forward(self, clips):
        """
        Args:
            clips (torch.Tensor): normalised clips, shape (B, L, 3, H, W). A batch of images
                (B, 3, H, W) is taken as still clips, each image being all L frames.

        Returns:
            STMNOutput in training mode; in eval mode the clip feature after the BNNeck, (B, D).

        Raises:
            ValueError: another shape.
        """
        if clips.dim() not in (4, 5):
            raise ValueError(
                'expected clips of shape (B, L, 3, H, W) or images of shape (B, 3, H, W), '
                f'got {tuple(clips.shape)}'
            )
        frames = clips if clips.dim() == 4 else clips.flatten(0, 1)  # (T, 3, H, W)
        if not self.training:
            vectors = self._as_clips(self.frame_vectors(frames), clips)
            with full_precision(frames.device.type):
                return self.clip_features(vectors)
        vectors = self.encode_frames(frames)
        with full_precision(frames.device.type):
            return self._training_output(vectors, clips)

    def _training_output(self, vectors, clips):
        refined = self._as_clips(vectors.refined, clips)  # (B, L, D)
        clip = self.temporal_memory(self._as_clips(vectors.temporal_queries, clips), refined)
        # from here on every process holds the clips of all: BNNecks and losses are of the batch
        clip = TemporalOutput(*map(gather, clip))
        frame_feature = gather(refined.mean(dim=1))  # (B, D)
        spatial_probs = vectors.spatial_probs
        if self.spatial_memory is not None and not self.spatial_memory.training:
            spatial_probs = gather(spatial_probs)  # a frozen memory needs no batch, nor gathers it
        return STMNOutput(
            clip_feature=clip.output,
            frame_feature=frame_feature,
            clip_logits=self.classifier_clip(self.bnneck_clip(clip.output)),
            frame_logits=self.classifier_frame(self.bnneck_frame(frame_feature)),
            spatial_probs=spatial_probs,
            temporal_probs=clip.probs,
            temporal_attention=clip.attention,
        )

    def encode_frames(self, frames, encoder=None):
        """Everything that needs one frame at a time.

        Args:
            frames (torch.Tensor): shape (T, 3, H, W).
            encoder (Encoder, optional): in place of the model's own, see ``folding.py``.

        Returns:
            FrameVectors

        Raises:
            ValueError: the weights are of half precision.
        """
        dtype = self.bnneck_clip.weight.dtype
        if dtype.itemsize < 4:
            raise ValueError(
                f'the weights of STMN are {dtype}: they stay in float32, in which memories and '
                'softmaxes are computed; torch.autocast (train.amp, test.amp) runs the encoder '
                'in half precision'
            )
        maps = (encoder or self.encoder)(frames)
        with full_precision(frames.device.type):
            if self.spatial_memory is None:
                refined, probs = global_average(maps.frame_features), None
            else:
                refined, probs = self.spatial_memory(maps.frame_features, maps.spatial_queries)
        return FrameVectors(refined, maps.temporal_queries, probs)

    def frame_vectors(self, frames, encoder=None):
        """For testing: what of each frame is needed to put clips together, as one vector.

        Args:
            frames (torch.Tensor): shape (T, 3, H, W).
            encoder (Encoder, optional): as in :meth:`encode_frames`.

        Returns:
            torch.Tensor: shape (T, V), V = 2*D: GAP(f^s), GAP(q^t); V = D with temporal average.
        """
        refined, queries, _ = self.encode_frames(frames, encoder)
        return refined if queries is None else torch.cat([refined, queries], dim=1)

    def clip_features(self, vectors):
        """For testing: clips of :meth:`frame_vectors`, (B, L, V) → features (B, D), BNNeck done."""
        refined = vectors[..., : self.feature_dim]  # (B, L, D)
        queries = vectors[..., self.feature_dim :]  # (B, L, D), empty with temporal average
        return self.bnneck_clip(self.temporal_memory(queries, refined).output)

    @torch.no_grad()
    def explain(self, clips: torch.Tensor) -> dict[str, torch.Tensor]:
        """What the memories do in clips (B, L, 3, H, W), in eval mode; see ``explanations.py``.

        Attention is absent with temporal average, whatever belongs to a memory without that memory.
        """
        batch = clips.shape[:2]
        maps = self.encoder(clips.flatten(0, 1))
        original = maps.frame_features  # (T, D, H, W)
        explained = {
            'frame_norms': torch.linalg.vector_norm(original, dim=1).unflatten(0, batch),
            'frame_feature': global_average(original).unflatten(0, batch).mean(dim=1),
        }
        vectors = global_average(original).unflatten(0, batch)  # (B, L, D)
        if self.spatial_memory is not None:
            refined = self.spatial_memory.refine(original, maps.spatial_queries)
            probs = self.spatial_memory(original, maps.spatial_queries).probs  # (T*K, M)
            vectors = global_average(refined).unflatten(0, batch)
            values = self.spatial_memory.values
            explained |= {
                'spatial_probs': probs.view(*batch, *original.shape[2:], -1),
                'spatial_values': values.expand(len(clips), *values.shape),
                'refined_norms': torch.linalg.vector_norm(refined, dim=1).unflatten(0, batch),
                'change_norms': torch.linalg.vector_norm(refined - original, dim=1).unflatten(
                    0, batch
                ),
                'refined_feature': vectors.mean(dim=1),
            }
        queries = maps.temporal_queries
        clip = self.temporal_memory(
            None if queries is None else queries.unflatten(0, batch), vectors
        )
        if not isinstance(self.temporal_memory, TemporalAverage):
            explained['attention'] = clip.attention
        if clip.probs is not None:
            values = self.temporal_memory.values
            explained |= {
                'temporal_probs': clip.probs,
                'temporal_values': values.expand(len(clips), *values.shape),
            }
        explained['clip_feature'] = self.bnneck_clip(clip.output)
        return explained

    def _as_clips(self, vectors, clips):
        """(T, ...) → (B, L, ...); an image is encoded once and stands for all L frames."""
        if vectors is None:
            return None
        if clips.dim() == 4:
            return vectors.unsqueeze(1).expand(-1, self.seq_len, -1)
        return vectors.unflatten(0, clips.shape[:2])


def stmn(num_classes, loss='stmn', pretrained=True, use_gpu=True, **kwargs):
    """STMN with the arguments of the host's model factory.

    ``loss`` and ``use_gpu`` are there for the host; training needs ``VideoSTMNEngine``.
    """
    return STMN(num_classes, pretrained=pretrained, **kwargs)


def _classifier(dim, num_classes):
    classifier = nn.Linear(dim, num_classes, bias=False)
    nn.init.normal_(classifier.weight, std=0.001)
    return classifier


def _check_mode(key, value, known):
    if value not in known:
        raise InputError(f'{key}: {value!r} is not one of {", ".join(known)}')
