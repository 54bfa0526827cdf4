"""Clips: resized and normalised as defined, randomness by (seed, epoch, position)."""

import numpy as np
import pytest
import torch
import torchreid
from PIL import Image

from stmn_plugin.config import TRANSFORMS
from stmn_plugin.data.clips import ClipDataset, ClipRequest, ClipTransform, Normalize
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


def test_every_name_of_the_host_works_and_a_wrong_one_is_named(frames):
    for name in TRANSFORMS:
        made = transform(name.upper())
        out = made(frames, made.augmentation.draw(6, np.random.default_rng(0)))
        assert (out.shape, out.dtype) == ((6, 3, 32, 16), torch.uint8)
    with pytest.raises(InputError, match='random_flp'):
        transform('random_flp')


def test_testing_changes_nothing(frames):
    assert torch.equal(transform(*TRANSFORMS)(frames, None), torch.stack(frames))


@pytest.mark.parametrize(
    'names, as_uint8, left',
    [
        (['random_flip', 'color_jitter'], True, True),
        (['random_flip', 'color_jitter'], False, False),  # finished floats are requested
        (['random_patch', 'color_jitter'], True, False),  # the patches are in the worker
        ([], True, False),
    ],
)
def test_augmentation_is_left_to_the_device_where_that_is_possible(names, as_uint8, left, frames):
    made = transform(*names, as_uint8=as_uint8)
    draws = made.augmentation.draw(6, np.random.default_rng(1))
    assert made.leaves_augmentation == left
    untouched = torch.stack(frames) if as_uint8 else NORMALIZE(torch.stack(frames))
    assert torch.equal(made(frames, draws), untouched) == (left or not names)


@pytest.fixture
def dataset(tmp_path, frames):
    paths = []
    for i, frame in enumerate(frames):
        paths.append(str(tmp_path / f'{i}.png'))
        Image.fromarray(frame.permute(1, 2, 0).numpy()).save(paths[-1])

    def sampler(num_frames, rng=None):
        return sample_rrs(num_frames, 3, rng)

    tracklets = [(tuple(paths), 7, 2, 0), ((), 8, 1, 0)]
    made = transform('random_flip', 'random_erase', as_uint8=False)
    return ClipDataset(tracklets, sampler, made, seed=5)


def test_items_are_the_hosts_and_a_function_of_seed_epoch_and_position(dataset, frames):
    item = dataset[0]
    assert (item['pid'], item['camid'], item['dsetid']) == (7, 2, 0)
    chosen = torch.stack(frames)[[0, 2, 4]]  # testing: the first of each
    assert torch.equal(item['img'], NORMALIZE(chosen))
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
