"""TCLNet: the second frame of a pair is learned without what the first one showed most.

R. Hou, H. Chang, B. Ma, S. Shan, X. Chen, "Temporal Complementary Learning for Video Person
Re-Identification", ECCV 2020.

The paper's: ordered learners, from whose frames is erased what those before found (TSE), and a
block that boosts frames by what they have in common (TSB), both in ``models/saliency.py``. Known
from the released code: two learners, the heads, the sizes of all. Ours: clips of any even length,
pair by pair, all pairs in one batch; learners keep ImageNet's batch statistics.

Letters: B clips, L frames, N = B*L/2 pairs, C channels of conv4, D of conv5, H W positions.
"""

import copy
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.linalg import vector_norm

from stmn_plugin.config.rules import FLAG, WEIGHT, OneOf
from stmn_plugin.config.settings import setting
from stmn_plugin.errors import InputError
from stmn_plugin.losses.identification import cosine_triplet_loss
from stmn_plugin.losses.recipe import Recipe

from ..base import VideoModel, fill_up, register_video_model
from ..encoder import Encoder, SharedEncoderConfig, shared_encoder
from ..heads import full_precision, wide
from ..saliency import LEAST_ROWS, Erased, SaliencyBoosting, SaliencyErasing


@dataclass(frozen=True)
class TCLNetConfig(SharedEncoderConfig):
    """The section ``tclnet``."""

    triplet: str = setting(
        'recipe',
        OneOf(('recipe', 'cosine')),
        'triplet loss of both features; cosine: a hinge on minus cosine',
        in_vectors=False,
    )
    cosine_margin: float = setting(
        0.4, WEIGHT, 'margin of the hinge of triplet cosine', in_vectors=False
    )
    restart_statistics: bool = setting(
        False,
        FLAG,
        "start the learners' running statistics at 0 and 1 (code), not at ImageNet's",
        in_vectors=False,
    )


class TCLNetOutput(NamedTuple):
    """What the losses need; returned in training mode."""

    feature_1: Tensor  # (B, D) f_1, after its batch norm
    feature_2: Tensor  # (B, D)
    logits_1: Tensor  # (B, num_classes)
    logits_2: Tensor  # (B, num_classes)


class Learned(NamedTuple):
    """What the learners make of the pairs of clips."""

    first: Tensor  # (N, D, H, W) y0
    second: Tensor  # (N, D, H, W) y1
    erased: Erased


