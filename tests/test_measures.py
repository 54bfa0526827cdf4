"""Numbers about memories: planted cases with known answers, and loops or SciPy for the rest."""

import json
import math
from types import SimpleNamespace

import numpy as np
import pytest
import scipy.stats

from stmn_plugin.looking.clip_statistics import Changes, ClipStatistics, SpatialUse, entropy
from stmn_plugin.looking.measures.against_truth import (
    attention_and_visibility,
    correlation,
    refinement_and_distractors,
)
from stmn_plugin.looking.measures.measure import (
    Claim,
    Estimate,
    Measure,
    bootstrap,
    judge,
    not_measured,
)
from stmn_plugin.looking.measures.memory_use import attention_use, read_out, usage
from stmn_plugin.looking.measures.run_measures import measure_run


@pytest.fixture
def rng():
    return np.random.default_rng(3)


def random_probs(*shape, sharpness=3.0, seed=0):
    logits = sharpness * np.random.default_rng(seed).normal(size=shape)
    return np.exp(logits) / np.exp(logits).sum(axis=-1, keepdims=True)


def own_persons(count):
    return np.arange(count)


# --- bootstrap -----------------------------------------------------------------------------------
def test_the_interval_is_that_of_scipy(rng):
    data = rng.normal(2, 1, 80)
    own = bootstrap(lambda rows: {'mean': data[rows].mean()}, own_persons(80), seed=1)['mean']
    other = scipy.stats.bootstrap(
        (data,), np.mean, n_resamples=4000, method='percentile', rng=5
    ).confidence_interval
    assert own.value == data.mean()
    assert own.low == pytest.approx(other.low, abs=0.03)
    assert own.high == pytest.approx(other.high, abs=0.03)


def test_the_interval_is_over_persons_however_many_clips_they_have(rng):
    data = rng.normal(size=30)
    clips, persons = np.tile(data, 20), np.tile(np.arange(30), 20)  # 20 equal clips of each
    once = bootstrap(lambda rows: {'m': data[rows].mean()}, own_persons(30), seed=2)['m']
    many = bootstrap(lambda rows: {'m': clips[rows].mean()}, persons, seed=2)['m']
    assert many == pytest.approx(once)
    as_if = bootstrap(lambda rows: {'m': clips[rows].mean()}, own_persons(600), seed=2)['m']
    assert as_if.high - as_if.low < 0.4 * (many.high - many.low)


@pytest.mark.slow
def test_intervals_hold_the_truth_as_often_as_they_say():
    """Clips with an effect of their person, drawn again and again; the true mean is 0."""
    rng = np.random.default_rng(5)
    trials, held, held_by_tracklets = 300, 0, 0
    for trial in range(trials):
        persons = np.repeat(np.arange(30), rng.integers(2, 7, 30))
        values = rng.normal(size=30)[persons] + rng.normal(size=len(persons))

        def mean(rows, values=values):
            return {'mean': values[rows].sum() / len(rows)}

        for clusters in (persons, own_persons(len(persons))):
            found = bootstrap(mean, clusters, trial, resamples=200)['mean']
            inside = found.low <= 0 <= found.high
            if clusters is persons:
                held += inside
            else:
                held_by_tracklets += inside
    # two standard deviations of 300 trials are 2.5 %; 200 resamples instead of 1000 cost 0.5 %
    assert 0.92 <= held / trials <= 0.975
    assert held_by_tracklets / trials < 0.85


@pytest.mark.parametrize('persons', [1, 2, 5])
def test_a_few_persons_bound_nothing(persons):
    """Their lowest and highest, beyond which no draw lies, hold the truth in 0, 50 and 94 %."""
    found = bootstrap(lambda rows: {'m': 3.0}, np.arange(10) % persons, seed=0)['m']
    assert found == (3.0, -math.inf, math.inf) and found.side_of(-1e9) == 0
    plain = Measure('', {'m': found}, {}, '', None).as_dict()['values']['m']
    assert json.loads(json.dumps(plain, allow_nan=False)) == {
        'value': 3.0,
        'low': None,
        'high': None,
    }


