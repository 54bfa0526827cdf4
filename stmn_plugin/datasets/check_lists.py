"""Check a dataset's lists: counts, contradictions, and queries without a match.

The readers are those of the loaders. Here they continue after a complaint: ``attempt`` is a context
that notes an InputError, and what it was about is left out.
"""

import itertools
import os.path as osp
import re
import warnings
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, NamedTuple

from stmn_plugin.data.tracklets import Tracklet
from stmn_plugin.labels import JUNK_PID, count_matchable
from stmn_plugin.numerals import counted, is_digits

from .host_datasets import (
    DUKE_NAME,
    DukeMTMCVidReID,
    Mars,
    find_duke,
    find_mars,
    read_duke,
    read_mars_tables,
)
from .listing import SPLITS, Attempt, Lists, scan
from .lsvid import LSVID, find_list, find_lsvid, read_test_split, read_tracklets
from .tracklets import (
    Tracklets,
    find_source,
    read_own_tracklets,
    split_folders,
    unused_splits,
)

if TYPE_CHECKING:
    from .check import Findings

DISTRACTOR_PID = 0  # of MARS; in LS-VID 0 is a person
# list of tracklets → (persons, tracklets, frames) of the release, where they are published
OFFICIAL_COUNTS: dict[str, dict[str, tuple[int | None, int | None, int | None]]] = {
    'mars': {
        'train': (625, 8298, 509914),
        'test': (634, 12180, 681089),
        'junk': (None, 870, None),
        'distractors': (None, 3248, None),
        'query': (None, 1980, None),
    },
    'dukemtmcvidreid': {
        'train': (702, 2196, 369656),
        'query': (702, 702, None),
        'gallery': (702 + 408, 2636, 445764),
    },
    'lsvid': {
        'train': (842, 2831, None),
        'test': (2730, 11333, None),
        'test query': (None, 3504, None),
        'val': (200, 779, None),
        'val query': (None, 252, None),
        'all': (3772, 14943, 2982685),  # frames are not published by list
    },
    'tracklets': {},
}
# (search, protocol) → queries without a match in the release
OFFICIAL_UNMATCHED: dict[str, dict[tuple[str, str], int]] = {
    'mars': {('test', 'official'): 0, ('test', 'torchreid'): 140},
    'lsvid': {('test', 'official'): 4},
}
OFFICIAL_CAMERAS = {'mars': 6, 'dukemtmcvidreid': 8, 'lsvid': 15}
NOT_PERSONS = {'mars': {JUNK_PID, DISTRACTOR_PID}}
FRAME_NUMBER = {  # in a name; MARS lists its frames, own names are free
    'dukemtmcvidreid': DUKE_NAME,
    'lsvid': re.compile(r'([^_]*_){3}(?P<frame>\d+)[_.].*', re.ASCII | re.DOTALL),
}
USUAL_SIZE = {'mars': (256, 128)}  # height, width


class Contents(NamedTuple):
    """The lists of a dataset."""

    tracklets: dict[str, list[Tracklet]]  # list, as in OFFICIAL_COUNTS → tracklets
    searches: dict[
        str, tuple[list[Tracklet], list[Tracklet]]
    ]  # split → (query, gallery without what only the official protocol adds)
    trees: list[str]  # folders that contain only frames of this dataset
    sources: Iterable[str] = ()  # files that may be among the frames


def find_disagreements(name: str, contents: Contents, found: 'Findings') -> None:
    """Report what lists, folders and names say differently of a person, a camera or a split.

    Ids of MARS, and cameras of the frames of a tracklet, are compared by the loaders.
    """
    for label, tracklets in contents.tracklets.items():
        if name == 'dukemtmcvidreid':
            for path, pid in ((path, pid) for paths, pid, *_ in tracklets for path in paths):
                match = DUKE_NAME.fullmatch(osp.basename(path))
                assert match  # the reader takes no other names
                if int(match['pid']) != pid:
                    found.error('disagreement', f'{path}: lies in the folder of person {pid}')
        elif name == 'lsvid' and not label.endswith(' query'):  # those are in the split, too
            for paths, pid, *_ in tracklets:
                person = osp.basename(osp.dirname(paths[0]))
                if is_digits(person) and int(person) != pid:
                    found.error('disagreement', f'{paths[0]}: listed in {label} as person {pid}')
    if name in ('mars', 'dukemtmcvidreid'):
        _compare_train_with_test(name, contents, found)
    if name == 'dukemtmcvidreid':
        _compare_queries_with_gallery(contents, found)
    if name == 'lsvid':
        _find_frames_in_two_lists(contents, found)
    _find_unknown_cameras(name, contents, found)
    if name in FRAME_NUMBER:
        _find_gaps(FRAME_NUMBER[name], contents, found)


