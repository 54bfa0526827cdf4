"""STMN (ICCV 2021) for torchreid: spatial and temporal memories for video person re-ID."""

__version__ = '0.1.0'
