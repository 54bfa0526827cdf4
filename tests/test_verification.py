"""Rates of pairs against slow loops, what too few pairs cannot say, and thresholds as stored."""

import json
import math

import numpy as np
import pytest
import torch
from torch import nn

from stmn_plugin.config import load_config
from stmn_plugin.errors import InputError
from stmn_plugin.evaluation import thresholds, verification
from stmn_plugin.evaluation.evaluator import Evaluator, Target
from stmn_plugin.evaluation.features import TrackletFeatures
from stmn_plugin.evaluation.fingerprint import digest_of, weights_digest
from stmn_plugin.evaluation.settings import TestSettings
from stmn_plugin.evaluation.testing import evaluate_targets
from stmn_plugin.evaluation.thresholds import (
    Thresholds,
    read_thresholds,
    select_thresholds,
    store_thresholds,
)
from stmn_plugin.evaluation.verification import (
    ROC,
    PairCollector,
    Verification,
    verification_lines,
)
from stmn_plugin.host.parts import test_settings as settings_of
from stmn_plugin.models.frame_pooling import FrameByFrame
from stmn_plugin.training.metric_files import read_evaluations
from stmn_plugin.training.run_record import RunRecord
from stmn_plugin.training.run_state import RunFacts

RECORD = Thresholds(
    'digest', 0.25, 0.5, 1e-3, 0.75, 0.05, 'mars', 'rrs', False, 'cosine', False, 900, 90_000, 100
)


def collect(distances, labels, chunk=7):
    collector = PairCollector(*labels)
    chunks = torch.as_tensor(distances).split(chunk)
    passed = list(collector.through(chunks))
    assert all(torch.equal(*pair) for pair in zip(passed, chunks, strict=True))
    return collector.result()


def listed_pairs(distances, query_pids, gallery_pids, query_camids, gallery_camids):
    """(two cameras, same person, distance) of every pair that counts, by hand."""
    pairs = []
    for q, row in enumerate(distances):
        for g, distance in enumerate(row):
            same = query_pids[q] == gallery_pids[g]
            junk = gallery_pids[g] == -1 or query_pids[q] == -1
            if junk or (same and query_camids[q] == gallery_camids[g]):
                continue
            cameras = sorted((int(query_camids[q]), int(gallery_camids[g])))
            pairs.append((tuple(cameras), same, float(distance)))
    return pairs


def outcomes(pairs):
    """(false pairs, share of the true pairs) that each distance as a threshold accepts."""
    positive = [distance for _, same, distance in pairs if same]
    negative = [distance for _, same, distance in pairs if not same]
    return len(negative), [
        (sum(d <= one for d in negative), sum(d <= one for d in positive) / len(positive))
        for one in sorted({*positive, *negative})
        if positive
    ]


def best_of(num_negative, accepted, rate):
    """Largest true positive rate that a threshold has with at most this false positive rate."""
    if rate * num_negative < 1 - 1e-9 or not accepted:
        return None
    return max((true for false, true in accepted if false <= rate * num_negative), default=0)


def some(seed, queries=30, gallery=60, persons=6, cameras=3, decimals=3):
    """Rounded, so that pairs tie; some of the gallery is junk, and some a distractor."""
    rng = np.random.default_rng(seed)
    pids = rng.integers(1, persons, queries), rng.integers(-1, persons, gallery)
    camids = rng.integers(cameras, size=queries), rng.integers(cameras, size=gallery)
    distances = rng.random((queries, gallery)) + 0.3 * (pids[0][:, None] != pids[1])
    return distances.round(decimals).astype(np.float32), (*pids, *camids)


@pytest.mark.parametrize('seed, decimals', [(0, 6), (1, 3), (2, 2)])
def test_rates_are_those_of_every_threshold_tried(seed, decimals):
    distances, labels = some(seed, decimals=decimals)
    result, pairs = collect(distances, labels), listed_pairs(distances, *labels)
    assert result.pairs.num_negative == sum(not same for _, same, _ in pairs)
    assert len(result.pairs.positive) == sum(same for _, same, _ in pairs)
    groups = {cameras: [one for one in pairs if one[0] == cameras] for cameras, *_ in pairs}
    assert set(result.by_cameras) == set(groups) and len(groups) == 6
    checked = 0
    for own, group in [(result.pairs, pairs), *((result.by_cameras[c], groups[c]) for c in groups)]:
        tried = outcomes(group)
        for rate in ROC:
            point, expected = own.at(rate), best_of(*tried, rate)
            assert (point is None) == (expected is None), rate
            if point is None:
                continue
            checked += 1
            assert point.true_positive_rate == pytest.approx(expected)
            near = [same for _, same, distance in group if distance < point.below]
            assert near.count(False) == point.false_pairs <= rate * own.num_negative + 1e-9
            assert near.count(True) == round(point.true_positive_rate * len(own.positive))
    assert checked > 20
    persons = {
        labels[0][q]
        for q in range(30)
        for g in range(60)
        if labels[0][q] == labels[1][g] and labels[2][q] != labels[3][g]
    }
    assert result.persons == len(persons)


