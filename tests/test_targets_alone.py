"""Testing without a training set: the test split is all that is read and has to be there."""

import json
import shutil

import miniatures
import pytest
import torchreid

import stmn_plugin
from stmn_plugin.data import VideoDataManager
from stmn_plugin.datasets import index_cache
from stmn_plugin.datasets.tracklets import Tracklets
from stmn_plugin.errors import InputError
from stmn_plugin.labels import UNKNOWN

MAKERS = {
    'mars': miniatures.make_mars,
    'dukemtmcvidreid': miniatures.make_dukev,
    'lsvid': miniatures.make_lsvid,
    'tracklets': miniatures.make_tracklets,
    'ilidsvid': miniatures.make_ilids,
    'prid2011': miniatures.make_prid,
}
# what only training needs, as glob patterns below the data root
TRAINING = {
    'mars': ['mars/bbox_train', 'mars/info/*train*'],
    'dukemtmcvidreid': ['dukemtmc-vidreid/DukeMTMC-VideoReID/train'],
    'lsvid': ['LS-VID/tracklet_train', 'LS-VID/list_sequence/list_seq_train.txt'],
    'tracklets': ['tracklets/train'],
    # the people of the first split, see miniatures
    'ilidsvid': [f'ilids-vid/i-LIDS-VID/sequences/cam{c}/person01[01]' for c in (1, 2)],
    'prid2011': [
        f'prid2011/prid_2011/multi_shot/cam_{c}/person{p}' for c in 'ab' for p in ('002', '010')
    ],
}


@pytest.fixture(autouse=True)
def registered():
    stmn_plugin.register()
    index_cache._PARSED.clear()


def manager(root, **options):
    defaults = {
        'sources': 'mars',
        'height': 32,
        'width': 16,
        'batch_size_train': 4,
        'workers': 0,
        'seq_len': 4,
        'sample_method': 'rrs',
        'use_gpu': False,
    }
    return VideoDataManager(root=str(root), **{**defaults, **options})


def lists_of(data):
    return {name: (lists['query'], lists['gallery']) for name, lists in data.test_dataset.items()}


@pytest.fixture(params=MAKERS)
def name(request):
    return request.param


@pytest.mark.slow
def test_the_training_split_may_be_absent(name, tmp_path, messages):
    root = MAKERS[name](tmp_path)
    if name == 'ilidsvid':  # its .mat file numbers the folders of all people
        splits = [{'train': ['person010', 'person011'], 'test': ['person002', 'person300']}]
        (root / 'ilids-vid/splits.json').write_text(json.dumps(splits))
    options = {'sources': name, 'batch_size_train': 2}
    whole = manager(root, **options)
    for pattern in TRAINING[name]:
        found = list(root.glob(pattern))
        assert found, pattern
        for path in found:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    messages()
    index_cache._PARSED.clear()
    data = manager(root, sources='nowhere', targets=name, test_only=True)
    assert lists_of(data) == lists_of(whole)
    assert data.gallery_needs_queries == whole.gallery_needs_queries
    assert data.num_train_pids is None and data.num_train_cams is None
    assert len(data.train_loader) == 0 and list(data.train_loader) == []
    assert sum(len(b['pid']) for b in data.test_loader[name]['query']) == len(
        lists_of(data)[name][0]
    )
    out = messages()
    assert name in out and ' train ' not in out
    with pytest.raises(InputError) as caught:
        manager(root, **options)
    assert '\n' not in str(caught.value)


def test_no_training_file_is_opened_or_listed(name, tmp_path, monkeypatch):
    """Whatever is asked of a file of the training split fails, were it asked."""
    root = MAKERS[name](tmp_path)
    if name == 'ilidsvid':
        splits = [{'train': ['person010', 'person011'], 'test': ['person002', 'person300']}]
        (root / 'ilids-vid/splits.json').write_text(json.dumps(splits))
    hidden = [str(path) for pattern in TRAINING[name] for path in root.glob(pattern)]
    assert hidden
    import os

    for function in ('scandir', 'listdir', 'open'):
        original = getattr(os, function)

        def checked(path, *args, original=original, **kwargs):
            assert not any(str(path).startswith(one) for one in hidden), path
            return original(path, *args, **kwargs)

        monkeypatch.setattr(os, function, checked)
    manager(root, targets=name, test_only=True)


