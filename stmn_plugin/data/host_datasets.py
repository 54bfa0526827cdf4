"""The host's video datasets with their loaders repaired: a data root in, the host's lists out."""

import json
import os.path as osp
import re
import warnings

import numpy as np
import torchreid

from stmn_plugin.data.listing import (
    child_folders,
    data_root,
    first_existing,
    image_names,
    natural_key,
    number_labels,
    parse_once,
    read_lines,
    read_query_rows,
    read_table,
    relabel,
    scan,
)
from stmn_plugin.errors import InputError

# new 0001_C6_F0099_X30823.jpg, old 0001C6F0099X30823.jpg; D instead of X marks a distractor
DUKE_NAME = re.compile(
    r'(?P<pid>\d+)_?C(?P<camera>\d+)_?F(?P<frame>\d+)_?[XD](?P<time>\d+)\.(?i:jpg)'
)


class Mars(torchreid.data.datasets.video.Mars):
    """MARS with the host's split: queries out of the gallery, pid -1 dropped, pid 0 kept.

    The lists of names and the .mat tables are checked against each other (whole numbers of any
    type are fine, the host needs integers); that the frames exist is not, there are 1.2 million.
    """

    gallery_needs_queries = True  # of 1,980 queries, 140 have all their matches among the queries

    def __init__(self, root='', **kwargs):
        self.root = data_root(root)
        self.dataset_dir = first_existing(
            [osp.join(self.root, self.dataset_dir)],
            'place MARS there as bbox_train/, bbox_test/ and info/',
        )
        lists = parse_once(('mars', self.dataset_dir), lambda: read_mars(self.dataset_dir))
        torchreid.data.VideoDataset.__init__(self, *lists, **kwargs)


def read_mars(folder):
    """The train, query and gallery lists of a MARS folder, and what they were read from."""
    info = osp.join(folder, 'info')
    files = [
        first_existing([osp.join(info, name)], 'it is part of the evaluation code of MARS')
        for name in (
            'train_name.txt',
            'tracks_train_info.mat',
            'test_name.txt',
            'tracks_test_info.mat',
            'query_IDX.mat',
        )
    ]
    train_names, train_mat, test_names, test_mat, query_mat = files
    image_folders = [
        first_existing([osp.join(folder, name)], 'place the frames of MARS there')
        for name in ('bbox_train', 'bbox_test')
    ]
    train = read_mars_tracklets(image_folders[0], train_names, train_mat, 'track_train_info')
    test = read_mars_tracklets(image_folders[1], test_names, test_mat, 'track_test_info')
    query_rows = read_query_rows(query_mat, 'query_IDX', len(test)).tolist()
    for row in query_rows:
        if test[row] is None:
            raise InputError(
                f'{query_mat}: query_IDX names row {row + 1}, a junk tracklet (pid -1)'
            )
    gallery_rows = sorted(set(range(len(test))) - set(query_rows))
    query = [test[row] for row in query_rows]
    gallery = [test[row] for row in gallery_rows if test[row] is not None]
    train = relabel([tracklet for tracklet in train if tracklet is not None])
    _refuse_empty(folder, train=train, query=query, gallery=gallery)
    return (train, query, gallery), files + image_folders


def read_mars_tracklets(image_folder, names_path, table_path, variable):
    """One tracklet per row of a MARS table, None for junk (pid -1); every row is checked.

    Args:
        image_folder (str): bbox_train or bbox_test.
        names_path (str): list of the frames, ``0001C1T0001F001.jpg``: id, camera, tracklet, frame.
        table_path (str): .mat file with rows ``start, end, pid, camera``, 1-based inclusive.
        variable (str): name of the table in it.

    Returns:
        list of (img_paths, pid, camid, 0) or None, in the order of the rows.
    """
    names = read_lines(names_path, 'it is part of the evaluation code of MARS')
    table = read_table(table_path, variable)
    start, end, pid, camera = table.T

    def refuse(row, what):
        raise InputError(f'{table_path}: row {row + 1} of {variable} {table[row].tolist()}: {what}')

    for bad, what in (
        (start > end, 'empty tracklet, it starts after its end'),
        ((start < 1) | (end > len(names)), f'outside the {len(names)} names of {names_path}'),
        ((camera < 1) & (pid != -1), 'cameras are counted from 1'),
    ):
        if bad.any():
            refuse(bad.argmax(), what)

    # the first six letters of every name, beside those that its row asks for; junk is not checked
    kept = np.flatnonzero(pid != -1)
    length = (end - start + 1)[kept]
    frame = np.arange(length.sum()) + np.repeat(
        start[kept] - 1 - (length.cumsum() - length), length
    )
    heads = [f'{p:04d}C{c}' for p, c in zip(pid[kept].tolist(), camera[kept].tolist(), strict=True)]
    wanted = np.repeat(np.array(heads, dtype='U'), length)
    differs = np.array(names, dtype='U6')[frame] != wanted
    if differs.any():
        first = differs.argmax()
        refuse(
            np.repeat(kept, length)[first],
            f'line {frame[first] + 1} of {names_path} is {names[frame[first]]!r}, '
            f'expected {str(wanted[first])!r}...',
        )

    tracklets = [None] * len(table)
    for row, (first, last, person, cam) in zip(kept.tolist(), table[kept].tolist(), strict=True):
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
        self.dataset_dir = first_existing(
            [
                osp.join(self.root, self.dataset_dir, 'DukeMTMC-VideoReID'),
                osp.join(self.root, 'DukeMTMC-VideoReID'),
            ],
            'place your copy there as train/, query/ and gallery/; the parent data set was '
            'withdrawn by its university in 2019, so no download is offered',
        )
        self.min_seq_len = min_seq_len
        lists = parse_once(('duke', self.dataset_dir), lambda: read_duke(self.dataset_dir))
        lists = [[t for t in tracklets if len(t[0]) >= min_seq_len] for tracklets in lists]
        lists[0] = relabel(lists[0])
        torchreid.data.VideoDataset.__init__(self, *lists, **kwargs)


