"""Own data as folders and as a CSV, against lists computed from the miniature's table."""

import errno
import os
import os.path as osp
import pickle
import shutil

import miniatures
import pytest
import torchreid

from stmn_plugin.datasets.check import check_dataset
from stmn_plugin.datasets.host_datasets import Mars
from stmn_plugin.datasets.listing import IMAGE_SUFFIXES
from stmn_plugin.datasets.tracklets import Tracklets
from stmn_plugin.errors import InputError
from stmn_plugin.labels import natural_key

# natural order, written by hand
CAMERAS = ['cam2', 'cam10', 'north', 'south']
TRAIN_PIDS = ['p2', 'p3', 'p4', 'p5', 'p6', 'p7', 'p8', 'p9', 'p10']
TEST_PIDS = ['anna', 'p9', 'p10', 'zoe']
GALLERY = [
    ('anna', 'cam10', 't2'),
    ('anna', 'north', 't1'),
    ('p9', 'cam2', 't9'),
    ('p9', 'cam2', 't10'),
    ('p10', 'cam2', 't1'),
    ('zoe', 'south', 't1'),
]


def no_transform(image):
    return image


def build(root, **kwargs):
    return Tracklets(root=str(root), transform=no_transform, verbose=False, **kwargs)


def message_of(root, **kwargs):
    with pytest.raises(InputError) as caught:
        build(root, **kwargs)
    message = str(caught.value)
    assert '\n' not in message and str(root) in message
    return message


def expected(root, split, order, pids):
    frames = {row[1:4]: row[4] for row in miniatures.TRACKLETS if row[0] == split}
    return [
        (
            tuple(f'{root}/tracklets/{split}/{pid}/{camera}/{name}/{f}' for f in frames[key]),
            pids.index(pid),
            CAMERAS.index(camera),
            0,
        )
        for key in order
        for pid, camera, name in [key]
    ]


@pytest.mark.parametrize('make', [miniatures.make_tracklets, miniatures.make_tracklets_csv])
def test_lists_are_those_of_the_table(tmp_path, make):
    dataset = build(make(tmp_path))
    train = [
        (pid, camera, name)
        for pid in TRAIN_PIDS
        for camera, name in (('cam2', 'a'), ('cam10', 'a'), ('north', 'b'))
    ]
    assert dataset.train == expected(tmp_path, 'train', train, TRAIN_PIDS)
    query = [('anna', 'cam2', 't1'), ('p9', 'cam10', 't1'), ('p10', 'north', 't1')]
    assert dataset.query == expected(tmp_path, 'query', query, TEST_PIDS)
    assert dataset.gallery == expected(tmp_path, 'gallery', GALLERY, TEST_PIDS)
    assert dataset.num_train_pids == 9 and not dataset.gallery_needs_queries
    for paths, pid, camid, _ in dataset.train + dataset.query + dataset.gallery:
        assert type(paths) is tuple and type(pid) is int and type(camid) is int
        assert all(os.path.isfile(path) for path in paths)
    assert pickle.loads(pickle.dumps(dataset)).data == dataset.train


def test_natural_order():
    names = ['f10', 'f2', 'F1', '10', '9', 'f02', '', 'f2b']
    assert sorted(names, key=natural_key) == ['', '9', '10', 'F1', 'f02', 'f2', 'f2b', 'f10']


def test_split_folders_directly_below_the_root_and_csv_in_the_folder(tmp_path):
    miniatures.make_tracklets(tmp_path)
    reference = build(tmp_path)
    (tmp_path / 'mars').mkdir()  # a data root may hold other datasets
    for split in ('train', 'query', 'gallery'):
        (tmp_path / 'tracklets' / split).rename(tmp_path / split)
    dataset = build(tmp_path)
    assert [t[1:] for t in dataset.gallery] == [t[1:] for t in reference.gallery]
    assert dataset.dataset_dir == str(tmp_path)
    rows = [('query', 'a', 'c1', 't', '../query/anna/cam2/t1/f1.jpg')]
    miniatures.write_csv(tmp_path / 'tracklets' / 'tracklets.csv', rows)
    assert build(tmp_path, mode='query').query == [
        ((f'{tmp_path}/query/anna/cam2/t1/f1.jpg',), 0, 0, 0)
    ]


