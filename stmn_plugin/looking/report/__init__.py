"""A trained run → one HTML page of it: results, curves, a browser of queries, memory items."""

from .browser import Browser, collect
from .page import Overview, write_report

__all__ = ['Browser', 'Overview', 'collect', 'write_report']
