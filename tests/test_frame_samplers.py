"""Frame samplers against DATASETS.md, the loop references and the host's own code."""

import collections

import numpy as np
import pytest
import references.stmn as references
import torch
import torchreid
from hypothesis import given, settings
from hypothesis import strategies as st

from stmn_plugin.data.frame_samplers import (
    FRAME_SAMPLERS,
    sample_all,
    sample_consecutive,
    sample_evenly,
    sample_every_8th,
    sample_random,
    sample_rrs,
)

num_frames_strategy = st.integers(1, 400)
seq_len_strategy = st.integers(1, 20)
chunks_strategy = st.sampled_from(['balanced', 'ceil'])
seed_strategy = st.integers(0, 2**32 - 1)
examples = settings(max_examples=200, deadline=None)


class ExtremeGenerator:
    """Stands in for numpy's generator and always draws the last (or first) number allowed."""

    def __init__(self, last):
        self.last = last

    def integers(self, low, high=None, size=None, dtype=np.int64, endpoint=False):
        assert high is not None and size is None
        high = np.asarray(high) - (0 if endpoint else 1)
        low, high = np.broadcast_arrays(low, high)
        assert (low <= high).all()
        return (high if self.last else low).astype(dtype)


# --- rrs ---


@examples
@given(num_frames_strategy, seq_len_strategy, chunks_strategy)
def test_rrs_without_a_generator_takes_the_first_frame_of_each_chunk(f, length, chunks):
    indices = sample_rrs(f, length, chunks=chunks)
    assert indices.dtype == np.int64 and indices.shape == (length,)
    assert indices.tolist() == references.rrs_test(f, length, chunks)


@examples
@given(num_frames_strategy, seq_len_strategy, chunks_strategy, seed_strategy)
def test_rrs_draws_one_frame_inside_each_chunk_in_order(f, length, chunks, seed):
    indices = sample_rrs(f, length, np.random.default_rng(seed), chunks)
    assert indices.dtype == np.int64 and indices.shape == (length,)
    allowed = references.rrs_chunks(f, length, chunks)
    for index, chunk in zip(indices.tolist(), allowed, strict=True):
        assert index in chunk
    assert (np.diff(indices) >= 0).all()
    again = sample_rrs(f, length, np.random.default_rng(seed), chunks)
    assert indices.tolist() == again.tolist()


