"""CSA: snippets are compared, not tracklets; a gallery snippet is pooled as the probe asks.

D. Chen, H. Li, T. Xiao, S. Yi, X. Wang, "Video Person Re-identification with Competitive
Snippet-similarity Aggregation and Co-attentive Snippet Embedding", CVPR 2018.

The paper's: an LSTM over the probe snippet gives a query, both snippets are pooled by attention
towards it, the similarity of two tracklets is the mean of their best snippet similarities. The
released code's: linear layers and batch norms of values, keys and query, attention per channel,
matcher, losses and their weights, the 20th percentile; it has neither LSTM nor co-attention
(``csa.query mean``, ``csa.co_attention False``). Ours: no optical flow, STMN's encoder, the losses
of the recipe on the pooled feature, clips of the plugin's samplers as snippets.

Letters: N snippets (clips), L frames of each, D channels of a frame, d = 128 of values, keys and
query; P probe and G gallery snippets. Pairs of snippets are compared in ``csa_matching.py``.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.linalg import vector_norm

from stmn_plugin.config.rules import FLAG, WEIGHT, Number, OneOf
from stmn_plugin.config.settings import setting
from stmn_plugin.errors import InputError
from stmn_plugin.losses.oim import nth_of_identity
from stmn_plugin.losses.recipe import Recipe

from ..base import VideoModel, register_video_model
from ..encoder import Encoder, SharedEncoderConfig, shared_encoder
from ..heads import BNNeck, bias_free_classifier, full_precision, global_average
from ..oim_keys import OIMConfig
from .csa_matching import Matcher, aggregate_logits, verification_loss, weighted_squares

DIM = 128  # d


@dataclass(frozen=True)
class CSAConfig(OIMConfig, SharedEncoderConfig):
    """The section ``csa``."""

    own_losses: ClassVar[bool] = True

    query: str = setting(
        'lstm',
        OneOf(('lstm', 'mean')),
        'query of a snippet: an LSTM over its frames (paper), or a mean',
    )
    lstm_state: str = setting(
        'last',
        OneOf(('last', 'mean')),
        'hidden state that is the query; which one the paper takes is not known',
    )
    attention: str = setting(
        'channel',
        OneOf(('channel', 'frame')),
        'a weight of a frame for each channel (released code), or one for all',
    )
    co_attention: bool = setting(
        True, FLAG, "pool the gallery snippet by the probe's query (paper) instead of its own"
    )
    oim: bool = setting(True, FLAG, 'add the loss OIM (Online Instance Matching) on every frame')
    verification_weight: float = setting(
        100.0,
        WEIGHT,
        'weight of the loss of pairs, whose own weights sum to 0.1',
        in_vectors=False,
    )
    negative_weight: float = setting(
        3.0,
        WEIGHT,
        'weight of all pairs of two persons together, relative to those of one',
        in_vectors=False,
    )
    percentile: float = setting(
        20.0,
        Number(0, 100),
        "percentage of two tracklets' snippet pairs, the nearest, that count",
        in_vectors=False,
    )


def attention_weights(keys: Tensor, query: Tensor, by: str = 'channel') -> Tensor:
    """Compute the attention over the frames of snippets.

    Args:
        keys: k, (..., L, d).
        query: q, (..., d).
        by: ``channel`` is the softmax over t of q_c * k_tc, ``frame`` that of <q, k_t>.

    Returns:
        (..., L, d) by channel, (..., L, 1) by frame; sums to 1 over the frames.
    """
    agreement = query.unsqueeze(-2) * keys  # (..., L, d)
    if by == 'frame':
        agreement = agreement.sum(dim=-1, keepdim=True)
    return agreement.softmax(dim=-2)


def attentive_pooling(values: Tensor, keys: Tensor, query: Tensor, by: str = 'channel') -> Tensor:
    """Pool the values v (..., L, d) of snippets, as :func:`attention_weights` → e (..., d).

    With v and k (G, L, d) of gallery snippets and q (P, 1, d) of probes it is co-attention:
    e(g|p), (P, G, d).
    """
    return (attention_weights(keys, query, by) * values).sum(dim=-2)


class FrameHead(nn.Module):
    """Vectors of frames (N, L, D) → (N, L, d): a linear layer and a batch norm."""

    def __init__(self, dim: int):
        super().__init__()
        self.linear = nn.Linear(dim, DIM)
        self.norm = nn.BatchNorm1d(DIM)
        nn.init.kaiming_uniform_(self.linear.weight, mode='fan_out')
        nn.init.zeros_(self.linear.bias)

    def forward(self, raw: Tensor) -> Tensor:
        rows = self.norm(self.linear(raw.flatten(0, 1)))  # (N*L, d)
        heads: Tensor = rows.unflatten(0, raw.shape[:2])
        return heads


class MeanQuery(FrameHead):
    """The released code's query: the mean over the frames (N, L, D) → q (N, d)."""

    def forward(self, raw: Tensor) -> Tensor:
        return super().forward(raw).mean(dim=1)


