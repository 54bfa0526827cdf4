"""Compute temporal patterns: position of crop and occluder relative to the person, per frame.

The patterns are the temporal distractors of the paper's Fig. 1(b).
"""

from typing import NamedTuple

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

# Shares among the disturbed tracklets.
PATTERN_SHARES = {
    'occluded_start': 0.28,
    'occluded_middle': 0.12,
    'occluded_end': 0.14,
    'leaves_at_end': 0.20,
    'enters_at_start': 0.08,
    'misaligned': 0.18,
}
BACKGROUND = 'background'  # a false detection without a person
PATTERNS = ('clean', *PATTERN_SHARES, BACKGROUND)


class Motion(NamedTuple):
    """One value per frame, each of shape (F,)."""

    walk: NDArray[np.float64]  # the person's path through the scene, in crop widths
    shift_x: NDArray[np.float64]  # the crop's centre relative to an aligned crop, in crop widths
    shift_y: NDArray[np.float64]  # the same, in crop heights
    zoom: NDArray[np.float64]  # above 1 the crop is too tight, below 1 too wide
    occluder: NDArray[
        np.float64
    ]  # its position: 0 in front of the person, +-1 just past the person; nan: absent


def pick_pattern(rng: Generator, amount: float) -> str:
    """Draw a pattern's name; ``amount`` 0: always 'clean', 1: nine of ten tracklets disturbed."""
    names = list(PATTERN_SHARES)
    picked = names[rng.choice(len(names), p=list(PATTERN_SHARES.values()))]
    return picked if rng.random() < 0.9 * amount else 'clean'


def plan_motion(
    rng: Generator, pattern: str, frames: int, direction: float, amount: float
) -> Motion:
    """Convert a pattern to numbers.

    Args:
        rng: numpy Generator.
        pattern: one of ``PATTERNS``.
        frames: F, at least 1.
        direction: -1..1, share of the person's path across the picture, to the right.
        amount: 0..1, stronger disturbances last longer.

    Returns:
        Motion.
    """
    time = np.linspace(0, 1, frames) if frames > 1 else np.zeros(1)  # (F,)
    side = rng.choice((-1, 1))
    walk = 0.22 * direction * (time - 0.5)
    shift_x, shift_y = rng.normal(0, 0.012, (2, frames))
    zoom = 1 + rng.normal(0, 0.012, frames)
    occluder = np.full(frames, np.nan)
    if pattern in ('occluded_start', 'occluded_end'):
        stays = rng.uniform(0.22, 0.30) + 0.12 * amount
        place = side * np.array((rng.uniform(-0.10, 0.10), 0.22, 1.05, 2.0))
        ordered = time if pattern == 'occluded_start' else 1 - time
        occluder = np.interp(ordered, (0, stays, stays + 0.20, 1), place)
    elif pattern == 'occluded_middle':
        half = rng.uniform(0.10, 0.14) + 0.06 * amount
        knots = (0, 0.5 - half, 0.5 + half, 1)
        occluder = np.interp(time, knots, side * np.array((-2.0, -0.5, 0.5, 2.0)))
    elif pattern in ('leaves_at_end', 'enters_at_start'):
        starts = rng.uniform(0.55, 0.65) - 0.15 * amount
        ordered = time if pattern == 'leaves_at_end' else 1 - time
        shift_x += side * np.interp(ordered, (0, starts, 1), (0, 0, rng.uniform(0.52, 0.74)))
        shift_y += np.interp(ordered, (0, starts, 1), (0, 0, rng.uniform(-0.10, 0.10)))
    elif pattern in ('misaligned', BACKGROUND):
        waves = np.sin(2 * np.pi * (rng.uniform(0.6, 1.4, (3, 1)) * time + rng.random((3, 1))))
        shift_x += side * rng.uniform(0.06, 0.18) + 0.14 * waves[0]
        shift_y += rng.uniform(-0.10, 0.10) + 0.07 * waves[1]
        zoom *= rng.uniform(0.9, 1.15) * (1 + 0.16 * waves[2])
    return Motion(walk, shift_x, shift_y, zoom, occluder)
