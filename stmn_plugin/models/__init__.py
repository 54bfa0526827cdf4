"""The network: encoder → memories → STMN; weights and what a model costs.

Reading path: ``encoder.py`` (Sec. 3.2), ``memory.py`` (Eq. 1-7), ``stmn.py`` (Fig. 2, 3).
"""

from .base import VIDEO_MODELS, VideoModel, register_video_model
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
    'VIDEO_MODELS',
    'VideoModel',
    'register_video_model',
    'stmn',
]