def test_several_targets_one_of_which_is_a_source_that_is_not_there(tmp_path):
    miniatures.make_mars(tmp_path)
    miniatures.make_tracklets(tmp_path, splits=('query', 'gallery'))
    data = manager(tmp_path, sources='lsvid', targets=['mars', 'tracklets'], test_only=True)
    assert {name: [len(x) for x in lists] for name, lists in lists_of(data).items()} == {
        'mars': [11, 19],
        'tracklets': [3, 6],
    }


def test_a_held_out_part_of_the_sources_needs_them(mars_root):
    options = {'validation_ids': 3, 'validation_seed': 1, 'batch_size_train': 4}
    trained = manager(mars_root, **options)
    tested = manager(mars_root, test_only=True, **options)
    assert lists_of(tested) == lists_of(trained) and list(lists_of(tested)) == ['mars-validation']
    assert tested.num_train_pids == trained.num_train_pids == 7
    assert len(tested.train_loader) == 0
    with pytest.raises(InputError, match='LS-VID'):
        manager(mars_root, sources='lsvid', test_only=True, **options)


def test_a_csv_whose_training_images_are_gone(tmp_path, capsys):
    root = miniatures.make_tracklets_csv(tmp_path)
    whole = Tracklets(root=str(root), mode='query', transform=len, verbose=False)
    index_cache._PARSED.clear()
    shutil.rmtree(root / 'tracklets/train')
    alone = Tracklets(root=str(root), mode='query', transform=len, verbose=False)
    assert alone.query == whole.query and alone.gallery == whole.gallery and alone.train == []
    with pytest.raises(InputError, match=r'tracklets\.csv:\d+: image .* not found'):
        Tracklets(root=str(root), transform=len, verbose=False)


def test_training_frames_among_tested_ones_are_not_reported_as_left_out(tmp_path, messages):
    for number in range(4):
        miniatures.save_frame(tmp_path / f'{number}.jpg', number, 0, 0)
    rows = [
        ('train', 'p', 'a', 't', '0.jpg'),
        ('query', 'q', 'a', 't', '1.jpg'),
        ('gallery', 'q', 'b', 't', '2.jpg'),
    ]
    miniatures.write_csv(tmp_path / 'tracklets.csv', rows)
    for mode in ('query', 'train'):
        index_cache._PARSED.clear()
        Tracklets(root=str(tmp_path), mode=mode, transform=len, verbose=False)
        assert messages().endswith('left out, in no tracklet: 1 .jpg (3.jpg)\n')


def test_cameras_have_the_same_numbers_with_and_without_training_data(tmp_path):
    root = miniatures.make_tracklets(tmp_path)
    miniatures.save_frame(root / 'tracklets/train/p2/aaa/a/0.jpg', 2, 0, 0)  # sorted first
    both = [
        Tracklets(root=str(root), mode=mode, transform=len, verbose=False)
        for mode in ('train', 'query')
        if not index_cache._PARSED.clear()
    ]
    assert both[0].query == both[1].query and both[0].gallery == both[1].gallery
    assert {camid for *_, camid, _ in both[0].query} == {0, 1, 2}
    assert max(camid for *_, camid, _ in both[0].train) == 4


# --- no labels -----------------------------------------------------------------------------------
def unlabelled(tmp_path, query=('anna', 'unknown'), gallery=('unknown',)):
    folder = tmp_path / 'tracklets'
    for split, people in (('query', query), ('gallery', gallery)):
        for number, person in enumerate(people):
            for tracklet in ('t1', 't2'):
                place = folder / split / person / f'cam{number + (split == "gallery")}' / tracklet
                miniatures.save_frame(place / '0.jpg', number, 0, 0)
    return tmp_path


@pytest.mark.parametrize(
    'query, gallery',
    [(['anna'], ['unknown']), (['unknown'], ['anna']), (['unknown'], ['unknown'])],
)
def test_a_target_without_labels_loads_for_testing(query, gallery, tmp_path, messages):
    root = unlabelled(tmp_path, query, gallery)
    data = manager(root, targets='tracklets', test_only=True)
    ((queries, searched),) = lists_of(data).values()
    assert [pid for _, pid, _, _ in queries] == [UNKNOWN if query == ['unknown'] else 0] * 2
    assert [pid for _, pid, _, _ in searched] == [UNKNOWN if gallery == ['unknown'] else 0] * 2
    table = messages()
    assert 'unlabelled' in table
    rows = [line.split() for line in table.splitlines() if line.startswith('tracklets ')]
    assert rows == [  # persons, tracklets, cameras, frames, unlabelled tracklets if any
        ['tracklets', split, *(['0', *counts, '2'] if ids == ['unknown'] else ['1', *counts])]
        for split, ids, counts in (
            ('query', query, ['2', '1', '2']),
            ('gallery', gallery, ['2', '1', '2']),
        )
    ]


