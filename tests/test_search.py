"""Distances against the host's and against sums, the k nearest against a sorted list."""

import itertools
import math
import mmap

import numpy as np
import pytest
import references.stmn as references
import torch
import torchreid
from hypothesis import given, settings
from hypothesis import strategies as st

from stmn_plugin.errors import InputError
from stmn_plugin.evaluation import distances as computed
from stmn_plugin.evaluation import search
from stmn_plugin.evaluation.distances import (
    distance_rows,
    pair_distances,
    pairwise_distances,
    unit_vectors,
)
from stmn_plugin.evaluation.features import TrackletFeatures
from stmn_plugin.evaluation.ranking import rank_features
from stmn_plugin.evaluation.reranking import rerank
from stmn_plugin.evaluation.search import nearest, top_k

METRICS = ('cosine', 'euclidean')
BACKENDS = ('torch', 'faiss')


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def signs(*shape, seed=0):
    """Vectors whose distances are exact in float32 by both metrics (D a power of 4): many ties."""
    return 1 - 2 * torch.randint(2, shape, generator=torch.Generator().manual_seed(seed)).float()


def slow_distance(a, b, metric):
    pairs = list(zip(a.tolist(), b.tolist(), strict=True))
    if metric == 'euclidean':
        return sum((x - y) ** 2 for x, y in pairs)
    lengths = math.sqrt(sum(x * x for x, _ in pairs)) * math.sqrt(sum(y * y for _, y in pairs))
    return 1 - sum(x * y for x, y in pairs) / lengths


def use_backend(name):
    if name == 'faiss':
        pytest.importorskip('faiss')
    return name


@pytest.mark.parametrize('metric', METRICS)
def test_distances_are_the_hosts_and_the_sums(metric):
    query, gallery = normal(7, 16), normal(11, 16, seed=1)
    distances = pairwise_distances(query, gallery, metric)
    host = torchreid.metrics.compute_distance_matrix(query, gallery, metric)
    assert torch.equal(distances, host)
    slow = [[slow_distance(a, b, metric) for b in gallery] for a in query]
    np.testing.assert_allclose(distances.numpy(), slow, rtol=1e-5, atol=1e-6)
    row, column = np.array([0, 0, 2, 6, 6, 6]), np.array([3, 0, 2, 5, 1, 6])
    pairs = pair_distances(query, row, column, metric)
    slow = [slow_distance(query[r], query[c], metric) for r, c in zip(row, column, strict=True)]
    np.testing.assert_allclose(pairs, slow, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize('count', [1, 64, 65, 150])
def test_pairs_of_many_rows_and_of_rows_without_a_pair(count):
    features = normal(count, 8)
    chosen = torch.rand(count, count, generator=torch.Generator().manual_seed(1)) < 0.05
    chosen[count // 2] = True
    row, column = (x.numpy() for x in chosen.nonzero(as_tuple=True))
    whole = pairwise_distances(features, features, 'euclidean').numpy()
    pairs = pair_distances(features, row, column, 'euclidean')
    np.testing.assert_allclose(pairs, whole[row, column], atol=1e-5)


def test_no_pairs_at_all():
    nothing = np.empty(0, dtype=np.int64)
    assert pair_distances(normal(3, 4), nothing, nothing).shape == (0,)


@pytest.mark.parametrize('metric', METRICS)
@pytest.mark.parametrize('memory_limit', [1, 2000, 20_000, None])
def test_rows_in_chunks_and_blocks_are_the_whole(metric, memory_limit):
    query, gallery = signs(9, 64), signs(50, 64, seed=1)
    chunks = list(distance_rows(query, gallery, metric, memory_limit))
    assert torch.equal(torch.cat(chunks), pairwise_distances(query, gallery, metric))
    assert (len(chunks) > 1) == (memory_limit in (1, 2000))


@pytest.mark.parametrize('dtype', [torch.float32, torch.float16])
def test_features_are_left_as_they_were(dtype):
    query, gallery = normal(4, 16).to(dtype), normal(9, 16, seed=1).to(dtype)
    before = query.clone(), gallery.clone()
    pairwise_distances(query, gallery)
    list(distance_rows(query, gallery.numpy()))
    list(distance_rows(query, gallery))
    top_k(query, gallery, 3)
    assert torch.equal(query, before[0]) and torch.equal(gallery, before[1])


@pytest.mark.parametrize('metric', METRICS)
@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16, torch.float64])
def test_other_float_types_are_compared_as_float32(metric, dtype):
    query, gallery = normal(4, 16), normal(9, 16, seed=1).to(dtype)
    expected = pairwise_distances(query, gallery.float(), metric)
    distances = pairwise_distances(query, gallery, metric)
    assert distances.dtype == torch.float32 and torch.equal(distances, expected)


