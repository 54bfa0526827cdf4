"""The network: encoder → memories → STMN."""

from .encoder import BACKBONES, Encoder
from .memory import SpatialMemory, TemporalAverage, TemporalMemory, TemporalMLP
from .stmn import STMN, STMNOutput, stmn

__all__ = [
    'BACKBONES',
    'Encoder',
    'STMN',
    'STMNOutput',
    'SpatialMemory',
    'TemporalAverage',
    'TemporalMLP',
    'TemporalMemory',
    'stmn',
]
