"""The validation part of the training identities: disjoint, matchable, and never the test set."""

import pytest
import torch
from PIL import Image
from test_datamanager import manager

import stmn_plugin
from stmn_plugin.cli import train
from stmn_plugin.config import load_config
from stmn_plugin.data.validation import hold_out
from stmn_plugin.errors import InputError


@pytest.fixture(autouse=True)
def registered():
    stmn_plugin.register()


def tracklets(*people):
    """One tracklet for every (pid, cameras)."""
    return [
        ((f'{pid}-{camid}-{n}.jpg',), pid, camid, 0)
        for pid, cameras in people
        for n, camid in enumerate(cameras)
    ]


def test_identities_are_held_out_whole():
    given = tracklets(*((pid, (0, 0, 1 + pid % 3)) for pid in range(10)))
    split = hold_out(given, 0.3)
    held_out = {t[1] for t in split.gallery}
    assert len(held_out) == 3
    assert split.gallery == [t for t in given if t[1] in held_out]
    paths = {t[0] for t in given}
    assert {t[0] for t in split.train} == paths - {t[0] for t in split.gallery}
    # the classes of those that are left are 0..n-1, in the order they had
    left = [t for t in given if t[1] not in held_out]
    number = {pid: i for i, pid in enumerate(p for p in range(10) if p not in held_out)}
    assert split.train == [(t[0], number[t[1]], *t[2:]) for t in left]


@pytest.mark.parametrize('wanted, count', [(0.2, 2), (0.24, 2), (0.26, 3), (0.01, 1), (4, 4)])
def test_a_share_or_a_number(wanted, count):
    split = hold_out(tracklets(*((pid, (0, 1)) for pid in range(10))), wanted)
    assert len({t[1] for t in split.gallery}) == count


def test_the_draw_is_a_function_of_the_seed():
    given = tracklets(*((pid, (0, 1)) for pid in range(40)))
    assert hold_out(given, 0.2, seed=3) == hold_out(given, 0.2, seed=3)
    draws = [tuple(t[1] for t in hold_out(given, 0.2, seed=s).gallery) for s in range(20)]
    assert len(set(draws)) > 15
    assert {pid for draw in draws for pid in draw} == set(
        range(40)
    )  # every person is held out by some draw


def test_queries_are_drawn_from_those_with_a_match():
    given = tracklets((0, (0, 1, 1)), (1, (2, 2)), (2, (0, 3)), (3, (1, 1)), (9, (5, 6)))
    split = hold_out(given, 4, seed=0)
    matchable = [t for t in split.gallery if t[1] in (0, 2, 9)]
    assert split.query == matchable  # fewer than requested: all, in order
    few = hold_out(given, 4, seed=0, num_queries=2)
    assert len(few.query) == 2 and set(few.query) < set(matchable)
    assert few.gallery == split.gallery


@pytest.mark.parametrize(
    'people, share, message',
    [
        ([(0, (0, 1)), (1, (0, 1))], 2, 'none is left to train on'),
        ([(0, (0, 1)), (1, (0, 1))], 0.9, 'holds out 2 of 2'),
        ([(0, (1, 1)), (1, (0, 0)), (2, (4,))], 1, 'seen by two cameras'),
    ],
)
def test_what_cannot_be_held_out(people, share, message):
    with pytest.raises(InputError, match=message):
        hold_out(tracklets(*people), share)


@pytest.mark.parametrize(
    'words, message',
    [
        ('data.validation_ids -0.5', 'takes a number from 0 to 1,000,000'),
        ('data.validation_ids 12.5', 'whole number of identities, got 12.5'),
        ('data.validation_ids 0.2 data.combineall True', 'combineall would train on the test set'),
        ('data.validation_ids 0.2', 'needs data.type video'),
    ],
)
def test_keys_are_checked(words, message):
    video = [] if message.endswith('video') else ['data.type', 'video']
    with pytest.raises(InputError, match=message):
        load_config('', [*video, *words.split()])


@pytest.mark.parametrize('name', ['mars', 'dukemtmcvidreid', 'lsvid'])
def test_the_loaders_serve_the_two_parts(name, miniature_roots):
    whole = manager(miniature_roots[name], sources=[name])
    data = manager(miniature_roots[name], sources=[name], validation_ids=3, validation_seed=1)
    assert data.targets == list(data.test_loader) == [f'{name}-validation']
    (parts,) = data.test_dataset.values()
    given = {t[0] for t in whole.train_loader.dataset.tracklets}
    trained = {t[0] for t in data.train_loader.dataset.tracklets}
    assert trained | {t[0] for t in parts['gallery']} == given
    assert not trained & {t[0] for t in parts['gallery']}
    assert data.num_train_pids == whole.num_train_pids - 3
    pids = torch.cat([batch['pid'] for batch in data.train_loader])
    assert pids.max() < data.num_train_pids
    (loaders,) = data.test_loader.values()
    assert sum(len(b['pid']) for b in loaders['gallery']) == len(parts['gallery'])
    assert data.gallery_needs_queries == {f'{name}-validation': False}


@pytest.mark.slow
def test_a_run_on_the_validation_part_opens_no_frame_of_the_test_set(
    repository, small_run, mars_root, monkeypatch, capsys
):
    opened, original = [], Image.open

    def spy(file, *args, **options):
        opened.append(str(getattr(file, 'name', file)))
        return original(file, *args, **options)

    monkeypatch.setattr(Image, 'open', spy)
    words = ['--config-file', str(repository / 'configs' / 'stmn_mars.yaml'), '--root', mars_root]
    train.main([*words, *small_run, 'data.validation_ids', '0.3', 'train.batch_size', '4'])
    out = capsys.readouterr().out
    assert 'mars-validation ' in out and 'protocol official' in out
    assert 'Held out for validation: 3 identities' in out
    assert any('bbox_train' in path for path in opened)
    assert not any('bbox_test' in path for path in opened)
