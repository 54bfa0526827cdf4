"""tools/check_data.py: nothing to say about the miniatures, every seeded defect found and named."""

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import miniatures
import numpy as np
import pytest
import scipy.io
from PIL import Image

from stmn_plugin.cli import check_data
from stmn_plugin.data import frames
from stmn_plugin.datasets import listing
from stmn_plugin.datasets.check import check_dataset

MAKERS = {
    'mars': miniatures.make_mars,
    'dukemtmcvidreid': miniatures.make_dukev,
    'lsvid': miniatures.make_lsvid,
    'tracklets': miniatures.make_tracklets,
}
FOLDERS = {
    'mars': 'mars',
    'dukemtmcvidreid': 'dukemtmc-vidreid/DukeMTMC-VideoReID',
    'lsvid': 'LS-VID',
    'tracklets': 'tracklets',
}
# (persons, tracklets) of the lists, counted in the tables of the miniatures
EXPECTED = {
    'mars': {
        'train': (10, len(miniatures.MARS_TRAIN)),
        'test': (len({row[0] for row in miniatures.MARS_TEST} - {-1, 0}), 32),
        'query': (9, len(miniatures.MARS_QUERY_ROWS)),
        'junk': (0, 2),
        'distractors': (0, 3),
    },
    'dukemtmcvidreid': {
        'train': (9, len(miniatures.DUKE_TRAIN)),
        'query': (5, 5),
        'gallery': (7, 13),
    },
    'lsvid': {
        'train': (9, len(miniatures.LSVID_TRAIN)),
        'test': (6, 14),
        'test query': (6, 6),
        'val': (2, 5),
        'val query': (2, 2),
        'all': (9 + 6 + 2, len(miniatures.LSVID_TRAIN) + 14 + 5),
    },
    'tracklets': {'train': (9, 27), 'query': (3, 3), 'gallery': (4, 6)},
}
LEFT_OUT = {'mars': {}, 'dukemtmcvidreid': {'.txt': 3}, 'lsvid': {}, 'tracklets': {'.txt': 36}}
# queries without a match: (official, torchreid)
UNMATCHED = {
    'mars': {'test': (0, 3)},  # of 6, and of 4 twice, everything else are queries
    'dukemtmcvidreid': {'test': (0, 0)},
    'lsvid': {'test': (1, 1), 'val': (0, 0)},
    'tracklets': {'test': (0, 0)},
}


@pytest.fixture
def check(tmp_path, capsys):
    """Run the tool on one dataset; returns exit code, report and what it printed."""

    def run(name, root, *options):
        output = tmp_path / 'report.json'
        words = ['--root', str(root), '-s', name, '--output', str(output), '--workers', '0']
        code = check_data.main([*words, *options])
        return code, json.loads(output.read_text()), capsys.readouterr().out

    return run


@pytest.fixture
def copy(miniature_roots, tmp_path):
    """A copy of a miniature that may be damaged: its root and its folder."""

    def make(name):
        root = tmp_path / 'data'
        shutil.copytree(miniature_roots[name], root)
        return root, root / FOLDERS[name]

    return make


def messages(report, label='errors'):
    return [complaint['message'] for complaint in report[label]]


