"""Objects of scenes: each function draws one object with a pen of an RGBA layer.

All take ``(pen, x, ground, unit, rng)``: ``x`` the middle and ``ground`` the foot of the object in
pixels, ``unit`` the height of a person at its place in pixels, ``rng`` for colours and details.
"""

from collections.abc import Callable, Sequence
from typing import TypeAlias

import numpy as np
from numpy.random import Generator
from PIL.ImageDraw import ImageDraw

from .look import Colour

RGBA: TypeAlias = tuple[int, int, int, int]


def street_light(pen: ImageDraw, x: float, ground: float, unit: float, rng: Generator) -> None:
    """Draw a pole higher than the crop, with a base and a notice."""
    colour = _pick(rng, ((70, 76, 80), (120, 124, 120), (58, 82, 70)))
    wide = 0.028 * unit
    pen.rectangle((x - wide, ground - 1.5 * unit, x + wide, ground), fill=colour)
    pen.rectangle((x + wide * 0.3, ground - 1.5 * unit, x + wide, ground), fill=_dim(colour, 0.7))
    pen.rectangle(
        (x - 2 * wide, ground - 0.12 * unit, x + 2 * wide, ground), fill=_dim(colour, 0.8)
    )
    box = (x - 2.6 * wide, ground - 0.72 * unit, x + 2.6 * wide, ground - 0.55 * unit)
    pen.rectangle(box, fill=_pick(rng, ((230, 228, 215), (220, 190, 60), (180, 60, 50))))


def sign(pen: ImageDraw, x: float, ground: float, unit: float, rng: Generator) -> None:
    """Draw a traffic sign on a thin post."""
    post = 0.016 * unit
    pen.rectangle((x - post, ground - 0.95 * unit, x + post, ground), fill=(150, 152, 155, 255))
    colour = _pick(rng, ((200, 40, 45), (40, 80, 170), (235, 200, 60)))
    r = 0.13 * unit
    y = ground - 0.95 * unit
    pen.ellipse((x - r, y - r, x + r, y + r), fill=colour, outline=(245, 245, 245, 255), width=2)
    pen.rectangle((x - 0.6 * r, y - 0.16 * r, x + 0.6 * r, y + 0.16 * r), fill=(245, 245, 245, 255))


def tree(pen: ImageDraw, x: float, ground: float, unit: float, rng: Generator) -> None:
    """Draw a trunk with a crown above head height."""
    bark = _pick(rng, ((92, 70, 50), (110, 92, 74), (74, 62, 52)))
    wide = 0.075 * unit
    top = ground - 1.25 * unit
    trunk = [(x - wide, ground), (x - 0.7 * wide, top), (x + 0.7 * wide, top), (x + wide, ground)]
    pen.polygon(trunk, fill=bark)
    pen.polygon([(x + 0.2 * wide, top), (x + 0.7 * wide, top), (x + wide, ground)], _dim(bark, 0.7))
    _leaves(pen, rng, x, top, 0.42 * unit, 0.34 * unit, 46, 0.10 * unit)


def bush(pen: ImageDraw, x: float, ground: float, unit: float, rng: Generator) -> None:
    """Draw a bush, hip to breast high."""
    _leaves(pen, rng, x, ground - 0.27 * unit, 0.32 * unit, 0.26 * unit, 60, 0.075 * unit)


