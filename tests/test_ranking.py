"""CMC, mAP and mINP against loops over ranked lists, and against the host where it works."""

import time

import numpy as np
import pytest
import references.stmn as references
import torch
import torchreid
from hypothesis import given, settings
from hypothesis import strategies as st

from stmn_plugin.errors import InputError
from stmn_plugin.evaluation import ranking as ranking_module
from stmn_plugin.evaluation import sorting
from stmn_plugin.evaluation.distances import pairwise_distances
from stmn_plugin.evaluation.ranking import evaluate_ranking, rank_features, rank_rows, score_queries
from stmn_plugin.labels import count_matchable

KINDS = ('rectangle', 'trapezoid')


@st.composite
def cases(draw):
    """Distances with ties; junk (-1) and distractors (0) among the pids, also of queries."""
    num_query, num_gallery = draw(st.integers(1, 5)), draw(st.integers(1, 9))

    def numbers(values, size):
        return draw(st.lists(st.sampled_from(values), min_size=size, max_size=size))

    rows = [numbers([0, 1, 2, 3], num_gallery) for _ in range(num_query)]
    return (
        np.array(rows, dtype=draw(st.sampled_from([np.float32, np.float64, np.int64]))),
        np.array(numbers([-1, 0, 1, 2], num_query)),
        np.array(numbers([-1, 0, 1, 2], num_gallery)),
        np.array(numbers([0, 1, 2], num_query)),
        np.array(numbers([0, 1, 2], num_gallery)),
    )


def assert_equals_reference(case, kind, chunk_size=256):
    expected = references.rank_queries(*case, kind)
    if expected is None:
        with pytest.raises(InputError, match='no query has a match'):
            evaluate_ranking(*case, average_precision=kind, chunk_size=chunk_size)
        return None
    ranking = evaluate_ranking(*case, average_precision=kind, chunk_size=chunk_size)
    cmc, mean_ap, mean_inp, num_valid = expected
    assert ranking.num_valid == num_valid
    assert ranking.cmc.shape == (case[0].shape[1],)
    np.testing.assert_allclose(ranking.cmc, cmc, rtol=0, atol=1e-12)
    assert ranking.mean_ap == pytest.approx(mean_ap, abs=1e-12)
    assert ranking.mean_inp == pytest.approx(mean_inp, abs=1e-12)
    return ranking


def random_case(num_query, num_gallery, num_pids, seed, cameras=4, lowest_pid=-1, ties=False):
    rng = np.random.default_rng(seed)
    distances = rng.random((num_query, num_gallery))
    if ties:
        distances = np.floor(distances * 12)
    return (
        distances,
        rng.integers(max(lowest_pid, 0), num_pids, num_query),
        rng.integers(lowest_pid, num_pids, num_gallery),
        rng.integers(0, cameras, num_query),
        rng.integers(0, cameras, num_gallery),
    )


@pytest.mark.slow
@pytest.mark.parametrize('kind', KINDS)
@settings(max_examples=300, deadline=None)
@given(case=cases(), chunk_size=st.integers(1, 6))
def test_ranking_equals_the_loops_on_small_galleries_with_ties_and_junk(kind, case, chunk_size):
    assert_equals_reference(case, kind, chunk_size)


@pytest.mark.parametrize('kind', KINDS)
@pytest.mark.parametrize('ties', [False, True], ids=['distinct', 'ties'])
@pytest.mark.parametrize('seed', range(3))
def test_ranking_equals_the_loops_on_a_gallery_of_two_hundred(kind, ties, seed):
    case = random_case(12, 200, 9, seed, ties=ties)
    ranking = assert_equals_reference(case, kind)
    assert ranking is not None and 0 < ranking.mean_ap < 1


@pytest.mark.parametrize('seed', range(4))
def test_ranking_equals_the_hosts_where_the_host_works(seed):
    case = random_case(30, 300, 25, seed, lowest_pid=0)
    case[1][:3] = 99  # queries without truth: both skip them
    ranking = evaluate_ranking(*case)
    cmc, mean_ap = torchreid.metrics.evaluate_rank(*case, max_rank=50, use_cython=False)
    assert ranking.num_valid <= 27
    np.testing.assert_allclose(ranking.cmc[:50], cmc, rtol=0, atol=1e-6)
    assert ranking.mean_ap == pytest.approx(mean_ap, abs=1e-6)


