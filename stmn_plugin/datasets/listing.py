"""Functions that all dataset loaders share: reading of folders and lists, and checks."""

import contextlib
import copy
import itertools
import os
import os.path as osp
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any, TypeAlias

import torchreid

from stmn_plugin.data.frames import IMAGE_SUFFIXES
from stmn_plugin.data.tracklets import Tracklet
from stmn_plugin.errors import InputError
from stmn_plugin.input_files import open_regular
from stmn_plugin.labels import natural_key
from stmn_plugin.numerals import is_digits

# files of browsers, archives and file systems: prefixes of names, whole names
HIDDEN = ('.', '@eaDir', '__MACOSX', '$RECYCLE.BIN')
HIDDEN_NAMES = {'thumbs.db', 'ehthumbs.db', 'desktop.ini', 'lost+found', 'icon\r'}

SPLITS = ('train', 'query', 'gallery')
TEST_SPLITS = ('query', 'gallery')

Lists: TypeAlias = tuple[list[Tracklet], list[Tracklet], list[Tracklet]]
"""Train, query and gallery; a split that was not read is empty."""

Attempt: TypeAlias = Callable[[], AbstractContextManager[object]]
"""Makes the context of each tracklet: the default passes its error on,
``tools/check_data.py`` notes it and continues with the next one."""

PLACEHOLDER: list[Tracklet] = [((), 0, 0, 0)]  # replaces an empty list, which the host rejects

_scans: dict[str, list[tuple[str, bool]]] | None = (
    None  # folder → its entries, inside listing_once()
)


def id_number(text: str) -> int | None:
    """Convert an id in a name to a number; None if the host's batches cannot hold it."""
    return int(text) if is_digits(text) and len(text) <= 9 else None


def data_root(root: str) -> str:
    """Return the data root as an absolute path, ``~`` expanded as the host does."""
    return osp.abspath(osp.expanduser(root))


def first_existing(paths: Sequence[str], advice: str) -> str:
    """Return the first existing path; ``advice`` tells what to do if there is none."""
    for path in paths:
        try:
            os.stat(path)
            return path
        except (FileNotFoundError, NotADirectoryError, ValueError):  # the last: a NUL in it
            continue
        except OSError as error:  # no permission, or a loop of links
            raise InputError(f'{path}: cannot be opened ({error.strerror})') from error
    raise InputError(f'{" or ".join(paths)}: not found; {advice}')


def scan(folder: str) -> list[tuple[str, bool]]:
    """Return the visible entries of a folder as (name, whether it is a folder), unsorted."""
    if _scans is not None and folder in _scans:
        return _scans[folder]
    try:
        with os.scandir(folder) as entries:
            found = [(e.name, _is_folder(e)) for e in entries if not _is_hidden(e.name)]
    except OSError as error:
        raise InputError(f'{folder}: cannot be listed ({error.strerror})') from error
    if _scans is not None:
        _scans[folder] = found
    return found


def _is_hidden(name: str) -> bool:
    return name.startswith(HIDDEN) or name.lower() in HIDDEN_NAMES


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a loop of links; reading reports it
        return False


@contextlib.contextmanager
def listing_once() -> Iterator[dict[str, list[tuple[str, bool]]]]:
    """List each folder only once in a ``with`` block; yield a dict folder → its entries."""
    global _scans
    _scans = {}
    try:
        yield _scans
    finally:
        _scans = None


def child_folders(folder: str, holding: str) -> list[str]:
    """Return the names of the folders in a folder, in natural order.

    Args:
        folder: where to look.
        holding: what each of them is, for the message when there is none.
    """
    entries = scan(folder)
    # an image at this level would be silently ignored: one level of folders is missing
    stray = [name for name, is_dir in entries if not is_dir and is_image(name)]
    if stray:
        raise InputError(f'{osp.join(folder, stray[0])}: an image where {holding} folders belong')
    names = sorted((name for name, is_dir in entries if is_dir), key=natural_key)
    if not names:
        raise InputError(f'{folder}: holds no {holding} folder; fill it or remove it')
    return names


def is_image(name: str) -> bool:
    """Return whether a file name has the suffix of an image."""
    return name.lower().endswith(IMAGE_SUFFIXES)


