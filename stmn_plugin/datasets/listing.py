"""What every dataset loader shares: folders and text lists in, checked lists out."""

import contextlib
import copy
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

# what file browsers, archives and file systems leave behind: begins of names, whole names
HIDDEN = ('.', '@eaDir', '__MACOSX', '$RECYCLE.BIN')
HIDDEN_NAMES = {'thumbs.db', 'ehthumbs.db', 'desktop.ini', 'lost+found', 'icon\r'}

SPLITS = ('train', 'query', 'gallery')
TEST_SPLITS = ('query', 'gallery')

Lists: TypeAlias = tuple[list[Tracklet], list[Tracklet], list[Tracklet]]
"""Train, query and gallery; a split that was not read is empty."""

Attempt: TypeAlias = Callable[[], AbstractContextManager[object]]
"""Makes the context around each tracklet: the default lets its complaint through,
``tools/check_data.py`` notes it and goes on with the next one."""

NOBODY: list[Tracklet] = [((), 0, 0, 0)]  # stands in for an empty list, which the host cannot take

_scans: dict[str, list[tuple[str, bool]]] | None = (
    None  # folder → its entries, inside listing_once()
)


def id_number(text: str) -> int | None:
    """A person or camera in a name as a number; None if it is none that the host's batches hold."""
    return int(text) if text.isdecimal() and len(text) <= 9 else None


def data_root(root: str) -> str:
    """The data root as an absolute path, ``~`` expanded as the host does."""
    return osp.abspath(osp.expanduser(root))


def first_existing(paths: Sequence[str], advice: str) -> str:
    """The first of these paths that exists; advice tells what to do when none does."""
    for path in paths:
        try:
            os.stat(path)
            return path
        except (FileNotFoundError, NotADirectoryError, ValueError):  # the last: a NUL in it
            continue
        except OSError as error:  # there, but not for us; or a loop of links
            raise InputError(f'{path}: cannot be opened ({error.strerror})') from error
    raise InputError(f'{" or ".join(paths)}: not found; {advice}')


def scan(folder: str) -> list[tuple[str, bool]]:
    """The visible entries of a folder as (name, is it a folder), unsorted."""
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
    except OSError:  # a loop of links: who reads it is told so
        return False


@contextlib.contextmanager
def listing_once() -> Iterator[dict[str, list[tuple[str, bool]]]]:
    """Inside, no folder is listed twice, whoever asks; gives a dict folder → its entries."""
    global _scans
    _scans = {}
    try:
        yield _scans
    finally:
        _scans = None


def child_folders(folder: str, holding: str) -> list[str]:
    """Names of the folders in a folder, in natural order.

    Args:
        folder: where to look.
        holding: what each of them is, for the message when there is none.
    """
    entries = scan(folder)
    # an image at this level would be lost without a word: one level of folders is missing
    stray = [name for name, is_dir in entries if not is_dir and is_image(name)]
    if stray:
        raise InputError(f'{osp.join(folder, stray[0])}: an image where {holding} folders belong')
    names = sorted((name for name, is_dir in entries if is_dir), key=natural_key)
    if not names:
        raise InputError(f'{folder}: holds no {holding} folder; fill it or remove it')
    return names


def is_image(name: str) -> bool:
    """Whether a file name ends like an image."""
    return name.lower().endswith(IMAGE_SUFFIXES)


def image_names(folder: str) -> list[str]:
    """Names of the images of one tracklet folder in natural order; none at all is an error.

    Also what only has the name of an image (a pipe, a folder): reading it says what it is.
    """
    entries = sorted((name for name, _ in scan(folder)), key=natural_key)
    names = list(filter(is_image, entries))
    if not names:
        other = f', but {entries[0]} and {len(entries) - 1} others' if entries else ''
        raise InputError(
            f'{folder}: empty tracklet, no {"/".join(IMAGE_SUFFIXES)} file in it{other}; '
            'restore its frames or remove the folder'
        )
    refuse_twins(folder, names)
    return names


def refuse_twins(folder: str, names: Sequence[str]) -> None:
    """InputError if two names differ in their suffixes only: one frame would count twice."""
    stems: dict[str, str] = {}
    for name in names:
        twin = stems.setdefault(name.rpartition('.')[0], name)
        if twin is not name:
            raise InputError(
                f'{folder}: {twin} and {name} are one frame in two files; remove one of them'
            )


def read_lines(path: str, advice: str) -> list[str]:
    """The lines of a text file that are not blank; CRLF and LF endings, a BOM is dropped."""
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
    """The splits that a dataset is read for in one of the host's modes: a test needs no train."""
    return TEST_SPLITS if mode in TEST_SPLITS else SPLITS


class TrackletDataset(torchreid.data.VideoDataset):  # type: ignore[misc]  # the host has no types
    """The host's VideoDataset for lists of 4-tuples that may be empty where ``mode`` never looks.

    The host reads the first item of all three lists whatever the mode is; and its ``combineall``
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
        some = (tracklets or NOBODY for tracklets in (train, query, gallery))
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
        """The host's sum of train lists, a host dataset; our test lists may be empty in it."""
        summand = copy.copy(self)
        summand.query, summand.gallery = self.query or NOBODY, self.gallery or NOBODY
        return torchreid.data.VideoDataset.__add__(summand, other)

    def combine_all(self) -> None:
        """Append the query and gallery tracklets to the train list, their people as new classes."""
        test = self.query + self.gallery
        first = self.get_num_pids(self.train)
        classes = {pid: first + i for i, pid in enumerate(sorted({item[1] for item in test}))}
        self.train = self.train + [(paths, classes[pid], *rest) for paths, pid, *rest in test]
