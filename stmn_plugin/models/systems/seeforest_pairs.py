"""Maps of two clips of SeeForest → same person or different, by sweeps over their difference.

For training, and for the nearest tracklets of a test (``seeforest.srm_top``). Letters: B clips, P
pairs, D channels of the encoder's maps, C of those that are compared, U of a sweep, H W positions.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..heads import global_average

DIRECTIONS = ('right', 'left', 'down', 'up', 'down-right', 'up-left')


def sweep(inputs: Tensor, recurrent: Tensor, direction: str) -> Tensor:
    """Let every position see those behind it: g[i,j] = relu(inputs[i,j] + U g[predecessor]).

    Args:
        inputs: (P, U, H, W), W_r d + b_r of the difference d of two maps.
        recurrent: (U, U).
        direction: one of DIRECTIONS, the way of the sweep; ``right`` has the predecessor (i, j-1),
            ``down-right`` (i-1, j-1). Outside the map the predecessor is 0.

    Returns:
        (P, U, H, W) g.
    """
    if direction in ('right', 'left'):
        way = {'right': 'down', 'left': 'up'}[direction]
        return sweep(inputs.transpose(2, 3), recurrent, way).transpose(2, 3)
    if direction in ('up', 'up-left'):  # the other way round on the map turned by 180 degrees
        way = {'up': 'down', 'up-left': 'down-right'}[direction]
        return sweep(inputs.flip(2, 3), recurrent, way).flip(2, 3)
    g, rows = None, []
    for row in inputs.permute(2, 0, 3, 1):  # (P, W, U)
        if g is not None:
            before = F.pad(g[:, :-1], (0, 0, 1, 0)) if direction == 'down-right' else g
            row = row + F.linear(before, recurrent)
        g = row.relu()
        rows.append(g)
    return torch.stack(rows).permute(1, 3, 0, 2)


class PairClassifier(nn.Module):
    """Maps of two clips → logits of *different* and *same* (the spatial recurrent model).

    Args:
        dim: D.
        reduced: C.
        channels: U.
        directions: of the sweeps.
    """

    def __init__(
        self, dim: int, reduced: int, channels: int, directions: Sequence[str] = DIRECTIONS
    ):
        super().__init__()
        self.directions = tuple(directions)
        self.reduce = nn.Conv2d(dim, reduced, 1, bias=False)
        self.reduce_bn = nn.BatchNorm2d(reduced)
        count = len(self.directions)
        self.inputs = nn.Conv2d(reduced, count * channels, 1)  # W_r, b_r of every direction
        self.recurrent = nn.Parameter(torch.eye(channels).mul(0.5).repeat(count, 1, 1))  # U_r
        self.fuse = nn.Conv2d(count * channels, channels, 1, bias=False)
        self.fuse_bn = nn.BatchNorm2d(channels)
        self.score = nn.Linear(channels, 2)
        nn.init.normal_(self.inputs.weight, std=0.01)
        assert self.inputs.bias is not None
        nn.init.zeros_(self.inputs.bias)

    def describe(self, maps: Tensor) -> Tensor:
        """Map the maps of clips (B, D, H, W) to those that are compared, M (B, C, H, W)."""
        return self.normalise(self.reduce(maps))

    def normalise(self, reduced: Tensor) -> Tensor:
        """Apply batch norm and ReLU to reduced maps (B, C, H, W)."""
        return F.relu(self.reduce_bn(reduced))

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        """M of the clips of pairs, (P, C, H, W) each → logits (P, 2), symmetric."""
        inputs = self.inputs((first - second).abs()).chunk(len(self.directions), dim=1)
        swept = [
            sweep(one, recurrent, direction)
            for one, recurrent, direction in zip(
                inputs, self.recurrent, self.directions, strict=True
            )
        ]
        fused = F.relu(self.fuse_bn(self.fuse(torch.cat(swept, dim=1))))  # (P, U, H, W)
        logits: Tensor = self.score(global_average(fused))
        return logits


class HardPairs(NamedTuple):
    """For each clip of a batch another, and whether there is one; otherwise the clip itself."""

    others: Tensor  # (B,)
    exist: Tensor  # (B,) booleans


@torch.no_grad()
def hardest_pairs(features: Tensor, pids: Tensor) -> tuple[HardPairs, HardPairs]:
    """Find the farthest clip of the same identity, and the nearest of another, for each clip.

    Args:
        features: (B, D), in whose Euclidean distances; D of any size.
        pids: (B,).
    """
    distances = torch.cdist(features, features, compute_mode='donot_use_mm_for_euclid_dist')
    itself = torch.eye(len(pids), dtype=torch.bool, device=pids.device)
    same = pids[:, None] == pids[None, :]  # (B, B)
    chosen = []
    for candidates, nearness in ((same & ~itself, -distances), (~same, distances)):
        exist = candidates.any(dim=1)
        nearest = nearness.masked_fill(~candidates, torch.inf).argmin(dim=1)
        own = torch.arange(len(pids), device=pids.device)
        chosen.append(HardPairs(torch.where(exist, nearest, own), exist))
    return chosen[0], chosen[1]


def pair_loss(classifier: PairClassifier, features: Tensor, maps: Tensor, pids: Tensor) -> Tensor:
    """Average the cross-entropy of the hardest pairs over those that exist; 0 without any.

    Args:
        classifier: of pairs.
        features: F of clips (B, U), to choose pairs by; without gradient.
        maps: M of clips, (B, C, H, W).
        pids: (B,).
    """
    positives, negatives = hardest_pairs(features, pids)
    others = torch.cat([positives.others, negatives.others])
    logits = classifier(maps.repeat(2, 1, 1, 1), maps[others])  # (2*B, 2)
    same = torch.cat([torch.ones_like(positives.others), torch.zeros_like(negatives.others)])
    weights = torch.cat([positives.exist, negatives.exist]).to(logits.dtype)
    terms = F.cross_entropy(logits, same, reduction='none')
    return (weights * terms).sum() / weights.sum().clamp(min=1)
