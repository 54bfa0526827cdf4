"""The repaired loaders of the host's datasets, against lists made from the miniatures' tables."""

import os
import pickle
import shutil
import time
import warnings
from pathlib import Path

import miniatures
import numpy as np
import pytest
import scipy.io
import torchreid

from stmn_plugin.datasets.host_datasets import (
    PRID2011,
    DukeMTMCVidReID,
    Mars,
    iLIDSVID,
    read_duke,
    read_mars_tracklets,
)
from stmn_plugin.errors import InputError

HOST = torchreid.data.datasets.video


def no_transform(image):
    return image


def build(dataset, root, **kwargs):
    return dataset(root=str(root), transform=no_transform, verbose=False, **kwargs)


def message_of(dataset, root, **kwargs):
    """The one-line complaint of a dataset that cannot be loaded."""
    with pytest.raises(InputError) as caught:
        build(dataset, root, **kwargs)
    message = str(caught.value)
    assert '\n' not in message
    return message


@pytest.fixture(scope='module')
def mars_root(tmp_path_factory):
    return miniatures.make_mars(tmp_path_factory.mktemp('mars'))


@pytest.fixture(scope='module')
def duke_root(tmp_path_factory):
    return miniatures.make_dukev(tmp_path_factory.mktemp('duke'))


@pytest.fixture
def mars_copy(mars_root, tmp_path):
    """A MARS whose info files may be damaged; the frames are shared."""
    folder = tmp_path / 'mars'
    folder.mkdir()
    shutil.copytree(mars_root / 'mars' / 'info', folder / 'info')
    for name in ('bbox_train', 'bbox_test'):
        (folder / name).symlink_to(mars_root / 'mars' / name)
    return tmp_path


def expected_mars(root, split, row):
    pid, camera, number, first, length = row
    folder = Path(root) / 'mars' / f'bbox_{split}'
    names = [miniatures.mars_name(pid, camera, number, first + i) for i in range(length)]
    return tuple(str(folder / name[:4] / name) for name in names), pid, camera - 1, 0


def plain(tracklets):
    """Equal and of the types that pickle small and collate as int64."""
    for paths, pid, camid, dsetid in tracklets:
        assert type(paths) is tuple and {type(path) for path in paths} == {str}
        assert {type(pid), type(camid), type(dsetid)} == {int}
    return tracklets


def test_mars_lists_are_those_of_the_table(mars_root):
    dataset = build(Mars, mars_root)
    train = [expected_mars(mars_root, 'train', row) for row in miniatures.MARS_TRAIN]
    assert plain(dataset.train) == [
        (paths, miniatures.MARS_TRAIN_PIDS.index(pid), camid, 0) for paths, pid, camid, _ in train
    ]
    test = [expected_mars(mars_root, 'test', row) for row in miniatures.MARS_TEST]
    queries = [row - 1 for row in miniatures.MARS_QUERY_ROWS]
    assert plain(dataset.query) == [test[row] for row in queries]
    assert plain(dataset.gallery) == [
        item for row, item in enumerate(test) if row not in queries and item[1] != -1
    ]
    for items in (dataset.train, dataset.query, dataset.gallery):
        assert all(os.path.isfile(path) for paths, *_ in items for path in paths)


def test_mars_miniature_has_the_edge_cases(mars_root):
    dataset = build(Mars, mars_root)
    assert {0} == {p for _, p, _, _ in dataset.gallery} - {p for _, p, _, _ in dataset.query} - {10}
    assert {1, 2, 3, 4, 5, 7} <= {len(paths) for paths, *_ in dataset.train}
    assert os.path.basename(dataset.query[3][0][0]) == '0006C2T0001F013.jpg'
    alone = [pid for _, pid, _, _ in dataset.query if pid == 4]
    assert len(alone) == 2 and 4 not in {pid for _, pid, _, _ in dataset.gallery}
    assert {camid for _, pid, camid, _ in dataset.train if pid == 3} == {1}
    assert b'\r\n' in (mars_root / 'mars/info/test_name.txt').read_bytes()
    assert (mars_root / 'mars/bbox_test/00-1').is_dir()
    query = scipy.io.loadmat(mars_root / 'mars/info/query_IDX.mat')['query_IDX']
    assert query.dtype == np.uint16 and query.shape == (1, len(dataset.query))


