"""Clips of any tracklets: what a tracklet may be, and that a batch holds the planned frames."""

from pathlib import Path

import pytest
import torch
from PIL import Image

from stmn_plugin.data import ClipPlan, clip_loader
from stmn_plugin.data.clips import Normalize
from stmn_plugin.data.tracklets import as_tracklets
from stmn_plugin.errors import InputError
from stmn_plugin.labels import UNKNOWN

MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.3, 0.4)


@pytest.fixture
def frames(tmp_path):
    """Seven frames in one colour each: grey level 10 times their number."""
    paths = [tmp_path / f'{number}.png' for number in range(7)]
    for number, path in enumerate(paths):
        Image.new('RGB', (8, 16), (10 * number,) * 3).save(path)
    return paths


def grey_levels(batch):
    """The grey level of every frame of every clip, ``rows`` followed."""
    return [[int(batch.frames[row].max()) for row in clip] for clip in batch.rows.tolist()]


def test_bare_paths_and_the_hosts_tuples_give_the_same_clips(frames):
    strings = tuple(map(str, frames))
    plan = ClipPlan(3, 'in_order')
    options = {'batch_size': 8, 'as_uint8': True}
    bare = clip_loader([frames[:4], strings], plan, 16, 8, **options)
    host = clip_loader([(strings[:4], 5, 1, 0), (strings, 6, 2, 0)], plan, 16, 8, **options)
    for loader in (bare, host):
        (batch,) = loader
        assert grey_levels(batch) == [
            [0, 10, 20],
            [30, 30, 30],
            [0, 10, 20],
            [30, 40, 50],
            [60, 60, 60],
        ]
        assert batch.tracklets.tolist() == [0, 0, 1, 1, 1]
        assert len(batch.frames) == 4 + 7  # a frame that a clip repeats is there once
        assert batch.frames.dtype == torch.uint8 and not batch.stand_ins.any()


def test_floats_are_normalised_and_resized(frames):
    (batch,) = clip_loader([frames], ClipPlan(7), 32, 20, MEAN, STD)
    assert batch.frames.shape == (7, 3, 32, 20)
    for frame, level in zip(batch.frames, range(0, 70, 10), strict=True):
        for channel, mean, std in zip(frame, MEAN, STD, strict=True):
            assert channel.sub((level / 255 - mean) / std).abs().max() < 1e-5


def test_bytes_normalised_by_the_caller_are_the_same(frames):
    options = ([frames], ClipPlan(4), 32, 20, MEAN, STD)
    (floats,), (as_bytes,) = clip_loader(*options), clip_loader(*options, as_uint8=True)
    torch.testing.assert_close(Normalize(MEAN, STD)(as_bytes.frames), floats.frames)


def test_batches_are_of_clips_and_leave_the_global_generator_alone(frames):
    state = torch.get_rng_state()
    batches = list(clip_loader([frames] * 3, ClipPlan(2, 'all'), 16, 8, batch_size=5))
    assert [len(batch.rows) for batch in batches] == [5, 5, 2]
    assert torch.equal(torch.get_rng_state(), state)


def test_a_bad_frame_is_an_error_or_left_out(frames):
    frames[1].write_bytes(b'')
    plan = ClipPlan(7)
    with pytest.raises(InputError, match=r'1\.png'):
        list(clip_loader([frames], plan, 16, 8))
    (batch,) = clip_loader([frames], plan, 16, 8, skip_bad=True, as_uint8=True)
    assert batch.bad_frames == [str(frames[1])]
    assert grey_levels(batch) == [[0, 0, 20, 30, 40, 50, 60]]


def test_a_bare_list_has_no_person_and_no_camera():
    assert as_tracklets([[Path('a.jpg')], ('b', 'c', 'd', 'e')]) == [
        (('a.jpg',), UNKNOWN, UNKNOWN, 0),
        (('b', 'c', 'd', 'e'), UNKNOWN, UNKNOWN, 0),
    ]
    known = (['a.jpg'], 3, 1, 0)
    assert as_tracklets([known])[0] == known


@pytest.mark.parametrize(
    'tracklets, words',
    [
        (['a.jpg'], 'tracklet 0: expected paths of frames'),
        ([['a.jpg'], [3]], 'tracklet 1: expected paths of frames'),
        ([('a.jpg', 1, 2, 0)], 'tracklet 0: expected paths of frames'),
        ([['a.jpg'], []], 'tracklet 1 has no frame'),
        ([((), 1, 2, 0)], 'tracklet 0 has no frame'),
    ],
)
def test_what_is_no_tracklet_is_named(tracklets, words):
    with pytest.raises(InputError, match=words):
        clip_loader(tracklets, ClipPlan(2), 16, 8)