def test_a_verdict_needs_an_interval_wholly_on_one_side():
    claims = (
        Claim('r', 0, 'it follows', 'it goes against'),
        Claim('gain', 0.5, 'it matters', 'it hardly matters'),
    )

    def verdict(r, gain=(1.0, 0.9, 1.1)):
        return judge({'r': Estimate(*r), 'gain': Estimate(*gain)}, claims, 'part', 'It does.')

    assert verdict((0.2, 0.1, 0.3)) == ('It does.', True)
    words, works = verdict((0.2, -0.1, 0.5))
    assert works is None and words == (
        'No evidence that it follows (r 0.2 [-0.1, 0.5]: the 95% interval includes 0).'
    )
    assert verdict((-0.2, -0.5, 0.1))[1] is None  # below 0, but not surely
    words, works = verdict((-0.2, -0.3, -0.1))
    assert works is False
    assert words == 'It goes against (r -0.2 [-0.3, -0.1]). The part does not work as intended.'
    assert verdict((0.2, 0.1, 0.3), (0.6, 0.4, 0.8))[1] is None
    words, works = verdict((0.2, 0.1, 0.3), (0.4, 0.3, 0.49))
    assert works is False and words.startswith('It hardly matters (gain')
    assert verdict((0.0, 0.0, 0.0))[1] is None and verdict((0.0, -1e-9, 1e-9))[1] is None


def test_a_run_is_measured_person_by_person():
    """Six tracklets of one person bound nothing, six of six persons do."""
    temporal = random_probs(12, 4)

    def intervals(pids):
        statistics = ClipStatistics(
            clip_tracklets=np.repeat(np.arange(6), 2), temporal_probs=temporal, attention=temporal
        )
        run = SimpleNamespace(
            statistics=statistics,
            truth=SimpleNamespace(visibility=random_probs(12, 4, seed=1)),
            explains={'attention', 'temporal_probs'},
            tracklets=SimpleNamespace(all=[((), pid, 0, 0) for pid in pids]),
        )
        measures = measure_run(run)
        names = ('temporal_usage', 'temporal_attention', 'attention_and_visibility')
        return [one.high for name in names for one in measures[name].values.values()]

    assert np.isinf(intervals([7] * 6)).all()
    assert np.isfinite(intervals(range(6))).all()


def test_a_measure_becomes_plain_values():
    measure = not_measured('what it is', 'why not')
    assert measure.as_dict() == {
        'definition': 'what it is',
        'values': {},
        'counts': {},
        'verdict': 'why not',
        'does_its_job': None,
    }
    assert str(Estimate(0.12345, -1, 2)) == '0.123 [-1, 2]'


# --- usage ---------------------------------------------------------------------------------------
def test_entropy_by_hand():
    probs = np.array([[0.5, 0.5, 0], [1, 0, 0], [0.25, 0.25, 0.5]])
    assert entropy(probs) == pytest.approx([math.log(2), 0, 1.5 * math.log(2)])


def usage_of(probs, seed=0):
    """Of accesses (C, P, items)."""
    return usage(probs.mean(axis=1), entropy(probs).mean(axis=1), own_persons(len(probs)), seed)


def test_usage_is_mutual_information_in_loops():
    probs = random_probs(7, 5, 4)  # 7 clips, 5 accesses each
    accesses = [row for clip in probs.tolist() for row in clip]
    used = [sum(row[n] for row in accesses) / 35 for n in range(4)]
    information = sum(p / 35 * math.log(p / used[n]) for row in accesses for n, p in enumerate(row))
    values = usage_of(probs).values
    assert values['information'].value == pytest.approx(information / math.log(4))
    spread = -sum(p * math.log(p) for p in used)
    assert values['usage_entropy'].value == pytest.approx(spread / math.log(4))
    assert values['effective_items'].value == pytest.approx(math.exp(spread))
    inside = values['information']
    assert inside.low <= inside.value <= inside.high


def test_a_memory_is_spread_collapsed_or_flat():
    spread = np.eye(5)[np.arange(200) % 5].reshape(20, 10, 5)
    found = usage_of(spread)
    assert found.does_its_job and found.verdict.startswith('Spread: about 5.0 of 5')
    assert found.values['information'] == pytest.approx((1, 1, 1), abs=0.05)

    collapsed = np.zeros((20, 10, 5))
    collapsed[..., 2] = 1
    found = usage_of(collapsed)
    assert found.does_its_job is False and 'Collapsed: about 1.0 of 5 items' in found.verdict
    assert 'does not work as intended' in found.verdict

    flat = np.full((20, 10, 5), 0.2)
    found = usage_of(flat)
    assert found.does_its_job is False and found.verdict.startswith('Flat')
    assert found.values['usage_entropy'].value == pytest.approx(1)  # looks spread, but:
    assert found.values['access_entropy'].value == pytest.approx(1)
    assert found.values['information'].value == pytest.approx(0, abs=1e-12)


