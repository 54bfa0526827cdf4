"""Loaders: every source, sum and start method; batches by (seed, epoch), not by workers."""

import contextlib
import io

import pytest
import torch
import torchreid

import stmn_plugin
from stmn_plugin.config import TRANSFORMS
from stmn_plugin.data import VideoDataManager
from stmn_plugin.data.host_lists import host_errors_named
from stmn_plugin.datasets import host_datasets
from stmn_plugin.datasets.index_cache import parse_once
from stmn_plugin.datasets.listing import SPLITS
from stmn_plugin.errors import InputError
from stmn_plugin.host.engine import VideoEngine
from stmn_plugin.models import STMN


def manager(root, **options):
    defaults = {
        'sources': ['mars'],
        'height': 32,
        'width': 16,
        'batch_size_train': 8,
        'num_instances': 2,
        'train_sampler': 'IdentityPassSampler',
        'workers': 0,
        'seq_len': 4,
        'sample_method': 'rrs',
        'transforms': ['random_flip', 'random_erase'],
        'use_gpu': False,
    }
    with contextlib.redirect_stdout(io.StringIO()):
        return VideoDataManager(root=root, **{**defaults, **options})


@pytest.fixture(autouse=True)
def registered():
    stmn_plugin.register()


@pytest.mark.parametrize('name', ['mars', 'dukemtmcvidreid', 'lsvid', 'tracklets'])
def test_every_miniature_gives_batches_of_clips(name, miniature_roots):
    data = manager(miniature_roots[name], sources=[name])
    batch = next(iter(data.train_loader))
    assert batch['img'].shape == (8, 4, 3, 32, 16) and batch['img'].dtype == torch.float32
    pids = batch['pid'].view(4, 2)
    assert (pids[:, 0] == pids[:, 1]).all() and len(set(pids[:, 0].tolist())) == 4
    assert pids.min() >= 0 and pids.max() < data.num_train_pids
    query, gallery = data.fetch_test_loaders(name)
    shapes = [b['img'].shape[1:] for b in data.test_loader[name]['query']]
    assert set(shapes) == {(4, 3, 32, 16)}
    assert sum(len(b['pid']) for b in data.test_loader[name]['gallery']) == len(gallery)
    assert data.gallery_needs_queries[name] == (name in ('mars', 'lsvid'))


@pytest.mark.parametrize(
    'name, number, key',
    [
        ('seq_len', 10**11, 'video.seq_len'),
        ('seq_len', 2.5, 'video.seq_len'),
        ('workers', 100_000, 'data.workers'),
        ('batch_size_train', 0, 'train.batch_size'),
        ('batch_size_test', -1, 'test.batch_size'),
    ],
)
def test_numbers_that_no_config_can_hold_are_refused_from_python_too(name, number, key, mars_root):
    with pytest.raises(InputError, match=f'{key} takes a whole number from .*, got {number}'):
        manager(mars_root, **{name: number})


def test_summed_sources_are_sampled_by_rrs_with_their_own_identities(miniature_roots, tmp_path):
    for name in ('mars', 'lsvid', 'tracklets'):
        for child in (tmp_path.__class__(miniature_roots[name])).iterdir():
            (tmp_path / child.name).symlink_to(child)
    both = manager(str(tmp_path), sources=['mars', 'lsvid', 'tracklets'], targets=['mars', 'lsvid'])
    parts = [manager(str(tmp_path), sources=[n]) for n in ('mars', 'lsvid', 'tracklets')]
    assert both.num_train_pids == sum(part.num_train_pids for part in parts)
    tracklets = both.train_loader.dataset.tracklets
    assert {dsetid for _, _, _, dsetid in tracklets} == {0, 1, 2}
    assert next(iter(both.train_loader))['img'].shape == (8, 4, 3, 32, 16)
    assert list(both.test_loader) == ['mars', 'lsvid']


@pytest.mark.slow
@pytest.mark.parametrize('method', ['fork', 'forkserver'])
def test_workers_change_nothing(mars_root, method):
    torch.multiprocessing.set_start_method(method, force=True)
    try:
        runs = []
        for workers in (0, 2):
            data = manager(mars_root, workers=workers)
            runs.append([batch for _ in range(2) for batch in data.train_loader])
    finally:
        torch.multiprocessing.set_start_method('fork', force=True)
    assert len(runs[0]) == len(runs[1]) > 2
    for alone, parallel in zip(*runs, strict=True):
        assert torch.equal(alone['img'], parallel['img'])
        assert torch.equal(alone['pid'], parallel['pid'])