@pytest.mark.slow
@pytest.mark.parametrize('name', MAKERS)
def test_a_miniature_is_right_and_counted(name, miniature_roots, check):
    code, report, printed = check(name, miniature_roots[name], '--workers', '1')
    assert code == 0 and report['errors'] == []
    found = {
        label: (numbers['persons']['found'], numbers['tracklets']['found'])
        for label, numbers in report['counts'].items()
    }
    assert found == EXPECTED[name]
    folder = Path(miniature_roots[name], FOLDERS[name])
    images = [path for path in folder.rglob('*') if path.suffix.lower() in listing.IMAGE_SUFFIXES]
    assert report['images_read'] == report['images_on_disk'] == len(images)
    assert report['sizes'] == {'64x32': len(images)}
    for split, expected in UNMATCHED[name].items():
        for protocol, number in zip(('official', 'torchreid'), expected, strict=True):
            numbers = report['queries_without_match'][f'{split}, {protocol} protocol']
            assert numbers['without_match'] == len(numbers['first_frames']) == number
    kinds = {complaint['kind'] for complaint in report['warnings']}
    assert kinds <= {'counts', 'gaps', 'queries', 'size', 'left out'}
    assert {kind: numbers['number'] for kind, numbers in report['left_out'].items()} == LEFT_OUT[
        name
    ]
    assert ('counts' in kinds) == (name != 'tracklets')
    count = len(report['warnings'])
    assert f'0 errors, {count} warning{"s" * (count != 1)}' in printed


def test_the_table_shows_the_statistics_of_the_release(mars_root, check):
    _, report, printed = check('mars', mars_root)
    assert report['counts']['test']['frames'] == {'found': 153, 'official': 681089}
    assert '153 / 681,089' in printed and '29 / 8,298' in printed
    assert 'train: 29 tracklets, the release has 8298' in messages(report, 'warnings')
    assert 'none of the 309 images is 256x128' in messages(report, 'warnings')


def seed_image_defects(folder):
    """Damage five files; returns path → what is said about it."""
    frames = sorted(
        path for path in folder.rglob('*') if path.suffix == '.jpg' and path.stat().st_size > 600
    )
    truncated, empty, text = frames[0], frames[40], frames[-1]
    truncated.write_bytes(truncated.read_bytes()[:-100])
    empty.write_bytes(b'')
    text.write_text('no image')
    return {
        str(truncated): 'truncated',
        str(empty): 'cannot identify',
        str(text): 'cannot identify',
    }


@pytest.mark.parametrize('workers', ['0', '2'])
@pytest.mark.parametrize('name', ['mars', 'tracklets'])
def test_every_bad_image_is_named(name, workers, copy, check):
    root, folder = copy(name)
    seeded = seed_image_defects(folder)
    code, report, printed = check(name, root, '--workers', workers)
    assert code == 1 and len(report['errors']) == len(seeded) == 3
    for path, reason in seeded.items():
        [message] = [message for message in messages(report) if path in message]
        assert reason in message and message in printed
    assert {complaint['kind'] for complaint in report['errors']} == {'image'}
    assert sum(report['sizes'].values()) == report['images_read'] - 3
    assert check(name, root, '--list-only')[0] == 0


def test_sizes_that_mars_does_not_have(copy, check):
    root, folder = copy('mars')
    frames = sorted((folder / 'bbox_test').rglob('*.jpg'))
    for frame in frames:
        Image.new('RGB', (128, 256)).save(frame)
    Image.new('RGB', (64, 128)).save(frames[7])
    code, report, _ = check('mars', root)
    assert code == 0
    assert f'{frames[7]}: 128x64, expected 256x128' in messages(report, 'warnings')
    assert report['sizes'] == {'64x32': 156, '256x128': 152, '128x64': 1}


def test_mars_missing_and_unlisted_frames(copy, check):
    root, folder = copy('mars')
    missing = folder / 'bbox_test/0006/0006C2T0001F014.jpg'
    missing.rename(missing.with_name('0006C2T0009F001.jpg'))
    shutil.rmtree(folder / 'bbox_train/0003')
    (folder / 'bbox_train/0007/0007C1T0009F001.jpg').mkdir()
    code, report, printed = check('mars', root)
    rows = [row for row in miniatures.MARS_TRAIN if row[0] == 3]
    assert code == 1 and len(report['errors']) == 2 + sum(length for *_, length in rows)
    assert f'{missing}: listed, but not there' in messages(report)
    assert f'{folder}/bbox_train/0003/0003C2T0001F001.jpg: listed, but not there' in printed
    assert f'{folder}/bbox_train/0007/0007C1T0009F001.jpg: a folder where' in printed
    assert f'{folder}/bbox_test/0006/0006C2T0009F001.jpg: in no tracklet' in messages(
        report, 'warnings'
    )


