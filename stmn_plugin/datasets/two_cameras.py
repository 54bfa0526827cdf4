"""iLIDS-VID and PRID 2011, with two cameras each: read lists from a data root."""

import functools
import json
import os.path as osp
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, TypeAlias

import torchreid

from stmn_plugin.data.tracklets import Tracklet
from stmn_plugin.errors import InputError
from stmn_plugin.input_files import open_regular
from stmn_plugin.labels import natural_key, number_labels

from .index_cache import parse_once
from .listing import (
    SPLITS,
    Lists,
    TrackletDataset,
    data_root,
    first_existing,
    image_names,
    scan,
    splits_of,
)
from .tables import read_table

People: TypeAlias = dict[str, list[str]]
"""Names of the people of 'train' and 'test'."""


class iLIDSVID(  # noqa: N801 (the host's name)
    TrackletDataset,
    torchreid.data.datasets.video.iLIDSVID,  # type: ignore[misc]  # the host has no types
):
    """iLIDS-VID, frames in the order of time; the splits are read, never written."""

    def __init__(self, root: str = '', split_id: int = 0, *, mode: str = 'train', **kwargs: Any):
        self.root = data_root(root)
        self.dataset_dir = first_existing(
            [osp.join(self.root, self.dataset_dir)], 'unpack iLIDS-VID.tar there'
        )
        read = functools.partial(read_ilids, split_id=split_id)
        lists = parse_once(
            ('ilidsvid', str(split_id)), self.dataset_dir, read, splits_of(mode), on_disk=False
        )
        super().__init__(*lists, mode=mode, **kwargs)


def read_ilids(
    folder: str, splits: Sequence[str] = SPLITS, split_id: int = 0
) -> tuple[Lists, list[str]]:
    """Read the three lists of a split; return also the files and folders read."""
    sequences = osp.join(folder, 'i-LIDS-VID', 'sequences')
    cameras = [osp.join(sequences, name) for name in ('cam1', 'cam2')]
    source = osp.join(folder, 'splits.json')
    if osp.lexists(source):
        split = _read_split(source, split_id)
    else:
        source = osp.join(folder, 'train-test people splits', 'train_test_splits_ilidsvid.mat')
        split = read_ilids_split(source, cameras[0], split_id)
    lists, folders = read_two_cameras(cameras, split, splits)
    return lists, [source, *folders]


def read_ilids_split(path: str, person_folder: str, split_id: int) -> People:
    """Read a row of the .mat: 1-based numbers of the sorted people, the first half for testing."""
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


class PRID2011(TrackletDataset, torchreid.data.datasets.video.PRID2011):  # type: ignore[misc]
    """PRID 2011, frames in the order of time."""

    def __init__(self, root: str = '', split_id: int = 0, *, mode: str = 'train', **kwargs: Any):
        self.root = data_root(root)
        self.dataset_dir = first_existing(
            [osp.join(self.root, self.dataset_dir)],
            'unpack prid_2011 there, next to splits_prid2011.json',
        )
        read = functools.partial(read_prid, split_id=split_id)
        lists = parse_once(
            ('prid2011', str(split_id)), self.dataset_dir, read, splits_of(mode), on_disk=False
        )
        super().__init__(*lists, mode=mode, **kwargs)


def read_prid(
    folder: str, splits: Sequence[str] = SPLITS, split_id: int = 0
) -> tuple[Lists, list[str]]:
    """Read the three lists of a split; return also the files and folders read."""
    shots = osp.join(folder, 'prid_2011', 'multi_shot')
    source = osp.join(folder, 'splits_prid2011.json')
    split = _read_split(source, split_id)
    cameras = [osp.join(shots, name) for name in ('cam_a', 'cam_b')]
    lists, folders = read_two_cameras(cameras, split, splits)
    return lists, [source, *folders]


def read_two_cameras(
    camera_folders: Sequence[str], split: People, splits: Sequence[str] = SPLITS
) -> tuple[Lists, list[str]]:
    """Train on both cameras; search camera 2 for the people of camera 1.

    Args:
        camera_folders: two folders of person folders of frames.
        split: names of the 'train' and the 'test' people.
        splits: without 'train' the folders of the test people alone are read.

    Returns:
        The train, query and gallery lists; the folders read.
    """
    folders = list(camera_folders)

    def all_frames(folder: str) -> tuple[str, ...]:
        folders.append(folder)
        return tuple(osp.join(folder, name) for name in image_names(folder))

    def tracklets(people: list[str], camids: Iterable[int]) -> list[Tracklet]:
        pids = number_labels(people)
        return [
            (all_frames(osp.join(camera_folders[camid], person)), pids[person], camid, 0)
            for person in sorted(people, key=natural_key)
            for camid in camids
        ]

    for folder in camera_folders:
        first_existing([folder], 'it holds one folder per person')
    for name, people in split.items():
        if not people:
            raise InputError(f'{camera_folders[0]}: the {name} split has no people')
    everyone = Counter(split['train'] + split['test'])
    twice = [person for person, count in everyone.items() if count > 1]
    if twice:
        raise InputError(f'{camera_folders[0]}: the split names {twice[0]} twice')
    train, test = split['train'] if 'train' in splits else [], split['test']
    return (tracklets(train, [0, 1]), tracklets(test, [0]), tracklets(test, [1])), folders


def _read_split(path: str, split_id: int) -> People:
    """Read the people of 'train' and 'test' in one of the splits of a JSON file."""
    first_existing([path], 'it lists the people of each split')
    try:
        with open_regular(path, encoding='utf-8-sig') as file:
            splits = json.load(file)
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f'{path}: cannot be read as JSON ({error})') from error
    if not isinstance(splits, list):
        raise InputError(f'{path}: is no list of splits')
    _check_split_id(path, split_id, len(splits))
    split = splits[split_id] if isinstance(splits[split_id], dict) else {}
    people: People = {}
    for name in ('train', 'test'):
        names = split.get(name)
        if not isinstance(names, list) or not all(isinstance(person, str) for person in names):
            raise InputError(f'{path}: {name} of split {split_id} is no list of names')
        people[name] = names
    return people


def _check_split_id(path: str, split_id: int, num_splits: int) -> None:
    if not isinstance(split_id, int) or not 0 <= split_id < num_splits:
        raise InputError(
            f'{path}: has splits 0 to {num_splits - 1}, data.split_id asks for {split_id}'
        )
