"""Fig. 9: the clips that address each temporal item most, above the attention that it stores."""

from typing import NamedTuple

import numpy as np

from .sheet import BLUE, GREY, LINE, MARGIN, PAGE, Sheet

MAX_COLUMNS = 3  # of items beside each other
FRAME = 0.28  # inches that a frame wants at least
BAR_HEIGHT = 0.38
GAP = 0.04
LABEL = 0.36


class Item(NamedTuple):
    number: int  # from 1
    attention: np.ndarray  # (L,) softmax of the stored values
    strips: list  # of (L pictures (h, w, 3) uint8, matching probability)


def draw(items, caption):
    """
    Args:
        items (list of Item)
        caption (str)

    Returns:
        matplotlib.figure.Figure
    """
    length = len(items[0].attention)
    columns = min(max(int(PAGE / (LABEL + length * FRAME)), 1), MAX_COLUMNS)
    block = (PAGE - 2 * MARGIN) / columns
    width = min((block - LABEL - 0.1) / length - GAP, 0.42)
    height = 2 * width
    strips = max(len(item.strips) for item in items)
    step = LINE + strips * (height + GAP) + BAR_HEIGHT + 0.16
    rows = -(-len(items) // columns)
    sheet = Sheet(PAGE, rows * step + MARGIN, caption)
    highest = max(item.attention.max() for item in items) * 1.1
    for index, item in enumerate(items):
        left = MARGIN + block * (index % columns) + LABEL
        top = MARGIN + step * (index // columns)
        sheet.text(left, top, f'item {item.number}', va='top', weight='bold')
        top += LINE + 0.02
        for pictures, prob in item.strips:
            sheet.text(left - 0.06, top + height / 2, f'{prob:.2f}', va='center', ha='right')
            for place, pixels in enumerate(pictures):
                sheet.picture(left + place * (width + GAP), top, width, height, pixels)
            top += height + GAP
        axes = sheet.axes(left, top, length * (width + GAP) - GAP, BAR_HEIGHT)
        attention_bars(axes, [item.attention], [BLUE], (width + GAP), width, highest)
        axes.set_yticks([0, round(1 / length, 2)])
    return sheet.figure


def attention_bars(axes, attentions, colours, step, width, highest):
    """Bars under frames that are ``step`` apart and ``width`` wide; a line at average pooling.

    Args:
        axes: as wide as the strip.
        attentions (list): of (L,), drawn beside each other.
        colours (list): one each.
        step, width (float): inches.
        highest (float): end of the axis.
    """
    length = len(attentions[0])
    share = 0.8 / len(attentions)
    for nth, (attention, colour) in enumerate(zip(attentions, colours, strict=True)):
        shift = (nth - (len(attentions) - 1) / 2) * share * width
        places = np.arange(length) * step + width / 2 + shift
        axes.bar(places, attention, width=share * width, color=colour)
    axes.axhline(1 / length, color=GREY, linewidth=0.6, linestyle='--')
    axes.set(xlim=(0, (length - 1) * step + width), ylim=(0, highest), xticks=[])
    axes.spines[['top', 'right']].set_visible(False)
    axes.tick_params(pad=1)
