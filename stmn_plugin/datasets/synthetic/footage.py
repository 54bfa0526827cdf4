"""Draw persons who walk through a whole scene of a fixed camera: pictures and true boxes."""

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple, TypeAlias

from PIL import Image

from .look import person_look, stranger_look
from .person import PersonPainter
from .scene import FEET, SUPERSAMPLE, Camera
from .spec import SyntheticSpec

Box: TypeAlias = tuple[float, float, float, float]
"""Left, top, right, bottom in pixels."""

STRANGER = 0


class Pass(NamedTuple):
    """The path of a person through the picture."""

    track: int
    pid: int  # STRANGER is a person without an identity
    start: int  # frame
    frames: int
    rightwards: bool


class FootageFrame(NamedTuple):
    """A picture and the boxes in it, by track."""

    picture: Image.Image
    boxes: dict[int, Box]


def picture_size(camera: Camera) -> tuple[int, int]:
    """Return width and height of the pictures, even numbers as encoders need."""
    width, height = camera.scene.size
    return width // (2 * SUPERSAMPLE) * 2, height // (2 * SUPERSAMPLE) * 2


def draw_footage(
    spec: SyntheticSpec, number: int, passes: Sequence[Pass], frames: int
) -> Iterator[FootageFrame]:
    """Draw the pictures of a camera; they depend on the arguments only.

    Boxes are aligned like the crops of the dataset. Where two persons meet, the later one of
    ``passes`` is in front.

    Args:
        spec: persons and scenes.
        number: of the camera, from 1.
        passes: paths of the persons.
        frames: number of pictures.
    """
    camera = Camera(spec, number)
    walkers = [_Walker(spec, camera, number, one) for one in passes]
    width, height = picture_size(camera)
    for frame in range(frames):
        scene = camera.scene.copy()
        boxes = {}
        for walker in walkers:
            if 0 <= frame - walker.way.start < walker.way.frames:
                boxes[walker.way.track] = walker.paste(scene, frame - walker.way.start)
        scene.paste(camera.front, mask=camera.front.getchannel('A'))
        area = (0, 0, width * SUPERSAMPLE, height * SUPERSAMPLE)
        picture = scene.resize((width, height), Image.Resampling.BILINEAR, area)
        yield FootageFrame(camera.develop(picture, 1.0, frame), boxes)


class _Walker:
    """Paste a person who crosses the whole width in the frames of a pass."""

    def __init__(self, spec: SyntheticSpec, camera: Camera, number: int, way: Pass):
        rng = spec.rng('test', way.pid, number, way.track)
        known = way.pid != STRANGER
        look = person_look(spec, way.pid) if known else stranger_look(rng, spec.clothing_similarity)
        self.camera, self.way = camera, way
        self.painter = PersonPainter(look, camera.body, camera.light)
        self.phase, self.pace = rng.uniform(0, 2 * math.pi), rng.uniform(0.5, 0.75)
        self.yaw = (90 if way.rightwards else 270) + rng.uniform(-25, 25)

    def paste(self, scene: Image.Image, frame: int) -> Box:
        """Paste the person in a frame of the pass and return the box."""
        width, height = self.camera.crop_size
        share = (frame + 0.5) / self.way.frames
        share = share if self.way.rightwards else 1 - share
        x = width / 2 + share * (scene.width - width)
        figure = self.painter.draw(self.yaw, self.phase + self.pace * frame)
        left, top = x - self.painter.anchor[0], self.camera.feet - self.painter.anchor[1]
        scene.paste(figure, (round(left), round(top)), figure.getchannel('A'))
        upper = self.camera.feet - FEET * height
        box = (x - width / 2, upper, x + width / 2, upper + height)
        left, top, right, bottom = (side / SUPERSAMPLE for side in box)
        return left, top, right, bottom
