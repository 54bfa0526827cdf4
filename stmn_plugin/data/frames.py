"""Read frames as uint8 images; a bad file is one clear error, where the host retries for ever."""

import contextlib
import errno
import os
import warnings
from collections.abc import Iterable, Sequence
from typing import IO

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from stmn_plugin.errors import InputError
from stmn_plugin.input_files import open_regular

# Pillow's name → suffixes. The first bytes of a file determine its format; Pillow's other formats
# start programs (EPS), hold no frame or crash on damaged bytes
FORMATS = {
    'JPEG': ('.jpg', '.jpeg', '.jpe', '.jfif'),
    'PNG': ('.png',),
    'BMP': ('.bmp',),
    'WEBP': ('.webp',),
    'TIFF': ('.tif', '.tiff'),
    'GIF': ('.gif',),
    'PPM': ('.ppm', '.pgm', '.pbm', '.pnm'),
}
NAMES = tuple(FORMATS)
IMAGE_SUFFIXES = tuple(suffix for suffixes in FORMATS.values() for suffix in suffixes)
MAX_PIXELS = 4096 * 4096  # of a frame, which is the crop of a person: twice a picture of 4K video

# errors that are not about the file: too many open files, no memory, a lost server
OF_THE_MACHINE = {
    errno.EMFILE,
    errno.ENFILE,
    errno.ENOMEM,
    errno.ETIMEDOUT,
    getattr(errno, 'ESTALE', errno.ENOMEM),  # does not exist on Windows
}

ORIENTATION = 0x0112  # tag of EXIF and TIFF, 1 to 8
UPRIGHT: dict[object, Image.Transpose] = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
TIFF_PHOTOMETRIC, TIFF_BITS, TIFF_TILE = 262, 258, (322, 323)

# Pillow warns of metadata that it skips, for each file and worker; the pixels are correct
warnings.filterwarnings('ignore', module=r'PIL\.')


class BadFrame(InputError):
    """A file that holds no frame and may be skipped, unlike one that is temporarily unreadable."""


def read_frame(path: str | os.PathLike[str]) -> Tensor:
    """Read and decode one image with Pillow.

    The EXIF orientation is applied (the host ignores it). Grey, palettes and CMYK become RGB, 16
    bits become 8, transparency is ignored. (torchvision's own decoders are deprecated since 0.29;
    OpenCV returns half a picture for a truncated file.)

    Args:
        path: image file.

    Returns:
        RGB uint8, (3, height, width).

    Raises:
        BadFrame: the file is missing, not a regular file, unreadable, truncated, none of FORMATS,
            has more than MAX_PIXELS, several pictures (GIF...) or pixels without a known range
            (float TIFF...). The message names the path.
        InputError: the machine cannot read it, for lack of memory for example.
    """
    try:
        file = open_regular(path)
    except OSError as error:
        raise _refusal(path, error, error.strerror) from error
    with file:
        try:
            pixels = _decode(file)
        except Exception as error:  # damaged bytes make decoders raise nearly anything
            raise _refusal(path, error, _reason(error)) from error
    # copied by numpy, because torch takes three times as long to move the channels to the front
    return torch.from_numpy(np.array(pixels.transpose(2, 0, 1), order='C'))


def read_image(path: str) -> Image.Image:
    """Read a frame for the host's image datasets, whose own function retries for ever."""
    return Image.fromarray(read_frame(path).permute(1, 2, 0).numpy())


def _decode(file: IO[bytes]) -> NDArray[np.uint8]:
    """Decode an open file to upright RGB pixels (h, w, 3); raise any of Pillow's errors."""
    with Image.open(file, formats=NAMES) as opened:
        image: Image.Image = opened
        _refuse_before_decoding(image)
        image.load()
        turn = UPRIGHT.get(image.getexif().get(ORIENTATION))  # TIFF is turned by Pillow
        if image.mode != 'RGB':
            if _has_16_bits(image):  # Pillow would clip it to white
                image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
            image = image.convert('RGB')
        return np.asarray(image if turn is None else image.transpose(turn))


def _refuse_before_decoding(image: Image.Image) -> None:
    """Raise ValueError for an image that is too large or would silently become wrong pixels."""
    tags = getattr(image, 'tag_v2', {})  # of TIFF, whose tiles are unpacked whole
    tile = tags.get(TIFF_TILE[0], 0) * tags.get(TIFF_TILE[1], 0)
    pixels = max(image.width * image.height, tile)
    if pixels > MAX_PIXELS:
        raise ValueError(f'has {pixels:,} pixels, a frame has at most {MAX_PIXELS:,}')
    # a phone's JPEG ("MPO") may hold smaller copies of its picture
    if getattr(image, 'is_animated', False) and image.format != 'MPO':
        raise ValueError('holds several pictures, a frame is one: save each as a separate file')
    if image.mode in ('I', 'F') or image.mode.startswith('I;'):
        ordinary = tags.get(TIFF_PHOTOMETRIC, 1) == 1 and tags.get(TIFF_BITS, (16,)) == (16,)
        if not _has_16_bits(image) or not ordinary:
            raise ValueError(f'has grey values without a known range (mode {image.mode})')


