"""Runs that exist: what is one row, what is another, and of which data a reused result is."""

import json
import os
import re

import pytest
from written_runs import DATA, finished_run, never, write_run

from stmn_plugin.cli import compare
from stmn_plugin.comparing.existing_runs import existing_runs
from stmn_plugin.comparing.result_tables import as_markdown, rows_of
from stmn_plugin.comparing.run_queue import complete_runs, words_to_test
from stmn_plugin.config import load_config
from stmn_plugin.errors import InputError


def test_given_runs_are_grouped_by_recipe_and_never_trained(tmp_path, messages):
    write_run(tmp_path / 'mine_seed1', ['train.seed', '1'])
    write_run(tmp_path / 'mine_seed2', ['train.seed', '2'])
    write_run(tmp_path / 'other', ['train.lr', '0.5'], epochs=1)
    (tmp_path / 'notes').mkdir()
    paths = [str(path) for path in sorted(tmp_path.iterdir())]
    runs = existing_runs(paths, ['data.root', 'elsewhere'])
    assert [(run.title, run.seed) for run in runs] == [('mine', 1), ('mine', 2), ('other', 1)]
    assert 'Skipped, no run folder (no config.yaml): ' + paths[2] in messages()
    again = existing_runs(paths, [], taken=['mine'])
    assert [run.title for run in again] == [paths[0], paths[0], 'other']
    (outcome,) = complete_runs(runs[2:], execute=None)
    assert 'interrupted after epoch 1 of 3; --runs trains nothing' in outcome.error
    (run,) = existing_runs(paths[:1], ['train.lr', '0.5'])
    assert 'train.lr was 0.0003, is 0.5' in run.problem
    (run,) = existing_runs(paths[:1], ['train.max_epoch', '5'])
    assert 'train.max_epoch was 3, is 5' in run.problem
    with pytest.raises(InputError, match='no run folder among'):
        existing_runs([str(tmp_path / 'notes')], [])
    with pytest.raises(InputError, match='no such folder: .*v1.0'):
        existing_runs([paths[0], str(tmp_path / 'v1.0')], [])


@pytest.mark.slow
@pytest.mark.parametrize(
    'words, title',
    [
        (['model.pretrained', 'False'], 'b (model.pretrained False)'),
        (['model.load_weights', __file__], f'b (model.load_weights {__file__})'),
        (['stmn.backbone_weights', 'x.pth'], 'b (stmn.backbone_weights x.pth)'),
        (['data.root', 'elsewhere'], 'b (data.root elsewhere)'),
        (['train.start_epoch', '1'], 'b (train.start_epoch 1)'),
        (['train.allow_changed', 'True'], 'b (train.allow_changed True)'),
        (['train.lr', '0.5'], 'b'),  # of another recipe, and of another name
    ],
)
def test_runs_that_differ_in_recipe_start_or_data_are_rows_of_their_own(words, title, tmp_path):
    data = None if 'data.root' in words else DATA  # older runs know their root only
    stmn = ['model.name', 'stmn']
    finished_run(tmp_path / 'a_seed1', stmn, data=data or {})
    finished_run(tmp_path / 'b_seed2', [*stmn, 'train.seed', '2', *words], data=data or {})
    first, second = existing_runs([str(tmp_path / name) for name in ('a_seed1', 'b_seed2')], [])
    assert second.title == title and first.title.split(' ')[0] == 'a'
    assert first.title != second.title and not first.problem and not second.problem


def test_runs_of_other_lengths_or_training_data_are_rows_of_their_own(tmp_path):
    finished_run(tmp_path / 'x' / 'run_seed1')
    finished_run(
        tmp_path / 'y' / 'run_seed2', ['train.max_epoch', '5', 'train.seed', '2'], epochs=5
    )
    other = {**DATA, 'train': 'another'}
    finished_run(tmp_path / 'z' / 'run_seed3', ['train.seed', '3'], data=other)
    moved = ['train.seed', '4', 'data.root', 'a copy']  # the same data elsewhere
    finished_run(tmp_path / 'z' / 'run_seed4', moved, data=other)
    paths = [str(tmp_path / part) for part in ('x/run_seed1', 'y/run_seed2')]
    paths += [str(tmp_path / 'z' / f'run_seed{seed}') for seed in (3, 4)]
    assert [run.title for run in existing_runs(paths, [])] == [
        'run (train.max_epoch 3, training data of train)',
        'run (train.max_epoch 5, training data of train)',
        'run (training data another, train.max_epoch 3)',
        'run (training data another, train.max_epoch 3)',
    ]


@pytest.mark.slow
def test_a_folder_and_a_seed_count_once(tmp_path, monkeypatch):
    finished_run(tmp_path / 'a', mAP=0.2)
    finished_run(tmp_path / 'copy of a', mAP=0.2)
    finished_run(tmp_path / 'b', ['train.seed', '2'], mAP=0.4)
    write_run(tmp_path / 'started again', epochs=1)
    os.symlink(tmp_path / 'a', tmp_path / 'link')
    monkeypatch.chdir(tmp_path)
    spelled = ['a', './a/', str(tmp_path / 'a'), 'link', 'b/../a']
    (run,) = existing_runs(spelled, [])
    assert run.folder == 'a'
    paths = ['started again', 'a', 'copy of a', 'b']
    outcomes = list(complete_runs(existing_runs(paths, []), never))
    assert [bool(outcome.error) for outcome in outcomes] == [True, False, True, False]
    assert outcomes[2].error == 'copy of a repeats seed 1 of a: a seed counts once'
    rrs, every, *failed = rows_of(outcomes)
    assert rrs.seeds == every.seeds == (1, 2) and rrs.scores['mAP'].values == (20.0, 40.0)
    assert len(failed) == 2 and rrs.seeds_planned == 4