def test_one_item_is_no_division_by_zero():
    values = usage_of(np.ones((3, 2, 1))).values
    assert values['usage_entropy'].value == 0 and values['effective_items'].value == 1


# --- read-out ------------------------------------------------------------------------------------
def use_of(probs):
    """SpatialUse of accesses (C, P, M)."""
    return SpatialUse(
        probs.mean(axis=1),
        np.einsum('cpm,cpn->cmn', probs, probs) / probs.shape[1],
        entropy(probs).mean(axis=1),
        best_probs=None,
        best_places=None,
    )


def test_the_share_of_the_read_out_that_varies_by_reading_everything(rng):
    probs, values = random_probs(6, 8, 4, seed=1), rng.normal(size=(4, 10)) + 0.5
    read = (probs @ values).reshape(-1, 10)  # every read-out of Eq. 2
    share = read.var(axis=0).sum() / (read.var(axis=0).sum() + (read.mean(axis=0) ** 2).sum())
    found = read_out(use_of(probs), values, np.full(6, 4.0), np.full(6, 1.0), own_persons(6))
    assert found.values['varying_share'].value == pytest.approx(share)
    assert found.values['change'].value == pytest.approx(0.5)
    assert found.does_its_job


def test_a_constant_read_out_and_a_small_change_are_said(rng):
    values = rng.normal(size=(4, 10))
    energies = np.full(6, 4.0), np.full(6, 1.0)
    flat = read_out(use_of(np.full((6, 8, 4), 0.25)), values, *energies, own_persons(6))
    assert flat.does_its_job is False and 'nearly constant' in flat.verdict
    probs = random_probs(6, 8, 4)
    small = read_out(use_of(probs), values, np.full(6, 4.0), np.full(6, 1e-5), own_persons(6))
    assert small.does_its_job is False and 'hardly anything (change 0.00158' in small.verdict


# --- attention -----------------------------------------------------------------------------------
def test_attention_by_hand():
    attention = np.array([[0.5, 0.5, 0, 0], [0, 0, 0.5, 0.5], [0.25] * 4, [0.25] * 4])
    found = attention_use(attention, own_persons(4))
    assert found.values['moved'].value == pytest.approx((0.5 + 0.5) / 4)
    assert found.values['largest'].value == pytest.approx((2 + 2 + 1 + 1) / 4)
    assert found.values['between_clips'].value == pytest.approx((0.5 + 0.5) / 4)
    assert found.does_its_job is None  # two of four clips differ: that may be luck


def test_average_pooling_and_one_fixed_attention_are_said():
    average = attention_use(np.full((9, 4), 0.25, dtype=np.float32), own_persons(9))
    assert average.does_its_job is False and 'average pooling' in average.verdict
    fixed = attention_use(np.tile([0.7, 0.1, 0.1, 0.1], (9, 1)), own_persons(9))
    assert fixed.does_its_job is False and 'One fixed attention' in fixed.verdict
    assert fixed.values['moved'].value == pytest.approx(0.45)


# --- attention against visibility ----------------------------------------------------------------
def test_correlation_is_scipys_and_0_where_nothing_varies(rng):
    a, b = rng.normal(size=(2, 6, 5))
    expected = [scipy.stats.pearsonr(x, y).statistic for x, y in zip(a, b, strict=True)]
    assert correlation(a, b) == pytest.approx(expected)
    assert correlation(np.ones((2, 5)), b[:2]).tolist() == [0, 0]


def test_attention_that_is_visibility_follows_it(rng):
    visibility = rng.random((40, 6))
    attention = visibility / visibility.sum(axis=1, keepdims=True)
    found = attention_and_visibility(attention, visibility, own_persons(40))
    assert found.does_its_job
    assert found.values['pearson'] == pytest.approx((1, 1, 1))
    assert found.values['spearman'].value == pytest.approx(1)
    gain = [
        sum(a * v for a, v in zip(*pair, strict=True)) - sum(pair[1]) / 6
        for pair in zip(attention.tolist(), visibility.tolist(), strict=True)
    ]
    assert found.values['visibility_gain'].value == pytest.approx(np.mean(gain), rel=1e-3)


