"""A trained run → one HTML page of it: results, curves, a browser of queries, memory items.

``browser.py`` and ``items.py`` make plain values, ``curves.py`` panels, ``film_strips.py``
pictures; ``page.py`` says what stands on the page. ``search_page.py`` does the same for the answers
of a search. ``html_file.py`` writes either as one file.
"""

from .browser import Browser, rank_for_page
from .page import Overview, write_report

__all__ = ['Browser', 'Overview', 'rank_for_page', 'write_report']
