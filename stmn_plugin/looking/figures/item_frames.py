"""Fig. 6: the frames that address each spatial item most, the place marked by a box."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

from ..clip_statistics import highest
from ..explained_run import ExplainedRun
from ..figure_parts import CaptionedFigure, Options, models_and_data, shown_items, thumbnail_of
from .sheet import BLACK, LINE, MARGIN, PAGE, Sheet

BLOCKS = 2  # columns of items
LABEL = 0.4
GAP = 0.05
TOP_FRAMES = 5


class TopFrame(NamedTuple):
    """A frame that addresses an item, and where."""

    picture: NDArray[np.uint8]  # (h, w, 3)
    place: tuple[int, int]  # row, column of the position
    prob: float


def draw(
    items: Sequence[tuple[int, Sequence[TopFrame]]], grid: tuple[int, int], caption: str
) -> Figure:
    """Draw the frames of items, with a box at the position.

    Args:
        items: number of the item, from 1, and its frames, the highest first.
        grid: (H, W) positions of a frame.
        caption: below the panels.
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


def _mark(
    axes: Axes, place: tuple[int, int], grid: tuple[int, int], shape: tuple[int, ...]
) -> None:
    """Draw a white box with a black border, visible on every background."""
    height, width = shape[0] / grid[0], shape[1] / grid[1]
    corner = place[1] * width - 0.5, place[0] * height - 0.5
    for colour, line in ((BLACK, 2.0), ('white', 1.0)):
        axes.add_patch(
            Rectangle(corner, width, height, fill=False, edgecolor=colour, linewidth=line)
        )


def figure_6(run: ExplainedRun, against: ExplainedRun | None, options: Options) -> CaptionedFigure:
    """Show the frames that address each spatial item most, from different tracklets."""
    spatial = run.statistics.spatial
    assert spatial is not None
    _, height, width, _ = next(iter(run.statistics.kept.values()))['spatial_probs'].shape
    items = []
    for item in shown_items(spatial.best_probs.shape[1], options):
        frames = []
        best = spatial.best_probs[:, item]  # (T,)
        for row in highest(best, TOP_FRAMES, np.arange(len(best))):
            frame, *place = spatial.best_places[row, item].tolist()
            pixels = thumbnail_of(run, row, frame)
            frames.append(TopFrame(pixels, (place[0], place[1]), float(best[row])))
        items.append((item + 1, frames))
    caption = (
        f'Figure 6. For each spatial item the {len(items[0][1])} frames that address it most, from '
        'different tracklets, with the matching probability; the box marks the position of the '
        f'{height} x {width} feature map, which sees more of the frame than the box. '
        f'{models_and_data(run)}'
    )
    return CaptionedFigure(draw(items, (height, width), caption), caption)
