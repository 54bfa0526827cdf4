"""Protocols: who is searched, which AP, what a query without a match counts; what is written."""

import json

import numpy as np
import pytest
import torch

from stmn_plugin.errors import InputError
from stmn_plugin.evaluation.features import TrackletFeatures
from stmn_plugin.evaluation.protocols import (
    PROTOCOLS,
    Evaluation,
    apply_protocol,
    distances_in_rows,
    host_lines,
    results_table,
)
from stmn_plugin.evaluation.ranking import Ranking, rank_rows
from stmn_plugin.evaluation.settings import TestOptions
from stmn_plugin.training.metric_files import read_evaluations, remove_metrics, write_metrics

COSINE = TestOptions(dist_metric='cosine')


def rank_tracklets(query, gallery, protocol, options):
    labels = query.pids, gallery.pids, query.camids, gallery.camids
    rows = distances_in_rows(query, gallery, options)
    return rank_rows(rows, *labels, protocol.average_precision, protocol.unmatched)


def tracklets(count, num_ids, num_cameras, seed, dim=16, junk=0.0, noise=1.5):
    """Features around a centre per identity; a share of them distractors (0) and junk (-1)."""
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(99).normal(size=(num_ids + 1, dim))
    pids = rng.integers(1, num_ids + 1, count)
    features = centres[pids] + noise * rng.normal(size=(count, dim))
    odd = rng.random(count)
    pids = np.where(odd < junk / 2, -1, np.where(odd < junk, 0, pids))
    camids = rng.integers(0, num_cameras, count)
    return TrackletFeatures(torch.from_numpy(features).float(), pids, camids)


def one_query_after_another(query, gallery, trapezoid, zero):
    """An independent reference: a full sort, a walk down the list, one number after another."""
    q = query.features.double().numpy()
    g = gallery.features.double().numpy()
    q /= np.linalg.norm(q, axis=1, keepdims=True)
    g /= np.linalg.norm(g, axis=1, keepdims=True)
    first_ranks, aps, inps, skipped = [], [], [], 0
    for vector, pid, camid in zip(q, query.pids, query.camids, strict=True):
        order = np.argsort(-(g @ vector), kind='stable')
        own = gallery.pids[order] == pid
        kept = ~(own & (gallery.camids[order] == camid)) & (gallery.pids[order] != -1)
        hits = np.flatnonzero(own[kept]) + 1  # ranks of the matches
        if len(hits) == 0:
            skipped += 1
            continue
        ap = 0.0
        for nth, rank in enumerate(hits.tolist(), start=1):
            after = nth / rank
            before = 1.0 if rank == 1 else (nth - 1) / (rank - 1)
            ap += (after + before) / 2 if trapezoid else after
        first_ranks.append(hits[0])
        aps.append(ap / len(hits))
        inps.append(len(hits) / hits[-1])
    count = len(aps) + (skipped if zero else 0)
    rank = {r: sum(first <= r for first in first_ranks) / count for r in (1, 5, 10, 20)}
    return rank, sum(aps) / count, sum(inps) / count, len(aps)


EXPECTED = {  # name: queries searched, trapezoid, unmatched count as 0
    'official': (True, False, False),
    'torchreid': (False, False, False),
    'matlab': (True, True, False),
    'A': (True, True, True),
    'B': (True, False, False),
    'C': (False, False, False),
}


@pytest.mark.slow
@pytest.mark.parametrize('name', EXPECTED)
@pytest.mark.parametrize('size', ['tiny', 'mars'])
def test_every_protocol_equals_the_reference(name, size):
    if size == 'tiny':
        query, gallery = (tracklets(n, 5, 2, seed, junk=0.2) for n, seed in ((9, 1), (12, 2)))
    else:  # the label table of MARS: as many queries, tracklets, people, cameras and distractors
        query = tracklets(1980, 626, 6, 1)
        gallery = tracklets(10_200, 626, 6, 2, junk=0.4)
    searched, trapezoid, zero = EXPECTED[name]
    protocol = PROTOCOLS[name]
    found_gallery = apply_protocol(query, gallery, protocol, gallery_needs_queries=True)
    assert len(found_gallery.pids) == len(gallery.pids) + searched * len(query.pids)
    both = TrackletFeatures(
        torch.cat([gallery.features, query.features]),
        np.concatenate([gallery.pids, query.pids]),
        np.concatenate([gallery.camids, query.camids]),
    )
    reference = one_query_after_another(query, both if searched else gallery, trapezoid, zero)
    ranking = rank_tracklets(query, found_gallery, protocol, COSINE)
    rank, mean_ap, mean_inp, num_valid = reference
    assert ranking.num_valid == num_valid
    # near ties may change places in float32: 1e-6 of 1980 queries is less than any one of them
    assert ranking.mean_ap == pytest.approx(mean_ap, abs=1e-6)
    assert ranking.mean_inp == pytest.approx(mean_inp, abs=1e-5)
    for r, value in rank.items():
        assert ranking.rank(r) == pytest.approx(value, abs=1e-9)