def bicycle(pen: ImageDraw, x: float, ground: float, unit: float, rng: Generator) -> None:
    """Draw a parked bicycle seen from the side."""
    colour = _pick(
        rng, ((190, 40, 40), (40, 90, 160), (45, 45, 50), (60, 130, 80), (225, 225, 220))
    )
    r, stroke = 0.185 * unit, max(2, round(0.022 * unit))
    left, right = x - 0.29 * unit, x + 0.29 * unit
    axle = ground - r
    for wheel in (left, right):
        box = (wheel - r, axle - r, wheel + r, axle + r)
        pen.ellipse(box, outline=(32, 32, 34, 255), width=stroke)
        for angle in np.arange(0, np.pi, np.pi / 4):
            dx, dy = 0.9 * r * np.cos(angle), 0.9 * r * np.sin(angle)
            pen.line((wheel - dx, axle - dy, wheel + dx, axle + dy), fill=(150, 150, 150, 255))
    saddle, head = (x - 0.09 * unit, ground - 0.50 * unit), (x + 0.21 * unit, ground - 0.52 * unit)
    crank = (x - 0.02 * unit, axle)
    strokes = (saddle, crank, head, saddle), (crank, (left, axle), saddle), (head, (right, axle))
    for points in strokes:
        pen.line(points, fill=colour, width=stroke)
    grey = (40, 40, 42, 255)
    bar = (x + 0.23 * unit, ground - 0.60 * unit)
    pen.line((head, bar, (bar[0] + 0.09 * unit, bar[1])), fill=grey, width=stroke)
    seat = (saddle[0] - 0.08 * unit, saddle[1] - 0.04 * unit, saddle[0] + 0.07 * unit, saddle[1])
    pen.rounded_rectangle(seat, 0.02 * unit, fill=grey)


def car(pen: ImageDraw, x: float, ground: float, unit: float, rng: Generator) -> None:
    """Draw a car seen from the side; its roof reaches to a person's breast."""
    paint = (
        (170, 32, 36),
        (210, 212, 214),
        (40, 60, 110),
        (44, 46, 50),
        (190, 165, 60),
        (90, 120, 100),
    )
    colour, dark = _pick(rng, paint), (28, 30, 34, 255)
    half = 0.88 * unit
    bonnet, belt, roof = ground - 0.44 * unit, ground - 0.47 * unit, ground - 0.76 * unit
    body = (x - half, bonnet, x + half, ground - 0.11 * unit)
    pen.rounded_rectangle(body, 0.10 * unit, fill=colour)
    cabin = [(x - 0.66 * half, belt), (x - 0.42 * half, roof), (x + 0.36 * half, roof)]
    pen.polygon([*cabin, (x + 0.70 * half, belt + 0.02 * unit)], fill=colour)
    glass = [(x - 0.54 * half, belt), (x - 0.37 * half, roof + 0.05 * unit)]
    glass += [(x + 0.31 * half, roof + 0.05 * unit), (x + 0.55 * half, belt)]
    pen.polygon(glass, fill=(66, 84, 96, 255))
    pen.rectangle((x - 0.05 * half, roof, x + 0.01 * half, belt), fill=colour)
    sill = (x - half, ground - 0.20 * unit, x + half, ground - 0.12 * unit)
    pen.rectangle(sill, fill=_dim(colour, 0.7))
    for wheel in (x - 0.60 * half, x + 0.60 * half):
        for r, fill in ((0.155 * unit, dark), (0.085 * unit, (165, 168, 172, 255))):
            y = ground - 0.155 * unit
            pen.ellipse((wheel - r, y - r, wheel + r, y + r), fill=fill)
    lamp = (x + half - 0.08 * unit, bonnet + 0.04 * unit, x + half, bonnet + 0.11 * unit)
    pen.rectangle(lamp, fill=(245, 235, 190, 255))


def bench(pen: ImageDraw, x: float, ground: float, unit: float, rng: Generator) -> None:
    """Draw a park bench from the front."""
    wood, half = _pick(rng, ((150, 105, 62), (110, 80, 55), (80, 100, 82))), 0.42 * unit
    for y in (0.46, 0.37, 0.26):
        top = ground - y * unit
        pen.rectangle((x - half, top, x + half, top + 0.055 * unit), fill=wood)
    for leg in (x - 0.8 * half, x + 0.8 * half):
        foot = (leg - 0.02 * unit, ground - 0.26 * unit, leg + 0.02 * unit, ground)
        pen.rectangle(foot, fill=(60, 60, 62, 255))


