"""Clips: one decision per clip, values by the book, randomness by (seed, epoch, position)."""

import numpy as np
import pytest
import torch
import torchreid
from PIL import Image

from stmn_plugin.config import TRANSFORMS
from stmn_plugin.data.clips import (
    ClipDataset,
    ClipRequest,
    ClipTransform,
    Normalize,
    erasing_box,
)
from stmn_plugin.data.frame_samplers import sample_rrs
from stmn_plugin.errors import InputError

MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
NORMALIZE = Normalize(MEAN, STD)


def transform(*names, as_uint8=True, size=(32, 16)):
    return ClipTransform(*size, list(names), NORMALIZE, as_uint8)


@pytest.fixture
def frames():
    generator = torch.Generator().manual_seed(0)
    return [
        torch.randint(0, 256, (3, 32, 16), dtype=torch.uint8, generator=generator) for _ in range(6)
    ]


def test_normalisation_is_that_of_the_book(frames):
    clip = transform(as_uint8=False)(frames)
    for channel, (mean, std) in enumerate(zip(MEAN, STD, strict=True)):
        expected = (torch.stack(frames)[:, channel].double() / 255 - mean) / std
        assert torch.allclose(clip[:, channel].double(), expected, atol=1e-6)
    assert clip.dtype == torch.float32


def test_test_clips_equal_the_hosts_transform(frames):
    host = torchreid.data.transforms.build_transforms(32, 16, [], MEAN, STD)[1]
    images = [Image.fromarray(frame.permute(1, 2, 0).numpy()) for frame in frames]
    expected = torch.stack([host(image) for image in images])
    assert torch.allclose(transform(as_uint8=False)(frames), expected, atol=1e-6)


def test_frames_of_any_size_are_resized_like_the_hosts(frames):
    host = torchreid.data.transforms.build_transforms(32, 16, [], MEAN, STD)[1]
    smooth = Image.fromarray(frames[0].permute(1, 2, 0).numpy()).resize((40, 70), Image.BICUBIC)
    large = torch.from_numpy(np.array(smooth)).permute(2, 0, 1)
    clip = transform(as_uint8=False)([frames[0], large])
    assert clip.shape == (2, 3, 32, 16)
    # one grey level, the rounding of another resampler
    assert (clip[1] - host(smooth)).abs().max() < 1.01 / 255 / min(STD)


def test_a_clip_flips_as_a_whole_and_half_the_time(frames):
    clip, flipped, count = torch.stack(frames), torch.stack(frames).flip(-1), 0
    for seed in range(200):
        out = transform('random_flip')(frames, np.random.default_rng(seed))
        assert torch.equal(out, clip) or torch.equal(out, flipped)
        count += torch.equal(out, flipped)
    assert 70 <= count <= 130  # 100 +- 4 standard deviations


def test_a_clip_shifts_as_a_whole():
    same = [torch.arange(32 * 16 * 3, dtype=torch.float).view(3, 32, 16).div(6).to(torch.uint8)] * 4
    shifted = 0
    for seed in range(20):
        out = transform('random_crop')(same, np.random.default_rng(seed))
        assert out.shape == (4, 3, 32, 16)
        assert all(torch.equal(frame, out[0]) for frame in out)
        shifted += not torch.equal(out[0], same[0])
    assert 3 <= shifted <= 17


def test_a_clip_changes_colour_as_a_whole(frames):
    same = [frames[0]] * 4
    out = transform('color_jitter')(same, np.random.default_rng(0))
    assert all(torch.equal(frame, out[0]) for frame in out)
    assert not torch.equal(out[0], same[0])


def test_erasing_decides_per_frame_and_fills_with_the_mean(frames):
    untouched = torch.stack(frames)
    erased = []
    for seed in range(100):
        out = transform('random_erase')(frames, np.random.default_rng(seed))
        changed = (out != untouched).any(dim=1)  # (L, H, W)
        erased += changed.flatten(1).any(dim=1).tolist()
        for frame, mask in zip(out, changed, strict=True):
            fill = frame[:, mask].float()
            assert torch.equal(fill, torch.tensor(MEAN).mul(255).round()[:, None].expand_as(fill))
    assert 230 <= sum(erased) <= 370  # of 600 at p=0.5: 300 +- 5.7 standard deviations
    filled = NORMALIZE(torch.tensor(MEAN).mul(255).round().to(torch.uint8).view(3, 1, 1))
    assert filled.abs().max() < 0.5 / 255 / min(STD) + 1e-6  # 0, but for the rounding to a byte


def test_erasing_boxes_keep_area_aspect_and_bounds():
    rng = np.random.default_rng(0)
    for _ in range(500):
        top, left, height, width = erasing_box(256, 128, rng)
        assert 0 <= top and top + height <= 256 and 0 <= left and left + width <= 128
        assert 0.018 < height * width / (256 * 128) < 0.41
        assert 0.28 < height / width < 3.6
    assert erasing_box(1, 1, rng) is None


def test_every_name_of_the_host_works_and_a_wrong_one_is_named(frames):
    for name in TRANSFORMS:
        out = transform(name.upper())(frames, np.random.default_rng(0))
        assert (out.shape, out.dtype) == ((6, 3, 32, 16), torch.uint8)
    with pytest.raises(InputError, match='random_flp'):
        transform('random_flp')


def test_testing_changes_nothing(frames):
    assert torch.equal(transform(*TRANSFORMS)(frames, None), torch.stack(frames))


@pytest.fixture
def dataset(tmp_path, frames):
    paths = []
    for i, frame in enumerate(frames):
        paths.append(str(tmp_path / f'{i}.png'))
        Image.fromarray(frame.permute(1, 2, 0).numpy()).save(paths[-1])

    def sampler(num_frames, rng=None):
        return sample_rrs(num_frames, 3, rng)

    tracklets = [(tuple(paths), 7, 2, 0), ((), 8, 1, 0)]
    return ClipDataset(tracklets, sampler, transform('random_flip', 'random_erase'), seed=5)


def test_items_are_the_hosts_and_a_function_of_seed_epoch_and_position(dataset, frames):
    item = dataset[0]
    assert (item['pid'], item['camid'], item['dsetid']) == (7, 2, 0)
    assert torch.equal(item['img'], torch.stack(frames)[[0, 2, 4]])  # testing: the first of each
    draws = {
        (epoch, position): dataset[ClipRequest(0, epoch, position)]['img']
        for epoch in range(3)
        for position in range(3)
    }
    for key, clip in draws.items():
        assert torch.equal(clip, dataset[ClipRequest(0, *key)]['img'])
    assert len({clip.numpy().tobytes() for clip in draws.values()}) == len(draws)
    dataset.seed = 6
    assert not torch.equal(draws[0, 0], dataset[ClipRequest(0, 0, 0)]['img'])


def test_an_empty_tracklet_is_named(dataset):
    with pytest.raises(InputError, match='person 8, camera 1'):
        dataset[1]
