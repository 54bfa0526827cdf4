"""Searching an index: fusion, re-ranking and limits by slow loops; requests; files."""

import contextlib
import csv
import datetime
import io
import json
import os

import numpy as np
import pytest
import torch
from PIL import Image

from stmn_plugin.cameras import answers as answers_module
from stmn_plugin.cameras.answers import Answer, answer_table, answers_csv, answers_json
from stmn_plugin.cameras.asking import Asked, ask_crops, ask_tracklet, make_queries, read_queries
from stmn_plugin.cameras.index import IndexedTracklet, ModelKey, TrackletIndex, Where
from stmn_plugin.cameras.index.embedding import crops_of
from stmn_plugin.cameras.index.thresholds import NOTE, index_thresholds
from stmn_plugin.cameras.searching import Query, SearchOptions, search
from stmn_plugin.cli import search as command
from stmn_plugin.errors import InputError
from stmn_plugin.evaluation.reranking import rerank
from stmn_plugin.evaluation.thresholds import Thresholds, thresholds_text

DIM = 12
CET = datetime.timezone(datetime.timedelta(hours=1))
EIGHT = datetime.datetime(2026, 3, 1, 8, tzinfo=CET)
MEASURED = Thresholds(
    'w', 0.4, 0.9, 1e-3, 0.75, 0.05, 'mars', 'rrs', False, 'cosine', False, 900, 90_000, 100
)


def key(**changes):
    return ModelKey('w', 'toy', 16, 8, 4, DIM, **changes)


def some_rows(tree, count=30):
    """Of three cameras; every tenth has no time, and the first three have crops and a name."""
    rows = []
    for i in range(count):
        camera, name = f'camera{i % 3}', 'Ann' if i < 3 else 'unknown'
        start = None if i % 10 == 9 else EIGHT + datetime.timedelta(minutes=i)
        end = start and start + datetime.timedelta(seconds=30)
        folder = f'gallery/{name}/{camera}/x-{i}'
        rows.append(
            IndexedTracklet(0, str(tree), folder, camera, 'x.mp4', str(i), name, start, end, 5)
        )
    for row in rows[:3]:
        write_crops(tree / row.tracklet)
    return rows


def write_crops(folder, count=5):
    folder.mkdir(parents=True)
    for frame in range(count):
        Image.new('RGB', (8, 16), (40 * frame, 0, 90)).save(folder / f'{frame:08}.jpg')


def features_of(count, seed=0, scale=1.0):
    return scale * torch.randn(count, DIM, generator=torch.Generator().manual_seed(seed))


def make_index(folder, **changes):
    tree = folder / 'tree'
    index = TrackletIndex.open(folder / 'people.db', key(**changes))
    index.add(some_rows(tree), features_of(30))
    return index


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp('searched')
    with make_index(folder) as index:
        index.set_note(NOTE, thresholds_text([MEASURED]))
    return folder


@pytest.fixture
def index(folder):
    with TrackletIndex.open(folder / 'people.db') as index:
        yield index


def by_hand(index, queries, fusion, metric, unit):
    """(distance, number) of every tracklet, by loops in float64."""
    rows = index.rows()
    stored = index.features([row.number for row in rows]).double().numpy()

    def distance(q, g):
        if metric == 'cosine':
            return 1 - float(q @ g / np.linalg.norm(q) / np.linalg.norm(g))
        if unit:
            q, g = q / np.linalg.norm(q), g / np.linalg.norm(g)
        return float(((q - g) ** 2).sum())

    fused = np.mean if fusion == 'mean' else np.min
    return sorted(
        (fused([distance(q, g) for q in queries.double().numpy()]), row.number)
        for row, g in zip(rows, stored, strict=True)
    )


@pytest.mark.parametrize('fusion', ['mean', 'nearest'])
@pytest.mark.parametrize(
    'metric, unit', [('cosine', False), ('euclidean', False), ('euclidean', True)]
)
def test_several_tracklets_are_fused_as_loops_would(fusion, metric, unit, tmp_path):
    with make_index(tmp_path, metric=metric, normalized=unit) as index:
        for seed, count in ((1, 1), (2, 2), (3, 4)):
            query = features_of(count, seed, 3.0)
            asked = [Query('who', [], query)]
            (found,) = search(index, asked, SearchOptions(top=12, fusion=fusion))
            expected = by_hand(index, query, fusion, metric, unit)[:12]
            assert [one.rank for one in found] == list(range(1, 13))
            np.testing.assert_allclose(
                [one.distance for one in found],
                [d for d, _ in expected],
                atol=0.03 if not unit and metric == 'euclidean' else 4e-3,
            )
            assert len({one.row.number for one in found} & {n for _, n in expected}) >= 11


