"""Paths of frames → small pictures for figures."""

import numpy as np
from PIL import Image

from stmn_plugin.data.frames import BadFrame, read_frame

HEIGHT, WIDTH = 128, 64  # pixels; enough for half an inch, and small in an SVG file


def picture(path, skip_bad=False):
    """A frame as it is drawn.

    Args:
        path (str): image file.
        skip_bad (bool): an unreadable frame becomes grey instead of an error.

    Returns:
        numpy.ndarray: (HEIGHT, WIDTH, 3) uint8.

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
