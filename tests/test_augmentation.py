"""Augmentation: what is drawn for a clip, and whole batches changed as each clip would be."""

import hashlib

import numpy as np
import pytest
import references.stmn as references
import torch
from torch.utils.data import default_collate

from stmn_plugin.config import TRANSFORMS
from stmn_plugin.data.augmentation import Augmentation, Draws, erasing_box

MEAN = [0.485, 0.456, 0.406]
FILL = [124, 116, 104]  # the same in grey levels
STEPS = [name for name in TRANSFORMS if name != 'random_patch']


def augmentation(*names, size=(32, 16)):
    return Augmentation(list(names), *size, MEAN)


@pytest.fixture
def clip():
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (6, 3, 32, 16), dtype=torch.uint8, generator=generator)


def augmented(name, clip, seed):
    made = augmentation(name)
    draws = made.draw(len(clip), np.random.default_rng(seed))
    return made.apply_to_clip(clip, draws)


def test_a_clip_flips_as_a_whole_and_half_the_time(clip):
    flipped, count = clip.flip(-1), 0
    for seed in range(200):
        out = augmented('random_flip', clip, seed)
        assert torch.equal(out, clip) or torch.equal(out, flipped)
        count += torch.equal(out, flipped)
    assert 70 <= count <= 130  # 100 +- 4 standard deviations


def test_a_clip_shifts_as_a_whole():
    frame = torch.arange(32 * 16 * 3, dtype=torch.float).view(3, 32, 16).div(6).to(torch.uint8)
    same, shifted = torch.stack([frame] * 4), 0
    for seed in range(20):
        out = augmented('random_crop', same, seed)
        assert out.shape == (4, 3, 32, 16)
        assert all(torch.equal(frame, out[0]) for frame in out)
        shifted += not torch.equal(out[0], same[0])
    assert 3 <= shifted <= 17


def test_a_clip_changes_colour_as_a_whole(clip):
    same = clip[:1].expand(4, -1, -1, -1)
    out = augmented('color_jitter', same, 0)
    assert all(torch.equal(frame, out[0]) for frame in out)
    assert not torch.equal(out[0], same[0])


def test_erasing_decides_per_frame_and_fills_with_the_mean(clip):
    erased = []
    for seed in range(100):
        out = augmented('random_erase', clip, seed)
        changed = (out != clip).any(dim=1)  # (L, H, W)
        erased += changed.flatten(1).any(dim=1).tolist()
        for frame, mask in zip(out, changed, strict=True):
            assert set(map(tuple, frame[:, mask].T.tolist())) <= {tuple(FILL)}
    assert 230 <= sum(erased) <= 370  # of 600 at p=0.5: 300 +- 5.7 standard deviations


def test_erasing_boxes_keep_area_aspect_and_bounds():
    rng = np.random.default_rng(0)
    for _ in range(500):
        top, left, height, width = erasing_box(256, 128, rng)
        assert 0 <= top and top + height <= 256 and 0 <= left and left + width <= 128
        assert 0.018 < height * width / (256 * 128) < 0.41
        assert 0.28 < height / width < 3.6
    assert erasing_box(1, 1, rng) is None


def test_each_step_draws_for_itself_in_its_turn():
    """In the order flip, crop, patch, jitter, erase; a step left out draws nothing."""
    for names in ([], ['random_erase', 'random_flip'], STEPS, TRANSFORMS):
        for seed in range(20):
            rng, draws = np.random.default_rng(seed), np.random.default_rng(seed)
            draws = augmentation(*names).draw(3, draws)
            assert draws.flip == ('random_flip' in names and rng.random() < 0.5)
            cropped = 'random_crop' in names and rng.random() < 0.5
            # 32 x 16 enlarged to 36 x 18
            assert draws.offset == ((rng.integers(5), rng.integers(3)) if cropped else (-1, -1))
            if 'random_patch' in names:
                assert draws.patch_seed == rng.integers(2**63)
            jitter = 'color_jitter' in names
            assert draws.brightness == (rng.uniform(0.8, 1.2) if jitter else 1)
            assert draws.contrast == (rng.uniform(0.85, 1.15) if jitter else 1)
            for box in draws.boxes:
                erases = 'random_erase' in names and rng.random() < 0.5
                assert tuple(box) == (erasing_box(32, 16, rng) if erases else (0, 0, 0, 0))