@pytest.mark.parametrize('kind', KINDS)
def test_the_size_of_chunks_changes_nothing(kind):
    case = random_case(23, 60, 6, 5, ties=True)
    whole = evaluate_ranking(*case, average_precision=kind)
    for chunk_size in (1, 2, 7, 22, 23, 24):
        chunked = evaluate_ranking(*case, average_precision=kind, chunk_size=chunk_size)
        assert np.array_equal(chunked.cmc, whole.cmc)
        assert chunked[1:] == whole[1:]


@pytest.mark.slow
@pytest.mark.parametrize('kind', KINDS)
@settings(max_examples=200, deadline=None)
@given(case=cases(), chunk_size=st.integers(1, 6))
def test_the_scores_of_a_query_are_those_of_ranking_it_alone(kind, case, chunk_size):
    distances, query_pids, gallery_pids, query_camids, gallery_camids = case
    chunks = torch.from_numpy(distances).split(chunk_size)
    scores = score_queries(chunks, *case[1:], average_precision=kind)
    for q in range(len(query_pids)):
        own = query_pids[q : q + 1], gallery_pids, query_camids[q : q + 1], gallery_camids
        expected = references.rank_queries(distances[q : q + 1], *own, kind)
        if expected is None:
            assert scores.first_ranks[q] == 0
            assert np.isnan(scores.aps[q]) and np.isnan(scores.inps[q])
            continue
        cmc, ap, inp, _ = expected
        assert scores.first_ranks[q] == cmc.index(1) + 1
        assert scores.aps[q] == pytest.approx(ap, abs=1e-12)
        assert scores.inps[q] == pytest.approx(inp, abs=1e-12)


def test_both_average_precisions_worked_by_hand():
    distances = [[0.1, 0.2, 0.3, 0.4]]
    case = (distances, [7], [1, 7, 2, 7], [0], [1, 1, 1, 2])
    ranking = evaluate_ranking(*case)
    assert ranking.mean_ap == pytest.approx((1 / 2 + 2 / 4) / 2)
    assert ranking.mean_inp == pytest.approx(2 / 4)
    assert ranking.cmc.tolist() == [0, 1, 1, 1]
    trapezoid = evaluate_ranking(*case, average_precision='trapezoid')
    assert trapezoid.mean_ap == pytest.approx(((0 + 1 / 2) / 2 + (1 / 3 + 2 / 4) / 2) / 2)
    assert trapezoid.mean_inp == ranking.mean_inp
    assert trapezoid.cmc.tolist() == ranking.cmc.tolist()


def test_perfect_retrieval_is_one_by_every_measure():
    for kind in KINDS:
        ranking = evaluate_ranking(
            [[0, 1, 2, 3]], [7], [7, 7, 1, 2], [0], [1, 2, 1, 1], average_precision=kind
        )
        assert ranking.mean_ap == ranking.mean_inp == ranking.cmc[0] == 1
        assert ranking.num_valid == 1


def test_the_querys_own_camera_and_junk_take_no_rank_but_distractors_do():
    gallery_pids, gallery_camids = [7, -1, 7, 1], [0, 1, 1, 1]
    ranking = evaluate_ranking([[0, 1, 2, 3]], [7], gallery_pids, [0], gallery_camids)
    assert ranking.cmc.tolist() == [1, 1, 1, 1] and ranking.mean_ap == 1
    distractor = [7, 0, 7, 1]
    ranking = evaluate_ranking([[0, 1, 2, 3]], [7], distractor, [0], gallery_camids)
    assert ranking.cmc.tolist() == [0, 1, 1, 1] and ranking.mean_ap == 0.5


def test_pid_zero_is_a_person_where_a_query_has_it():
    """LS-VID counts its identities from 0."""
    ranking = evaluate_ranking([[1, 0]], [0], [0, 3], [0], [1, 1])
    assert ranking.num_valid == 1 and ranking.cmc.tolist() == [0, 1]


def test_a_junk_query_finds_nothing():
    with pytest.raises(InputError):
        evaluate_ranking([[0, 1]], [-1], [-1, -1], [0], [1, 1])
    assert count_matchable([-1], [-1, -1], [0], [1, 1]) == 0


def test_equal_distances_keep_the_order_of_the_gallery():
    pids = [1] * 30 + [7] + [1] * 30
    ranking = evaluate_ranking([[2.0] * 61], [7], pids, [0], [1] * 61)
    assert ranking.cmc.tolist() == [0] * 30 + [1] * 31
    assert ranking.mean_ap == pytest.approx(1 / 31)