@pytest.mark.parametrize('mode', ['r', 'r+', 'c'])
@pytest.mark.parametrize('dtype', [np.float32, np.float16])
def test_a_gallery_on_disk_is_read_in_blocks_and_left_as_it_is(tmp_path, mode, dtype):
    path = tmp_path / 'gallery.npy'
    array = signs(40, 64).numpy().astype(dtype)
    np.save(path, array)
    mapped = np.load(path, mmap_mode=mode)
    if mode != 'r':
        mapped[3] = -mapped[3]
        array[3] = -array[3]
    query = signs(5, 64, seed=1)
    rows = torch.cat(list(distance_rows(query, mapped, 'euclidean', memory_limit=8000)))
    assert torch.equal(rows, pairwise_distances(query, torch.from_numpy(array), 'euclidean'))
    # a slice is a view of the same file
    found = top_k(query, mapped[2:30], 3, backend='torch')
    assert torch.equal(found.indices, top_k(query, torch.from_numpy(array[2:30]), 3).indices)
    assert np.array_equal(mapped, array)


@pytest.mark.skipif(not hasattr(mmap, 'MADV_DONTNEED'), reason='no madvise here')
def test_pages_of_a_gallery_on_disk_are_given_back(tmp_path):
    path = tmp_path / 'gallery.npy'
    np.save(path, np.ones((4096, 1024), dtype=np.float32))  # 16 MiB
    mapped = np.load(path, mmap_mode='r')

    def resident():  # bytes of the file in memory
        with open('/proc/self/smaps') as file:
            lines = itertools.dropwhile(lambda line: not line.endswith(f'{path}\n'), file)
            return next(int(line.split()[1]) for line in lines if line.startswith('Rss')) << 10

    assert mapped.sum() > 0 and resident() > 12 << 20
    for _ in distance_rows(torch.ones(2, 1024), mapped, memory_limit=1 << 20):
        pass
    assert resident() < 4 << 20


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_nearest_equals_the_sorted_list_with_ties(data):
    columns = data.draw(st.integers(1, 12))
    k = data.draw(st.integers(1, columns))
    row = st.lists(st.integers(-2, 3), min_size=columns, max_size=columns)
    distances = data.draw(st.lists(row, min_size=1, max_size=4))
    found = nearest(torch.tensor(distances, dtype=torch.float32), k)
    order = [references.stable_order(row)[:k] for row in distances]
    assert found.indices.tolist() == order
    values = [[row[g] for g in best] for row, best in zip(distances, order, strict=True)]
    assert found.distances.tolist() == values


