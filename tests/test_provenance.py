"""What an evaluation was made from: digests of config and data."""

import hashlib
import os
from types import SimpleNamespace

import pytest

from stmn_plugin.config import load_config
from stmn_plugin.config.defaults import flatten, get_default_config
from stmn_plugin.config.sections import is_video_model
from stmn_plugin.plugins import load_plugins
from stmn_plugin.training import provenance
from stmn_plugin.training.provenance import (
    FREE_IN_TESTING,
    START_KEYS,
    config_digests,
    data_digests,
    experiment_of,
    first_version_digests,
    run_digest,
)
from stmn_plugin.training.resuming import FREE_KEYS, changed_keys, is_recipe


def manager(train, query, gallery):
    dataset = SimpleNamespace(tracklets=train)
    lists = {'query': query, 'gallery': gallery}
    return SimpleNamespace(train_loader=SimpleNamespace(dataset=dataset), test_dataset={'x': lists})


@pytest.fixture
def lists(tmp_path):
    """Train, query and gallery, a tracklet of three frames each."""
    tracklets = []
    for pid, name in enumerate(('train', 'query', 'gallery')):
        (tmp_path / 'data' / name).mkdir(parents=True)
        paths = [tmp_path / 'data' / name / f'{number}.jpg' for number in range(3)]
        for path in paths:
            path.write_bytes(b'frame')
        tracklets.append([(tuple(map(str, paths)), pid, 0, 0)])
    return tracklets


def changed(lists, *kinds):
    """Whether exactly these digests differ after what the caller has done."""
    before = data_digests(manager(*lists[0]), 'x')
    after = data_digests(manager(*lists[1]), 'x')
    return {kind for kind in before if before[kind] != after[kind]} == set(kinds)


def test_each_list_of_the_data_has_a_digest(lists, tmp_path):
    train, query, gallery = lists
    ((paths, pid, camid, _),) = query
    assert changed((lists, [train, query, gallery]))
    assert changed((lists, [[(*train[0][:3], 9)], query, gallery]))  # the host's dsetid
    for other in (
        [(paths, pid + 1, camid, 0)],
        [(paths, pid, camid + 1, 0)],
        [(paths[:2], pid, camid, 0)],
        [(paths[1:], pid, camid, 0)],
        [(paths[::-1], pid, camid, 0)],
        [*query, *query],
    ):
        assert changed((lists, [train, other, gallery]), 'query')
    assert changed((lists, [query, train, gallery]), 'train', 'query')
    before = data_digests(manager(*lists), 'x')
    with open(gallery[0][0][2], 'ab') as file:
        file.write(b'more')
    after = data_digests(manager(*lists), 'x')
    assert {kind for kind in before if before[kind] != after[kind]} == {'gallery'}
    os.rename(tmp_path / 'data', tmp_path / 'moved')
    moved = [
        [(tuple(p.replace('/data/', '/moved/') for p in t[0][0]), *t[0][1:])]
        for t in (train, query, gallery)
    ]
    assert data_digests(manager(*moved), 'x') == after
    assert data_digests(manager(*lists), 'x') != after  # files that are gone


@pytest.mark.slow
def test_every_key_is_of_the_recipe_of_the_test_or_free():
    """By changing one key after the other."""
    config = flatten(get_default_config())
    before = config_digests(config)
    for key in config:
        after = config_digests({**config, key: 'another'})
        differ = {kind for kind in before if before[kind] != after[kind]}
        if is_recipe(key, config) or key == 'train.lr_scheduler':
            assert differ == {'recipe'}, key
        elif key.startswith('test.') and key not in FREE_IN_TESTING or key == 'data.bad_frames':
            assert differ == {'test'}, key
        else:
            assert differ == set(), key
    assert before == config_digests(dict(reversed(config.items())))
    assert set(config) > FREE_IN_TESTING


