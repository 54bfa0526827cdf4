"""Which runs a table needs, which folder holds each, and which results in it are reused."""

import hashlib
import json
import os
import re

import pytest
from written_runs import AS_IT_IS, VIDEO, evaluation, planned, write_run

from stmn_plugin.comparing.existing_runs import existing_runs
from stmn_plugin.comparing.run_plan import plan_runs
from stmn_plugin.comparing.run_queue import complete_runs, words_to_test, words_to_train
from stmn_plugin.comparing.stored_run import read_run
from stmn_plugin.comparing.variants import (
    Variant,
    arch_variants,
)
from stmn_plugin.config import load_config
from stmn_plugin.errors import InputError


@pytest.mark.slow
def test_how_far_a_run_is(tmp_path):
    def state(run):
        (wanted,) = existing_runs([run.path], [])
        return wanted.state

    assert state(write_run(tmp_path / 'whole')) == 'finished'
    assert state(write_run(tmp_path / 'part', epochs=2)) == 'interrupted after epoch 2 of 3'
    # killed between its last evaluation and the line or the checkpoint that says so
    killed = write_run(tmp_path / 'killed')
    (tmp_path / 'killed' / 'metrics.jsonl').write_text('')
    assert state(killed) == 'interrupted after epoch 3 of 3'
    lost = write_run(tmp_path / 'lost')
    os.unlink(lost.checkpoint(3))
    assert state(lost) == f'{lost.path} holds results of epoch 3 without its weights'
    (wanted,) = existing_runs([lost.path], [])
    (outcome,) = complete_runs([wanted._replace(may_train=True)], execute=None)
    assert outcome.error == state(lost) and read_run(lost.path).lines == lost.lines
    # killed before the first evaluation and the first checkpoint: nothing is lost but time
    early = write_run(tmp_path / 'early', evaluations=[])
    os.unlink(early.checkpoint(3))
    assert state(early) == 'interrupted after epoch 0 of 3'
    digestless = evaluation(epoch=3)
    del digestless['weights']
    assert state(write_run(tmp_path / 'older', evaluations=[digestless])) == 'finished'
    assert read_run(str(tmp_path / 'nothing')).final_evaluations(3) == []
    # stopped within the third epoch, before any checkpoint of a whole one was due
    within = write_run(tmp_path / 'within', epochs=2, evaluations=[])
    os.rename(within.checkpoint(2), tmp_path / 'within' / 'model' / 'unfinished.pth.tar')
    assert state(within) == 'interrupted after epoch 2 of 3'


def test_a_folder_is_named_by_variant_recipe_and_seed(tmp_path):
    runs = plan_runs(arch_variants(['resnet50', 'resnet18']), 2, '', VIDEO, str(tmp_path / 'out'))
    keys = {'data.type': 'video', 'data.sources': ['mars'], 'train.max_epoch': 3}
    keys['video.sample_method'] = 'rrs'  # what differs from the defaults, of what decides weights
    texts = [json.dumps(own, sort_keys=True) for own in (keys, {**keys, 'model.name': 'resnet18'})]
    host, other = (hashlib.sha256(text.encode()).hexdigest()[:8] for text in texts)
    assert [os.path.relpath(run.folder, tmp_path) for run in runs] == [
        f'out/resnet50-{host}-seed1',
        f'out/resnet50-{host}-seed2',
        f'out/resnet18-{other}-seed1',
        f'out/resnet18-{other}-seed2',
    ]
    assert {run.state for run in runs} == {'new'} and not (tmp_path / 'out').exists()


def test_a_run_is_there_or_it_is_not(tmp_path):
    write_run(tmp_path / 'named otherwise')  # of the same recipe, and never searched for
    fresh = planned([], tmp_path)
    assert fresh.state == 'new'
    write_run(tmp_path / os.path.basename(fresh.folder), epochs=2)
    assert planned([], tmp_path).state == 'interrupted after epoch 2 of 3'
    free = ['data.workers', '7', 'data.root', 'elsewhere', 'test.flip', 'True']
    free += ['data.targets', "['lsvid']", 'train.compile', 'True', 'loss.name', 'softmax']
    assert planned(free, tmp_path).folder == fresh.folder
    renamed = Variant('Another title', 'another', {})
    assert planned([], tmp_path, renamed).folder == fresh.folder
    both = plan_runs([AS_IT_IS, renamed], 2, '', VIDEO, str(tmp_path))
    assert [run.title for run in both] == ['As it is'] * 2 + ['Another title'] * 2
    folders = [run.folder for run in both]
    assert folders[:2] == folders[2:] and folders[1] == f'{fresh.folder[:-1]}2'