def test_labelled_queries_without_a_match_are_still_refused(tmp_path):
    root = unlabelled(tmp_path, ['anna'], ['bob'])
    with pytest.raises(InputError, match='none of the 2 queries has a match'):
        manager(root, targets='tracklets', test_only=True)


def test_no_person_is_left_to_train_on(tmp_path):
    folder = tmp_path / 'tracklets/train/unknown/c/t'
    miniatures.save_frame(folder / '0.jpg', 0, 0, 0)
    with pytest.raises(InputError, match=f"{folder}: a tracklet of person 'unknown' cannot be"):
        Tracklets(root=str(tmp_path), transform=len)
    shutil.rmtree(tmp_path / 'tracklets')
    miniatures.save_frame(tmp_path / '0.jpg', 0, 0, 0)
    miniatures.write_csv(tmp_path / 'tracklets.csv', [('train', 'unknown', 'c', 't', '0.jpg')])
    with pytest.raises(InputError, match=r"tracklets\.csv:2: a tracklet of person 'unknown'"):
        Tracklets(root=str(tmp_path), transform=len)


@pytest.mark.slow
def test_a_target_without_labels_gives_a_ranked_list(tmp_path, small_run, repository, capsys):
    from stmn_plugin.cli import train

    root = unlabelled(tmp_path, ['anna', 'bob'], ['unknown'])
    words = ['--config-file', str(repository / 'configs' / 'stmn_mars.yaml'), '--root', str(root)]
    train.main([*words, '-s', 'mars', '-t', 'tracklets', *small_run, 'test.evaluate', 'True'])
    folder = tmp_path / 'run'
    out = capsys.readouterr().out
    assert 'no match of the 4 queries is labelled, no score; the nearest' in out
    lists = json.loads((folder / 'ranked-tracklets.json').read_text())
    assert len(lists) == 4 and all(len(one['ranked']) == 2 for one in lists)
    lines = (folder / 'ranked-tracklets.csv').read_text().splitlines()
    assert lines[0] == 'query,rank,tracklet,distance' and len(lines) == 1 + 4 * 2
    assert not (folder / 'metrics.json').exists()


@pytest.mark.slow
def test_an_unlabelled_target_is_listed_within_a_training(tmp_path, small_run, repository, capsys):
    from stmn_plugin.cli import cost_curve, report, train

    root = unlabelled(miniatures.make_mars(tmp_path), ['anna'], ['unknown'])
    words = ['--config-file', str(repository / 'configs' / 'stmn_mars.yaml'), '--root', str(root)]
    words += ['-s', 'mars', '-t', 'tracklets', 'mars']
    folder = tmp_path / 'run'
    train.main([*words, *small_run])
    tested = json.loads((folder / 'metrics.json').read_text())['evaluations']
    assert [e['dataset'] for e in tested] == ['mars']
    assert (folder / 'ranked-tracklets.csv').exists()
    checkpoint = folder / 'model' / 'model.pth.tar-1'
    alone = [*words[:4], *small_run, 'data.targets', "['tracklets']"]
    alone += ['model.load_weights', str(checkpoint)]
    for command in (cost_curve, report):
        capsys.readouterr()
        with pytest.raises(SystemExit):
            command.main(alone)
        error = capsys.readouterr().err.splitlines()[-1]
        assert error.startswith('error: ') and ('labels' in error or 'match' in error), error