def test_mars_equals_the_hosts_where_the_host_works(mars_root):
    ours, host = build(Mars, mars_root), build(HOST.Mars, mars_root)
    assert isinstance(ours, HOST.Mars)
    assert ours.query == host.query and ours.gallery == host.gallery
    assert [(p, c) for p, _, c, _ in ours.train] == [(p, c) for p, _, c, _ in host.train]
    # the host numbers its people in the order of a set: the same people, other labels
    pairs = {(int(a[1]), int(b[1])) for a, b in zip(ours.train, host.train, strict=True)}
    assert len(pairs) == ours.num_train_pids == host.num_train_pids == 10


@pytest.mark.parametrize('dtype', [np.float64, np.int16, np.uint32])
def test_mars_takes_tables_of_any_number_type(mars_root, mars_copy, dtype):
    info = mars_copy / 'mars' / 'info'
    table = scipy.io.loadmat(info / 'tracks_train_info.mat')['track_train_info']
    miniatures.write_mars_table(mars_copy / 'mars', 'train', table.astype(dtype))
    query = np.array(miniatures.MARS_QUERY_ROWS).astype(dtype).reshape(-1, 1)
    miniatures.write_mars_query(mars_copy / 'mars', query)
    ours, reference = build(Mars, mars_copy), build(Mars, mars_root)
    assert [t[1:] for t in plain(ours.train)] == [t[1:] for t in reference.train]
    assert [t[1:] for t in plain(ours.query)] == [t[1:] for t in reference.query]


def test_mars_through_the_hosts_call_for_each_mode(mars_root):
    for mode, count in (('train', 29), ('query', 11), ('gallery', 19)):
        dataset = build(
            Mars,
            mars_root,
            mode=mode,
            combineall=False,
            split_id=0,
            seq_len=4,
            sample_method='evenly',
        )
        assert len(dataset) == count and dataset.seq_len == 4
        assert pickle.loads(pickle.dumps(dataset)).data == dataset.data


def test_mars_is_parsed_once_until_a_file_changes(mars_copy):
    first, second = build(Mars, mars_copy), build(Mars, mars_copy)
    assert first.train[0] is second.train[0] and first.train is not second.train
    miniatures.write_mars_query(mars_copy / 'mars', np.array([[6]], dtype=np.uint16))
    assert len(build(Mars, mars_copy).query) == 1


def change_table(split, row, column, value):
    def change(folder):
        name = f'track_{split}_info'
        table = scipy.io.loadmat(folder / 'info' / f'tracks_{split}_info.mat')[name]
        table[row, column] = value
        miniatures.write_mars_table(folder, split, table)

    return change


def drop_last_name(folder):
    path = folder / 'info' / 'test_name.txt'
    path.write_text('\n'.join(path.read_text().split()[:-1]))


def swap_names(folder):
    path = folder / 'info' / 'train_name.txt'
    names = path.read_text().split()
    path.write_text('\n'.join(names[:1] + names[-1:] + names[2:]))


def change_line(split, line, other):
    """Overwrite a line of the names by another of them, both from 1."""

    def change(folder):
        path = folder / 'info' / f'{split}_name.txt'
        names = path.read_text().split()
        names[line - 1] = names[other - 1]
        path.write_text('\n'.join(names))

    return change


def save_mat(name, **variables):
    return lambda folder: scipy.io.savemat(folder / 'info' / name, variables)


