"""What goes wrong on real disks: it is handled or said with the path, nothing hangs or is written.

Truncated and empty files, text, folders and missing files, 16 bits, CMYK, grey and EXIF are read or
refused in ``test_frames.py``, one by one; here they stand in a tracklet, before our loaders. That a
worker hands such an error on is in ``test_datamanager.py``, a full disk in ``test_checkpoint.py``.
"""

import contextlib
import io
import multiprocessing
import os
import shutil
import signal
from pathlib import Path

import miniatures
import numpy as np
import pytest
import torch
from PIL import Image

import stmn_plugin
from stmn_plugin.data import VideoDataManager, frames
from stmn_plugin.datasets.check import check_dataset
from stmn_plugin.errors import InputError


def manager(root, **options):
    stmn_plugin.register()
    defaults = {
        'sources': ['tracklets'],
        'height': 32,
        'width': 16,
        'batch_size_train': 8,
        'num_instances': 2,
        'train_sampler': 'IdentityPassSampler',
        'workers': 0,
        'seq_len': 4,
        'sample_method': 'rrs',
        'transforms': ['random_flip'],
        'use_gpu': False,
    }
    with contextlib.redirect_stdout(io.StringIO()):
        return VideoDataManager(root=str(root), **{**defaults, **options})


@pytest.fixture
def root(tmp_path):
    return miniatures.make_tracklets(tmp_path / 'data')


def first_query(root):
    """A frame of the first query, and the loader's batch of queries."""
    folder = root / 'tracklets/query/anna/cam2/t1'
    return folder / 'f1.jpg', lambda **o: next(
        iter(manager(root, **o).test_loader['tracklets']['query'])
    )


def make_truncated(path):
    path.write_bytes(path.read_bytes()[:-50])


def make_folder(path):
    path.unlink()
    path.mkdir()


REFUSED = {
    'truncated': (make_truncated, 'truncated'),
    'zero bytes': (lambda path: path.write_bytes(b''), 'cannot identify image'),
    'text': (lambda path: path.write_text('<html>404</html>'), 'cannot identify image'),
    'removed after listing': (Path.unlink, 'No such file'),
    'folder after listing': (make_folder, 'is a folder'),
}


@pytest.mark.parametrize('case', REFUSED)
def test_a_frame_that_goes_bad_after_listing_stops_the_loader_with_its_path(root, case):
    damage, reason = REFUSED[case]
    frame, _ = first_query(root)
    loader = manager(root).test_loader['tracklets']['query']
    damage(frame)
    with pytest.raises(InputError) as caught:
        list(loader)
    line = str(caught.value)
    assert str(frame) in line and reason in line and '\n' not in line


def make_loop(path):
    path.unlink()
    path.symlink_to(path.name)


def make_pipe(path):
    path.unlink()
    os.mkfifo(path)


def make_endless(path):
    path.unlink()
    path.symlink_to('/dev/zero')


def make_postscript(path):
    Image.open(path).save(path, 'EPS')


def make_too_large(path):
    Image.new('1', (4097, 4096)).save(path, 'PNG')


NO_FRAMES = {
    'folder': (make_folder, 'is a folder'),
    'loop': (make_loop, 'symbolic links'),
    'pipe': (make_pipe, 'is a pipe'),
    'endless': (make_endless, 'is a device'),
    'postscript': (make_postscript, 'cannot identify image'),
    'too large': (make_too_large, 'has 16,781,312 pixels'),
}


@pytest.mark.parametrize('case', NO_FRAMES)
def test_what_is_no_frame_is_one_bad_frame_of_its_tracklet(root, case):
    damage, reason = NO_FRAMES[case]
    frame, batch = first_query(root)
    damage(frame)
    with pytest.raises(InputError, match=reason) as caught:
        batch()
    assert str(frame) in str(caught.value)
    item = batch(skip_bad=True)
    assert item['img'].shape == (3, 4, 3, 32, 16) and set(item['bad_frames']) == {str(frame)}
    errors = check_dataset('tracklets', str(root))['errors']
    assert len(errors) == 1 and str(frame) in errors[0]['message']
    assert (reason if case != 'folder' else 'a folder where') in errors[0]['message']


def save_as(mode, **options):
    def save(path):
        image = Image.open(path).convert('L' if mode == '16 bit' else mode)
        if mode == '16 bit':
            image = Image.fromarray(np.asarray(image).astype(np.uint16) * 256)
            image.save(path.with_suffix('.png'))
            path.unlink()
        else:
            image.save(path, **options)

    return save


def save_rotated(path):
    exif = Image.Exif()
    exif[0x0112] = 8  # its left side is the top
    Image.open(path).transpose(Image.Transpose.ROTATE_270).save(path, exif=exif, quality=95)