@pytest.mark.parametrize(
    'words',
    [
        'train.lr 0.5',
        'train.max_epoch 5',
        'data.sources mars,lsvid',
        'data.validation_ids 0.2',
        'train.amp bf16',
        'video.image_models frames',
        'model.pretrained False',
        f'model.load_weights {__file__}',  # any file
        'stmn.backbone_weights other.pth',
        'train.start_epoch 1',
        'train.allow_changed True',
    ],
)
def test_another_recipe_length_or_start_is_another_run(words, tmp_path):
    key, value = words.split()
    own = ['model.name', 'stmn'] if key.startswith('stmn.') else []
    found = planned(own, tmp_path), planned([*own, key, value], tmp_path)
    digests = {
        re.fullmatch(r'as_it_is-([0-9a-f]{8})-seed1', os.path.basename(r.folder)) for r in found
    }
    assert len({digest[1] for digest in digests}) == 2


def test_weights_to_start_from_are_known_by_what_they_hold(tmp_path):
    first, copy = tmp_path / 'a.pth', tmp_path / 'b.pth'
    first.write_bytes(b'weights')
    copy.write_bytes(b'weights')
    folders = [
        planned(['model.load_weights', str(path)], tmp_path).folder for path in (first, copy)
    ]
    assert folders[0] == folders[1]
    copy.write_bytes(b'others')
    assert planned(['model.load_weights', str(copy)], tmp_path).folder != folders[0]


def test_folder_names_are_short_and_of_plain_characters(tmp_path):
    run = planned([], tmp_path, Variant('long', 'a/b c' * 50, {}))
    name = os.path.basename(run.folder)
    assert os.path.dirname(run.folder) == str(tmp_path) and len(name) < 110
    assert re.fullmatch(r'[\w.=+,-]+-[0-9a-f]{8}-seed1', name)


def test_words_for_testing_are_for_the_tests(tmp_path):
    words = [*VIDEO, 'test.rerank', 'True', 'test.clips_per_tracklet', '4', 'test.flip', 'True']
    (run,) = plan_runs(arch_variants(['resnet50']), 1, '', words, str(tmp_path))
    write_run(tmp_path / os.path.basename(run.folder))
    trained = load_config('', words_to_train(run))
    assert not trained.test.rerank and not trained.test.evaluate and trained.model.resume == 'auto'
    assert trained.data.save_dir == run.folder
    for frames, clips in (('rrs', 4), ('all', 1)):
        tested = load_config('', words_to_test(run, read_run(run.folder), frames)).test
        assert (tested.frames, tested.clips_per_tracklet) == (frames, clips)
        assert tested.rerank and tested.evaluate and tested.flip


def test_two_rows_of_one_title_are_refused(tmp_path):
    rows = [Variant('Baseline', 'ablation-1', {}), Variant('Baseline', 'baseline', {})]
    with pytest.raises(InputError, match="two rows are called 'Baseline'"):
        plan_runs(rows, 1, '', VIDEO, str(tmp_path))


@pytest.mark.parametrize(
    ('key', 'value', 'setter'),
    [
        ('train.seed', 5, '--seeds'),
        ('data.save_dir', 'log/mine', '--output'),
        ('test.frames', 'all', 'the comparison'),
        ('test.evaluate', True, 'the comparison'),
        ('test.visrank', True, 'the comparison'),
        ('test.features_dir', 'vectors', 'the comparison'),
        ('model.resume', 'auto', 'the comparison'),
    ],
)
def test_a_key_that_a_row_would_set_in_vain_is_refused(key, value, setter, tmp_path):
    rows = [Variant('mine', 'mine', {key: value})]
    with pytest.raises(InputError, match=f"row 'mine': {key} is set by {setter}, not by a row"):
        plan_runs(rows, 1, '', VIDEO, str(tmp_path))


def test_image_data_is_refused(tmp_path):
    with pytest.raises(InputError, match='data.type image'):
        plan_runs(arch_variants(['resnet50']), 1, '', [], str(tmp_path))


def test_a_damaged_folder_costs_its_own_row(tmp_path):
    write_run(tmp_path / 'good')
    for name, file in (('config', 'config.yaml'), ('metrics', 'metrics.json')):
        write_run(tmp_path / name)
        (tmp_path / name / file).write_text('{')
    paths = [str(tmp_path / name) for name in ('config', 'metrics', 'good')]
    runs = existing_runs(paths, [])
    assert [bool(run.problem) for run in runs] == [True, True, False]
    (fresh,) = plan_runs(arch_variants(['resnet18']), 1, '', VIDEO, str(tmp_path))
    write_run(tmp_path / os.path.basename(fresh.folder))
    (tmp_path / os.path.basename(fresh.folder) / 'metrics.json').write_text('{')
    rows = arch_variants(['resnet18', 'resnet34'])
    damaged, new = plan_runs(rows, 1, '', VIDEO, str(tmp_path))
    assert damaged.folder == fresh.folder and 'damaged' in damaged.problem
    assert new.state == 'new'
    (outcome,) = complete_runs([damaged], execute=None)
    assert 'damaged' in outcome.error
