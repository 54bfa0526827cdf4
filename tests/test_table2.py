"""Table 2 on equal terms: which rows, the published numbers in them, and the figure."""

import csv
import json
from types import SimpleNamespace

import pytest
from PIL import Image
from test_compare import in_this_process, never, run  # noqa: F401, a fixture

from stmn_plugin.comparing import table2
from stmn_plugin.comparing.published import STATE_OF_THE_ART, published_scores
from stmn_plugin.comparing.result_tables import Row, Score, notes_for, rows_of
from stmn_plugin.comparing.run_queue import Outcome
from stmn_plugin.config import load_config
from stmn_plugin.data.frame_samplers import ClipPlan
from stmn_plugin.errors import InputError
from stmn_plugin.models import VIDEO_MODELS
from stmn_plugin.plugins import load_plugins

load_plugins()
slow = pytest.mark.slow


def test_rows_are_stmn_its_baseline_and_the_systems():
    variants = table2.table2_variants()
    assert [v.title for v in variants[:2]] == ['STMN', 'STMN baseline']
    assert variants[0].changes['stmn.spatial_mode'] == 'memory'
    assert variants[1].changes['stmn.spatial_mode'] == 'none'
    assert [v.changes['model.name'] for v in variants[2:]] == [*table2.SYSTEMS]
    assert {*table2.SYSTEMS} == {*VIDEO_MODELS} - {'stmn', 'eug'}
    published = {name for name, *_ in STATE_OF_THE_ART}
    assert {*table2.SYSTEMS.values()} - {'NVAN'} <= published
    some = table2.table2_variants(['gltr', 'qan', 'gltr'])
    assert [v.title for v in some] == ['STMN', 'STMN baseline', 'GLTR', 'QAN']
    with pytest.raises(InputError, match="--systems: 'psta' is none of seeforest, qan"):
        table2.table2_variants(['psta'])


def test_equal_terms_say_only_what_a_system_needs():
    own = {'data.save_dir', 'video.seq_len', 'model.name'}
    for variant in table2.table2_variants()[2:]:
        name = variant.changes['model.name']
        foreign = {key for key in variant.changes if not key.startswith(f'{name}.')} - own
        assert not foreign, (name, foreign)
        words = [word for key, value in variant.changes.items() for word in (key, str(value))]
        cfg = load_config('stmn_synthetic', words)
        assert cfg[name].backbone == cfg.stmn.backbone == 'resnet18'  # one encoder for all


def test_published_numbers_stand_in_the_rows_of_what_they_report():
    assert published_scores('STE-NVAN', 'mars', 'rrs') == '88.9 / 81.2'
    assert published_scores('STE-NVAN', 'lsvid', 'rrs') == '72.1 / 56.6 *'
    assert published_scores('STE-NVAN', 'mars', 'all') == ''  # of the other strategy nothing
    assert published_scores('QAN', 'lsvid', 'rrs') == published_scores('QAN', 'drawn', 'rrs') == ''
    rows = [Row('STA', {}, 'mars', frames='all'), Row('STA', {}, 'synthetic', frames='all')]
    assert [row.published for row in table2.with_published(rows)] == ['86.3 / 80.8', '']


def evaluation(frames, **changes):
    """Of MARS, with what a table needs."""
    plain = {'dataset': 'mars', 'protocol': 'official', 'reranked': False, 'flip': False}
    plain |= {'dist_metric': 'cosine', 'normalize_feature': False, 'seconds': {'per_tracklet': 1.0}}
    return {**plain, 'frames': frames, 'epoch': 1, **changes}


@pytest.mark.parametrize(
    'frames, changes, published',
    [
        (ClipPlan(4, 'rrs'), {}, '88.5 / 80.9 *'),
        (ClipPlan(4, 'rrs'), {'flip': True}, '88.5 / 80.9 *'),
        (ClipPlan(4, 'rrs'), {'amp': 'bf16'}, '88.5 / 80.9 *'),
        (ClipPlan(4, 'rrs', 4), {}, ''),
        (ClipPlan(4, 'evenly'), {}, ''),
        (ClipPlan(4, 'every_8th'), {}, ''),
        (ClipPlan(4, 'all'), {}, '89.1 / 83.4 *'),
        (ClipPlan(4, 'all', all_clips='consecutive'), {}, '89.1 / 83.4 *'),
        (ClipPlan(4, 'all', all_clips='floor'), {'flip': True}, '89.1 / 83.4 *'),
        (ClipPlan(4, 'all', all_clips='floor'), {'flip': True, 'amp': 'fp16'}, '89.1 / 83.4 *'),
    ],
)
def test_the_published_numbers_of_a_strategy_stand_in_every_row_of_it(frames, changes, published):
    record = SimpleNamespace(metrics={}, training_seconds=1.0)
    tested = (evaluation(frames.title, **changes),)
    outcome = Outcome('TCLNet', 1, 'folder', record, tested)
    [row] = table2.with_published(rows_of([outcome]))
    assert row.published == published
    said = [note for note in notes_for([row]) if note.startswith('Published: ')]
    assert len(said) == bool(published)
    assert all('under this strategy, RRS or all frames; empty where' in note for note in said)