def _find_gaps(pattern: re.Pattern[str], contents: Contents, found: 'Findings') -> None:
    """Report tracklets that skip frame numbers: no list says how many frames they have."""
    for label, tracklets in contents.tracklets.items():
        if label.endswith(' query'):  # those are in the split, too
            continue
        gaps = []
        for paths, *_ in tracklets:
            matches = [pattern.fullmatch(osp.basename(path)) for path in paths]
            numbers = [int(match['frame']) for match in matches if match]
            steps = [b - a for a, b in itertools.pairwise(numbers)]
            if len(numbers) == len(paths) and steps and max(steps) > min(steps):
                place = steps.index(max(steps))
                gaps.append(f'{paths[place]} and {osp.basename(paths[place + 1])}')
        if gaps:
            of = counted(len(tracklets), 'tracklet')
            found.warn(
                'gaps', f'{label}: {len(gaps)} of {of} skip frame numbers, first between {gaps[0]}'
            )


def _compare_train_with_test(name: str, contents: Contents, found: 'Findings') -> None:
    """Report persons of training who are searched, too; ids go on from train to test."""
    trained = {pid for _, pid, *_ in contents.tracklets['train']} - NOT_PERSONS.get(name, set())
    tested: dict[int, str] = {}  # pid → a frame
    for label in ('test', 'query', 'gallery'):
        for paths, pid, *_ in contents.tracklets.get(label, []):
            tested.setdefault(pid, paths[0])
    for pid in sorted(trained & tested.keys()):
        found.error('disagreement', f'{tested[pid]}: person {pid} is in the train split, too')


def _compare_queries_with_gallery(contents: Contents, found: 'Findings') -> None:
    """Report queries whose copy in the gallery folder differs.

    With another camera the copy is a match of its own query, at distance 0.
    """
    gallery = {
        (pid, osp.basename(osp.dirname(paths[0]))): (paths, camid)
        for paths, pid, camid, _ in contents.tracklets['gallery']
    }
    for paths, pid, camid, _ in contents.tracklets['query']:
        folder = osp.dirname(paths[0])
        copy, copied_camid = gallery.get((pid, osp.basename(folder)), ((), camid))
        if camid != copied_camid:
            found.error(
                'disagreement',
                f'{folder}: camera {camid + 1}, but {copied_camid + 1} in {osp.dirname(copy[0])}',
            )
        elif not copy:
            found.warn('queries', f'{folder}: not in the gallery, which has every query')
        elif [*map(osp.basename, paths)] != [*map(osp.basename, copy)]:
            found.warn('queries', f'{folder}: other frames than in {osp.dirname(copy[0])}')


def _find_frames_in_two_lists(contents: Contents, found: 'Findings') -> None:
    """Report tracklets with a frame of another list; ids begin at 0 in each, so paths tell."""
    listed: dict[str, str] = {}  # frame → list
    for label in ('train', 'val', 'test'):
        for paths, *_ in contents.tracklets.get(label, []):
            others = {listed.setdefault(path, label) for path in paths} - {label}
            for other in sorted(others):
                found.error('disagreement', f'{paths[0]}: its frames are in {other} and {label}')


def _find_unknown_cameras(name: str, contents: Contents, found: 'Findings') -> None:
    last = OFFICIAL_CAMERAS.get(name)
    first: dict[int, str] = {}  # camera → a frame
    for tracklets in contents.tracklets.values():
        for paths, _, camid, _ in tracklets:
            first.setdefault(camid + 1, paths[0])
    for camera, path in sorted(first.items()):
        if last is not None and camera > last:
            found.warn('counts', f'{path}: camera {camera}, the release has {last}')


def count(name: str, contents: Contents, found: 'Findings') -> dict[str, dict[str, Any]]:
    """Compare persons, tracklets and frames of each list with the official statistics."""
    counts: dict[str, dict[str, Any]] = {}
    sizes = {
        label: (
            len({pid for _, pid, *_ in tracklets} - NOT_PERSONS.get(name, set())),
            len(tracklets),
            sum(len(paths) for paths, *_ in tracklets),
        )
        for label, tracklets in contents.tracklets.items()
    }
    if name == 'lsvid':  # its persons are others in each of these lists
        people, number, frames = zip(
            *(sizes[label] for label in ('train', 'val', 'test') if label in sizes), strict=True
        )
        sizes['all'] = sum(people), sum(number), sum(frames)
    for label, numbers in sizes.items():
        official = OFFICIAL_COUNTS[name].get(label, (None,) * 3)
        counts[label] = {}
        for what, here, there in zip(
            ('persons', 'tracklets', 'frames'), numbers, official, strict=True
        ):
            counts[label][what] = {'found': here, 'official': there}
            if there not in (None, here):
                found.warn('counts', f'{label}: {here} {what}, the release has {there}')
    return counts


