"""Which results in a run folder are reused: of these weights, this test and this data."""

import json
import os
import shutil

import pytest
from written_runs import DATA, VIDEO, alone, evaluation, finished_run, never, planned, write_run

from stmn_plugin.comparing.existing_runs import existing_runs
from stmn_plugin.comparing.result_tables import rows_of
from stmn_plugin.comparing.run_plan import TESTING, as_words, plan_runs
from stmn_plugin.comparing.run_queue import complete_runs
from stmn_plugin.comparing.stored_results import data_on_disk, forget_data, stored_evaluations
from stmn_plugin.comparing.variants import (
    Variant,
)
from stmn_plugin.config import load_config
from stmn_plugin.config.defaults import flatten
from stmn_plugin.training.provenance import first_version_digests


@pytest.mark.parametrize(
    'words',
    [
        'test.protocol matlab',
        'test.frames all',
        'test.clips_per_tracklet 2',
        'test.flip True',
        'test.dist_metric cosine',
        'test.normalize_feature True',
        'test.rerank True',
        'test.ranks [1]',
        'test.fold_bn False',
        'data.bad_frames skip',
        'data.height 64',
        'video.rrs_chunks ceil',
        '',
    ],
)
def test_an_evaluation_is_reused_only_for_what_it_is_of(words, tmp_path):
    cfg = load_config('', [*VIDEO, *as_words({**TESTING})])
    final, done = evaluation(epoch=3), alone(words.split())
    run = write_run(tmp_path / 'run', evaluations=[final, done])
    assert stored_evaluations(run, cfg) == ([] if words else [done])
    asked = load_config('', [*VIDEO, *as_words({**TESTING}), *words.split()])
    assert stored_evaluations(run, asked) == [done]
    free = ['test.batch_size', '7', 'data.workers', '1', 'train.print_freq', '3']
    assert stored_evaluations(run, load_config('', [*asked_words(words), *free])) == [done]


def asked_words(words):
    return [*VIDEO, *as_words({**TESTING}), *words.split()]


@pytest.mark.parametrize(
    'change',
    [
        {'weights': 'others'},
        {'epoch': 3},
        {'dataset': 'lsvid'},
        {'data': {**DATA, 'query': 'another'}},
        {'data': {**DATA, 'gallery': 'another'}},
        {'made_from': None},  # an older one
    ],
)
def test_an_evaluation_is_of_weights_a_target_and_data(change, tmp_path):
    cfg = load_config('', [*VIDEO, *as_words({**TESTING})])
    data = change.pop('data', DATA)
    done = {**alone(data=data), **change}
    run = write_run(tmp_path / 'run', evaluations=[evaluation(epoch=3), done])
    assert stored_evaluations(run, cfg) == []


def test_a_target_named_twice_counts_once(tmp_path):
    cfg = load_config('', asked_words(''))
    cfg.defrost()
    cfg.data.targets = ['mars', 'mars']
    run = write_run(tmp_path / 'run', evaluations=[evaluation(epoch=3), alone()])
    assert len(stored_evaluations(run, cfg)) == 1


def test_results_at_the_end_of_a_training_are_not_taken_for_those_of_another_test(tmp_path):
    write_run(tmp_path / os.path.basename(planned([], tmp_path).folder))
    for words, named in (
        ([], ''),
        (['test.features_dir', 'x', 'test.batch_size', '3'], ''),  # change no number
        (['test.protocol', 'torchreid'], "test.protocol was 'official', is 'torchreid'"),
        (['test.ranks', '[5]'], 'test.ranks was [1, 5, 10, 20], is [5]'),
        (['test.flip', 'True'], 'test.flip was '),
        (['data.bad_frames', 'skip'], "data.bad_frames was 'raise', is 'skip'"),
    ):
        (outcome,) = complete_runs([planned(words, tmp_path)], None, strategies=())
        assert named in outcome.error and bool(outcome.error) == bool(named)


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


@pytest.mark.slow
def test_a_result_is_reused_for_the_data_it_is_of(run_on_data, tmp_path, capsys):
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
    shutil.rmtree(root / 'mars' / 'bbox_train')  # results need no training set
    capsys.readouterr()
    outcome, tests = complete()
    assert (len(outcome.evaluations), tests) == (2, [])
    assert 'without checking their data' not in capsys.readouterr().out
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


def test_lists_of_targets_are_not_taken_for_those_of_a_training(run_on_data):
    _, base, _ = run_on_data
    forget_data()
    cfg = load_config('', base)
    tested, trained = data_on_disk(cfg, ('query', 'gallery'))['mars'], data_on_disk(cfg)['mars']
    assert not tested['train'] and trained['train']
    assert {**tested, 'train': trained['train']} == trained


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