class LSTMQuery(nn.Module):
    """The paper's query: an LSTM over the frames (N, L, D) → q (N, d)."""

    def __init__(self, dim: int, state: str = 'last'):
        super().__init__()
        self.lstm = nn.LSTM(dim, DIM, batch_first=True)
        self.state = state

    def forward(self, raw: Tensor) -> Tensor:
        states, _ = self.lstm(raw)  # (N, L, d)
        query: Tensor = states[:, -1] if self.state == 'last' else states.mean(dim=1)
        return query


class Snippets(NamedTuple):
    """What is known of snippets; returned in training mode."""

    values: Tensor  # (N, L, d) v, of length 1
    keys: Tensor  # (N, L, d) k of self-pooling
    other_keys: Tensor | None  # (N, L, d) k of co-attention
    query: Tensor  # (N, d) q
    feature: Tensor  # (N, d) e, pooled by the snippet's own query
    logits: Tensor | None = None  # (N, num_classes) of e, in training


@register_video_model('csa')
class CSA(VideoModel):
    """CSA: the best pairs of two tracklets' snippets, pooled by co-attention (CVPR 2018).

    Tracklets are ranked by a score of pairs of clips. The feature of a clip, for search and plots,
    is e, pooled by the clip's own query.

    Args:
        num_classes: training identities.
        seq_len: L of still clips; clips of any length are taken.
        config: variants and weights.
        pretrained: start from ImageNet weights.

    Raises:
        InputError: backbone weights that cannot be loaded.
    """

    Config = CSAConfig
    frame_once = True
    takes_any_length = True

    def __init__(self, num_classes: int, seq_len: int, config: CSAConfig, pretrained: bool = True):
        super().__init__(num_classes, seq_len, config, pretrained)
        self.encoder = shared_encoder(config, 'csa', pretrained)
        dim = self.encoder.dim
        self.feature_dim = DIM
        self.value = FrameHead(dim)
        self.key = FrameHead(dim)
        self.other_key = FrameHead(dim) if config.co_attention else None
        lstm = config.query == 'lstm'
        self.query = LSTMQuery(dim, config.lstm_state) if lstm else MeanQuery(dim)
        self.matcher = Matcher(DIM)
        self.bnneck = BNNeck(DIM)
        self.classifier = bias_free_classifier(DIM, num_classes)
        self.classifier_oim = config.table(num_classes, DIM) if config.oim else None

    def forward(self, clips: Tensor) -> Tensor | Snippets:
        """Normalised clips (B, L, 3, H, W), or images (B, 3, H, W), as the protocol has it.

        An image is a clip of one frame: e of a still clip is v of its frame.
        """
        clips = self.as_clips(clips.unsqueeze(1) if clips.dim() == 4 else clips)
        raw = self.encode_frames(clips.flatten(0, 1)).unflatten(0, clips.shape[:2])
        if not self.training:
            return self.embed(raw)
        snippets = self.snippets(raw)
        with full_precision(clips.device.type):
            logits = self.classifier(self.bnneck(snippets.feature))
        return snippets._replace(logits=logits)

    def losses(self, outputs: Snippets, pids: Tensor, recipe: Recipe) -> dict[str, Tensor]:
        """Apply the recipe to e, OIM to v of every frame, and verification to pairs of clips.

        Of the clips of an identity the first, third, ... are probes, the others are the gallery.

        Raises:
            InputError: no identity has two clips.
        """
        terms = {
            'cross_entropy': recipe.cross_entropy(self.logits(outputs), pids),
            'triplet': recipe.triplet(outputs.feature, pids),
        }
        config: CSAConfig = self.config
        if self.classifier_oim is not None:
            frames = outputs.values.flatten(0, 1)  # (B*L, d)
            of_frames = pids.repeat_interleave(outputs.values.shape[1])
            terms['oim'] = config.oim_weight * self.classifier_oim(frames, of_frames)
        is_probe = nth_of_identity(pids) % 2 == 0
        probe, gallery = (chosen.nonzero().flatten() for chosen in (is_probe, ~is_probe))
        if not len(gallery):
            raise InputError(
                'sampler.train_sampler: csa compares clips of an identity, and no identity of a '
                'batch has two: IdentityPassSampler and RandomIdentitySampler give them'
            )
        different, alike = self.matcher(self._delta(outputs, probe, gallery)).unbind(dim=2)
        same = pids[probe, None] == pids[gallery]
        loss = verification_loss(alike - different, same, config.negative_weight)
        terms['verification'] = config.verification_weight * loss
        return terms

    def _delta(self, outputs: Snippets, probe: Tensor, gallery: Tensor) -> Tensor:
        """(P, G, d) of clips of a batch by their numbers (P,), (G,)."""
        theirs = outputs.feature[gallery]  # (G, d)
        if outputs.other_keys is not None:
            asked = outputs.query[probe].unsqueeze(1)  # (P, 1, d)
            pooled = outputs.values[gallery], outputs.other_keys[gallery]
            theirs = attentive_pooling(*pooled, asked, self.config.attention)  # (P, G, d)
        return (outputs.feature[probe].unsqueeze(1) - theirs).square()

    def backbone(self) -> Encoder:
        return self.encoder

    def parts_of_losses(self) -> Iterable[nn.Module]:
        return [self.matcher]

    def encode_frames(self, frames: Tensor) -> Tensor:
        """(T, 3, H, W) → GAP of conv5, (T, D)."""
        return global_average(self.encoder(frames).frame_features)

    def embed(self, vectors: Tensor) -> Tensor:
        """Clips of :meth:`encode_frames`, (B, L, D) → e (B, d)."""
        return self.snippets(vectors).feature

    def snippets(self, raw: Tensor) -> Snippets:
        """Compute values, keys and queries of clips of vectors of frames (N, L, D)."""
        with full_precision(raw.device.type):
            values = F.normalize(self.value(raw), dim=-1)
            keys, query = self.key(raw), self.query(raw)
            other_keys = None if self.other_key is None else self.other_key(raw)
            feature = attentive_pooling(values, keys, query, self.config.attention)
        return Snippets(values, keys, other_keys, query, feature)

    def pair_features(self, vectors: Tensor) -> Tensor:
        """Clips (B, L, D) → e, and with co-attention q, v and k of each, (B, 2*d + 2*L*d)."""
        snippets = self.snippets(vectors)
        if snippets.other_keys is None:
            return snippets.feature
        of_frames = snippets.values.flatten(1), snippets.other_keys.flatten(1)
        return torch.cat([snippets.feature, snippets.query, *of_frames], dim=1)

    def score_pairs(self, query: Tensor, gallery: Tensor) -> Tensor:
        """Clips of :meth:`pair_features` → z1 - z0, the log-odds of P(same), (P, G).

        With co-attention the first clip asks: the score of two clips depends on their order.
        """
        with full_precision(query.device.type):
            alpha, constant = self.matcher.as_weights()
            if self.other_key is None:
                return -constant - weighted_squares(query, gallery, alpha)
            feature, asked = query[:, :DIM], query[:, DIM : 2 * DIM]
            values, keys = gallery[:, 2 * DIM :].unflatten(1, (2, -1, DIM)).unbind(dim=1)
            pooled = attentive_pooling(
                values, keys, asked.unsqueeze(1), self.config.attention
            )  # (P, G, d)
            return -constant - (feature.unsqueeze(1) - pooled).square() @ alpha

    def join_scores(self, scores: Tensor) -> Tensor:
        """Log-odds of P(same) of pairs of clips (q, g, n, m) → those of tracklets (q, g)."""
        different = -scores.flatten(2).double()
        return -aggregate_logits(different, self.config.percentile)

    @torch.no_grad()
    def explain(self, clips: Tensor) -> dict[str, Tensor]:
        """Return the attention of clips (B, L, 3, H, W) by their own queries."""
        clips = self.as_clips(clips)
        maps = self.encoder(clips.flatten(0, 1)).frame_features
        raw = global_average(maps).unflatten(0, clips.shape[:2])
        snippets = self.snippets(raw)
        weights = attention_weights(snippets.keys, snippets.query, self.config.attention)
        return {
            'attention': weights.mean(dim=2),
            'channel_attention': weights,
            'frame_norms': vector_norm(maps, dim=1).unflatten(0, clips.shape[:2]),
            'frame_feature': raw.mean(dim=1),
            'clip_feature': snippets.feature,
        }