def test_the_papers_recipe_gives_the_clips_it_always_gave():
    """A checkpoint of an earlier version resumes with the same clips."""
    clip = torch.arange(6 * 3 * 32 * 16).remainder(251).to(torch.uint8).view(6, 3, 32, 16)
    made, clips = augmentation('random_flip', 'random_erase'), []
    for position in range(10):
        draws = made.draw(6, np.random.default_rng((5, 1, position)))
        clips.append(made.apply_to_clip(clip, draws))
    digest = hashlib.sha256(torch.stack(clips).numpy().tobytes()).hexdigest()
    assert digest == '0f78847e89e4b5fc7748f9dd36fb982662337d45f47869c4f3c6fd20c018d9d8'


@pytest.fixture
def batch():
    """Three clips of two frames with an odd width, and draws that use and leave out every step."""
    generator = torch.Generator().manual_seed(1)
    clips = torch.randint(0, 256, (3, 2, 3, 16, 9), dtype=torch.uint8, generator=generator)
    draws = [
        Draws(np.array([[0, 0, 16, 9], [3, 2, 5, 1]]), True, (-1, -1), 0, 1.2, 0.85),
        Draws(np.array([[15, 8, 1, 1], [0, 0, 0, 0]]), False, (2, 1), 0, 0.8, 1.15),
        Draws(np.zeros((2, 4), int), True, (0, 0)),
    ]
    return clips, draws


@pytest.mark.parametrize(
    'name, share',
    [
        ('flip', 0),
        ('crop', 0.25),  # torchvision rounds to bytes between the two axes
        ('jitter', 0.01),  # float32 and float64 round to neighbours
        ('erase', 0),
    ],
)
def test_every_pixel_of_a_batch_is_that_of_the_reference(name, share, batch):
    """``share``: of the values that may be off by one grey level."""
    clips, draws = batch
    references_of = {
        'flip': lambda clip, d: references.flipped(clip) if d.flip else clip,
        'crop': lambda clip, d: references.shifted(clip, *d.offset) if d.offset[0] >= 0 else clip,
        'jitter': lambda clip, d: references.recoloured(clip, d.brightness, d.contrast),
        'erase': lambda clip, d: references.erased(clip, d.boxes.tolist(), FILL),
    }
    full_names = {'jitter': 'color_jitter'}
    made = augmentation(full_names.get(name, f'random_{name}'), size=(16, 9))
    before = clips.clone()
    out = made.apply(clips, default_collate(draws))
    assert torch.equal(clips, before) and out.dtype == torch.uint8 and out.is_contiguous()
    changed = 0
    for clip, d, actual in zip(clips, draws, out, strict=True):
        expected = references_of[name](clip, d)
        off = (actual.int() - expected.int()).abs()
        assert off.max() <= 1 and (off > 0).float().mean() <= share
        changed += not torch.equal(actual, clip)
    assert changed == 2  # of the three


@pytest.mark.parametrize('seq_len', [1, 6])
def test_a_batch_is_augmented_as_each_of_its_clips_alone(seq_len):
    generator = torch.Generator().manual_seed(2)
    clips = torch.randint(0, 256, (8, seq_len, 3, 32, 16), dtype=torch.uint8, generator=generator)
    made = augmentation(*STEPS)
    draws = [made.draw(seq_len, np.random.default_rng(seed)) for seed in range(8)]
    assert len({d.flip for d in draws}) == len({d.offset[0] >= 0 for d in draws}) == 2
    together = made.apply(clips, default_collate(draws))
    alone = torch.stack([made.apply_to_clip(*pair) for pair in zip(clips, draws, strict=True)])
    assert torch.equal(together, alone)


def test_nothing_to_do_costs_nothing(clip):
    made = augmentation()
    draws = default_collate([made.draw(6, np.random.default_rng(0))])
    assert made.apply(clip[None], draws).data_ptr() == clip.data_ptr()
    assert not made.batched  # so no draws travel


@pytest.mark.parametrize('clips', [torch.zeros(2, 6, 3, 8, 4), torch.zeros(6, 3, 8, 4).byte()])
def test_what_is_no_batch_of_bytes_is_refused(clips):
    made = augmentation('random_flip', size=(8, 4))
    with pytest.raises(ValueError, match=r'expected uint8 clips of shape \(B, L, 3, H, W\), got'):
        made.apply(clips, default_collate([made.draw(6, np.random.default_rng(0))] * 2))
