"""Indexes on disk: never another answer than reading the dataset, whatever happens to either."""

import multiprocessing
import os
import shutil
import struct
import time
import zipfile
from pathlib import Path

import miniatures
import numpy as np
import pytest

from stmn_plugin.datasets import index_cache
from stmn_plugin.datasets.host_datasets import DukeMTMCVidReID, Mars
from stmn_plugin.datasets.listing import SPLITS
from stmn_plugin.datasets.lsvid import LSVID
from stmn_plugin.datasets.tracklets import Tracklets, read_own_tracklets

LOADERS = {'dukemtmcvidreid': DukeMTMCVidReID, 'lsvid': LSVID, 'tracklets': Tracklets}


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """A cache folder of its own, and indexes also of what is small and was just written."""
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
    monkeypatch.delenv(index_cache.NO_CACHE, raising=False)
    monkeypatch.setattr(index_cache, 'WORTH_SECONDS', 0)
    monkeypatch.setattr(index_cache, 'SETTLED_NS', -(10**12))
    return tmp_path / 'cache' / 'stmn_plugin'


@pytest.fixture
def copy(miniature_roots, tmp_path):
    def make(name, place='data'):
        return Path(shutil.copytree(miniature_roots[name], tmp_path / place))

    return make


def build(name, root, **kwargs):
    """The lists as a new process would get them."""
    index_cache._PARSED.clear()
    loader = {**LOADERS, 'mars': Mars}[name]
    dataset = loader(root=str(root), transform=lambda image: image, verbose=False, **kwargs)
    return dataset.train, dataset.query, dataset.gallery


@pytest.fixture
def reads(monkeypatch):
    """Counts how often a dataset is really read."""
    number = []
    parse = index_cache._parse
    monkeypatch.setattr(index_cache, '_parse', lambda *a: number.append(a[0]) or parse(*a))
    return number


@pytest.mark.parametrize('name', LOADERS)
def test_the_second_process_reads_the_index_and_gets_the_same(name, copy, cache, reads):
    root = copy(name)
    first = build(name, root)
    [index] = cache.iterdir()
    second = build(name, root)
    assert len(reads) == 1 and second == first and list(cache.iterdir()) == [index]
    for paths, *numbers in [tracklet for tracklets in second for tracklet in tracklets]:
        assert type(paths) is tuple and {type(number) for number in numbers} == {int}
        assert all(os.path.isfile(path) for path in paths)
    with np.load(index, allow_pickle=False) as data:  # numbers and bytes only, no absolute path
        content = b''.join(data[key].tobytes() for key in data.files)
    assert str(root).encode() not in content


@pytest.mark.slow
@pytest.mark.parametrize('name', LOADERS)
def test_a_frame_that_comes_or_goes_is_noticed(name, copy, reads):
    root = copy(name)
    before = build(name, root)
    paths = before[2][0][0]
    times = os.stat(os.path.dirname(paths[0]))
    os.rename(paths[-1], root / 'kept.jpg')
    # as backup programs do: the folder looks unchanged, but for the time of its status
    os.utime(os.path.dirname(paths[0]), ns=(times.st_atime_ns, times.st_mtime_ns))
    if name == 'lsvid':  # its table says how many frames there are
        with pytest.raises(ValueError, match='number of frames'):
            build(name, root)
    else:
        assert build(name, root)[2][0][0] == paths[:-1]
    os.rename(root / 'kept.jpg', paths[-1])
    assert build(name, root) == before
    build(name, root)
    assert len(reads) == 3


@pytest.mark.slow
@pytest.mark.parametrize('name', LOADERS)
def test_a_tracklet_that_comes_is_noticed(name, copy):
    root = copy(name)
    before = build(name, root)
    if name == 'lsvid':
        path = root / 'LS-VID/list_sequence/list_seq_train.txt'
        path.write_text(''.join(path.read_text().splitlines(keepends=True)[:-1]))
        assert build(name, root)[0] == before[0][:-1]
        return
    new = {
        'dukemtmcvidreid': 'dukemtmc-vidreid/DukeMTMC-VideoReID/gallery/0031/0009',
        'tracklets': 'tracklets/gallery/anna/north/t9',
    }[name]
    shutil.copytree(os.path.dirname(before[2][0][0][0]), root / new)
    assert len(build(name, root)[2]) == len(before[2]) + 1
    shutil.rmtree(root / new)
    assert build(name, root) == before


