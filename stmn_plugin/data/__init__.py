"""Frame samplers, reading and augmentation of clips, P x K batches, and their loaders.

Reading path: ``frame_samplers.py`` (number of frames → frame indices), ``clips.py`` (tracklets →
clips), ``clip_plans.py`` (the clips of a test, and their loader), ``datamanager.py`` (loaders for
torchreid).
"""

import importlib
from typing import Any

_HOMES = {
    'ClipPlan': '.frame_samplers',
    'VideoDataManager': '.datamanager',
    'clip_loader': '.clip_plans',
    'sample_rrs': '.frame_samplers',
}

__all__ = ['ClipPlan', 'VideoDataManager', 'clip_loader', 'sample_rrs']  # noqa: F822, see below


def __getattr__(name: str) -> Any:
    """Import names on first use: torch and the host are slow, and synthetic data need neither."""
    if name not in _HOMES:
        raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
    return getattr(importlib.import_module(_HOMES[name], __name__), name)
