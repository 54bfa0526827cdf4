"""Read the frames of a video or a folder of images in one pass: number, seconds, upright pixels.

Frames are numbered in the order in which they are decoded, as OpenCV numbers them, which most
trackers read with; times are those of the file, which may have a variable frame rate.
"""

import contextlib
import os
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from stmn_plugin.errors import InputError
from stmn_plugin.extras import require
from stmn_plugin.input_files import open_regular
from stmn_plugin.labels import natural_key

from .readers.options import Recording

Pixels: TypeAlias = NDArray[np.uint8]
TEXT = 'tty'  # FFmpeg draws the letters of a text file


class BadVideo(InputError):
    """A video or folder of images of which a frame cannot be decoded; a job may skip it."""


def silent_av() -> Any:
    """Return PyAV with FFmpeg's messages off, as they are by default.

    torchvision 0.23 turns them on. A decoder thread that logs then waits for Python's lock, and if
    the decoder is freed meanwhile, the thread that holds the lock waits for it: a deadlock.
    """
    import av

    av.logging.set_level(None)
    return av


class Frame(NamedTuple):
    """A frame; ``pixels()`` converts it."""

    number: int
    seconds: float  # since the first frame
    pixels: Callable[[], Pixels]  # (height, width, 3) RGB, upright


class VideoFile:
    """A video that PyAV decodes.

    Args:
        path: of the file; files that it names (playlists) are not opened.
        fps: frames a second, in place of the times in the file.

    Attributes:
        recording: name and upright size.
        turned: rotation of the picture in degrees, as the file states it.

    Raises:
        BadVideo: no video, or a damaged one.
        InputError: av is not installed; the file cannot be opened, or its codec is missing.
    """

    def __init__(self, path: Path, fps: float | None = None):
        require('av')
        self.path, self.fps = path, fps
        self.turned = 0
        _check_file(path)
        first = next(self._decoded(), None)
        if first is None:
            raise BadVideo(f'{path}: none of its frames can be decoded')
        self.turned = first.rotation % 360
        height, width = _upright(first).shape[:2]
        self.recording = Recording(path.name, width, height)

    def frames(self) -> Iterator[Frame]:
        """Yield every frame from the first on.

        Raises:
            BadVideo: a frame cannot be decoded.
            InputError: a frame has no time, one before the last frame's, or another size; names it.
        """
        begin, seconds = None, 0.0
        for number, frame in enumerate(self._decoded()):
            if (frame.width, frame.height) != self._size:
                raise InputError(
                    f'{self.path}: frame {number} has {frame.width} x {frame.height} pixels, '
                    f'the first has {self._size[0]} x {self._size[1]}'
                )
            if self.fps is not None:
                seconds = number / self.fps
            elif frame.time is None:
                raise InputError(f'{self.path}: frame {number} has no time; --fps gives one')
            else:
                begin = frame.time if begin is None else begin
                earlier, seconds = seconds, float(frame.time - begin)
                if seconds < earlier:
                    raise InputError(
                        f'{self.path}: the time of frame {number}, {seconds:g} s, is before that '
                        f'of the frame before it, {earlier:g} s, as in recordings that were joined '
                        'without new times; --fps replaces the times'
                    )
            yield Frame(number, seconds, partial(_upright, frame))

    @property
    def _size(self) -> tuple[int, int]:
        """Width and height as decoded, not yet turned."""
        size = self.recording.width, self.recording.height
        return size if self.turned % 180 == 0 else size[::-1]

    def _decoded(self) -> Iterator[Any]:
        av = silent_av()
        number = 0
        with contextlib.ExitStack() as stack:
            with self._errors('cannot be read as a video'):
                container = stack.enter_context(
                    av.open(f'file:{self.path}', options={'protocol_whitelist': 'file'})
                )
            if container.format.name == TEXT:
                raise BadVideo(f'{self.path}: is a text file, not a video')
            if not container.streams.video:
                raise BadVideo(f'{self.path}: contains no video')
            stream = container.streams.video[0]
            if stream.codec_context is None:
                raise InputError(f'{self.path}: this PyAV has no decoder of its codec')
            stream.thread_type = 'AUTO'
            packets = container.demux(stream)
            while True:
                frames: list[Any] = []
                with self._errors(f'frame {number} cannot be decoded', at_start=number == 0):
                    packet = next(packets, None)
                    if packet is None:
                        return
                    frames = packet.decode()
                for frame in frames:
                    number += 1
                    yield frame

    @contextlib.contextmanager
    def _errors(self, what: str, at_start: bool = False) -> Iterator[None]:
        """Name the file in errors; a recording may begin within a group of pictures."""
        import av

        try:
            yield
        except av.error.InvalidDataError as error:
            if not at_start:
                raise self._error(what, error) from error
        except (av.error.FFmpegError, OSError) as error:
            raise self._error(what, error) from error

    def _error(self, what: str, error: Exception) -> BadVideo:
        reason = getattr(error, 'strerror', None) or error
        return BadVideo(f'{self.path}: {what}; it is damaged, truncated or not a video ({reason})')