def find_unmatched(
    name: str, contents: Contents, needs_queries: bool, found: 'Findings'
) -> dict[str, dict[str, Any]]:
    """Find queries without a match, in both protocols.

    'official' searches the queries, too, where the dataset means it so; 'torchreid' never does.
    """
    unmatched = {}
    for split, (query, gallery) in contents.searches.items():
        for protocol in ('official', 'torchreid') if query else ():
            searched = gallery + query if needs_queries and protocol == 'official' else gallery
            cameras: dict[int, list[int]] = {}  # pid → camera of each of its tracklets
            for _, pid, camid, _ in searched:
                cameras.setdefault(pid, []).append(camid)
            without_match = [
                paths[0]
                for paths, pid, camid, _ in query
                for seen in [cameras.get(pid, [])]
                if not count_matchable([pid], [pid] * len(seen), [camid], seen)
            ]
            official = OFFICIAL_UNMATCHED.get(name, {}).get((split, protocol))
            key = f'{split}, {protocol} protocol'
            unmatched[key] = {
                'queries': len(query),
                'without_match': len(without_match),
                'official': official,
                'first_frames': without_match,
            }
            if len(without_match) == len(query) and protocol == 'official':
                found.error('queries', f'{key}: none of the {len(query)} queries has a match')
            elif len(without_match) != (official or 0):
                found.warn('queries', f'{key}: {len(without_match)} of {len(query)} have no match')
    return unmatched


def _read_mars(folder: str, attempt: Attempt) -> Contents:
    rows: list[int] = []
    train: list[Tracklet | None] = []
    test: list[Tracklet | None] = []
    with attempt():
        train, test, rows, _ = read_mars_tables(folder, attempt=attempt)
    query = [tracklet for row in rows if (tracklet := test[row]) is not None]
    searched = set(range(len(test))) - set(rows)
    gallery = [tracklet for row in sorted(searched) if (tracklet := test[row]) is not None]
    tested = [tracklet for tracklet in test if tracklet is not None]
    tracklets = {
        'train': [tracklet for tracklet in train if tracklet is not None],
        'test': tested,
        'query': query,
        'junk': [tracklet for tracklet in tested if tracklet[1] == JUNK_PID],
        'distractors': [tracklet for tracklet in tested if tracklet[1] == DISTRACTOR_PID],
    }
    trees = [osp.join(folder, tree) for tree in ('bbox_train', 'bbox_test')]
    return Contents(tracklets, {'test': (query, gallery)}, trees)


def _read_duke(folder: str, attempt: Attempt) -> Contents:
    return _three_splits(folder, attempt, read_duke)


def _read_own(source: str, attempt: Attempt) -> Contents:
    return _three_splits(source, attempt, read_own_tracklets)


def _three_splits(
    source: str, attempt: Attempt, read: Callable[..., tuple[Lists, list[str]]]
) -> Contents:
    lists: Lists = ([], [], [])
    sources: list[str] = []
    with attempt():
        lists, sources = read(source, attempt=attempt)
    tracklets = dict(zip(SPLITS, lists, strict=True))
    trees = split_folders(source)
    if not osp.isdir(source):  # a CSV: only the folders that it names are checked
        for folder in unused_splits(osp.dirname(source), sources):
            warnings.warn(f'{folder}: {source} names no frame in it', stacklevel=2)
    return Contents(tracklets, {'test': (lists[1], lists[2])}, trees, tuple(sources))


def _read_lsvid(folder: str, attempt: Attempt) -> Contents:
    tracklets: dict[str, list[Tracklet]] = {'train': []}
    searches: dict[str, tuple[list[Tracklet], list[Tracklet]]] = {}
    listings: dict[str, list[str]] = {}
    with attempt():
        train = read_tracklets(folder, find_list(folder, 'train'), listings, attempt)
        tracklets['train'] = [tracklet for tracklet in train if tracklet is not None]
    for split in ('test', 'val'):
        with attempt():
            query, gallery, _ = read_test_split(folder, split, listings, attempt)
            tracklets[split], tracklets[f'{split} query'] = query + gallery, query
            searches[split] = query, gallery
    trees = [osp.join(folder, name) for name, is_dir in scan(folder) if name.startswith('tracklet')]
    return Contents(tracklets, searches, trees)


# name → where it is, how it is read, the class that loads it for a run
DATASETS = {
    'mars': (find_mars, _read_mars, Mars),
    'dukemtmcvidreid': (find_duke, _read_duke, DukeMTMCVidReID),
    'lsvid': (find_lsvid, _read_lsvid, LSVID),
    'tracklets': (find_source, _read_own, Tracklets),
}