@pytest.mark.parametrize(
    'change, tolerance',
    [
        (save_as('CMYK', quality=95), 12),
        (save_as('L', quality=95), None),
        (save_as('16 bit'), None),
        (save_rotated, 12),
    ],
    ids=['CMYK', 'grey', '16 bit', 'EXIF'],
)
def test_unusual_images_become_the_same_clip(root, change, tolerance):
    """``tolerance``: mean difference in grey levels; None: compared with the grey picture."""
    frame, batch = first_query(root)
    before = batch(as_uint8=True)['img'][0].float()
    if tolerance is None:
        before[0] = (before[0] * torch.tensor([0.299, 0.587, 0.114]).view(3, 1, 1)).sum(0)
        tolerance = 3
    change(frame)
    after = batch(as_uint8=True)['img'][0].float()
    assert after.shape == (4, 3, 32, 16)
    assert (after[0] - before[0]).abs().mean() < tolerance
    assert torch.equal(after[2:], before[2:])  # the other frames


def kill_worker(root, results):
    data = manager(root, workers=1, batch_size_train=2, num_instances=1)
    iterator = iter(data.train_loader)
    next(iterator)
    [worker] = data.train_loader._iterator._workers
    try:
        os.kill(worker.pid, signal.SIGKILL)
        for _ in range(100):
            next(iterator)
        said = 'it went on'
    except RuntimeError as error:
        said = f'{type(error).__name__}: {error}'
    while results:
        with contextlib.suppress(RuntimeError):  # torch may notice the end a second time, here
            results.send(said)
            results = None
    os._exit(0)


def test_a_killed_worker_stops_the_loader(root):
    """In a process of its own: torch raises wherever the main process is when a worker dies."""
    context = multiprocessing.get_context('fork')
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=kill_worker, args=(root, sender))
    process.start()
    sender.close()
    try:
        said = receiver.recv()
    finally:
        process.kill()
        process.join()
    # a batch that waits in shared memory cannot be fetched any more, or torch notices first
    expected = ('RuntimeError: DataLoader worker (pid', 'WorkerError: a process that reads frames')
    assert said.startswith(expected)


def snapshot(folder):
    return {
        path: (path.lstat().st_mtime_ns, path.lstat().st_size) for path in sorted(folder.rglob('*'))
    }


@pytest.mark.slow
@pytest.mark.parametrize('name', ['mars', 'dukemtmcvidreid', 'lsvid', 'tracklets'])
def test_nothing_is_written_into_a_dataset(name, miniature_roots, tmp_path, monkeypatch):
    root = shutil.copytree(miniature_roots[name], tmp_path / 'data')
    for folder, _, _ in os.walk(root, topdown=False):
        os.chmod(folder, 0o555)  # root writes all the same: hence the comparison
    before = snapshot(root)
    data = manager(root, sources=[name])
    assert len(next(iter(data.train_loader))['pid']) == 8
    monkeypatch.chdir(tmp_path)
    assert check_dataset(name, str(root))['errors'] == []
    assert snapshot(root) == before
    for folder, _, _ in os.walk(root):
        os.chmod(folder, 0o755)


@pytest.mark.slow
def test_long_tracklets_cost_as_many_frames_as_a_clip_has(tmp_path, monkeypatch):
    """4,000 frames each, of which ``rrs`` reads seq_len, from every part."""
    pixels = np.random.default_rng(0).integers(256, size=(64, 32, 3), dtype=np.uint8)
    for split, pid, camera in [
        *(('train', pid, camera) for pid in 'ab' for camera in ('1', '2')),
        ('query', 'a', '1'),
        ('gallery', 'a', '2'),
    ]:
        folder = tmp_path / 'tracklets' / split / pid / camera / 't'
        folder.mkdir(parents=True)
        Image.fromarray(pixels).save(folder / '0000.jpg')
        for number in range(1, 4000):
            os.link(folder / '0000.jpg', folder / f'{number:04d}.jpg')
    read = []
    original = Image.open

    def spy(file, **options):
        read.append(file.name)
        return original(file, **options)

    monkeypatch.setattr(frames.Image, 'open', spy)
    data = manager(tmp_path, batch_size_train=4, seq_len=6)
    assert [len(paths) for paths, *_ in data.train_loader.dataset.tracklets] == [4000] * 4
    assert next(iter(data.train_loader))['img'].shape == (4, 6, 3, 32, 16)
    assert len(read) == 4 * 6
    numbers = np.array([int(Path(path).stem) for path in read]).reshape(4, 6)
    assert (numbers * 6 // 4000 == np.arange(6)).all()  # one of each sixth
    read.clear()
    [batch] = data.test_loader['tracklets']['query']
    assert [int(Path(path).stem) for path in read] == [i * 4000 // 6 for i in range(6)]
    assert batch['img'].shape == (1, 6, 3, 32, 16)
