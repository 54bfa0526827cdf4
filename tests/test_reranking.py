"""Re-ranking against the paper's sets written as loops, and against torchreid's function."""

import math

import numpy as np
import pytest
import references.stmn as references
import torch
import torchreid

from stmn_plugin.errors import InputError
from stmn_plugin.evaluation.distances import pairwise_distances
from stmn_plugin.evaluation.ranking import evaluate_ranking, rank_rows
from stmn_plugin.evaluation.reranking import rerank

METRICS = ('cosine', 'euclidean')


def clusters(count, dim=16, groups=8, noise=0.8, seed=0):
    generator = torch.Generator().manual_seed(seed)
    centres = torch.randn(groups, dim, generator=generator)
    return centres[torch.arange(count) % groups] + noise * torch.randn(
        count, dim, generator=generator
    )


def whole(*args, **kwargs):
    return torch.cat(list(rerank(*args, **kwargs))).numpy()


def original_distances(features, metric):
    """Squared Euclidean distances (of unit vectors for the cosine, halved), float64, by loops."""
    rows = [row.double() for row in features]
    if metric == 'cosine':
        rows = [row / references.length(row) for row in rows]
    half = 2 if metric == 'cosine' else 1
    return [[float(references.dot(a - b, a - b)) / half for b in rows] for a in rows]


def slow_rerank(query, gallery, metric, k1, k2, lambda_value):
    """Section 3 of the paper for every pair, with sets; as in its code R counts the tracklet."""
    original = original_distances(torch.cat([query, gallery]), metric)
    count, num_query = len(original), len(query)
    original = [[d / max(row) for d in row] for row in original]
    order = [references.stable_order(row) for row in original]

    def reciprocal(i, k):
        return {j for j in order[i][: k + 1] if i in order[j][: k + 1]}

    encodings = []
    for i in range(count):
        core = reciprocal(i, k1)
        expanded = set(core)
        for j in core:
            others = reciprocal(j, round(k1 / 2))
            if len(core & others) > 2 / 3 * len(others):
                expanded |= others
        weights = {j: math.exp(-original[i][j]) for j in expanded}
        total = sum(weights.values())
        encodings.append([weights.get(j, 0) / total for j in range(count)])
    if k2 > 1:
        encodings = [
            [sum(encodings[n][j] for n in order[i][:k2]) / min(k2, count) for j in range(count)]
            for i in range(count)
        ]
    final = np.empty((num_query, len(gallery)))
    for i in range(num_query):
        for g in range(len(gallery)):
            pairs = list(zip(encodings[i], encodings[num_query + g], strict=True))
            jaccard = 1 - sum(map(min, pairs)) / sum(map(max, pairs))
            final[i, g] = (1 - lambda_value) * jaccard + lambda_value * original[i][num_query + g]
    return final


def host_rerank(query, gallery, metric, *parameters):
    """torchreid's function, which squares: so it is given roots."""

    def roots(a, b):
        return pairwise_distances(a, b, metric).clamp_min(0).sqrt().numpy()

    matrices = roots(query, gallery), roots(query, query), roots(gallery, gallery)
    return torchreid.utils.re_ranking(*matrices, *parameters)


PARAMETERS = [(20, 6, 0.3), (5, 3, 0.5), (7, 1, 0.3), (3, 2, 0.0), (4, 2, 1.0), (1, 1, 0.1)]


@pytest.mark.parametrize('metric', METRICS)
@pytest.mark.parametrize('parameters', PARAMETERS, ids=str)
def test_equals_the_papers_sets_and_the_host(metric, parameters):
    features = clusters(60, seed=sum(map(int, parameters[:2])))
    query, gallery = features[:14], features[14:]
    final = whole(query, gallery, metric, *parameters)
    assert final.shape == (14, 46) and final.dtype == np.float32
    slow = slow_rerank(query, gallery, metric, *parameters)
    np.testing.assert_allclose(final, slow, rtol=0, atol=1e-5)
    host = host_rerank(query, gallery, metric, *parameters)
    np.testing.assert_allclose(final, host, rtol=0, atol=1e-5)