def test_the_tracklets_of_a_query_are_not_among_its_results(index):
    rows = index.rows()
    queries = [
        Query('one', rows[4:5], index.features([rows[4].number])),
        Query('two', rows[6:8], index.features([row.number for row in rows[6:8]])),
    ]
    for fusion in ('mean', 'nearest'):
        one, two = search(index, queries, SearchOptions(top=30, fusion=fusion))
        assert len(one) == 29 and rows[4] not in [x.row for x in one]
        assert len(two) == 28 and not {*rows[6:8]} & {x.row for x in two}
        alone = search(index, queries[1:], SearchOptions(top=30, fusion=fusion))[0]
        assert [x.row for x in alone] == [x.row for x in two]  # a batch changes nothing
        few = search(index, queries, SearchOptions(top=3, fusion=fusion))
        assert [[x.row for x in found] for found in few] == [
            [x.row for x in found[:3]] for found in (one, two)
        ]
    assert search(index, [], SearchOptions()) == []


def test_conditions_hold_before_ranking(index):
    query = [Query('who', [], features_of(1, 5))]
    where = Where(['camera1', 'camera2'], ['camera2'], EIGHT, EIGHT + datetime.timedelta(minutes=9))
    (found,) = search(index, query, SearchOptions(where=where))
    assert sorted(one.row.track for one in found) == ['1', '4', '7']
    (all_of_them,) = search(index, query, SearchOptions(top=30))
    limit = all_of_them[7].distance
    (near,) = search(index, query, SearchOptions(top=30, max_distance=limit))
    assert len(near) == 8 and near == all_of_them[:8]


def test_the_nearest_are_re_ranked_and_keep_their_distance(index):
    query = features_of(2, 6)
    (plain,) = search(index, [Query('q', [], query)], SearchOptions(top=20))
    (found,) = search(index, [Query('q', [], query)], SearchOptions(top=5, rerank=20))
    candidates = index.features([one.row.number for one in plain])
    expected = torch.cat(list(rerank(query, candidates, 'cosine'))).mean(dim=0)
    order = expected.argsort(stable=True)[:5].tolist()
    assert [one.row for one in found] == [plain[place].row for place in order]
    assert [one.distance for one in found] == [plain[place].distance for place in order]
    assert [one.reranked for one in found] == expected[order].tolist()
    assert [one.rank for one in found] == [1, 2, 3, 4, 5]


def test_verdicts_are_those_of_the_threshold_that_holds(index, tmp_path):
    thresholds = index_thresholds(index)
    assert thresholds == MEASURED
    query = [Query('q', [], index.features([1]))]
    (found,) = search(index, query, SearchOptions(top=30), thresholds)
    assert {one.verdict for one in found} == {'likely', 'unsure', 'unlikely'}
    for one in found:
        assert one.verdict == MEASURED.verdict(one.distance)
    with make_index(tmp_path, frames='all') as other:
        assert index_thresholds(other) is None
        other.set_note(NOTE, thresholds_text([MEASURED]))  # of other frames
        assert index_thresholds(other) is None


def test_a_tracklet_is_named_by_its_folder_or_number(index, folder):
    row = ask_tracklet(index, 'gallery/unknown/camera1/x-4/')
    assert row.track == '4' and ask_tracklet(index, str(row.number)) == row
    for name in ('gallery/unknown/camera1/x-99', '4711', '9' * 40):
        with pytest.raises(InputError, match='no such tracklet'):
            ask_tracklet(index, name)
    assert ask_crops(index, folder / 'tree' / row.tracklet) == row  # needs no crops
    with pytest.raises(InputError, match='cannot read'):
        ask_crops(index, folder / 'tree' / 'elsewhere')


def test_one_name_in_two_trees_must_be_said_by_number(tmp_path):
    with make_index(tmp_path) as index:
        index.add(some_rows(tmp_path / 'other')[:1], features_of(1))
        with pytest.raises(
            InputError, match=r'several trees have this tracklet; give its number: 1 \(.*31 \('
        ):
            ask_tracklet(index, 'gallery/Ann/camera0/x-0')


