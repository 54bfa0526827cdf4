"""Runs that exist: what is one row, what is another, and of which data a reused result is."""

import json
import os
import re
import shutil

import pytest
from test_result_tables import DATA, VIDEO, alone, evaluation, write_run

from stmn_plugin.cli import compare
from stmn_plugin.comparing.existing_runs import existing_runs
from stmn_plugin.comparing.result_tables import as_table, rows_of
from stmn_plugin.comparing.run_plan import plan_runs
from stmn_plugin.comparing.run_queue import complete_runs, words_to_test
from stmn_plugin.comparing.stored_results import data_on_disk, forget_data
from stmn_plugin.comparing.variants import Variant
from stmn_plugin.config import load_config
from stmn_plugin.config.defaults import flatten
from stmn_plugin.errors import InputError
from stmn_plugin.training.provenance import first_version_digests


def finished_run(folder, words=(), data=DATA, epochs=3, base=VIDEO, **scores):
    """A finished run that was tested with both strategies."""
    evaluations = [
        evaluation(epoch=epochs),
        *(alone(words, base, data, frames=frames, **scores) for frames in ('rrs', 'all')),
    ]
    return write_run(folder, words, epochs, evaluations, base, data)


def never(words, log, watch):
    raise AssertionError(f'nothing was left to do, but {words} was to run')


def test_given_runs_are_grouped_by_recipe_and_never_trained(tmp_path, capsys):
    write_run(tmp_path / 'mine_seed1', ['train.seed', '1'])
    write_run(tmp_path / 'mine_seed2', ['train.seed', '2'])
    write_run(tmp_path / 'other', ['train.lr', '0.5'], epochs=1)
    (tmp_path / 'notes').mkdir()
    paths = [str(path) for path in sorted(tmp_path.iterdir())]
    runs = existing_runs(paths, ['data.root', 'elsewhere'])
    assert [(run.title, run.seed) for run in runs] == [('mine', 1), ('mine', 2), ('other', 1)]
    assert 'Passed over, no run folder (no config.yaml): ' + paths[2] in capsys.readouterr().out
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
    finished_run(tmp_path / 'a_seed1', data=data or {})
    finished_run(tmp_path / 'b_seed2', ['train.seed', '2', *words], data=data or {})
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
    assert len(failed) == 2 and rrs.seeds_wanted == 4


def test_a_config_that_was_changed_after_the_training(tmp_path):
    finished_run(tmp_path / 'run')
    config = tmp_path / 'run' / 'config.yaml'
    text = config.read_text()
    assert 'lr: 0.0003' in text
    config.write_text(text.replace('lr: 0.0003', 'lr: 0.0004'))
    (outcome,) = complete_runs(existing_runs([str(tmp_path / 'run')], []), never)
    assert f'{config} is not the config of the weights' in outcome.error


def test_results_of_the_first_version_are_reused(tmp_path):
    """They were recorded with other digests, and under a name without one."""
    write_run(
        tmp_path / 'mine_seed1', evaluations=[evaluation(epoch=3), alone(), alone(frames='all')]
    )
    config = flatten(load_config('', VIDEO))
    file = tmp_path / 'mine_seed1' / 'metrics.json'
    content = json.loads(file.read_text())
    for e in content['evaluations']:
        e['made_from'].update(first_version_digests({**config, 'test.frames': e['frames']}))
        if e['epoch'] is None:
            own = {**config, 'test.evaluate': True, 'test.frames': e['frames']}
            e['made_from'].update(first_version_digests(own))
    file.write_text(json.dumps(content))
    (outcome,) = complete_runs(existing_runs([str(tmp_path / 'mine_seed1')], []), never)
    assert not outcome.error and [e['frames'] for e in outcome.evaluations] == ['rrs', 'all']
    text = (tmp_path / 'mine_seed1' / 'config.yaml').read_text()
    (tmp_path / 'mine_seed1' / 'config.yaml').write_text(text.replace('lr: 0.0003', 'lr: 0.0004'))
    (outcome,) = complete_runs(existing_runs([str(tmp_path / 'mine_seed1')], []), never)
    assert 'it was changed since' in outcome.error


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


@pytest.fixture
def run_on_data(mars_root, tmp_path):
    """A tested run on the miniature of MARS, and a function root → its outcome and tests."""
    forget_data()
    root = tmp_path / 'data'
    shutil.copytree(mars_root, root)
    base = [*VIDEO, 'data.root', str(root), 'train.batch_size', '4', 'data.workers', '0']
    data = data_on_disk(load_config('', base))['mars']
    finished_run(tmp_path / 'run', data=data, base=base)

    def complete(*words):
        forget_data()
        tests = []

        def execute(words, log, watch):
            tests.append(words)
            return 0

        runs = existing_runs([str(tmp_path / 'run')], list(words))
        (outcome,) = complete_runs(runs, execute)
        return outcome, tests

    return root, base, complete


