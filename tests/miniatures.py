"""Small faithful copies of the datasets: a folder in, a tree with every edge case out.

Each tree is described by a table of its tracklets; the tests compute from the same tables, by
other means, what a loader must return.
"""

import colorsys
import csv
import json
from pathlib import Path

import h5py
import numpy as np
import scipy.io
from PIL import Image

WIDTH, HEIGHT = 32, 64


def save_frame(path, person, camera, frame):
    """A person with clothes of their own before a wall of the camera, moving with the frame."""
    rng = np.random.default_rng([int(person), int(camera), int(frame)])
    wall = 90 + 12 * (camera % 8)
    pixels = np.full((HEIGHT, WIDTH, 3), wall, dtype=np.int64)
    left = WIDTH // 4 + (frame % 5) - 2
    # golden-ratio steps keep the hues of any few people apart
    upper, lower = ((person * step) % 1 for step in (0.618034, 0.754878))
    for rows, hue in ((slice(12, 36), upper), (slice(36, 60), lower)):
        colour = np.array(colorsys.hsv_to_rgb(hue, 0.9, 0.9)) * 255
        pixels[rows, left : left + WIDTH // 2] = colour.astype(np.int64)
    pixels[4:12, left + 5 : left + 11] = (200, 160, 130)
    pixels += rng.integers(-8, 9, size=pixels.shape)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(path, quality=90)


# --- MARS: pid, camera, tracklet number, first frame, number of frames ---------------------------
MARS_TRAIN_PIDS = (1, 3, 7, 9, 15, 22, 48, 101, 330, 1498)  # not contiguous
MARS_TRAIN = [
    (pid, camera, number, 1, (1, 2, 3, 4, 5, 6, 7, 8, 13)[(2 * i + number) % 9])
    for i, pid in enumerate(MARS_TRAIN_PIDS)
    # person 9 is seen by one camera only, person 15 has no tracklet T0002
    for camera, number in (
        ((2, 1), (2, 2))
        if pid == 9
        else ((1 + i % 5, 1), (1 + i % 5, 3 if pid == 15 else 2), (6, 4))
    )
]
MARS_TEST = [
    (-1, 1, 1, 1, 2),
    (-1, 4, 2, 1, 3),
    (0, 1, 1, 1, 3),
    (0, 3, 2, 1, 1),
    (0, 6, 3, 1, 4),
    (2, 1, 1, 1, 7),  # F = 7
    (2, 1, 2, 1, 1),
    (2, 5, 3, 1, 5),
    (4, 1, 1, 1, 4),  # both tracklets of person 4 are queries
    (4, 3, 2, 1, 6),
    (6, 2, 1, 13, 5),  # a query that starts at F013
    (6, 2, 3, 1, 2),  # no T0002
    (6, 6, 4, 1, 8),
    (10, 4, 1, 1, 3),  # one camera only, not a query
    (150, 3, 1, 1, 13),
    (150, 4, 2, 1, 2),
    (150, 5, 3, 1, 6),
    *((pid, camera, number, 1, 3 + pid % 6)
      for pid in (208, 311, 512, 900, 1500) for number, camera in ((1, 1), (2, 2), (3, 6))),
]  # fmt: skip
MARS_QUERY_ROWS = (6, 9, 10, 11, 8, 15, 18, 21, 24, 27, 30)  # 1-based


def mars_name(pid, camera, number, frame):
    """0001C1T0001F001.jpg; junk is called 00-1."""
    person = '00-1' if pid == -1 else f'{pid:04d}'
    return f'{person}C{camera}T{number:04d}F{frame:03d}.jpg'


def make_mars(root):
    """MARS in ``root/mars``; returns ``root``."""
    folder = Path(root) / 'mars'
    (folder / 'info').mkdir(parents=True)
    for split, rows in (('train', MARS_TRAIN), ('test', MARS_TEST)):
        names, table = [], []
        for pid, camera, number, first, length in rows:
            table.append((len(names) + 1, len(names) + length, pid, camera))
            for frame in range(first, first + length):
                name = mars_name(pid, camera, number, frame)
                save_frame(folder / f'bbox_{split}' / name[:4] / name, pid + 1, camera, frame)
                names.append(name)
        text = ''.join(f'{name}\r\n' for name in names)
        (folder / 'info' / f'{split}_name.txt').write_bytes(text.encode())
        write_mars_table(folder, split, np.array(table, dtype=np.int32))
    write_mars_query(folder, np.array([MARS_QUERY_ROWS], dtype=np.uint16))
    return Path(root)


def write_mars_table(folder, split, table):
    path = Path(folder) / 'info' / f'tracks_{split}_info.mat'
    scipy.io.savemat(path, {f'track_{split}_info': table})


def write_mars_query(folder, rows):
    scipy.io.savemat(Path(folder) / 'info' / 'query_IDX.mat', {'query_IDX': rows})


# --- DukeMTMC-VideoReID: pid, tracklet, camera, frame numbers, old naming? -----------------------
DUKE_TRAIN_PIDS = (2, 5, 8, 13, 40, 200, 1404, 5001, 7105)  # also above 4096
DUKE_TRAIN = [
    (2, 1, 6, (1, 2, 3, 4, 5, 6, 7), False),
    (2, 2, 3, (2, 3, 4, 5), False),  # starts at F0002: the host loses its last frame
    (5, 1, 1, (1, 2, 4, 5, 9), False),  # with a gap: the host keeps 1, 2, 4, 5
    (5, 2, 2, (2,), False),  # one frame, F0002: the host raises IndexError
    (8, 1, 4, (1, 2, 3), True),
    (8, 2, 5, (9, 10, 11, 100), True),
    *((pid, number, camera, tuple(range(1, 4 + number + pid % 3)), pid % 2 == 0)
      for pid in DUKE_TRAIN_PIDS[3:] for number, camera in ((1, 1), (2, 2 + pid % 7))),
]  # fmt: skip
DUKE_QUERY = [
    (1, 7, 1, (1, 2, 3, 4), False),
    (31, 1, 8, (2, 3), False),
    (33, 1, 2, (1, 2, 3, 4, 5, 6, 7), True),
    (6000, 2, 3, (1, 2, 3), False),
    (7139, 1, 5, (1,), False),
]
DUKE_GALLERY_ONLY = [
    (1, 9, 2, (1, 2, 3), False),
    (1, 10, 1, (1, 2), False),
    (4, 1, 7, (1, 2, 5), False),  # 4 and 7000 are distractors: one camera, no query
    (31, 2, 6, (1, 2, 3, 4), False),
    (33, 2, 4, (1, 3, 5), True),
    (6000, 1, 1, (1, 2, 3, 4), False),
    (7000, 1, 2, (2, 3), True),
    (7139, 2, 6, (1, 2), False),
]
DUKE_DISTRACTORS = (4, 7000)


def duke_name(pid, camera, frame, old):
    """New 0001_C6_F0099_X30823.jpg, old 0001C6F0099X30823.jpg; D marks a distractor."""
    letter = 'D' if pid in DUKE_DISTRACTORS else 'X'
    return ('' if old else '_').join(
        [f'{pid:04d}', f'C{camera}', f'F{frame:04d}', f'{letter}{30000 + 8 * frame}']
    ) + '.jpg'  # fmt: skip


def make_dukev(root):
    """DukeMTMC-VideoReID in ``root/dukemtmc-vidreid``, where the host has it; returns ``root``."""
    folder = Path(root) / 'dukemtmc-vidreid' / 'DukeMTMC-VideoReID'
    gallery = DUKE_QUERY + DUKE_GALLERY_ONLY  # every query tracklet is in the gallery, too
    for split, rows in (('train', DUKE_TRAIN), ('query', DUKE_QUERY), ('gallery', gallery)):
        for pid, tracklet, camera, frames, old in rows:
            for frame in reversed(frames):  # files made in another order than that of time
                name = duke_name(pid, camera, frame, old)
                path = folder / split / f'{pid:04d}' / f'{tracklet:04d}' / name
                save_frame(path, pid, camera, frame)
        (folder / split / '.DS_Store').write_bytes(b'Finder')
        (folder / split / 'readme.txt').write_text('not a person\n')
    return Path(root)


# --- LS-VID: prefix fields (pid, sequence, camera), frame fields as in the names -----------------
def _frames(length, first=1):
    return tuple(f'{frame:04d}' for frame in range(first, first + length))


LSVID_TRAIN = [
    (pid, '01', camera, _frames(3 + (pid + camera) % 6))
    for pid in range(9)
    for camera in (15 - pid, 2, 9)[: 2 + pid % 2]
]
LSVID_TEST = [  # line numbers, 1-based, at the right
    (0, '01', 13, _frames(6)),  # 1: id 0 is a person
    (0, '01', 4, _frames(8)),  # 2: cameras not sorted
    (0, '02', 10, _frames(4)),  # 3
    (1, '01', 1, _frames(5)),  # 4: 0001_01_1 is a prefix of 0001_01_12
    (1, '01', 12, _frames(7)),  # 5
    (2, '03', 15, ('8', '9', '10', '11', '100')),  # 6: numbers without leading zeros
    (2, '01', 3, ('a1', 'a2', 'a10')),  # 7: no numbers at all
    (3, '01', 7, _frames(6)),  # 8: a query with one camera
    (3, '02', 7, _frames(3)),  # 9
    (4, '01', 11, _frames(6, first=60)),  # 10
    (4, '01', 2, _frames(9)),  # 11
    (5, '01', 14, _frames(2)),  # 12
    (5, '02', 5, _frames(6)),  # 13
    (5, '03', 5, _frames(6)),  # 14
]
LSVID_QUERY_ROWS = (12, 1, 5, 8, 7, 10)  # 1-based, not sorted
LSVID_VAL = [
    (0, '01', 2, _frames(4)),
    (0, '01', 11, _frames(3)),
    (1, '01', 6, _frames(5)),
    (1, '01', 1, _frames(6)),
    (1, '01', 10, _frames(2)),
]
LSVID_VAL_QUERY_ROWS = (4, 1)
LSVID_SPLITS = {'train': LSVID_TRAIN, 'val': LSVID_VAL, 'test': LSVID_TEST}


def lsvid_prefix(split, pid, sequence, camera):
    """The path prefix of the list files; the frames are <prefix>_<frame>.jpg."""
    return f'tracklet_{split}/{pid:04d}/{pid:04d}_{sequence}_{camera}'


def lsvid_table(rows):
    """Rows start, end, pid, camera."""
    ends = np.cumsum([len(frames) for *_, frames in rows])
    return np.array(
        [
            (end - len(frames) + 1, end, pid, camera)
            for end, (pid, _, camera, frames) in zip(ends, rows, strict=True)
        ]
    )


def make_lsvid(root, rearranged=False):
    """LS-VID in ``root/LS-VID``, as released or with lists and data under info/; returns root."""
    folder = Path(root) / 'LS-VID'
    lists = folder / ('info/list_sequence' if rearranged else 'list_sequence')
    data = folder / ('info/data' if rearranged else 'test/data')
    lists.mkdir(parents=True)
    data.mkdir(parents=True)
    for shift, (split, rows) in enumerate(LSVID_SPLITS.items()):
        lines = []
        for pid, sequence, camera, frames in rows:
            prefix = lsvid_prefix(split, pid, sequence, camera)
            lines.append(f'{prefix} {pid}\n')
            for i, frame in enumerate(frames):
                # ids start at 0 again in every split: other people
                save_frame(folder / f'{prefix}_{frame}.jpg', 100 * shift + pid, camera, i)
        (lists / f'list_seq_{split}.txt').write_text(''.join(lines))
    write_lsvid_test(data / 'info_test.mat', lsvid_table(LSVID_TEST), LSVID_QUERY_ROWS)
    table = {
        'info_test': lsvid_table(LSVID_VAL).astype(np.int32),
        'query': np.array(LSVID_VAL_QUERY_ROWS, dtype=np.uint8).reshape(-1, 1),
    }
    scipy.io.savemat(data / 'info_val.mat', table)
    return Path(root)


def write_lsvid_test(path, table, query_rows):
    """MATLAB v7.3, which is HDF5 and shows the transpose: (4, N) float64."""
    with h5py.File(path, 'w') as file:
        file['info_test'] = np.asarray(table, dtype=np.float64).T
        file['query'] = np.asarray(query_rows, dtype=np.float64).reshape(1, -1)


# --- own data: split, pid, camera, tracklet, frame names ------------------------------------------
TRACKLETS = [
    *(('train', f'p{pid}', camera, name, tuple(f'{i}.jpg' for i in range(8, 12 + pid % 4)))
      for pid in range(2, 11)
      for camera, name in (('cam2', 'a'), ('cam10', 'a'), ('north', 'b'))),
    ('query', 'anna', 'cam2', 't1', ('f1.jpg', 'f2.jpg', 'f10.jpg')),
    ('query', 'p10', 'north', 't1', ('1.png', '2.png', '3.PNG')),
    ('query', 'p9', 'cam10', 't1', ('1.jpeg',)),
    ('gallery', 'anna', 'north', 't1', ('1.jpg', '2.jpeg', '3.png')),
    ('gallery', 'anna', 'cam10', 't2', ('1.jpg', '2.jpg', '3.jpg', '4.jpg')),
    ('gallery', 'p10', 'cam2', 't1', ('1.jpg', '2.jpg')),
    ('gallery', 'p9', 'cam2', 't10', ('1.jpg', '2.jpg')),
    ('gallery', 'p9', 'cam2', 't9', ('1.jpg', '2.jpg', '3.jpg')),
    ('gallery', 'zoe', 'south', 't1', ('1.jpg', '2.jpg')),
]  # fmt: skip


def make_tracklets(root, splits=('train', 'query', 'gallery')):
    """Own data as folders in ``root/tracklets``; returns ``root``."""
    folder = Path(root) / 'tracklets'
    people = {name: i for i, name in enumerate(sorted({row[1] for row in TRACKLETS}))}
    cameras = {name: i for i, name in enumerate(sorted({row[2] for row in TRACKLETS}))}
    for split, pid, camera, tracklet, frames in TRACKLETS:
        if split in splits:
            place = folder / split / pid / camera / tracklet
            for i, frame in reversed(list(enumerate(frames))):
                save_frame(place / frame, people[pid], 3 * cameras[camera], i)
            (place / 'notes.txt').write_text('no frame\n')
    return Path(root)


def make_tracklets_csv(root):
    """The same data described by ``root/tracklets.csv``, rows in no order; returns ``root``."""
    root = make_tracklets(root)
    rows = [
        (split, pid, camera, tracklet, f'tracklets/{split}/{pid}/{camera}/{tracklet}/{frame}')
        for split, pid, camera, tracklet, frames in TRACKLETS
        for frame in frames
    ]
    order = np.random.default_rng(0).permutation(len(rows))
    write_csv(root / 'tracklets.csv', [rows[i] for i in order])
    return root


def write_csv(path, rows, columns=('split', 'pid', 'camid', 'tracklet', 'path')):
    with open(path, 'w', newline='', encoding='utf-8') as file:
        csv.writer(file).writerows([columns, *rows])


# --- the two small datasets of two cameras -------------------------------------------------------
TWO_CAMERA_PEOPLE = ('person002', 'person010', 'person011', 'person300')
TWO_CAMERA_FRAMES = (3, 1, 10, 2)  # in the order in which the files are made


def _make_people(folders, name):
    for camera, folder in enumerate(folders):
        for i, person in enumerate(TWO_CAMERA_PEOPLE):
            for frame in TWO_CAMERA_FRAMES:
                save_frame(
                    folder / person / name.format(person, camera + 1, frame), i, camera, frame
                )


def make_ilids(root):
    """iLIDS-VID with ten splits of four people; returns ``root``."""
    folder = Path(root) / 'ilids-vid'
    sequences = folder / 'i-LIDS-VID' / 'sequences'
    _make_people([sequences / 'cam1', sequences / 'cam2'], 'cam{1}_{0}_{2:05d}.png')
    table = np.array([[4, 1, 3, 2], *[[1, 2, 3, 4]] * 9], dtype=np.uint16)
    (folder / 'train-test people splits').mkdir()
    path = folder / 'train-test people splits' / 'train_test_splits_ilidsvid.mat'
    scipy.io.savemat(path, {'ls_set': table})
    return Path(root)


def make_prid(root):
    """PRID 2011 with two splits of four people, listed in no order; returns ``root``."""
    folder = Path(root) / 'prid2011'
    shots = folder / 'prid_2011' / 'multi_shot'
    _make_people([shots / 'cam_a', shots / 'cam_b'], '{2:04d}.png')
    two, ten, eleven, last = TWO_CAMERA_PEOPLE
    splits = [
        {'train': [ten, two], 'test': [last, eleven]},
        {'train': [last, eleven], 'test': [two, ten]},
    ]
    (folder / 'splits_prid2011.json').write_text(json.dumps(splits))
    return Path(root)


def make_market(root, people=8):
    """Market-1501's folders of images: a query and two gallery cameras of each person."""
    for split in ('bounding_box_train', 'query', 'bounding_box_test'):
        folder = root / 'market1501' / 'Market-1501-v15.09.15' / split
        folder.mkdir(parents=True)
        for pid in range(1, people + 1):
            for camera in (1,) if split == 'query' else (2, 3):
                save_frame(folder / f'{pid:04d}_c{camera}s1_000001_00.jpg', pid, camera, 0)
    return root
