"""Fig. 10: temporal attention of clips, and of the same frames in another order."""

from typing import NamedTuple

import numpy as np

from .item_strips import attention_bars
from .sheet import BLUE, LINE, MARGIN, PAGE, VERMILLION, Sheet

BAR_HEIGHT = 0.42
GAP = 0.04
LABEL = 0.36
COLOURS = (BLUE, VERMILLION)


class Strip(NamedTuple):
    pictures: list  # L of (h, w, 3) uint8
    attentions: list  # of (L,), by run
    visibility: np.ndarray | None  # (L,) share of the person that is seen, where known


class AttentionRow(NamedTuple):
    title: str
    strips: list  # of (title, Strip): in order, reordered


def draw(rows, runs, caption):
    """
    Args:
        rows (list of AttentionRow)
        runs (list): a name for each attention of a strip, one or two.
        caption (str)

    Returns:
        matplotlib.figure.Figure
    """
    strips = [strip for row in rows for _, strip in row.strips]
    length = len(strips[0].pictures)
    block = (PAGE - 2 * MARGIN) / len(rows[0].strips)
    width = min((block - LABEL - 0.12) / length - GAP, 0.42)
    block = LABEL + length * (width + GAP) + 0.12
    height = 2 * width
    known = strips[0].visibility is not None
    step = LINE + height + BAR_HEIGHT + (LINE if known else 0) + 0.16
    legend = LINE + 0.04
    sheet = Sheet(
        2 * MARGIN + len(rows[0].strips) * block, legend + len(rows) * step + MARGIN, caption
    )
    x = MARGIN + LABEL
    for name, colour in zip(runs, COLOURS, strict=False):
        sheet.text(x, MARGIN, f'■ {name}', va='top', color=colour)
        x += block
    highest = max(attention.max() for strip in strips for attention in strip.attentions) * 1.1
    for index, row in enumerate(rows):
        for column, (title, strip) in enumerate(row.strips):
            left = MARGIN + column * block + LABEL
            top = MARGIN + legend + index * step
            sheet.text(left, top, f'{row.title}, {title}', va='top')
            top += LINE + 0.02
            for place, pixels in enumerate(strip.pictures):
                x = left + place * (width + GAP)
                sheet.picture(x, top, width, height, pixels)
                if known:
                    sheet.text(
                        x + width / 2,
                        top + height + 0.02,
                        f'{strip.visibility[place]:.0%}',
                        va='top',
                        ha='center',
                    )
            if known:
                sheet.text(left - 0.05, top + height + 0.02, 'seen', va='top', ha='right')
                top += LINE
            axes = sheet.axes(left, top + height + 0.04, length * (width + GAP) - GAP, BAR_HEIGHT)
            attention_bars(
                axes, strip.attentions, COLOURS[: len(runs)], width + GAP, width, highest
            )
            axes.set_yticks([0, round(1 / length, 2)])
    return sheet.figure
