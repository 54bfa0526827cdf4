"""Fig. 5: matching probabilities of both memories, one run or two side by side."""

from typing import NamedTuple

import numpy as np

from .sheet import COLUMN, LINE, MARGIN, PAGE, SEQUENTIAL, TEXT, Sheet

CELL_HEIGHT = 0.135


class ProbabilityMaps(NamedTuple):
    """Of one run: rows are queries, columns items."""

    title: str
    spatial: np.ndarray | None  # (P, M)
    temporal: np.ndarray | None  # (P, N)


def draw(runs, caption):
    """
    Args:
        runs (list of ProbabilityMaps): one or two, each with at least one map.
        caption (str)

    Returns:
        matplotlib.figure.Figure
    """
    panels = [
        (run.title, kind, getattr(run, kind))
        for run in runs
        for kind in ('spatial', 'temporal')
        if getattr(run, kind) is not None
    ]
    width = COLUMN if len(runs) == 1 else PAGE
    rows = max(len(probs) for _, _, probs in panels)
    top, height, left = 2 * LINE + 0.1, CELL_HEIGHT * rows, 0.42
    bar, gap, between_runs = 0.42, 0.14, 0.3
    spaces = gap * (len(panels) - len(runs)) + between_runs * (len(runs) - 1)
    cell = (width - left - bar - 0.14 - spaces) / sum(probs.shape[1] for _, _, probs in panels)
    sheet = Sheet(width, top + height + 2.6 * LINE, caption)
    last_title = None
    for title, kind, probs in panels:
        if title != last_title:
            if last_title is not None:
                left += between_runs - gap
            sheet.text(left, MARGIN, title, va='top', weight='bold')
            last_title = title
        count, items = probs.shape
        axes = sheet.axes(left, top, cell * items, height * count / rows)
        axes.pcolormesh(probs, cmap=SEQUENTIAL, vmin=0, vmax=1, linewidth=0)
        axes.invert_yaxis()
        axes.set_title(kind, pad=3, fontsize=TEXT)
        axes.set_xlabel('item', labelpad=1)
        axes.set_xticks(np.arange(items) + 0.5, range(1, items + 1))
        axes.tick_params(length=0, pad=2)
        axes.set_yticks([])
        if axes is sheet.figure.axes[0]:
            axes.set_yticks(np.arange(count) + 0.5, range(1, count + 1))
            axes.set_ylabel('query', labelpad=2)
        left += cell * items + gap
    sheet.colour_bar(width - bar, top, 0.09, height, (0, 1), 'prob.', SEQUENTIAL, (0, 0.5, 1))
    return sheet.figure