def test_crops_need_a_model_and_are_embedded_once(index, tmp_path):
    write_crops(tmp_path / 'me')
    row = ask_crops(index, tmp_path / 'me')
    assert (row.number, row.num_frames, row.camera) == (0, 5, 'query')
    asked = [Asked('a', [row]), Asked('b', [row, ask_tracklet(index, '3')])]
    with pytest.raises(InputError, match=r'me is not in the index: CHECKPOINT'):
        make_queries(index, asked, None)
    calls = []

    class Toy:
        def __call__(self, tracklets, name):
            calls.append([len(paths) for paths in tracklets])
            return type('Features', (), {'features': features_of(len(tracklets), 9)})

    one, two = make_queries(index, asked, Toy())
    assert calls == [[5]] and torch.equal(one.features, features_of(1, 9))
    assert index.features([]).shape == (0, DIM)
    assert torch.equal(two.features, torch.cat([features_of(1, 9), index.features([3])]))


def test_a_batch_is_read_line_by_line(index, folder, tmp_path):
    file = tmp_path / 'queries.csv'
    file.write_text('query,tracklet,person\nx,3,\ny,,Ann\nx,gallery/unknown/camera1/x-4,\n')
    x, y = read_queries(index, file)
    assert (x.name, [row.number for row in x.rows]) == ('x', [3, 5])
    assert (y.name, [row.person for row in y.rows]) == ('y', ['Ann'] * 3)
    for text, said in (
        ('query,tracklet\nx,\n', ':2: needs a query, and one of'),
        ('query,tracklet,person\nx,3,Ann\n', ':2: needs a query, and one of'),
        ('query,tracklet\nx,3\nx,99\n', ':3: --tracklet 99: the index has no such'),
        ('query,person\nx,unknown\n', ':2: --person unknown: no tracklet'),
        ('query,tracklet\n', 'holds no query'),
        ('tracklet\n3\n', 'column query missing'),
    ):
        file.write_text(text)
        with pytest.raises(InputError) as caught:
            read_queries(index, file)
        assert str(file) in str(caught.value) and said in str(caught.value)


def answered(index):
    rows = index.rows(Where(persons=['Ann']))
    query = Query('=Ann,\n"1"', rows, index.features([row.number for row in rows]))
    found = search(index, [query], SearchOptions(top=3), index_thresholds(index))
    return [Answer(query, found[0])]


def test_files_hold_what_was_found_as_the_user_called_it(index):
    answers = answered(index)
    (query, found) = answers[0]
    rows = list(csv.DictReader(io.StringIO(answers_csv(answers, CET))))
    assert [row['query'] for row in rows] == [query.name] * 3
    for row, one in zip(rows, found, strict=True):
        assert row['tracklet'] == one.row.tracklet and row['camera'] == one.row.camera
        assert float(row['distance']) == pytest.approx(one.distance, abs=1e-6)
        assert (row['start'] or None) == (
            one.row.start and one.row.start.astimezone(CET).isoformat(timespec='milliseconds')
        )
        assert row['reranked'] == '' and row['verdict'] == one.verdict
    values = json.loads(json.dumps(answers_json(answers, index.model, MEASURED, 'asked', CET)))
    assert values['thresholds']['likely_below'] == 0.4 and values['model']['dim'] == DIM
    (answer,) = values['answers']
    assert [row['person'] for row in answer['tracklets']] == ['Ann'] * 3
    assert [row['rank'] for row in answer['results']] == [1, 2, 3]
    assert list(rows[0]) == answers_module.CSV_COLUMNS.split()
    table = answer_table(answers[0], CET)
    assert 'verdict' in table and 're-ranked' not in table and '\n"1"' not in table
    assert f'{found[0].distance:.4f}' in table and 'nothing found' not in table
    assert 'nothing found' in answer_table(Answer(query, []), CET)


def run(capsys, *words):
    with contextlib.suppress(SystemExit):
        command.main([str(word) for word in words])
    return capsys.readouterr()


def test_the_command_prints_and_writes(folder, tmp_path, capsys):
    pytest.importorskip('jinja2')
    files = [tmp_path / f'answer.{name}' for name in ('csv', 'json', 'html')]
    words = ['--index', folder / 'people.db', '--person', 'Ann', '--not-camera', 'camera0']
    words += ['--from', '2026-03-01T08:00:00+01:00', '--rerank', 20, '--top', 4]
    out, err = run(capsys, *words, '--csv', files[0], '--json', files[1], '--html', files[2])
    assert err == '' and 'mean distance' in out and 'Likely: nearer than 0.4' in out
    assert 're-ranked' in out and 'not cameras camera0' in out
    values = json.loads(files[1].read_text())['answers'][0]
    assert len(values['results']) == 4 and {x['camera'] for x in values['results']} == {
        'camera1',
        'camera2',
    }
    assert values['results'][0]['start'].endswith('+01:00')
    assert len(files[0].read_text().splitlines()) == 5
    page = files[2].read_text()
    assert page.count('data:image/webp') == 3  # Ann's own
    assert 'The crops of this tracklet are missing or damaged.' in page