def test_attention_numbers_clip_by_clip_with_scipy(rng):
    visibility = rng.random((30, 4))
    visibility[:10] = 0.97 + 0.01 * rng.random((10, 4))  # hardly varies: left out
    attention = random_probs(30, 4, sharpness=1)
    attention[10] = 0.25  # constant: counts 0
    found = attention_and_visibility(attention, visibility, own_persons(30))
    assert found.counts == {'clips': 20, 'clips_left_out': 10}
    a, v = attention[10:], visibility[10:]
    for name, function in (('pearson', scipy.stats.pearsonr), ('spearman', scipy.stats.spearmanr)):
        each = [0.0] + [function(a[i], v[i]).statistic for i in range(1, 20)]
        assert found.values[name].value == pytest.approx(np.mean(each), abs=1e-4)
        pooled = function(a.ravel(), v.ravel()).statistic
        assert found.values[f'pooled_{name}'].value == pytest.approx(pooled, abs=1e-4)
    fixed = [scipy.stats.pearsonr(a.mean(axis=0), row).statistic for row in v]
    assert found.values['fixed_pearson'].value == pytest.approx(np.mean(fixed), abs=1e-4)


@pytest.mark.slow
def test_attention_that_ignores_visibility_is_said(rng):
    visibility, attention = rng.random((60, 4)), random_probs(60, 4, sharpness=1, seed=8)
    found = attention_and_visibility(attention, visibility, own_persons(60))
    assert found.does_its_job is None
    assert found.verdict.startswith('No evidence that attention follows visibility (pearson 0.0')
    against = attention_and_visibility((1 - visibility) / 4, visibility, own_persons(60))
    assert against.does_its_job is False
    assert against.verdict.startswith('Attention goes against visibility (pearson -1 [')
    noise = np.full((60, 4), 0.25) + 1e-8 * visibility  # of float32: no attention
    found = attention_and_visibility(noise, visibility, own_persons(60))
    assert found.values['pearson'] == (0, 0, 0) and found.does_its_job is None


def test_one_fixed_attention_is_not_taken_for_a_memory(rng):
    """Persons that come in late are seen better at the end; so is any attention to the end."""
    visibility = np.linspace(0.2, 1, 6) + 0.1 * rng.random((50, 6))
    attention = np.tile(np.arange(1, 7) / 21, (50, 1)).astype(np.float32)
    found = attention_and_visibility(attention, visibility, own_persons(50))
    assert found.values['pearson'].value > 0.9
    assert found.values['beyond_fixed'] == pytest.approx((0, 0, 0), abs=1e-6)
    assert found.does_its_job is None and 'better than one fixed attention' in found.verdict


def resampled(statistic, persons, draws=1000):
    """The interval that a measure prints, by another generator and one whole draw at a time."""
    rng = np.random.default_rng(11)
    found = [statistic(rng.integers(persons, size=persons)) for _ in range(draws)]
    widened = scipy.stats.t.ppf(0.975, persons - 1) * math.sqrt(persons / (persons - 1))
    tail = 100 * scipy.stats.norm.cdf(-widened)
    return np.percentile(found, [tail, 100 - tail])


@pytest.mark.slow
def test_the_fixed_attention_is_that_of_the_persons_drawn(rng):
    """All are seen better at the end; attention ignores it, but its mean over 20 is never flat."""
    visibility = np.linspace(0.3, 1, 6) + 0.05 * rng.random((20, 6))
    attention = random_probs(20, 6, sharpness=1, seed=4)

    def statistics(rows):
        a, v = attention[rows], visibility[rows]
        fixed = np.mean([np.corrcoef(a.mean(axis=0), one)[0, 1] for one in v])
        return fixed, np.mean([np.corrcoef(*pair)[0, 1] for pair in zip(a, v, strict=True)]) - fixed

    found = attention_and_visibility(attention, visibility, own_persons(20)).values
    for number, name in enumerate(('fixed_pearson', 'beyond_fixed')):
        low, high = resampled(lambda rows, n=number: statistics(rows)[n], 20)
        assert low < 0 < high and high - low > 0.5
        assert found[name].low == pytest.approx(low, abs=0.1)
        assert found[name].high == pytest.approx(high, abs=0.1)


def test_attention_that_follows_but_hardly_weighs_is_said(rng):
    visibility = rng.random((50, 6))
    found = attention_and_visibility(
        1 / 6 + 1e-3 * (visibility - visibility.mean(axis=1, keepdims=True)),
        visibility,
        own_persons(50),
    )
    assert found.values['pearson'].value > 0.99
    assert found.does_its_job is False and 'hardly matters' in found.verdict


