"""Tracklets → clips → batches: frame samplers, frames, augmentation, P x K batches, loaders.

Reading path: ``frame_samplers.py`` (numbers → numbers), ``clips.py`` (tracklets → clips),
``clip_plans.py`` (which frames are tested), ``datamanager.py`` (loaders for torchreid).
"""

import importlib

_HOMES = {'VideoDataManager': '.datamanager', 'sample_rrs': '.frame_samplers'}

__all__ = ['VideoDataManager', 'sample_rrs']  # noqa: F822, see below


def __getattr__(name):
    """Import what is asked for: torch and the host are slow, and synthetic data need neither."""
    if name not in _HOMES:
        raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
    return getattr(importlib.import_module(_HOMES[name], __name__), name)