def test_a_tracklet_given_by_its_number_is_called_by_its_name(index, folder, tmp_path, capsys):
    file = tmp_path / 'answer.json'
    run(capsys, '--index', folder / 'people.db', '--tracklet', 3, '--json', file)
    [row] = [row for row in index.rows() if row.number == 3]
    assert json.loads(file.read_text())['answers'][0]['query'] == row.tracklet


@pytest.mark.parametrize(
    'words, said',
    [
        ([], 'give a query, --tracklet'),
        (['--tracklet', '3', '--queries', 'q.csv'], 'give a query, --tracklet'),
        (['--video', 'x.mp4', '--track', '3'], '--video: needs --tracks, too'),
        (
            ['--video', 'x.mp4', '--track', '3', '--tracks', 'x.txt', '--format', 'mot'],
            '--video: CHECKPOINT must name the model',
        ),
        (['--tracklet', '3', '--format', 'mot'], '--format goes with --video'),
        (['--tracklet', '3', '--camera', 'camer1'], 'no such camera; it has camera0, camera1'),
        (['--tracklet', '3', '--camera', 'camera1', '--not-camera', 'camera1'], 'in --not-camera'),
        (
            ['--tracklet', '3', '--from', '2026-03-02T08:00Z', '--to', '2026-03-01T08:00Z'],
            '--from is after --to',
        ),
        (['--tracklet', '3', '--from', '2026-03-02T08:00'], 'its offset from UTC'),
        (['--tracklet', '3', '--html', '/proc/none/x.html'], '/proc/none'),
        (['--tracklet', '99'], 'no such tracklet'),
        (['/none/model.pth.tar', '--crops', '.'], 'model.pth.tar'),
        (['/none/model.pth.tar', '--tracklet', '3'], 'model.pth.tar'),  # which needs no model
    ],
)
def test_bad_words_are_one_line(words, said, folder, capsys):
    with pytest.raises(SystemExit) as ended:
        command.main(['--index', str(folder / 'people.db'), *words])
    err = capsys.readouterr().err
    assert ended.value.code == 2 and err.startswith('error: ') and err.count('\n') == 1
    assert said in err


def test_no_answer_is_written_over_what_is_read(folder, tmp_path, capsys):
    index, batch = tmp_path / 'people.db', tmp_path / 'batch.csv'
    index.write_bytes((folder / 'people.db').read_bytes())
    batch.write_text('query,tracklet\nx,3\n')
    for file in (index, batch):
        before = file.read_bytes()
        for flag in ('--csv', '--json', '--html'):
            with pytest.raises(SystemExit) as ended:
                command.main(['--index', str(index), '--queries', str(batch), flag, str(file)])
            assert capsys.readouterr().err == (
                f'error: {file} is read by this command: name another file\n'
            )
            assert ended.value.code == 2 and file.read_bytes() == before


def test_two_answers_in_one_file_are_refused(folder, tmp_path, capsys):
    index, file = folder / 'people.db', tmp_path / 'answers'
    (tmp_path / 'link').symlink_to(file)
    for other in (file, tmp_path / 'link', tmp_path / '..' / tmp_path.name / 'answers'):
        out, err = run(capsys, '--index', index, '--tracklet', 3, '--csv', file, '--json', other)
        assert err == 'error: --csv, --json and --html: two name the same file\n'
        assert not file.exists()
    run(capsys, '--index', index, '--tracklet', 3, '--csv', os.devnull, '--json', os.devnull)
    assert capsys.readouterr().err == ''


def test_crops_are_in_natural_order(tmp_path):
    """As the dataset has them, so that a model sees the same clip."""
    names = ['1.jpg', '2.jpg', '10.jpg', '20.jpg']
    for name in reversed(names):
        (tmp_path / name).touch()
    row = IndexedTracklet(0, str(tmp_path), '.', '', '', '', '', None, None, 4)
    assert crops_of(row) == [str(tmp_path / name) for name in names]


def test_an_index_that_is_missing_is_one_line(tmp_path, capsys):
    out, err = run(capsys, '--index', tmp_path / 'none.db', '--tracklet', 3)
    assert err.startswith('error: ') and 'none.db' in err
    assert not (tmp_path / 'none.db').exists()
