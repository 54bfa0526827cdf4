"""Fig. 8: what is found with the features before and after the refinement."""

from typing import NamedTuple

import numpy as np

from .sheet import BLACK, BLUE, LINE, MARGIN, PAGE, VERMILLION, Sheet

GAP = 0.06
LABEL = 0.3
RIGHT, WRONG = '✓', '✗'


class Found(NamedTuple):
    picture: np.ndarray  # (h, w, 3) uint8
    right: bool  # the query's person


class Search(NamedTuple):
    title: str
    picture: np.ndarray  # (h, w, 3) uint8, of the query
    lists: list  # of (what it was searched by, list of Found, the nearest first)


def draw(searches, caption):
    """
    Args:
        searches (list of Search)
        caption (str)

    Returns:
        matplotlib.figure.Figure
    """
    length = max(len(found) for search in searches for _, found in search.lists)
    width = (PAGE - 2 * MARGIN - LABEL - 0.15) / (max(length, 8) + 1) - GAP
    height = 2 * width
    line = height + LINE + GAP
    steps = [LINE + len(search.lists) * line + 0.08 for search in searches]
    sheet = Sheet(PAGE, sum(steps) + MARGIN, caption)
    top = MARGIN
    for search, step in zip(searches, steps, strict=True):
        sheet.text(MARGIN, top, search.title, va='top')
        middle = top + LINE + (len(search.lists) * line - height - LINE) / 2
        sheet.picture(MARGIN, middle, width, height, search.picture, BLACK, 1.2)
        sheet.text(MARGIN + width / 2, middle + height + 0.03, 'query', va='top', ha='center')
        for row, (name, found) in enumerate(search.lists):
            y = top + LINE + 0.03 + row * line
            left = MARGIN + width + 0.15
            sheet.text(left, y + height / 2, name, va='center')
            for place, one in enumerate(found):
                x = left + LABEL + place * (width + GAP)
                colour = BLUE if one.right else VERMILLION
                sheet.picture(x, y, width, height, one.picture, colour, 1.6)
                sheet.text(
                    x + width / 2,
                    y + height + 0.015,
                    RIGHT if one.right else WRONG,
                    va='top',
                    ha='center',
                    color=colour,
                    weight='bold',
                )
        top += step
    return sheet.figure