@pytest.mark.slow
@pytest.mark.parametrize('backend', BACKENDS)
@pytest.mark.parametrize('metric', METRICS)
@pytest.mark.parametrize('k', [1, 5, 37, 300])
@pytest.mark.parametrize('num_query', [1, 25])  # faiss has another path below 20 queries
def test_top_k_keeps_the_gallerys_order_in_ties(backend, metric, k, num_query, monkeypatch):
    query, gallery = signs(num_query, 16), signs(300, 16, seed=1)
    distances = [[slow_distance(a, b, metric) for b in gallery] for a in query]
    order = [references.stable_order(row)[:k] for row in distances]
    prepare, sizes = computed.prepared, []
    for module in (search, computed):
        monkeypatch.setattr(
            module, 'prepared', lambda x, *y: sizes.append(len(x)) or prepare(x, *y)
        )
    joined = (64, 20, [20] * 15) if backend == 'torch' else (64, 64, [64] * 4 + [44])
    for length, few, blocks in ((400, 400, [300]), (64, 400, [64] * 4 + [44]), joined):
        monkeypatch.setattr(search, 'TOP_K_BLOCK', length)
        monkeypatch.setattr(search, 'FEW_BLOCK', few)
        monkeypatch.setattr(search, 'MAX_CHUNK', 8)
        sizes.clear()
        found = top_k(query, gallery, k, metric, use_backend(backend))
        assert sizes == [num_query, *blocks]
        assert found.indices.tolist() == order
        values = [[row[g] for g in best] for row, best in zip(distances, order, strict=True)]
        np.testing.assert_allclose(found.distances.numpy(), values, rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize('k', [3, 10])
@pytest.mark.parametrize('backend', BACKENDS)
def test_k_may_be_a_number_of_numpy(backend, k):
    query, gallery = signs(4, 8), signs(10, 8, seed=1)
    found, expected = (
        top_k(query, gallery, n, backend=use_backend(backend)) for n in (k, np.int64(k))
    )
    assert torch.equal(found.indices, expected.indices)
    assert torch.equal(*(torch.cat(list(rerank(query, gallery, k1=n))) for n in (k, np.int64(k))))


@pytest.mark.parametrize('metric', METRICS)
def test_faiss_and_torch_find_the_same(metric):
    pytest.importorskip('faiss')
    query, gallery = normal(30, 128), normal(2000, 128, seed=1)
    gallery[100:130] = query  # duplicates: distance 0 up to rounding
    ours, theirs = (top_k(query, gallery, 20, metric, backend) for backend in ('torch', 'faiss'))
    assert torch.equal(ours.indices, theirs.indices)
    # squared lengths are 128: to 0 it is some of their last bits
    np.testing.assert_allclose(ours.distances, theirs.distances, rtol=1e-5, atol=1e-3)
    assert theirs.distances.min() >= 0 and ours.distances.min() >= 0


@pytest.mark.parametrize('backend', BACKENDS)
@pytest.mark.parametrize('bad', [np.nan, np.inf])
@pytest.mark.parametrize('in_gallery', [False, True])
def test_features_that_are_not_finite_are_refused(backend, bad, in_gallery):
    query, gallery = normal(3, 8), normal(9, 8)
    (gallery if in_gallery else query)[2, 5] = bad
    with pytest.raises(InputError, match='NaN or infinity'):
        top_k(query, gallery, 2, 'euclidean', use_backend(backend))


def test_what_does_not_fit_is_quoted():
    query, gallery = normal(3, 8), normal(9, 8)
    with pytest.raises(ValueError, match=r'between 1 and 9, got 10'):
        top_k(query, gallery, 10)
    with pytest.raises(ValueError, match=r'between 1 and 9, got 0'):
        top_k(query, gallery, 0)
    with pytest.raises(ValueError, match="'manhattan'"):
        pairwise_distances(query, gallery, 'manhattan')
    with pytest.raises(ValueError, match=r'\(3, 8\) and \(9, 7\)'):
        distance_rows(query, gallery[:, :7])
    with pytest.raises(ValueError, match="'annoy'"):
        top_k(query, gallery, 1, backend='annoy')


def test_without_faiss_torch_is_used_and_asking_for_faiss_is_refused(monkeypatch):
    monkeypatch.setattr(search, 'faiss', None)
    query, gallery = normal(3, 8), normal(9, 8)
    assert top_k(query, gallery, 2).indices.shape == (3, 2)
    with pytest.raises(ValueError, match="'faiss'"):
        top_k(query, gallery, 2, backend='faiss')


@pytest.mark.parametrize('scale', [1e-45, 1e-30, 1e-15, 1.0, 1e15, 1e20, 3e37])
@pytest.mark.parametrize('backend', BACKENDS)
def test_the_cosine_does_not_depend_on_the_length_of_vectors(scale, backend):
    backend = use_backend(backend)
    query, gallery = normal(5, 16), normal(40, 16, seed=1)
    expected = pairwise_distances(query, gallery, 'cosine')
    scaled = [(x.double() * scale).to(torch.float64) for x in (query, gallery)]
    if 1e-37 < scale < 1e38:
        scaled = [x.float() for x in scaled]
    torch.testing.assert_close(pairwise_distances(*scaled, 'cosine'), expected, atol=1e-6, rtol=0)
    rows = torch.cat(list(distance_rows(scaled[0], scaled[1].numpy(), 'cosine')))
    torch.testing.assert_close(rows, expected, atol=1e-6, rtol=0)
    found, known = top_k(*scaled, 5, 'cosine', backend), nearest(expected, 5)
    assert torch.equal(found.indices, known.indices)
    features = TrackletFeatures(scaled[1], np.zeros(40), np.zeros(40)).normalized().features
    torch.testing.assert_close(features, torch.nn.functional.normalize(gallery), atol=1e-6, rtol=0)


def test_vectors_of_one_length_in_reach_are_normalised_as_torch_does():
    vectors = normal(50, 33)
    assert torch.equal(unit_vectors(vectors), torch.nn.functional.normalize(vectors))


def test_zeros_are_as_far_from_everything_as_a_right_angle():
    query, gallery = torch.zeros(1, 4), torch.cat([normal(2, 4), torch.zeros(1, 4)])
    assert pairwise_distances(query, gallery, 'cosine').tolist() == [[1, 1, 1]]
    assert pairwise_distances(query, torch.zeros(2, 4), 'euclidean').tolist() == [[0, 0]]


@pytest.mark.parametrize('scale, reason', [(1e20, 'too large'), (1e-30, 'so small')])
@pytest.mark.parametrize('backend', BACKENDS)
def test_squared_distances_beyond_float32_are_refused(scale, reason, backend):
    backend = use_backend(backend)
    query, gallery = normal(3, 8) * scale, normal(9, 8, seed=1) * scale
    labels = np.arange(3) % 2, np.arange(9) % 2, np.zeros(3), np.ones(9)
    with pytest.raises(InputError, match=reason):
        rank_features(query, gallery, *labels, 'euclidean')
    with pytest.raises(InputError, match=reason):
        list(rerank(query, gallery, 'euclidean', k1=2))
    for k in (3, 9):  # with k = 9 no tie crosses the last place
        with pytest.raises(InputError, match=reason):
            top_k(query, gallery, k, 'euclidean', backend)


def test_vectors_of_float64_that_float32_has_no_number_for_are_refused():
    """Not called equal, nor zero."""
    with pytest.raises(InputError, match='so small'):
        pairwise_distances(normal(3, 8).double() * 1e-60, torch.zeros(2, 8), 'euclidean')


@pytest.mark.parametrize('k', [1, 5, 39, 40])
@pytest.mark.parametrize('at_once', [1, 90, 1 << 20])
def test_ties_across_the_last_place_keep_the_order_of_columns(k, at_once, monkeypatch):
    monkeypatch.setattr(search, 'TIES_AT_ONCE', at_once)
    distances = torch.randint(4, (9, 40), generator=torch.Generator().manual_seed(k)).float()
    distances[0] = 0
    found = nearest(distances.clone(), k)
    for row, values, indices in zip(distances.tolist(), *found, strict=True):
        expected = sorted(range(40), key=row.__getitem__)[:k]
        assert indices.tolist() == expected and values.tolist() == [row[i] for i in expected]


def test_equal_features_are_reranked_in_the_order_they_stand_in():
    features = torch.ones(30, 4)
    rows = torch.cat(list(rerank(features[:5], features[5:], 'euclidean')))
    again = torch.cat(list(rerank(features[:5], features[5:], 'euclidean', memory_limit=500)))
    assert torch.equal(rows, again) and torch.isfinite(rows).all()


@pytest.mark.parametrize('backend', search.BACKENDS)
@pytest.mark.parametrize('metric', METRICS)
def test_the_nearest_among_some_are_those_of_the_gallery_without_the_others(
    tmp_path, monkeypatch, metric, backend
):
    monkeypatch.setattr(search, 'TOP_K_BLOCK', 16)
    draw = torch.Generator().manual_seed(0)
    query, gallery = torch.randn(5, 8, generator=draw), torch.randn(100, 8, generator=draw)
    gallery[50] = gallery[20]
    among = np.flatnonzero(np.arange(100) % 3 != 1)
    expected = search.top_k(query, gallery[among], 60, metric, backend)
    mapped = np.memmap(tmp_path / 'gallery', np.float32, 'w+', shape=(100, 8))
    mapped[:] = gallery.numpy()
    mapped.flush()
    mapped = np.memmap(tmp_path / 'gallery', np.float32, 'r', shape=(100, 8))
    for features in (gallery, mapped):
        found = search.top_k(query, features, 60, metric, backend, among)
        assert torch.equal(found.indices, torch.from_numpy(among)[expected.indices])
        assert torch.equal(found.distances, expected.distances)
    with pytest.raises(ValueError, match='between 1 and 67, got 68'):
        search.top_k(query, gallery, 68, metric, backend, among)
