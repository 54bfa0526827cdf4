"""MARS and DukeMTMC-VideoReID: repaired loaders of the host, which read lists from a data root.

The readers take the splits to read, and ``attempt``, see ``listing.Attempt``.
"""

import contextlib
import os.path as osp
import re
import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torchreid

from stmn_plugin.data.tracklets import Tracklet
from stmn_plugin.errors import InputError
from stmn_plugin.labels import JUNK_PID, natural_key, relabel

from .index_cache import parse_once
from .listing import (
    SPLITS,
    Attempt,
    Lists,
    TrackletDataset,
    child_folders,
    data_root,
    first_existing,
    id_number,
    image_names,
    one_frame_twice,
    read_lines,
    splits_of,
)
from .tables import read_query_rows, read_table, starts_within_another
from .two_cameras import PRID2011, iLIDSVID

__all__ = ['PRID2011', 'DukeMTMCVidReID', 'Mars', 'iLIDSVID']

# new 0001_C6_F0099_X30823.jpg, old 0001C6F0099X30823.jpg; D instead of X marks a distractor
DUKE_NAME = re.compile(
    r'(?P<pid>\d{1,9})_?C(?P<camera>\d{1,9})_?F(?P<frame>\d+)_?[XD](?P<time>\d+)\.(?i:jpg)',
    re.ASCII,
)


class Mars(
    TrackletDataset,
    torchreid.data.datasets.video.Mars,  # type: ignore[misc]  # the host has no types
):
    """MARS with the host's split: queries removed from the gallery, pid -1 dropped, pid 0 kept.

    The lists of names and the .mat tables are checked against each other; that the 1.2 million
    frames exist is left to ``tools/check_data.py``.
    """

    gallery_needs_queries = True  # of 1,980 queries, 140 have all their matches among the queries

    def __init__(self, root: str = '', *, mode: str = 'train', **kwargs: Any):
        self.root = data_root(root)
        self.dataset_dir = find_mars(self.root)
        # no index on disk: its text lists are read in 0.9 s, an index of them in 0.5 s
        lists = parse_once(('mars',), self.dataset_dir, read_mars, splits_of(mode), on_disk=False)
        super().__init__(*lists, mode=mode, **kwargs)


def find_mars(root: str) -> str:
    """Find the MARS folder of a data root."""
    advice = 'place MARS there as bbox_train/, bbox_test/ and info/'
    return first_existing([osp.join(root, 'mars')], advice)


def read_mars(folder: str, splits: Sequence[str] = SPLITS) -> tuple[Lists, list[str]]:
    """Read the train, query and gallery lists of a MARS folder; also return the files read."""
    tables = read_mars_tables(folder, splits)
    train, test = ([t for t in rows if t is not None] for rows in (tables.train, tables.test))
    query = [test[row] for row in tables.query_rows]
    searched = sorted(set(range(len(test))) - set(tables.query_rows))
    gallery = [test[row] for row in searched if test[row][1] != JUNK_PID]
    train = relabel([tracklet for tracklet in train if tracklet[1] != JUNK_PID])
    _refuse_empty(folder, splits, (train, query, gallery))
    return (train, query, gallery), tables.sources


class MarsTables(NamedTuple):
    """All tracklets of MARS with raw pids, including junk; None for a rejected row."""

    train: list[Tracklet | None]
    test: list[Tracklet | None]
    query_rows: list[int]  # from 0, of ``test``
    sources: list[str]  # the files and folders read