@pytest.mark.slow
def test_every_key_is_of_the_experiment_or_free():
    """A key that is free on resuming needs a decision: does it make another run?"""
    same_computation = {
        'use_gpu',
        'model.resume',
        'data.targets',  # a row has one
        'data.root',  # a run knows its data by digest
        'data.download',
        'data.workers',
        'data.bad_frames',
        'data.save_dir',
        'market1501.use_500k_distractors',  # of image data
        'cuhk03.use_metric_cuhk03',
        'train.print_freq',
        'train.save_freq',
        'train.keep_last',
        'train.channels_last',
        'train.checkpoint_activations',
        'train.compile',
        'train.deterministic',
        'train.overwrite',
        'train.fused',
    }
    assert same_computation | START_KEYS == FREE_KEYS and not same_computation & START_KEYS
    config = flatten(get_default_config())
    for key in config:
        of_it = not key.startswith('test.') and key not in same_computation | {'train.seed'}
        of_it = of_it and not is_video_model(key.partition('.')[0])
        changed = {**config, key: 'another'}
        assert experiment_of(changed).get(key) == ('another' if of_it else None), key
        assert (run_digest(changed) != run_digest(config)) == of_it, key


def test_a_key_of_a_later_version_changes_no_digest(monkeypatch):
    config = {**flatten(get_default_config()), 'train.lr': 0.5, 'test.flip': True}
    before = config_digests(config), run_digest(config)
    later = get_default_config()
    later.psta = type(later)({'heads': 3})
    monkeypatch.setattr(provenance, 'get_default_config', lambda: later.clone())
    config = {**config, 'psta.heads': 3}
    assert (config_digests(config), run_digest(config)) == before
    config['psta.heads'] = 4
    assert config_digests(config)['recipe'] != before[0]['recipe']
    assert config_digests(config)['test'] == before[0]['test'] and run_digest(config) != before[1]


@pytest.mark.parametrize('arch', ['qan', 'stmn', 'resnet18'])
def test_keys_of_another_architecture_make_no_other_experiment(arch):
    """In a config that all rows of a table share."""
    load_plugins()
    config = {**flatten(get_default_config()), 'model.name': arch}
    keys = {'mgh.graphs': 2, 'part_aligned.part_width': 0.25, 'csa.oim': False, 'eug.freeze': False}
    keys |= {'stmn.backbone': 'resnet18', 'stmn.backbone_weights': 'start.pth'}
    keys |= {'qan.clip_weight': 0.5, 'qan.backbone_weights': 'start.pth'}
    for key, value in keys.items():
        other = {**config, key: value}
        own = key.startswith(f'{arch}.')
        start = key.endswith('_weights')
        assert (run_digest(config) != run_digest(other)) == own, key
        assert (experiment_of(config) != experiment_of(other)) == own, key
        assert (config_digests(config) != config_digests(other)) == (own and not start), key
        assert bool(changed_keys(config, other)) == (own and not start), key
    assert changed_keys(config, {**config, 'model.name': 'mgh'}).keys() == {'model.name'}
    both = {**config, 'model.name': 'mgh', 'mgh.graphs': 2}
    assert changed_keys(config, both).keys() == {'model.name', 'mgh.graphs'}


def test_a_shared_config_is_one_experiment_of_every_row():
    """As a command loads it: the encoder that is STMN's by default counts as the row's own."""

    def digest(*words):
        words = ['data.type', 'video', 'model.name', 'qan', *words]
        return run_digest(flatten(load_config('', words)))

    assert digest() == digest('mgh.graphs', '2', 'stmn.spatial_items', '7')
    small = ('stmn.backbone', 'resnet18')
    assert digest() != digest(*small) == digest('qan.backbone', 'resnet18')
    own = ('qan.backbone', 'resnet34')
    assert digest(*own) == digest(*own, *small)


def test_digests_of_the_first_version():
    """It took every key of the recipe and of the test, at its default or not."""
    config = {'train.lr': 0.0003, 'train.max_epoch': 60, 'test.flip': False, 'data.workers': 3}
    assert first_version_digests(config) == {
        kind: hashlib.sha256(text.encode()).hexdigest()[:16]
        for kind, text in (('recipe', '{"train.lr": 0.0003}'), ('test', '{"test.flip": false}'))
    }
