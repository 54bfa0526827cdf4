"""Fig. 6: the frames that address each spatial item most, the place marked by a box."""

from typing import NamedTuple

import numpy as np
from matplotlib.patches import Rectangle

from .sheet import BLACK, LINE, MARGIN, PAGE, Sheet

BLOCKS = 2  # of items beside each other
LABEL = 0.4
GAP = 0.05


class TopFrame(NamedTuple):
    picture: np.ndarray  # (h, w, 3) uint8
    place: tuple  # row, column of the position
    prob: float


def draw(items, grid, caption):
    """
    Args:
        items (list): of (item number from 1, list of TopFrame, the highest first).
        grid (tuple): (H, W) positions of a frame.
        caption (str)

    Returns:
        matplotlib.figure.Figure
    """
    most = max(len(frames) for _, frames in items)
    block = (PAGE - 2 * MARGIN + GAP) / BLOCKS
    width = (block - LABEL - 2 * GAP) / max(most, 4) - GAP
    height = width * 2
    step = height + LINE + 2 * GAP
    rows = -(-len(items) // BLOCKS)
    sheet = Sheet(PAGE, rows * step + MARGIN, caption)
    for index, (number, frames) in enumerate(items):
        left = MARGIN + block * (index // rows)
        top = MARGIN + step * (index % rows)
        sheet.text(left, top + height / 2, f'item {number}', va='center')
        for place, frame in enumerate(frames):
            x = left + LABEL + place * (width + GAP)
            axes = sheet.picture(x, top, width, height, frame.picture)
            _mark(axes, frame.place, grid, frame.picture.shape)
            sheet.text(
                x + width / 2, top + height + 0.02, f'{frame.prob:.2f}', va='top', ha='center'
            )
    return sheet.figure


def _mark(axes, place, grid, shape):
    """A white box with a black border: seen on every background."""
    height, width = shape[0] / grid[0], shape[1] / grid[1]
    corner = place[1] * width - 0.5, place[0] * height - 0.5
    for colour, line in ((BLACK, 2.0), ('white', 1.0)):
        axes.add_patch(
            Rectangle(corner, width, height, fill=False, edgecolor=colour, linewidth=line)
        )