def test_mars_rows_that_disagree_with_the_names_are_all_named(copy, check):
    root, folder = copy('mars')
    names = []
    for pid, camera, number, first, length in miniatures.MARS_TEST:
        frames = range(first, first + length)
        names.append([miniatures.mars_name(pid, camera, number, frame) for frame in frames])
    ends = np.cumsum([len(some) for some in names])
    table = np.array(
        [
            (end - len(some) + 1, end, *row[:2])
            for end, some, row in zip(ends, names, miniatures.MARS_TEST, strict=True)
        ]
    )
    table[6, 2], table[10, 3], table[20, 0] = 4, 5, 999
    miniatures.write_mars_table(folder, 'test', table)
    code, report, _ = check('mars', root)
    assert code == 1
    for row, what in ((7, "expected '0004C1'"), (11, "expected '0006C5'"), (21, 'starts after')):
        [message] = [m for m in messages(report) if f'row {row} of track_test_info' in m]
        assert what in message
    assert len(report['errors']) == 3 and report['counts']['test']['tracklets']['found'] == 29
    miniatures.write_mars_query(folder, np.array([[1, 2, 12]], dtype=np.uint16))  # two are junk
    _, report, _ = check('mars', root, '--list-only')
    assert sum('a junk tracklet' in message for message in messages(report)) == 2


def test_a_missing_list_is_an_error_and_the_images_are_still_read(copy, check):
    root, folder = copy('mars')
    (folder / 'info/query_IDX.mat').unlink()
    broken = folder / 'bbox_train/0001/0001C1T0001F001.jpg'
    broken.write_bytes(b'')
    code, report, _ = check('mars', root)
    assert code == 1 and report['images_read'] == 309
    assert any('query_IDX.mat: not found' in message for message in messages(report))
    assert any(str(broken) in message for message in messages(report))


def test_duke_all_defects_at_once(copy, check):
    root, folder = copy('dukemtmcvidreid')
    stranger = folder / 'train/0002/0001/0002_C6_F0003_X30024.jpg'
    stranger.rename(stranger.with_name('0005_C6_F0003_X30024.jpg'))
    (folder / 'gallery/0031/0009').mkdir()
    (folder / 'gallery/0031/0010').mkdir()
    odd = folder / 'query/0033/0001/frame3.jpg'
    shutil.copy(folder / 'query/0033/0001/0033C2F0003X30024.jpg', odd)
    (folder / 'train/old').mkdir()
    shutil.copy(odd, folder / 'train/old/x.jpg')
    code, report, _ = check('dukemtmcvidreid', root)
    said = messages(report)
    assert code == 1 and len(said) == 4
    assert f'{stranger.parent}/0005_C6_F0003_X30024.jpg: lies in the folder of person 2' in said
    for empty in ('0009', '0010'):
        assert any(f'gallery/0031/{empty}: empty tracklet' in message for message in said)
    assert any(f'{odd}: a frame is named like' in message for message in said)
    assert f'{folder}/train/old/x.jpg: in no tracklet' in messages(report, 'warnings')


def test_duke_queries_that_are_not_their_copies_in_the_gallery(copy, check):
    """A query whose copy says another camera would find itself, at distance 0."""
    root, folder = copy('dukemtmcvidreid')
    for frame in list((folder / 'query/0001/0007').iterdir()):
        frame.rename(frame.with_name(frame.name.replace('_C1_', '_C5_')))
    next((folder / 'query/0031/0001').iterdir()).unlink()
    shutil.rmtree(folder / 'gallery/6000/0002')
    code, report, _ = check('dukemtmcvidreid', root, '--list-only')
    assert code == 1 and messages(report) == [
        f'{folder}/query/0001/0007: camera 5, but 1 in {folder}/gallery/0001/0007'
    ]
    said = messages(report, 'warnings')
    assert f'{folder}/query/0031/0001: other frames than in {folder}/gallery/0031/0001' in said
    assert f'{folder}/query/6000/0002: not in the gallery, which has every query' in said


