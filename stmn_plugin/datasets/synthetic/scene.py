"""Draw the fixed scene of a camera, larger than a crop, and apply the camera to colours.

Persons pass a camera at a few fixed spots, so its objects are at the same places of many crops:
the spatial distractors of the paper's Fig. 1(a).
"""

from typing import NamedTuple

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from .props import PROPS
from .spec import SyntheticSpec
from .textures import empty_scene

SUPERSAMPLE = 2  # scenes and persons are drawn this many times larger than the crop
BODY = 0.84  # an average person's share of the crop's height
FEET = 0.935  # height of the feet in an aligned crop
_MARGIN, _PITCH, _SPOTS = 1.7, 1.5, 3  # in crop widths
_ABOVE, _BELOW = 0.45, 0.30  # extent of the scene beyond an aligned crop, in crop heights
_SPOT_SHARES = (0.6, 0.25, 0.15)  # most people take the same path


class _Theme(NamedTuple):
    ground: str
    backdrop: str
    horizon: float  # above the feet, in body heights: a high camera sees more ground
    yaw: float  # direction of walking, see person.py
    behind: tuple[
        tuple[str, float, float], ...
    ]  # (prop, place in crop widths from the spot, depth 0 at the feet .. 1 far)
    before: tuple[str, float]  # (prop, size) between camera and person
    gains: tuple[float, float, float]  # R, G, B
    tone: tuple[float, float, float]  # contrast, brightness, gamma
    sharp: float  # remaining share of the resolution
    noise: float  # grey levels


_THEMES = (
    _Theme(
        'pavers', 'wall', 0.86, 10,
        (('street_light', 0.33, 0.25), ('bench', -0.38, 0.45), ('bin', -0.30, 0.15)),
        ('bollard', 0.9), (1.06, 1.00, 0.90), (1.05, 4, 1.00), 1.0, 3.0,
    ),
    _Theme(
        'grass', 'hedge', 0.62, 90,
        (('tree', -0.34, 0.30), ('bush', 0.36, 0.50), ('sign', 0.30, 0.15)),
        ('bush', 0.62), (0.86, 1.06, 0.92), (0.88, -8, 1.15), 0.80, 4.0,
    ),
    _Theme(
        'asphalt', 'houses', 0.70, 185,
        (('car', 0.42, 0.70), ('street_light', -0.34, 0.20), ('sign', 0.36, 0.10)),
        ('bin', 0.85), (0.88, 0.97, 1.16), (1.08, -8, 1.08), 0.9, 5.0,
    ),
    _Theme(
        'slabs', 'bricks', 0.95, 270,
        (('bicycle', 0.30, 0.35), ('bicycle', -0.36, 0.55), ('pillar', -0.42, 0.20)),
        ('bicycle', 0.85), (1.14, 0.94, 0.80), (0.92, 10, 0.90), 0.70, 6.0,
    ),
    _Theme(
        'track', 'field', 0.78, 50,
        (('goal', -0.25, 0.90), ('street_light', 0.36, 0.30), ('bench', 0.30, 0.60)),
        ('bollard', 0.9), (1.02, 1.02, 1.10), (0.82, 22, 0.92), 0.85, 4.0,
    ),
    _Theme(
        'tiles', 'glass', 0.90, 215,
        (('pillar', 0.36, 0.20), ('bin', -0.32, 0.20), ('sign', -0.38, 0.10)),
        ('bush', 0.62), (0.94, 0.92, 1.00), (1.10, -22, 1.20), 0.65, 7.0,
    ),
)  # fmt: skip