@examples
@given(num_frames_strategy, seq_len_strategy, chunks_strategy)
def test_rrs_reaches_both_ends_of_every_chunk(f, length, chunks):
    allowed = references.rrs_chunks(f, length, chunks)
    first = sample_rrs(f, length, ExtremeGenerator(last=False), chunks)
    last = sample_rrs(f, length, ExtremeGenerator(last=True), chunks)
    assert first.tolist() == [chunk[0] for chunk in allowed]
    assert last.tolist() == [chunk[-1] for chunk in allowed]


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 40), st.integers(1, 8), seed_strategy)
def test_balanced_chunks_reach_every_frame(f, length, seed):
    rng = np.random.default_rng(seed)
    seen = set()
    for _ in range(600):  # a chunk has at most 40 frames: (39/40)^600 = 2.5e-7
        seen.update(sample_rrs(f, length, rng).tolist())
        if len(seen) == f:
            break
    if f >= length:
        assert seen == set(range(f))
    else:
        assert seen == {i * f // length for i in range(length)} == set(range(f))


@examples
@given(num_frames_strategy, seq_len_strategy)
def test_balanced_chunk_sizes_differ_by_at_most_one(f, length):
    first = sample_rrs(f, length, ExtremeGenerator(last=False))
    last = sample_rrs(f, length, ExtremeGenerator(last=True))
    sizes = last - first + 1
    assert sizes.max() - sizes.min() <= 1
    if f >= length:
        assert sizes.sum() == f and (first[1:] == last[:-1] + 1).all()
        assert first[0] == 0 and last[-1] == f - 1


def test_a_training_draw_is_uniform_over_each_chunk():
    rng = np.random.default_rng(0)
    draws = np.stack([sample_rrs(13, 3, rng) for _ in range(6000)])
    for position, chunk in enumerate(references.rrs_chunks(13, 3)):
        counts = collections.Counter(draws[:, position].tolist())
        assert sorted(counts) == chunk
        expected = 6000 / len(chunk)
        spread = (expected * (1 - 1 / len(chunk))) ** 0.5
        assert max(abs(count - expected) for count in counts.values()) < 5 * spread


@pytest.mark.parametrize(
    ('f', 'chunks', 'expected'),
    [
        (13, 'balanced', [0, 2, 4, 6, 8, 10]),
        (13, 'ceil', [0, 3, 6, 9, 12, 12]),
        (7, 'ceil', [0, 2, 4, 6, 6, 6]),
        (7, 'balanced', [0, 1, 2, 3, 4, 5]),
        (6, 'balanced', [0, 1, 2, 3, 4, 5]),
        (6, 'ceil', [0, 1, 2, 3, 4, 5]),
        (4, 'balanced', [0, 0, 1, 2, 2, 3]),
        (4, 'ceil', [0, 1, 2, 3, 3, 3]),
        (1, 'balanced', [0] * 6),
        (1, 'ceil', [0] * 6),
        (12, 'balanced', [0, 2, 4, 6, 8, 10]),
    ],
)
def test_rrs_gives_the_examples_of_the_datasets_page(f, chunks, expected):
    assert sample_rrs(f, 6, chunks=chunks).tolist() == expected


@pytest.mark.parametrize('chunks', ['balanced', 'ceil'])
@pytest.mark.parametrize('seed', [None, 0, 1])
def test_one_frame_fills_the_clip(chunks, seed):
    rng = None if seed is None else np.random.default_rng(seed)
    assert sample_rrs(1, 6, rng, chunks).tolist() == [0] * 6


@pytest.mark.parametrize('f', range(1, 6))
def test_fewer_frames_than_the_clip_leave_nothing_to_chance(f):
    for seed in range(5):
        balanced = sample_rrs(f, 6, np.random.default_rng(seed))
        assert balanced.tolist() == [i * f // 6 for i in range(6)]
        ceil = sample_rrs(f, 6, np.random.default_rng(seed), 'ceil')
        assert ceil.tolist() == [min(i, f - 1) for i in range(6)]


@given(f=num_frames_strategy, length=seq_len_strategy)
@examples
def test_when_frames_divide_evenly_both_kinds_of_chunks_agree(f, length):
    f = f * length
    assert references.rrs_chunks(f, length, 'ceil') == references.rrs_chunks(f, length)
    assert sample_rrs(f, length).tolist() == sample_rrs(f, length, chunks='ceil').tolist()


def test_a_very_long_tracklet_does_not_overflow():
    f = 2**40 + 7
    assert sample_rrs(f, 6).tolist() == [i * f // 6 for i in range(6)]


def test_unknown_chunks_are_quoted():
    with pytest.raises(ValueError, match="'floor'"):
        sample_rrs(10, 6, chunks='floor')


# --- consecutive ---


@pytest.mark.parametrize('length', [1, 2, 4, 7])
@pytest.mark.parametrize('f', [1, 2, 3, 4, 5, 8, 20])
def test_consecutive_frames_are_a_window_or_a_loop(f, length):
    """Every window of the tracklet, each as often, and nothing else."""
    allowed = references.windows(f, length)
    count = 400 * len(allowed)
    rng = np.random.default_rng(f * length)
    draws = [sample_consecutive(f, length, rng) for _ in range(count)]
    assert all(one.dtype == np.int64 for one in draws)
    counts = collections.Counter(tuple(one.tolist()) for one in draws)
    assert sorted(counts) == sorted(map(tuple, allowed))
    spread = (400 * (1 - 1 / len(allowed))) ** 0.5
    assert all(abs(times - 400) <= 5 * spread for times in counts.values())
    assert sample_consecutive(f, length).tolist() == allowed[0]  # in testing


def test_consecutive_frames_of_a_short_tracklet_by_hand():
    for seed in range(5):
        rng = np.random.default_rng(seed)
        assert sample_consecutive(3, 8, rng).tolist() == [0, 1, 2, 0, 1, 2, 0, 1]
        assert sample_consecutive(4, 4, rng).tolist() == [0, 1, 2, 3]
    assert sample_consecutive(9, 4, ExtremeGenerator(last=True)).tolist() == [5, 6, 7, 8]
    assert sample_consecutive(9, 4, ExtremeGenerator(last=False)).tolist() == [0, 1, 2, 3]


# --- every 8th ---


@pytest.mark.parametrize('length', [1, 2, 4])
@pytest.mark.parametrize('more', [0, 1, 5])
def test_every_8th_frame_is_a_spread_window(length, more):
    """Every window of the tracklet, each as often, and nothing else."""
    f = 8 * length + more
    allowed = references.every_8th(f, length)
    assert len(allowed) == 8 + more and [clip[-1] for clip in allowed][-1] == f - 1
    count = 400 * len(allowed)
    rng = np.random.default_rng(f)
    draws = [sample_every_8th(f, length, rng) for _ in range(count)]
    assert all(one.dtype == np.int64 for one in draws)
    counts = collections.Counter(tuple(one.tolist()) for one in draws)
    assert sorted(counts) == sorted(map(tuple, allowed))
    spread = (400 * (1 - 1 / len(allowed))) ** 0.5
    assert all(abs(times - 400) <= 5 * spread for times in counts.values())


@pytest.mark.parametrize('f', [1, 3, 4, 25, 31])
def test_every_8th_frame_of_a_short_tracklet_is_drawn_from_all(f):
    """In order, and alike often; a frame comes twice only where there are fewer than four."""
    assert not references.every_8th(f, 4)
    rng = np.random.default_rng(f)
    draws = [sample_every_8th(f, 4, rng) for _ in range(6000)]
    counts = np.zeros(f)
    for one in draws:
        assert one.dtype == np.int64 and one.shape == (4,) and (np.diff(one) >= (f >= 4)).all()
        np.add.at(counts, one, 1)
    expected = 6000 * 4 / f
    assert abs(counts - expected).max() < 5 * expected**0.5


@examples
@given(num_frames_strategy, seq_len_strategy)
def test_every_8th_frame_without_a_generator_starts_at_the_first(f, length):
    assert sample_every_8th(f, length).tolist() == references.every_8th_test(f, length)


@pytest.mark.parametrize(
    ('f', 'expected'),
    [
        (100, [0, 8, 16, 24]),
        (25, [0, 8, 16, 24]),
        (24, [0, 4, 8, 12]),
        (13, [0, 4, 8, 12]),
        (12, [0, 2, 4, 6]),
        (7, [0, 2, 4, 6]),
        (6, [0, 1, 2, 3]),
        (4, [0, 1, 2, 3]),
        (3, [0, 1, 2, 0]),
        (1, [0, 0, 0, 0]),
    ],
)
def test_every_8th_frame_by_hand(f, expected):
    assert sample_every_8th(f, 4).tolist() == expected
    if f >= 32:
        last, first = ExtremeGenerator(last=True), ExtremeGenerator(last=False)
        assert sample_every_8th(f, 4, last).tolist() == [75, 83, 91, 99]
        assert sample_every_8th(f, 4, first).tolist() == expected


# --- the host's own ---


class NumberedClips(torchreid.data.VideoDataset):
    """The host's video dataset over 'images' that are their own frame numbers."""

    def __init__(self, num_frames, seq_len, sample_method):
        tracklet = (tuple(str(i) for i in range(num_frames)), 0, 0, 0)
        super().__init__(
            [tracklet],
            [tracklet],
            [tracklet],
            transform=lambda number: torch.tensor([number]),
            mode='query',
            seq_len=seq_len,
            sample_method=sample_method,
            verbose=False,
        )


@pytest.fixture
def numbered_images(monkeypatch):
    """The host reads an image's name as its number."""
    names = torchreid.data.VideoDataset.__getitem__.__globals__
    monkeypatch.setitem(names, 'read_image', int)


def host_indices(num_frames, seq_len, sample_method):
    return NumberedClips(num_frames, seq_len, sample_method)[0]['img'].flatten().tolist()


def test_evenly_equals_the_hosts_code_for_every_small_tracklet(numbered_images):
    for f in range(1, 41):
        for length in range(1, 11):
            ours = sample_evenly(f, length)
            assert ours.dtype == np.int64
            assert ours.tolist() == host_indices(f, length, 'evenly'), (f, length)
            assert ours.tolist() == references.evenly(f, length), (f, length)


def test_all_equals_the_hosts_code(numbered_images):
    for f in (1, 2, 5, 17):
        ours = sample_all(f, 4)
        assert ours.dtype == np.int64
        assert ours.tolist() == host_indices(f, 4, 'all') == list(range(f))


def test_random_follows_the_same_rules_as_the_hosts_code(numbered_images):
    """Both: sorted, inside the tracklet, repeated frames only where there are too few."""
    rng = np.random.default_rng(0)
    np.random.seed(0)  # the host draws from numpy's global generator  # noqa: NPY002
    for f, length in [(3, 5), (5, 5), (6, 5), (40, 5), (1, 5), (2, 1)]:
        ours = {tuple(sample_random(f, length, rng).tolist()) for _ in range(60)}
        host = {tuple(host_indices(f, length, 'random')) for _ in range(60)}
        for drawn in ours | host:
            assert len(drawn) == length and list(drawn) == sorted(drawn)
            assert set(drawn) <= set(range(f))
            if f >= length:
                assert len(set(drawn)) == length
        # alike also in how much they vary
        assert (len(ours) == 1) == (len(host) == 1) == (f in (1, length))


def test_random_draws_every_frame_equally_often():
    rng = np.random.default_rng(1)
    counts = np.zeros(10)
    for _ in range(4000):
        drawn = sample_random(10, 4, rng)
        assert drawn.dtype == np.int64
        counts[drawn] += 1
    assert abs(counts - 1600).max() < 5 * (4000 * 0.4 * 0.6) ** 0.5


def test_random_with_too_few_frames_draws_with_replacement():
    rng = np.random.default_rng(2)
    draws = [sample_random(3, 5, rng).tolist() for _ in range(400)]
    assert [0] * 5 in draws or [1] * 5 in draws or [2] * 5 in draws  # 3 of 243 each time
    missing = sum(len(set(drawn)) < 3 for drawn in draws) / 400
    assert abs(missing - (1 - 150 / 243)) < 0.12  # 150 of 3^5 sequences hold all three


def test_random_without_a_generator_repeats_itself():
    assert sample_random(50, 6).tolist() == sample_random(50, 6).tolist()
    different = {tuple(sample_random(50, 6, np.random.default_rng(s)).tolist()) for s in range(9)}
    assert len(different) > 1


# --- all of them ---


@pytest.mark.parametrize('name', sorted(FRAME_SAMPLERS))
@pytest.mark.parametrize(('f', 'length'), [(0, 6), (-1, 6), (6, 0), (6, -2)])
def test_every_sampler_quotes_an_impossible_count(name, f, length):
    wrong = f if f < 1 else length
    with pytest.raises(ValueError, match=rf'at least (one frame|1), got {wrong}$'):
        FRAME_SAMPLERS[name](f, length)


@pytest.mark.parametrize('name', sorted(FRAME_SAMPLERS))
def test_every_sampler_is_registered_under_its_name_and_stays_inside_the_tracklet(name):
    names = ['all', 'consecutive', 'evenly', 'every_8th', 'random', 'rrs']
    assert sorted(FRAME_SAMPLERS) == names
    assert FRAME_SAMPLERS[name].__name__ == f'sample_{name}'
    for f in (1, 5, 6, 7, 100):
        for rng in (None, np.random.default_rng(f)):
            indices = FRAME_SAMPLERS[name](f, 6, rng)
            assert indices.dtype == np.int64 and len(indices) == (f if name == 'all' else 6)
            assert indices.min() >= 0 and indices.max() < f
