"""LS-VID, against lists computed from the miniature's table."""

import os
import pickle
import shutil
from pathlib import Path

import h5py
import miniatures
import numpy as np
import pytest
import scipy.io

from stmn_plugin.datasets.lsvid import LSVID
from stmn_plugin.errors import InputError


def no_transform(image):
    return image


def build(root, **kwargs):
    return LSVID(root=str(root), transform=no_transform, verbose=False, **kwargs)


@pytest.fixture(scope='module')
def lsvid_root(tmp_path_factory):
    return miniatures.make_lsvid(tmp_path_factory.mktemp('lsvid'))


@pytest.fixture
def lsvid_copy(lsvid_root, tmp_path):
    shutil.copytree(lsvid_root, tmp_path, dirs_exist_ok=True)
    return tmp_path


def expected(root, split):
    tracklets = []
    for pid, sequence, camera, frames in miniatures.LSVID_SPLITS[split]:
        prefix = Path(root) / 'LS-VID' / miniatures.lsvid_prefix(split, pid, sequence, camera)
        tracklets.append((tuple(f'{prefix}_{frame}.jpg' for frame in frames), pid, camera - 1, 0))
    return tracklets


def test_lists_are_those_of_the_table(lsvid_root):
    dataset = build(lsvid_root)
    test = expected(lsvid_root, 'test')
    assert dataset.train == expected(lsvid_root, 'train')  # its ids are 0..n-1 already
    assert dataset.query == [test[row - 1] for row in miniatures.LSVID_QUERY_ROWS]
    rows = [row for row in range(1, 15) if row not in miniatures.LSVID_QUERY_ROWS]
    assert dataset.gallery == [test[row - 1] for row in rows]
    assert dataset.gallery_needs_queries
    for paths, pid, camid, _ in dataset.train + dataset.query + dataset.gallery:
        assert type(paths) is tuple and type(pid) is int and type(camid) is int
        assert all(os.path.isfile(path) for path in paths)


def test_edge_cases_are_in_the_miniature(lsvid_root):
    dataset = build(lsvid_root)
    assert [pid for _, pid, _, _ in dataset.query] == [5, 0, 1, 3, 2, 4]
    assert {camid for _, pid, camid, _ in dataset.query + dataset.gallery if pid == 3} == {6}
    names = [[os.path.basename(path) for path in t[0]] for t in dataset.query + dataset.gallery]
    assert names[2] == [f'0001_01_12_{i:04d}.jpg' for i in range(1, 8)]
    assert [f'0001_01_1_{i:04d}.jpg' for i in range(1, 6)] in names  # and nothing of 0001_01_12
    assert names[4] == ['0002_01_3_a1.jpg', '0002_01_3_a2.jpg', '0002_01_3_a10.jpg']
    assert [f'0002_03_15_{i}.jpg' for i in (8, 9, 10, 11, 100)] in names
    data = lsvid_root / 'LS-VID/test/data'
    with h5py.File(data / 'info_test.mat') as file:
        assert file['info_test'].shape == (4, 14) and file['info_test'].dtype == np.float64
    assert scipy.io.loadmat(data / 'info_val.mat')['info_test'].shape == (5, 4)


def test_split_id_1_searches_the_val_split(lsvid_root):
    dataset = build(lsvid_root, split_id=1, mode='query')
    val = expected(lsvid_root, 'val')
    assert dataset.query == dataset.data == [val[3], val[0]]
    assert dataset.gallery == [val[1], val[2], val[4]]
    assert dataset.train == []
    assert build(lsvid_root, split_id=1).train == expected(lsvid_root, 'train')
    with pytest.raises(InputError, match='data.split_id: got 2'):
        build(lsvid_root, split_id=2)


def test_rearranged_copy_gives_the_same(lsvid_root, tmp_path):
    miniatures.make_lsvid(tmp_path, rearranged=True)
    for split_id in (0, 1):
        one, other = build(lsvid_root, split_id=split_id), build(tmp_path, split_id=split_id)
        for mode in ('train', 'query', 'gallery'):
            assert [t[1:] for t in getattr(one, mode)] == [t[1:] for t in getattr(other, mode)]
        assert other.query[0][0][0].startswith(str(tmp_path / 'LS-VID' / 'tracklet_'))


