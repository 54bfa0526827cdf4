"""MGH: parts of frames are nodes of a graph, whose nodes learn from their nearest in time and look.

Y. Yan, J. Qin, J. Chen, L. Liu, F. Zhu, Y. Tai, L. Shao, "Learning Multi-Granular Hypergraphs for
Video-Based Person Re-Identification", CVPR 2020.

This is the released version. The paper's: parts at several granularities as nodes, neighbours
within a window of frames, a feature of all granularities. The released code's: two nearest
neighbours in place of hyperedges, the mean in place of attention over nodes, no mutual information
between the granularities, non-local blocks inside the backbone. Ours: the stem with its ReLU,
soft-margin triplet and cross-entropy without smoothing.

Letters: B clips, L frames, T = B*L, p parts of a frame, N = L*p nodes (frame by frame, top to
bottom inside a frame), D channels of conv5, H W positions, I and 2E input and output width of a
layer.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.linalg import vector_norm

from stmn_plugin.config.rules import COUNT, FLAG, Whole
from stmn_plugin.config.settings import setting
from stmn_plugin.errors import InputError
from stmn_plugin.losses.recipe import Recipe

from ..base import VideoModel, register_video_model
from ..encoder import Encoder, SharedEncoderConfig, shared_encoder
from ..heads import full_precision
from ..non_local import NonLocal

PARTS = (2, 4, 8)  # p of the graphs


@dataclass(frozen=True)
class MGHConfig(SharedEncoderConfig):
    """The section ``mgh``."""

    neighbours: int = setting(2, Whole(1, 64), 'k, nearest other nodes that a node learns from')
    window: int = setting(3, Whole(0, 4_096), 'largest distance of a neighbour, in frames')
    graphs: int = setting(
        3, Whole(1, 3), 'graphs, of 2, 4 and 8 parts a frame; frames of 64 rows have 2'
    )
    width: int = setting(
        512, COUNT, 'E, length of what a layer makes of a node, and of its neighbours'
    )
    non_local: bool = setting(
        True, FLAG, 'attention inside a frame after every second block of conv3 and conv4'
    )


def nearest_nodes(nodes: Tensor, parts: int, neighbours: int = 2, window: int = 3) -> Tensor:
    """n(i): of each node the other nodes of largest cosine similarity within reach.

    Args:
        nodes: (B, N, I).
        parts: p; node i is of frame i // p.
        neighbours: k; where fewer other nodes are in reach, all of them.
        window: frames that a neighbour may be away.

    Returns:
        bool (B, N, N): row i says which nodes node i learns from; no gradient.
    """
    count = nodes.shape[1]
    frames = torch.arange(count, device=nodes.device) // parts
    reach = (frames[:, None] - frames[None]).abs() <= window
    reach &= ~torch.eye(count, dtype=torch.bool, device=nodes.device)  # itself by its index
    unit = F.normalize(nodes.detach(), dim=2)
    similarity = (unit @ unit.transpose(1, 2)).masked_fill(~reach, -torch.inf)
    best = similarity.topk(min(neighbours, max(count - 1, 0)), dim=2).indices
    return torch.zeros_like(reach.expand_as(similarity)).scatter(2, best, True) & reach


def mean_of(chosen: Tensor, nodes: Tensor) -> Tensor:
    """m: bool (B, N, N), nodes (B, N, I) → the mean of the chosen, (B, N, I); 0 of none."""
    weights = chosen.to(nodes.dtype)
    return weights / weights.sum(dim=2, keepdim=True).clamp(min=1) @ nodes


class GraphLayer(nn.Module):
    """h_i = BN(ReLU([W_s x_i + b_s ; W_n m_i + b_n] of length 1)): (B, N, I) → (B, N, 2E).

    Args:
        dim: I.
        width: E.
    """

    def __init__(self, dim: int, width: int = 512):
        super().__init__()
        self.own = nn.Linear(dim, width)  # W_s
        self.others = nn.Linear(dim, width)  # W_n
        self.bn = nn.BatchNorm1d(2 * width)
        for linear in (self.own, self.others):
            nn.init.xavier_uniform_(linear.weight, gain=2**0.5)

    def forward(self, nodes: Tensor, chosen: Tensor) -> Tensor:
        rows = self.unit_rows(nodes, chosen)
        normed: Tensor = self.bn(F.relu(rows).flatten(0, 1))  # (B*N, 2E)
        graph: Tensor = normed.unflatten(0, rows.shape[:2])
        return graph

    def unit_rows(self, nodes: Tensor, chosen: Tensor) -> Tensor:
        """[W_s x + b_s ; W_n m + b_n] of length 1, before ReLU and BN."""
        both = torch.cat([self.own(nodes), self.others(mean_of(chosen, nodes))], dim=2)
        return F.normalize(both, dim=2)


class PartGraph(nn.Module):
    """Two graph layers on the nodes of one granularity, and the mean over nodes.

    Args:
        dim: D.
        parts: p.
        config: k, window and E.
    """

    def __init__(self, dim: int, parts: int, config: MGHConfig):
        super().__init__()
        self.parts, self.config = parts, config
        self.layers = nn.ModuleList(
            [GraphLayer(dim, config.width), GraphLayer(2 * config.width, config.width)]
        )

    def forward(self, nodes: Tensor) -> Tensor:
        """(B, L*p, D) → f_p (B, 2E); each layer finds the neighbours anew."""
        for layer in self.layers:
            nodes = layer(nodes, self.neighbours(nodes))
        return nodes.mean(dim=1)

    def neighbours(self, nodes: Tensor) -> Tensor:
        """Find n of :func:`nearest_nodes` with the settings of the config."""
        return nearest_nodes(nodes, self.parts, self.config.neighbours, self.config.window)


def band_means(maps: Tensor, parts: int = PARTS[-1]) -> Tensor:
    """(T, D, H, W) → means of horizontal bands (T, parts, D), at least in float32.

    Raises:
        InputError: H is no multiple of the parts.
    """
    if maps.shape[2] % parts:
        raise InputError(
            f'data.height: mgh cuts maps of {maps.shape[2]} rows into {parts} parts (mgh.graphs); '
            f'the height must be a multiple of {16 * parts}'
        )
    precise = torch.promote_types(maps.dtype, torch.float32)
    bands: Tensor = maps.unflatten(2, (parts, -1)).mean(dim=(3, 4), dtype=precise)
    return bands.transpose(1, 2)


def nodes_of(bands: Tensor, parts: int) -> Tensor:
    """Means of bands (B, L, n, D), n a multiple of p → nodes (B, L*p, D)."""
    means: Tensor = bands.unflatten(2, (parts, -1)).mean(dim=3)  # (B, L, p, D)
    return means.flatten(1, 2)


class MGHOutput(NamedTuple):
    """What the losses need; returned in training mode."""

    feature: Tensor  # (B, D + G*2E) f of G graphs, before the BNNeck
    logits: Tensor  # (B, num_classes) of the global part
    graph_logits: Tensor  # (B, G, num_classes)


@register_video_model('mgh')
class MGH(VideoModel):
    """MGH: graphs of body parts at three granularities, as released (CVPR 2020).

    Args:
        num_classes: training identities.
        seq_len: L of clips that images stand for; clips of any length are taken.
        config: neighbours and sizes.
        pretrained: start from ImageNet weights.

    Raises:
        InputError: backbone weights that cannot be loaded.
    """

    Config = MGHConfig
    frame_once = True
    takes_any_length = True

    settings_in_shapes = {'mgh.width': {'graphs.0.layers.0.own.weight': 0}}

    def __init__(self, num_classes: int, seq_len: int, config: MGHConfig, pretrained: bool = True):
        super().__init__(num_classes, seq_len, config, pretrained)
        self.encoder = shared_encoder(config, 'mgh', pretrained)
        # after the 2nd, 4th, ... block of conv3 and of conv4
        self.non_local = nn.ModuleList(
            NonLocal(channels, pooled_keys=True)
            for stage in ('conv3', 'conv4')
            for channels in self.encoder.channels[stage][1::2]
            if config.non_local
        )
        dim, width = self.encoder.dim, 2 * config.width
        self.parts = PARTS[: config.graphs]
        self.bn_global = nn.BatchNorm1d(dim)
        self.graphs = nn.ModuleList(PartGraph(dim, parts, config) for parts in self.parts)
        self.sizes = [dim] + [width] * len(self.parts)
        self.feature_dim = sum(self.sizes)
        self.bnneck = nn.BatchNorm1d(self.feature_dim)  # with a shift that is trained, as released
        self.classifiers = nn.ModuleList(nn.Linear(size, num_classes) for size in self.sizes)
        for classifier in self.classifiers:
            nn.init.normal_(cast(nn.Linear, classifier).weight, std=0.001)
            nn.init.zeros_(cast(nn.Linear, classifier).bias)

    def forward(self, clips: Tensor) -> Tensor | MGHOutput:
        """Normalised clips (B, L, 3, H, W), or images (B, 3, H, W), as the protocol has it."""
        clips = self.as_clips(clips)
        vectors = self.encode_frames(clips.flatten(0, 1)).unflatten(0, clips.shape[:2])
        if not self.training:
            return self.embed(vectors)
        with full_precision(clips.device.type):
            feature = self.joined(vectors)
            slices = self.bnneck(feature).split(self.sizes, dim=1)
            first, *others = (
                classify(part) for classify, part in zip(self.classifiers, slices, strict=True)
            )
        return MGHOutput(feature, first, torch.stack(others, dim=1))

    def losses(self, outputs: MGHOutput, pids: Tensor, recipe: Recipe) -> dict[str, Tensor]:
        """Cross-entropies of the global part and of each graph, their sum; triplet on f."""
        losses = {'cross_entropy_global': recipe.cross_entropy(outputs.logits, pids)}
        for parts, logits in zip(self.parts, outputs.graph_logits.unbind(1), strict=True):
            losses[f'cross_entropy_{parts}_parts'] = recipe.cross_entropy(logits, pids)
        return losses | {'triplet': recipe.triplet(outputs.feature, pids)}

    def backbone(self) -> Encoder:
        return self.encoder

    def encode_frames(self, frames: Tensor) -> Tensor:
        """(T, 3, H, W) → means of the finest bands of each frame, (T, 8*D) if those are 8."""
        return band_means(self.maps(frames), self.parts[-1]).flatten(1)

    def embed(self, vectors: Tensor) -> Tensor:
        """Clips of :meth:`encode_frames`, (B, L, 8*D) → z, (B, D + 3*2E)."""
        with full_precision(vectors.device.type):
            features: Tensor = self.bnneck(self.joined(vectors))
        return features

    def joined(self, vectors: Tensor) -> Tensor:
        """(B, L, 8*D) → f = [f_g, f_2, f_4, f_8]."""
        bands = vectors.unflatten(2, (self.parts[-1], -1))  # (B, L, 8, D)
        # the ReLU does nothing where the encoder ends in one
        features = [self.bn_global(F.normalize(bands.mean(dim=(1, 2))).relu())]
        for parts, graph in zip(self.parts, self.graphs, strict=True):
            features.append(graph(nodes_of(bands, parts)))
        return torch.cat(features, dim=1)

    def maps(self, frames: Tensor) -> Tensor:
        """(T, 3, height, width) → maps of conv5 (T, D, H, W)."""
        encoder, blocks = self.encoder, iter(self.non_local)
        maps = encoder.run([encoder.stem, *encoder.conv2], frames)
        for stage in (encoder.conv3, encoder.conv4):
            for i, block in enumerate(stage):
                maps = encoder.run([cast(Callable[[Tensor], Tensor], block)], maps)
                if i % 2 and self.config.non_local:
                    maps = next(blocks)(maps)
        return encoder.run(encoder.conv5, maps)

    @torch.no_grad()
    def explain(self, clips: Tensor) -> dict[str, Tensor]:
        """Return maps and first neighbours of clips (B, L, 3, H, W); see ``explanations.py``."""
        clips = self.as_clips(clips)
        batch = clips.shape[:2]
        with full_precision(clips.device.type):
            maps = self.maps(clips.flatten(0, 1))
            bands = band_means(maps, self.parts[-1]).unflatten(0, batch)  # (B, L, 8, D)
            last = cast(PartGraph, self.graphs[-1])
            return {
                'frame_norms': vector_norm(maps, dim=1).unflatten(0, batch),
                'frame_feature': bands.mean(dim=(1, 2)),
                'graph_neighbours': last.neighbours(bands.flatten(1, 2)).to(maps.dtype),
                'clip_feature': self.embed(bands.flatten(2)),
            }