def read_duke(folder):
    """The three lists of a DukeMTMC-VideoReID folder with raw pids, and the folders read."""
    lists, folders = [], []
    for split in ('train', 'query', 'gallery'):
        split_folder = first_existing([osp.join(folder, split)], 'the dataset has such a folder')
        folders.append(split_folder)
        tracklets = []
        for pid in child_folders(split_folder, 'person'):
            pid_folder = osp.join(split_folder, pid)
            if not pid.isdecimal():
                warnings.warn(f'{pid_folder}: ignored, its name is no person id', stacklevel=2)
                continue
            folders.append(pid_folder)
            for tracklet in child_folders(pid_folder, 'tracklet'):
                tracklet_folder = osp.join(pid_folder, tracklet)
                folders.append(tracklet_folder)
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
    return tuple(osp.join(folder, name) for _, _, name, _ in sorted(frames)), cameras[0] - 1


class iLIDSVID(torchreid.data.datasets.video.iLIDSVID):  # noqa: N801 (the host's name)
    """iLIDS-VID, frames in the order of time; the splits are read, never written."""

    gallery_needs_queries = False

    def __init__(self, root='', split_id=0, **kwargs):
        self.root = data_root(root)
        self.dataset_dir = first_existing(
            [osp.join(self.root, self.dataset_dir)], 'unpack iLIDS-VID.tar there'
        )
        sequences = osp.join(self.dataset_dir, 'i-LIDS-VID', 'sequences')
        cameras = [osp.join(sequences, name) for name in ('cam1', 'cam2')]
        splits = osp.join(self.dataset_dir, 'splits.json')
        if osp.exists(splits):
            split = _read_split(splits, split_id)
        else:
            path = osp.join('train-test people splits', 'train_test_splits_ilidsvid.mat')
            split = read_ilids_split(osp.join(self.dataset_dir, path), cameras[0], split_id)
        lists = read_two_cameras(cameras, split)
        torchreid.data.VideoDataset.__init__(self, *lists, **kwargs)


def read_ilids_split(path, person_folder, split_id):
    """One row of the .mat: 1-based numbers of the sorted people, the first half for testing."""
    first_existing([path], 'it comes with iLIDS-VID.tar')
    people = sorted(name for name, is_dir in scan(person_folder) if is_dir)
    table = read_table(path, 'ls_set', columns=len(people))
    _check_split_id(path, split_id, len(table))
    row = table[split_id]
    if sorted(row.tolist()) != list(range(1, len(people) + 1)):
        raise InputError(f'{path}: row {split_id + 1} of ls_set does not number {person_folder}/*')
    people = [people[number - 1] for number in row.tolist()]
    half = len(people) // 2
    return {'train': people[half:], 'test': people[:half]}


class PRID2011(torchreid.data.datasets.video.PRID2011):
    """PRID 2011, frames in the order of time."""

    gallery_needs_queries = False

    def __init__(self, root='', split_id=0, **kwargs):
        self.root = data_root(root)
        self.dataset_dir = first_existing(
            [osp.join(self.root, self.dataset_dir)],
            'unpack prid_2011 there, beside splits_prid2011.json',
        )
        shots = osp.join(self.dataset_dir, 'prid_2011', 'multi_shot')
        cameras = [osp.join(shots, name) for name in ('cam_a', 'cam_b')]
        split = _read_split(osp.join(self.dataset_dir, 'splits_prid2011.json'), split_id)
        torchreid.data.VideoDataset.__init__(self, *read_two_cameras(cameras, split), **kwargs)


def read_two_cameras(camera_folders, split):
    """Train on both cameras; search camera 2 for the people of camera 1.

    Args:
        camera_folders (list): two folders of person folders of frames.
        split (dict): names of the 'train' and the 'test' people.
    """

    def tracklets(people, camids):
        pids = number_labels(people)
        return [
            (_all_frames(osp.join(camera_folders[camid], person)), pids[person], camid, 0)
            for person in sorted(people, key=natural_key)
            for camid in camids
        ]

    for folder in camera_folders:
        first_existing([folder], 'it holds one folder per person')
    return (
        tracklets(split['train'], [0, 1]),
        tracklets(split['test'], [0]),
        tracklets(split['test'], [1]),
    )


def _all_frames(folder):
    return tuple(osp.join(folder, name) for name in image_names(folder))


def _read_split(path, split_id):
    first_existing([path], 'it lists the people of each split')
    try:
        with open(path, encoding='utf-8') as file:
            splits = json.load(file)
        _check_split_id(path, split_id, len(splits))
        return {name: list(splits[split_id][name]) for name in ('train', 'test')}
    except (ValueError, KeyError, TypeError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f'{path}: no list of splits with train and test people in it') from error


def _check_split_id(path, split_id, num_splits):
    if not 0 <= split_id < num_splits:
        raise InputError(
            f'{path}: has splits 0 to {num_splits - 1}, data.split_id asks for {split_id}'
        )


def _refuse_empty(folder, **splits):
    for name, tracklets in splits.items():
        if not tracklets:
            raise InputError(f'{folder}: the {name} split has no tracklet')
