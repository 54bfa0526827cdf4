"""MARS and DukeMTMC-VideoReID, the host's loaders repaired: a data root in, its lists out.

The readers take ``attempt``, which makes a context around each tracklet: the default lets its
complaint through, ``tools/check_data.py`` notes it and goes on with the next tracklet.
"""

import contextlib
import os.path as osp
import re
import warnings

import numpy as np
import torchreid

from stmn_plugin.errors import InputError
from stmn_plugin.labels import relabel

from .index_cache import parse_once
from .listing import child_folders, data_root, first_existing, id_number, image_names, read_lines
from .tables import read_query_rows, read_table, starts_within_another
from .two_cameras import PRID2011, iLIDSVID

__all__ = ['PRID2011', 'DukeMTMCVidReID', 'Mars', 'iLIDSVID']

JUNK_PID = -1  # of MARS

# new 0001_C6_F0099_X30823.jpg, old 0001C6F0099X30823.jpg; D instead of X marks a distractor
DUKE_NAME = re.compile(
    r'(?P<pid>\d{1,9})_?C(?P<camera>\d{1,9})_?F(?P<frame>\d+)_?[XD](?P<time>\d+)\.(?i:jpg)'
)


class Mars(torchreid.data.datasets.video.Mars):
    """MARS with the host's split: queries out of the gallery, pid -1 dropped, pid 0 kept.

    The lists of names and the .mat tables are checked against each other; that the 1.2 million
    frames exist is left to ``tools/check_data.py``.
    """

    gallery_needs_queries = True  # of 1,980 queries, 140 have all their matches among the queries

    def __init__(self, root='', **kwargs):
        self.root = data_root(root)
        self.dataset_dir = find_mars(self.root)
        # no index on disk: its text lists are read in 0.9 s, an index of them in 0.5 s
        lists = parse_once(('mars',), self.dataset_dir, read_mars, on_disk=False)
        torchreid.data.VideoDataset.__init__(self, *lists, **kwargs)


def find_mars(root):
    """The MARS folder of a data root."""
    advice = 'place MARS there as bbox_train/, bbox_test/ and info/'
    return first_existing([osp.join(root, 'mars')], advice)


def read_mars(folder):
    """The train, query and gallery lists of a MARS folder, and what they were read from."""
    train, test, query_rows, sources = read_mars_tables(folder)
    query = [test[row] for row in query_rows]
    searched = sorted(set(range(len(test))) - set(query_rows))
    gallery = [test[row] for row in searched if test[row][1] != JUNK_PID]
    train = relabel([tracklet for tracklet in train if tracklet[1] != JUNK_PID])
    _refuse_empty(folder, train=train, query=query, gallery=gallery)
    return (train, query, gallery), sources


def read_mars_tables(folder, attempt=contextlib.nullcontext):
    """All tracklets of MARS with raw pids, also junk.

    Args:
        folder (str): the MARS folder.
        attempt (callable): makes the context around each row.

    Returns:
        tuple: train and test tracklets by row (None: refused by ``attempt``), 0-based rows of the
        queries, the files and folders read.
    """
    names = ('train_name.txt', 'tracks_train_info.mat', 'test_name.txt', 'tracks_test_info.mat')
    files = [
        first_existing(
            [osp.join(folder, 'info', name)], 'it is part of the evaluation code of MARS'
        )
        for name in (*names, 'query_IDX.mat')
    ]
    train_names, train_mat, test_names, test_mat, query_mat = files
    image_folders = [
        first_existing([osp.join(folder, name)], 'place the frames of MARS there')
        for name in ('bbox_train', 'bbox_test')
    ]
    train = read_mars_tracklets(
        image_folders[0], train_names, train_mat, 'track_train_info', attempt
    )
    test = read_mars_tracklets(image_folders[1], test_names, test_mat, 'track_test_info', attempt)
    query_rows = read_query_rows(query_mat, 'query_IDX', len(test)).tolist()
    for row in query_rows:
        with attempt():
            if test[row] is not None and test[row][1] == JUNK_PID:
                raise InputError(
                    f'{query_mat}: query_IDX names row {row + 1}, a junk tracklet (pid -1)'
                )
    return train, test, query_rows, files + image_folders


