"""LS-VID: read the train, query and gallery lists from a data root."""

import contextlib
import functools
import itertools
import os
import os.path as osp
import warnings
from bisect import bisect_left
from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from stmn_plugin.data.tracklets import Tracklet
from stmn_plugin.errors import InputError
from stmn_plugin.labels import natural_key, relabel
from stmn_plugin.numerals import counted, is_digits

from .index_cache import parse_once
from .listing import (
    SPLITS,
    Attempt,
    Lists,
    TrackletDataset,
    check_distinct_stems,
    data_root,
    first_existing,
    id_number,
    is_image,
    one_frame_twice,
    read_lines,
    scan,
    splits_of,
)
from .tables import read_query_rows, read_table, starts_within_another

PARTS = ('test', 'val')  # data.split_id 0, 1
ADVICE = 'the authors of LS-VID send it after their release agreement is signed'

Listings: TypeAlias = dict[str, list[str]]
"""Folder of a person → sorted names of its images."""


class LSVID(TrackletDataset):
    """LS-VID (Li et al., ICCV 2019): 842 / 200 / 2,730 people for train / val / test, 15 cameras.

    Training always uses the train split. ``split_id`` selects what is searched: 0 the test split,
    1 the val split (for choosing hyperparameters). Every id is a person, also 0: no distractors.

    Args:
        root: folder that holds ``LS-VID``.
        split_id: 0 for test, 1 for val.
        **kwargs: the host's (mode, transform, seq_len, ...).
    """

    dataset_dir = 'LS-VID'
    gallery_needs_queries = True

    def __init__(self, root: str = '', split_id: int = 0, *, mode: str = 'train', **kwargs: Any):
        if split_id not in (0, 1):
            raise InputError(f'data.split_id: got {split_id}, LS-VID has 0 (test) and 1 (val)')
        self.root = data_root(root)
        self.dataset_dir = find_lsvid(self.root)
        split = PARTS[split_id]
        read = functools.partial(read_lsvid, test_split=split)
        lists = parse_once(('lsvid', split), self.dataset_dir, read, splits_of(mode))
        super().__init__(*lists, mode=mode, **kwargs)


def find_lsvid(root: str) -> str:
    """Find the LS-VID folder of a data root."""
    return first_existing([osp.join(root, 'LS-VID')], ADVICE)


def read_lsvid(
    folder: str, splits: Sequence[str] = SPLITS, test_split: str = 'test'
) -> tuple[Lists, list[str]]:
    """Read the train, query and gallery lists; return also the files and folders read.

    Args:
        folder: the LS-VID folder, as released or with its lists under ``info/``.
        splits: without 'train' the test split alone is read.
        test_split: 'test' or 'val'.
    """
    listings: Listings = {}
    train: list[Tracklet] = []
    files = []
    if 'train' in splits:
        files = [find_list(folder, 'train')]
        train = _all(read_tracklets(folder, files[0], listings))
    query, gallery, test_files = read_test_split(folder, test_split, listings)
    return (relabel(train), query, gallery), [*files, *test_files, *listings]


def _all(tracklets: Sequence[Tracklet | None]) -> list[Tracklet]:
    return [tracklet for tracklet in tracklets if tracklet is not None]


def find_list(folder: str, split: str) -> str:
    """Find the list of a split in the release or a re-arranged copy."""
    name = f'list_sequence/list_seq_{split}.txt'
    return first_existing([osp.join(folder, name), osp.join(folder, 'info', name)], ADVICE)


def read_test_split(
    folder: str, split: str, listings: Listings, attempt: Attempt = contextlib.nullcontext
) -> tuple[list[Tracklet], list[Tracklet], list[str]]:
    """Read queries and gallery (without the queries) of 'test' or 'val'; return also the two files.

    ``attempt`` and ``listings`` are those of :func:`read_tracklets`.
    """
    list_path = find_list(folder, split)
    table_path = first_existing(
        [osp.join(folder, place, f'data/info_{split}.mat') for place in ('test', 'info')], ADVICE
    )
    test = read_tracklets(folder, list_path, listings, attempt)
    # both splits call their table 'info_test'
    compare_with_table(test, list_path, table_path, read_table(table_path, 'info_test'), attempt)
    query_rows = read_query_rows(table_path, 'query', len(test)).tolist()
    gallery_rows = sorted(set(range(len(test))) - set(query_rows))
    query, gallery = (_all([test[row] for row in rows]) for rows in (query_rows, gallery_rows))
    return query, gallery, [list_path, table_path]