class Camera:
    """One camera of a spec, drawn once and used for all of its tracklets.

    Attributes:
        scene: RGB image, ``SUPERSAMPLE`` times the resolution of the crops.
        objects: L image of the same size, 255 where an object stands behind the persons.
        front: RGBA image of the same size: objects between camera and persons.
        feet: row on which persons walk. yaw: their usual direction. light: its
            direction, see person.py.
        body: height of an average person. All lengths are pixels of the scene.
    """

    def __init__(self, spec: SyntheticSpec, camera: int):
        self.theme = theme = _THEMES[camera - 1]
        rng = spec.rng('camera', camera)
        self.crop_size = (spec.width * SUPERSAMPLE, spec.height * SUPERSAMPLE)
        width, height = self.crop_size
        self.body = BODY * height
        size = (
            round((2 * _MARGIN + (_SPOTS - 1) * _PITCH) * width),
            round((1 + _ABOVE + _BELOW) * height),
        )
        self.feet = (_ABOVE + FEET) * height
        self.yaw = theme.yaw
        self.light = 0.5 * (-1) ** camera
        self._spots = [(_MARGIN + i * _PITCH) * width for i in rng.permutation(_SPOTS)]
        self.scene = empty_scene(theme, size, self.feet, self.body, rng)
        layer, self.front = Image.new('RGBA', size), Image.new('RGBA', size)
        if spec.spatial_distractors > 0:
            self._place_props(rng, spec.spatial_distractors, layer)
        self.objects = layer.getchannel('A')
        self.scene.paste(layer, mask=self.objects)
        self._tone = _tone_curves(theme, rng)
        self._noise = rng.normal(0, theme.noise, (4, spec.height, spec.width, 3)).astype(np.int16)

    def _place_props(self, rng: Generator, amount: float, layer: Image.Image) -> None:
        """Place objects: a camera keeps their kinds and places, each spot varies them a little."""
        width = self.crop_size[0]
        behind, front = ImageDraw.Draw(layer), ImageDraw.Draw(self.front)
        rise = self.theme.horizon * self.body
        hallmark, *others = self.theme.behind  # the first object is at every spot
        for spot in self._spots:
            chosen = [prop for prop in others if rng.random() < 0.3 + 0.7 * amount]
            for prop, place, depth in sorted([hallmark, *chosen], key=lambda p: -p[2]):
                x = spot + (place + rng.uniform(-0.05, 0.05)) * width
                ground = self.feet - 0.30 * depth * rise  # farther away: higher and smaller
                PROPS[prop](behind, x, ground, self.body * (1 - 0.25 * depth), rng)
            if rng.random() < 0.8 * amount:
                x = spot + rng.choice((-1, 1)) * rng.uniform(0.45, 0.55) * width
                prop, scale = self.theme.before
                nearer = self.feet + 0.05 * self.crop_size[1]
                PROPS[prop](front, x, nearer, self.body * scale, rng)

    def spot(self, rng: Generator) -> float:
        """Draw the column of the scene at which the next person walks."""
        return float(self._spots[rng.choice(len(self._spots), p=_SPOT_SHARES)])

    def develop(self, crop: Image.Image, exposure: float, grain: int) -> Image.Image:
        """Apply the camera's resolution, colours and noise to a crop.

        Args:
            crop: RGB image at the final size of a crop or of a larger picture.
            exposure: brightness factor of the tracklet, about 1.
            grain: integer, picks the noise.
        """
        theme = self.theme
        if theme.sharp < 1:
            size = crop.size
            small = (round(size[0] * theme.sharp), round(size[1] * theme.sharp))
            crop = crop.resize(small, Image.Resampling.BILINEAR)
            crop = crop.resize(size, Image.Resampling.BICUBIC)
        crop = crop.point([min(255, int(v * exposure)) for v in self._tone])
        noise = np.roll(self._noise[grain % 4], (grain * 7) % 61, axis=0)
        pixels = np.asarray(crop, dtype=np.int16)
        rows, columns = (-(-a // b) for a, b in zip(pixels.shape, noise.shape[:2], strict=False))
        pixels = pixels + np.tile(noise, (rows, columns, 1))[: pixels.shape[0], : pixels.shape[1]]
        return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


def _tone_curves(theme: _Theme, rng: Generator) -> NDArray[np.float64]:
    """Return three concatenated look-up tables (768 values) for ``Image.point``."""
    contrast, brightness, gamma = theme.tone
    level = 255 * (np.arange(256) / 255) ** gamma
    level = (level - 128) * contrast + 128 + brightness
    gains = np.array(theme.gains) * rng.uniform(0.96, 1.04, 3)
    return np.clip(gains[:, None] * level, 0, 255).reshape(-1)
