"""Loss terms of the papers, and the recipe that weights them for every architecture.

Memory spread (Eq. 9) and identification (Sec. 3.3) are functions, each with a thin module;
``oim.py`` and ``diversity.py`` hold terms that other systems bring. The method ``losses`` of an
architecture selects terms and outputs (Eq. 8 for STMN).
"""

from .identification import (
    BatchHardTripletLoss,
    all_triplets_loss,
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