def truncate(name):
    def change(folder):
        data = (folder / 'info' / name).read_bytes()
        (folder / 'info' / name).write_bytes(data[: len(data) // 2])

    return change


def remove(*names):
    def change(folder):
        for name in names:
            path = folder / name
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()

    return change


TABLE = np.ones((3, 4), dtype=np.int32)
MARS_DAMAGE = {
    'no images': (remove('bbox_test'), 'bbox_test', 'not found'),
    'no list': (remove('info/train_name.txt'), 'info/train_name.txt', 'not found'),
    'no query file': (remove('info/query_IDX.mat'), 'info/query_IDX.mat', 'not found'),
    'truncated': (truncate('tracks_test_info.mat'), 'tracks_test_info.mat', 'no readable MATLAB'),
    'no variable': (
        save_mat('tracks_test_info.mat', tracks=TABLE),
        'tracks_test_info.mat',
        "no variable 'track_test_info'",
    ),
    'three columns': (
        save_mat('tracks_train_info.mat', track_train_info=TABLE[:, :3]),
        'tracks_train_info.mat',
        'shape (3, 3), expected (n, 4)',
    ),
    'fractions': (
        save_mat('tracks_train_info.mat', track_train_info=TABLE + 0.5),
        'tracks_train_info.mat',
        'holds 1.5 in row 1, column 1, expected whole numbers',
    ),
    'no row': (
        save_mat('tracks_train_info.mat', track_train_info=TABLE[:0]),
        'tracks_train_info.mat',
        'is empty',
    ),
    'query of text': (
        save_mat('query_IDX.mat', query_IDX=np.array(['abc'])),
        'query_IDX.mat',
        'query_IDX is no matrix of real numbers',
    ),
    'query beyond': (
        save_mat('query_IDX.mat', query_IDX=np.array([[6, 33]], dtype=np.uint16)),
        'query_IDX.mat',
        'names row 33, the test tracklets are rows 1 to 32',
    ),
    'query 0-based': (
        save_mat('query_IDX.mat', query_IDX=np.array([[0, 1]], dtype=np.uint16)),
        'query_IDX.mat',
        'names row 0,',
    ),
    'junk query': (
        save_mat('query_IDX.mat', query_IDX=np.array([[2]], dtype=np.uint16)),
        'query_IDX.mat',
        'row 2, a junk tracklet',
    ),
    'query twice': (
        save_mat('query_IDX.mat', query_IDX=np.array([[6, 9, 6]], dtype=np.uint16)),
        'query_IDX.mat',
        'names row 6 twice',
    ),
    'overlap': (
        change_table('train', 4, 0, 14),
        'tracks_train_info.mat',
        'row 5 of track_train_info',
    ),
    'no name': (change_table('train', 4, 2, -2), 'tracks_train_info.mat', 'holds -2 in row 5'),
    'list too short': (drop_last_name, 'tracks_test_info.mat', 'outside the'),
    'list shuffled': (swap_names, 'tracks_train_info.mat', "line 2 of"),
    'frame twice': (
        change_line('test', 34, 33),
        'tracks_test_info.mat',
        "test_name.txt are the same frame, '",
    ),
    'frame of two rows': (
        change_line('test', 21, 14),
        'row 7 of track_test_info',
        'lines 14 and 21 of',
    ),
    'start after end': (
        change_table('train', 3, 0, 500),
        'tracks_train_info.mat',
        'row 4 of track_train_info',
    ),
    'wrong pid': (change_table('test', 7, 2, 4), 'test_name.txt', "expected '0004C5'..."),
    'wrong camera': (change_table('test', 7, 3, 2), 'test_name.txt', "expected '0002C2'..."),
    'camera 0': (change_table('test', 7, 3, 0), 'tracks_test_info.mat', 'counted from 1'),
}  # fmt: skip


@pytest.mark.parametrize('case', MARS_DAMAGE)
def test_mars_refuses(mars_copy, case):
    damage, file, phrase = MARS_DAMAGE[case]
    build(Mars, mars_copy)  # a parsed dataset must not hide later damage
    damage(mars_copy / 'mars')
    message = message_of(Mars, mars_copy)
    assert str(mars_copy / 'mars') in message and file in message and phrase in message


def test_missing_folders_are_named_and_nothing_is_made(tmp_path):
    for dataset, name, advice in (
        (Mars, 'mars', 'place MARS there'),
        (DukeMTMCVidReID, 'dukemtmc-vidreid/DukeMTMC-VideoReID', 'no download is offered'),
        (iLIDSVID, 'ilids-vid', 'unpack'),
        (PRID2011, 'prid2011', 'unpack'),
    ):
        message = message_of(dataset, tmp_path)
        assert str(tmp_path / name) in message and advice in message
    assert list(tmp_path.iterdir()) == []


def test_mars_frames_that_do_not_ascend_are_named_and_kept(mars_copy, recwarn):
    listed = build(Mars, mars_copy)
    assert not [w for w in recwarn if 'ascend' in str(w.message)]
    path = mars_copy / 'mars' / 'info' / 'test_name.txt'
    names = path.read_text().split()
    places = [names.index(miniatures.mars_name(6, 2, 1, frame)) for frame in (13, 15)]
    names[places[0]], names[places[1]] = names[places[1]], names[places[0]]
    path.write_text('\n'.join(names))
    with pytest.warns(
        UserWarning, match='frames of 1 rows of track_test_info do not ascend'
    ) as all_:
        changed = build(Mars, mars_copy)
    [message] = [str(w.message) for w in all_ if 'ascend' in str(w.message)]
    row = 1 + [row[:4] for row in miniatures.MARS_TEST].index((6, 2, 1, 13))
    assert f'row {row}, line {places[0] + 2}' in message
    differing = [
        (one[0], other[0])
        for one, other in zip(listed.query, changed.query, strict=True)
        if one != other
    ]
    [(before, after)] = differing
    assert after == (before[2], before[1], before[0], *before[3:])


def test_mars_frames_beyond_999_ascend(tmp_path, recwarn):
    names = [miniatures.mars_name(1, 1, 1, frame) for frame in range(998, 1003)]
    (tmp_path / 'names.txt').write_text('\n'.join(names))
    scipy.io.savemat(tmp_path / 'table.mat', {'t': np.array([[1, 5, 1, 1]], dtype=np.int32)})
    [(paths, *_)] = read_mars_tracklets(
        str(tmp_path), str(tmp_path / 'names.txt'), str(tmp_path / 'table.mat'), 't'
    )
    assert [Path(path).name for path in paths] == names and not recwarn


@pytest.mark.slow
def test_mars_of_full_size_in_a_fraction_of_the_hosts_time(tmp_path):
    """8,298 tracklets of 60 frames; the bound is ten times what it takes here."""
    folder = tmp_path / 'mars'
    (folder / 'bbox_train').mkdir(parents=True)
    (folder / 'bbox_test').mkdir()
    (folder / 'info').mkdir()
    count, length = 8298, 60
    row = np.arange(count)
    pid, camera = 1 + row // 14, 1 + row % 6
    table = np.stack([row * length + 1, (row + 1) * length, pid, camera], axis=1)
    frames = [f'F{i:03d}.jpg\r\n' for i in range(1, length + 1)]
    heads = [f'{p:04d}C{c}T{i:04d}' for i, (p, c) in enumerate(zip(pid, camera, strict=True))]
    text = ''.join([head + frame for head in heads for frame in frames])
    for split in ('train', 'test'):
        (folder / 'info' / f'{split}_name.txt').write_text(text, newline='')
        miniatures.write_mars_table(folder, split, table)
    miniatures.write_mars_query(folder, np.arange(1, 1981, dtype=np.uint16)[None])
    begin = time.process_time()
    dataset = build(Mars, tmp_path)
    assert time.process_time() - begin < 6
    assert (len(dataset.train), len(dataset.query), len(dataset.gallery)) == (count, 1980, 6318)
    assert dataset.train[-1][0][-1] == str(folder / 'bbox_train/0593/0593C6T8297F060.jpg')
    begin = time.process_time()
    build(Mars, tmp_path, mode='gallery')
    assert time.process_time() - begin < 0.5


# --- DukeMTMC-VideoReID --------------------------------------------------------------------------
def expected_duke(root, split, rows, labels=None):
    folder = Path(root) / 'dukemtmc-vidreid' / 'DukeMTMC-VideoReID' / split
    tracklets = []
    for pid, tracklet, camera, frames, old in sorted(rows):
        place = folder / f'{pid:04d}' / f'{tracklet:04d}'
        names = [miniatures.duke_name(pid, camera, frame, old) for frame in sorted(frames)]
        label = labels.index(pid) if labels else pid
        tracklets.append((tuple(str(place / name) for name in names), label, camera - 1, 0))
    return tracklets


def test_duke_has_every_frame_in_order(duke_root):
    dataset = build(DukeMTMCVidReID, duke_root)
    assert isinstance(dataset, HOST.DukeMTMCVidReID)
    gallery = miniatures.DUKE_QUERY + miniatures.DUKE_GALLERY_ONLY
    labels = miniatures.DUKE_TRAIN_PIDS
    assert plain(dataset.train) == expected_duke(duke_root, 'train', miniatures.DUKE_TRAIN, labels)
    assert plain(dataset.query) == expected_duke(duke_root, 'query', miniatures.DUKE_QUERY)
    assert plain(dataset.gallery) == expected_duke(duke_root, 'gallery', gallery)
    assert pickle.loads(pickle.dumps(dataset)).train == dataset.train


def test_duke_frames_that_the_host_loses(duke_root, tmp_path):
    dataset = build(DukeMTMCVidReID, duke_root)
    names = [[os.path.basename(path) for path in paths] for paths, *_ in dataset.train[:6]]
    assert [len(n) for n in names] == [7, 4, 5, 1, 3, 4]
    assert names[2] == [
        '0005_C1_F0001_X30008.jpg',
        '0005_C1_F0002_X30016.jpg',
        '0005_C1_F0004_X30032.jpg',
        '0005_C1_F0005_X30040.jpg',
        '0005_C1_F0009_X30072.jpg',
    ]
    assert names[3] == ['0005_C2_F0002_X30016.jpg']
    assert names[5] == [f'0008C5F{f:04d}X{30000 + 8 * f}.jpg' for f in (9, 10, 11, 100)]
    # the host fails on tracklets without F0001...Fn, and loses frames of others without an error
    train = 'dukemtmc-vidreid/DukeMTMC-VideoReID/train'
    root = tmp_path / 'copy'
    shutil.copytree(duke_root, root)
    for extra in (root / 'dukemtmc-vidreid/DukeMTMC-VideoReID').glob('*/readme.txt'):
        extra.unlink()
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        with pytest.raises(IndexError):
            build(HOST.DukeMTMCVidReID, root)
        shutil.rmtree(root / train / '0005/0002')
        shutil.rmtree(root / train / '0008/0002')
        host = build(HOST.DukeMTMCVidReID, root)
    lengths = {paths[0].split('/train/')[1][:9]: len(paths) for paths, *_ in host.train}
    assert (lengths['0002/0001'], lengths['0002/0002'], lengths['0005/0001']) == (7, 3, 4)


def test_duke_reads_and_writes_no_cache(duke_root, tmp_path):
    root = tmp_path / 'moved'
    shutil.copytree(duke_root, root)
    cache = root / 'dukemtmc-vidreid' / 'split_train.json'
    cache.write_text('{"tracklets": [[["/old/place.jpg"], 0, 0]]}')
    before = sorted(path for path in root.rglob('*'))
    dataset = build(DukeMTMCVidReID, root)
    assert dataset.train == expected_duke(
        root, 'train', miniatures.DUKE_TRAIN, miniatures.DUKE_TRAIN_PIDS
    )
    assert sorted(path for path in root.rglob('*')) == before


def test_duke_directly_below_the_root_and_short_tracklets_left_out(duke_root, tmp_path):
    (tmp_path / 'DukeMTMC-VideoReID').symlink_to(duke_root / 'dukemtmc-vidreid/DukeMTMC-VideoReID')
    dataset = build(DukeMTMCVidReID, tmp_path)
    assert len(dataset.train) == len(miniatures.DUKE_TRAIN)
    dataset = build(DukeMTMCVidReID, tmp_path, min_seq_len=4)
    assert all(len(paths) >= 4 for paths, *_ in dataset.train + dataset.gallery)
    assert {pid for _, pid, _, _ in dataset.train} == set(range(dataset.num_train_pids))


def test_duke_counts_no_frame_twice_and_merges_no_persons(duke_root, tmp_path):
    shutil.copytree(duke_root, tmp_path / 'data')
    person = tmp_path / 'data/dukemtmc-vidreid/DukeMTMC-VideoReID/gallery/0001'
    frame = next(person.glob('*/0001_C*'))  # in both ways of naming
    twin = frame.with_name(frame.name.replace('_', ''))
    shutil.copy(frame, twin)
    with pytest.raises(InputError) as caught:
        read_duke(str(person.parent.parent))
    for part in (f'{frame.parent}: ', frame.name, twin.name, 'one frame in two files'):
        assert part in str(caught.value)
    twin.unlink()
    shutil.copytree(person, person.with_name('1'))
    with pytest.raises(InputError, match='the person of .*gallery/(1|0001), too'):
        read_duke(str(person.parent.parent))


def test_duke_refuses_naming_the_folder(duke_root, tmp_path, messages):
    shutil.copytree(duke_root, tmp_path, dirs_exist_ok=True)
    folder = tmp_path / 'dukemtmc-vidreid' / 'DukeMTMC-VideoReID'
    build(DukeMTMCVidReID, tmp_path)

    frame = next((folder / 'train/0002/0002').glob('*F0003*'))
    other = frame.with_name(frame.name.replace('_C3_', '_C4_'))
    frame.rename(other)
    message = message_of(DukeMTMCVidReID, tmp_path)
    assert str(folder / 'train/0002/0002') in message and 'cameras [3, 4]' in message
    other.rename(frame.with_name('0002_frame3.jpg'))
    assert '0002/0002/0002_frame3.jpg' in message_of(DukeMTMCVidReID, tmp_path)
    shutil.rmtree(folder / 'train/0002/0002')

    (folder / 'train/0002/0003').mkdir()
    assert f'{folder}/train/0002/0003: empty tracklet' in message_of(DukeMTMCVidReID, tmp_path)
    (folder / 'train/0002/0003').rmdir()

    (folder / 'train/0003').mkdir()
    assert f'{folder}/train/0003: holds no tracklet' in message_of(DukeMTMCVidReID, tmp_path)
    (folder / 'train/0003').rmdir()

    (folder / 'train/backup').mkdir()
    messages()
    build(DukeMTMCVidReID, tmp_path)
    assert '3 .txt, 1 folder (' in messages()
    shutil.rmtree(folder / 'query')
    assert f'{folder}/query: not found' in message_of(DukeMTMCVidReID, tmp_path)


# --- the two small ones --------------------------------------------------------------------------
def two_camera_paths(folder, person, name):
    return tuple(str(folder / person / name.format(frame)) for frame in (1, 2, 3, 10))


@pytest.mark.parametrize('loader', [iLIDSVID, PRID2011])
def test_two_cameras_name_what_they_leave_out_once(loader, tmp_path, messages):
    make = miniatures.make_ilids if loader is iLIDSVID else miniatures.make_prid
    make(tmp_path)
    tracklet = min(tmp_path.rglob('*.png')).parent
    for name in ('frame.heic', '.DS_Store'):
        (tracklet / name).touch()
    for mode in ('train', 'query', 'gallery'):
        folder = build(loader, tmp_path, mode=mode).dataset_dir
    [line] = [line for line in messages().splitlines() if 'left out' in line]
    path = (tracklet / 'frame.heic').relative_to(folder)
    assert line == f'{folder}: left out, in no tracklet: 1 .heic ({path})'


@pytest.mark.parametrize('damage', [os.mkfifo, os.mkdir, lambda path: os.symlink(path, path)])
def test_a_list_of_splits_that_is_no_file_is_refused(damage, tmp_path):
    miniatures.make_prid(tmp_path)
    path = tmp_path / 'prid2011/splits_prid2011.json'
    path.unlink()
    damage(path)
    assert str(path) in message_of(PRID2011, tmp_path)


def test_ilids_frames_are_sorted_and_no_split_file_is_written(tmp_path):
    miniatures.make_ilids(tmp_path)
    dataset = build(iLIDSVID, tmp_path)
    assert isinstance(dataset, HOST.iLIDSVID)
    two, ten, eleven, last = miniatures.TWO_CAMERA_PEOPLE  # 1-based row [4, 1, 3, 2], test first
    folder = tmp_path / 'ilids-vid' / 'i-LIDS-VID' / 'sequences'

    def paths(person, camera):
        return two_camera_paths(
            folder / f'cam{camera}', person, f'cam{camera}_{person}_{{:05d}}.png'
        )

    assert plain(dataset.train) == [
        (paths(ten, 1), 0, 0, 0),
        (paths(ten, 2), 0, 1, 0),
        (paths(eleven, 1), 1, 0, 0),
        (paths(eleven, 2), 1, 1, 0),
    ]
    assert dataset.query == [(paths(two, 1), 0, 0, 0), (paths(last, 1), 1, 0, 0)]
    assert dataset.gallery == [(paths(two, 2), 0, 1, 0), (paths(last, 2), 1, 1, 0)]
    assert not (tmp_path / 'ilids-vid' / 'splits.json').exists()

    assert 'splits 0 to 9, data.split_id asks for 10' in message_of(iLIDSVID, tmp_path, split_id=10)
    for frame in (folder / 'cam2' / eleven).iterdir():
        frame.unlink()
    assert str(folder / 'cam2' / eleven) in message_of(iLIDSVID, tmp_path)


def test_prid_frames_are_sorted(tmp_path):
    miniatures.make_prid(tmp_path)
    dataset = build(PRID2011, tmp_path)
    assert isinstance(dataset, HOST.PRID2011)
    two, ten, eleven, last = miniatures.TWO_CAMERA_PEOPLE
    folder = tmp_path / 'prid2011' / 'prid_2011' / 'multi_shot'

    def paths(person, camera):
        return two_camera_paths(folder / camera, person, '{:04d}.png')

    assert plain(dataset.train) == [
        (paths(two, 'cam_a'), 0, 0, 0),
        (paths(two, 'cam_b'), 0, 1, 0),
        (paths(ten, 'cam_a'), 1, 0, 0),
        (paths(ten, 'cam_b'), 1, 1, 0),
    ]
    assert dataset.query == [(paths(eleven, 'cam_a'), 0, 0, 0), (paths(last, 'cam_a'), 1, 0, 0)]
    assert build(PRID2011, tmp_path, split_id=1).query[0][0] == paths(two, 'cam_a')

    splits = tmp_path / 'prid2011' / 'splits_prid2011.json'
    assert f'{splits}: has splits 0 to 1' in message_of(PRID2011, tmp_path, split_id=2)
    splits.write_text('{"train": []}')
    assert str(splits) in message_of(PRID2011, tmp_path)
    splits.write_text('[{"train"')
    assert str(splits) in message_of(PRID2011, tmp_path)


SPLITS = {
    'no list': ('{"train": [], "test": []}', 'is no list of splits'),
    'a number': ('7', 'is no list of splits'),
    'nested': ('[' * 100_000, 'cannot be read as JSON'),
    'a number of 5,000 digits': ('[' + '9' * 5000 + ']', 'cannot be read as JSON'),
    'NUL': ('\0', 'cannot be read as JSON'),
    'empty': ('', 'cannot be read as JSON'),
    'no split': ('[]', 'has splits 0 to -1'),
    'a split of numbers': ('[3]', 'train of split 0 is no list of names'),
    'no test': ('[{"train": ["person002"]}]', 'test of split 0 is no list of names'),
    'names in a text': ('[{"train": "abc", "test": []}]', 'train of split 0 is no list'),
    'numbers for names': ('[{"train": [2], "test": [10]}]', 'train of split 0 is no list'),
    'nobody': ('[{"train": ["person002"], "test": []}]', 'the test split has no people'),
    'twice': (
        '[{"train": ["person002"], "test": ["person010", "person010"]}]',
        'the split names person010 twice',
    ),
    'in both': (
        '[{"train": ["person002"], "test": ["person002"]}]',
        'the split names person002 twice',
    ),
    'unknown': ('[{"train": ["person002"], "test": ["x"]}]', '/x: cannot be listed'),
    'nameless': ('[{"train": ["person002"], "test": [""]}]', 'empty tracklet'),
}


@pytest.mark.parametrize('case', SPLITS)
def test_splits_that_are_none(case, tmp_path):
    text, phrase = SPLITS[case]
    miniatures.make_prid(tmp_path)
    splits = tmp_path / 'prid2011' / 'splits_prid2011.json'
    splits.write_text(text)
    message = message_of(PRID2011, tmp_path)
    assert phrase in message and str(tmp_path) in message


@pytest.mark.parametrize('split_id', [-1, 10, 1.0, '0', None])
@pytest.mark.parametrize('dataset', [iLIDSVID, PRID2011])
def test_split_ids_that_are_none(dataset, split_id, tmp_path):
    miniatures.make_prid(tmp_path)
    miniatures.make_ilids(tmp_path)
    assert f'data.split_id asks for {split_id}' in message_of(dataset, tmp_path, split_id=split_id)


# digits of other scripts are numbers to Python
@pytest.mark.parametrize('name', ['9' * 10, '9' * 200, '\u0662', '\uff12'])
def test_duke_numbers_that_no_batch_holds(duke_root, tmp_path, name, messages):
    root = shutil.copytree(duke_root, tmp_path / 'copy')
    folder = root / 'dukemtmc-vidreid/DukeMTMC-VideoReID/train'
    (folder / '0002').rename(folder / name)
    build(DukeMTMCVidReID, root)
    assert f'train/{name}' in messages()  # left out
    frame = folder / '0005/0002/0005_C2_F0002_X30016.jpg'
    frame.rename(frame.with_name(frame.name.replace('C2', f'C{name}')))
    assert f'C{name}_F0002_X30016.jpg: a frame is named like' in message_of(DukeMTMCVidReID, root)


def test_which_official_protocols_search_the_queries():
    flags = {
        c.__name__: c.gallery_needs_queries for c in (Mars, DukeMTMCVidReID, iLIDSVID, PRID2011)
    }
    assert flags == {'Mars': True, 'DukeMTMCVidReID': False, 'iLIDSVID': False, 'PRID2011': False}
