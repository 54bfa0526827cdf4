"""Strips: the right frames, side by side, in order."""

import io

import numpy as np
import pytest
from PIL import Image

from stmn_plugin.errors import InputError
from stmn_plugin.looking.report.film_strips import StripSize, film_strip, film_strips

SIZE = StripSize(height=96, width=48)
GREYS = (10, 60, 110, 160, 210)


@pytest.fixture
def paths(tmp_path):
    names = []
    for i, grey in enumerate(GREYS):
        names.append(str(tmp_path / f'{i}.png'))
        Image.new('L', (30 + i, 50), grey).save(names[-1])  # sizes may differ within a tracklet
    return tuple(names)


def greys(strip):
    """Mean grey of each frame of a strip."""
    image = Image.open(io.BytesIO(strip))
    assert image.format == 'WEBP' and image.height == SIZE.height
    frames = np.split(
        np.asarray(image.convert('L'), dtype=float), image.width // SIZE.width, axis=1
    )
    return [frame.mean() for frame in frames]


def test_frames_stand_in_the_order_of_the_clip_repeats_included(paths):
    strip = film_strip(paths, np.array([3, 0, 4, 4]), SIZE)
    assert greys(strip) == pytest.approx([160, 10, 210, 210], abs=4)


def test_many_strips_come_in_order(paths):
    clips = [(paths, np.array([i, i])) for i in (2, 0, 4, 1)]
    shown = [greys(strip)[0] for strip in film_strips(clips, SIZE)]
    assert shown == pytest.approx([GREYS[i] for i in (2, 0, 4, 1)], abs=4)


def test_an_unreadable_frame_is_named_or_replaced_by_its_neighbour(paths):
    with open(paths[1], 'wb'):
        pass
    clips = [(paths, np.array([0, 1, 4]))]
    with pytest.raises(InputError, match=r'1\.png'):
        film_strips(clips, SIZE)
    (strip,) = film_strips(clips, SIZE, skip_bad=True)
    assert greys(strip) == pytest.approx([10, 10, 210], abs=4)


def test_the_longest_clip_has_a_strip_and_a_longer_one_is_refused(paths):
    size = StripSize.like(256, 128, 341, height=96)
    assert size == SIZE
    film_strip(paths, np.zeros(341, dtype=int), size)
    with pytest.raises(InputError, match='video.seq_len 342: .* at most 341 frames'):
        StripSize.like(256, 128, 342, height=96)
