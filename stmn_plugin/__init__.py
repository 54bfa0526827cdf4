"""STMN (ICCV 2021) for torchreid: spatial and temporal memories for video person re-ID."""

__version__ = '0.1.0'


def register(cfg=None):
    """Add this plugin to torchreid; see :func:`stmn_plugin.registration.register`."""
    from .registration import register as register_with_host  # imports torch and torchreid

    register_with_host(cfg)
