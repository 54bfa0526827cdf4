"""Datasets, frame samplers, clips and loaders."""

from .datamanager import VideoDataManager
from .frame_samplers import sample_rrs

__all__ = ['VideoDataManager', 'sample_rrs']