def test_test_data_alone_can_be_searched_but_not_trained_on(tmp_path):
    miniatures.make_tracklets(tmp_path, splits=('query', 'gallery'))
    dataset = build(tmp_path, mode='gallery')
    assert (len(dataset), dataset.train, dataset.num_train_pids) == (6, [], 0)
    assert [camid for _, _, camid, _ in build(tmp_path, mode='query').data] == [0, 1, 2]
    assert 'has no train tracklets' in message_of(tmp_path)
    assert 'subset' in repr(dataset)


def test_train_data_alone_can_be_trained_on_and_summed(tmp_path, capsys):
    miniatures.make_tracklets(tmp_path, splits=('train',))
    dataset = Tracklets(root=str(tmp_path), transform=no_transform)
    assert 'query    |     0 |           0' in capsys.readouterr().out
    assert (len(dataset), dataset.query, dataset.gallery) == (27, [], [])
    assert 'has no query tracklets' in message_of(tmp_path, mode='query')
    assert 'has no gallery tracklets' in message_of(tmp_path, mode='gallery')
    mars = Mars(root=str(miniatures.make_mars(tmp_path)), transform=no_transform, verbose=False)
    for summands in ([dataset, mars], [mars, dataset], [dataset, dataset]):
        both = sum(summands)
        assert type(both) is torchreid.data.VideoDataset
        assert len(both) == sum(map(len, summands))
        assert both.num_train_pids == sum(d.num_train_pids for d in summands)
    assert dataset.query == []


def test_combineall_labels_are_those_of_the_sorted_people(tmp_path):
    dataset = build(miniatures.make_tracklets(tmp_path), combineall=True)
    assert [t[1] for t in dataset.data[27:]] == [9, 10, 11, 9, 9, 10, 10, 11, 12]
    assert dataset.num_train_pids == 13 and dataset.num_train_cams == 4


def test_parsed_once_until_a_frame_is_added(tmp_path):
    miniatures.make_tracklets(tmp_path)
    first, second = build(tmp_path), build(tmp_path, mode='query')
    assert first.query[0] is second.query[0] and second.train == []
    paths = first.query[1][0]
    shutil.copy(paths[0], paths[0].replace('/1.jpeg', '/2.jpg'))
    assert len(build(tmp_path).query[1][0]) == 2


def test_folders_refused(tmp_path):
    assert 'no tracklets in it; give tracklets.csv' in message_of(tmp_path)
    assert f'{tmp_path / "missing"}: not found; give' in message_of(tmp_path / 'missing')
    folder = miniatures.make_tracklets(tmp_path) / 'tracklets'
    build(tmp_path)

    (folder / 'test').mkdir()
    assert f'{folder}/test: unknown split' in message_of(tmp_path)
    (folder / 'test').rmdir()

    (folder / 'query/anna/cam2/t2').mkdir()
    assert f'{folder}/query/anna/cam2/t2: empty tracklet' in message_of(tmp_path)
    for name in ('f1.heic', 'f10.heic', 'f2.heic'):
        (folder / 'query/anna/cam2/t2' / name).touch()
    message = message_of(tmp_path)
    assert 'no .jpg/.jpeg/' in message and 'file in it, but f1.heic and 2 others; ' in message
    shutil.rmtree(folder / 'query/anna/cam2/t2')

    (folder / 'query/bob').mkdir()
    assert f'{folder}/query/bob: holds no <camid> folder' in message_of(tmp_path)
    (folder / 'query/bob').rmdir()

    # <pid>/<camid>/*.jpg: one level short
    (folder / 'query/anna/cam2/f1.jpg').touch()
    message = message_of(tmp_path)
    assert f'{folder}/query/anna/cam2/f1.jpg: an image where <tracklet> folders belong' in message