def test_image_models_of_the_first_version_are_tested_as_they_were_trained(tmp_path):
    """Its configs have no key video.image_models; since, the default is clip."""
    write_run(tmp_path / 'older_seed1')
    write_run(
        tmp_path / 'older_seed2', ['train.seed', '2', 'model.name', 'stmn', 'loss.name', 'stmn']
    )
    for name in ('older_seed1', 'older_seed2'):
        file = tmp_path / name / 'config.yaml'
        text = file.read_text()
        assert '  image_models: clip\n' in text
        file.write_text(text.replace('  image_models: clip\n', ''))
    write_run(tmp_path / 'newer_seed1')
    paths = [str(tmp_path / name) for name in ('older_seed1', 'older_seed2', 'newer_seed1')]
    older, stmn, newer = existing_runs(paths, [])
    ways = [run.cfg.video.image_models for run in (older, stmn, newer)]
    assert ways == ['frames', 'clip', 'clip'] and not older.problem
    assert older.title != newer.title
    words = words_to_test(older, older.record, 'rrs')
    assert load_config(older.config_file, words).video.image_models == 'frames'
    (run,) = existing_runs(paths[:1], ['video.image_models', 'clip'])
    assert "video.image_models was 'frames', is 'clip'" in run.problem


def test_a_folder_named_by_its_recipe_gives_its_variant_as_title(tmp_path):
    finished_run(tmp_path / 'mine-0123abcd-seed1')
    finished_run(tmp_path / 'mine-0123abcd-seed2', ['train.seed', '2'])
    paths = [str(path) for path in sorted(tmp_path.iterdir())]
    assert [(run.title, run.seed) for run in existing_runs(paths, [])] == [('mine', 1), ('mine', 2)]


def test_runs_tested_on_other_data_are_rows_of_their_own(tmp_path):
    finished_run(tmp_path / 'a', ['data.root', 'one place'])
    other = {**DATA, 'gallery': 'another'}
    finished_run(tmp_path / 'b', ['train.seed', '2', 'data.root', 'another place'], data=other)
    runs = existing_runs([str(tmp_path / name) for name in 'ab'], [])
    assert {run.title for run in runs} == {'a'}  # trained on the same data
    rows = rows_of(list(complete_runs(runs, never)))
    assert [(row.dataset, row.frames, row.seeds) for row in rows] == [
        ('mars (data of que-of gal)', 'rrs', (1,)),
        ('mars (data of que-of gal)', 'all', (1,)),
        ('mars (data of que-anothe)', 'rrs', (2,)),
        ('mars (data of que-anothe)', 'all', (2,)),
    ]
    assert all(row.seeds_planned == 2 and row.scores['mAP'].std is None for row in rows)


def test_a_name_cannot_forge_a_line_of_a_table(tmp_path):
    folder = tmp_path / 'a\n[1] forged\x1b[2J'
    finished_run(folder)
    (wanted,) = existing_runs([str(folder)], [])
    assert wanted.title == 'a\\n[1] forged\\x1b[2J'
    (outcome,) = complete_runs([wanted], never)
    assert len(as_markdown(rows_of([outcome])).splitlines()) == 4


def test_a_test_that_fails_is_named_for_each_strategy(tmp_path):
    write_run(tmp_path / 'run')
    (wanted,) = existing_runs([str(tmp_path / 'run')], [])

    def fail(words, log, watch):
        frames = words[words.index('test.frames') + 1]
        with open(log, 'a') as file:
            file.write(f'error: no {frames} today\n')
        return 2

    (outcome,) = complete_runs([wanted], fail)
    assert 'testing rrs: no rrs today' in outcome.error
    assert 'testing all: no all today' in outcome.error


def test_tables_are_written_before_they_are_printed(tmp_path, monkeypatch):
    finished_run(tmp_path / 'run')
    written = []

    def console(*args, **_):
        if any('rank-1' in str(arg) and 'params' in str(arg) for arg in args):  # the table
            written.extend(sorted(os.listdir(tmp_path / 'out')))
            raise BrokenPipeError

    monkeypatch.setattr('builtins.print', console)
    with pytest.raises(BrokenPipeError):
        compare.main(['--runs', str(tmp_path / 'run'), '--output', str(tmp_path / 'out')], never)
    assert written == ['compare.csv', 'compare.json', 'compare.md']
    monkeypatch.undo()
    row = json.loads((tmp_path / 'out' / 'compare.json').read_text())['rows'][0]
    assert row['scores']['mAP'] == {'mean': 40.0, 'std': None, 'values': [40.0]}


def test_tables_that_cannot_be_written_are_printed(tmp_path, capsys):
    finished_run(tmp_path / 'run')
    (tmp_path / 'file').write_text('')
    out = str(tmp_path / 'file' / 'out')
    with pytest.raises(SystemExit) as stop:
        compare.main(['--runs', str(tmp_path / 'run'), '--output', out], never)
    shown = capsys.readouterr()
    assert stop.value.code == 2 and shown.err.startswith('error: ') and out in shown.err
    assert re.search(r'^run +rrs +50.0 ', shown.out, re.MULTILINE)