def test_train_labels_follow_the_sorted_ids(lsvid_copy):
    path = lsvid_copy / 'LS-VID/list_sequence/list_seq_train.txt'
    lines = path.read_text().splitlines()
    path.write_text('\n'.join(line for line in reversed(lines) if line.split()[1] not in '03'))
    pids = [pid for _, pid, _, _ in build(lsvid_copy).train]
    assert pids == sorted(pids, reverse=True) and set(pids) == set(range(7))


def test_combineall_counts_people_who_are_only_queries(lsvid_root):
    dataset = build(lsvid_root, combineall=True)
    assert len(dataset) == 22 + 14 and dataset.num_train_pids == 9 + 6
    added = [(t[1], t[0][0].split('/')[-2]) for t in dataset.data[22:]]
    assert {(9 + pid, f'{pid:04d}') for pid in range(6)} == set(added)


def test_pickles_and_is_parsed_once_until_something_changes(lsvid_copy):
    first, second = build(lsvid_copy), build(lsvid_copy, mode='gallery')
    assert first.gallery[0] is second.gallery[0]
    assert pickle.loads(pickle.dumps(second)).data == first.gallery
    extra = lsvid_copy / 'LS-VID/tracklet_train/0000/0000_01_15_0099.jpg'
    shutil.copy(first.train[0][0][0], extra)
    assert build(lsvid_copy).train[0][0] == (*first.train[0][0], str(extra))


def edit_list(line, replacement):
    def damage(folder):
        path = folder / 'list_sequence' / 'list_seq_test.txt'
        lines = path.read_text().splitlines()
        lines[line - 1 : line] = replacement
        path.write_text('\n'.join(lines))

    return damage


def edit_table(row, column, value):
    def damage(folder):
        table = miniatures.lsvid_table(miniatures.LSVID_TEST).astype(float)
        table[row - 1, column] = value
        path = folder / 'test/data/info_test.mat'
        miniatures.write_lsvid_test(path, table, miniatures.LSVID_QUERY_ROWS)

    return damage


def edit_query(*rows):
    table = miniatures.lsvid_table(miniatures.LSVID_TEST)
    return lambda folder: miniatures.write_lsvid_test(
        folder / 'test/data/info_test.mat', table, rows
    )


def rename(old, new):
    return lambda folder: (folder / old).rename(folder / new)


def truncate(folder):
    path = folder / 'test/data/info_test.mat'
    path.write_bytes(path.read_bytes()[:900])