def frames_of_anna(root, **kwargs):
    data = Tracklets(root=str(root), mode='query', transform=len, verbose=False, **kwargs).data
    return [osp.basename(path) for path in data[0][0]]


@pytest.fixture
def anna(tmp_path):
    """The folder of a tracklet f1, f2, f10 in a tree without any other file."""
    miniatures.make_tracklets(tmp_path)
    for path in tmp_path.rglob('notes.txt'):
        path.unlink()
    return tmp_path / 'tracklets/query/anna/cam2/t1'


def test_every_readable_suffix_is_a_frame_in_natural_order(anna, tmp_path, capsys):
    names = ['f1.jpg', 'f2.jpg', 'f10.jpg']
    for number, suffix in enumerate(IMAGE_SUFFIXES, 11):
        (anna / f'f{number}{suffix.upper() if number % 2 else suffix}').touch()
        names.append(f'f{number}{suffix.upper() if number % 2 else suffix}')
    assert frames_of_anna(tmp_path) == names
    assert capsys.readouterr().out == ''


def test_what_is_left_out_is_one_line(anna, tmp_path, messages):
    for name in ('f3.heic', 'f4.HEIC', 'f5.avi', 'f6', '.f7.jpg', '._f1.jpg', 'Thumbs.db'):
        (anna / name).touch()
    (anna / 'f8').mkdir()
    (anna.parent / 'clip.mp4').touch()
    os.mkfifo(anna.parent / 'pipe')
    os.symlink('gone', anna.parent / 't2')  # a tracklet's folder that is not there
    for _ in range(3):  # the host builds train, query and gallery
        assert frames_of_anna(tmp_path) == ['f1.jpg', 'f2.jpg', 'f10.jpg']
    assert messages() == (
        f'{tmp_path}/tracklets: left out, in no tracklet: 3 no suffix, 2 .heic, 1 .avi, 1 .mp4, '
        '1 folder (query/anna/cam2/clip.mp4, query/anna/cam2/pipe, query/anna/cam2/t1/f3.heic, '
        '...)\n'
    )


def test_among_other_datasets_only_the_splits_are_read(anna, tmp_path, capsys):
    for split in ('train', 'query', 'gallery'):
        shutil.move(tmp_path / 'tracklets' / split, tmp_path / split)
    (tmp_path / 'tracklets').rmdir()
    (tmp_path / 'mars').mkdir()
    (tmp_path / 'mars.zip').touch()
    assert frames_of_anna(tmp_path) == ['f1.jpg', 'f2.jpg', 'f10.jpg']
    assert capsys.readouterr().out == ''


def test_files_that_a_csv_does_not_list_are_left_out(anna, tmp_path, messages):
    shutil.copytree(anna, tmp_path / 'flat')
    (tmp_path / 'flat/more').mkdir()
    rows = [('query', 'a', 'c1', 't', 'f1.jpg'), ('gallery', 'a', 'c2', 't', 'f2.jpg')]
    miniatures.write_csv(tmp_path / 'flat/tracklets.csv', rows)
    assert frames_of_anna(tmp_path / 'flat') == ['f1.jpg']
    assert messages() == (
        f'{tmp_path}/flat/tracklets.csv: left out, in no tracklet: 1 .jpg, 1 folder '
        '(f10.jpg, more)\n'
    )


def test_split_folders_without_a_frame_of_the_csv_are_left_out(anna, tmp_path, messages):
    frame = 'tracklets/query/anna/cam2/t1/f1.jpg'
    miniatures.write_csv(tmp_path / 'tracklets.csv', [('query', 'a', 'c1', 't', frame)])
    (tmp_path / 'train' / 'p1').mkdir(parents=True)
    build(tmp_path, mode='query')
    (line,) = messages().splitlines()
    assert 'tracklet: 14 folder, 2 .jpg (tracklets/gallery/anna, ' in line  # 4, 9 and p1
    report = check_dataset('tracklets', str(tmp_path), read_images=False)
    named = [w['message'] for w in report['warnings'] if w['kind'] == 'structure']
    assert [m.partition(f': {tmp_path}/tracklets.csv names no frame')[0] for m in named] == [
        f'{tmp_path}/{folder}' for folder in ('train', 'tracklets/train', 'tracklets/gallery')
    ]