@pytest.mark.slow
def test_the_figure_shows_what_is_known(tmp_path):
    scores = {'mAP': Score(50.0, 2.0)}
    row = Row('A', scores, 'mars', frames='rrs', gflops_per_clip=48.0, seconds_per_tracklet=0.2)
    rows = [
        row,
        row._replace(method='B', gflops_per_clip=None, scores={'mAP': Score(40.0, None)}),
        row._replace(frames='all'),
        Row('C', {}, error='seed 1: killed'),
    ]
    sizes = []
    for some in (rows, rows[3:]):
        path = table2.draw_cost(some, str(tmp_path / 'table2.png'))
        with Image.open(path) as picture:
            sizes.append(picture.size)
    assert sizes[0][1] > 1.5 * sizes[1][1]  # a row of panels a strategy
    free = row._replace(gflops_per_clip=None, seconds_per_tracklet=None)
    assert table2.draw_cost([free], str(tmp_path / 'table2.png'))  # nothing to name


def test_no_name_of_the_figure_covers_another_or_a_point(tmp_path, monkeypatch):
    """Of eight rows whose costs and scores are close together."""
    drawn, name_points = [], table2._name_points

    def spy(axis, points):
        name_points(axis, points)
        drawn.append((axis, points, [text.get_window_extent() for text in axis.texts]))

    monkeypatch.setattr(table2, '_name_points', spy)
    rows = [
        Row(
            f'System {number}',
            {'mAP': Score(50.0 + number % 3, None)},
            'mars',
            frames='rrs',
            gflops_per_clip=48.0 + 3 * number,
            seconds_per_tracklet=0.2 + 0.05 * (number % 4),
        )
        for number in range(8)
    ]
    table2.draw_cost(rows, str(tmp_path / 'table2.png'))
    for axis, points, boxes in drawn:
        assert len(points) == len(boxes) == 8
        for number, box in enumerate(boxes):
            assert not any(box.overlaps(other) for other in boxes[:number])
            spots = axis.transData.transform(list(points.values()))
            assert not any(box.contains(*spot) for spot in spots)
            assert axis.bbox.x0 <= box.x0 and box.x1 <= axis.bbox.x1


def test_the_plan_and_flags(run):  # noqa: F811
    code, out, _ = run('--table2', '--systems', 'qan', '--seeds', '1', '--dry-run', execute=never)
    assert code == 0 and [word in out for word in ('STMN baseline', 'QAN', 'qan-')] == [True] * 3
    code, _, err = run('--systems', 'qan', execute=never)
    assert code == 2 and '--systems goes with --table2' in err
    code, _, err = run('--table2', '--systems', 'qam', execute=never)
    assert code == 2 and "--systems: 'qam' is none of" in err
    code, _, err = run('--grid', '--table2', execute=never)
    assert code == 2 and '--grid cannot be combined with --table2' in err


@slow
def test_a_row_that_fails_names_its_error(run, tmp_path):  # noqa: F811
    def execute(words, log, watch):
        if 'qan' in words:
            with open(log, 'a') as file:
                file.write('error: no memory\n')
            return 2
        return in_this_process(words, log, watch)

    code, out, _ = run('--table2', '--systems', 'qan', 'gltr', '--seeds', '1', execute=execute)
    assert code == 1 and 'no memory' in out
    rows = json.loads((tmp_path / 'out' / 'table2.json').read_text())['rows']
    assert [row['method'] for row in rows if row['error']] == ['QAN']
    measured = [row for row in rows if not row['error']]
    assert len(measured) == 6  # three rows, two strategies each
    for row in measured:
        assert row['gflops_per_clip'] == pytest.approx(row['seq_len'] * row['gflops_per_frame'])
        assert row['parameters'] and row['feature_dim'] and row['seconds_per_tracklet'] > 0
    gltr = [row['published'] for row in measured if row['method'] == 'GLTR']
    assert gltr == ['', '87.0 / 78.5']
    assert (tmp_path / 'out' / 'table2.png').stat().st_size > 10_000
    with open(tmp_path / 'out' / 'table2.csv') as file:
        assert 'gflops_per_clip' in next(csv.reader(file))
