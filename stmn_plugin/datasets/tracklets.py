"""Own data: read train, query and gallery lists from image folders or a CSV."""

import contextlib
import os.path as osp
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

from stmn_plugin.data.frames import IMAGE_SUFFIXES
from stmn_plugin.data.tracklets import Tracklet
from stmn_plugin.errors import InputError
from stmn_plugin.labels import UNKNOWN, UNKNOWN_PERSON, natural_key, number_labels

from .csv_rows import csv_rows
from .index_cache import parse_once
from .listing import (
    SPLITS,
    TEST_SPLITS,
    Attempt,
    Lists,
    TrackletDataset,
    child_folders,
    data_root,
    image_names,
    is_image,
    scan,
    splits_of,
)
from .unfinished import refuse_unfinished

COLUMNS = ('split', 'pid', 'camid', 'tracklet', 'path')
ADVICE = (
    'give tracklets.csv with the columns ' + ','.join(COLUMNS) + ', or folders '
    '<train|query|gallery>/<pid>/<camid>/<tracklet>/*.jpg'
)


class TrackletName(NamedTuple):
    """The key of a tracklet; every part is any text."""

    split: str
    pid: str
    camid: str
    tracklet: str


Images: TypeAlias = dict[tuple[str, str], tuple[int, TrackletName]]
"""Split and real path of an image → the line of a CSV that has it, and its tracklet."""


class Tracklets(TrackletDataset):
    """Your own tracklets.

    ``tracklets.csv`` in ``<root>`` or ``<root>/tracklets/`` goes before the split folders in one of
    these; data in both is refused. A CSV has one row per frame, its relative paths start at its
    own folder, the frames of a tracklet are sorted by path.

    Pids and cameras are any text, numbered in natural order ('p2' before 'p10'): train pids for
    themselves, query and gallery pids together, the cameras of query and gallery and after them
    those of train alone. Names of tracklets may start again for each person and camera. A query or
    gallery tracklet of the pid ``unknown`` has no label: it is neither right nor wrong. A split
    that the mode does not read may be absent: train without test data, or test a model without
    training data.

    Args:
        root: see above.
        **kwargs: the host's (mode, transform, seq_len, ...).
    """

    gallery_needs_queries = False  # only the gallery split is searched

    def __init__(self, root: str = '', *, mode: str = 'train', **kwargs: Any):
        self.root = data_root(root)
        self.dataset_dir = find_source(self.root)
        splits = splits_of(mode)
        lists = parse_once(('tracklets',), self.dataset_dir, read_own_tracklets, splits)
        super().__init__(*lists, mode=mode, **kwargs)


def find_source(root: str) -> str:
    """Find the CSV, or the folder of split folders, that describes the data below ``root``."""
    inner = osp.join(root, 'tracklets')
    tables = [osp.join(folder, 'tracklets.csv') for folder in (root, inner)]
    tables = [path for path in tables if osp.lexists(path) and not osp.isdir(path)]
    folders = [folder for folder in (inner, root) if split_folders(folder)]
    for first, *others in filter(None, (tables, folders)):
        if others:  # ambiguous: do not guess which one is meant
            both = f'{first} and {others[0]}'
            raise InputError(f'{both}: both hold tracklets; rename one, or move it elsewhere')
        if first in folders:
            refuse_unfinished(first)
        return first
    problem = 'no tracklets in it' if osp.exists(root) else 'not found'
    raise InputError(f'{root}: {problem}; {ADVICE}')


def split_folders(folder: str) -> list[str]:
    """Return the paths of the split folders in a folder."""
    paths = (osp.join(folder, split) for split in SPLITS)
    return [path for path in paths if osp.isdir(path)]


def read_own_tracklets(
    source: str, splits: Sequence[str] = SPLITS, attempt: Attempt = contextlib.nullcontext
) -> tuple[Lists, list[str]]:
    """Read the three lists of a CSV or a folder; return also the files and folders read.

    Args:
        source: what :func:`find_source` found.
        splits: those that are needed. Of others a CSV's rows are taken as they are.
        attempt: makes the context around each folder or row, see ``listing.Attempt``.
    """
    read = read_folders if osp.isdir(source) else read_csv
    frames, sources = read(source, splits, attempt)
    return number_tracklets(frames), sources


def read_folders(
    folder: str, splits: Sequence[str] = SPLITS, attempt: Attempt = contextlib.nullcontext
) -> tuple[dict[TrackletName, tuple[str, ...]], list[str]]:
    """Find the frames of ``<split>/<pid>/<camid>/<tracklet>/*.jpg``.

    Args:
        folder: holds the split folders; nothing else if it is called ``tracklets``, while a data
            root may hold other datasets.
        splits: those that are read.
        attempt: see :func:`read_own_tracklets`.

    Returns:
        The paths of each tracklet, and the folders read.
    """
    if osp.basename(folder) == 'tracklets':
        found = [name for name, is_dir in scan(folder) if is_dir]
        unknown = sorted(set(found) - set(SPLITS), key=natural_key)
        with attempt():
            if unknown:
                path = osp.join(folder, unknown[0])
                raise InputError(f'{path}: unknown split, expected {SPLITS}')
    frames: dict[TrackletName, tuple[str, ...]] = {}
    folders = [folder]
    for split in (split for split in SPLITS if osp.isdir(osp.join(folder, split))):
        if split not in splits:
            folders.append(osp.join(folder, split))  # known, so it is not left out
            continue
        levels = ('<pid>', '<camid>', '<tracklet>')
        for names, tracklet_folder in _descend(osp.join(folder, split), levels, folders, attempt):
            with attempt():
                _check_person(tracklet_folder, split, names[0])
                frames[TrackletName(split, *names)] = tuple(
                    osp.join(tracklet_folder, name) for name in image_names(tracklet_folder)
                )
    return frames, folders


