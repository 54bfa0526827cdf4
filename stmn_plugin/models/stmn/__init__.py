"""Spatial and Temporal Memory Networks (ICCV 2021), the architecture of the paper.

``memory.py`` holds the two memories (Eq. 1-7), ``stmn.py`` the whole network (Fig. 2, 3). The
encoder in front of them is in ``models/encoder.py``, as other architectures have it, too.
"""

from .memory import SpatialMemory, TemporalAverage, TemporalMemory, TemporalMLP
from .stmn import STMN, STMNConfig, STMNOutput

__all__ = [
    'STMN',
    'STMNConfig',
    'STMNOutput',
    'SpatialMemory',
    'TemporalAverage',
    'TemporalMLP',
    'TemporalMemory',
]
