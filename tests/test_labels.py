"""Labels of every type are equal exactly where Python's own exact values are, or refused."""

import itertools
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from stmn_plugin.errors import InputError
from stmn_plugin.evaluation.features import TrackletFeatures
from stmn_plugin.evaluation.ranked_lists import rank_and_list
from stmn_plugin.evaluation.ranking import evaluate_ranking
from stmn_plugin.labels import comparable, count_matchable

BEYOND = 2**53 + 1  # float64 rounds it to 2**53


def equal_pairs(query, gallery):
    return [(i, j) for i, j in itertools.product(range(len(query)), range(len(gallery)))
            if query[i] == gallery[j]]  # fmt: skip


NUMBERS = [-1, 0, 1, 7, 2**24, 2**24 + 1, 2**53, BEYOND, 2**63 - 1, -(2**63), 2**63, 2**64 - 1]
TYPES = [int, np.int8, np.int64, np.uint8, np.uint64, np.float16, np.float32, np.float64]


def as_type(values, kind):
    """Those of the values that the type can hold, as a list of it and as an array."""
    held = []
    for value in values:
        try:
            with np.errstate(all='ignore'):
                converted = kind(value)
        except OverflowError:
            continue
        exact = float(converted) if isinstance(converted, np.floating) else int(converted)
        if np.isfinite(float(exact)) and Fraction(exact) == value:
            held.append(converted)
    return held, np.array(held, dtype=object if kind is int else kind)


@pytest.mark.parametrize('kinds', list(itertools.product(TYPES, TYPES)), ids=str)
@pytest.mark.parametrize('form', [0, 1], ids=['lists', 'arrays'])
def test_numbers_of_any_two_types_are_equal_exactly_or_refused(kinds, form):
    query, gallery = (as_type(NUMBERS, kind)[form] for kind in kinds)
    if any(k in (np.float32, np.float64) for k in kinds):
        with pytest.raises(InputError, match='pids must be whole numbers, as float'):
            comparable(query, gallery, 'pids')  # 2**53 may have been 2**53 + 1
        query, gallery = (as_type(NUMBERS[:4], kind)[form] for kind in kinds)
    codes = comparable(query, gallery, 'pids')
    exact = [[int(x) for x in side] for side in (query, gallery)]
    assert equal_pairs(*codes) == equal_pairs(*exact)
    assert all(side.dtype == np.int64 for side in codes)
    for side, numbers in zip(codes, exact, strict=True):
        assert [x == -1 for x in side] == [x == -1 for x in numbers]  # junk stays junk


@pytest.mark.slow
@given(
    query=st.lists(st.text(max_size=3) | st.sampled_from(['a', 'a\0', 'b '])),
    gallery=st.lists(st.text(max_size=3) | st.sampled_from(['a', 'a\0', 'b '])),
)
def test_texts_are_equal_exactly(query, gallery):
    assert equal_pairs(*comparable(query, gallery, 'pids')) == equal_pairs(query, gallery)


KINDS_APART = [[1, 2], ['1', '2'], [b'1', b'2']]


@pytest.mark.parametrize('query, gallery', list(itertools.permutations(KINDS_APART, 2)))
@pytest.mark.parametrize('form', [list, np.array])
def test_labels_of_two_kinds_are_refused(query, gallery, form):
    with pytest.raises(InputError, match='camids of several kinds'):
        comparable(form(query), form(gallery), 'camids')
    with pytest.raises(InputError, match='camids'):
        evaluate_ranking(np.zeros((2, 2)), [1, 2], [1, 2], form(query), form(gallery))
    with pytest.raises(InputError, match='pids'):
        evaluate_ranking(np.zeros((2, 2)), form(query), form(gallery), [1, 2], [3, 4])
    with pytest.raises(InputError, match='pids'):
        count_matchable(form(query), form(gallery), [1, 2], [3, 4])


@pytest.mark.parametrize(
    'labels',
    [
        [1, '1'],
        [1, None],
        [True, False],
        [1, True],
        np.array([True, False]),
        [1.5, 2],
        [1, np.nan],
        np.array([1, np.inf]),
        np.float32([2**24, 1]),
        np.float16([2**11, 1]),
        torch.tensor([1, 2], dtype=torch.bfloat16),
        np.float64([BEYOND, 1]),
        [[1], [2]],
        np.ones((2, 1)),
        np.array([1, 2j]),
        np.array(['2020-01-01', '2020-01-02'], dtype='datetime64[D]'),
        np.ma.array([1, 2], mask=[0, 1]),
        [1, np.ma.masked],
        {1, 2},
        '12',
        ['-1', '2'],
        [b'-1', b'2'],
        np.array([1, 'x'], dtype=object),
    ],
    ids=repr,
)
def test_what_is_no_label_is_refused(labels):
    for query, gallery in ((labels, [1, 2]), ([1, 2], labels), (labels, labels)):
        with pytest.raises(InputError, match='pids'):
            comparable(query, gallery, 'pids')


@pytest.mark.parametrize(
    'labels',
    [
        np.uint64([3, 2**63, 3]),
        [2**70, 5, 2**70],
        np.array([4, 9, 4], dtype=object),
        np.float64([4, 9, 4]),
        np.array([4, 9, 4], dtype='>i4'),
        torch.tensor([4, 9, 4], dtype=torch.int16),
        torch.tensor([4.0, 9.0, 4.0], requires_grad=True),
        range(4, 7),
        np.ma.array([4, 9, 4]),
        np.array(['x', 'y', 'x']),
        np.array([b'x', b'y', b'x']),
        (),
        np.zeros(0),
    ],
    ids=repr,
)
def test_labels_of_one_exact_type_are_themselves(labels):
    codes = comparable(labels, labels, 'pids')
    values = labels.tolist() if hasattr(labels, 'tolist') else list(labels)
    assert equal_pairs(*codes) == equal_pairs(values, values)


def test_a_ranking_of_large_numbers_tells_neighbours_apart():
    query, gallery = np.int64([BEYOND]), np.uint64([BEYOND - 1, BEYOND, 2**63 + 5])
    case = [[0, 1, 2]], query, gallery, [0], [1, 1, 1]
    ranking = evaluate_ranking(*case)
    assert ranking.cmc.tolist() == [0, 1, 1] and count_matchable(*case[1:]) == 1
    found = rank_and_list(
        iter([torch.tensor([[0.0, 1.0, 2.0]])]),
        TrackletFeatures(torch.zeros(1, 1), query, np.array(['a'])),
        TrackletFeatures(torch.zeros(3, 1), gallery, np.array(['b', 'b', 'a'])),
        2,
    )
    assert found.is_match.tolist() == [[False, True]] and found.first_match.tolist() == [1]