FRAME = 'tracklet_test/0003/0003_02_7_0002.jpg'
DAMAGE = {
    'no list': (
        lambda folder: shutil.rmtree(folder / 'list_sequence'),
        ['/info/list_sequence/list_seq_train.txt', 'not found', 'release agreement'],
    ),
    'no table': (
        lambda folder: shutil.rmtree(folder / 'test'),
        ['/test/data/info_test.mat', 'not found'],
    ),
    'truncated table': (truncate, ['info_test.mat', 'no readable MATLAB file']),
    'line missing': (
        edit_list(14, []),
        ['info_test.mat: 14 rows, but', 'list_seq_test.txt has 13 lines'],
    ),
    'line without pid': (
        edit_list(3, ['tracklet_test/0000/0000_02_10']),
        ['list_seq_test.txt:3: expected "<path prefix> <pid>"'],
    ),
    'a pid of 5,000 digits': (
        edit_list(3, [f'tracklet_test/0000/0000_02_10 {"7" * 5000}']),
        ['list_seq_test.txt:3: expected "<path prefix> <pid>"'],
    ),
    'a pid beyond 32 bits': (
        edit_list(3, ['tracklet_test/0000/0000_02_10 99999999999']),
        ['list_seq_test.txt:3: expected "<path prefix> <pid>"'],
    ),
    'a line twice': (
        edit_list(4, ['tracklet_test/0000/0000_02_10 5']),
        ['list_seq_test.txt:4: the tracklet of line 3, too'],
    ),
    'a NUL': (
        edit_list(3, ['tracklet_test/0000/0000\0_02_10 0']),
        ['list_seq_test.txt: holds NUL characters'],
    ),
    'UTF-16': (
        lambda folder: (folder / 'list_sequence/list_seq_test.txt').write_text('a 1', 'utf-16'),
        ['list_seq_test.txt: cannot be read (no text in UTF-8)'],
    ),
    'a pipe for a list': (
        lambda folder: (
            (folder / 'list_sequence/list_seq_test.txt').unlink(),
            os.mkfifo(folder / 'list_sequence/list_seq_test.txt'),
        ),
        ['list_seq_test.txt: cannot be read (is a pipe, no regular file)'],
    ),
    'not a number': (edit_table(4, 2, np.nan), ['info_test.mat: info_test holds nan']),
    'query twice': (edit_query(1, 5, 1), ['info_test.mat: query names row 1 twice']),
    'line without frames': (
        edit_list(3, ['tracklet_test/0000/0000_03_10 0']),
        ['list_seq_test.txt:3: no image', 'tracklet_test/0000/0000_03_10_*'],
    ),
    'folder missing': (
        rename('tracklet_test/0004', 'tracklet_test/4'),
        ['list_seq_test.txt:10: no image', 'tracklet_test/0004/0004_01_11_*'],
    ),
    'empty list': (
        lambda folder: (folder / 'list_sequence/list_seq_train.txt').write_text('\n'),
        ['list_seq_train.txt: lists no tracklet'],
    ),
    'pid': (edit_table(4, 2, 7), ['info_test.mat: row 4 gives pid 7', 'list_seq_test.txt 1 ']),
    'camera': (edit_table(5, 3, 2), ['row 5 gives camera 2', '12 (', '0001_01_12_0001.jpg']),
    'length': (
        edit_table(1, 1, 5),
        ['row 1 gives number of frames 5', '6 (', 'tracklet_test/0000/0000_01_13_0001.jpg'],
    ),
    'frame lost': (
        lambda folder: (folder / FRAME).unlink(),
        ['info_test.mat: row 9 gives number of frames 3', '2 ('],
    ),
    'query beyond': (edit_query(1, 15), ['info_test.mat: query names row 15', 'rows 1 to 14']),
    'two cameras': (
        rename(FRAME, 'tracklet_test/0004/0004_01_11_x.jpg'),
        ['row 9 gives number of frames 3'],
    ),
    'three fields': (
        rename('tracklet_test/0005/0005_01_14_0001.jpg', 'tracklet_test/0005/0005_01_14.jpg'),
        ['row 12 gives number of frames 2'],
    ),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize('case', DAMAGE)
def test_refuses(lsvid_copy, case):
    damage, phrases = DAMAGE[case]
    build(lsvid_copy)  # a parsed dataset must not hide later damage
    damage(lsvid_copy / 'LS-VID')
    with pytest.raises(InputError) as caught:
        build(lsvid_copy)
    message = str(caught.value)
    assert '\n' not in message and str(lsvid_copy / 'LS-VID') in message
    assert [phrase for phrase in phrases if phrase not in message] == []


@pytest.mark.parametrize(
    'name',
    ['9_1_x_0001.jpg', '9_1_7.jpg', '9_1_0_0001.jpg', f'9_1_{"7" * 200}_1.jpg', '9_1_²_1.jpg',
     '9_1_\u0663_0001.jpg'],
)  # fmt: skip
def test_refuses_names_without_a_camera(lsvid_copy, name):
    folder = lsvid_copy / 'LS-VID/tracklet_train/0009'
    folder.mkdir()
    (folder / name).touch()
    with open(lsvid_copy / 'LS-VID/list_sequence/list_seq_train.txt', 'a') as file:
        file.write('tracklet_train/0009/9_1 9\n')
    with pytest.raises(InputError, match=f'{folder}/{name}: a name has four fields'):
        build(lsvid_copy)
    (folder / name).rename(folder / '9_1_3_0001.jpg')
    (folder / '9_1_5_0002.jpg').touch()
    with pytest.raises(InputError, match=r'several cameras \[3, 5\]'):
        build(lsvid_copy)


def test_missing_folder(tmp_path):
    with pytest.raises(InputError, match=f'{tmp_path}/LS-VID: not found; the authors'):
        build(tmp_path)
    assert list(tmp_path.iterdir()) == []
