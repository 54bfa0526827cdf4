"""The network of EUG ("Exploit the Unknown Gradually").

Y. Wu, Y. Lin, X. Dong, Y. Yan, W. Ouyang, Y. Yang, "Exploit the Unknown Gradually: One-Shot
Video-Based Person Re-Identification by Stepwise Learning" (CVPR 2018).

The procedure that gives the method its name is ``tools/one_shot.py``; it takes any architecture.
Of the paper: the mean over the frames. Of the released code: the head, frozen layers. Ours: the
stride of conv5, that all batch norms of the frozen layers are frozen (the code misses those of two
shortcuts), and a triplet term that the authors' recipe (``loss.name softmax``) leaves out.
Letters: B clips, L frames, T = B*L frames, D channels of the encoder.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stmn_plugin.config.rules import FLAG, Number, Whole
from stmn_plugin.config.settings import setting
from stmn_plugin.losses.recipe import Recipe
from stmn_plugin.models.base import VideoModel, register_video_model
from stmn_plugin.models.encoder import SharedEncoderConfig, shared_encoder
from stmn_plugin.models.heads import full_precision, global_average


@dataclass(frozen=True)
class EUGConfig(SharedEncoderConfig):
    """The section ``eug``."""

    freeze: bool = setting(
        True,
        FLAG,
        'keep conv1 to conv3 (layer2) and their batch norms as they start',
        in_vectors=False,
    )
    embedding_dim: int = setting(
        1024, Whole(1, 65_536), 'width of the hidden layer of the head, which only training has'
    )
    dropout: float = setting(
        0.5,
        Number(0, 1, below=True),
        'dropout of the head, before and after the hidden layer',
        in_vectors=False,
    )


class EUGOutput(NamedTuple):
    """Outputs that the losses need."""

    feature: Tensor  # (B, D) v, the mean over the frames
    logits: Tensor  # (B, num_classes)


class EmbeddingHead(nn.Module):
    """Features (B, D) → logits (B, num_classes): dropout → linear → BN → ReLU → dropout → linear.

    Start of the weights as in the released code.
    """

    def __init__(self, dim: int, embedding_dim: int, num_classes: int, dropout: float):
        super().__init__()
        self.embedding = nn.Linear(dim, embedding_dim)
        self.norm = nn.BatchNorm1d(embedding_dim)
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(embedding_dim, num_classes)
        nn.init.kaiming_normal_(self.embedding.weight, mode='fan_out')
        nn.init.zeros_(self.embedding.bias)
        nn.init.normal_(self.classifier.weight, std=0.001)
        nn.init.zeros_(self.classifier.bias)

    def forward(self, features: Tensor) -> Tensor:
        embedded = F.relu(self.norm(self.embedding(self.dropout(features))))
        logits: Tensor = self.classifier(self.dropout(embedded))
        return logits


@register_video_model('eug')
class EUG(VideoModel):
    """EUG: mean over frames; its one-shot procedure is tools/one_shot.py (CVPR 2018).

    Args:
        num_classes: training identities.
        seq_len: L of still clips; clips of any length are taken.
        config: the settings.
        pretrained: start from ImageNet weights.

    Raises:
        InputError: weights that cannot be had or do not fit.
    """

    Config = EUGConfig
    frame_once = True
    weighs_frames = True
    takes_any_length = True

    def __init__(self, num_classes: int, seq_len: int, config: EUGConfig, pretrained: bool = True):
        super().__init__(num_classes, seq_len, config, pretrained)
        self.encoder = shared_encoder(config, 'eug', pretrained)
        self.feature_dim = self.encoder.dim
        self.classifier = EmbeddingHead(
            self.encoder.dim, config.embedding_dim, num_classes, config.dropout
        )
        self.train()

    def train(self, mode: bool = True) -> 'EUG':
        """Set the mode as of any module; the batch norms of frozen layers stay in eval mode.

        The host calls this at every epoch and then opens all layers again: what keeps frozen ones
        from a gradient is that they run without a graph, see :meth:`frame_vectors`.
        """
        super().train(mode)
        if self.config.freeze:
            for stage in (self.encoder.stem, self.encoder.conv2, self.encoder.conv3):
                stage.eval().requires_grad_(False)
        return self

    def forward(self, clips: Tensor) -> Tensor | EUGOutput:
        """Normalised clips (B, L, 3, H, W), or images (B, 3, H, W), as the protocol has it."""
        if clips.dim() == 4:  # the mean over a still clip is its frame
            vectors = self.frame_vectors(clips).unsqueeze(1)
        else:
            clips = self.as_clips(clips)
            vectors = self.frame_vectors(clips.flatten(0, 1)).unflatten(0, clips.shape[:2])
        feature = self.embed(vectors)
        if not self.training:
            return feature
        with full_precision(feature.device.type):
            return EUGOutput(feature, self.classifier(feature))

    def losses(self, outputs: EUGOutput, pids: Tensor, recipe: Recipe) -> dict[str, Tensor]:
        return {
            'cross_entropy': recipe.cross_entropy(outputs.logits, pids),
            'triplet': recipe.triplet(outputs.feature, pids),
        }

    def backbone(self) -> nn.Module:
        return self.encoder

    def frame_vectors(self, frames: Tensor) -> Tensor:
        """(T, 3, H, W) → GAP of conv5, (T, D)."""
        encoder = self.encoder
        if not (self.training and self.config.freeze):
            return global_average(encoder(frames).frame_features)
        with torch.no_grad():
            maps = encoder.conv3(encoder.conv2(encoder.stem(frames)))  # an eighth of the size
        return global_average(encoder.run((*encoder.conv4, *encoder.conv5), maps))

    def encode_frames(self, frames: Tensor) -> Tensor:
        """(T, 3, H, W) → (T, D)."""
        return self.frame_vectors(frames)

    def embed(self, vectors: Tensor) -> Tensor:
        """(B, L, D) → v, their mean (B, D); :meth:`finish` gives it length 1."""
        with full_precision(vectors.device.type):
            return vectors.mean(dim=1)

    def finish(self, features: Tensor) -> Tensor:
        """Means over all frames that are tested → v / |v|."""
        return F.normalize(features, dim=1)