def test_persons_and_frames_of_training_that_are_tested(copy, check):
    root, folder = copy('dukemtmcvidreid')
    shutil.copytree(folder / 'gallery/0033', folder / 'train/0033')  # with a query
    shutil.copytree(folder / 'train/0002', folder / 'gallery/0002')  # distractors, too
    code, report, _ = check('dukemtmcvidreid', root, '--list-only')
    assert code == 1 and [message.partition(': ')[2] for message in messages(report)] == [
        f'person {pid} is in the train split, too' for pid in (2, 33)
    ]


def test_lsvid_frames_in_two_lists(copy, check):
    """Its ids begin at 0 in every list, so only the frames tell."""
    root, folder = copy('lsvid')
    path = folder / 'list_sequence/list_seq_train.txt'
    path.write_text(path.read_text() + 'tracklet_test/0000/0000_01_4 0\n')
    code, report, _ = check('lsvid', root, '--list-only')
    frame = folder / 'tracklet_test/0000/0000_01_4_0001.jpg'
    assert code == 1 and messages(report) == [f'{frame}: its frames are in train and test']


@pytest.mark.parametrize('name, last', [('mars', 6), ('dukemtmcvidreid', 8), ('lsvid', 15)])
def test_a_camera_that_the_release_does_not_have(name, last, copy, check):
    root, folder = copy(name)
    if name == 'mars':
        tree, old, new = 'bbox_train', '0001C1T', '0001C9T'
        names = folder / 'info/train_name.txt'
        names.write_bytes(names.read_bytes().replace(b'0001C1T', b'0001C9T'))
        table = scipy.io.loadmat(folder / 'info/tracks_train_info.mat')['track_train_info']
        table[(table[:, 2] == 1) & (table[:, 3] == 1), 3] = 9
        miniatures.write_mars_table(folder, 'train', table)
    elif name == 'lsvid':
        tree, old, new = 'tracklet_train', '0000_01_15_', '0000_01_99_'
        names = folder / 'list_sequence/list_seq_train.txt'
        names.write_text(names.read_text().replace('0000_01_15', '0000_01_99'))
    else:
        tree, old, new = 'train/0002/0001', '_C6_', '_C9_'
    for frame in [path for path in (folder / tree).rglob('*.jpg') if old in path.name]:
        frame.rename(frame.with_name(frame.name.replace(old, new)))
    code, report, _ = check(name, root, '--list-only')
    camera = 99 if name == 'lsvid' else 9
    assert code == 0
    said = [one for one in messages(report, 'warnings') if ': camera ' in one]
    assert len(said) == 1 and said[0].endswith(f'camera {camera}, the release has {last}')


def test_lsvid_lists_tables_and_names_that_disagree(copy, check):
    root, folder = copy('lsvid')
    table = miniatures.lsvid_table(miniatures.LSVID_TEST)
    table[3, 2], table[8, 3], table[11, 1] = 9, 8, table[11, 1] + 1
    miniatures.write_lsvid_test(
        folder / 'test/data/info_test.mat', table, miniatures.LSVID_QUERY_ROWS
    )
    path = folder / 'list_sequence/list_seq_train.txt'
    lines = path.read_text().splitlines()
    lines[0], lines[5] = lines[0].rpartition(' ')[0] + ' 77', lines[5].replace('_', '_9', 2)
    path.write_text('\n'.join([*lines, 'one-word']))
    code, report, _ = check('lsvid', root)
    said = messages(report)
    assert code == 1 and len(said) == 6
    for row, what in ((4, 'pid 9'), (9, 'camera 8'), (12, 'number of frames 3')):
        assert any(f'row {row} gives {what}' in message for message in said)
    assert any('list_seq_train.txt:6: no image' in message for message in said)
    assert any('list_seq_train.txt:23: expected' in message for message in said)
    assert any('listed in train as person 77' in message for message in said)