def _has_16_bits(image: Image.Image) -> bool:
    # Pillow stretches the values of PPM files to 16 bits, and gives them a mode of 32
    return image.mode.startswith('I;16') or (image.format, image.mode) == ('PPM', 'I')


def _refusal(path: object, error: Exception, reason: object) -> InputError:
    of_machine = isinstance(error, MemoryError) or getattr(error, 'errno', None) in OF_THE_MACHINE
    return (InputError if of_machine else BadFrame)(f'cannot read frame {path}: {reason}')


def _reason(error: Exception) -> str:
    if isinstance(error, UnidentifiedImageError):
        return f'cannot identify image as one of {", ".join(FORMATS)}'
    words = getattr(error, 'strerror', None) or ' '.join(str(error).split())[:300]
    plain = OSError, SyntaxError, ValueError, Image.DecompressionBombError
    if words and isinstance(error, plain):
        return words
    return f'damaged ({type(error).__name__}{": " if words else ""}{words})'


def read_clip(
    paths: Sequence[str], chosen: NDArray[np.int64], skip_bad: bool = False
) -> tuple[list[Tensor], NDArray[np.int64], list[str], bool]:
    """Read the frames of a clip, each distinct one once.

    Args:
        paths: all frames of the tracklet.
        chosen: indices of the clip's frames, shape (L,); may repeat.
        skip_bad: replace an unreadable frame by the nearest readable one of the clip, or, if there
            is none, by the first readable frame of the tracklet.

    Returns:
        List of uint8 frames (3, h, w); rows of that list that form the clip, int64 (L,); list of
        skipped paths; whether the clip has no readable frame of its own.

    Raises:
        InputError: a frame cannot be read; with ``skip_bad`` only if no frame of the tracklet can,
            or if the machine is the cause.
    """
    distinct, rows = np.unique(chosen, return_inverse=True)
    frames: list[Tensor] = []
    kept: list[int] = []
    bad_frames: list[str] = []
    for place, index in enumerate(distinct):
        try:
            frames.append(read_frame(paths[index]))
            kept.append(place)
        except BadFrame as error:
            if not skip_bad:
                raise
            bad_frames.append(paths[index])
            last = error
    if not frames:
        frame, more = _first_readable([p for i, p in enumerate(paths) if i not in distinct], last)
        return [frame], np.zeros_like(rows), bad_frames + more, True
    return frames, _nearest(rows, np.array(kept)), bad_frames, False


def has_readable_frame(paths: Iterable[str]) -> bool:
    """Return whether any of the files can be read; the first one usually answers.

    Raises:
        InputError: the machine cannot read a file, see :func:`read_frame`.
    """
    for path in paths:
        with contextlib.suppress(BadFrame):
            read_frame(path)
            return True
    return False


def readable_clip(
    chosen: NDArray[np.int64], readable: NDArray[np.bool_]
) -> tuple[NDArray[np.int64], bool]:
    """Return the frame indices that :func:`read_clip` uses, given which frames are readable.

    Args:
        chosen: indices of the clip's frames, shape (L,).
        readable: for every frame of the tracklet, shape (F,).

    Returns:
        The indices (L,), and whether none of ``chosen`` is readable.
    """
    distinct, rows = np.unique(chosen, return_inverse=True)
    kept = np.flatnonzero(readable[distinct])
    if len(kept) == 0:
        return np.full_like(chosen, np.flatnonzero(readable)[0]), True
    return distinct[kept][_nearest(rows, kept)], False


def _nearest(rows: NDArray[np.int64], kept: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the rows of ``kept`` nearest to each of ``rows``; the earlier of two."""
    nearest: NDArray[np.int64] = np.abs(rows[:, None] - kept).argmin(axis=1)
    return nearest


def _first_readable(paths: Iterable[str], last: BadFrame) -> tuple[Tensor, list[str]]:
    """Return the first readable frame and the bad paths before it.

    Raises:
        InputError: no frame can be read; the message gives the last error.
    """
    bad_frames: list[str] = []
    for path in paths:
        try:
            return read_frame(path), bad_frames
        except BadFrame as error:
            bad_frames.append(path)
            last = error
    raise InputError(f'a tracklet has no readable frame: {last}')
