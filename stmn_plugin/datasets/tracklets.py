"""Own data: image folders or a CSV in, the host's train, query and gallery lists out."""

import contextlib
import os.path as osp
from typing import NamedTuple

from stmn_plugin.errors import InputError
from stmn_plugin.labels import natural_key, number_labels, relabel

from .csv_rows import csv_rows
from .index_cache import parse_once
from .listing import (
    IMAGE_SUFFIXES,
    TrackletDataset,
    child_folders,
    data_root,
    image_names,
    is_image,
    scan,
)

SPLITS = ('train', 'query', 'gallery')
COLUMNS = ('split', 'pid', 'camid', 'tracklet', 'path')
ADVICE = (
    'give tracklets.csv with the columns ' + ','.join(COLUMNS) + ', or folders '
    '<train|query|gallery>/<pid>/<camid>/<tracklet>/*.jpg'
)


class TrackletName(NamedTuple):
    """What tells one tracklet from another; every part is any text."""

    split: str
    pid: str
    camid: str
    tracklet: str


class Tracklets(TrackletDataset):
    """Your own tracklets.

    ``tracklets.csv`` in ``<root>`` or ``<root>/tracklets/`` goes before the split folders in one of
    these; data in both is refused. A CSV has one row per frame, its relative paths start at its
    own folder, the frames of a tracklet are sorted by path.

    Pids and cameras are any text, numbered in natural order ('p2' before 'p10'): train pids for
    themselves, query and gallery pids together, the cameras of all splits together. Names of
    tracklets may start again for each person and camera. A split that the mode does not read
    may be absent: train without test data, or test a model without training data.

    Args:
        root (str): see above.
        **kwargs: the host's (mode, transform, seq_len, ...).
    """

    gallery_needs_queries = False  # what is searched is what is in the gallery split

    def __init__(self, root='', **kwargs):
        self.root = data_root(root)
        self.dataset_dir = find_source(self.root)
        lists = parse_once(('tracklets',), self.dataset_dir, read_own_tracklets)
        super().__init__(*lists, **kwargs)


def find_source(root):
    """The CSV, or the folder of split folders, that describes the data below ``root``."""
    inner = osp.join(root, 'tracklets')
    tables = [osp.join(folder, 'tracklets.csv') for folder in (root, inner)]
    tables = [path for path in tables if osp.lexists(path) and not osp.isdir(path)]
    folders = [folder for folder in (inner, root) if split_folders(folder)]
    for first, *others in filter(None, (tables, folders)):
        if others:  # which one is meant, or that both are, is not to be guessed
            both = f'{first} and {others[0]}'
            raise InputError(f'{both}: both hold tracklets; rename one, or move it elsewhere')
        return first
    raise InputError(f'{root}: no tracklets in it; {ADVICE}')


def split_folders(folder):
    """Paths of the split folders in a folder."""
    paths = (osp.join(folder, split) for split in SPLITS)
    return [path for path in paths if osp.isdir(path)]


def read_own_tracklets(source, attempt=contextlib.nullcontext):
    """The three lists of a CSV or a folder, and what they were read from.

    Args:
        source (str): what :func:`find_source` found.
        attempt (callable): makes the context around each folder or row; the default lets the first
            complaint through, ``tools/check_data.py`` notes it and goes on.
    """
    read = read_folders if osp.isdir(source) else read_csv
    return number_tracklets(*read(source, attempt))


def read_folders(folder, attempt=contextlib.nullcontext):
    """The frames of ``<split>/<pid>/<camid>/<tracklet>/*.jpg``.

    Args:
        folder (str): holds the split folders; nothing else if it is called ``tracklets``, while
            a data root may hold other datasets.
        attempt (callable): see :func:`read_own_tracklets`.

    Returns:
        dict TrackletName → tuple of paths, and the folders read.
    """
    if osp.basename(folder) == 'tracklets':
        found = [name for name, is_dir in scan(folder) if is_dir]
        unknown = sorted(set(found) - set(SPLITS), key=natural_key)
        with attempt():
            if unknown:
                path = osp.join(folder, unknown[0])
                raise InputError(f'{path}: unknown split, expected {SPLITS}')
    frames, folders = {}, [folder]
    for split in (split for split in SPLITS if osp.isdir(osp.join(folder, split))):
        levels = ('<pid>', '<camid>', '<tracklet>')
        for names, tracklet_folder in _descend(osp.join(folder, split), levels, folders, attempt):
            with attempt():
                frames[TrackletName(split, *names)] = tuple(
                    osp.join(tracklet_folder, name) for name in image_names(tracklet_folder)
                )
    return frames, folders


