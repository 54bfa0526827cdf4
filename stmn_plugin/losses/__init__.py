"""Loss terms of the paper: memory spread (Eq. 9), identification (Sec. 3.3), their sum (Eq. 8).

Each is a function first and a thin module after it.
"""

from .criterion import LossTerms, STMNCriterion
from .identification import BatchHardTripletLoss, batch_hard_triplet_loss
from .memory_spread import MemorySpreadLoss, memory_spread_loss

__all__ = [
    'BatchHardTripletLoss',
    'LossTerms',
    'MemorySpreadLoss',
    'STMNCriterion',
    'batch_hard_triplet_loss',
    'memory_spread_loss',
]
