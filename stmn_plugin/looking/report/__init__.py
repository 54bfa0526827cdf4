"""Write a trained run as one HTML page: results, curves, a browser of queries, memory items.

``browser.py`` collects plain values, ``film_strips.py`` makes pictures, ``page.py`` draws curves
and assembles the page. ``search_page.py`` does the same for the answers of a search.
``html_file.py`` writes either as one file.
"""

from .browser import Browser, rank_for_page
from .page import Overview, write_report

__all__ = ['Browser', 'Overview', 'rank_for_page', 'write_report']
