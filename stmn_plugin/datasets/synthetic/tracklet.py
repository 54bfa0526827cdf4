"""Draw one pass of a person by a camera: crops, the person's visibility, distractor masks."""

import math
from typing import NamedTuple

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

from .canvas import Point
from .look import person_look, stranger_look
from .motion import BACKGROUND, Motion, pick_pattern, plan_motion
from .person import PersonPainter
from .props import PROPS
from .scene import FEET, SUPERSAMPLE, Camera
from .spec import SyntheticSpec

MASK_SHARE = 0.3  # of a cell; a half would lose poles and bicycles
MASK_REDUCTION = 4  # the distractor mask has a quarter of the crop's height and width


class _Size(NamedTuple):
    half_width: float  # in person heights
    scale: float  # above 1: nearer than the person


_OCCLUDERS = {
    'pedestrian': _Size(0.17, 1.12),
    'car': _Size(0.90, 0.95),
    'bush': _Size(0.36, 1.30),
}
_OCCLUDER_SHARES = (0.5, 0.25, 0.25)
_PERSON_HALF_WIDTH = 0.17


class Tracklet(NamedTuple):
    """F crops of one person at one camera and the truth about them."""

    crops: list[Image.Image]  # F RGB images of the spec's size
    visibility: NDArray[np.float32]  # (F,) share of the person's pixels that the crop shows
    masks: NDArray[np.bool_]  # (F, height / 4, width / 4) scene objects and occluders
    pattern: str


def draw_tracklet(
    spec: SyntheticSpec, camera: Camera, stream: str, pid: int, cam: int, number: int
) -> Tracklet:
    """Draw one tracklet, which depends on the arguments only.

    Args:
        spec: the specification.
        camera: the :class:`~.scene.Camera` number ``cam``.
        stream: 'train', 'test', 'distractor' or 'junk'.
        pid: identity; distractors (0) and junk (-1) are strangers, or show no person.
        cam: camera 1.., as in the file names.
        number: tracklet 1.., as in the file names.

    Returns:
        Tracklet.
    """
    rng = spec.rng(stream, max(pid, 0), cam, number)
    frames = int(rng.integers(spec.min_frames, spec.max_frames + 1))
    pattern = pick_pattern(rng, spec.temporal_distractors)
    if stream == 'junk' or (stream == 'distractor' and number % 2 == 0):
        pattern = BACKGROUND
    look = person_look(spec, pid) if pid > 0 else stranger_look(rng, spec.clothing_similarity)
    yaw = camera.yaw + (180 if rng.random() < 0.3 else 0) + rng.uniform(-18, 18)
    direction = math.sin(math.radians(yaw))
    motion = plan_motion(rng, pattern, frames, direction, spec.temporal_distractors)
    spot = camera.spot(rng) + rng.normal(0, 0.05) * camera.crop_size[0]
    exposure, grain = rng.uniform(0.88, 1.12), int(rng.integers(1000))
    phase, pace = rng.uniform(0, 2 * math.pi), rng.uniform(0.5, 0.75)
    occluder = _Occluder(rng, camera, motion.occluder, spec.clothing_similarity)
    painter = PersonPainter(look, camera.body, camera.light)
    shadow = _shadow(camera.body)
    crops, visibility, masks = [], [], []
    for i in range(frames):
        step = phase + pace * i
        view = _View(camera, spot, motion, i)
        if pattern != BACKGROUND:
            view.paste_person(painter.draw(yaw, step), painter.anchor, shadow)
        view.paste_front(camera.front.crop(view.region), (0, 0))
        if abs(motion.occluder[i]) < 2:  # also False for nan
            image, (x, y) = occluder.draw(step)
            place = view.x + motion.occluder[i] * occluder.reach, view.feet + 0.05 * camera.body
            view.paste_front(image, (round(place[0] - x), round(place[1] - y)))
        crops.append(camera.develop(view.crop(), exposure, grain + i))
        visibility.append(view.visibility())
        masks.append(view.distractor_mask())
    return Tracklet(crops, np.array(visibility, np.float32), np.stack(masks), pattern)


