"""P x K batches: one pass over the identities, a function of (seed, epoch)."""

import random
from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from stmn_plugin.data.identity_sampler import (
    EpochBatchSampler,
    epoch_batches,
    host_batches,
    identity_batches,
)
from stmn_plugin.errors import InputError


@settings(max_examples=60, deadline=None)
@given(
    counts=st.lists(st.integers(1, 6), min_size=1, max_size=12),
    num_ids=st.integers(1, 5),
    num_instances=st.integers(1, 5),
    seed=st.integers(0, 99),
    epoch=st.integers(0, 99),
)
def test_an_epoch_is_one_pass_over_the_identities(counts, num_ids, num_instances, seed, epoch):
    pids = [pid for pid, count in enumerate(counts) for _ in range(count)]
    if len(counts) < num_ids:
        with pytest.raises(InputError, match=f'{num_ids} identities'):
            identity_batches(pids, num_ids, num_instances, seed, epoch)
        return
    batches = identity_batches(pids, num_ids, num_instances, seed, epoch)
    assert len(batches) == len(counts) // num_ids
    seen = []
    for batch in batches:
        assert len(batch) == num_ids * num_instances
        for start in range(0, len(batch), num_instances):
            group = batch[start : start + num_instances]
            (pid,) = {pids[index] for index in group}
            seen.append(pid)
            if counts[pid] >= num_instances:
                assert len(set(group)) == num_instances  # without replacement where it can be
    assert max(Counter(seen).values()) == 1  # no identity twice
    assert batches == identity_batches(pids, num_ids, num_instances, seed, epoch)


def test_mars_has_78_batches_and_every_identity_has_its_turn():
    pids = np.repeat(np.arange(625), 3).tolist()
    batches = identity_batches(pids, 8, 4, seed=1, epoch=0)
    assert len(batches) == 78
    left_out = [
        set(range(625)) - {pids[i] for batch in identity_batches(pids, 8, 4, 1, e) for i in batch}
        for e in range(4)
    ]
    assert all(len(out) == 1 for out in left_out) and len(set.union(*left_out)) > 1


def test_epochs_and_seeds_differ_and_global_generators_are_left_alone():
    pids = np.repeat(np.arange(20), 4).tolist()
    states = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()
    draws = [identity_batches(pids, 4, 2, s, e) for s in (0, 1) for e in (0, 1)]
    assert all(a != b for i, a in enumerate(draws) for b in draws[:i])
    assert host_batches(torch.utils.data.RandomSampler(pids), 4, 0, 0)
    assert states[0] == random.getstate()
    assert states[1] == np.random.get_state()[1].tolist()
    assert torch.equal(states[2], torch.get_rng_state())


def test_host_samplers_become_a_function_of_seed_and_epoch():
    sampler = torch.utils.data.RandomSampler(range(50))
    first = host_batches(sampler, 8, seed=3, epoch=1)
    torch.rand(7)
    assert first == host_batches(sampler, 8, seed=3, epoch=1)
    assert first != host_batches(sampler, 8, seed=3, epoch=2)
    assert len(first) == 6 and all(len(batch) == 8 for batch in first)  # the last, short one goes


def test_iterating_moves_on_by_itself_and_positions_count_clips():
    sampler = EpochBatchSampler(lambda epoch: [[epoch, 10], [20, 30]])
    for epoch in (0, 1):
        requests = [request for batch in sampler for request in batch]
        assert [tuple(r) for r in requests] == [
            (epoch, epoch, 0),
            (10, epoch, 1),
            (20, epoch, 2),
            (30, epoch, 3),
        ]
    sampler.set_epoch(7)
    assert next(iter(sampler))[0].epoch == 7 and len(sampler) == 2


@pytest.mark.parametrize(
    'name, sizes, batch, groups, said',
    [
        ('RandomDomainSampler', [9, 9, 9, 1], 2, 1, '2 tracklets of a camera, one has 1'),
        ('RandomDatasetSampler', [9, 9, 1], 4, 2, '2 tracklets of a dataset, one has 1'),
        ('RandomDomainSampler', [9, 9], 5, 2, '5 is no multiple of sampler.num_cams 2'),
        ('RandomDatasetSampler', [9], 4, 2, 'num_datasets 2: the training data has 1 dataset'),
        ('RandomDomainSampler', [3, 2], 4, 2, ''),
        ('RandomDatasetSampler', [2], 2, 1, ''),
    ],
)  # fmt: skip
def test_a_group_too_small_for_its_share_is_refused_in_every_epoch(
    name, sizes, batch, groups, said
):
    """The host notices it only in an epoch that draws the group."""
    place = 2 if name == 'RandomDomainSampler' else 3
    tracklets = []
    for group, size in enumerate(sizes):
        for index in range(size):
            one = [(f'{group}-{index}.jpg',), index, 0, 0]
            one[place] = group
            tracklets.append(tuple(one))
    asked = {'num_instances': 1, 'num_cams': groups, 'num_datasets': groups, 'seed': 0}
    draw = epoch_batches(tracklets, name, batch, **asked)
    for epoch in range(8):
        if not said:
            assert all(len(indices) == batch for indices in draw(epoch))
            continue
        with pytest.raises(InputError, match=f'sampler.train_sampler {name}: .*{said}'):
            draw(epoch)
