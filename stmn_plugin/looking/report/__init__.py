"""A trained run → one HTML page of it: results, curves, a browser of queries, memory items.

``browser.py`` and ``items.py`` make plain values, ``curves.py`` panels, ``film_strips.py``
pictures; ``page.py`` puts them into one file.
"""

from .browser import Browser, rank_for_page
from .page import Overview, write_report

__all__ = ['Browser', 'Overview', 'rank_for_page', 'write_report']