@pytest.mark.parametrize(
    'name, frame, neighbours',
    [
        ('lsvid', 'tracklet_train/0001/0001_01_14_0003.jpg', ('_14_0002.jpg', '_14_0004.jpg')),
        ('dukemtmcvidreid', 'train/0002/0001/0002_C6_F0002_X30016.jpg', ('_X30008', '_X30024')),
    ],
)
def test_a_training_frame_that_is_gone_is_noticed(name, frame, neighbours, copy, check):
    """No list says how many frames there are: numbers of neighbours and a total do."""
    root, folder = copy(name)

    def gaps_and_frames():
        code, report, _ = check(name, root, '--list-only')
        said = [one for one in messages(report, 'warnings') if one.startswith('train: ')]
        assert code == 0
        return [one for one in said if 'skip' in one], report['counts']

    said, before = gaps_and_frames()
    number = int(said[0].split()[1]) if said else 0
    (folder / frame).unlink()
    (line,), after = gaps_and_frames()
    assert f'train: {number + 1} of {before["train"]["tracklets"]["found"]} tracklets skip' in line
    if not number:
        assert all(part in line for part in neighbours)
    assert after['train']['frames']['found'] == before['train']['frames']['found'] - 1
    label = 'all' if name == 'lsvid' else 'train'
    released = {'lsvid': 2_982_685, 'dukemtmcvidreid': 369_656}
    assert after[label]['frames'] == {
        'found': before[label]['frames']['found'] - 1,
        'official': released[name],
    }


@pytest.mark.parametrize(
    'name, frame, twin',
    [
        ('lsvid', 'tracklet_test/0002/0002_03_15_8.jpg', '0002_03_15_08.jpg'),
        ('lsvid', 'tracklet_test/0002/0002_01_3_a2.jpg', '0002_01_3_a02.jpg'),
        ('dukemtmcvidreid', 'train/0002/0001/0002_C6_F0001_X30008.jpg', '0002_C6_F01_X30008.jpg'),
        ('tracklets', 'train/p3/cam2/a/8.jpg', '08.jpg'),
        ('tracklets', 'query/anna/cam2/t1/f10.jpg', 'f010.jpg'),
    ],
)
def test_one_frame_under_two_numerals_is_an_error(name, frame, twin, copy, check):
    root, folder = copy(name)
    shutil.copy(folder / frame, (folder / frame).with_name(twin))
    code, report, _ = check(name, root, '--list-only')
    one, other = sorted([os.path.basename(frame), twin])
    assert code == 1 and any(
        f'{one} and {other} are one frame in two files' in message for message in messages(report)
    )


@pytest.mark.parametrize('shift, odd', [(0, ''), (-1, '1 row'), (70, '')])
def test_lsvid_rows_that_count_from_elsewhere(shift, odd, copy, check):
    """Frames are those of the list, so a shift changes no tracklet."""
    root, folder = copy('lsvid')
    table = miniatures.lsvid_table(miniatures.LSVID_TEST)
    table[:, :2] += shift
    rows = miniatures.LSVID_QUERY_ROWS
    miniatures.write_lsvid_test(folder / 'test/data/info_test.mat', table, rows)
    code, report, _ = check('lsvid', root, '--list-only')
    said = [message for message in messages(report, 'warnings') if 'info_test' in message]
    assert code == 0 and report['counts']['test']['tracklets']['found'] == 14
    assert len(said) == bool(odd) and all(f': {odd} of info_test start' in one for one in said)


