"""Spatial and Temporal Memory Networks (ICCV 2021), the architecture of the paper.

``memory.py`` holds addressing and the spatial memory (Eq. 1-3), ``temporal.py`` the temporal one
(Eq. 4-7), ``stmn.py`` the whole network (Fig. 2, 3), ``config.py`` its settings. The encoder is in
``models/encoder.py`` because other architectures use it, too.
"""

from .config import STMNConfig
from .memory import SpatialMemory
from .stmn import STMN, STMNOutput
from .temporal import TemporalAverage, TemporalMemory, TemporalMLP

__all__ = [
    'STMN',
    'STMNConfig',
    'STMNOutput',
    'SpatialMemory',
    'TemporalAverage',
    'TemporalMLP',
    'TemporalMemory',
]
