"""LS-VID: a data root in, the host's train, query and gallery lists out."""

import os
import os.path as osp
from bisect import bisect_left

from stmn_plugin.data.listing import (
    TrackletDataset,
    data_root,
    first_existing,
    is_image,
    natural_key,
    parse_once,
    read_lines,
    read_query_rows,
    read_table,
    relabel,
    scan,
)
from stmn_plugin.errors import InputError

TEST_SPLITS = ('test', 'val')  # data.split_id 0, 1
ADVICE = 'the authors of LS-VID send it after their release agreement is signed'


class LSVID(TrackletDataset):
    """LS-VID (Li et al., ICCV 2019): 842 / 200 / 2,730 people for train / val / test, 15 cameras.

    Training always uses the train split. ``split_id`` selects what is searched: 0 the test split,
    1 the val split (for choosing hyperparameters). Every id is a person, also 0: no distractors.

    Args:
        root (str): folder that holds ``LS-VID``.
        split_id (int): 0 for test, 1 for val.
        **kwargs: the host's (mode, transform, seq_len, ...).
    """

    dataset_dir = 'LS-VID'
    gallery_needs_queries = True

    def __init__(self, root='', split_id=0, **kwargs):
        if split_id not in (0, 1):
            raise InputError(f'data.split_id: got {split_id}, LS-VID has 0 (test) and 1 (val)')
        self.root = data_root(root)
        self.dataset_dir = first_existing([osp.join(self.root, self.dataset_dir)], ADVICE)
        split = TEST_SPLITS[split_id]
        lists = parse_once(
            ('lsvid', self.dataset_dir, split), lambda: read_lsvid(self.dataset_dir, split)
        )
        super().__init__(*lists, **kwargs)


def read_lsvid(folder, test_split):
    """The train, query and gallery lists, and the files and folders that they were read from.

    Args:
        folder (str): the LS-VID folder, as released or with its lists under ``info/``.
        test_split (str): 'test' or 'val'.
    """

    def info_file(*places):
        return first_existing([osp.join(folder, place) for place in places], ADVICE)

    def list_file(split):
        name = f'list_sequence/list_seq_{split}.txt'
        return info_file(name, f'info/{name}')

    train_list, test_list = list_file('train'), list_file(test_split)
    table_file = info_file(f'test/data/info_{test_split}.mat', f'info/data/info_{test_split}.mat')
    listings = {}  # person folder → sorted names of its images
    train = read_tracklets(folder, train_list, listings)
    test = read_tracklets(folder, test_list, listings)
    # both splits call their table 'info_test'
    compare_with_table(test, test_list, table_file, read_table(table_file, 'info_test'))

    query_rows = read_query_rows(table_file, 'query', len(test)).tolist()
    gallery_rows = sorted(set(range(len(test))) - set(query_rows))
    query, gallery = ([test[row] for row in rows] for rows in (query_rows, gallery_rows))
    return (relabel(train), query, gallery), [train_list, test_list, table_file, *listings]


def read_tracklets(folder, list_path, listings):
    """One tracklet per list line ``<path prefix relative to the LS-VID folder> <pid>``.

    Args:
        folder (str): the LS-VID folder.
        list_path (str): list_seq_*.txt.
        listings (dict): images of the folders seen so far, added to; each folder is read once.

    Returns:
        list of (img_paths, pid, camid, 0) with raw pids, in the order of the lines.
    """
    tracklets = []
    for number, line in enumerate(read_lines(list_path, ADVICE), 1):
        prefix, _, pid = line.rpartition(' ')
        if not prefix.strip() or not pid.isdecimal():
            raise InputError(f'{list_path}:{number}: expected "<path prefix> <pid>", got {line!r}')
        person_folder, stem = osp.split(osp.join(folder, prefix.strip()))
        if person_folder not in listings:
            listings[person_folder] = _sorted_images(person_folder)
        names = _starting_with(listings[person_folder], stem)
        if not names:
            raise InputError(f'{list_path}:{number}: no image {osp.join(person_folder, stem)}_*')
        names, camera = _in_order(person_folder, names)
        paths = tuple([f'{person_folder}{os.sep}{name}' for name in names])
        tracklets.append((paths, int(pid), camera - 1, 0))
    if not tracklets:
        raise InputError(f'{list_path}: lists no tracklet')
    return tracklets


def compare_with_table(tracklets, list_path, table_path, table):
    """Refuse a list and a table ``start, end, pid, camera`` that do not describe the same data."""
    if len(table) != len(tracklets):
        raise InputError(
            f'{table_path}: {len(table)} rows, but {list_path} has {len(tracklets)} lines'
        )
    for row, ((start, end, pid, camera), tracklet) in enumerate(
        zip(table.tolist(), tracklets, strict=True), 1
    ):
        paths, listed_pid, camid, _ = tracklet
        for what, wanted, found in (
            ('pid', pid, listed_pid),
            ('camera', camera, camid + 1),
            ('number of frames', end - start + 1, len(paths)),
        ):
            if wanted != found:
                raise InputError(
                    f'{table_path}: row {row} gives {what} {wanted}, line {row} of {list_path} '
                    f'{found} ({paths[0]} ...)'
                )


def _sorted_images(folder):
    if not osp.isdir(folder):  # said by the list line that needs it
        return []
    return sorted(name for name, is_dir in scan(folder) if not is_dir and is_image(name))


def _starting_with(names, stem):
    """Those of the sorted names that start with ``stem_``: ``0005_01_1`` is not ``0005_01_12``."""
    after = chr(ord('_') + 1)
    return names[bisect_left(names, f'{stem}_') : bisect_left(names, f'{stem}{after}')]


def _in_order(folder, names):
    """The frames of a tracklet in the order of time, and its camera.

    A name has four fields, ``0005_01_12_0003.jpg``. The third is the camera; the fourth is the
    frame, sorted as a number, and after the numbers as text.
    """
    cameras, frames = set(), []
    for name in names:
        fields = name.split('_')
        if len(fields) < 4 or not fields[2].isdecimal() or int(fields[2]) < 1:
            path = osp.join(folder, name)
            raise InputError(f'{path}: a name has four fields, the third is a camera from 1 up')
        cameras.add(int(fields[2]))
        frame = fields[3].partition('.')[0]
        frames.append((0, int(frame), name) if frame.isdecimal() else (1, natural_key(name), name))
    if len(cameras) > 1:
        first = osp.join(folder, names[0])
        raise InputError(f'{first}: tracklet with several cameras {sorted(cameras)}')
    return [name for *_, name in sorted(frames)], cameras.pop()
