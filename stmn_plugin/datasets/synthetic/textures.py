"""Paint empty scenes with numpy: ground in perspective and a backdrop behind it.

Letters: ``x``, ``y`` are positions on the ground (to the right, away from the camera) and ``up``
is a height above the horizon, all of shape (H, W), in body heights.
"""

from typing import Any, Protocol, TypeAlias

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from PIL import Image, ImageFilter

Floats: TypeAlias = NDArray[np.floating[Any]]
Triple: TypeAlias = tuple[float, float, float]


class Theme(Protocol):
    """The look of a scene, see scene.py."""

    @property
    def ground(self) -> str: ...

    @property
    def backdrop(self) -> str: ...

    @property
    def horizon(self) -> float: ...


def empty_scene(
    theme: Theme, size: tuple[int, int], feet: float, body: float, rng: Generator
) -> Image.Image:
    """Paint the empty scene: textured ground in perspective below the horizon, a backdrop above.

    Args:
        theme: names of ground and backdrop and the height of the horizon, see scene.py.
        size: (width, height) in pixels.
        feet: row on which persons walk.
        body: height of a person in pixels.
        rng: generator of the textures.

    Returns:
        RGB image.
    """
    width, height = size
    horizon = feet - theme.horizon * body
    rows = np.arange(height, dtype=np.float64)[:, None]  # (H, 1)
    columns = np.arange(width, dtype=np.float64)[None, :]  # (1, W)
    near = np.maximum((rows - horizon) / (feet - horizon), 0.04)  # 1 at the feet
    across = (columns - 0.45 * width) / body / near  # (H, W) ground position, body heights
    away = 1.6 * theme.horizon / near + 0 * columns  # (H, W)
    ground = _GROUNDS[theme.ground](across, away, rng)  # (H, W, 3)
    fade = np.clip((near - 0.04) / 0.35, 0, 1)[..., None]  # details vanish towards the horizon
    mean = ground.mean(axis=(0, 1))
    ground = mean + (ground - mean) * (0.25 + 0.75 * fade)
    up = (horizon - rows) / body + 0 * columns  # (H, W) above the horizon
    backdrop = _BACKDROPS[theme.backdrop](columns / body + 0 * rows, up, rng)
    image = np.where((rows < horizon)[..., None], backdrop, ground)
    pixels = image + rng.normal(0, 2.5, (height, width, 1))
    scene = Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))
    return scene.filter(ImageFilter.GaussianBlur(0.6))


def _hash(i: Floats, j: Floats, seed: float) -> Floats:
    """Return a reproducible random number in 0..1 for every cell (i, j)."""
    value = np.sin(np.floor(i) * 127.1 + np.floor(j) * 311.7 + seed * 74.7) * 43758.5453
    return value - np.floor(value)


def _paint(base: Triple, *layers: tuple[Floats, Triple]) -> Floats:
    """Add (amount (H, W), colour shift) layers to a base colour; return (H, W, 3) floats."""
    image = np.array(base, dtype=np.float64)
    for amount, shift in layers:
        image = image + amount[..., None] * np.array(shift, dtype=np.float64)
    return image


def _blocks(
    x: Floats,
    y: Floats,
    wide: float,
    high: float,
    joint: float,
    base: Triple,
    spread: float,
    seam: Triple,
    seed: float,
) -> Floats:
    """Paint stones in rows, every second row shifted; ``joint`` is the share of a stone."""
    row = np.floor(y / high)
    x = x / wide + 0.5 * (row % 2)
    inside_x, inside_y = x % 1, (y / high) % 1
    seams = (inside_x < joint) | (inside_y < joint)
    tint = _hash(x, row, seed) - 0.5
    stones = _paint(base, (tint, (spread, spread, spread)))
    return np.where(seams[..., None], np.array(seam, dtype=np.float64), stones)


def _pavers(x: Floats, y: Floats, rng: Generator) -> Floats:
    red = rng.random() < 0.5
    base, seam = ((176, 140, 120), (118, 98, 88)) if red else ((168, 164, 154), (112, 110, 104))
    return _blocks(x, y, 0.30, 0.22, 0.10, base, 46, seam, rng.random())


def _grass(x: Floats, y: Floats, rng: Generator) -> Floats:
    fine = _hash(x * 40, y * 26, rng.random()) - 0.5
    coarse = np.sin(x * 3 + 2 * np.sin(y * 2)) * np.cos(y * 2.6)
    path = np.abs(y - 1.6 * 0.62 - 0.35) < 0.20  # a path behind the persons
    image = _paint((92, 122, 66), (fine, (46, 52, 34)), (coarse, (9, 12, 5)))
    return np.where(path[..., None], _paint((164, 148, 118), (fine, (26, 26, 24))), image)