def test_without_varying_visibility_nothing_is_measured():
    found = attention_and_visibility(random_probs(5, 4), np.ones((5, 4)), own_persons(5))
    assert found.does_its_job is None and found.values == {}


# --- refinement against distractors --------------------------------------------------------------
SHAPE = (30, 3, 4, 2)  # C, L, H, W


def refinement(energy, share, norm=None):
    norm = -energy if norm is None else norm
    changes = Changes(np.sqrt(energy).astype(np.float32), norm.astype(np.float32))
    return refinement_and_distractors(changes, share, own_persons(len(energy)))


def test_refinement_in_loops(rng):
    energy, share, norm = rng.random(SHAPE), rng.random(SHAPE), rng.normal(size=SHAPE)
    inside = outside = inside_weight = outside_weight = norm_inside = 0.0
    for place in np.ndindex(*SHAPE):
        inside += share[place] * energy[place]
        outside += (1 - share[place]) * energy[place]
        norm_inside += share[place] * norm[place]
        inside_weight += share[place]
        outside_weight += 1 - share[place]
    values = refinement(energy, share, norm).values
    assert values['inside'].value == pytest.approx(inside / inside_weight, rel=1e-5)
    assert values['outside'].value == pytest.approx(outside / outside_weight, rel=1e-5)
    ratio = inside / inside_weight / (outside / outside_weight)
    assert values['ratio'].value == pytest.approx(ratio, rel=1e-5)
    assert values['norm_inside'].value == pytest.approx(norm_inside / inside_weight, rel=1e-4)


def test_refinement_inside_the_mask_aims_and_outside_does_not(rng):
    share = (rng.random(SHAPE) < 0.4).astype(np.float32)
    aimed = refinement(0.1 + share, share)
    assert aimed.does_its_job and aimed.values['ratio'].value == pytest.approx(11, rel=1e-4)
    missed = refinement(1.1 - share, share)
    assert missed.does_its_job is False and 'distractors less than the rest' in missed.verdict
    everywhere = refinement(np.ones(SHAPE), share)
    assert everywhere.values['ratio'].value == pytest.approx(1)
    assert everywhere.does_its_job is None and everywhere.verdict.startswith('No evidence')
    nothing = refinement(np.zeros(SHAPE), share)
    assert nothing.does_its_job is False and 'changes nothing' in nothing.verdict
    longer = refinement(0.1 + share, share, norm=share)
    assert longer.does_its_job is False and 'does not suppress them' in longer.verdict


def test_one_fixed_map_is_not_taken_for_a_memory(rng):
    """Distractors lie at the border of crops; so does a map that only knows the border."""
    border = np.array([[1.0, 0.1], [1, 0.1], [1, 0.1], [1, 0.1]])
    share = (rng.random(SHAPE) < 0.2 + 0.6 * (border == 1)).astype(np.float32)
    found = refinement(np.broadcast_to(border, SHAPE), share)
    assert found.values['ratio'].low > 1.5
    assert found.values['beyond_fixed'] == pytest.approx((0, 0, 0), abs=1e-6)
    assert found.does_its_job is None and 'better than one fixed map' in found.verdict


def test_the_fixed_map_is_that_of_the_persons_drawn(rng):
    """Few persons, each with a map of its own at random: their mean is one by chance."""
    persons, length, *grid = 8, 3, 4, 2
    share = (rng.random((persons, length, *grid)) < np.linspace(0.1, 0.8, 8).reshape(grid)) * 1.0
    energy = np.exp(rng.normal(size=(persons, 1, *grid))) * np.ones(share.shape)

    def fixed_ratio(rows):
        fixed, m = energy[rows].mean(axis=(0, 1)), share[rows]
        inside, outside = (
            sum((fixed * one).sum() for one in x.reshape(-1, *grid)) for x in (m, 1 - m)
        )
        return inside / m.sum() * (1 - m).sum() / outside

    found = refinement(energy, share).values['fixed_ratio']
    assert found.value == pytest.approx(fixed_ratio(np.arange(persons)), rel=1e-5)
    low, high = resampled(fixed_ratio, persons)
    assert found.low == pytest.approx(low, rel=0.05) and found.high == pytest.approx(high, rel=0.05)


def test_masks_that_cover_nothing_measure_nothing():
    assert refinement(np.ones(SHAPE), np.zeros(SHAPE)).does_its_job is None