@pytest.mark.parametrize('metric', METRICS)
@pytest.mark.parametrize('seed', range(3))
def test_equals_the_host_on_three_hundred(metric, seed):
    features = clusters(300, dim=32, groups=25, seed=seed)
    query, gallery = features[:70], features[70:]  # more queries than one chunk
    final = whole(query, gallery, metric)
    np.testing.assert_allclose(final, host_rerank(query, gallery, metric), rtol=0, atol=1e-5)


@pytest.mark.parametrize(('num_query', 'num_gallery'), [(1, 1), (1, 4), (3, 2), (5, 16)])
def test_fewer_tracklets_than_neighbours(num_query, num_gallery):
    """k1 + 1 is 21: all are neighbours of each other. k2 is limited to N, too."""
    features = clusters(num_query + num_gallery, groups=2)
    query, gallery = features[:num_query], features[num_query:]
    final = whole(query, gallery, 'euclidean')
    slow = slow_rerank(query, gallery, 'euclidean', 20, 6, 0.3)
    np.testing.assert_allclose(final, slow, rtol=0, atol=1e-5)


@pytest.mark.parametrize('k2', [1, 6])
def test_copies_that_no_list_has_equal_the_hosts(k2, monkeypatch):
    """Of 30 copies the first 21 are the neighbours of all, so the other 9 have no encoding."""
    features = torch.ones(35, 16)
    features[30:, ::2] = -1
    query, gallery = features[25:32], torch.cat([features[:25], features[32:]])
    argsort = np.argsort  # the host's sort leaves the order of ties open
    monkeypatch.setattr(np, 'argsort', lambda x: argsort(x, kind='stable'))
    host = host_rerank(query, gallery, 'euclidean', 20, k2, 0.3)
    monkeypatch.undo()
    final = whole(query, gallery, 'euclidean', 20, k2, 0.3)
    np.testing.assert_allclose(final, host, rtol=0, atol=1e-6)


def test_lambda_one_is_the_original_distance_over_the_farthest():
    features = clusters(40)
    query, gallery = features[:10], features[10:]
    largest = pairwise_distances(query, features).amax(dim=1, keepdim=True)
    expected = (pairwise_distances(query, gallery) / largest).numpy()
    np.testing.assert_allclose(whole(query, gallery, lambda_value=1), expected, atol=1e-6)


@pytest.mark.parametrize('memory_limit', [1, 10_000])
def test_memory_changes_nothing_that_counts(memory_limit):
    features = clusters(80)
    query, gallery = features[:20], features[20:]
    small = whole(query, gallery, memory_limit=memory_limit)
    np.testing.assert_allclose(small, whole(query, gallery), rtol=0, atol=1e-5)


def test_its_rows_go_into_the_ranking_and_help():
    features = clusters(160, groups=20, noise=1.0, seed=3)
    pids, camids = np.arange(160) % 20, np.arange(160) // 20 % 2
    labels = pids[:40], pids[40:], camids[:40], camids[40:]
    query, gallery = features[:40], features[40:]
    ranking = rank_rows(rerank(query, gallery, k1=6, k2=3), *labels)
    dense = evaluate_ranking(whole(query, gallery, k1=6, k2=3), *labels)
    assert ranking[1:] == dense[1:] and np.array_equal(ranking.cmc, dense.cmc)
    assert ranking.mean_ap > evaluate_ranking(pairwise_distances(query, gallery), *labels).mean_ap


def test_the_features_are_left_as_they_were():
    features = clusters(30)
    before = features.clone()
    whole(features[:8], features[8:])
    assert torch.equal(features, before)


@pytest.mark.parametrize('bad', [math.nan, math.inf])
def test_features_that_are_not_finite_are_refused_at_once(bad):
    features = clusters(30)
    features[20, 3] = bad
    with pytest.raises(InputError, match='NaN or infinity'):
        rerank(features[:8], features[8:], 'euclidean')


@pytest.mark.parametrize(('name', 'value'), [('k1', 0), ('k2', 0), ('lambda_value', 1.5)])
def test_a_parameter_that_does_not_fit_is_quoted(name, value):
    features = clusters(30)
    with pytest.raises(ValueError, match=str(value)):
        rerank(features[:8], features[8:], **{name: value})