def _asphalt(x: Floats, y: Floats, rng: Generator) -> Floats:
    fine = _hash(x * 50, y * 40, rng.random()) - 0.5
    image = _paint((96, 98, 102), (fine, (26, 26, 26)))
    stripe = ((x % 0.52) < 0.26) & (np.abs(y - 1.35) < 0.32)
    return np.where(stripe[..., None], _paint((214, 214, 208), (fine, (20, 20, 20))), image)


def _slabs(x: Floats, y: Floats, rng: Generator) -> Floats:
    return _blocks(x, y, 0.62, 0.55, 0.05, (186, 182, 172), 26, (128, 124, 116), rng.random())


def _track(x: Floats, y: Floats, rng: Generator) -> Floats:
    fine = _hash(x * 50, y * 40, rng.random()) - 0.5
    image = _paint((168, 84, 66), (fine, (24, 18, 16)))
    line = ((x + 0.15 * y) % 0.62) < 0.07
    return np.where(line[..., None], np.array((232, 228, 222.0)), image)


def _tiles(x: Floats, y: Floats, rng: Generator) -> Floats:
    dark = ((np.floor(x / 0.34) + np.floor(y / 0.34)) % 2).astype(np.float64)
    grain = _hash(x / 0.34, y / 0.34, rng.random()) - 0.5
    return _paint((204, 200, 192), (dark, (-52, -50, -44)), (grain, (14, 14, 14)))


def _wall(x: Floats, up: Floats, rng: Generator) -> Floats:
    window = ((x % 0.9) < 0.42) & ((up % 0.8) > 0.28) & ((up % 0.8) < 0.70)
    image = _paint((198, 186, 160), (np.clip(0.18 - up, 0, 1), (-260, -250, -220)))
    return np.where(window[..., None], _paint((86, 104, 118), (up % 0.8, (60, 60, 60))), image)


def _hedge(x: Floats, up: Floats, rng: Generator) -> Floats:
    leaf = _hash(x * 26, up * 26, rng.random()) - 0.5
    image = _paint((58, 88, 48), (leaf, (38, 48, 30)))
    sky = up > 0.50 + 0.06 * np.sin(9 * x) + 0.04 * np.sin(23 * x)
    return np.where(sky[..., None], _paint((186, 204, 218), (up, (14, 10, 6))), image)


def _houses(x: Floats, up: Floats, rng: Generator) -> Floats:
    house = np.floor(x / 1.1)
    tint = _hash(house, 0 * house, rng.random())
    image = _paint((150, 128, 116), (tint - 0.5, (90, 60, 30)))
    window = ((x % 0.36) < 0.17) & ((up % 0.48) > 0.18) & ((up % 0.48) < 0.40)
    image = np.where(window[..., None], np.array((64, 76, 92.0)), image)
    kerb = up < 0.05
    return np.where(kerb[..., None], np.array((172, 170, 164.0)), image)


def _bricks(x: Floats, up: Floats, rng: Generator) -> Floats:
    return _blocks(x, up, 0.15, 0.06, 0.10, (152, 88, 68), 44, (186, 174, 160), rng.random())


def _field(x: Floats, up: Floats, rng: Generator) -> Floats:
    fine = _hash(x * 40, up * 60, rng.random()) - 0.5
    image = _paint((84, 138, 72), ((np.floor(up / 0.11) % 2), (14, 16, 8)), (fine, (18, 18, 14)))
    line = (np.abs(up - 0.20) < 0.012) | (np.abs((x + 0.4 * up) % 2.2 - 1.1) < 0.012)
    image = np.where(line[..., None], np.array((236, 240, 232.0)), image)
    fence = (((x * 12 + up * 12) % 1 < 0.14) | ((x * 12 - up * 12) % 1 < 0.14)) & (up > 0.34)
    return np.where(fence[..., None], np.array((120, 128, 126.0)), image)


def _glass(x: Floats, up: Floats, rng: Generator) -> Floats:
    frame = ((x % 0.55) < 0.035) | ((up % 0.70) < 0.035)
    shine = np.sin(2.4 * x + 3.0 * up) * 0.5
    image = _paint((96, 118, 130), (shine, (40, 44, 46)), (up, (22, 22, 20)))
    return np.where(frame[..., None], np.array((60, 62, 66.0)), image)


_GROUNDS = {
    'pavers': _pavers,
    'grass': _grass,
    'asphalt': _asphalt,
    'slabs': _slabs,
    'track': _track,
    'tiles': _tiles,
}
_BACKDROPS = {
    'wall': _wall,
    'hedge': _hedge,
    'houses': _houses,
    'bricks': _bricks,
    'field': _field,
    'glass': _glass,
}