def test_the_nearest_of_many_negative_pairs_survive_the_chunks():
    """More pairs than are held at a time, the nearest ones last."""
    rng = np.random.default_rng(0)
    distances = np.sort(rng.random((600, 800)).astype(np.float32), axis=None)[::-1]
    distances = distances.reshape(600, 800).copy()
    labels = np.arange(600), np.arange(1000, 1800), np.zeros(600), np.ones(800)
    labels[1][:3] = [5, 6, 7]  # three pairs of one person
    result = collect(distances, tuple(x.astype(int) for x in labels), chunk=100)
    same = {(5, 0), (6, 1), (7, 2)}
    negative = sorted(
        float(distances[q, g]) for q in range(600) for g in range(800) if (q, g) not in same
    )
    assert result.pairs.num_negative == len(negative) == 479_997
    for rate in (1e-4, 1e-3, 1e-2, 0.1):
        assert result.pairs.at(rate).below == negative[math.floor(rate * len(negative))]


def test_a_rate_that_too_few_pairs_measure_is_none_and_said():
    distances, labels = some(3)
    values = collect(distances, labels).as_dict(1e-3)
    assert 100 < values['negative_pairs'] < 10_000
    assert values['not_measurable'] == [1e-4]
    assert [one['false_positive_rate'] for one in values['rates']] == [1e-2, 1e-3]
    lines = verification_lines(values)
    assert 'Not measurable: 0.0001; a rate needs 1 / rate pairs' in lines
    assert f'{values["negative_pairs"]:,} of two' in lines and 'No threshold' not in lines
    of_two = next(one for one in values['by_cameras'] if one['camids'] == [0, 1])
    alike = next(one for one in values['by_cameras'] if one['camids'] == [1, 1])
    assert of_two['positive_pairs'] and not alike['positive_pairs']
    assert alike['negative_pairs'] and alike['not_measurable'] == [1e-2, 1e-3, 1e-4]
    assert json.loads(json.dumps(values)) == values
    values = collect(distances, labels).as_dict(1e-5)
    assert values['threshold'] is None and 'No threshold' in verification_lines(values)


def test_the_two_thresholds_never_cross():
    """Where the classes lie apart nothing is unsure; where they overlap much is."""
    labels = tuple(np.array(x) for x in ([1, 2] * 40, [1, 2] * 20, [0] * 80, [1] * 40))
    same = labels[0][:, None] == labels[1]
    apart = np.where(same, 0.1, 0.9) + np.linspace(0, 0.05, same.size).reshape(same.shape)
    values = collect(apart.astype(np.float32), labels).as_dict(1e-2)['threshold']
    assert 0.15 < values['likely_below'] == values['unlikely_above']
    assert values['true_positive_rate'] == 1
    mixed = np.random.default_rng(0).random(same.shape).astype(np.float32)
    assert collect(mixed, labels).as_dict(1e-2)['threshold'] is None  # it separates no persons
    mixed[::3][same[::3]] *= 0.001
    values = collect(mixed, labels).as_dict(1e-2)['threshold']
    assert values['likely_below'] < 0.05 and 0.9 < values['unlikely_above'] < 1
    beyond = mixed[same] > np.float32(values['unlikely_above'])
    assert 0.04 < beyond.mean() <= 0.05


def test_few_pairs_of_one_person_make_no_threshold():
    pairs = Verification(verification.PairDistances(*some_pairs(19)), {}, 5)
    assert pairs.pairs.at(1e-2) is not None and pairs.as_dict(1e-2)['threshold'] is None
    pairs = Verification(verification.PairDistances(*some_pairs(20)), {}, 5)
    assert pairs.as_dict(1e-2)['threshold']['unlikely_above'] == 18  # 1 of 20 is farther


def some_pairs(count):
    return np.arange(count, dtype=np.float32), 1 + np.arange(60, dtype=np.float32), 500


def test_records_are_kept_for_each_weights_and_way_of_testing(tmp_path):
    assert read_thresholds(tmp_path) == []
    newer = Thresholds(**{**vars(RECORD), 'likely_below': 0.2})
    others = [
        Thresholds(**{**vars(RECORD), **changes})
        for changes in (
            {'weights': 'other'},
            {'dist_metric': 'euclidean'},
            {'dataset': 'own'},
        )
    ]
    for one in (RECORD, *others[:2], newer, others[2]):
        path = store_thresholds(tmp_path, one)
    assert path.name == thresholds.NAME and read_thresholds(tmp_path) == [
        *others[:2],
        newer,
        others[2],
    ]
    records = read_thresholds(tmp_path)
    same = {'dist_metric': 'cosine', 'normalize_feature': False, 'frames': 'rrs', 'flip': False}
    for changes, expected in (
        ({'normalize_feature': True}, others[2]),  # the newest; the cosine knows no length
        ({'dist_metric': 'euclidean'}, others[1]),
        ({'dist_metric': 'euclidean', 'normalize_feature': True}, None),
        ({'weights': 'third'}, None),
        ({'frames': 'all'}, None),
        ({'flip': True}, None),
    ):
        assert select_thresholds(records, **{'weights': 'digest', **same, **changes}) == expected


