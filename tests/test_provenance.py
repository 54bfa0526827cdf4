"""What an evaluation was made from: digests of config and data."""

import os
from types import SimpleNamespace

import pytest

from stmn_plugin.config.defaults import flatten, get_default_config
from stmn_plugin.training.provenance import FREE_IN_TESTING, config_digests, data_digests
from stmn_plugin.training.resuming import is_recipe


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