def read_mars_tracklets(
    image_folder, names_path, table_path, variable, attempt=contextlib.nullcontext
):
    """One tracklet per row of a MARS table; every row is checked, of junk (pid -1) less.

    Args:
        image_folder (str): bbox_train or bbox_test.
        names_path (str): list of the frames, ``0001C1T0001F001.jpg``: id, camera, tracklet, frame.
        table_path (str): .mat file with rows ``start, end, pid, camera``, 1-based inclusive.
        variable (str): name of the table in it.
        attempt (callable): see :func:`read_mars_tables`.

    Returns:
        list of (img_paths, pid, camid, 0) in the order of the rows; None for a refused row.
    """
    names = read_lines(names_path, 'it is part of the evaluation code of MARS')
    table = read_table(table_path, variable)
    start, end, pid, camera = table.T

    def refuse(row, what):
        usable[row] = False
        with attempt():
            raise InputError(
                f'{table_path}: row {row + 1} of {variable} {table[row].tolist()}: {what}'
            )

    usable = np.ones(len(table), dtype=bool)

    for bad, what in (
        (start > end, 'empty tracklet, it starts after its end'),
        ((start < 1) | (end > len(names)), f'outside the {len(names)} names of {names_path}'),
        (starts_within_another(start, end), 'its first frame is in another tracklet, too'),
        ((camera < 1) & (pid != JUNK_PID), 'cameras are counted from 1'),
    ):
        for row in np.flatnonzero(bad & usable):
            refuse(row, what)

    if usable.all() and (unused := len(names) - (end - start + 1).sum()):
        warnings.warn(
            f'{names_path}: {unused} of {len(names)} frames are in no row of {variable}',
            stacklevel=2,
        )

    # the first six letters of every name, beside those that its row asks for; junk is not checked
    kept = np.flatnonzero((pid != JUNK_PID) & usable)
    length = (end - start + 1)[kept]
    frame = np.arange(length.sum()) + np.repeat(
        start[kept] - 1 - (length.cumsum() - length), length
    )
    heads = [f'{p:04d}C{c}' for p, c in zip(pid[kept].tolist(), camera[kept].tolist(), strict=True)]
    wanted = np.repeat(np.array(heads, dtype='U'), length)
    differs = np.flatnonzero(np.array(names, dtype='U6')[frame] != wanted)
    rows, firsts = np.unique(np.repeat(kept, length)[differs], return_index=True)
    for row, first in zip(rows, differs[firsts], strict=True):
        refuse(
            row,
            f'line {frame[first] + 1} of {names_path} is {names[frame[first]]!r}, '
            f'expected {str(wanted[first])!r}...',
        )

    tracklets = [None] * len(table)
    for row in np.flatnonzero(usable).tolist():
        first, last, person, cam = table[row].tolist()
        folder = osp.join(image_folder, names[first - 1][:4], '')
        paths = tuple([folder + name for name in names[first - 1 : last]])
        tracklets[row] = (paths, person, cam - 1, 0)
    return tracklets


class DukeMTMCVidReID(torchreid.data.datasets.video.DukeMTMCVidReID):
    """DukeMTMC-VideoReID, every frame of every tracklet, labels in the order of the pids.

    The host looks frames up as F0001, F0002, ..., loses those behind a gap, and keeps absolute
    paths in a JSON file: ours lists the folders and reads and writes no such file.
    """

    gallery_needs_queries = False  # each query tracklet is in the gallery folder, too

    def __init__(self, root='', min_seq_len=0, **kwargs):
        self.root = data_root(root)
        self.dataset_dir = find_duke(self.root)
        self.min_seq_len = min_seq_len
        lists = parse_once(('duke',), self.dataset_dir, read_duke)
        lists = [[t for t in tracklets if len(t[0]) >= min_seq_len] for tracklets in lists]
        _refuse_empty(self.dataset_dir, train=lists[0], query=lists[1], gallery=lists[2])
        lists[0] = relabel(lists[0])
        torchreid.data.VideoDataset.__init__(self, *lists, **kwargs)


def find_duke(root):
    """The DukeMTMC-VideoReID folder of a data root."""
    return first_existing(
        [
            osp.join(root, 'dukemtmc-vidreid', 'DukeMTMC-VideoReID'),
            osp.join(root, 'DukeMTMC-VideoReID'),
        ],
        'place your copy there as train/, query/ and gallery/; the parent data set was '
        'withdrawn by its university in 2019, so no download is offered',
    )


def read_duke(folder, attempt=contextlib.nullcontext):
    """The three lists of a DukeMTMC-VideoReID folder with raw pids, and the folders read."""
    lists, folders = [], []
    for split in ('train', 'query', 'gallery'):
        split_folder = first_existing([osp.join(folder, split)], 'the dataset has such a folder')
        folders.append(split_folder)
        tracklets, person_folders = [], {}
        for pid in child_folders(split_folder, 'person'):
            pid_folder = osp.join(split_folder, pid)
            if id_number(pid) is None:
                continue  # left out, and said so
            folders.append(pid_folder)
            names = []
            with attempt():
                first = person_folders.setdefault(int(pid), pid_folder)
                if first != pid_folder:
                    raise InputError(f'{pid_folder}: the person of {first}, too')
                names = child_folders(pid_folder, 'tracklet')
            for tracklet in names:
                tracklet_folder = osp.join(pid_folder, tracklet)
                folders.append(tracklet_folder)
                with attempt():
                    paths, camid = read_duke_tracklet(tracklet_folder)
                    tracklets.append((paths, int(pid), camid, 0))
        lists.append(tracklets)
    _refuse_empty(folder, train=lists[0], query=lists[1], gallery=lists[2])
    return lists, folders


def read_duke_tracklet(folder):
    """The frames of a tracklet folder in the order of their frame numbers, and its camera."""
    frames = []
    for name in image_names(folder):
        match = DUKE_NAME.fullmatch(name)
        if match is None:
            wanted = '0001_C6_F0099_X30823.jpg or 0001C6F0099X30823.jpg'
            raise InputError(f'{osp.join(folder, name)}: a frame is named like {wanted}')
        frames.append((int(match['frame']), int(match['time']), name, int(match['camera'])))
    cameras = sorted({camera for *_, camera in frames})
    if len(cameras) > 1 or cameras[0] < 1:
        raise InputError(f'{folder}: frames of the cameras {cameras}, expected one, counted from 1')
    frames.sort()
    for (*one, first, _), (*other, second, _) in zip(frames, frames[1:], strict=False):
        if one == other:
            raise InputError(f'{folder}: {first} and {second} are one frame in two files')
    return tuple(osp.join(folder, name) for _, _, name, _ in frames), cameras[0] - 1


def _refuse_empty(folder, **splits):
    for name, tracklets in splits.items():
        if not tracklets:
            raise InputError(f'{folder}: the {name} split has no tracklet')