def test_batches_depend_on_the_epoch_and_can_be_set_to_any(mars_root):
    data = manager(mars_root)
    first, second = [[b['img'] for b in data.train_loader] for _ in range(2)]
    assert not torch.equal(first[0], second[0])
    data.batch_sampler.set_epoch(0)
    again = [b['img'] for b in data.train_loader]
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))


@pytest.mark.parametrize('names', [['random_flip', 'random_erase'], list(TRANSFORMS), []])
def test_bytes_finished_later_equal_floats_now(names, mars_root):
    options = {'transforms': names, 'batch_size_train': 4}
    as_bytes, as_floats = (
        manager(mars_root, as_uint8=True, **options),
        manager(mars_root, **options),
    )
    for raw, done in zip(as_bytes.train_loader, as_floats.train_loader, strict=True):
        assert raw['img'].dtype == torch.uint8 and 'augmentation' not in done
        clips = raw['img']
        if 'augmentation' in raw:
            clips = as_bytes.augmentation.apply(clips, raw['augmentation'])
        assert torch.equal(as_bytes.normalize(clips), done['img'])


@pytest.mark.parametrize('frames', [False, True])
def test_the_engine_finishes_what_the_loader_leaves_once(frames, mars_root):
    options = {'transforms': ['random_flip', 'color_jitter'], 'batch_size_train': 4}
    as_bytes, as_floats = (manager(mars_root, as_uint8=b, **options) for b in (True, False))
    raw, done = next(iter(as_bytes.train_loader)), next(iter(as_floats.train_loader))
    clips = STMN(2, 4, STMN.Config(backbone='resnet18'), pretrained=False)
    model = torch.nn.Linear(1, 1) if frames else clips
    engine = VideoEngine(as_bytes, model, None, use_gpu=False)
    for batch in (raw, engine.trainer.batches.finish(raw)):  # as read, and as prefetched
        clips, _ = engine.parse_data_for_train(batch)
        assert torch.equal(clips.view_as(done['img']), done['img'])


def test_the_hosts_samplers_stay_selectable(mars_root):
    # a camera has few tracklets here: one domain or dataset a batch is all it can give
    for name in torchreid.data.sampler.AVAI_SAMPLERS:
        data = manager(mars_root, train_sampler=name, num_cams=4)
        batches = [b['pid'] for b in data.train_loader]
        assert len(batches) > 0 and all(len(pids) == 8 for pids in batches)
    identities = manager(mars_root, train_sampler='RandomIdentitySampler')
    for batch in identities.train_loader:
        assert (batch['pid'].view(4, 2)[:, 0] == batch['pid'].view(4, 2)[:, 1]).all()


def test_it_works_under_the_hosts_own_engine(mars_root):
    with contextlib.redirect_stdout(io.StringIO()) as out:
        data = torchreid.data.VideoDataManager(
            root=mars_root,
            sources='mars',
            height=32,
            width=16,
            batch_size_train=8,
            seq_len=2,
            sample_method='rrs',
            workers=0,
            use_gpu=False,
        )
        model = torchreid.models.build_model('osnet_x0_25', data.num_train_pids, pretrained=False)
        optimizer = torchreid.optim.build_optimizer(model)
        scheduler = torchreid.optim.build_lr_scheduler(optimizer, stepsize=1)
        engine = torchreid.engine.VideoSoftmaxEngine(
            data, model, optimizer, scheduler=scheduler, use_gpu=False
        )
        engine.epoch, engine.max_epoch = 0, 1
        engine.train(print_freq=1)  # its ranking fails on galleries as small as this one
    assert 'epoch: [1/1]' in out.getvalue()


@pytest.mark.parametrize(
    'options, parts',
    [
        ({'sources': ['mrs']}, ['mrs']),
        ({'root': '/no/such/folder'}, ['/no/such/folder']),
        ({'sample_method': 'evenl'}, ['video.sample_method', "'evenl'"]),
        ({'train_sampler': 'PK'}, ['sampler.train_sampler', "'PK'"]),
        ({'transforms': ['flip']}, ['data.transforms', "'flip'"]),
        ({'batch_size_train': 7}, ['train.batch_size 7', 'sampler.num_instances 2']),
        ({'batch_size_train': 64}, ['32 identities', 'has 10']),
        ({'batch_size_train': 64, 'train_sampler': 'RandomIdentitySampler'}, ['of 64']),
        ({'batch_size_train': 64, 'train_sampler': 'RandomSampler'}, ['train.batch_size', '64']),
        ({'sources': ['mars', 'mars']}, ['data.sources: mars', 'twice']),
        ({'targets': ['mars', 'mars']}, ['data.targets: mars', 'twice']),
        ({'sources': ['mars', 'MARS']}, ['"MARS"']),
    ],
)
def test_what_cannot_work_is_named_on_one_line(options, parts, mars_root):
    with pytest.raises(InputError) as caught:
        manager(options.pop('root', mars_root), **options)
    assert '\n' not in str(caught.value)
    for part in parts:
        assert part in str(caught.value)