def test_one_query_and_one_tracklet_are_enough():
    ranking = evaluate_ranking([[0.5]], [3], [3], [0], [1])
    assert ranking.cmc.tolist() == [1] and ranking.mean_ap == ranking.mean_inp == 1


def test_rank_past_the_end_of_a_small_gallery_is_that_of_its_last():
    ranking = evaluate_ranking([[0, 1, 2]], [3], [1, 2, 3], [0], [1, 1, 1])
    assert [ranking.rank(r) for r in (1, 2, 3, 4, 50)] == [0, 0, 1, 1, 1]
    assert isinstance(ranking.rank(1), float)
    for none in (0, -1):
        with pytest.raises(ValueError, match='begin at 1'):
            ranking.rank(none)


def test_tensors_and_lists_and_arrays_rank_alike():
    case = random_case(6, 30, 4, 11)
    arrays = evaluate_ranking(*case)
    tensors = evaluate_ranking(*map(torch.from_numpy, case))
    lists = evaluate_ranking(*(x.tolist() for x in case))
    assert arrays[1:] == tensors[1:] == lists[1:]
    assert arrays.cmc.tolist() == tensors.cmc.tolist() == lists.cmc.tolist()


def test_the_arguments_are_left_as_they_were():
    case = random_case(6, 30, 4, 12)
    before = [x.copy() for x in case]
    evaluate_ranking(*case)
    for x, y in zip(case, before, strict=True):
        assert np.array_equal(x, y)