@pytest.mark.parametrize('twice', ['folders', 'tables'])
def test_tracklets_in_two_places_are_refused(tmp_path, twice):
    miniatures.make_tracklets(tmp_path)
    inner = tmp_path / 'tracklets'
    if twice == 'folders':  # a part of the data in each
        (inner / 'train').rename(tmp_path / 'train')
        one, other = inner, tmp_path
    else:
        one, other = (folder / 'tracklets.csv' for folder in (tmp_path, inner))
        for path in (one, other):
            miniatures.write_csv(path, [('query', 'a', 'c1', 't', 'f1.jpg')])
    assert f'{one} and {other}: both hold tracklets' in message_of(tmp_path)


@pytest.mark.parametrize('twin', ['f2.png', 'f2.JPG', 'f2.webp'])
def test_one_frame_in_two_files_is_refused(anna, tmp_path, twin):
    (anna / twin).touch()
    message = message_of(tmp_path, mode='query')
    assert message.startswith(f'{anna}: ') and 'f2.jpg' in message and twin in message


def test_a_folder_that_cannot_be_listed_or_vanishes_meanwhile_is_named(anna, tmp_path, monkeypatch):
    scandir = os.scandir

    def refused(folder):
        if str(folder) == str(anna):
            raise PermissionError(errno.EACCES, 'Permission denied', folder)
        return scandir(folder)

    monkeypatch.setattr(os, 'scandir', refused)
    message = message_of(tmp_path, mode='query')
    assert message == f'{anna}: cannot be listed (Permission denied)'

    def late(folder):
        if str(folder) == str(anna):
            shutil.rmtree(folder)
        return scandir(folder)

    monkeypatch.setattr(os, 'scandir', late)
    message = message_of(tmp_path, mode='query')
    assert message == f'{anna}: cannot be listed (No such file or directory)'


def test_what_is_there_but_cannot_be_opened_is_not_called_missing(tmp_path):
    (tmp_path / 'mars').symlink_to('mars')
    with pytest.raises(InputError, match='mars: cannot be opened .Too many levels'):
        Mars(root=str(tmp_path))
    with pytest.raises(InputError, match='mars: not found; place MARS there'):
        Mars(root=str(tmp_path / 'elsewhere'))


def test_a_loop_of_links_is_one_bad_frame(anna, tmp_path):
    (anna / 'f5.jpg').symlink_to('f5.jpg')
    assert frames_of_anna(tmp_path) == ['f1.jpg', 'f2.jpg', 'f5.jpg', 'f10.jpg']


ANNA = 'tracklets/query/anna/cam2/t1'
GOOD = ('query', 'anna', 'cam2', 't1', f'{ANNA}/f1.jpg')
CSV_DAMAGE = {
    'unknown split': ([('test', *GOOD[1:])], ":2: unknown split 'test'"),
    'no pid': ([GOOD, ('query', ' ', *GOOD[2:])], ':3: no pid given'),
    'short row': ([GOOD, ('query', 'anna')], ':3: 2 cells, the header has 5'),
    'long row': ([GOOD, (*GOOD, 'x')], ':3: 6 cells, the header has 5'),
    'missing image': ([GOOD, (*GOOD[:4], f'{ANNA}/f3.jpg')], f'{ANNA}/f3.jpg not found'),
    'no path': ([(*GOOD[:4], '')], ':2: no path given'),
    'a folder': ([(*GOOD[:4], 'a.jpg')], 'a.jpg not found'),
    'wrong suffix': ([(*GOOD[:4], f'{ANNA}/notes.txt')], ':2: '),
    'row twice': ([GOOD, GOOD], ':3: image'),
    'image by two ways': (
        [GOOD, (*GOOD[:3], 't2', 'link/t1/f1.jpg')],
        'link/t1/f1.jpg is in line 2, too',
    ),
    'image in two tracklets': ([GOOD, (*GOOD[:3], 't2', GOOD[4])], 'is in line 2, too'),
    'gallery copy of another person': (
        [GOOD, ('gallery', 'bob', *GOOD[2:])],
        "f1.jpg has pid 'bob' and camera 'cam2' here, but 'anna' and 'cam2' in line 2",
    ),
    'no row': ([], 'lists no frame'),
}  # fmt: skip


