"""Screening in half precision: it leaves every vector that may be among the nearest."""

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize

from stmn_plugin.errors import InputError
from stmn_plugin.evaluation import screening
from stmn_plugin.evaluation.screening import error_bound, may_be_nearest
from stmn_plugin.evaluation.search import top_k


def draw(count, dim, seed=0, positive=False):
    generator = torch.Generator().manual_seed(seed)
    make = torch.rand if positive else torch.randn
    return normalize(make(count, dim, generator=generator))


def exact(query, gallery, k, among=None):
    """Distances and indices of the k nearest in float64; ties keep the order of the rows."""
    distances = np.maximum(1 - query.double().numpy() @ gallery.double().numpy().T, 0)
    if among is not None:
        distances[:, np.setdiff1d(np.arange(len(gallery)), among)] = np.inf
    order = np.argsort(distances, axis=1, kind='stable')[:, :k]
    return np.take_along_axis(distances, order, axis=1), order


@pytest.fixture(params=[True, False], ids=['screened', 'without'])
def screens(request, monkeypatch):
    """Whether torch has fast products that are summed in float32; the results are the same."""
    if not request.param:
        monkeypatch.setattr(screening, '_is_reliable', lambda: False)


@pytest.mark.slow
@pytest.mark.parametrize('dim', [16, 700, 2048])
@pytest.mark.parametrize('queries', [1, 3])
@pytest.mark.parametrize('part', [None, 0.9, 0.2])
def test_the_nearest_are_those_of_a_comparison_with_all(dim, queries, part, screens):
    query, gallery = draw(queries, dim), draw(3000, dim, seed=1).half()
    among = None
    if part is not None:
        among = np.flatnonzero(np.random.default_rng(0).random(3000) < part)
    found = top_k(query, gallery.numpy(), 20, unit=True, backend='torch', among=among)
    distances, order = exact(query, gallery, 20, among)
    assert np.array_equal(found.indices.numpy(), order)
    np.testing.assert_allclose(found.distances.numpy(), distances, atol=1e-6)


def test_few_are_left_of_many():
    query, gallery = draw(1, 2048), draw(5000, 2048, seed=1).half()
    left = may_be_nearest(query, gallery, 20)
    assert 20 <= len(left) < 200


@pytest.mark.parametrize('positive', [False, True])
@pytest.mark.parametrize('dim', [1, 64, 2048, 16384])
def test_the_error_stays_within_its_bound(dim, positive):
    """Positive numbers: all rounding of the sums adds up, and the product is near 1."""
    query, gallery = draw(1, dim, positive=positive), draw(400, dim, 1, positive).half()
    exactly = gallery.double() @ query[0].double()
    error = (torch.mv(gallery, query[0].half()).double() - exactly).abs().max()
    assert error <= error_bound(dim)
    assert error_bound(2048) < 2e-3  # or nearly everything would be left


def test_vectors_that_half_precision_puts_in_another_order():
    """Many neighbours, some on the two sides of a number that half precision holds."""
    query = draw(1, 256)
    near = normalize(query + 0.5 * draw(4000, 256, seed=1))
    gallery = torch.cat([draw(20_000, 256, seed=2), near]).half()
    distances, order = exact(query, gallery, 2000)
    rounded = torch.mv(gallery, query[0].half()).numpy()
    in_order = rounded[order[0]]
    swapped = [k for k in range(1, 2000) if in_order[:k].min() < in_order[k:].max()]
    assert len(swapped) > 3
    for k in swapped[:20]:
        found = top_k(query, gallery.numpy(), k, unit=True, backend='torch')
        np.testing.assert_allclose(found.distances.numpy(), distances[:, :k], atol=5e-7)


def test_equal_vectors_keep_the_order_of_the_gallery():
    query = draw(1, 64)
    gallery = draw(2000, 64, seed=1).half()
    gallery[500::3] = query.half()
    found = top_k(query, gallery.numpy(), 10, unit=True, backend='torch')
    assert found.indices.tolist() == [list(range(500, 530, 3))]


def test_vectors_beyond_distance_0_tie_with_those_at_0(monkeypatch):
    """Rounding makes some longer than 1: all these are at distance 0, in the gallery's order."""
    query = torch.zeros(1, 4)
    query[0, 0] = 1
    gallery = draw(200, 4, seed=1).half()
    gallery[:, 0] = gallery[:, 0].clamp(max=0.5)
    gallery[100:110] = query.half()
    gallery[150:160] = 1.0005 * query.half()
    monkeypatch.setattr(screening, 'error_bound', lambda dim: 0.0)  # only the ties are left
    found = top_k(query, gallery.numpy(), 5, unit=True, backend='torch')
    assert found.indices.tolist() == [[100, 101, 102, 103, 104]]


@pytest.mark.parametrize('value', [torch.nan, torch.inf, -torch.inf])
def test_a_broken_vector_is_refused_as_without_screening(value):
    query, gallery = draw(1, 32), draw(500, 32, seed=1).half()
    gallery[77, 3] = value
    with pytest.raises(InputError, match='NaN or infinity'):
        top_k(query, gallery.numpy(), 5, unit=True, backend='torch')


def test_sums_in_half_precision_are_not_relied_on(monkeypatch):
    assert may_be_nearest(draw(1, 32), draw(500, 32, 1).half(), 5) is not None
    mv = torch.mv
    monkeypatch.setattr(torch, 'mv', lambda matrix, vector: mv(matrix, vector).clamp(max=2048))
    assert may_be_nearest(draw(1, 32), draw(500, 32, 1).half(), 5) is None


@pytest.mark.parametrize(
    'change',
    [
        lambda gallery: gallery.float(),
        lambda gallery: gallery[:8],
        lambda gallery: np.lib.stride_tricks.as_strided(gallery.numpy(), writeable=False),
        lambda gallery: gallery[:1].expand(500, -1),
    ],
    ids=['float32', 'hardly more than k', 'read-only', 'all alike'],
)
def test_what_cannot_gain_is_left_as_it_is(change):
    assert may_be_nearest(draw(1, 32), change(draw(500, 32, 1).half()), 5) is None


def test_many_queries_and_sparse_vectors_are_not_screened():
    gallery, sparse = draw(900, 2048, seed=1).half(), np.arange(0, 900, 20)
    assert may_be_nearest(draw(50, 2048), gallery, 1) is None
    assert may_be_nearest(draw(1, 2048), gallery, 1, sparse) is sparse
