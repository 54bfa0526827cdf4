"""Fig. 7: where the refinement lengthens and shortens features, laid over the frames."""

from typing import NamedTuple

import matplotlib
import numpy as np
import torch
import torch.nn.functional as F
from scipy.ndimage import gaussian_filter

from .sheet import BLACK, DIVERGING, LINE, MARGIN, PAGE, Sheet

COLUMNS = 2  # of clips beside each other
OPAQUE = 0.85  # of the colour where the difference is largest
GAP = 0.04
SMOOTHING = 0.7  # cells of the mask


class RefinedClip(NamedTuple):
    title: str
    pictures: list  # L of (h, w, 3) uint8
    norm_changes: np.ndarray  # (L, H, W) |f^s| - |f^o|
    masks: np.ndarray | None  # (L, H, W) share of distractors, where known


def draw(clips, limit, caption):
    """
    Args:
        clips (list of RefinedClip)
        limit (float): end of the colour scale, on both sides.
        caption (str)

    Returns:
        matplotlib.figure.Figure
    """
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


def overlay(pixels, norm_changes, limit):
    """A grey picture under the colours of a map.

    Args:
        pixels (numpy.ndarray): (h, w, 3) uint8.
        norm_changes (numpy.ndarray): (H, W), interpolated bilinearly.
        limit (float): what the last colour stands for, on both sides; 0 is transparent.

    Returns:
        numpy.ndarray: (h, w, 3) uint8.
    """
    size = pixels.shape[:2]
    values = torch.from_numpy(np.ascontiguousarray(norm_changes, dtype=np.float32))[None, None]
    values = F.interpolate(values, size, mode='bilinear', align_corners=False)[0, 0].numpy()
    shares = np.clip(values / limit, -1, 1)  # (h, w)
    colours = matplotlib.colormaps[DIVERGING](0.5 + shares / 2)[..., :3]
    grey = (pixels @ np.array([0.299, 0.587, 0.114]) / 255)[..., None]
    opaque = OPAQUE * np.abs(shares)[..., None]
    mixed = (1 - opaque) * grey + opaque * colours
    return (255 * mixed).round().astype(np.uint8)


def _outline(axes, mask, shape):
    """The border of the distractor mask, smoothed: its single cells are no shapes."""
    mask = gaussian_filter(mask, SMOOTHING)
    if not mask.min() < 0.5 < mask.max():
        return
    rows = (np.arange(mask.shape[0]) + 0.5) * shape[0] / mask.shape[0] - 0.5
    columns = (np.arange(mask.shape[1]) + 0.5) * shape[1] / mask.shape[1] - 0.5
    axes.contour(columns, rows, mask, levels=[0.5], colors=[BLACK], linewidths=0.6)
