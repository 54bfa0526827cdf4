"""Convert boxes of a file to frames of the video from 0 and pixels of its upright picture."""

import re
from dataclasses import replace
from pathlib import Path, PurePath

import numpy as np
from numpy.typing import NDArray

from stmn_plugin.errors import InputError
from stmn_plugin.numerals import counted

from .boxes import Boxes
from .readers.formats import FORMATS, TrackFormat
from .readers.options import Recording, TrackOptions


def read_tracks(path: Path, format: str, recording: Recording, options: TrackOptions) -> Boxes:
    """Read boxes of a tracker's file in frames of the video, counted from 0, and its pixels.

    Args:
        path: of a file or folder.
        format: a name of ``FORMATS``.
        recording: the video.
        options: what the format leaves open.

    Raises:
        InputError: ``first_frame`` is missing where the format does not fix it; a frame lies before
            it; the reader rejects the file.
    """
    known = FORMATS[format]
    first = known.first_frame if options.first_frame is None else options.first_frame
    if first is None and not options.by_name:
        raise InputError(
            f'{path}: --first-frame must give the number of the first frame, 0 or 1; tools that '
            f'write {format} differ'
        )
    boxes = known.read(path, recording, options)
    if options.by_name:
        frames = by_name(path, boxes.frames, recording.images)
    else:
        frames = from_zero(path, boxes.frames, first or 0, options.stride, known.last_of_stride)
    return replace(boxes, frames=frames, corners=in_pixels(boxes, known, recording, options))


def from_zero(
    path: Path, frames: NDArray[np.int64], first: int, stride: int = 1, last: bool = False
) -> NDArray[np.int64]:
    """Convert frame numbers of a file (N,) to those of the video, from 0.

    Args:
        path: for the message.
        frames: numbers in the file.
        first: number of the first frame that the tracker processed.
        stride: it processed one of this many frames.
        last: it processed the last of these, not the first.

    >>> from_zero(Path('x'), np.array([1, 2, 3]), 1, stride=3, last=True)
    array([2, 5, 8])
    """
    if len(frames) and frames.min() < first:
        raise InputError(
            f'{path}: has a box in frame {frames.min()}, before the first frame, {first}; '
            f'if it counts from {frames.min()}, give --first-frame {frames.min()}'
        )
    return (frames - first) * stride + (stride - 1 if last else 0)


def by_name(path: Path, frames: NDArray[np.int64], images: tuple[str, ...]) -> NDArray[np.int64]:
    """Convert frame numbers, each the last number in the name of an image, to places of images."""
    places: dict[int, int] = {}
    for place, name in enumerate(images):
        digits = re.findall('[0-9]+', PurePath(name).stem)
        if digits and places.setdefault(int(digits[-1]), place) != place:
            other = images[places[int(digits[-1])]]
            raise InputError(f'{name}: has the same number as {other}, {int(digits[-1])}')
    missing = sorted(set(frames.tolist()) - places.keys())
    if missing:
        raise InputError(
            f'{path}: has boxes in {counted(len(missing), "frame")} of which there is no image, '
            f'first {missing[0]}'
        )
    return np.array([places[frame] for frame in frames.tolist()], np.int64)


def in_pixels(
    boxes: Boxes, format: TrackFormat, recording: Recording, options: TrackOptions
) -> NDArray[np.float64]:
    """Convert corners (N, 4) to pixels of the upright picture; pixel n covers n to n + 1."""
    size = np.array([recording.width, recording.height] * 2, np.float64)
    if format.fractions:
        return boxes.corners * size
    corners = boxes.corners - options.first_pixel
    if options.picture is not None:
        corners = corners * size / np.array(options.picture * 2, np.float64)
    return corners