@register_video_model('tclnet')
class TCLNet(VideoModel):
    """TCLNet: a second learner finds what a first one did not (ECCV 2020).

    Args:
        num_classes: training identities.
        seq_len: L; clips of any length are taken, the last frame of an odd one twice.
        config: the triplet loss, and where batch statistics of the learners start.
        pretrained: start from ImageNet weights.

    Raises:
        InputError: backbone weights that cannot be loaded, or, at the first clip, frames whose
            maps have fewer than four rows.
    """

    Config = TCLNetConfig
    takes_any_length = True

    def __init__(
        self, num_classes: int, seq_len: int, config: TCLNetConfig, pretrained: bool = True
    ):
        super().__init__(num_classes, seq_len, config, pretrained)
        self.encoder = shared_encoder(config, 'tclnet', pretrained)
        # each learner is a last block of conv5; both stand outside, to be treated alike
        *_, last = self.encoder.conv5
        self.encoder.frame_head = self.encoder.conv5[:-1]
        self.learners = nn.ModuleList([last, copy.deepcopy(last)])
        if config.restart_statistics:
            for module in self.learners.modules():
                if isinstance(module, nn.BatchNorm2d):
                    module.reset_running_stats()
        dim = self.encoder.dim
        self.boosting = SaliencyBoosting(self.encoder.channels['conv3'][-1])
        self.erasing = SaliencyErasing(self.encoder.channels['conv4'][-1], dim)
        self.norms = nn.ModuleList(_norm(dim) for _ in self.learners)
        self.classifiers = nn.ModuleList(_classifier(dim, num_classes) for _ in self.learners)
        self.feature_dim = 2 * dim

    def forward(self, clips: Tensor) -> Tensor | TCLNetOutput:
        """Normalised clips (B, L, 3, H, W) → [f_1, f_2] (B, 2*D) in eval mode.

        Images (B, 3, H, W) are taken as clips of two equal frames: equal frames give the same
        feature however many they are.
        """
        clips = fill_up(self.as_clips(clips.unsqueeze(1) if clips.dim() == 4 else clips), 2)
        learned, pairs = self.learn(clips), clips.shape[1] // 2
        with full_precision(clips.device.type):
            features = [
                norm(wide(maps.amax(dim=(2, 3))).unflatten(0, (-1, pairs)).mean(dim=1))
                for norm, maps in zip(self.norms, learned[:2], strict=True)
            ]
            if not self.training:
                return torch.cat(features, dim=1)
            logits = [of(x) for of, x in zip(self.classifiers, features, strict=True)]
            return TCLNetOutput(*features, *logits)

    def losses(self, outputs: TCLNetOutput, pids: Tensor, recipe: Recipe) -> dict[str, Tensor]:
        """Sum the losses of both learners; the triplet loss takes features after batch norm."""
        return {
            'cross_entropy_1': recipe.cross_entropy(outputs.logits_1, pids),
            'cross_entropy_2': recipe.cross_entropy(outputs.logits_2, pids),
            'triplet_1': self._triplet(outputs.feature_1, pids, recipe),
            'triplet_2': self._triplet(outputs.feature_2, pids, recipe),
        }

    def _triplet(self, features: Tensor, pids: Tensor, recipe: Recipe) -> Tensor:
        if self.config.triplet == 'recipe' or recipe.triplet_weight == 0:
            return recipe.triplet(features, pids)
        loss = cosine_triplet_loss(features, pids, self.config.cosine_margin)
        return recipe.triplet_weight * loss

    def logits(self, outputs: TCLNetOutput) -> Tensor:
        return (outputs.logits_1 + outputs.logits_2) / 2

    def backbone(self) -> Encoder:
        return self.encoder

    def finish(self, features: Tensor) -> Tensor:
        """Normalise each half of the features (G, 2*D) to length 1."""
        halves: Tensor = features.unflatten(1, (2, -1))
        return F.normalize(halves, dim=2).flatten(1)

    def learn(self, clips: Tensor) -> Learned:
        """Normalised clips (B, L, 3, height, width), L even; frames 2i and 2i+1 are a pair.

        Raises:
            InputError: maps of fewer than four rows.
        """
        encoder, length = self.encoder, clips.shape[1]
        frames = clips.flatten(0, 1)
        maps = encoder.run([encoder.stem, *encoder.conv2, *encoder.conv3], frames)
        maps = self.boosting(maps.unflatten(0, (-1, length))).flatten(0, 1)
        maps = encoder.run(encoder.conv4, maps)  # (B*L, C, H, W)
        if maps.shape[2] < LEAST_ROWS:
            raise InputError(
                f'data.height {clips.shape[3]}: tclnet erases three rows of maps that have '
                f'{maps.shape[2]}; it takes {LEAST_ROWS} or more'
            )
        first, second = maps.unflatten(0, (-1, 2)).unbind(dim=1)  # (N, C, H, W) each
        found = self.learners[0](encoder.run(encoder.conv5, self.erasing.first(first)))
        erased = self.erasing.second(second, found)
        return Learned(found, self.learners[1](encoder.run(encoder.conv5, erased.maps)), erased)

    @torch.no_grad()
    def explain(self, clips: Tensor) -> dict[str, Tensor]:
        """Return what was erased from clips (B, L, 3, H, W), and why; see ``explanations.py``."""
        clips = self.as_clips(clips)
        batch, length = clips.shape[:2]

        def of_frames(first: Tensor, second: Tensor) -> Tensor:
            """(N, H, W) of either frame of the pairs → (B, L, H, W)."""
            both = torch.stack([first, second], dim=1)  # (N, 2, H, W)
            return both.reshape(batch, -1, *both.shape[2:])[:, :length]

        with full_precision(clips.device.type):
            learned = self.learn(fill_up(clips, 2))
            norms = [vector_norm(maps, dim=1) for maps in learned[:2]]
            correlation, rows = learned.erased.correlation, learned.erased.rows
            erased = rows.to(correlation.dtype).unsqueeze(2).expand_as(correlation)
            nothing = torch.zeros_like(correlation)
            return {
                'erased': of_frames(nothing, erased),
                'found_before': of_frames(nothing, correlation),
                'frame_norms': of_frames(*norms),
                'clip_feature': self(clips),
            }


def _norm(dim: int) -> nn.BatchNorm1d:
    """Build the batch norm behind a learner, with a shift that is trained."""
    norm = nn.BatchNorm1d(dim)
    nn.init.normal_(norm.weight, 1.0, 0.02)
    return norm


def _classifier(dim: int, num_classes: int) -> nn.Linear:
    classifier = nn.Linear(dim, num_classes)
    nn.init.normal_(classifier.weight, std=0.001)
    nn.init.zeros_(classifier.bias)
    return classifier
