"""Architectures: the protocol that each follows, STMN, and any image model of the host.

Reading path: ``base.py`` (the protocol), ``encoder.py`` (Sec. 3.2), ``stmn/memory.py`` (Eq. 1-3),
``stmn/stmn.py`` (Fig. 2, 3), ``systems/`` (Table 2). The other files hold layers that several
systems need, load weights, and measure or accelerate any model.
"""

from . import systems
from .backbones import BACKBONES
from .base import VIDEO_MODELS, VideoModel, register_video_model
from .building import ModelSpec, build_video_model
from .encoder import Encoder, EncoderConfig
from .frame_pooling import FrameByFrame, FramePooling
from .stmn import (
    STMN,
    SpatialMemory,
    STMNConfig,
    STMNOutput,
    TemporalAverage,
    TemporalMemory,
    TemporalMLP,
)

__all__ = [
    'BACKBONES',
    'Encoder',
    'EncoderConfig',
    'FrameByFrame',
    'FramePooling',
    'ModelSpec',
    'STMN',
    'STMNConfig',
    'STMNOutput',
    'SpatialMemory',
    'TemporalAverage',
    'TemporalMLP',
    'TemporalMemory',
    'VIDEO_MODELS',
    'VideoModel',
    'build_video_model',
    'register_video_model',
    'systems',
]
