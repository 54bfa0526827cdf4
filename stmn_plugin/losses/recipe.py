"""The weighted loss terms of the config section ``loss``, called by every model's ``losses``."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from .identification import batch_hard_triplet_loss
from .memory_spread import memory_spread_loss


@dataclass(frozen=True)
class Recipe:
    """Weighted loss terms.

    A triplet or spread term of weight 0 is not computed. A cross-entropy of weight 0 is computed
    and multiplied by 0, because DDP expects gradients of all parameters, also of classifiers.
    """

    cross_entropy_weight: float = 1.0  # of every cross-entropy term
    triplet_weight: float = 1.0  # of every batch-hard triplet term
    triplet_margin: float | None = None  # None is the soft margin of the paper's recipe
    label_smoothing: float = 0.0  # of the cross-entropy; the authors use 0
    spread_weight: float = 1.0  # of every memory spread term; 0 is "w/o L_S" of Table 1
    spread_margin: float = 0.3  # alpha
    spread_reduction: str = 'mean'  # over the items; 'sum' is Eq. 9 literally
    spread_reach: str = 'all'  # 'heads' stops its gradient before the trunk
    spread_replicas: int = 1  # parts of the batch, each with its own loss; 3 in the authors' code

    def cross_entropy(self, logits: Tensor, pids: Tensor) -> Tensor:
        """Compute the cross-entropy of logits (B, identities) and identities (B,) (Sec. 3.3)."""
        loss = F.cross_entropy(logits, pids, label_smoothing=self.label_smoothing)
        return self.cross_entropy_weight * loss

    def triplet(self, features: Tensor, pids: Tensor) -> Tensor:
        """Compute the batch-hard triplet loss of features (B, D) and identities (B,) (Sec. 3.3)."""
        if self.triplet_weight == 0:
            return features.new_zeros(())
        return self.triplet_weight * batch_hard_triplet_loss(features, pids, self.triplet_margin)

    def spread(self, probs: Tensor, num_clips: int = 1) -> Tensor:
        """Compute the spread loss of a memory (Eq. 9).

        Args:
            probs: matching probabilities (P, items) of a batch, ordered by clip.
            num_clips: B. The parts of ceil(B / replicas) clips are those of DataParallel; their
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