def read_mars_tables(
    folder: str, splits: Sequence[str] = SPLITS, attempt: Attempt = contextlib.nullcontext
) -> MarsTables:
    """Read the tables of a MARS folder; the training table only if it is among the splits."""
    trained = 'train' in splits
    parts = ['train', 'test'] if trained else ['test']
    names = [name for part in parts for name in (f'{part}_name.txt', f'tracks_{part}_info.mat')]
    files = [
        first_existing(
            [osp.join(folder, 'info', name)], 'it is part of the evaluation code of MARS'
        )
        for name in (*names, 'query_IDX.mat')
    ]
    image_folders = [
        first_existing([osp.join(folder, f'bbox_{part}')], 'place the frames of MARS there')
        for part in parts
    ]
    tracklets = [
        read_mars_tracklets(images, files[2 * i], files[2 * i + 1], f'track_{part}_info', attempt)
        for i, (part, images) in enumerate(zip(parts, image_folders, strict=True))
    ]
    test = tracklets[-1]
    query_rows = read_query_rows(files[-1], 'query_IDX', len(test)).tolist()
    for row in query_rows:
        with attempt():
            query = test[row]
            if query is not None and query[1] == JUNK_PID:
                raise InputError(
                    f'{files[-1]}: query_IDX names row {row + 1}, a junk tracklet (pid -1)'
                )
    return MarsTables(tracklets[0] if trained else [], test, query_rows, files + image_folders)


def read_mars_tracklets(
    image_folder: str,
    names_path: str,
    table_path: str,
    variable: str,
    attempt: Attempt = contextlib.nullcontext,
) -> list[Tracklet | None]:
    """Read one tracklet per row of a MARS table; check every row, of junk (pid -1) less.

    Args:
        image_folder: bbox_train or bbox_test.
        names_path: list of the frames, ``0001C1T0001F001.jpg``: id, camera, tracklet, frame.
        table_path: .mat file with rows ``start, end, pid, camera``, 1-based inclusive.
        variable: name of the table in it.
        attempt: see ``listing.Attempt``.

    Returns:
        (img_paths, pid, camid, 0) in the order of the rows; None for a refused row.
    """
    names = read_lines(names_path, 'it is part of the evaluation code of MARS')
    table = read_table(table_path, variable)
    start, end, pid, camera = table.T

    def refuse(row: int, what: str) -> None:
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
        for row in np.flatnonzero(bad & usable).tolist():
            refuse(row, what)

    if usable.all() and (unused := len(names) - (end - start + 1).sum()):
        warnings.warn(
            f'{names_path}: {unused} of {len(names)} frames are in no row of {variable}',
            stacklevel=2,
        )

    # the first six letters of every name against those that its row requires, except for junk
    kept = np.flatnonzero((pid != JUNK_PID) & usable)
    length = (end - start + 1)[kept]
    begin = np.repeat(start[kept] - 1, length)
    frame = np.arange(length.sum()) + begin - np.repeat(length.cumsum() - length, length)
    row_of = np.repeat(kept, length)
    listed = np.array(names, dtype='U')
    heads = [f'{p:04d}C{c}' for p, c in zip(pid[kept].tolist(), camera[kept].tolist(), strict=True)]
    expected = np.repeat(np.array(heads, dtype='U'), length)
    differs = np.flatnonzero(listed.astype('U6')[frame] != expected)
    rows, firsts = np.unique(row_of[differs], return_index=True)
    for row, first in zip(rows.tolist(), differs[firsts].tolist(), strict=True):
        refuse(
            row,
            f'line {frame[first] + 1} of {names_path} is {names[frame[first]]!r}, '
            f'expected {str(expected[first])!r}...',
        )

    if len(set(names)) < len(names):
        lines: dict[str, int] = {}  # name → its first line
        for row, line in zip(row_of.tolist(), (frame + 1).tolist(), strict=True):
            first = lines.setdefault(names[line - 1], line)
            if first != line and usable[row]:
                twice = f'lines {first} and {line} of {names_path} are the same frame'
                refuse(row, f'{twice}, {names[line - 1]!r}')

    # frames of a row that do not come after their predecessors
    backward = np.concatenate([[False], listed[1:] < listed[:-1]])[frame] & (frame > begin)
    disordered: dict[int, int] = {}  # row → line of the first such frame
    for place in np.flatnonzero(backward).tolist():
        row, line = int(row_of[place]), int(frame[place]) + 1
        if natural_key(names[line - 2]) > natural_key(names[line - 1]):  # F999 before F1000
            disordered.setdefault(row, line)
    if disordered:
        row, line = next(iter(disordered.items()))
        warnings.warn(
            f'{names_path}: the frames of {len(disordered)} rows of {variable} do not ascend, '
            f'the first in row {row + 1}, line {line}; they are taken in the order of the list',
            stacklevel=2,
        )

    tracklets: list[Tracklet | None] = [None] * len(table)
    for row in np.flatnonzero(usable).tolist():
        first, last, person, cam = table[row].tolist()
        folder = osp.join(image_folder, names[first - 1][:4], '')
        paths = tuple([folder + name for name in names[first - 1 : last]])
        tracklets[row] = (paths, person, cam - 1, 0)
    return tracklets