def test_a_gallery_that_has_the_queries_is_left_alone():
    query, gallery = tracklets(3, 2, 2, 0), tracklets(5, 2, 2, 1)
    assert apply_protocol(query, gallery, PROTOCOLS['official'], False) is gallery
    assert apply_protocol(query, gallery, PROTOCOLS['torchreid'], True) is gallery


def test_reranking_needs_its_name():
    query, gallery = tracklets(6, 3, 3, 0), tracklets(40, 3, 3, 1)
    plain = rank_tracklets(query, gallery, PROTOCOLS['official'], COSINE)
    options = TestOptions(dist_metric='cosine', rerank=True)
    assert rank_tracklets(query, gallery, PROTOCOLS['official'], options).mean_ap != plain.mean_ap


def evaluation(**changes):
    ranking = Ranking(np.array([0.25, 0.5, 1.0]), 0.4321987, 0.2, 7)
    values = {
        'dataset': 'mars',
        'ranking': ranking,
        'protocol': 'official',
        **PROTOCOLS['official']._asdict(),
        'frames': 'rrs',
        'flip': True,
        'dist_metric': 'cosine',
        'reranked': False,
        'num_query': 8,
        'num_gallery': 3,
        'feature_dim': 4,
        'seconds': {'extraction': 1.0, 'per_tracklet': 0.1, 'ranking': 0.5},
    }
    return Evaluation(**{**values, **changes})


def test_the_table_has_the_protocol_with_the_numbers():
    both = evaluation(), evaluation(dataset='lsvid', reranked=True)
    table = results_table([one.as_dict([1, 5]) for one in both])
    above, _, head, _, first, second = table.splitlines()
    assert above == 'frames rrs + flip, distance cosine'  # the same in both
    for word in ('dataset', 'protocol', 'queries', 'rank-1', 'rank-5', 'mAP', 'mINP'):
        assert word in head
    for word in ('official', '7/8', '25.0', '100.0', '43.2', '20.0'):
        assert word in first
    assert 're-ranking' in second


def test_the_table_tells_other_tests_of_the_same_weights_apart():
    """Of other ranks, distances and precisions, as a run folder may hold them."""
    one = evaluation().as_dict([1, 5])
    other = evaluation(normalize_feature=True, amp='bf16').as_dict([1, 3])
    *_, head, _, first, second = results_table([one, other]).splitlines()
    assert head.split()[-5:] == ['rank-1', 'rank-3', 'rank-5', 'mAP', 'mINP']
    assert first.split()[-4:] == ['25.0', '100.0', '43.2', '20.0']
    assert second.split()[-4:] == ['25.0', '100.0', '43.2', '20.0']
    assert 'cosine, normalised' in second and 'rrs + flip, bf16' in second
    assert first.index('100.0') > second.index('100.0')  # rank-5, rank-3


def test_the_hosts_lines():
    lines = host_lines(evaluation().ranking, [1, 2, 20]).splitlines()
    assert lines == ['mAP: 43.2%', 'CMC curve', 'Rank-1  : 25.0%', 'Rank-2  : 50.0%'] + [
        'Rank-20 : 100.0%'
    ]


def test_metrics_are_written_whole_and_read_back(tmp_path):
    values = evaluation(epoch=3).as_dict([1, 5])
    assert values['mAP'] == 0.432199 and values['rank-5'] == 1.0 and values['epoch'] == 3
    assert values['num_query_with_match'] == 7 and values['unmatched'] == 'skip'
    write_metrics(str(tmp_path), [values], {'arch': 'stmn'})
    assert json.loads((tmp_path / 'metrics.json').read_text())['arch'] == 'stmn'
    assert read_evaluations(str(tmp_path)) == [values]
    for text in ('{', '[]', '{"evaluations": [{}]}', '{"evaluations": 3}'):
        (tmp_path / 'metrics.json').write_text(text)
        with pytest.raises(InputError, match='damaged'):
            read_evaluations(str(tmp_path))
    remove_metrics(str(tmp_path))
    assert read_evaluations(str(tmp_path)) == []
    remove_metrics(str(tmp_path))
