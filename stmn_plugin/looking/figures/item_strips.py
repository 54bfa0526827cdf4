"""Fig. 9: the clips that address each temporal item most, above the attention that it stores."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from scipy.special import softmax

from ..clip_statistics import highest
from ..explained_run import ExplainedRun
from ..figure_parts import CaptionedFigure, Options, models_and_data, shown_items, strip_of
from .sheet import BLUE, LINE, MARGIN, PAGE, Sheet, attention_bars

MAX_COLUMNS = 3  # of items
FRAME = 0.28  # minimum width of a frame in inches
BAR_HEIGHT = 0.38
GAP = 0.04
LABEL = 0.36
TOP_CLIPS = 3


class Item(NamedTuple):
    """A temporal item and the clips that address it most."""

    number: int  # from 1
    attention: NDArray[np.floating]  # (L,) softmax of the stored values
    # of L pictures (h, w, 3) and the matching probability
    strips: list[tuple[list[NDArray[np.uint8]], float]]


def draw(items: Sequence[Item], caption: str) -> Figure:
    """Draw items in columns, their clips above the bars of their attention."""
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


def figure_9(run: ExplainedRun, against: ExplainedRun | None, options: Options) -> CaptionedFigure:
    """Show the clips that address each temporal item most, and the item's stored attention."""
    statistics = run.statistics
    probs = statistics.temporal_probs
    assert probs is not None
    stored = softmax(statistics.temporal_values, axis=1)  # (N, L)
    items = []
    for item in shown_items(len(stored), options):
        strips = []
        for clip in highest(probs[:, item], TOP_CLIPS, statistics.clip_tracklets):
            frames = statistics.clip_frames[clip]
            pictures = strip_of(run, statistics.clip_tracklets[clip], frames)
            strips.append((pictures, float(probs[clip, item])))
        items.append(Item(item + 1, stored[item], strips))
    caption = (
        f'Figure 9. For each temporal item the {len(items[0].strips)} clips that address it most, '
        'of different tracklets, with the matching probability, above the attention that the item '
        f'stores, softmax(v_n); dashed: average pooling, 1/{stored.shape[1]}. '
        f'{models_and_data(run)}'
    )
    return CaptionedFigure(draw(items, caption), caption)