@pytest.mark.parametrize('batch_size, sampler', [(64, 'IdentityPassSampler'), (7, 'RandomSampler')])
def test_testing_needs_no_batch_to_train_on(batch_size, sampler, mars_root):
    options = {'batch_size_train': batch_size, 'train_sampler': sampler, 'num_instances': 4}
    data = manager(mars_root, test_only=True, sources='mars', **options)
    assert len(data.train_loader) == 0 and data.num_train_pids is None
    assert len(data.fetch_test_loaders('mars')[0]) == 11


def test_one_frame_makes_no_two_persons(mars_root, tmp_path):
    """MARS, and own tracklets that are its frames, by another way to the same folder."""
    import miniatures

    (tmp_path / 'mars').symlink_to(f'{mars_root}/mars')
    (tmp_path / 'link').symlink_to(f'{mars_root}/mars/bbox_train')
    path = 'link/0048/0048C2T0001F001.jpg'
    assert (tmp_path / path).is_file()
    other = path.replace('0048', '0101').replace('C2', 'C3')
    rows = [
        ('train', 'p', 'a', 't', path),
        ('query', 'p', 'a', 't', path),
        ('gallery', 'p', 'b', 't', other),
    ]
    miniatures.write_csv(tmp_path / 'tracklets.csv', rows)
    for name in ('mars', 'tracklets'):
        manager(str(tmp_path), sources=name, batch_size_train=1, num_instances=1)
    with pytest.raises(
        InputError, match='data.sources: mars and tracklets both hold .*0048C2T0001'
    ):
        manager(str(tmp_path), sources=['mars', 'tracklets'], targets='mars')


def test_a_tracklet_without_a_frame_is_refused(mars_root, monkeypatch):
    """As a dataset registered elsewhere may have it."""
    for splits in ({'train'}, {'query'}, {'gallery'}):

        def emptied(*args, splits=splits, **kwargs):
            return [
                [*tracklets, ((), 3, 1, 0)] if split in splits else tracklets
                for split, tracklets in zip(SPLITS, parse_once(*args, **kwargs), strict=True)
            ]

        monkeypatch.setattr(host_datasets, 'parse_once', emptied)
        with pytest.raises(InputError, match='a tracklet of person 3 at camera 1 has no frame'):
            manager(mars_root)


def test_a_bug_of_ours_is_no_complaint_of_the_host(tmp_path, mars_root, monkeypatch):
    complaint = pytest.raises(InputError, match='dataset cannot be loaded: Mars dataset needs')
    with complaint, host_errors_named():
        torchreid.data.datasets.video.Mars(root=str(tmp_path))
    for error in (KeyError('row'), RuntimeError('shape'), OSError('pipe'), ValueError('bug')):

        def broken(*_, error=error, **__):
            raise error

        monkeypatch.setattr('stmn_plugin.datasets.host_datasets.parse_once', broken)
        with pytest.raises(type(error)) as caught:
            manager(mars_root)
        assert caught.value is error
    monkeypatch.undo()
    monkeypatch.setattr('stmn_plugin.data.identity_sampler.host_batches', broken)
    with pytest.raises(ValueError, match='bug') as caught:
        manager(mars_root, train_sampler='RandomSampler')
    assert not isinstance(caught.value, InputError)


def test_a_target_without_any_match_is_refused_before_training(tmp_path):
    import miniatures

    for split, camera in (('train', 'a'), ('train', 'b'), ('query', 'a'), ('gallery', 'a')):
        for pid in range(4):
            folder = tmp_path / 'tracklets' / split / str(pid) / camera / 't'
            folder.mkdir(parents=True)
            miniatures.save_frame(folder / '0.jpg', pid, 0, 0)
    with pytest.raises(InputError, match='tracklets: none of the 4 queries has a match'):
        manager(str(tmp_path), sources=['tracklets'])


@pytest.mark.parametrize('workers', [0, 1])
def test_a_broken_frame_stops_the_loader_with_its_path(tmp_path, workers):
    import miniatures

    root = miniatures.make_tracklets(tmp_path)
    for frame in (tmp_path / 'tracklets' / 'train').rglob('*.jpg'):
        frame.write_bytes(frame.read_bytes()[:-20])
    data = manager(str(root), sources=['tracklets'], workers=workers)
    with pytest.raises(InputError) as caught:
        next(iter(data.train_loader))
    line = str(caught.value)
    assert line.startswith(f'cannot read frame {tmp_path}') and '\n' not in line
