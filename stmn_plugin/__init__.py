"""STMN (ICCV 2021) for torchreid: spatial and temporal memories for video person re-ID."""

import logging
import warnings
from typing import Any

__version__ = '0.2.0'

logging.getLogger(__name__).addHandler(logging.NullHandler())  # silent, as libraries are

# the host advises to compile its ranking, which this plugin does not use
warnings.filterwarnings('ignore', 'Cython evaluation', UserWarning)


def register(cfg: Any = None, **model_options: Any) -> None:
    """Add this plugin to torchreid; see :func:`stmn_plugin.host.registration.register`."""
    from .host.registration import register as register_with_host  # imports torch and torchreid

    register_with_host(cfg, **model_options)


def load_model(path: Any, device: Any = 'cpu') -> Any:
    """Load a trained network; see :func:`stmn_plugin.models.loading.load_model`."""
    from .models.loading import load_model as load  # imports torch

    return load(path, device)


def from_pretrained(name: Any, device: Any = 'cpu', revision: str | None = None) -> Any:
    """Load a shared network; see :func:`stmn_plugin.cameras.hub.from_pretrained`."""
    from .cameras.hub import from_pretrained as load  # imports torch

    return load(name, device, revision)