class ImageFolder:
    """A folder of images, in natural order of their names.

    Args:
        path: of the folder.
        fps: images a second.

    Raises:
        BadVideo: the first image cannot be read.
        InputError: it cannot be read, has no image, or ``fps`` is missing.
    """

    turned = 0

    def __init__(self, path: Path, fps: float | None = None):
        from stmn_plugin.data.frames import IMAGE_SUFFIXES

        if fps is None:
            raise InputError(
                f'{path}: images have no times; give --fps N, the number of images per second'
            )
        self.path, self.fps = path, fps
        try:
            names = [name for name in os.listdir(path) if name.lower().endswith(IMAGE_SUFFIXES)]
        except OSError as error:
            raise InputError(f'cannot read {path}: {error.strerror}') from error
        self.images = tuple(sorted((n for n in names if n[0] != '.'), key=natural_key))
        if not self.images:
            raise InputError(f'{path}: contains no image')
        height, width = self._pixels(self.images[0]).shape[:2]
        self.recording = Recording(path.resolve().name, width, height, self.images)

    def frames(self) -> Iterator[Frame]:
        """Yield every image; see :meth:`VideoFile.frames`."""
        for number, name in enumerate(self.images):
            yield Frame(number, number / self.fps, partial(self._checked, name))

    def _pixels(self, name: str) -> Pixels:
        from stmn_plugin.data.frames import BadFrame, read_frame

        try:
            pixels: Pixels = read_frame(self.path / name).permute(1, 2, 0).numpy()
        except BadFrame as error:
            raise BadVideo(error) from error
        return pixels

    def _checked(self, name: str) -> Pixels:
        pixels = self._pixels(name)
        if pixels.shape[:2] != (self.recording.height, self.recording.width):
            raise InputError(
                f'{self.path / name}: has {pixels.shape[1]} x {pixels.shape[0]} pixels, the first '
                f'image {self.recording.width} x {self.recording.height}'
            )
        return pixels


def open_source(path: Path, fps: float | None = None) -> VideoFile | ImageFolder:
    """Open a video file, or a folder of images."""
    return ImageFolder(path, fps) if os.path.isdir(path) else VideoFile(path, fps)


def _check_file(path: Path) -> None:
    try:
        open_regular(path).close()
    except OSError as error:
        raise InputError(f'cannot read {path}: {error.strerror}') from error


def _upright(frame: Any) -> Pixels:
    """Return RGB pixels (h, w, 3), rotated counter-clockwise as the file states, not mirrored.

    OpenCV does the same; the boxes of most trackers refer to its pictures.
    """
    pixels: Pixels = frame.to_ndarray(format='rgb24')
    return np.rot90(pixels, round(frame.rotation / 90))