def bin_(pen: ImageDraw, x: float, ground: float, unit: float, rng: Generator) -> None:
    """Draw a litter bin."""
    colour, wide = _pick(rng, ((50, 95, 60), (70, 74, 80), (190, 110, 40))), 0.12 * unit
    pen.rectangle((x - wide, ground - 0.42 * unit, x + wide, ground), fill=colour)
    lid = (x - 1.15 * wide, ground - 0.46 * unit, x + 1.15 * wide, ground - 0.39 * unit)
    pen.rectangle(lid, fill=_dim(colour, 0.6))
    slot = (x - 0.6 * wide, ground - 0.34 * unit, x + 0.6 * wide, ground - 0.29 * unit)
    pen.rectangle(slot, fill=_dim(colour, 0.4))


def bollard(pen: ImageDraw, x: float, ground: float, unit: float, rng: Generator) -> None:
    """Draw a knee-high post with reflecting rings."""
    wide, top = 0.045 * unit, ground - 0.42 * unit
    pen.rounded_rectangle((x - wide, top, x + wide, ground), wide, fill=(64, 66, 70, 255))
    ring = _pick(rng, ((235, 235, 230), (220, 60, 50)))
    for y in (0.08, 0.17):
        pen.rectangle((x - wide, top + y * unit, x + wide, top + (y + 0.04) * unit), fill=ring)


def pillar(pen: ImageDraw, x: float, ground: float, unit: float, rng: Generator) -> None:
    """Draw a round column of a building, higher than the crop."""
    colour = _pick(rng, ((205, 198, 185), (170, 172, 176), (150, 120, 100)))
    wide = 0.13 * unit
    pen.rectangle((x - wide, ground - 1.6 * unit, x + wide, ground), fill=colour)
    pen.rectangle((x + 0.35 * wide, ground - 1.6 * unit, x + wide, ground), fill=_dim(colour, 0.78))
    base = (x - 1.2 * wide, ground - 0.10 * unit, x + 1.2 * wide, ground)
    pen.rectangle(base, fill=_dim(colour, 0.85))


def goal(pen: ImageDraw, x: float, ground: float, unit: float, rng: Generator) -> None:
    """Draw the post and net of a goal on a playfield."""
    half, top = 0.5 * unit, ground - 0.78 * unit
    for step in np.linspace(-half, half, 12):
        pen.line((x + step, top, x + step, ground), fill=(215, 220, 215, 255))
    for y in np.linspace(top, ground, 9):
        pen.line((x - half, y, x + half, y), fill=(215, 220, 215, 255))
    white, wide = (250, 250, 250, 255), max(2, round(0.035 * unit))
    pen.line(
        ((x - half, ground), (x - half, top), (x + half, top), (x + half, ground)), white, wide
    )


PROPS: dict[str, Callable[[ImageDraw, float, float, float, Generator], None]] = {
    'street_light': street_light,
    'sign': sign,
    'tree': tree,
    'bush': bush,
    'bicycle': bicycle,
    'car': car,
    'bench': bench,
    'bin': bin_,
    'bollard': bollard,
    'pillar': pillar,
    'goal': goal,
}


def _leaves(
    pen: ImageDraw,
    rng: Generator,
    x: float,
    y: float,
    rx: float,
    ry: float,
    count: int,
    size: float,
) -> None:
    """Draw overlapping blobs in a few greens, the lit ones last."""
    base = np.array(_pick(rng, ((52, 92, 44), (78, 108, 50), (40, 78, 56)))[:3])
    radius, angle = np.sqrt(rng.random(count)), rng.uniform(0, 2 * np.pi, count)
    xs, ys = x + rx * radius * np.cos(angle), y + ry * radius * np.sin(angle)
    sizes = size * rng.uniform(0.6, 1.3, count)
    light = np.sort(rng.uniform(0.6, 1.25, count))
    for cx, cy, r, factor in zip(xs, ys, sizes, light, strict=True):
        fill = (*(int(c) for c in np.clip(base * factor, 0, 255)), 255)
        pen.ellipse((cx - r, cy - r, cx + r, cy + r), fill=fill)


def _pick(rng: Generator, colours: Sequence[Colour]) -> RGBA:
    return (*colours[int(rng.integers(len(colours)))], 255)


def _dim(colour: RGBA, factor: float) -> RGBA:
    red, green, blue = (int(c * factor) for c in colour[:3])
    return red, green, blue, 255
