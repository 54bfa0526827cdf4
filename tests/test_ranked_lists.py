"""What is listed of every query, against loops over its sorted row."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import references.stmn as references
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_ranking import cases

from stmn_plugin.errors import InputError
from stmn_plugin.evaluation.features import TrackletFeatures
from stmn_plugin.evaluation.ranked_lists import rank_and_list, write_ranked_list


def tracklets(pids, camids):
    return TrackletFeatures(torch.empty(len(pids), 0), pids, camids)


def rank(case, k, chunk_size=256):
    distances, query_pids, gallery_pids, query_camids, gallery_camids = case
    chunks = torch.as_tensor(distances).float().split(chunk_size)
    query = tracklets(np.array(query_pids), np.array(query_camids))
    return rank_and_list(
        chunks, query, tracklets(np.array(gallery_pids), np.array(gallery_camids)), k
    )


@pytest.mark.slow
@settings(max_examples=200, deadline=None)
@given(case=cases(), k=st.integers(1, 10), chunk_size=st.integers(1, 6))
def test_lists_are_those_of_loops_with_ties_and_junk(case, k, chunk_size):
    distances, query_pids, gallery_pids, query_camids, gallery_camids = case
    lists = rank(case, k, chunk_size)
    for q, row in enumerate(distances.tolist()):
        order = [
            g
            for g in references.stable_order(row)
            if gallery_pids[g] != -1
            and not (gallery_pids[g] == query_pids[q] and gallery_camids[g] == query_camids[q])
        ]
        listed = np.isfinite(lists.distances[q])
        expected = order[: lists.indices.shape[1]]
        assert lists.indices[q][listed].tolist() == expected
        assert lists.distances[q][listed].tolist() == [row[g] for g in expected]
        assert not listed[len(expected) :].any()
        right = [gallery_pids[g] == query_pids[q] for g in order]
        assert lists.is_match[q][listed].tolist() == right[: len(expected)]
        if any(right):
            first = right.index(True)
            assert lists.first_match[q] == order[first]
            assert lists.first_distance[q] == row[order[first]]
            assert lists.scores.first_ranks[q] == first + 1
        else:
            assert lists.first_match[q] == -1 and lists.scores.first_ranks[q] == 0


def test_a_list_by_hand():
    """Of the query's camera, junk, a distractor, another person, and at last the right one."""
    case = ([[0.1, 0.2, 0.3, 0.4, 0.5]], [7], [7, -1, 0, 3, 7], [0], [0, 1, 0, 0, 1])
    lists = rank(case, 2)
    assert lists.indices.tolist() == [[2, 3]] and not lists.is_match.any()
    assert lists.first_match.tolist() == [4] and lists.scores.first_ranks.tolist() == [3]
    assert lists.scores.aps.tolist() == [pytest.approx(1 / 3)]
    assert rank(case, 99).indices[0, :3].tolist() == [2, 3, 4]


def test_distances_that_are_not_finite_are_refused():
    with pytest.raises(InputError, match='NaN'):
        rank(([[0.1, float('nan')]], [7], [7, 1], [0], [1, 1]), 1)


def test_written_lists_equal_a_sort_of_every_row(tmp_path):
    generator = torch.Generator().manual_seed(0)
    distances = torch.rand(5, 7, generator=generator)
    gallery = [((f'g{i}/0.jpg', f'g{i}/1.jpg'), -1, -1, 0) for i in range(7)]
    queries = [((f'q{i}/0.jpg',), -1, -1, 0) for i in range(4)] + [gallery[2]]
    paths = write_ranked_list(
        str(tmp_path / 'ranked'), distances.split([2, 3]), queries, gallery, 3
    )
    lists = json.loads(Path(paths[0]).read_text())
    expected = []
    for row, (frames, *_) in enumerate(queries):
        order = sorted(range(7), key=lambda column, row=row: distances[row, column].item())
        order = [column for column in order if gallery[column][0] != frames][:3]
        expected.append((frames[0], [f'g{column}/0.jpg' for column in order]))
    assert [(x['query'], [y['tracklet'] for y in x['ranked']]) for x in lists] == expected
    with open(paths[1], newline='') as file:
        rows = list(csv.DictReader(file))
    assert [(r['query'], r['rank'], r['tracklet'], float(r['distance'])) for r in rows] == [
        (x['query'], str(rank), y['tracklet'], y['distance'])
        for x in lists
        for rank, y in enumerate(x['ranked'], 1)
    ]