def image_names(folder: str) -> list[str]:
    """Return the names of the images of a tracklet folder in natural order; none is an error.

    Also what only has the name of an image (a pipe, a folder): reading it says what it is.
    """
    keys = {name: natural_key(name) for name, _ in scan(folder)}
    entries = sorted(keys, key=keys.__getitem__)
    names = list(filter(is_image, entries))
    if not names:
        other = f', but {entries[0]} and {len(entries) - 1} others' if entries else ''
        raise InputError(
            f'{folder}: empty tracklet, no {"/".join(IMAGE_SUFFIXES)} file in it{other}; '
            'restore its frames or remove the folder'
        )
    check_distinct_stems(folder, names)
    for one, other in itertools.pairwise(names):
        if keys[one][0] == keys[other][0]:  # 8.jpg and 08.jpg
            raise one_frame_twice(folder, one, other)
    return names


def check_distinct_stems(folder: str, names: Sequence[str]) -> None:
    """Raise InputError if two names differ only in their suffixes, so that a frame counts twice."""
    stems: dict[str, str] = {}
    for name in names:
        twin = stems.setdefault(name.rpartition('.')[0], name)
        if twin is not name:
            raise one_frame_twice(folder, twin, name)


def one_frame_twice(folder: str, one: str, other: str) -> InputError:
    """Return the error of two files of a tracklet that are the same frame."""
    return InputError(f'{folder}: {one} and {other} are one frame in two files; remove one of them')


def read_lines(path: str, advice: str) -> list[str]:
    """Read the lines of a text file that are not blank; CRLF or LF endings, without a BOM."""
    try:
        with open_regular(path, encoding='utf-8-sig') as file:
            lines = [line for line in map(str.rstrip, file) if line]
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f'{path}: cannot be read ({_reason(error)}); {advice}') from error
    if any('\0' in line for line in lines):
        raise InputError(f'{path}: holds NUL characters, so it is no text in UTF-8; {advice}')
    return lines


def _reason(error: Exception) -> str:
    return getattr(error, 'strerror', None) or 'no text in UTF-8'


def splits_of(mode: str) -> tuple[str, ...]:
    """Return the splits to read in one of the host's modes; a test needs no training split."""
    return TEST_SPLITS if mode in TEST_SPLITS else SPLITS


class TrackletDataset(torchreid.data.VideoDataset):  # type: ignore[misc]  # the host has no types
    """The host's VideoDataset for lists of 4-tuples; those that ``mode`` does not use may be empty.

    The host reads the first item of all three lists in every mode, and its ``combineall``
    numbers people in the order of a set and fails on a query whose person is not in the gallery.
    In the modes 'query' and 'gallery' the training list is not read, so it is empty.
    """

    dataset_dir: str  # of a loader of the host: its folder in the data root, then where it is
    gallery_needs_queries = False
    """Whether the official protocol searches the queries, which ``gallery`` does not hold."""

    def __init__(
        self,
        train: list[Tracklet],
        query: list[Tracklet],
        gallery: list[Tracklet],
        seq_len: int = 15,
        sample_method: str = 'evenly',
        *,
        mode: str = 'train',
        combineall: bool = False,
        verbose: bool = True,
        **kwargs: Any,
    ):
        if not {'train': train, 'query': query, 'gallery': gallery}.get(mode, True):
            raise InputError(f'{self.dataset_dir}: has no {mode} tracklets, which this run needs')
        some = (tracklets or PLACEHOLDER for tracklets in (train, query, gallery))
        # not super(): repaired loaders have the host's own, which reads files, next in line
        torchreid.data.VideoDataset.__init__(
            self, *some, seq_len, sample_method, mode=mode, verbose=False, **kwargs
        )
        self.train, self.query, self.gallery = train, query, gallery
        self.combineall, self.verbose = combineall, verbose
        if combineall and mode not in TEST_SPLITS:
            self.combine_all()
        self.num_train_pids = self.get_num_pids(self.train)
        self.num_train_cams = self.get_num_cams(self.train)
        self.num_datasets = self.get_num_datasets(self.train)
        self.data = getattr(self, mode)
        if verbose:
            self.show_summary()

    def __add__(self, other: Any) -> Any:
        """Add train lists as the host does; our test lists may be empty."""
        summand = copy.copy(self)
        summand.query, summand.gallery = self.query or PLACEHOLDER, self.gallery or PLACEHOLDER
        return torchreid.data.VideoDataset.__add__(summand, other)

    def combine_all(self) -> None:
        """Append the query and gallery tracklets to the train list, their people as new classes."""
        test = self.query + self.gallery
        first = self.get_num_pids(self.train)
        classes = {pid: first + i for i, pid in enumerate(sorted({item[1] for item in test}))}
        self.train = self.train + [(paths, classes[pid], *rest) for paths, pid, *rest in test]
