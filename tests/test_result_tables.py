"""Runs → rows → tables: numbers over seeds, published ones, the search of hyperparameters."""

import csv
import json
import os
from pathlib import Path

import pytest
from written_runs import evaluation, write_run

from stmn_plugin.comparing import grid, result_tables, run_queue
from stmn_plugin.comparing.published import published_rows
from stmn_plugin.comparing.result_tables import Score, rows_of, score_over_seeds
from stmn_plugin.comparing.run_queue import Outcome
from stmn_plugin.evaluation.doubts import NOTE


def test_mean_and_sample_standard_deviation():
    of_three = Score(3.0, pytest.approx(7**0.5), (1.0, 2.0, 6.0))  # (4 + 1 + 9) / (3 - 1)
    assert score_over_seeds([1.0, 2.0, 6.0]) == of_three
    assert score_over_seeds([4.0]) == Score(4.0, None, (4.0,))
    assert (
        str(score_over_seeds([64.8, 78.1, 70.3])) == '71.1 ± 6.7'
        and str(score_over_seeds([0.0])) == '0.0'
    )


def outcomes(tmp_path):
    slow = {'seconds': {'per_tracklet': 0.7}, 'peak_memory': {'resident': 5 << 30, 'gpu': 4 << 30}}
    first = write_run(tmp_path / 'a')
    second = write_run(tmp_path / 'b', epochs=1)
    tested = evaluation(peak_memory={'resident': 9 << 30, 'gpu': 3 << 30})
    return [
        Outcome('stmn', 1, 'a', first, [tested, evaluation(frames='all', flip=True)]),
        Outcome('stmn', 2, 'b', second, [evaluation(**slow, **{'rank-1': 0.7, 'mAP': 0.2})]),
        Outcome('stmn', 3, 'c', error='killed by SIGKILL (see c/console.log)'),
    ]


def test_rows_are_means_over_the_seeds_that_went_well(tmp_path):
    rrs, every, failed = rows_of(outcomes(tmp_path))
    assert (rrs.method, rrs.dataset, rrs.protocol, rrs.frames) == (
        'stmn',
        'mars',
        'official',
        'rrs',
    )
    assert rrs.distance == 'euclidean'
    assert rrs.seeds == (1, 2) and every.seeds == (1,)
    assert rrs.scores['rank-1'][:2] == (pytest.approx(60.0), pytest.approx(200**0.5))
    assert rrs.scores['mAP'][:2] == (pytest.approx(30.0), pytest.approx(200**0.5))
    assert every.scores['rank-1'] == (50.0, None, (50.0,)) and every.frames == 'all + flip'
    assert (rrs.parameters, rrs.gflops_per_frame, rrs.feature_dim) == (1_500_000, 0.25, 512)
    assert rrs.seconds_per_tracklet == pytest.approx(0.6)
    assert rrs.peak_memory == 4 << 30  # of the GPU where there is one; the highest
    assert rrs.training_seconds == pytest.approx((7.5 + 2.5) / 2)
    assert failed.method == 'stmn' and failed.error.startswith('seed 3: killed by SIGKILL')


def test_the_table_shows_what_is_known(tmp_path):
    table = result_tables.as_markdown(rows_of(outcomes(tmp_path)))
    head, _, rrs, every, failed = table.splitlines()
    scores = ['60.0 ± 14.1', '60.0 ± 0.0', '70.0 ± 0.0', '30.0 ± 14.1', '10.0 ± 0.0']
    costs = ['1.50', '4', '1.000', '512', '0.6000', '4.00', '0:00:05']
    cells = ['stmn', 'mars', 'official', 'rrs', 'euclidean', '2 of 3', *scores, *costs]
    assert [cell.strip() for cell in rrs.split('|')[1:-2]] == cells
    assert 'all + flip' in every and 'seed 3: killed by SIGKILL' in failed
    shown = result_tables.as_text(rows_of(outcomes(tmp_path / 'shown'))).splitlines()
    assert shown[0] == 'dataset mars, protocol official, distance euclidean, L 4, feature 512'
    assert shown[-1].startswith('stmn, seed 3: killed by SIGKILL')
    assert 'error' in head and 'source' not in head  # nothing published: all is measured
    rows = rows_of(outcomes(tmp_path / 'again')[:2]) + published_rows('mars')
    head, *lines = result_tables.as_markdown(rows).splitlines()
    assert 'error' not in head and 'source' in head
    assert 'measured' in lines[1] and 'published: CLIMB-ReID paper' in lines[-1]
    assert any('not measured' in note for note in result_tables.notes_for(rows))


