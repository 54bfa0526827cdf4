"""Path of a frame → uint8 image; a bad file is one clear error, never a hang (the host's loops)."""

import numpy as np
import torch
from PIL import Image, ImageOps

from stmn_plugin.errors import InputError


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
            image = ImageOps.exif_transpose(image)
            if image.mode.startswith('I;16'):  # Pillow would clip it to white
                image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
            pixels = np.array(image.convert('RGB'))  # (height, width, 3)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        reason = getattr(error, 'strerror', None) or str(error).split(str(path))[0].strip(" '")
        raise InputError(f'cannot read frame {path}: {reason}') from error
    return torch.from_numpy(pixels).permute(2, 0, 1).contiguous()