@pytest.mark.parametrize('case', CSV_DAMAGE)
def test_csv_refused(tmp_path, case):
    rows, phrase = CSV_DAMAGE[case]
    miniatures.make_tracklets(tmp_path, splits=('query',))
    (tmp_path / 'a.jpg').mkdir()
    (tmp_path / 'link').symlink_to(tmp_path / 'tracklets/query/anna/cam2')
    miniatures.write_csv(tmp_path / 'tracklets.csv', rows)
    message = message_of(tmp_path, mode='query')
    assert message.startswith(f'{tmp_path}/tracklets.csv') and phrase in message


HEADER = 'split,pid,camid,tracklet,path'
ROW = ','.join(GOOD)
NEXT = ROW.replace('f1.jpg', 'f2.jpg')
# text of a CSV of several lines → what is said about which of them
CSV_TEXTS = {
    'a quote opens': ([HEADER, ROW, NEXT.replace('t1,', '"t1,', 1), ROW], ':3: no row of a CSV'),
    'two quotes open': (
        [HEADER, ROW.replace(',t1', ',"t1'), NEXT.replace(',t1', ',"t1')],
        ':2: no row of a CSV',
    ),
    'text after a quote': ([HEADER, ROW.replace('t1,', '"t"1,')], ':2: no row of a CSV'),
    'line feed in a cell': ([HEADER, ROW.replace('t1,', '"t\n1",')], ':2: no row of a CSV'),
    'return in a cell': ([HEADER, ROW.replace('t1,', '"t\r1",')], ':2: no row of a CSV'),
    'a cell too long': ([HEADER, ROW.replace('anna', 'a' * 200_000)], ':2: no row of a CSV'),
    'NUL': ([HEADER, ROW, NEXT.replace('anna', 'an\0na')], ':3: holds a NUL'),
    'blank lines count': (['', HEADER, '', ' \t', ROW, ',,,,', ROW], ':7: image'),
    'column twice': (['pid,' + HEADER, '1,' + ROW], ':1: column pid is there twice'),
    'semicolons': ([HEADER.replace(',', ';'), ROW.replace(',', ';')], "separated by ';'"),
    'tabs': ([HEADER.replace(',', '\t'), ROW.replace(',', '\t')], "separated by '\\t'"),
    'other columns': (['split,id,camid,tracklet,file', ROW], ':1: column pid, path missing'),
    'empty': ([], ':1: column split, pid, camid, tracklet, path missing'),
    'a path of NULs': ([HEADER, ROW.replace('f1', '\0')], ':2: holds a NUL'),
}  # fmt: skip


@pytest.mark.parametrize('ending', ['\n', '\r\n', '\r'])
@pytest.mark.parametrize('case', CSV_TEXTS)
def test_csv_refused_with_the_line_that_is_wrong(tmp_path, case, ending):
    lines, phrase = CSV_TEXTS[case]
    miniatures.make_tracklets(tmp_path, splits=('query',))
    text = ''.join(line + ending for line in lines)
    (tmp_path / 'tracklets.csv').write_text(text, newline='')
    assert phrase in message_of(tmp_path)


@pytest.mark.parametrize('encoding', ['latin-1', 'utf-16', 'utf-16-le'])
def test_csv_in_another_encoding(tmp_path, encoding):
    path = tmp_path / 'tracklets.csv'
    path.write_text(f'{HEADER}\nquery,Jürgen,c,t,x.jpg\n', encoding=encoding)
    assert f'{path}: cannot be read as CSV in UTF-8' in message_of(tmp_path)


def test_a_pipe_for_a_csv(tmp_path):
    os.mkfifo(tmp_path / 'tracklets.csv')
    assert 'tracklets.csv: cannot be read as CSV' in message_of(tmp_path)