class DukeMTMCVidReID(
    TrackletDataset,
    torchreid.data.datasets.video.DukeMTMCVidReID,  # type: ignore[misc]  # the host has no types
):
    """DukeMTMC-VideoReID, every frame of every tracklet, labels in the order of the pids.

    The host looks frames up as F0001, F0002, ..., loses those behind a gap, and keeps absolute
    paths in a JSON file: ours lists the folders and reads and writes no such file.
    """

    gallery_needs_queries = False  # each query tracklet is in the gallery folder, too

    def __init__(self, root: str = '', min_seq_len: int = 0, *, mode: str = 'train', **kwargs: Any):
        self.root = data_root(root)
        self.dataset_dir = find_duke(self.root)
        self.min_seq_len = min_seq_len
        splits = splits_of(mode)
        lists = parse_once(('duke',), self.dataset_dir, read_duke, splits)
        train, query, gallery = (
            [t for t in tracklets if len(t[0]) >= min_seq_len] for tracklets in lists
        )
        _refuse_empty(self.dataset_dir, splits, (train, query, gallery))
        super().__init__(relabel(train), query, gallery, mode=mode, **kwargs)


def find_duke(root: str) -> str:
    """Find the DukeMTMC-VideoReID folder of a data root."""
    return first_existing(
        [
            osp.join(root, 'dukemtmc-vidreid', 'DukeMTMC-VideoReID'),
            osp.join(root, 'DukeMTMC-VideoReID'),
        ],
        'place your copy there as train/, query/ and gallery/; the parent data set was '
        'withdrawn by its university in 2019, so no download is offered',
    )


def read_duke(
    folder: str, splits: Sequence[str] = SPLITS, attempt: Attempt = contextlib.nullcontext
) -> tuple[Lists, list[str]]:
    """Read the lists of a DukeMTMC-VideoReID folder with raw pids; return also the folders."""
    lists: Lists = [], [], []
    folders = []
    for split, tracklets in zip(SPLITS, lists, strict=True):
        if split not in splits:
            continue
        split_folder = first_existing([osp.join(folder, split)], 'the dataset has such a folder')
        folders.append(split_folder)
        person_folders: dict[int, str] = {}
        for pid in child_folders(split_folder, 'person'):
            pid_folder = osp.join(split_folder, pid)
            if id_number(pid) is None:
                continue  # ignored and reported
            folders.append(pid_folder)
            names: list[str] = []
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
    _refuse_empty(folder, splits, lists)
    return lists, folders


def read_duke_tracklet(folder: str) -> tuple[tuple[str, ...], int]:
    """Return the frames of a tracklet folder in the order of their numbers, and its camera."""
    frames = []
    for name in image_names(folder):
        match = DUKE_NAME.fullmatch(name)
        if match is None:
            expected = '0001_C6_F0099_X30823.jpg or 0001C6F0099X30823.jpg'
            raise InputError(f'{osp.join(folder, name)}: a frame is named like {expected}')
        frames.append((int(match['frame']), int(match['time']), name, int(match['camera'])))
    cameras = sorted({camera for *_, camera in frames})
    if len(cameras) > 1 or cameras[0] < 1:
        raise InputError(f'{folder}: frames of the cameras {cameras}, expected one, counted from 1')
    frames.sort()
    for (*one, first, _), (*other, second, _) in zip(frames, frames[1:], strict=False):
        if one == other:
            raise one_frame_twice(folder, first, second)
    return tuple(osp.join(folder, name) for _, _, name, _ in frames), cameras[0] - 1


def _refuse_empty(folder: str, splits: Sequence[str], lists: Lists) -> None:
    for split, tracklets in zip(SPLITS, lists, strict=True):
        if split in splits and not tracklets:
            raise InputError(f'{folder}: the {split} split has no tracklet')