# --- commands ------------------------------------------------------------------------------------
@pytest.mark.slow
def test_commands_on_a_trained_model_need_no_training_set(tmp_path, small_run, repository, capsys):
    from stmn_plugin.cli import cost_curve, report, train, visualize

    config = str(repository / 'configs' / 'stmn_synthetic.yaml')
    words = ['--config-file', config, '--root', str(tmp_path)]
    run = [*small_run, 'synthetic.preset', 'tiny', 'train.batch_size', '4']
    train.main([*words, *run])
    folder, again = tmp_path / 'run', tmp_path / 'again'
    (data,) = (tmp_path / 'synthetic').glob('*/mars')
    shutil.rmtree(data / 'bbox_train')
    for path in data.glob('info/*train*'):
        path.unlink()

    weights = ['model.load_weights', str(folder / 'model' / 'model.pth.tar-1')]
    run += ['data.save_dir', str(again), *weights]
    train.main([*words, *run, 'test.evaluate', 'True'])
    before, after = (
        json.loads((place / 'metrics.json').read_text())['evaluations'][-1]
        for place in (folder, again)
    )
    assert {key for key in before if before[key] != after[key]} <= {
        'epoch',
        'seconds',
        'peak_memory',
    }
    cost_curve.main([*words, '--clips', '1', 'all', *run])
    rows = json.loads((again / 'cost_curve.json').read_text())
    assert [row['clips'] for row in rows] == [1, 'all']
    assert rows[0]['mAP'] == before['mAP']
    report.main(['--run', str(folder)])
    assert (folder / 'report.html').stat().st_size > 10_000
    visualize.main(['--run', str(folder), '--figures', '8'])
    assert (folder / 'figures' / 'figure-8.png').exists()
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        train.main([*words, *run, 'data.save_dir', str(tmp_path / 'other')])
    assert stop.value.code == 2
    error = capsys.readouterr().err.splitlines()
    assert len(error) == 1 and 'not found' in error[0] and str(data) in error[0]


@pytest.mark.slow
def test_own_tracklets_without_a_training_split(tmp_path, small_run, repository, capsys):
    from stmn_plugin.cli import train

    root = miniatures.make_tracklets(tmp_path, splits=('query', 'gallery'))
    words = ['--config-file', str(repository / 'configs' / 'stmn_mars.yaml'), '--root', str(root)]
    words += ['-s', 'tracklets', '-t', 'tracklets', *small_run]
    train.main([*words, 'test.evaluate', 'True'])
    (tested,) = json.loads((tmp_path / 'run' / 'metrics.json').read_text())['evaluations']
    assert (tested['dataset'], tested['num_query']) == ('tracklets', 3)
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        train.main([*words, 'data.save_dir', str(tmp_path / 'other')])
    assert stop.value.code == 2
    (error,) = capsys.readouterr().err.splitlines()
    assert error.startswith(f'error: {root / "tracklets"}') and 'train' in error


@pytest.mark.slow
def test_image_data_are_tested_without_their_sources(
    tmp_path, small_run, repository, capsys, monkeypatch
):
    from stmn_plugin.cli import train

    root = miniatures.make_market(tmp_path)
    words = ['--config-file', str(repository / 'configs' / 'stmn_mars.yaml'), '--root', str(root)]
    words += ['-a', 'osnet_x0_25', *small_run, 'data.type', 'image', 'loss.name', 'softmax']
    words += ['sampler.train_sampler', 'RandomSampler']
    train.main([*words, '-s', 'market1501', '-t', 'market1501'])
    capsys.readouterr()

    def refuse(*args, **options):
        raise AssertionError('only training needs this')

    monkeypatch.setattr(torchreid.optim, 'build_optimizer', refuse)
    monkeypatch.setattr(torchreid.data, 'ImageDataManager', refuse)
    trained, again = tmp_path / 'run', tmp_path / 'again'
    words += ['test.evaluate', 'True', 'data.save_dir', str(again)]
    words += ['model.load_weights', str(trained / 'model' / 'model.pth.tar-1')]
    # a missing source, and a batch that none of the host's samplers can make
    words += ['sampler.train_sampler', 'RandomDomainSampler', 'train.batch_size', '7']
    train.main([*words, '-s', 'dukemtmcreid', '-t', 'market1501'])
    first, second = (
        json.loads((folder / 'metrics.json').read_text())['evaluations'][-1]
        for folder in (trained, again)
    )
    for result in first, second:
        del result['made_from']['recipe']  # names the sources
    for key in ('weights', 'made_from', 'num_query', 'num_gallery', 'mAP', 'rank-1'):
        assert first[key] == second[key]
    assert 'Data: tested on market1501: 8 queries, 16 gallery images\n' in capsys.readouterr().out
    with pytest.raises(SystemExit) as stop:
        train.main([*words, '-s', 'market1501', '-t', 'dukemtmcreid'])
    assert stop.value.code == 2
    (error,) = capsys.readouterr().err.splitlines()
    assert 'dataset cannot be loaded' in error or 'DukeMTMC' in error, error