@pytest.mark.parametrize('bad', [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize('chunk_size', [1, 256])
def test_distances_that_are_not_finite_are_refused(bad, chunk_size):
    case = random_case(4, 30, 2, 13)
    case[0][3, 29] = bad
    with pytest.raises(InputError, match='NaN'):
        evaluate_ranking(*case, chunk_size=chunk_size)


def test_no_match_for_any_query_is_an_input_error():
    with pytest.raises(InputError, match='no query has a match'):
        evaluate_ranking([[0, 1]], [3], [3, 4], [0], [0, 0])


@pytest.mark.parametrize(('num_query', 'num_gallery'), [(0, 3), (2, 0), (0, 0)])
def test_nothing_to_rank_is_an_input_error(num_query, num_gallery):
    distances = np.zeros((num_query, num_gallery))
    query, gallery = np.ones(num_query, dtype=int), np.ones(num_gallery, dtype=int)
    with pytest.raises(InputError, match='no query has a match'):
        evaluate_ranking(distances, query, gallery, query, 2 * gallery)


@pytest.mark.parametrize('position', range(1, 5))
def test_counts_that_do_not_fit_are_quoted(position):
    case = list(random_case(4, 5, 2, 14))
    case[position] = case[position][:-1]
    with pytest.raises(ValueError, match=r'\(4, 5\)'):
        evaluate_ranking(*case)


def test_an_unknown_average_precision_is_quoted():
    with pytest.raises(ValueError, match="'simpson'"):
        evaluate_ranking(*random_case(4, 30, 2, 15), average_precision='simpson')


@pytest.mark.slow
@settings(max_examples=200, deadline=None)
@given(case=cases())
def test_count_matchable_is_the_number_of_queries_that_count(case):
    expected = references.rank_queries(*case, 'rectangle')
    assert count_matchable(*case[1:]) == (0 if expected is None else expected[3])


def random_features(num_query, num_gallery, seed, dim=16, exact=True):
    """Features with exact distances, which do not depend on blocks, and which are full of ties."""
    draw = torch.Generator().manual_seed(seed)
    features = torch.randn(num_query + num_gallery, dim, generator=draw)
    if exact:
        features = features.sign()  # D is a power of 4: the length of a vector is one of 2
    return features[:num_query], features[num_query:]


def assert_same(actual, expected):
    """Bit by bit."""
    assert np.array_equal(actual.cmc, expected.cmc)
    assert actual[1:] == expected[1:]


@pytest.mark.parametrize('kind', KINDS)
@settings(max_examples=100, deadline=None)
@given(case=cases())
def test_unmatched_queries_count_as_zero_on_request(kind, case):
    expected = references.rank_queries(*case, kind)
    if expected is None:
        with pytest.raises(InputError, match='no query has a match'):
            evaluate_ranking(*case, average_precision=kind, unmatched='zero')
        return
    ranking = evaluate_ranking(*case, average_precision=kind, unmatched='zero')
    cmc, mean_ap, mean_inp, num_valid = expected
    share = num_valid / len(case[0])
    assert ranking.num_valid == num_valid
    np.testing.assert_allclose(ranking.cmc, np.array(cmc) * share, rtol=0, atol=1e-12)
    assert ranking.mean_ap == pytest.approx(mean_ap * share, abs=1e-12)
    assert ranking.mean_inp == pytest.approx(mean_inp * share, abs=1e-12)


def test_both_ways_of_an_unmatched_query_by_hand():
    case = ([[0, 1], [0, 1]], [7, 8], [7, 1], [0, 0], [1, 1])
    skipped = evaluate_ranking(*case)
    assert skipped.cmc.tolist() == [1, 1] and skipped[1:] == (1, 1, 1)
    zero = evaluate_ranking(*case, unmatched='zero')
    assert zero.cmc.tolist() == [0.5, 0.5] and zero[1:] == (0.5, 0.5, 1)


@pytest.mark.parametrize('dtype', [torch.float32, torch.float64, torch.float16, torch.bfloat16])
def test_distances_around_zero_and_at_the_ends_of_their_type(dtype):
    """Ties of 0 and -0, neighbouring numbers, the largest ones."""
    largest, step = torch.finfo(dtype).max, torch.finfo(dtype).smallest_normal
    row = [0.0, -0.0, step, -step, largest, -largest, 1.0, -0.0, largest, 0.0]
    distances = torch.tensor([row] * len(row), dtype=dtype)
    for lonely in range(len(row)):
        pids = np.ones(len(row))
        pids[lonely] = 7
        case = (distances[:1], [7], pids, [0], [1] * len(row))
        rank = references.stable_order(distances[0].double().tolist()).index(lonely)
        assert evaluate_ranking(*case).cmc.tolist() == [0] * rank + [1] * (len(row) - rank)


@pytest.mark.parametrize('pieces', [1, 50, 1 << 22])
def test_the_size_of_what_is_sorted_at_once_changes_nothing(pieces, monkeypatch):
    case = random_case(23, 60, 6, 5, ties=True)
    expected = evaluate_ranking(*case)
    monkeypatch.setattr(ranking_module, 'SORTED_AT_ONCE', pieces)
    assert_same(evaluate_ranking(*case, chunk_size=10), expected)


@pytest.mark.slow
@pytest.mark.parametrize('kind', KINDS)
@pytest.mark.parametrize('unmatched', ranking_module.UNMATCHED)
@pytest.mark.parametrize('metric', ['cosine', 'euclidean'])
@pytest.mark.parametrize(
    ('num_query', 'num_gallery'), [(1, 1), (1, 60), (40, 5), (60, 300), (300, 60)]
)
def test_ranking_of_features_is_that_of_their_distances(
    num_query, num_gallery, metric, unmatched, kind
):
    query, gallery = random_features(num_query, num_gallery, num_gallery)
    labels = random_case(num_query, num_gallery, 9, num_query + 1)[1:]
    labels[0][0] = labels[1][0] = 3  # one match at least
    labels[2][0], labels[3][0] = 0, 1
    distances = pairwise_distances(query, gallery, metric)
    assert len(distances.unique()) < 20  # ties abound
    for limit in (None, 1, 30_000):
        ranking = rank_features(query, gallery, *labels, metric, kind, unmatched, limit)
        assert_same(ranking, evaluate_ranking(distances, *labels, kind, 7, unmatched))
        assert_same(ranking, rank_rows(iter([distances]), *labels, kind, unmatched))
    expected = references.rank_queries(distances.tolist(), *labels, kind)
    share = expected[3] / num_query if unmatched == 'zero' else 1
    assert ranking.mean_ap == pytest.approx(expected[1] * share, abs=1e-12)


@pytest.mark.parametrize('metric', ['cosine', 'euclidean'])
def test_ranking_of_features_is_the_hosts(metric):
    query, gallery = random_features(50, 400, 1, dim=64, exact=False)
    labels = random_case(50, 400, 30, 2, lowest_pid=0)[1:]
    ranking = rank_features(query, gallery, *labels, metric)
    host = torchreid.metrics.compute_distance_matrix(query, gallery, metric).numpy()
    cmc, mean_ap = torchreid.metrics.evaluate_rank(host, *labels, max_rank=50, use_cython=False)
    np.testing.assert_allclose(ranking.cmc[:50], cmc, rtol=0, atol=1e-6)
    assert ranking.mean_ap == pytest.approx(mean_ap, abs=1e-6)


@pytest.mark.parametrize('dtype', [np.float16, np.float32])
def test_a_gallery_on_disk_ranks_as_in_memory(dtype, tmp_path):
    query, gallery = random_features(20, 200, 4)
    labels = random_case(20, 200, 9, 3)[1:]
    np.save(tmp_path / 'gallery.npy', gallery.numpy().astype(dtype))
    mapped = np.load(tmp_path / 'gallery.npy', mmap_mode='r')
    expected = rank_features(query, gallery, *labels)
    assert_same(rank_features(query, mapped, *labels, memory_limit=10_000), expected)
    half = gallery.to(torch.float16)
    assert_same(rank_features(query.to(torch.float16), half, *labels), expected)


@pytest.mark.parametrize('bad', [np.nan, np.inf])
@pytest.mark.parametrize('in_gallery', [False, True])
@pytest.mark.parametrize('metric', ['cosine', 'euclidean'])
def test_features_that_are_not_finite_are_refused(metric, in_gallery, bad):
    query, gallery = random_features(5, 30, 6)
    labels = random_case(5, 30, 2, 7, lowest_pid=0)[1:]
    (gallery if in_gallery else query)[4, 3] = bad
    with pytest.raises(InputError, match='NaN'):
        rank_features(query, gallery, *labels, metric)


def test_features_that_do_not_fit_their_labels_are_quoted():
    query, gallery = random_features(5, 30, 6)
    labels = random_case(5, 29, 2, 7)[1:]
    with pytest.raises(ValueError, match=r'\(5, 30\) for \(5, 29\) pids'):
        rank_features(query, gallery, *labels)
    with pytest.raises(ValueError, match="unmatched 'drop'"):
        rank_features(query, gallery[:29], *labels, unmatched='drop')


@pytest.mark.parametrize('chunks', [[3], [3, 3], [2, 2, 2]], ids=str)
def test_chunks_that_are_not_all_the_queries_are_refused(chunks):
    case = random_case(5, 30, 2, 8, lowest_pid=0)
    rows = [torch.from_numpy(np.resize(case[0], (count, 30))) for count in chunks]
    with pytest.raises(ValueError, match='rows'):
        rank_rows(rows, *case[1:])


def test_a_read_only_matrix_of_distances_is_ranked(tmp_path, recwarn):
    case = random_case(6, 30, 4, 12)
    np.save(tmp_path / 'distances.npy', case[0])
    mapped = np.load(tmp_path / 'distances.npy', mmap_mode='r')
    assert_same(evaluate_ranking(mapped, *case[1:]), evaluate_ranking(*case))
    assert not recwarn.list


def tied_cases(count):
    """Distances (Q, G) with few and many ties, of every type that is sorted in its own way."""
    rng = np.random.default_rng(3)
    num_query, num_gallery = count
    some = rng.random((num_query, num_gallery)) - 0.5
    twice = np.where(rng.random(some.shape) < 0.5, some, np.roll(some, 1, axis=1))
    levels = np.floor(some * 10)
    spread = np.float64(2) ** rng.integers(-60, 60, some.shape) * np.sign(some)
    zeros = np.where(levels < 0, -0.0, 0.0)
    yield from (twice, levels, spread, zeros, twice.astype(np.float32), spread.astype(np.float32))
    yield from (zeros.astype(np.float32), twice.astype(np.float16), levels.astype(np.int8))
    yield from ((levels + 9).astype(np.uint16), (levels + 2.0**40).astype(np.int64), levels > 0)
    yield (levels * 2.0**55).astype(np.int64) + 1  # a float does not hold them
    yield twice.astype('>f4')


@pytest.mark.parametrize('kind', KINDS)
def test_ties_of_every_type_are_ranked_as_the_loops_rank_them(kind):
    labels = random_case(6, 300, 5, 21)[1:]
    for distances in tied_cases((6, 300)):
        assert_equals_reference((distances, *labels), kind)


@pytest.mark.parametrize('at_once', [1, 700, 1 << 17])
def test_the_order_of_a_row_is_that_of_a_stable_sort(at_once, monkeypatch):
    monkeypatch.setattr(sorting, 'ORDERED_AT_ONCE', at_once)
    for distances in tied_cases((5, 90)):
        values = sorting.sortable(distances)
        rows = distances.tolist()
        expected = [sorted(range(90), key=row.__getitem__) for row in rows]  # stable
        assert sorting.stable_order(values).tolist() == expected
        row, column = (x.ravel() for x in np.indices(distances.shape))
        places = sorting.places_of(values, row, column)
        for r, c, place, nearer, equal in zip(row, column, *places, strict=True):
            assert expected[r][place - 1] == c
            assert nearer == sum(x < rows[r][c] for x in rows[r])
            assert equal == sum(x == rows[r][c] for x in rows[r])


def test_a_query_is_tied_where_another_person_is_as_far_as_a_match():
    """Not where matches are tied with each other, or with what takes no rank."""
    distances = torch.tensor([[1.0, 1.0, 2.0, 2.0, 3.0]])
    for pids, camids, tied in (
        ([7, 7, 1, 1, 7], [1, 1, 1, 1, 1], False),  # two matches
        ([7, 7, 1, 1, 7], [1, 0, 1, 1, 1], False),  # a match and the query's own camera
        ([7, -1, 1, 1, 7], [1, 1, 1, 1, 1], False),  # a match and junk
        ([7, 1, 1, 1, 7], [1, 1, 1, 1, 1], True),
        ([1, 1, 1, 7, 7], [0, 1, 1, 1, 1], True),
        ([1, 1, 7, 1, 7], [0, 1, 0, 1, 1], False),  # the query's own camera and another person
        ([1, 1, 1, 1, 7], [1, 1, 1, 1, 1], False),
        ([1, 1, 1, 1, 1], [1, 1, 1, 1, 1], False),
    ):
        scores = score_queries([distances], [7], pids, [0], camids)
        assert scores.tied.tolist() == [tied], (pids, camids)


@pytest.mark.slow
def test_ties_take_little_more_time_than_none():
    num_query, num_gallery = 60, 4000
    labels = random_case(num_query, num_gallery, 1, 22, lowest_pid=0)[1:]  # everything is a match
    distances = np.random.default_rng(22).random((num_query, num_gallery)).astype(np.float32)

    def seconds(of):
        start = time.process_time()
        evaluate_ranking(of, *labels)
        return time.process_time() - start

    untied = min(seconds(distances) for _ in range(3))
    for tied in (np.floor(distances * 50), np.zeros_like(distances)):
        assert min(seconds(tied) for _ in range(3)) < 6 * untied  # 3, and room for a busy machine


@pytest.mark.parametrize(
    'distances',
    [
        np.array([[1, 2j]]),
        np.array([['1', '2']]),
        np.array([[1, None]]),
        [[1, None]],
        np.ma.array([[1.0, 2.0]], mask=[[0, 1]]),
        np.uint64([[1, 2**63]]),
        np.array([[1, 2]], dtype=np.longdouble),
    ],
    ids=repr,
)
def test_distances_that_are_no_real_numbers_are_refused(distances):
    with pytest.raises(InputError, match='distances'):
        evaluate_ranking(distances, [7], [7, 7], [0], [1, 1])


@pytest.mark.parametrize('shape', [(2,), (1, 2, 1), (2, 1), ()])
def test_distances_of_another_shape_are_quoted(shape):
    with pytest.raises(ValueError, match='distances'):
        evaluate_ranking(np.zeros(shape), [7], [7, 7], [0], [1, 1])


def test_transposed_distances_rank_without_a_warning(recwarn):
    distances = np.random.default_rng(0).normal(size=(7, 4))
    labels = [0, 1, 0, 1], [0, 1, 0, 1, 2, 0, 1], [0] * 4, [1] * 7
    expected = evaluate_ranking(distances.T.copy(), *labels)
    for transposed in (distances.T, torch.from_numpy(distances).T):
        assert evaluate_ranking(transposed, *labels).mean_ap == expected.mean_ap
    assert not recwarn


def test_distances_with_a_gradient_rank_as_without():
    distances = torch.tensor([[0.0, 1.0]], requires_grad=True)
    assert evaluate_ranking(distances, [7], [1, 7], [0], [1, 1]).cmc.tolist() == [0, 1]
