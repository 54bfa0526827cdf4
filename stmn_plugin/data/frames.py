"""Path of a frame → uint8 image; a bad file is one clear error, never a hang (the host's loops)."""

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

# Pillow's name → suffixes. What a file is, is told by its first bytes; Pillow's other formats
# start programs (EPS), hold no frame or fall over damaged bytes
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
MAX_PIXELS = 4096 * 4096  # of a frame, a person's crop: twice a whole picture of 4K video

# errors of a file that say nothing of the file: too many are open, no memory, a server that is gone
OF_THE_MACHINE = {
    errno.EMFILE,
    errno.ENFILE,
    errno.ENOMEM,
    errno.ETIMEDOUT,
    getattr(errno, 'ESTALE', errno.ENOMEM),  # there are others on Windows
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

# Pillow warns of metadata that it steps over, once a file and worker; the pixels are right
warnings.filterwarnings('ignore', module=r'PIL\.')


class BadFrame(InputError):
    """A file that holds no frame, which may be left out; not one that cannot be read right now."""


def read_frame(path: str | os.PathLike[str]) -> Tensor:
    """Read and decode one image with Pillow.

    The orientation that EXIF gives is applied (the host does not). Grey, palettes and CMYK become
    RGB, 16 bits become 8, transparency is left out. (torchvision's own decoders are deprecated
    since 0.29; OpenCV returns half a picture for a truncated file.)

    Args:
        path: image file.

    Returns:
        RGB uint8, (3, height, width).

    Raises:
        BadFrame: the file is missing, no regular file, unreadable, truncated, none of FORMATS,
            has more than MAX_PIXELS, several pictures (GIF...) or pixels without a known range
            (float TIFF...); names the path.
        InputError: it cannot be read, and that is the machine's fault.
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
    # a copy by numpy: torch takes three times as long to put channels first
    return torch.from_numpy(np.array(pixels.transpose(2, 0, 1), order='C'))


def read_image(path: str) -> Image.Image:
    """:func:`read_frame` as the host's image datasets want it, whose own tries again for ever."""
    return Image.fromarray(read_frame(path).permute(1, 2, 0).numpy())


def _decode(file: IO[bytes]) -> NDArray[np.uint8]:
    """The upright RGB pixels (h, w, 3) of an open file; whatever Pillow raises on bad bytes."""
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
    """ValueError for what is too large, or would become wrong pixels without a word."""
    tags = getattr(image, 'tag_v2', {})  # of TIFF, whose tiles are unpacked whole
    tile = tags.get(TIFF_TILE[0], 0) * tags.get(TIFF_TILE[1], 0)
    pixels = max(image.width * image.height, tile)
    if pixels > MAX_PIXELS:
        raise ValueError(f'has {pixels:,} pixels, a frame has at most {MAX_PIXELS:,}')
    # a phone's JPEG ("MPO") may hold smaller copies of its picture
    if getattr(image, 'is_animated', False) and image.format != 'MPO':
        raise ValueError('holds several pictures, a frame is one: save each as a file of its own')
    if image.mode in ('I', 'F') or image.mode.startswith('I;'):
        ordinary = tags.get(TIFF_PHOTOMETRIC, 1) == 1 and tags.get(TIFF_BITS, (16,)) == (16,)
        if not _has_16_bits(image) or not ordinary:
            raise ValueError(f'has grey values without a known range (mode {image.mode})')


def _has_16_bits(image: Image.Image) -> bool:
    # Pillow stretches the values of PPM files to 16 bits, and gives them a mode of 32
    return image.mode.startswith('I;16') or (image.format, image.mode) == ('PPM', 'I')


def _refusal(path: object, error: Exception, reason: object) -> InputError:
    innocent = isinstance(error, MemoryError) or getattr(error, 'errno', None) in OF_THE_MACHINE
    return (InputError if innocent else BadFrame)(f'cannot read frame {path}: {reason}')


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
        skip_bad: a frame that cannot be read leaves its place to the nearest one of the
            clip; when none can, to the first readable frame of the tracklet.

    Returns:
        List of uint8 frames (3, h, w); rows of that list that make the clip, int64 (L,);
        list of the paths that were left out; whether the clip had no readable frame of its own.

    Raises:
        InputError: a frame cannot be read, or with ``skip_bad`` no frame of the tracklet, or one
            for the machine's fault.
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


def readable_clip(
    chosen: NDArray[np.int64], readable: NDArray[np.bool_]
) -> tuple[NDArray[np.int64], bool]:
    """Frame indices that :func:`read_clip` takes, when it is known which can be read.

    Args:
        chosen: indices of the clip's frames, shape (L,).
        readable: for every frame of the tracklet, shape (F,).

    Returns:
        The indices (L,), and whether none of ``chosen`` can be read.
    """
    distinct, rows = np.unique(chosen, return_inverse=True)
    kept = np.flatnonzero(readable[distinct])
    if len(kept) == 0:
        return np.full_like(chosen, np.flatnonzero(readable)[0]), True
    return distinct[kept][_nearest(rows, kept)], False


def _nearest(rows: NDArray[np.int64], kept: NDArray[np.int64]) -> NDArray[np.int64]:
    """Rows of ``kept`` that are nearest to each of ``rows``; the earlier of two."""
    nearest: NDArray[np.int64] = np.abs(rows[:, None] - kept).argmin(axis=1)
    return nearest


def _first_readable(paths: Iterable[str], last: BadFrame) -> tuple[Tensor, list[str]]:
    """A frame and the paths before it; InputError with the last error when all have one."""
    bad_frames: list[str] = []
    for path in paths:
        try:
            return read_frame(path), bad_frames
        except BadFrame as error:
            bad_frames.append(path)
            last = error
    raise InputError(f'a tracklet has no readable frame: {last}')
