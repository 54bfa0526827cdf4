"""The section ``loss`` of a config as functions that every model's ``losses`` can call."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from .identification import batch_hard_triplet_loss
from .memory_spread import memory_spread_loss


@dataclass(frozen=True)
class Recipe:
    """Loss terms as they enter the sum, weighted.

    A triplet or spread term of weight 0 is not computed. A cross-entropy is, and multiplied by 0:
    the parameters of classifiers get gradients, as DDP expects of all parameters.
    """

    cross_entropy_weight: float = 1.0  # of every cross-entropy term
    triplet_weight: float = 1.0  # of every batch-hard triplet term
    triplet_margin: float | None = None  # None is the soft margin of the paper's recipe
    label_smoothing: float = 0.0  # of the cross-entropy; the authors use 0
    spread_weight: float = 1.0  # of every memory spread term; 0 is "w/o L_S" of Table 1
    spread_margin: float = 0.3  # alpha
    spread_reduction: str = 'mean'  # over the items; 'sum' is Eq. 9 literally
    spread_reach: str = 'all'  # of its gradient: 'heads' keeps it from the trunk
    spread_replicas: int = 1  # parts of the batch, each with a loss; 3 in the authors' code

    def cross_entropy(self, logits: Tensor, pids: Tensor) -> Tensor:
        """Of logits (B, identities) with identities (B,) (Sec. 3.3)."""
        loss = F.cross_entropy(logits, pids, label_smoothing=self.label_smoothing)
        return self.cross_entropy_weight * loss

    def triplet(self, features: Tensor, pids: Tensor) -> Tensor:
        """Batch-hard, of features (B, D) with identities (B,) (Sec. 3.3)."""
        if self.triplet_weight == 0:
            return features.new_zeros(())
        return self.triplet_weight * batch_hard_triplet_loss(features, pids, self.triplet_margin)

    def spread(self, probs: Tensor, num_clips: int = 1) -> Tensor:
        """Of a memory's matching probabilities (P, items) (Eq. 9).

        Args:
            probs: of a whole batch, the accesses of a clip one after the other.
            num_clips: B. The parts, of ceil(B / replicas) clips, are those of DataParallel; their
                losses are averaged.
        """
        if self.spread_weight == 0:
            return probs.new_zeros(())
        parts = [probs]
        if self.spread_replicas > 1:
            by_clip = probs.unflatten(0, (num_clips, -1)).chunk(self.spread_replicas)
            parts = [part.flatten(0, 1) for part in by_clip]
        losses = [
            memory_spread_loss(part, self.spread_margin, self.spread_reduction) for part in parts
        ]
        return self.spread_weight * torch.stack(losses).mean()
