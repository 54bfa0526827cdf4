"""Path of a frame → uint8 image; a bad file is one clear error, never a hang (the host's loops)."""

import numpy as np
import torch
from PIL import Image, ImageOps

from stmn_plugin.errors import InputError

ORIENTATION = 0x0112  # EXIF tag


def read_frame(path):
    """Read and decode one image with Pillow.

    The EXIF orientation is applied, grey and CMYK become RGB, 16 bits become 8. (torchvision's own
    decoders are deprecated since 0.29; OpenCV returns half a picture for a truncated file.)

    Args:
        path (str): image file.

    Returns:
        torch.Tensor: uint8, shape (3, height, width).

    Raises:
        InputError: the file is missing, unreadable, truncated or no image; names the path.
    """
    try:
        with Image.open(path) as image:
            if image.getexif().get(ORIENTATION, 1) != 1:
                image = ImageOps.exif_transpose(image)
            if image.mode.startswith('I;16'):  # Pillow would clip it to white
                image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
            rgb = image if image.mode == 'RGB' else image.convert('RGB')
            pixels = np.array(rgb)  # (height, width, 3)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        reason = getattr(error, 'strerror', None) or str(error).split(str(path))[0].strip(" '")
        raise InputError(f'cannot read frame {path}: {reason}') from error
    return torch.from_numpy(pixels).permute(2, 0, 1).contiguous()


def read_clip(paths, chosen, skip_bad=False):
    """Read the frames of a clip, each distinct one once.

    Args:
        paths (tuple): all frames of the tracklet.
        chosen (numpy.ndarray): indices of the clip's frames, shape (L,); may repeat.
        skip_bad (bool): a frame that cannot be read leaves its place to the nearest one of the
            clip; when none can, to the first readable frame of the tracklet.

    Returns:
        tuple: list of uint8 frames (3, h, w); rows of that list that make the clip, int64 (L,);
        list of the paths that were left out; whether the clip had no readable frame of its own.

    Raises:
        InputError: a frame cannot be read, or with ``skip_bad`` no frame of the tracklet.
    """
    distinct, rows = np.unique(chosen, return_inverse=True)
    frames, kept, bad_frames = [], [], []
    for place, index in enumerate(distinct):
        try:
            frames.append(read_frame(paths[index]))
            kept.append(place)
        except InputError as error:
            if not skip_bad:
                raise
            bad_frames.append(paths[index])
            last = error
    if not frames:
        frame, more = _first_readable([p for i, p in enumerate(paths) if i not in distinct], last)
        return [frame], np.zeros_like(rows), bad_frames + more, True
    return frames, _nearest(rows, np.array(kept)), bad_frames, False


def readable_clip(chosen, readable):
    """Frame indices that :func:`read_clip` takes, when it is known which can be read.

    Args:
        chosen (numpy.ndarray): indices of the clip's frames, shape (L,).
        readable (numpy.ndarray): bool for every frame of the tracklet, shape (F,).

    Returns:
        tuple: the indices (L,), and whether none of ``chosen`` can be read.
    """
    distinct, rows = np.unique(chosen, return_inverse=True)
    kept = np.flatnonzero(readable[distinct])
    if len(kept) == 0:
        return np.full_like(chosen, np.flatnonzero(readable)[0]), True
    return distinct[kept][_nearest(rows, kept)], False


def _nearest(rows, kept):
    """Rows of ``kept`` that are nearest to each of ``rows``; the earlier of two."""
    return np.abs(rows[:, None] - kept).argmin(axis=1)


def _first_readable(paths, last):
    """A frame and the paths before it; InputError with the last error when all have one."""
    bad_frames = []
    for path in paths:
        try:
            return read_frame(path), bad_frames
        except InputError as error:
            bad_frames.append(path)
            last = error
    raise InputError(f'a tracklet has no readable frame: {last}')
