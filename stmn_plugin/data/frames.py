"""Path of a frame → uint8 image; a bad file is one clear error, never a hang (the host's loops)."""

import io

import numpy as np
import torch
from PIL import Image, ImageOps
from torchvision.io import ImageReadMode, decode_image

from stmn_plugin.errors import InputError


def read_frame(path):
    """Read and decode one image.

    torchvision's decoder takes JPEG, PNG and the like; what it refuses goes to Pillow (BMP, TIFF).
    The EXIF orientation is applied, grey and CMYK become RGB, 16 bits become 8.

    Args:
        path (str): image file.

    Returns:
        torch.Tensor: uint8, shape (3, height, width).

    Raises:
        InputError: the file is missing, unreadable, truncated or no image; names the path.
    """
    try:
        with open(path, 'rb') as file:
            data = bytearray(file.read())  # writable, as torch wants its buffers
    except OSError as error:
        raise InputError(f'cannot read frame {path}: {error.strerror}') from error
    if not data:
        raise InputError(f'cannot read frame {path}: the file is empty')
    try:
        frame = decode_image(
            torch.frombuffer(data, dtype=torch.uint8),
            mode=ImageReadMode.RGB,
            apply_exif_orientation=True,
        )
    except RuntimeError:
        return _read_with_pillow(path, data)
    return frame if frame.dtype == torch.uint8 else (frame.int() >> 8).to(torch.uint8)


def _read_with_pillow(path, data):
    try:
        with Image.open(io.BytesIO(data)) as image:
            rgb = np.array(ImageOps.exif_transpose(image).convert('RGB'))  # (height, width, 3)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        reason = str(error).replace('\n', ' ').split('<_io')[0].strip()
        raise InputError(f'cannot decode frame {path}: {reason}') from error
    return torch.from_numpy(rgb).permute(2, 0, 1).contiguous()