class _View:
    """The part of a scene that one crop shows, at the scene's resolution.

    ``x`` and ``feet`` are the position of the person in it, ``box`` is the exact crop.
    """

    def __init__(self, camera: Camera, spot: float, motion: Motion, i: int):
        width, height = camera.crop_size
        person = spot + motion.walk[i] * width
        centre_x = person + motion.shift_x[i] * width
        centre_y = camera.feet + (0.5 - FEET + motion.shift_y[i]) * height
        half_x, half_y = width / 2 / motion.zoom[i], height / 2 / motion.zoom[i]
        left, top = math.floor(centre_x - half_x), math.floor(centre_y - half_y)
        right, bottom = math.ceil(centre_x + half_x), math.ceil(centre_y + half_y)
        self.region = (left, top, right, bottom)
        self.box = (
            max(0.0, centre_x - half_x - left),
            max(0.0, centre_y - half_y - top),
            min(right - left, centre_x + half_x - left),
            min(bottom - top, centre_y + half_y - top),
        )
        self.x, self.feet = person - left, camera.feet - top
        self.image = camera.scene.crop(self.region)
        self.objects = camera.objects.crop(self.region)
        self.person = Image.new('L', self.image.size)  # visible pixels of the person
        self.person_pixels = 0.0
        self.size = (width // SUPERSAMPLE, height // SUPERSAMPLE)

    def paste_person(self, figure: Image.Image, anchor: Point, shadow: Image.Image) -> None:
        ground = (round(self.x - shadow.width / 2), round(self.feet - shadow.height / 2))
        self.image.paste((12, 14, 20), ground, shadow)
        place = (round(self.x - anchor[0]), round(self.feet - anchor[1]))
        alpha = figure.getchannel('A')
        self.image.paste(figure, place, alpha)
        self.person.paste(alpha, place)
        self.objects.paste(0, place, alpha)
        self.person_pixels = np.asarray(alpha).sum() / 255

    def paste_front(self, image: Image.Image, place: tuple[int, int]) -> None:
        """Paste an object between the camera and the person."""
        alpha = image.getchannel('A')
        self.image.paste(image, place, alpha)
        self.person.paste(0, place, alpha)
        self.objects.paste(255, place, alpha)

    def crop(self) -> Image.Image:
        return self.image.resize(self.size, Image.Resampling.BILINEAR, self.box)

    def visibility(self) -> float:
        """Return the share of the person's pixels, inside and outside the crop, that it shows."""
        if not self.person_pixels:
            return 0.0
        left, top, right, bottom = self.box
        seen = np.asarray(self.person.resize(self.size, Image.Resampling.BOX, self.box)).mean()
        share: float = seen / 255 * (right - left) * (bottom - top) / self.person_pixels
        return min(1.0, share)

    def distractor_mask(self) -> NDArray[np.bool_]:
        """Return the cells (height / 4, width / 4) that show scene objects or occluders."""
        size = (self.size[0] // MASK_REDUCTION, self.size[1] // MASK_REDUCTION)
        return (
            np.asarray(self.objects.resize(size, Image.Resampling.BOX, self.box))
            >= 255 * MASK_SHARE
        )


class _Occluder:
    """An object that passes between the camera and the person, if the pattern has one.

    ``reach`` is the distance in pixels at which it no longer covers the person.
    """

    def __init__(
        self, rng: Generator, camera: Camera, places: NDArray[np.float64], similarity: float
    ):
        kind = list(_OCCLUDERS)[rng.choice(len(_OCCLUDERS), p=_OCCLUDER_SHARES)]
        size = _OCCLUDERS[kind]
        unit = camera.body * size.scale
        self.reach = size.half_width * unit + _PERSON_HALF_WIDTH * camera.body
        self._painter: PersonPainter | None = None
        if np.isnan(places).all():
            return
        if kind == 'pedestrian':
            self._painter = PersonPainter(stranger_look(rng, similarity), unit, camera.light)
            self._yaw = 90.0 * np.sign(places[-1] - places[0]) + rng.uniform(-35, 35)
            return
        extent = (round(2.2 * size.half_width * unit), round(1.05 * unit))
        self._image = Image.new('RGBA', extent)
        self._anchor = (extent[0] / 2, extent[1])
        PROPS[kind](ImageDraw.Draw(self._image), extent[0] / 2, extent[1], unit, rng)

    def draw(self, phase: float) -> tuple[Image.Image, Point]:
        """Return its RGBA image and the pixel (x, y) of its foot."""
        if self._painter is None:
            return self._image, self._anchor
        return self._painter.draw(self._yaw, phase), self._painter.anchor


def _shadow(body: float) -> Image.Image:
    """Draw a soft shadow under the feet, an L image."""
    size = (round(0.52 * body), round(0.13 * body))
    blot = Image.new('L', size)
    inner = (size[0] * 0.12, size[1] * 0.25, size[0] * 0.88, size[1] * 0.75)
    ImageDraw.Draw(blot).ellipse(inner, fill=140)
    return blot.filter(ImageFilter.GaussianBlur(size[1] / 8))