@pytest.mark.slow
@pytest.mark.parametrize('name', LOADERS)
def test_a_copied_moved_or_replaced_dataset_has_its_own_paths(name, copy, tmp_path):
    root = copy(name)
    before = build(name, root)
    moved = root.rename(tmp_path / 'moved')
    lists = build(name, moved)
    paths = [path for tracklets in lists for paths, *_ in tracklets for path in paths]
    assert all(path.startswith(f'{moved}/') and os.path.isfile(path) for path in paths)
    # another dataset at the old place: one frame less
    copied = Path(shutil.copytree(moved, root))
    gone = before[0][0][0][0] if name != 'lsvid' else before[1][0][0][0]
    os.unlink(gone)
    if name == 'lsvid':
        with pytest.raises(ValueError, match='number of frames'):
            build(name, copied)
    else:
        assert gone not in [path for paths, *_ in build(name, copied)[0] for path in paths]


def test_splits_of_lsvid_have_an_index_each(copy, cache):
    root = copy('lsvid')
    test, val = build('lsvid', root, split_id=0), build('lsvid', root, split_id=1)
    assert len(list(cache.iterdir())) == 2 and test[1] != val[1]
    assert build('lsvid', root, split_id=1) == val and build('lsvid', root, split_id=0) == test


@pytest.mark.slow
def test_every_damaged_index_is_rebuilt(copy, cache, reads):
    root = copy('tracklets')
    before = build('tracklets', root)
    [index] = cache.iterdir()
    good = index.read_bytes()
    rng = np.random.default_rng(0)
    compressed = [at for begin, end in _members(index) for at in range(begin, end)]
    noticed = [b'', b'no index', good[:-1], good[: len(good) // 2]]
    # a few bits mean nothing: the end of a block, dates of the archive
    packed = [_flipped(good, at, rng) for at in rng.choice(compressed, 60, replace=False)]
    anywhere = [_flipped(good, at, rng) for at in rng.integers(len(good), size=60)]
    for data in noticed:
        index.write_bytes(data)
        reads.clear()
        assert build('tracklets', root) == before and len(reads) == 1
    reads.clear()
    for data in packed:
        index.write_bytes(data)
        assert build('tracklets', root) == before
    assert len(reads) >= 50
    for data in anywhere:
        index.write_bytes(data)
        assert build('tracklets', root) == before
    index.unlink()
    index.mkdir()
    assert build('tracklets', root) == before


def _members(archive):
    """Where the compressed bytes of each array lie, without the last one, which is padded."""
    with zipfile.ZipFile(archive) as file:
        for member in file.infolist():
            file.fp.seek(member.header_offset + 26)
            name, extra = struct.unpack('<HH', file.fp.read(4))
            begin = member.header_offset + 30 + name + extra
            yield begin, begin + member.compress_size - 1


def _flipped(data, position, rng):
    flipped = bytearray(data)
    flipped[position] ^= 1 << rng.integers(8)
    return bytes(flipped)


def test_an_index_with_pickled_objects_is_not_opened(copy, cache, tmp_path):
    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / 'owned'),)

    root = copy('tracklets')
    before = build('tracklets', root)
    [index] = cache.iterdir()
    with np.load(index) as data:
        arrays = dict(data)
    np.savez(index, **{**arrays, 'names': np.array([Evil()], dtype=object)})
    assert build('tracklets', root) == before
    assert not (tmp_path / 'owned').exists()


def test_an_index_of_other_readers_is_not_used(copy, reads, monkeypatch):
    root = copy('tracklets')
    build('tracklets', root)
    monkeypatch.setattr(index_cache, '_code', lambda: b'another version')
    build('tracklets', root)
    build('tracklets', root)
    assert len(reads) == 2


def test_what_changed_just_now_or_is_read_fast_gets_no_index(copy, cache, monkeypatch):
    root = copy('tracklets')
    monkeypatch.setattr(index_cache, 'SETTLED_NS', 3600 * 10**9)
    build('tracklets', root)  # a frame might follow within one tick of the folder's clock
    assert not cache.exists()
    monkeypatch.setattr(index_cache, 'SETTLED_NS', -(10**12))
    monkeypatch.setattr(index_cache, 'WORTH_SECONDS', 3600)
    build('tracklets', root)
    assert not cache.exists()


def test_settled():
    now = time.time_ns()
    old = now - 10**10
    assert index_cache._settled((old, old, 0), now + 10**13)
    limit = now + index_cache.SETTLED_NS  # negative here
    assert not index_cache._settled((now - index_cache.SETTLED_NS, old, 0), now)
    assert not index_cache._settled((0, old, 0), limit + 10**13)  # a store without times
    assert not index_cache._settled(None, now)