@pytest.mark.parametrize(
    'content, said',
    [
        ('{', 'no records'),
        ('{}', 'no list'),
        ('[1]', 'number 1 is no record'),
        (json.dumps([{**vars(RECORD), 'more': 1}]), 'number 1 is no record'),
        (json.dumps([vars(RECORD), {**vars(RECORD), 'likely_below': 'x'}]), 'likely_below is'),
        (json.dumps([{**vars(RECORD), 'likely_below': math.nan}]), 'likely_below is nan'),
    ],
)
def test_a_damaged_file_is_one_line(content, said, tmp_path):
    (tmp_path / thresholds.NAME).write_text(content)
    with pytest.raises(InputError, match=said) as caught:
        read_thresholds(tmp_path)
    assert str(tmp_path / thresholds.NAME) in str(caught.value)


def test_an_image_model_has_the_digest_of_what_its_checkpoint_holds():
    network = nn.Linear(2, 2)
    assert digest_of(FrameByFrame(network, 4)) == digest_of(network) == weights_digest(network)


def evaluate(folder, weights='', positive=0.0):
    """A test of given features: three persons, of whom each has six tracklets at two cameras."""
    pids = np.repeat([1, 2, 3], 6)
    centres = torch.eye(3).repeat_interleave(6, dim=0)
    features = centres + positive * torch.randn(18, 3, generator=torch.Generator().manual_seed(0))
    target = Target(*([(f'{s}{i}', pids[i], c, 0) for i in range(18)] for c, s in enumerate('qg')))

    def embed(tracklets, name):
        camids = np.array([camid for _, _, camid, _ in tracklets])
        return TrackletFeatures(features, pids, camids)

    settings = TestSettings(protocol='torchreid', verification=True, false_positive_rate=0.01)
    evaluator = Evaluator(nn.Linear(1, 1), embed, {'toy': target}, settings)
    record = RunRecord(run=RunFacts(tested=str(weights)))
    evaluate_targets(evaluator, record, str(folder))
    return evaluator, json.loads((folder / 'metrics.json').read_text())['evaluations'][0]


def test_a_test_writes_the_rates_and_stores_the_threshold_with_the_weights(tmp_path, messages):
    evaluator, written = evaluate(tmp_path / 'run', tmp_path / 'weights' / 'model.pth.tar')
    found = written['verification']
    assert (found['positive_pairs'], found['negative_pairs'], found['persons']) == (108, 216, 3)
    assert found['rates'][0]['true_positive_rate'] == 1 and found['threshold']
    assert read_evaluations(str(tmp_path / 'run'))[0] == written
    (record,) = read_thresholds(tmp_path / 'weights')
    assert record.weights == digest_of(evaluator.model)
    assert record.likely_below == found['threshold']['likely_below']
    assert record.positive_pairs == 108 and record.dataset == 'toy'
    out = messages()
    assert 'True positive rate at false positive rate 0.01: 100.0% (distance below' in out
    assert 'Measured on toy, 3 persons, 108 pairs of one and 216 of two' in out
    assert out.index('True positive') < out.index('Stored in')


def test_without_a_file_of_weights_nothing_is_stored(tmp_path, messages):
    assert evaluate(tmp_path / 'run')[1]['verification']['threshold']
    assert not list(tmp_path.rglob(thresholds.NAME)) and 'Stored' not in messages()


def test_weights_in_a_place_that_cannot_be_written_are_a_warning(tmp_path, messages):
    (tmp_path / 'file').write_text('')
    written = evaluate(tmp_path / 'run', tmp_path / 'file' / 'model.pth.tar')[1]
    assert written['verification']['threshold'] and 'is only in' in messages()


def test_the_keys_reach_the_test():
    words = 'test.evaluate True test.verification True test.false_positive_rate 0.05'
    settings = settings_of(load_config(opts=words.split()))
    assert settings.verification and settings.false_positive_rate == 0.05
    assert not settings_of(load_config()).verification


def test_it_needs_a_test_and_no_re_ranking():
    for words, said in (
        ('test.verification True', 'test.verification needs test.evaluate True'),
        ('test.evaluate True test.rerank True test.verification True', 'depends on the other'),
        ('test.false_positive_rate 0', 'test.false_positive_rate'),
    ):
        with pytest.raises(InputError, match=said):
            load_config(opts=words.split())
