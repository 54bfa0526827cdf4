"""Loss terms of the paper, and the recipe that weighs them for every architecture.

Memory spread (Eq. 9) and identification (Sec. 3.3), each a function first and a thin module after
it. Which terms an architecture has, and of which outputs, its ``losses`` says (Eq. 8 for STMN).
"""

from .all_triplets import all_triplets_loss
from .identification import (
    BatchHardTripletLoss,
    batch_hard_triplet_loss,
    cosine_triplet_loss,
)
from .memory_spread import MemorySpreadLoss, memory_spread_loss
from .recipe import Recipe

__all__ = [
    'BatchHardTripletLoss',
    'MemorySpreadLoss',
    'Recipe',
    'all_triplets_loss',
    'batch_hard_triplet_loss',
    'cosine_triplet_loss',
    'memory_spread_loss',
]
