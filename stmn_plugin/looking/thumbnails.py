"""Read frames as thumbnails for figures."""

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from stmn_plugin.data.frames import BadFrame, read_frame

HEIGHT, WIDTH = 128, 64  # pixels; enough for half an inch, and small in an SVG file


def thumbnail(path: str, skip_bad: bool = False) -> NDArray[np.uint8]:
    """A frame, scaled down.

    Args:
        path: image file.
        skip_bad: an unreadable frame becomes grey instead of an error.

    Returns:
        (HEIGHT, WIDTH, 3).

    Raises:
        InputError: the frame cannot be read; with ``skip_bad``, for the machine's fault.
    """
    try:
        pixels = read_frame(path).permute(1, 2, 0).numpy()
    except BadFrame:
        if not skip_bad:
            raise
        return np.full((HEIGHT, WIDTH, 3), 127, dtype=np.uint8)
    image = Image.fromarray(pixels).resize((WIDTH, HEIGHT), Image.Resampling.LANCZOS)
    return np.asarray(image)
