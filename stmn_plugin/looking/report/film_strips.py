"""Make film strips: small pictures of a clip's frames side by side."""

import io
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from stmn_plugin.data.frames import read_clip
from stmn_plugin.errors import InputError

WIDEST = 16_383  # pixels, of WebP
QUALITY = 78  # of WebP; below 70 faces and textures smear at this size


class StripSize(NamedTuple):
    """Pixels of one frame in a strip."""

    height: int
    width: int

    @classmethod
    def like(cls, frame_height: int, frame_width: int, num_frames: int, height: int) -> 'StripSize':
        """Return a size in a frame's proportions; raise InputError if WebP cannot hold a strip."""
        size = cls(height, max(round(height * frame_width / frame_height), 1))
        if size.width * num_frames > WIDEST:
            raise InputError(
                f'video.seq_len {num_frames}: a page shows at most {WIDEST // size.width} frames '
                'of a clip side by side'
            )
        return size


def film_strip(
    paths: Sequence[str], chosen: NDArray[np.int64], size: StripSize, skip_bad: bool = False
) -> bytes:
    """Read the frames of a clip and put them side by side, as a WebP picture.

    Args:
        paths: all frames of the tracklet.
        chosen: indices of the clip's frames, (L,).
        size: of a frame.
        skip_bad: the nearest frame stands in for an unreadable one, see ``read_clip``.

    Raises:
        InputError: a frame cannot be read.
    """
    frames, rows, *_ = read_clip(paths, chosen, skip_bad)
    thumbnails = [_shrink(frame, size) for frame in frames]
    strip = Image.new('RGB', (size.width * len(rows), size.height))
    for place, row in enumerate(rows):
        strip.paste(thumbnails[row], (size.width * place, 0))
    content = io.BytesIO()
    strip.save(content, 'webp', quality=QUALITY)
    return content.getvalue()


def film_strips(
    clips: Sequence[tuple[Sequence[str], NDArray[np.int64]]],
    size: StripSize,
    skip_bad: bool = False,
) -> list[bytes]:
    """Make strips of many clips, in order, by threads (Pillow decodes outside Python's lock).

    Args:
        clips: paths and chosen frames, as :func:`film_strip` takes them.
        size: of a frame.
        skip_bad: as in :func:`film_strip`.
    """
    with ThreadPoolExecutor() as pool:
        made = pool.map(lambda clip: film_strip(clip[0], clip[1], size, skip_bad), clips)
        progress = tqdm(
            made, total=len(clips), desc='film strips', unit='', leave=False, disable=None
        )
        return list(progress)


def _shrink(frame: Tensor, size: StripSize) -> Image.Image:
    """uint8 tensor (3, h, w) → Pillow image of the size."""
    image = Image.fromarray(np.ascontiguousarray(frame.permute(1, 2, 0)))
    return image.resize((size.width, size.height), Image.Resampling.LANCZOS)
