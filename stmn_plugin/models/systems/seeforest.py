"""SeeForest: attention over frames inside an LSTM; pairs of clips compared by recurrent sweeps.

Z. Zhou, Y. Huang, W. Wang, L. Wang, T. Tan, "See the Forest for the Trees: Joint Spatial and
Temporal Recurrent Neural Networks for Video-based Person Re-identification", CVPR 2017.

The paper's abstract: a temporal attention that picks discriminative frames, and a spatial recurrent
model that takes in the surroundings of each position when it compares two videos, trained together.
No code is known. Remembered: attention on top of an RNN, the mean hidden state as the feature, six
directions, a softmax of two. Ours: sizes, the six directions, the equations below, losses; this is
a model in the manner of the paper.

Letters: B clips, L frames, T = B*L, S steps of attention, D channels of a frame's vector x, A of
the attention, U of a state h, C of reduced maps M, H W positions, V numbers of a frame.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.linalg import vector_norm

from stmn_plugin.config.rules import WEIGHT, ListOf, OneOf, Whole, WordOr
from stmn_plugin.config.settings import setting
from stmn_plugin.losses.recipe import Recipe

from ..base import VideoModel, register_video_model
from ..encoder import Encoder, SharedEncoderConfig, shared_encoder
from ..heads import BNNeck, bias_free_classifier, full_precision, global_average
from .seeforest_pairs import DIRECTIONS, PairClassifier, pair_loss

AS_FRAMES = 'frames'
CHANNELS = Whole(1, 4_096)


@dataclass(frozen=True)
class SeeForestConfig(SharedEncoderConfig):
    """The section ``seeforest``."""

    attention_channels: int = setting(256, CHANNELS, 'A, channels of the attention')
    hidden_channels: int = setting(512, CHANNELS, 'U, channels of the LSTM and of the feature')
    attention_steps: str | int = setting(
        AS_FRAMES, WordOr(AS_FRAMES, Whole(1, 64)), 'steps of the LSTM; frames: one a frame'
    )
    clip_feature: str = setting(
        'mean',
        OneOf(('mean', 'last')),
        'feature of a clip: mean of the states of all steps, or the last state',
    )
    reduced_channels: int = setting(256, CHANNELS, 'channels of the maps that are compared')
    directions: list[str] = setting(
        list(DIRECTIONS),
        ListOf(OneOf(DIRECTIONS), least=1),
        'directions of the sweeps over the maps of a pair',
    )
    sweep_channels: int = setting(
        128, CHANNELS, 'channels of each sweep and of the layer that fuses them'
    )
    pair_weight: float = setting(
        1.0, WEIGHT, 'weight of the cross-entropy of pairs, same or different', in_vectors=False
    )
    srm_top: int = setting(
        0,
        Whole(0, 10_000),
        'N, of the nearest tracklets of a query that a test orders anew by the sweeps',
    )
    srm_weight: float = setting(
        0.1,
        WEIGHT,
        'lambda; these are ordered by distance - lambda * log-odds of the same person',
        in_vectors=False,
    )


class Attended(NamedTuple):
    """Attended frames and their weights."""

    states: Tensor  # (B, S, U) h
    attention: Tensor  # (B, S, L) alpha


class TemporalAttentionModel(nn.Module):
    """Vectors of frames → states of an LSTM, each of whose steps reads the frames anew.

    With h[0] = c[0] = 0, at step t::

        e[i] = v . tanh(Wx x_i + Wh h[t-1] + b)        alpha = softmax of e over the frames
        h[t], c[t] = LSTM(sum_i alpha_i x_i; h[t-1], c[t-1])

    The frames are a set: their order changes nothing.

    Args:
        dim: D.
        channels: A.
        hidden: U.
    """

    def __init__(self, dim: int, channels: int, hidden: int):
        super().__init__()
        self.of_frame = nn.Linear(dim, channels, bias=False)  # Wx
        self.of_state = nn.Linear(hidden, channels)  # Wh, b
        self.energy = nn.Linear(channels, 1, bias=False)  # v
        self.cell = nn.LSTMCell(dim, hidden)
        with torch.no_grad():  # the forget gate, second of four; its bias is the sum of two
            self.cell.bias_ih[hidden : 2 * hidden] = 1
            self.cell.bias_hh[hidden : 2 * hidden] = 0

    def forward(self, vectors: Tensor, steps: int) -> Attended:
        """Vectors (B, L, D) → states and attention of so many steps."""
        of_frames = self.of_frame(vectors)  # (B, L, A)
        h = c = vectors.new_zeros(vectors.shape[0], self.cell.hidden_size)  # (B, U)
        states, attention = [], []
        for _ in range(steps):
            energies = self.energy(torch.tanh(of_frames + self.of_state(h).unsqueeze(1)))
            alpha = energies.squeeze(2).softmax(dim=1)  # (B, L)
            h, c = self.cell(torch.einsum('bl,bld->bd', alpha, vectors), (h, c))
            states.append(h)
            attention.append(alpha)
        return Attended(torch.stack(states, dim=1), torch.stack(attention, dim=1))


class SeeForestOutput(NamedTuple):
    """What the losses need; returned in training mode."""

    feature: Tensor  # (B, U) F, before the BNNeck
    logits: Tensor  # (B, num_classes)
    maps: Tensor  # (B, reduced, H, W) M


@register_video_model('seeforest')
class SeeForest(VideoModel):
    """SeeForest: attention in an LSTM, and recurrent sweeps over pairs (CVPR 2017).

    The classifier of pairs is used in training, and in a test only with ``srm_top``.

    Args:
        num_classes: training identities.
        seq_len: L of clips that images stand for; clips of any length are taken.
        config: sizes and weights.
        pretrained: start from ImageNet weights.

    Raises:
        InputError: backbone weights that cannot be loaded.
    """

    Config = SeeForestConfig
    frame_once = True
    takes_any_length = True

    settings_in_shapes = {
        'seeforest.attention_channels': {'attention.of_frame.weight': 0},
        'seeforest.hidden_channels': {'attention.cell.weight_hh': 1},
        'seeforest.reduced_channels': {'classifier_pairs.reduce.weight': 0},
        'seeforest.sweep_channels': {'classifier_pairs.fuse.weight': 0},
    }

    def __init__(
        self, num_classes: int, seq_len: int, config: SeeForestConfig, pretrained: bool = True
    ):
        super().__init__(num_classes, seq_len, config, pretrained)
        self.encoder = shared_encoder(config, 'seeforest', pretrained)
        dim = self.encoder.dim
        self.feature_dim = config.hidden_channels
        self.attention = TemporalAttentionModel(dim, config.attention_channels, self.feature_dim)
        self.bnneck = BNNeck(self.feature_dim)
        self.classifier = bias_free_classifier(self.feature_dim, num_classes)
        self.classifier_pairs = PairClassifier(
            dim, config.reduced_channels, config.sweep_channels, config.directions
        )
        self.rescored = config.srm_top

    def forward(self, clips: Tensor) -> Tensor | SeeForestOutput:
        """Normalised clips (B, L, 3, H, W), or images (B, 3, H, W), as the protocol has it."""
        frames = clips if clips.dim() == 4 else self.as_clips(clips).flatten(0, 1)
        if not self.training:
            return self.embed(self._clips_of(self.encode_frames(frames), clips))
        maps = self.encoder(frames).frame_features  # (T, D, H, W)
        with full_precision(clips.device.type):
            attended = self.attend(self._clips_of(global_average(maps), clips))
            feature = self.feature_of(attended)
            logits = self.classifier(self.bnneck(feature))
        weights = attended.attention.mean(dim=1)  # (B, L)
        of_clips = torch.einsum('bl,bldhw->bdhw', weights, self._clips_of(maps, clips))
        return SeeForestOutput(feature, logits, self.classifier_pairs.describe(of_clips))

    def losses(self, outputs: SeeForestOutput, pids: Tensor, recipe: Recipe) -> dict[str, Tensor]:
        """Apply the recipe to the clip, and cross-entropy to the hardest pairs: same or not."""
        pairs = pair_loss(self.classifier_pairs, outputs.feature, outputs.maps, pids)
        return {
            'cross_entropy': recipe.cross_entropy(outputs.logits, pids),
            'triplet': recipe.triplet(outputs.feature, pids),
            'cross_entropy_pairs': self.config.pair_weight * pairs,
        }

    def backbone(self) -> Encoder:
        return self.encoder

    def parts_of_losses(self) -> Iterable[nn.Module]:
        return (self.classifier_pairs.fuse_bn,)

    def encode_frames(self, frames: Tensor) -> Tensor:
        """(T, 3, H, W) → x of each frame, (T, D).

        With ``srm_top`` the reduced map follows, and its width: (T, D + C*H*W + 1). The reduction
        is linear, so that maps are weighted after it as well as before.
        """
        maps = self.encoder(frames).frame_features
        vectors = global_average(maps)
        if not self.rescored:
            return vectors
        reduced = self.classifier_pairs.reduce(maps)  # (T, C, H, W)
        width = vectors.new_full((len(maps), 1), maps.shape[3])
        return torch.cat([vectors, reduced.flatten(1), width], dim=1)

    def embed(self, vectors: Tensor) -> Tensor:
        """Clips of :meth:`encode_frames`, (B, L, V) → the BNNeck of F, (B, U)."""
        with full_precision(vectors.device.type):
            attended = self.attend(vectors[..., : self.encoder.dim])
            features: Tensor = self.bnneck(self.feature_of(attended))
        return features

    def pair_features(self, vectors: Tensor) -> Tensor:
        """Clips of :meth:`encode_frames`, with ``srm_top`` → M and its width, (B, C*H*W + 1)."""
        dim = self.encoder.dim
        with full_precision(vectors.device.type):
            weights = self.attend(vectors[..., :dim]).attention.mean(dim=1)  # (B, L)
            reduced = torch.einsum('bl,blv->bv', weights, vectors[..., dim:-1])
            maps = self.classifier_pairs.normalise(reduced.unflatten(1, self._map_shape(vectors)))
        return torch.cat([maps.flatten(1), vectors[:, 0, -1:]], dim=1)

    def rescore(self, query: Tensor, gallery: Tensor) -> Tensor:
        """Return -lambda times the log-odds of the same person, (P,), of maps (P, C*H*W + 1)."""
        maps = (one[:, :-1].unflatten(1, self._map_shape(one)) for one in (query, gallery))
        different, same = self.classifier_pairs(*maps).unbind(dim=1)
        penalty: Tensor = self.config.srm_weight * (different - same)
        return penalty

    def _map_shape(self, vectors: Tensor) -> tuple[int, int, int]:
        """C, -1 and the width of maps, from vectors (..., V) that end with it."""
        return self.config.reduced_channels, -1, round(vectors.flatten()[-1].item())

    def attend(self, vectors: Tensor) -> Attended:
        """(B, L, D) → the steps of the attention, as many as ``attention_steps`` says."""
        steps = self.config.attention_steps
        attended: Attended = self.attention(
            vectors, vectors.shape[1] if steps == AS_FRAMES else int(steps)
        )
        return attended

    def feature_of(self, attended: Attended) -> Tensor:
        """Compute F (B, U), as ``clip_feature`` says."""
        states = attended.states
        return states.mean(dim=1) if self.config.clip_feature == 'mean' else states[:, -1]

    @torch.no_grad()
    def explain(self, clips: Tensor) -> dict[str, Tensor]:
        """Return the attention in clips (B, L, 3, H, W); see ``explanations.py``."""
        clips = self.as_clips(clips)
        with full_precision(clips.device.type):
            maps = self.encoder(clips.flatten(0, 1)).frame_features
            vectors = self._clips_of(global_average(maps), clips)
            attended = self.attend(vectors)
            return {
                'attention': attended.attention.mean(dim=1),
                'step_attention': attended.attention,
                'frame_norms': self._clips_of(vector_norm(maps, dim=1), clips),
                'frame_feature': vectors.mean(dim=1),
                'clip_feature': self.bnneck(self.feature_of(attended)),
            }

    def _clips_of(self, rows: Tensor, clips: Tensor) -> Tensor:
        """(T, ...) → (B, L, ...); an image stands for all L frames."""
        if clips.dim() == 4:
            return rows.unsqueeze(1).expand(-1, self.seq_len, *rows.shape[1:])
        of_clips: Tensor = rows.unflatten(0, clips.shape[:2])
        return of_clips
