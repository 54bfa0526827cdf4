"""The training output of STMN with identities → every loss term by name, and their sum (Eq. 8)."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

from .identification import batch_hard_triplet_loss
from .memory_spread import memory_spread_loss


class LossTerms(NamedTuple):
    """The terms as they enter the sum, weighted; a term that the model does not have is zero."""

    total: torch.Tensor  # L_total, Eq. 8
    cross_entropy_clip: torch.Tensor  # on f^t
    cross_entropy_frame: torch.Tensor  # on the temporal average of GAP(f^s)
    triplet_clip: torch.Tensor
    triplet_frame: torch.Tensor
    spread_spatial: torch.Tensor  # first line of Eq. 9
    spread_temporal: torch.Tensor  # second line of Eq. 9


class STMNCriterion(nn.Module):
    """L_total = L_S + L_ID with deep supervision (Eq. 8, Eq. 9, Sec. 3.3).

    Args:
        cross_entropy_weight (float): of both cross-entropy terms.
        triplet_weight (float): of both batch-hard soft-margin triplet terms; 0 leaves them out.
        label_smoothing (float): of the cross-entropy; the authors use 0.
        spread_weight (float): of both memory spread terms; 0 is "w/o L_S" of Table 1.
        spread_margin (float): alpha.
        spread_reduction (str): see :func:`memory_spread_loss`; 'sum' is Eq. 9 literally.
    """

    def __init__(
        self,
        cross_entropy_weight=1.0,
        triplet_weight=1.0,
        label_smoothing=0.0,
        spread_weight=1.0,
        spread_margin=0.3,
        spread_reduction='mean',
    ):
        super().__init__()
        self.cross_entropy_weight = cross_entropy_weight
        self.triplet_weight = triplet_weight
        self.label_smoothing = label_smoothing
        self.spread_weight = spread_weight
        self.spread_margin = spread_margin
        self.spread_reduction = spread_reduction

    def forward(self, output, pids):
        """
        Args:
            output (STMNOutput): what STMN returns in training mode.
            pids (torch.Tensor): identity labels, shape (B,).

        Returns:
            LossTerms
        """
        terms = (
            self._cross_entropy(output.clip_logits, pids),
            self._cross_entropy(output.frame_logits, pids),
            self._triplet(output.clip_feature, pids),
            self._triplet(output.frame_feature, pids),
            self._spread(output.spatial_probs, like=output.clip_logits),
            self._spread(output.temporal_probs, like=output.clip_logits),
        )
        return LossTerms(sum(terms), *terms)

    def _cross_entropy(self, logits, pids):
        loss = F.cross_entropy(logits, pids, label_smoothing=self.label_smoothing)
        return self.cross_entropy_weight * loss

    def _triplet(self, features, pids):
        if self.triplet_weight == 0:
            return features.new_zeros(())
        return self.triplet_weight * batch_hard_triplet_loss(features, pids)

    def _spread(self, probs, like):
        if probs is None or self.spread_weight == 0:
            return like.new_zeros(())
        return self.spread_weight * memory_spread_loss(
            probs, self.spread_margin, self.spread_reduction
        )