def resize(path):
    """Another frame under the same name."""
    path.write_bytes(path.read_bytes() + b'0')


def test_a_result_is_reused_for_the_data_it_is_of(run_on_data, tmp_path):
    root, _, complete = run_on_data
    outcome, tests = complete()
    assert (len(outcome.evaluations), tests) == (2, [])
    copy = tmp_path / 'copy'
    shutil.copytree(root, copy)
    outcome, tests = complete('data.root', str(copy))  # the same data elsewhere
    assert (len(outcome.evaluations), tests) == (2, [])
    resize(sorted((copy / 'mars' / 'bbox_test').glob('000[1-9]/*.jpg'))[0])
    outcome, tests = complete('data.root', str(copy))
    assert len(tests) == 2 and outcome.error.count('no result of the last weights') == 2
    outcome, tests = complete('data.root', str(tmp_path / 'nothing'))
    assert tests == [] and str(tmp_path / 'nothing') in outcome.error
    shutil.rmtree(root)  # results of data that is gone stand as they are
    outcome, tests = complete()
    assert (len(outcome.evaluations), tests) == (2, [])


def test_a_run_trained_on_other_data_is_no_run_of_a_variant(run_on_data, tmp_path):
    root, base, _ = run_on_data
    variants = [Variant('again', 'again', {})]
    (fresh,) = plan_runs(variants, 1, '', base, str(tmp_path))
    os.rename(tmp_path / 'run', fresh.folder)
    (wanted,) = plan_runs(variants, 1, '', base, str(tmp_path))
    assert wanted.state == 'finished'
    (outcome,) = complete_runs([wanted], never)
    assert not outcome.error
    resize(sorted((root / 'mars' / 'bbox_train').glob('00*/*.jpg'))[0])
    forget_data()
    (outcome,) = complete_runs([wanted], never)
    assert f'saw other data than {root} holds now (train of mars)' in outcome.error
    (outcome,) = complete_runs([wanted], never, strategies=())
    assert '(train of mars): give another --output' in outcome.error


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
    assert all(row.seeds_wanted == 2 and row.scores['mAP'].std is None for row in rows)


@pytest.mark.parametrize(
    'change, named',
    [
        ({'mAP': '0.4'}, "mAP is '0.4'"),
        ({'mAP': float('nan')}, 'mAP is nan'),
        ({'rank-1': 7}, 'rank-1 is 7'),
        ({'seconds': None}, 'seconds is None'),
        ({'flip': 'no'}, "flip is 'no'"),
        ({'peak_memory': {'gpu': 'much'}}, 'peak_memory is'),
        ({'made_from': 'hand'}, "made_from is 'hand'"),
        ({'made_from': {'recipe': 3}}, "made_from is {'recipe': 3}"),
        ({'epoch': '3'}, "epoch is '3'"),
        ({'dataset': ['mars']}, "dataset is ['mars']"),
    ],
)
def test_a_damaged_result_is_one_line(change, named, tmp_path):
    finished_run(tmp_path / 'run')
    file = tmp_path / 'run' / 'metrics.json'
    content = json.loads(file.read_text())
    content['evaluations'][0].update(change)
    file.write_text(json.dumps(content))
    (wanted,) = existing_runs([str(tmp_path / 'run')], [])
    (outcome,) = complete_runs([wanted], never)
    assert str(file) in outcome.error and named in outcome.error
    (row,) = rows_of([outcome])
    assert row.error.startswith(str(tmp_path / 'run'))  # its seed is not known


@pytest.mark.parametrize(
    'text', ['', '[]', '{', '{"evaluations": [3]}', '[' * 10**5, '{"parameters": "x"}', None]
)
def test_a_damaged_file_of_results_is_one_line(text, tmp_path):
    finished_run(tmp_path / 'run')
    file = tmp_path / 'run' / 'metrics.json'
    if text is None:
        file.unlink()
        os.mkfifo(file)
    else:
        file.write_text(text)
    (wanted,) = existing_runs([str(tmp_path / 'run')], [])
    assert str(file) in wanted.problem and wanted.problem.count(str(file)) == 1


def test_a_name_cannot_forge_a_line_of_a_table(tmp_path):
    folder = tmp_path / 'a\n[1] forged\x1b[2J'
    finished_run(folder)
    (wanted,) = existing_runs([str(folder)], [])
    assert wanted.title == 'a\\n[1] forged\\x1b[2J'
    (outcome,) = complete_runs([wanted], never)
    assert len(as_table(rows_of([outcome])).splitlines()) == 4


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
    assert re.search(r'^run +mars +official +rrs ', shown.out, re.MULTILINE)
