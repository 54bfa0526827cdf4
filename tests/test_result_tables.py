"""Runs → rows → tables: numbers over seeds, published ones, the search of hyperparameters."""

import csv
import json
import os
import re
from pathlib import Path

import pytest

from stmn_plugin.comparing import grid, result_tables, run_queue
from stmn_plugin.comparing.published import published_rows
from stmn_plugin.comparing.result_tables import Score, rows_of, score_over_seeds
from stmn_plugin.comparing.run_plan import TESTING, as_words
from stmn_plugin.comparing.run_queue import Outcome
from stmn_plugin.comparing.run_record import read_run
from stmn_plugin.config import load_config
from stmn_plugin.config.defaults import flatten
from stmn_plugin.errors import InputError
from stmn_plugin.evaluation.doubts import NOTE
from stmn_plugin.training.provenance import config_digests

VIDEO = ['data.type', 'video', 'data.sources', "['mars']", 'data.targets', "['mars']"]
VIDEO += ['train.max_epoch', '3', 'video.sample_method', 'rrs']


def evaluation(**changes):
    values = {
        'dataset': 'mars',
        'protocol': 'official',
        'frames': 'rrs',
        'flip': False,
        'dist_metric': 'euclidean',
        'normalize_feature': False,
        'reranked': False,
        'weights': 'w',
        'epoch': None,
        'seconds': {'extraction': 10.0, 'per_tracklet': 0.5, 'ranking': 0.1},
        'peak_memory': {'resident': 3 << 30, 'gpu': 0},
        'rank-1': 0.5,
        'rank-5': 0.6,
        'rank-10': 0.7,
        'mAP': 0.4,
        'mINP': 0.1,
    }
    return {**values, **changes}


DATA = {'train': 'of train', 'query': 'of query', 'gallery': 'of gallery'}


def made_from(words, data=DATA):
    """As an evaluation records it."""
    return {**config_digests(flatten(load_config('', words))), **data}


def alone(words=(), base=VIDEO, data=DATA, **changes):
    """The evaluation of a run's last weights alone, by KEY VALUE words on its own config."""
    frames = changes.get('frames', 'rrs')
    words = [*base, *as_words({**TESTING, 'test.frames': frames}), *words]
    return evaluation(made_from=made_from(words, data), **changes)


def write_run(folder, words=(), epochs=3, evaluations=None, base=VIDEO, data=DATA):
    """A run folder as training leaves it after so many of its epochs."""
    (folder / 'model').mkdir(parents=True)
    cfg = load_config('', [*base, *words])
    (folder / 'config.yaml').write_text(cfg.dump())
    if epochs:
        (folder / 'model' / f'model.pth.tar-{epochs}').write_bytes(b'not looked at')
    lines = [{'epoch': e, 'losses': {}, 'seconds': 2.5} for e in range(1, epochs + 1)]
    (folder / 'metrics.jsonl').write_text(''.join(json.dumps(line) + '\n' for line in lines))
    evaluations = [evaluation(epoch=epochs)] if evaluations is None else evaluations
    for e in evaluations:
        e.setdefault('made_from', made_from([*base, *words], data))
    content = {'parameters': 1_500_000, 'gflops_per_frame': 0.25, 'feature_dim': 512}
    (folder / 'metrics.json').write_text(json.dumps({**content, 'evaluations': evaluations}))
    return read_run(str(folder))


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
    table = result_tables.as_table(rows_of(outcomes(tmp_path)))
    head, _, rrs, every, failed = table.splitlines()
    scores = ['60.0 ± 14.1', '60.0 ± 0.0', '70.0 ± 0.0', '30.0 ± 14.1', '10.0 ± 0.0']
    costs = ['1.50', '0.250', '512', '0.6000', '4.00', '0:00:05']
    cells = ['stmn', 'mars', 'official', 'rrs', 'euclidean', '2 of 3', *scores, *costs]
    assert re.split(r'\s{2,}', rrs.strip()) == cells
    assert 'all + flip' in every and 'seed 3: killed by SIGKILL' in failed
    assert 'error' in head and 'source' not in head  # nothing published: all is measured
    rows = rows_of(outcomes(tmp_path / 'again')[:2]) + published_rows('mars')
    head, *lines = result_tables.as_table(rows).splitlines()
    assert 'error' not in head and 'source' in head
    assert lines[1].endswith('measured') and 'published: CLIMB-ReID paper' in lines[-1]
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