def _descend(
    folder: str, levels: Sequence[str], visited: list[str], attempt: Attempt
) -> Iterator[tuple[tuple[str, ...], str]]:
    """Yield the names on the way and the path of every folder ``len(levels)`` levels deeper."""
    visited.append(folder)
    if not levels:
        yield (), folder
        return
    children: list[str] = []
    with attempt():
        children = child_folders(folder, levels[0])
    for child in children:
        for names, path in _descend(osp.join(folder, child), levels[1:], visited, attempt):
            yield (child, *names), path


def read_csv(
    path: str, splits: Sequence[str] = SPLITS, attempt: Attempt = contextlib.nullcontext
) -> tuple[dict[TrackletName, tuple[str, ...]], list[str]]:
    """Read the frames of a CSV with the columns split, pid, camid, tracklet and path.

    Args:
        path: the CSV.
        splits: those whose images must be there.
        attempt: see :func:`read_own_tracklets`.

    Returns:
        The paths of each tracklet in natural order, and what was read.
    """
    home = osp.dirname(path)
    frames: dict[TrackletName, list[str]] = {}
    seen: Images = {}
    listings: dict[str, set[str]] = {}  # folder → names of its files
    real: dict[str, str] = {}  # folder → its real path
    unchecked: set[str] = set()  # folders
    for line, cells in csv_rows(path, COLUMNS, attempt):
        with attempt():
            where = f'{path}:{line}'
            _check_row(where, cells)
            name = TrackletName(*(cells[column] for column in COLUMNS[:4]))
            image = osp.normpath(osp.join(home, cells['path']))
            folder, file_name = osp.split(image)
            if name.split not in splits:
                unchecked.add(folder)
                frames.setdefault(name, []).append(image)
                continue
            if folder not in listings:
                listings[folder], real[folder] = _file_names(folder), osp.realpath(folder)
            if file_name not in listings[folder]:
                raise InputError(f'{where}: image {image} not found')
            key = name.split, osp.join(real[folder], file_name)
            if key in seen:
                raise InputError(f'{where}: image {image} is in line {seen[key][0]}, too')
            seen[key] = line, name
            frames.setdefault(name, []).append(image)
    if not frames:
        raise InputError(f'{path}: lists no frame; {ADVICE}')
    for folder in unused_splits(home, [*listings, *unchecked]):
        scan(folder)  # to report ignored files
    with attempt():
        _check_copies(path, seen)
    in_order = {name: tuple(sorted(paths, key=natural_key)) for name, paths in frames.items()}
    return in_order, [path, *listings]


def unused_splits(home: str, used: Iterable[str]) -> list[str]:
    """Find split folders next to a CSV, or in ``tracklets/`` there, that the CSV does not use."""
    folders = split_folders(home) + split_folders(osp.join(home, 'tracklets'))
    used = [osp.join(folder, '') for folder in used]
    return [f for f in folders if not any(one.startswith(osp.join(f, '')) for one in used)]


def _file_names(folder: str) -> set[str]:
    return {name for name, is_dir in scan(folder) if not is_dir} if osp.isdir(folder) else set()


def number_tracklets(frames: Mapping[TrackletName, tuple[str, ...]]) -> Lists:
    """Assign numbers to pids and cameras of the three lists."""
    names = sorted(frames, key=lambda name: [natural_key(part) for part in name])
    tested = [name for name in names if name.split in TEST_SPLITS]
    # tested ones first: a test has the same numbers whether or not train is read
    cameras = number_labels(name.camid for name in tested)
    for camera in number_labels(name.camid for name in names):
        cameras.setdefault(camera, len(cameras))
    people = {
        'train': number_labels(name.pid for name in names if name.split == 'train'),
        'test': {
            **number_labels(name.pid for name in tested if name.pid != UNKNOWN_PERSON),
            UNKNOWN_PERSON: UNKNOWN,
        },
    }
    lists: dict[str, list[Tracklet]] = {split: [] for split in SPLITS}
    for name in names:
        pid = people['train' if name.split == 'train' else 'test'][name.pid]
        lists[name.split].append((frames[name], pid, cameras[name.camid], 0))
    return lists['train'], lists['query'], lists['gallery']


def _check_person(where: str, split: str, pid: str) -> None:
    if split == 'train' and pid == UNKNOWN_PERSON:
        raise InputError(f'{where}: a tracklet of person {pid!r} cannot be trained on')


def _check_row(where: str, cells: Mapping[str, str]) -> None:
    if cells['split'] not in SPLITS:
        raise InputError(f'{where}: unknown split {cells["split"]!r}, expected {SPLITS}')
    empty = [column for column in COLUMNS if not cells[column]]
    if empty:
        more = f'; {UNKNOWN_PERSON!r} stands for no label' if empty[0] == 'pid' else ''
        raise InputError(f'{where}: no {empty[0]} given{more}')
    _check_person(where, cells['split'], cells['pid'])
    if not is_image(cells['path']):
        suffixes = '/'.join(IMAGE_SUFFIXES)
        raise InputError(f'{where}: {cells["path"]} does not end in {suffixes}')


def _check_copies(path: str, seen: Images) -> None:
    """Check that a query image that is also in the gallery has the same person and camera there."""
    for (split, image), (line, name) in seen.items():
        if split == 'gallery' and ('query', image) in seen:
            first, query = seen['query', image]
            if (query.pid, query.camid) != (name.pid, name.camid):
                raise InputError(
                    f'{path}:{line}: image {image} has pid {name.pid!r} and camera {name.camid!r} '
                    f'here, but {query.pid!r} and {query.camid!r} in line {first}'
                )