@pytest.mark.parametrize('ending', ['\n', '\r\n', '\r'])
def test_csv_as_spreadsheets_write_it(tmp_path, ending):
    """Byte order mark, other column order, an extra column, spaces, quotes, trailing commas."""
    miniatures.make_tracklets(tmp_path, splits=('query',))
    lines = [
        '\ufeffpath,split,pid,camid,tracklet,note,,',
        f'{tmp_path}/{ANNA}/f10.jpg, query, Jürgen, c1, "t ""1"", a", late',
        '',
        f'{ANNA}/f2.jpg,query,Jürgen ,c1,"t ""1"", a",,,',
        ',,,,,,,',
        f'"{ANNA}/f1.jpg",query,Jürgen,c1,5" pipe,',
    ]
    (tmp_path / 'tracklets.csv').write_text(ending.join(lines), encoding='utf-8', newline='')
    f1, f2, f10 = (f'{tmp_path}/{ANNA}/{name}.jpg' for name in ('f1', 'f2', 'f10'))
    assert build(tmp_path, mode='query').data == [((f1,), 0, 0, 0), ((f2, f10), 0, 0, 0)]


def test_csv_tracklets_of_a_folder_that_is_called_like_them(tmp_path):
    """Only the CSV says whose a frame is: folder ``t1`` holds frames of two cameras' ``t1``."""
    miniatures.make_tracklets(tmp_path, splits=('query',))
    rows = [
        ('query', 'anna', 'cam2', 't1', f'{ANNA}/f1.jpg'),
        ('query', 'anna', 'cam3', 't1', f'{ANNA}/f2.jpg'),
        ('query', 'bob', 'cam2', 't1', f'{ANNA}/f10.jpg'),
    ]
    miniatures.write_csv(tmp_path / 'tracklets.csv', rows)
    data = build(tmp_path, mode='query').data
    assert [(len(paths), pid, camid) for paths, pid, camid, _ in data] == [
        (1, 0, 0), (1, 0, 1), (1, 1, 0),
    ]  # fmt: skip


def test_names_of_any_digits(tmp_path):
    """More digits than Python's int takes, and digits that it does not take at all."""
    miniatures.make_tracklets(tmp_path, splits=('query',))
    pids = ['x²', '9' * 5000, '9' * 4999 + '8', '٣', 'x10']
    frames = [f'{ANNA}/f1.jpg', f'{ANNA}/f2.jpg', f'{ANNA}/f10.jpg']
    frames += ['tracklets/query/p10/north/t1/1.png', 'tracklets/query/p10/north/t1/2.png']
    rows = [('query', *row) for row in zip(pids, ['9' * 5000] * 5, 'abcde', frames, strict=True)]
    miniatures.write_csv(tmp_path / 'tracklets.csv', rows)
    data = build(tmp_path, mode='query').data
    assert [os.path.basename(paths[0]) for paths, *_ in data] == [
        '1.png', 'f10.jpg', 'f2.jpg', '2.png', 'f1.jpg',
    ]  # fmt: skip


def test_csv_names_may_start_again_for_each_person(tmp_path):
    """One flat folder, tracklet 0 of each person and camera; query copies in the gallery."""
    rows = []
    for split, pid, camera in (('query', '1', '1'), ('gallery', '1', '2'), ('gallery', '10', '1')):
        for frame in range(2):
            name = f'{pid}_{camera}_{frame}.jpg'
            miniatures.save_frame(tmp_path / 'images' / name, int(pid), int(camera), frame)
            rows.append((split, pid, camera, '0', f'images/{name}'))
    rows += [('gallery', *row[1:]) for row in rows[:2]]
    miniatures.write_csv(tmp_path / 'tracklets.csv', rows)
    dataset = build(tmp_path, mode='gallery')
    assert [(len(t[0]), *t[1:3]) for t in dataset.data] == [(2, 0, 0), (2, 0, 1), (2, 1, 0)]
    assert dataset.query[0] == dataset.gallery[0]