def test_lsvid_rows_that_share_frames(copy, check):
    root, folder = copy('lsvid')
    table = miniatures.lsvid_table(miniatures.LSVID_TEST)
    table[4, :2] += 1  # row 6 now starts within row 5
    rows = miniatures.LSVID_QUERY_ROWS
    miniatures.write_lsvid_test(folder / 'test/data/info_test.mat', table, rows)
    code, report, _ = check('lsvid', root, '--list-only')
    (line,) = [message for message in messages(report, 'warnings') if 'info_test' in message]
    assert code == 0 and f'the first is row 6 {table[5].tolist()}' in line


def test_own_folders_and_csv_with_several_defects(copy, check, tmp_path):
    root, folder = copy('tracklets')
    for name in ('t8', 't9'):
        (folder / 'query/anna/cam2' / name).mkdir()
    code, report, _ = check('tracklets', root)
    assert code == 1
    assert [m.partition(': ')[2][:15] for m in messages(report)] == ['empty tracklet,'] * 2
    rows = [
        ('query', 'anna', 'cam2', 't1', 'tracklets/query/anna/cam2/t1/f1.jpg'),
        ('query', 'anna', 'cam2', 't1', 'tracklets/query/anna/cam2/t1/gone.jpg'),
        ('test', 'anna', 'cam2', 't1', 'tracklets/query/anna/cam2/t1/f2.jpg'),
        ('gallery', 'anna', 'cam2', 't1', 'tracklets/gallery/anna/cam10/t2/1.jpg'),
    ]
    miniatures.write_csv(root / 'tracklets.csv', rows)
    code, report, _ = check('tracklets', root)
    assert code == 1 and [c['kind'] for c in report['errors']] == ['structure'] * 2 + ['queries']
    assert 'gone.jpg not found' in messages(report)[0] and ":4: unknown split 'test'" in str(report)
    assert 'none of the 1 queries has a match' in messages(report)[2]
    unlisted = [c for c in report['warnings'] if c['kind'] == 'unlisted']
    assert len(unlisted) == 2 + 3  # f2, f10; 2, 3, 4


@pytest.mark.parametrize('name', MAKERS)
def test_each_folder_is_listed_once(name, miniature_roots, monkeypatch):
    listed = Counter()
    scandir = os.scandir
    monkeypatch.setattr(os, 'scandir', lambda path: listed.update([str(path)]) or scandir(path))
    check_dataset(name, miniature_roots[name], read_images=False)
    assert set(listed.values()) == {1} and len(listed) > 5


def test_every_file_that_is_no_frame_is_counted_by_suffix_and_named(copy, check):
    root, folder = copy('tracklets')
    place = folder / 'gallery/anna/cam10/t2'
    for path in folder.rglob('notes.txt'):
        path.unlink()
    for name in ('b.HEIC', 'c.heic', 'a.avi', 'README', 'line\nfeed.avi', '\udcff.avi'):
        (place / name).touch()
    (folder / 'query/anna/cam2/t1/more/inner').mkdir(parents=True)
    (folder / 'query/anna/cam2/t1/more/inner/9.jpg').touch()
    (folder / 'query/anna/clip.mp4').touch()
    os.mkfifo(place / 'pipe')
    for name in ('.DS_Store', '._2.jpg', 'Thumbs.db', 'desktop.ini'):
        (place / name).touch()
    code, report, printed = check('tracklets', root)
    found = {kind: numbers['files'] for kind, numbers in report['left_out'].items()}
    assert found == {
        '.avi': [f'{place}/a.avi', f'{place}/line\nfeed.avi', f'{place}/\udcff.avi'],
        '.heic': [f'{place}/b.HEIC', f'{place}/c.heic'],
        '.mp4': [f'{folder}/query/anna/clip.mp4'],
        'no suffix': [f'{place}/README', f'{place}/pipe'],
    }
    assert f'warning (left out): 2 .heic in no tracklet: {place}/b.HEIC, {place}/c.heic' in printed
    assert f'{place}/line\\nfeed.avi, {place}/\\xff.avi' in printed
    assert f'{folder}/query/anna/cam2/t1/more/inner/9.jpg: in no tracklet' in printed
    [error] = messages(report)  # the image in no tracklet is read, too
    assert code == 1 and 'more/inner/9.jpg: cannot identify image' in error


