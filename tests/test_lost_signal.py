"""Where a memory loses its signal: planted cases, finite differences and loops for the rest."""

import numpy as np
import pytest
import torch

from stmn_plugin.looking.measures.lost_signal import (
    attention_gradient,
    gradient_and_visibility,
    oracle_memory,
    read_out_and_distractors,
)

PERSONS = np.arange(60) // 2


@pytest.fixture
def rng():
    return np.random.default_rng(3)


def test_the_gradient_is_that_of_finite_differences():
    torch.manual_seed(0)
    vectors, target = torch.randn(3, 4, 5).double(), torch.randn(3, 5).double()

    def loss_of(features):
        return {'square': (features - target).square().sum(dim=1).mean(), 'sum': features.sum()}

    found = attention_gradient(vectors, loss_of)
    assert {*found} == {'square', 'sum'}
    for clip in range(3):
        for frame in range(4):
            ends = []
            for step in (1e-5, -1e-5):
                weights = torch.full((4,), 0.25).double()
                weights[frame] += step
                mean = sum(w * v for w, v in zip(weights, vectors[clip], strict=True))
                ends.append((mean - target[clip]).square().sum())  # of this clip alone
            expected = -(ends[0] - ends[1]) / 2e-5
            assert float(found['square'][clip, frame]) == pytest.approx(float(expected), rel=1e-6)


def test_a_gradient_along_visibility_by_hand(rng):
    visibility = rng.uniform(0, 1, (60, 4))
    visibility[0] = 0.5  # left out
    noise = rng.normal(0, 0.1, visibility.shape)
    gradient = 0.3 * visibility + noise + 5  # a constant moves no weight
    measure = gradient_and_visibility(gradient, visibility, PERSONS)
    gains, correlations = [], []
    for g, v in zip(gradient[1:], visibility[1:], strict=True):
        direction = (v - v.mean()) / np.sqrt(((v - v.mean()) ** 2).sum())
        gains.append(g @ direction)
        correlations.append(np.corrcoef(g, v)[0, 1])
    values = {name: one.value for name, one in measure.values.items()}
    assert values['gain'] == pytest.approx(np.mean(gains))
    assert values['signal'] == pytest.approx(np.mean(gains) / np.std(gains))
    assert values['positive'] == pytest.approx(np.mean(np.array(gains) > 0))
    assert values['pearson'] == pytest.approx(np.mean(correlations))
    assert measure.counts == {'clips': 59, 'clips_left_out': 1} and measure.does_its_job
    against = gradient_and_visibility(-gradient, visibility, PERSONS)
    assert against.does_its_job is False and 'against visibility' in against.verdict
    unrelated = gradient_and_visibility(rng.normal(size=(60, 4)), visibility, PERSONS)
    assert unrelated.does_its_job is None
    assert gradient_and_visibility(gradient[:1], visibility[:1], PERSONS[:1]).values == {}


def positions(rng, count=300, items=4, dim=6):
    """Positions that each show one kind of distractor (or, item 0, none) and what that adds."""
    kinds = rng.integers(items, size=count)
    values = np.concatenate([np.zeros((1, dim)), rng.normal(0, 1, (items - 1, dim))])
    return kinds, values, values[kinds], (kinds > 0).astype(float), np.arange(count) // 10


def test_a_read_out_of_what_was_added_is_aligned(rng):
    kinds, values, added, share, persons = positions(rng)
    probs = np.eye(4)[kinds]
    measure = read_out_and_distractors(probs, 0.1 * values, added, share, persons)  # scale is free
    assert measure.values['explained_raw'].value == pytest.approx(1)
    assert measure.values['best_values'].value == pytest.approx(1)
    assert measure.does_its_job
    other = read_out_and_distractors(probs, rng.normal(size=values.shape), added, share, persons)
    assert other.values['explained_raw'].value < 0.5  # the values are wrong,
    assert other.values['best_values'].value == pytest.approx(1)  # the probabilities are not
    flat = read_out_and_distractors(np.full((300, 4), 0.25), values, added, share, persons)
    assert flat.values['best_values'].value < 0.3
    against = read_out_and_distractors(probs, -values, added, share, persons)
    assert against.values['explained_raw'].value == pytest.approx(-1)
    assert against.does_its_job is False
    nothing = read_out_and_distractors(probs, values, added, 0 * share, persons)
    assert nothing.values == {}


def test_the_shares_of_the_read_out_in_loops(rng):
    _, values, added, _, persons = positions(rng)
    probs, share = rng.dirichlet(np.ones(4), 300), rng.uniform(0, 1, 300)
    added = added + rng.normal(0, 0.3, added.shape)
    measure = read_out_and_distractors(probs, values, added, share, persons)
    raw = np.array([sum(p * v for p, v in zip(row, values, strict=True)) for row in probs])
    kinds = {'raw': raw, 'centred': raw - raw.mean(axis=0)}
    kinds['normalised'] = kinds['centred'] / raw.std(axis=0)
    for name, x in kinds.items():
        product = sum(m * (a @ b) for m, a, b in zip(share, x, added, strict=True))
        size = sum(m * (a @ a) for m, a in zip(share, x, strict=True))
        energy = sum(m * (a @ a) for m, a in zip(share, added, strict=True))
        expected = np.sign(product) * product**2 / (size * energy)
        assert measure.values[f'explained_{name}'].value == pytest.approx(expected), name


def test_a_memory_set_by_hand_finds_the_kinds_of_distractors(rng):
    kinds, values, added, share, _ = positions(rng)
    found, items = oracle_memory(added + rng.normal(0, 0.01, added.shape), share, 4)
    assert not found[0].any() and (items[share == 0] == 0).all()
    left = np.square(added - found[items]).sum() / np.square(added).sum()
    assert left < 0.01
    for kind in range(4):
        assert len({*items[kinds == kind]}) == 1
    few, items = oracle_memory(added, share, 2)  # one kind for all: their mean
    assert few[1] == pytest.approx(added[share > 0].mean(axis=0))
    for wrong in (1, 301):
        with pytest.raises(ValueError, match=f'{wrong} items'):
            oracle_memory(added, share, wrong)