def read_tracklets(
    folder: str, list_path: str, listings: Listings, attempt: Attempt = contextlib.nullcontext
) -> list[Tracklet | None]:
    """Read one tracklet per list line ``<path prefix relative to the LS-VID folder> <pid>``.

    Args:
        folder: the LS-VID folder.
        list_path: list_seq_*.txt.
        listings: images of the folders seen so far, added to; each folder is read once.
        attempt: makes the context around each line, see ``listing.Attempt``.

    Returns:
        (img_paths, pid, camid, 0) with raw pids, in the order of the lines; None for a
        line that ``attempt`` refused.
    """
    tracklets: list[Tracklet | None] = []
    numbers: dict[str, int] = {}  # first frame → line
    for number, line in enumerate(read_lines(list_path, ADVICE), 1):
        tracklets.append(None)
        with attempt():
            tracklet = _read_tracklet(folder, f'{list_path}:{number}', line, listings)
            first = numbers.setdefault(tracklet[0][0], number)
            if first != number:
                raise InputError(f'{list_path}:{number}: the tracklet of line {first}, too')
            tracklets[-1] = tracklet
    if not tracklets:
        raise InputError(f'{list_path}: lists no tracklet')
    return tracklets


def _read_tracklet(folder: str, where: str, line: str, listings: Listings) -> Tracklet:
    prefix, _, pid = line.rpartition(' ')
    if not prefix.strip() or id_number(pid) is None:
        raise InputError(f'{where}: expected "<path prefix> <pid>", got {line!r}')
    person_folder, stem = osp.split(osp.join(folder, prefix.strip()))
    if person_folder not in listings:
        listings[person_folder] = _sorted_images(person_folder)
    names = _starting_with(listings[person_folder], stem)
    if not names:
        raise InputError(f'{where}: no image {osp.join(person_folder, stem)}_*')
    check_distinct_stems(person_folder, names)
    names, camera = _in_order(person_folder, names)
    return tuple([f'{person_folder}{os.sep}{name}' for name in names]), int(pid), camera - 1, 0


def compare_with_table(
    tracklets: Sequence[Tracklet | None],
    list_path: str,
    table_path: str,
    table: NDArray[np.int64],
    attempt: Attempt = contextlib.nullcontext,
) -> None:
    """Refuse a list and a table ``start, end, pid, camera`` that do not describe the same data.

    Of start and end only the difference is used, as the frames are those of the list. So a table
    whose rows count from 0, or share frames, is only reported.
    """
    if len(table) != len(tracklets):
        raise InputError(
            f'{table_path}: {len(table)} rows, but {list_path} has {len(tracklets)} lines'
        )
    odd = np.flatnonzero((table[:, 0] < 1) | starts_within_another(*table.T[:2])).tolist()
    if odd:
        warnings.warn(
            f'{table_path}: {counted(len(odd), "row")} of info_test start before 1 or within '
            f'another, the first is row {odd[0] + 1} {table[odd[0]].tolist()}; the frames are '
            f'those of {list_path}',
            stacklevel=2,
        )
    for row, ((start, end, pid, camera), tracklet) in enumerate(
        zip(table.tolist(), tracklets, strict=True), 1
    ):
        if tracklet is None:  # already rejected
            continue
        paths, listed_pid, camid, _ = tracklet
        with attempt():
            for what, expected, found in (
                ('pid', pid, listed_pid),
                ('camera', camera, camid + 1),
                ('number of frames', end - start + 1, len(paths)),
            ):
                if expected != found:
                    raise InputError(
                        f'{table_path}: row {row} gives {what} {expected}, line {row} of '
                        f'{list_path} {found} ({paths[0]} ...)'
                    )


def _sorted_images(folder: str) -> list[str]:
    if not osp.isdir(folder):  # said by the list line that needs it
        return []
    return sorted(name for name, _ in scan(folder) if is_image(name))


def _starting_with(names: list[str], stem: str) -> list[str]:
    """Return the sorted names that start with ``stem_``: ``0005_01_1`` is not ``0005_01_12``."""
    after = chr(ord('_') + 1)
    return names[bisect_left(names, f'{stem}_') : bisect_left(names, f'{stem}{after}')]


def _in_order(folder: str, names: list[str]) -> tuple[list[str], int]:
    """Return the frames of a tracklet in the order of time, and its camera.

    A name has four fields, ``0005_01_12_0003.jpg``. The third is the camera; the fourth is the
    frame, sorted as a number, and after the numbers as text.
    """
    cameras: set[int] = set()
    frames: list[tuple[int, Any, str]] = []
    for name in names:
        fields = name.split('_')
        if len(fields) < 4 or not id_number(fields[2]):  # nor 0
            path = osp.join(folder, name)
            raise InputError(f'{path}: a name has four fields, the third is a camera from 1 up')
        cameras.add(int(fields[2]))
        frame = fields[3].partition('.')[0]
        frames.append(
            (0, int(frame), name) if is_digits(frame) else (1, natural_key(name)[0], name)
        )
    if len(cameras) > 1:
        first = osp.join(folder, names[0])
        raise InputError(f'{first}: tracklet with several cameras {sorted(cameras)}')
    frames.sort()
    for (*one, name), (*other, twin) in itertools.pairwise(frames):
        if one == other and natural_key(name)[0] == natural_key(twin)[0]:  # 0008 and 8
            raise one_frame_twice(folder, name, twin)
    return [name for *_, name in frames], cameras.pop()