def test_a_folder_too_deep_to_read_is_named(copy, check):
    root, folder = copy('mars')
    deep = folder / 'bbox_train/a/b/c/d/e/f'
    deep.mkdir(parents=True)
    assert f'{deep}: too deep, not looked into' in messages(check('mars', root)[1], 'warnings')


def test_bad_arguments_and_missing_data(tmp_path, mars_root, capsys):
    output = tmp_path / 'report.json'
    for words in (
        ['--root', str(tmp_path), '-s', 'mars'],
        ['--root', str(tmp_path), '-s', 'tracklets'],
        ['--root', mars_root, '-s', 'market1501'],
        ['--root', mars_root, '-s', 'mars', '--workers', '-1'],
        ['--root', mars_root, '-s', 'mars', '--output', str(tmp_path / 'no' / 'report.json')],
    ):
        with pytest.raises(SystemExit) as caught:
            check_data.main(['--output', str(output), *words])
        assert caught.value.code == 2 and 'error: ' in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_where_no_report_can_be_is_said_before_the_images_are_read(
    mars_root, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr('stmn_plugin.datasets.check.check_dataset', lambda *_: pytest.fail('read'))
    os.mkfifo(tmp_path / 'pipe')
    for name in ('', 'pipe', 'missing/report.json'):
        with pytest.raises(SystemExit) as stop:
            check_data.main(['--root', mars_root, '-s', 'mars', '--output', str(tmp_path / name)])
        (line,) = capsys.readouterr().err.splitlines()
        assert stop.value.code == 2 and line.startswith(f'error: cannot write {tmp_path / name}')
    assert [path.name for path in tmp_path.iterdir()] == ['pipe']


def test_too_many_open_files_are_no_findings(mars_root, tmp_path, monkeypatch, capsys):
    def fail(path):
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE), path)

    monkeypatch.setattr(frames, 'open_regular', fail)
    output = tmp_path / 'report.json'
    words = ['--root', mars_root, '-s', 'mars', '--output', str(output), '--workers', '0']
    with pytest.raises(SystemExit) as stop:
        check_data.main(words)
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert stop.value.code == 2 and line.endswith('Too many open files') and not output.exists()


@pytest.mark.slow
def test_killed_half_way_it_leaves_no_report(copy, tmp_path, repository):
    root, _ = copy('tracklets')
    output = tmp_path / 'out' / 'report.json'
    output.parent.mkdir()
    words = ['--root', str(root), '-s', 'tracklets', '--workers', '0', '--output', str(output)]
    script = (
        'import os, signal; from stmn_plugin.cli import check_data; '
        'from stmn_plugin.datasets import check; '
        'check.read_frame = lambda path: os.kill(os.getpid(), signal.SIGKILL); '
        f'check_data.main({words})'
    )
    done = subprocess.run(
        [sys.executable, '-c', script],
        env={**os.environ, 'PYTHONPATH': str(repository)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert list(output.parent.iterdir()) == []


def test_a_killed_worker_is_one_line_and_no_report(copy, tmp_path, monkeypatch, capsys):
    root, _ = copy('tracklets')
    from stmn_plugin.datasets import check

    def die(path):
        if path.endswith('f2.jpg'):
            time.sleep(0.2)
            os.kill(os.getpid(), signal.SIGKILL)
        return check_frame(path)

    check_frame = check.read_frame
    monkeypatch.setattr(check, 'read_frame', die)
    output = tmp_path / 'report.json'
    words = ['--root', str(root), '-s', 'tracklets', '--workers', '1', '--output', str(output)]
    with pytest.raises(SystemExit) as caught:
        check_data.main(words)
    assert caught.value.code == 2 and not output.exists()
    assert 'DataLoader worker' in capsys.readouterr().err