def test_the_files_hold_the_table(tmp_path):
    rows = rows_of(outcomes(tmp_path))
    paths = result_tables.write_comparison(rows, str(tmp_path / 'out'))
    assert [os.path.basename(path) for path in paths] == [
        'compare.md',
        'compare.json',
        'compare.csv',
    ]
    text, content = Path(paths[0]).read_text(), json.loads(Path(paths[1]).read_text())
    assert '| stmn     | mars' in text and all(
        f'* {note}\n' in text for note in result_tables.NOTES
    )
    assert content['rows'][0]['scores']['rank-1'] == {
        'mean': 60.0,
        'std': pytest.approx(14.142136),
        'values': [50.0, 70.0],
    }
    assert content['rows'][0]['seeds'] == [1, 2]
    with open(paths[2], newline='') as file:
        lines = list(csv.DictReader(file))
    assert [line['method'] for line in lines] == ['stmn'] * 3
    assert float(lines[0]['mAP std']) == pytest.approx(14.142136) and lines[1]['mAP std'] == ''
    assert lines[2]['error'].startswith('seed 3') and lines[0]['seeds'] == '1 2'


def test_peak_memory_of_a_gpu_and_of_a_processor_are_no_one_number(tmp_path):
    run = write_run(tmp_path / 'a')
    peaks = [{'resident': 3 << 30, 'gpu': 0}, {'resident': 5 << 30, 'gpu': 1 << 30}, None]

    def row(*seeds):
        tested = [Outcome('x', s, str(s), run, [evaluation(peak_memory=peaks[s])]) for s in seeds]
        return rows_of(tested)[0]

    assert [row(0).peak_memory, row(1).peak_memory] == [3 << 30, 1 << 30]
    assert [row(0, 1).peak_memory, row(0, 2).peak_memory] == [None, None]


def test_what_is_tested_otherwise_is_another_row(tmp_path):
    run = write_run(tmp_path / 'a')
    ways = [{}, {'dist_metric': 'cosine'}, {'normalize_feature': True}, {'amp': 'bf16'}]
    tested = [evaluation(amp='off'), *(evaluation(**way) for way in ways)]
    rows = rows_of([Outcome('stmn', 1, 'a', run, tested)])
    assert [(row.frames, row.distance) for row in rows] == [
        ('rrs', 'euclidean'),
        ('rrs', 'cosine'),
        ('rrs', 'euclidean, normalised'),
        ('rrs, bf16', 'euclidean'),
    ]
    assert all(row.seeds == (1,) for row in rows)  # also where float32 was said and not said


COLLAPSED = {'collapsed': True, 'doubt': 'all are equal', 'num_query_tied': 9}


def test_a_collapsed_model_is_marked_wherever_its_numbers_stand(tmp_path):
    run = write_run(tmp_path / 'a')
    seeds = [evaluation(**COLLAPSED), evaluation(doubt=''), evaluation(doubt='tied')]
    tested = [Outcome('x', seed, str(seed), run, [e]) for seed, e in enumerate(seeds, 1)]
    (row,) = rows_of(tested)
    assert row.doubt == 'collapsed (seed 1); ties (seed 3)'
    shown = result_tables.as_text([row])
    assert all(part in shown for part in row.doubt.split('; '))
    paths = result_tables.write_comparison([row], str(tmp_path / 'out'))
    assert all(row.doubt in Path(path).read_text() for path in paths)
    assert result_tables.notes_for([row])[-1] == NOTE
    assert run_queue._summary(tested[0]).endswith('rrs rank-1 50.0 mAP 40.0 (collapsed)')
    (sound,) = rows_of(tested[1:2])
    assert 'doubt' not in result_tables.as_text([sound]) and NOTE not in result_tables.notes_for(
        [sound]
    )
    of_grid = grid._setting({'video.seq_len': 4}, tested)
    assert row.doubt in grid.factor_text([of_grid]) and 'doubt' not in grid.factor_text(
        [grid.GridPoint({}, 1, None, None, None)]
    )
    assert all(row.doubt in Path(p).read_text() for p in grid.write_grid([[of_grid]], tmp_path))
