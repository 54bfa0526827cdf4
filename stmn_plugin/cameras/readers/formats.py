"""Name of a format → its reader, and what the format fixes."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ..boxes import Boxes
from .coco import read_coco
from .cvat import read_cvat
from .deepstream import read_deepstream
from .mot import read_mot
from .options import Recording, TrackOptions
from .supervision import read_supervision
from .ultralytics import FIRST_FRAME, read_ultralytics


@dataclass(frozen=True)
class TrackFormat:
    """A format.

    Attributes:
        read: file or folder → boxes.
        first_frame: number of the first frame; None where tools differ.
        fractions: boxes are in fractions of the picture, not in pixels.
        last_of_stride: the tracker processes the last of ``stride`` frames, not the first.
        several: a file or folder of it may hold several videos.
    """

    read: Callable[[Path, Recording, TrackOptions], Boxes]
    first_frame: int | None = None
    fractions: bool = False
    last_of_stride: bool = False
    several: bool = False


FORMATS = {
    'mot': TrackFormat(read_mot),
    'ultralytics': TrackFormat(
        read_ultralytics, FIRST_FRAME, fractions=True, last_of_stride=True, several=True
    ),
    'supervision': TrackFormat(read_supervision),
    'cvat': TrackFormat(read_cvat, 0),
    'coco': TrackFormat(read_coco, several=True),
    'deepstream': TrackFormat(read_deepstream, 0, several=True),
}