def setting(*scores):
    both = score_over_seeds([sum(pair) / 2 for pair in scores]) if scores else None
    return grid.Setting({}, len(scores), None, None, both)


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
    assert row.doubt in result_tables.as_table([row])
    paths = result_tables.write_comparison([row], str(tmp_path / 'out'))
    assert all(row.doubt in Path(path).read_text() for path in paths)
    assert result_tables.notes_for([row])[-1] == NOTE
    assert run_queue._summary(tested[0]).endswith('rrs rank-1 50.0 mAP 40.0 (collapsed)')
    (sound,) = rows_of(tested[1:2])
    assert 'doubt' not in result_tables.as_table([sound]) and NOTE not in result_tables.notes_for(
        [sound]
    )
    of_grid = grid._setting({'video.seq_len': 4}, tested)
    assert row.doubt in grid.factor_table([of_grid]) and 'doubt' not in grid.factor_table(
        [setting((1, 1))]
    )
    assert all(row.doubt in Path(p).read_text() for p in grid.write_grid([[of_grid]], tmp_path))


def test_the_best_setting():
    assert grid.best_setting([setting((60, 40)), setting((50, 52)), setting((70, 20))]) == 1
    # equal means: the smaller standard deviation, then the first
    wide, narrow = setting((40, 40), (60, 60)), setting((49, 49), (51, 51))
    assert grid.best_setting([wide, narrow, narrow]) == 1
    assert grid.best_setting([setting(), setting((1, 1)), setting()]) == 1
    # a setting that diverges for some seeds is not chosen for the luck of the others
    assert grid.best_setting([setting((90, 90)), setting((50, 50), (50, 50))]) == 1
    assert grid.best_setting([setting(), setting()]) is None


def test_each_factor_is_searched_with_the_best_of_those_before():
    best = {'stmn.spatial_items': 20, 'stmn.temporal_items': 10, 'loss.spread.margin': 0.7}
    best['video.seq_len'] = 8
    asked = []

    def run_variants(variants):
        asked.append([variant.changes for variant in variants])
        for variant in variants:
            good = sum(best[key] == value for key, value in variant.changes.items())
            for seed, luck in enumerate((0.0, 0.02)):
                scores = {'rank-1': good / 5 + luck, 'mAP': good / 10}
                yield Outcome(variant.title, seed, '', evaluations=[scores])
        yield Outcome(variants[0].title, 9, '', error='failed')

    factors = list(grid.search_factors(run_variants, grid.FACTORS))
    assert [len(variants) for variants in asked] == [9, 5, 4]
    pairs = {(v['stmn.spatial_items'], v['stmn.temporal_items']) for v in asked[0]}
    assert pairs == {(m, n) for m in (5, 10, 20) for n in (5, 10, 20)}
    assert [v['loss.spread.margin'] for v in asked[1]] == [0.1, 0.3, 0.5, 0.7, 1.0]
    assert [v['video.seq_len'] for v in asked[2]] == [4, 6, 8, 10]
    for later, keys in ((asked[1], list(best)[:2]), (asked[2], list(best)[:3])):
        assert all(v[key] == best[key] for v in later for key in keys)
    chosen = [s for settings in factors for s in settings if s.chosen]
    assert [s.title for s in chosen] == ['M=20, N=10', 'alpha=0.7', 'L=8']
    assert chosen[0].rank1[:2] == (pytest.approx(41.0), pytest.approx(2**0.5))
    assert chosen[0].seeds == 2
    assert grid.words_of(factors) == [str(x) for pair in best.items() for x in pair]
    first, *_ = factors[0]
    assert first.errors == ('seed 9: failed',) and 'seed 9: failed' in grid.factor_table(factors[0])
    assert 'error' not in grid.factor_table(factors[0][1:])
    table = grid.factor_table(factors[0]).splitlines()
    assert sum('chosen' in line for line in table) == 1
    with pytest.raises(InputError, match='no run of the 4 settings'):
        list(
            grid.search_factors(lambda v: [Outcome(v[0].title, 1, '', error='x')], grid.FACTORS[2:])
        )
