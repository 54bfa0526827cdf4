"""Fig. 7: maps over the frames of where the refinement lengthens and shortens features."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import matplotlib
import numpy as np
import torch
import torch.nn.functional as F
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from ..clip_truth import clip_truth, find_truth
from ..explained_run import ExplainedRun
from ..figure_parts import CaptionedFigure, Options, models_and_data, strip_of, tracklet_title
from .sheet import BLACK, DIVERGING, LINE, MARGIN, PAGE, Sheet

COLUMNS = 2  # of clips
OPAQUE = 0.85  # of the colour where the difference is largest
GAP = 0.04
SMOOTHING = 0.7  # cells of the mask
MASK_GRID = (32, 16)  # of the outlines of masks
SHOWN_DIFFERENCES = 99  # percent of the positions; the others have the last colour


class RefinedClip(NamedTuple):
    """A clip and the changes of its features."""

    title: str
    pictures: list[NDArray[np.uint8]]  # L of (h, w, 3)
    norm_changes: NDArray[np.floating]  # (L, H, W) |f^s| - |f^o|
    masks: NDArray[np.floating] | None  # (L, H, W) share of distractors, where known


def draw(clips: Sequence[RefinedClip], limit: float, caption: str) -> Figure:
    """Draw frames of clips above the same frames with their changes; colours end at ``limit``."""
    length = max(len(clip.pictures) for clip in clips)
    bar = 0.72
    block = (PAGE - MARGIN - bar) / COLUMNS
    width = (block - 0.1) / length - GAP
    height = min(2 * width, 1.3)
    width = height / 2
    step = LINE + 2 * height + 3 * GAP + 0.06
    rows = -(-len(clips) // COLUMNS)
    sheet = Sheet(PAGE, rows * step + MARGIN, caption)
    for index, clip in enumerate(clips):
        left = MARGIN + block * (index % COLUMNS)
        top = MARGIN + step * (index // COLUMNS)
        sheet.text(left, top, clip.title, va='top')
        top += LINE + GAP
        for place, pixels in enumerate(clip.pictures):
            x = left + place * (width + GAP)
            sheet.picture(x, top, width, height, pixels)
            laid_over = overlay(pixels, clip.norm_changes[place], limit)
            axes = sheet.picture(x, top + height + GAP, width, height, laid_over)
            if clip.masks is not None:
                _outline(axes, clip.masks[place], pixels.shape)
    sheet.colour_bar(
        PAGE - bar + 0.14,
        MARGIN + LINE + GAP + 0.1,
        0.09,
        2 * height - 0.1,
        (-limit, limit),
        '|fˢ| − |fᵒ|',
        DIVERGING,
    )
    return sheet.figure


def overlay(
    pixels: NDArray[np.uint8], norm_changes: NDArray[np.floating], limit: float
) -> NDArray[np.uint8]:
    """Lay the colours of a map over a grey picture.

    Args:
        pixels: (h, w, 3).
        norm_changes: (H, W), interpolated bilinearly.
        limit: value of the last colour, on both sides; 0 is transparent.

    Returns:
        (h, w, 3).
    """
    size = pixels.shape[:2]
    maps = torch.from_numpy(np.ascontiguousarray(norm_changes, dtype=np.float32))[None, None]
    values = F.interpolate(maps, size, mode='bilinear', align_corners=False)[0, 0].numpy()
    shares = np.clip(values / limit, -1, 1)  # (h, w)
    colours = matplotlib.colormaps[DIVERGING](0.5 + shares / 2)[..., :3]
    grey = (pixels @ np.array([0.299, 0.587, 0.114]) / 255)[..., None]
    opaque = OPAQUE * np.abs(shares)[..., None]
    mixed = (1 - opaque) * grey + opaque * colours
    blended: NDArray[np.uint8] = (255 * mixed).round().astype(np.uint8)
    return blended


def _outline(axes: Axes, mask: NDArray[np.floating], shape: tuple[int, ...]) -> None:
    """Draw the border of the distractor mask, smoothed to hide its cells."""
    mask = gaussian_filter(mask, SMOOTHING)
    if not mask.min() < 0.5 < mask.max():
        return
    rows = (np.arange(mask.shape[0]) + 0.5) * shape[0] / mask.shape[0] - 0.5
    columns = (np.arange(mask.shape[1]) + 0.5) * shape[1] / mask.shape[1] - 0.5
    axes.contour(columns, rows, mask, levels=[0.5], colors=[BLACK], linewidths=0.6)


def figure_7(run: ExplainedRun, against: ExplainedRun | None, options: Options) -> CaptionedFigure:
    """Show where the refinement changes the length of features."""
    shown, tracklets = run.selection.shown, run.tracklets.all
    views = [run.statistics.kept[row] for row in shown]
    truth = find_truth(tracklets)
    masks: Any = [None] * len(views)
    if truth is not None:
        frames = [view.frames for view in views]
        masks = clip_truth(truth, tracklets, shown, frames, MASK_GRID).distractor_share
    clips = [
        RefinedClip(
            tracklet_title(run, row),
            strip_of(run, row, view.frames),
            view['refined_norms'] - view['frame_norms'],
            mask,
        )
        for row, view, mask in zip(shown, views, masks, strict=True)
    ]
    sizes = np.concatenate([np.abs(clip.norm_changes).ravel() for clip in clips])
    limit = float(np.percentile(sizes, SHOWN_DIFFERENCES)) or 1.0
    mean_norm = np.mean([view['frame_norms'] for view in views])
    outlined = '' if truth is None else ' Black: border of the true distractor mask, smoothed.'
    caption = (
        'Figure 7. Difference of magnitude |fˢ| − |fᵒ| after and before the refinement, bilinear, '
        'over the grey frame: purple where features get shorter (suppressed), orange where they '
        f'get longer. The colours end at {100 * limit / mean_norm:.2g} % of the mean |fᵒ|.'
        f'{outlined} {len(clips)} tracklets {run.selection.how}. {models_and_data(run)}'
    )
    return CaptionedFigure(draw(clips, limit, caption), caption)