def _descend(folder, levels, visited, attempt):
    """Names on the way and path of every folder that lies ``len(levels)`` levels below another."""
    visited.append(folder)
    if not levels:
        yield (), folder
        return
    children = []
    with attempt():
        children = child_folders(folder, levels[0])
    for child in children:
        for names, path in _descend(osp.join(folder, child), levels[1:], visited, attempt):
            yield (child, *names), path


def read_csv(path, attempt=contextlib.nullcontext):
    """The frames of a CSV with the columns split, pid, camid, tracklet and path.

    Args:
        path (str): the CSV.
        attempt (callable): see :func:`read_own_tracklets`.

    Returns:
        dict TrackletName → tuple of paths in natural order, and what was read.
    """
    home = osp.dirname(path)
    frames = {}
    seen = {}  # (split, real path of an image) → (line, TrackletName)
    listings, real = {}, {}  # folder → names of its files; → where it lies
    for line, cells in csv_rows(path, COLUMNS, attempt):
        with attempt():
            where = f'{path}:{line}'
            _check_row(where, cells)
            name = TrackletName(*(cells[column] for column in COLUMNS[:4]))
            image = osp.normpath(osp.join(home, cells['path']))
            folder, file_name = osp.split(image)
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
    for folder in unused_splits(home, listings):
        scan(folder)  # so that it is told what is left out
    with attempt():
        _check_copies(path, seen)
    frames = {name: tuple(sorted(paths, key=natural_key)) for name, paths in frames.items()}
    return frames, [path, *listings]


def unused_splits(home, used):
    """Split folders beside a CSV, or in ``tracklets/`` there, none of whose folders are used."""
    folders = split_folders(home) + split_folders(osp.join(home, 'tracklets'))
    used = [osp.join(folder, '') for folder in used]
    return [f for f in folders if not any(one.startswith(osp.join(f, '')) for one in used)]


def _file_names(folder):
    return {name for name, is_dir in scan(folder) if not is_dir} if osp.isdir(folder) else set()


def number_tracklets(frames, sources):
    """The three lists with numbers for pids and cameras, and what they were read from."""
    names = sorted(frames, key=lambda name: [natural_key(part) for part in name])
    cameras = number_labels(name.camid for name in names)
    test_pids = number_labels(name.pid for name in names if name.split != 'train')
    lists = {split: [] for split in SPLITS}
    for name in names:
        pid = name.pid if name.split == 'train' else test_pids[name.pid]
        lists[name.split].append((frames[name], pid, cameras[name.camid], 0))
    return (relabel(lists['train']), lists['query'], lists['gallery']), sources


def _check_row(where, cells):
    if cells['split'] not in SPLITS:
        raise InputError(f'{where}: unknown split {cells["split"]!r}, expected {SPLITS}')
    empty = [column for column in COLUMNS if not cells[column]]
    if empty:
        raise InputError(f'{where}: no {empty[0]} given')
    if not is_image(cells['path']):
        suffixes = '/'.join(IMAGE_SUFFIXES)
        raise InputError(f'{where}: {cells["path"]} does not end in {suffixes}')


def _check_copies(path, seen):
    """A query image that is in the gallery, too, is the same person under the same camera there."""
    for (split, image), (line, name) in seen.items():
        if split == 'gallery' and ('query', image) in seen:
            first, query = seen['query', image]
            if (query.pid, query.camid) != (name.pid, name.camid):
                raise InputError(
                    f'{path}:{line}: image {image} has pid {name.pid!r} and camera {name.camid!r} '
                    f'here, but {query.pid!r} and {query.camid!r} in line {first}'
                )