def test_what_is_left_out_is_said_again_from_the_index(copy, cache, reads, messages):
    root = copy('dukemtmcvidreid')
    folder = root / 'dukemtmc-vidreid/DukeMTMC-VideoReID'
    (folder / 'train/\nold').mkdir()
    for _ in range(2):
        build('dukemtmcvidreid', root)
        [line] = [line for line in messages().splitlines() if 'left out' in line]
        assert line == (
            f'{folder}: left out, in no tracklet: 3 .txt, 1 folder '
            '(gallery/readme.txt, query/readme.txt, train/\\nold, ...)'
        )
    assert len(reads) == 1 and len(list(cache.iterdir())) == 1


def test_mars_has_no_index_and_a_csv_has_one_if_its_frames_lie_below_it(copy, cache, tmp_path):
    build('mars', copy('mars', 'mars_data'))
    assert not cache.exists()
    root = miniatures.make_tracklets_csv(tmp_path / 'csv')
    before = build('tracklets', root)
    assert len(list(cache.iterdir())) == 1 and build('tracklets', root) == before
    frame = before[1][0][0][0]
    elsewhere = tmp_path / 'elsewhere'
    elsewhere.mkdir()
    miniatures.write_csv(elsewhere / 'tracklets.csv', [('query', 'a', 'b', 'c', frame)])
    lists = [
        Tracklets(root=str(elsewhere), mode='query', transform=len, verbose=False).query
        for _ in range(2)
        if not index_cache._PARSED.clear()
    ]
    assert lists == [[((frame,), 0, 0, 0)]] * 2 and len(list(cache.iterdir())) == 1


@pytest.mark.parametrize('value, used', [('1', False), ('0', True), ('', True)])
def test_it_can_be_switched_off(copy, cache, monkeypatch, value, used):
    monkeypatch.setenv(index_cache.NO_CACHE, value)
    build('tracklets', copy('tracklets'))
    assert cache.exists() == used


def test_places_that_cannot_hold_an_index(copy, tmp_path, monkeypatch):
    root = copy('tracklets')
    before = build('tracklets', root)
    (tmp_path / 'file').write_text('')
    everything = sorted(root.rglob('*'))
    for place in (tmp_path / 'file', '/proc/no', root / 'tracklets'):
        monkeypatch.setenv('XDG_CACHE_HOME', str(place))
        assert build('tracklets', root) == before
    assert sorted(root.rglob('*')) == everything  # not even when the user points there
    monkeypatch.setenv('XDG_CACHE_HOME', 'relative')  # to be ignored, says the specification
    monkeypatch.setenv('HOME', str(tmp_path / 'home'))
    build('tracklets', root)
    assert len(list((tmp_path / 'home/.cache/stmn_plugin').iterdir())) == 1
    assert not Path('relative').exists()


def test_names_that_are_no_utf8(copy, cache):
    root = copy('tracklets')
    frame = os.fsencode(root / 'tracklets/gallery/zoe/south/t1/1.jpg')
    os.rename(frame, frame.replace(b'1.jpg', b'J\xfcrgen.jpg'))
    before = build('tracklets', root)
    assert len(list(cache.iterdir())) == 1 and build('tracklets', root) == before


def save_often(root):
    folder = str(root / 'tracklets')
    lists, sources, _ = index_cache._parse(folder, read_own_tracklets, SPLITS, None)
    for _ in range(100):
        place = index_cache.index_path(('tracklets',), folder)
        index_cache.save_index(place, folder, lists, sources)


@pytest.mark.slow
def test_processes_that_write_at_once_never_show_half_an_index(copy, cache, reads):
    root = copy('tracklets')
    before = build('tracklets', root)
    context = multiprocessing.get_context('fork')
    processes = [context.Process(target=save_often, args=(root,)) for _ in range(2)]
    for process in processes:
        process.start()
    while any(process.is_alive() for process in processes):
        assert build('tracklets', root) == before
    assert [process.exitcode for process in processes] == [0, 0]
    assert len(reads) == 1 and len(list(cache.iterdir())) == 1


def test_a_pipe_in_the_place_of_the_index_is_not_waited_for(copy, cache, reads):
    root = copy('tracklets')
    before = build('tracklets', root)
    [index] = cache.iterdir()
    index.unlink()
    os.mkfifo(index)
    index_cache._PARSED.clear()
    assert build('tracklets', root) == before and len(reads) == 2
