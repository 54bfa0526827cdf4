"""Draw parts of a person: round-ended limbs, cloth with a pattern, light and folds."""

import math
from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
from PIL import Image, ImageDraw

from .look import Colour

Point: TypeAlias = tuple[float, float]


class Canvas:
    """A transparent RGBA image; positions are pixels, widths are in body heights (``unit``)."""

    def __init__(self, size: tuple[int, int], unit: float):
        self.image = Image.new('RGBA', size)
        self.pen = ImageDraw.Draw(self.image)
        self.unit = unit

    def limb(
        self,
        start: Point,
        end: Point,
        wide_start: float,
        wide_end: float,
        colour: Colour,
        cloth: Image.Image | None = None,
    ) -> None:
        """Draw a tapered stroke with round ends; widths are half widths in body heights."""
        dx, dy = end[0] - start[0], end[1] - start[1]
        length = math.hypot(dx, dy) or 1.0
        nx, ny = -dy / length * self.unit, dx / length * self.unit
        points = [
            (start[0] + nx * wide_start, start[1] + ny * wide_start),
            (start[0] - nx * wide_start, start[1] - ny * wide_start),
            (end[0] - nx * wide_end, end[1] - ny * wide_end),
            (end[0] + nx * wide_end, end[1] + ny * wide_end),
        ]
        self.ellipse(start, wide_start, wide_start, colour)
        self.ellipse(end, wide_end, wide_end, colour)
        self.polygon(points, colour, cloth)

    def ellipse(self, centre: Point, rx: float, ry: float, colour: Colour) -> None:
        """Draw a filled ellipse; ``rx`` and ``ry`` are in body heights."""
        x, y, rx, ry = *centre, rx * self.unit, ry * self.unit
        self.pen.ellipse((x - rx, y - ry, x + rx, y + ry), fill=(*colour, 255))

    def polygon(
        self, points: Sequence[Point], colour: Colour, cloth: Image.Image | None = None
    ) -> None:
        """Draw a filled polygon, cut from ``cloth`` if it is given."""
        if cloth is None:
            self.pen.polygon(points, fill=(*colour, 255))
            return
        xs, ys = zip(*points, strict=True)
        left, top = int(min(xs)) - 1, int(min(ys)) - 1
        size = (int(max(xs)) - left + 2, int(max(ys)) - top + 2)
        mask = Image.new('L', size)
        ImageDraw.Draw(mask).polygon([(x - left, y - top) for x, y in points], fill=255)
        middle = ((cloth.width - size[0]) // 2, 0)  # the pattern moves with the body
        box = (middle[0], 0, middle[0] + size[0], size[1])
        self.image.paste(cloth.crop(box), (left, top), mask)


def dim(colour: Colour, factor: float) -> Colour:
    """Scale the brightness of a colour."""
    red, green, blue = (min(255, int(c * factor)) for c in colour)
    return red, green, blue


def weave(pattern: str, colour: Colour, accent: Colour, unit: float) -> Image.Image | None:
    """Draw a patterned RGBA cloth large enough for every part; None for plain cloth."""
    if pattern in ('plain', 'logo'):
        return None
    size = round(0.6 * unit)
    x = np.arange(size)[None, :] / unit  # (1, W) body heights
    y = np.arange(size)[:, None] / unit  # (H, 1)
    if pattern == 'stripes':
        second = (y % 0.068 < 0.032) & (x >= 0)
    elif pattern == 'pinstripes':
        second = (x % 0.042 < 0.013) & (y >= 0)
    elif pattern == 'checks':
        second = (y % 0.076 < 0.030) ^ (x % 0.076 < 0.030)
    else:  # dots
        second = ((x % 0.056 - 0.028) ** 2 + (y % 0.056 - 0.028) ** 2) < 0.016**2
    pixels = np.where(second[..., None], np.array(accent), np.array(colour)).astype(np.uint8)
    cloth = Image.fromarray(pixels)
    cloth.putalpha(255)
    return cloth


def shading(size: tuple[int, int], light: float) -> Image.Image:
    """Draw light from one side and soft folds, an RGB image to multiply onto the person."""
    width, height = size
    x = np.linspace(-1, 1, width)[None, :] / 0.35  # the body takes the middle third
    y = np.linspace(0, 1, height)[:, None]
    folds = 0.025 * np.sin(23 * y + 3 * np.sin(9 * y)) * np.cos(5 * x + 7 * y)
    factor = 0.90 + 0.13 * np.clip(x * light, -1, 1) - 0.10 * y + folds  # (H, W)
    grey = np.clip(255 * factor, 0, 255).astype(np.uint8)
    return Image.fromarray(np.repeat(grey[..., None], 3, axis=2))
