"""Cache the lists of a dataset per process and, if reading is slow, on disk until it changes.

An index on disk lies in the user's cache folder (``$XDG_CACHE_HOME`` or ``~/.cache``, then
``stmn_plugin/``), which may be deleted at any time. ``STMN_PLUGIN_NO_CACHE=1`` switches it off.
It is used only while every file and folder that the lists were read from has the same size and
times as then: a frame that comes or goes changes the times of its folder. Asking for the status of
a folder is far cheaper than listing it, and that is all that is saved.
"""

import contextlib
import functools
import hashlib
import itertools
import logging
import os
import os.path as osp
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import platformdirs
from numpy.typing import NDArray

from stmn_plugin.data.tracklets import Tracklet
from stmn_plugin.errors import InputError, printable
from stmn_plugin.input_files import open_regular
from stmn_plugin.whole_files import whole_file

from .left_out import find_left_out, left_out_line
from .listing import SPLITS, Lists, listing_once

logger = logging.getLogger(__name__)

NO_CACHE = 'STMN_PLUGIN_NO_CACHE'
WORTH_SECONDS = 0.5  # lists that are read faster need no index on disk
# a folder changed this recently may change again within one tick of its clock (2 s on FAT)
SETTLED_NS = 3 * 10**9
SEPARATOR = '\0'  # the one character that no path holds

Stamp: TypeAlias = tuple[int, int, int]
Reader: TypeAlias = Callable[[str, tuple[str, ...]], tuple[Lists, Iterable[str]]]


class Index(NamedTuple):
    """The lists of a dataset and their sources."""

    lists: Lists
    sources: list[tuple[str, Stamp | None]]  # each path read, and its stamp then
    left_out: str  # ignored files, in a line


_PARSED: dict[tuple[tuple[str, ...], str, tuple[str, ...]], Index] = {}  # by kind, folder, splits


def parse_once(
    kind: tuple[str, ...],
    folder: str,
    read: Reader,
    splits: tuple[str, ...] = SPLITS,
    on_disk: bool = True,
) -> Lists:
    """Return the lists of a dataset, which the host's manager requests three times.

    Args:
        kind: which reader, and what else than the folder its lists depend on.
        folder: absolute path of the dataset, or of the file that describes it.
        read: (folder, splits) → (lists, the files and folders they were read from); called only
            when one of those changed.
        splits: those that are needed; the lists of others are empty.
        on_disk: also keep the lists for later processes, if they took long to read.

    Returns:
        Copies of the lists (the tracklets themselves are shared).
    """
    for known in (SPLITS, splits):  # all of them are good for some of them, too
        index = _PARSED.get((kind, folder, known))
        if index is not None and all(_stamp(path) == stamp for path, stamp in index.sources):
            break
    else:
        name = (*kind, *splits) if splits != SPLITS else kind
        place = index_path(name, folder) if on_disk else None
        index = (load_index(place, folder) if place else None) or _parse(
            folder, read, splits, place
        )
        if index.left_out:
            logger.info(f'{printable(folder)}: {index.left_out}')
        _PARSED[kind, folder, splits] = index
    train, query, gallery = (
        list(tracklets) if split in splits else []
        for split, tracklets in zip(SPLITS, index.lists, strict=True)
    )
    return train, query, gallery


def _parse(folder: str, read: Reader, splits: tuple[str, ...], place: str | None) -> Index:
    begin = time.time_ns()
    with listing_once() as listings:
        lists, paths = read(folder, splits)
    left_out = left_out_line(_base(folder), find_left_out(listings, lists, paths))
    sources = [(path, _stamp(path)) for path in paths]
    slow = time.time_ns() - begin >= WORTH_SECONDS * 1e9
    # the status of a folder that changed since shortly before it was listed does not tell whether
    # what was listed is all of it
    if place and slow and all(_settled(stamp, begin) for _, stamp in sources):
        with contextlib.suppress(InputError, OSError):  # no space, no permission: no index
            save_index(place, folder, lists, sources, left_out)
    return Index(lists, sources, left_out)


def index_path(kind: tuple[str, ...], folder: str) -> str | None:
    """Return the path of the index of a dataset; None if it should or can have none."""
    if os.environ.get(NO_CACHE, '') not in ('', '0'):
        return None
    home = platformdirs.user_cache_dir('stmn_plugin', appauthor=False)
    if not osp.isabs(home):  # no home folder
        return None
    cache = osp.realpath(home)
    real = osp.realpath(folder)
    if cache.startswith(osp.join(real if osp.isdir(real) else osp.dirname(real), '')):
        return None  # never in the dataset
    digest = hashlib.sha256(SEPARATOR.join((*kind, folder)).encode('utf-8', 'surrogateescape'))
    return osp.join(cache, f'{kind[0]}-{digest.hexdigest()[:24]}.npz')


def save_index(
    place: str,
    folder: str,
    lists: Lists,
    sources: Sequence[tuple[str, Stamp | None]],
    left_out: str = '',
) -> None:
    """Write lists, stamps and the line on ignored files as an npz file without pickles.

    Paths are kept relative to the folder of the dataset. Nothing is written if one lies elsewhere.
    """
    base = _base(folder)
    tracklets = [tracklet for tracklets in lists for tracklet in tracklets]
    found = [_head(paths, base) for paths, *_ in tracklets]
    heads = [head for head in found if head is not None]
    elsewhere = [path for path, _ in sources if not f'{path}/'.startswith(base)]
    if elsewhere or len(heads) < len(found):
        return
    names = [
        path[len(head) :]
        for (paths, *_), head in zip(tracklets, heads, strict=True)
        for path in paths
    ]
    with whole_file(place) as file:
        np.savez_compressed(
            file,
            code=np.frombuffer(_code(), dtype=np.uint8),
            counts=np.array([len(tracklets) for tracklets in lists]),
            numbers=np.array(
                [(len(paths), *numbers) for paths, *numbers in tracklets], dtype=np.int64
            ).reshape(-1, 4),
            heads=_packed([head[len(base) :] for head in heads]),
            names=_packed(names),
            sources=_packed([path[len(base) :] for path, _ in sources]),
            left_out=_packed([left_out]),
            stamps=np.array([stamp for _, stamp in sources], dtype=np.int64).reshape(-1, 3),
        )


def load_index(place: str, folder: str) -> Index | None:
    """Load an index of :func:`save_index`; None if it is missing, damaged or out of date."""
    base = _base(folder)
    try:
        with open_regular(place) as file, np.load(file, allow_pickle=False) as index:
            if index['code'].tobytes() != _code():
                return None
            paths = [(base + path).rstrip('/') for path in _unpacked(index['sources'])]
            stamps: list[Stamp] = [tuple(stamp) for stamp in index['stamps'].tolist()]
            sources: list[tuple[str, Stamp | None]] = list(zip(paths, stamps, strict=True))
            if any(_stamp(path) != stamp for path, stamp in sources):
                return None
            numbers = index['numbers'].tolist()
            heads, names = _unpacked(index['heads']), _unpacked(index['names'])
            counts = index['counts'].tolist()
            left_out = ''.join(_unpacked(index['left_out']))
    except Exception:  # for any damage, reading the dataset again is right
        return None
    tracklets: list[Tracklet] = []
    end = 0
    for (length, pid, camid, dsetid), head in zip(numbers, heads, strict=True):
        begin, end = end, end + length
        head = base + head
        tracklets.append((tuple([head + name for name in names[begin:end]]), pid, camid, dsetid))
    ends = np.cumsum([0, *counts]).tolist()
    train, query, gallery = (tracklets[a:b] for a, b in itertools.pairwise(ends))
    return Index((train, query, gallery), sources, left_out)


def _base(folder: str) -> str:
    """Return the folder that paths are relative to, with a slash: dataset or folder of the CSV."""
    return osp.join(folder if osp.isdir(folder) else osp.dirname(folder), '')


def _head(paths: Sequence[str], base: str) -> str | None:
    """Return the folder of a tracklet, ``base`` if there are several; None if not below it."""
    for head in (osp.join(osp.dirname(paths[0]), ''), base):
        if head.startswith(base) and all(path.startswith(head) for path in paths):
            return head
    return None


def _packed(texts: Iterable[str]) -> NDArray[np.uint8]:
    return np.frombuffer(os.fsencode(SEPARATOR.join(texts)), dtype=np.uint8)


def _unpacked(array: NDArray[Any]) -> list[str]:
    text = os.fsdecode(array.tobytes())
    return text.split(SEPARATOR) if text else []


def _stamp(path: str) -> Stamp | None:
    """Return the times and the size of a file or folder.

    The second time is that of its status: backup programs may reset the first one, but not this.
    """
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_mtime_ns, status.st_ctime_ns, status.st_size


def _settled(stamp: Stamp | None, begin: int) -> bool:
    """Return whether a stamp can reveal later changes; some object stores have none (0)."""
    return stamp is not None and 0 < stamp[0] and max(stamp[:2]) < begin - SETTLED_NS


@functools.cache
def _code() -> bytes:
    """Return the digest of the readers; an index of another version of them is not used."""
    digest = hashlib.sha256()
    package = Path(__file__).parents[1]
    for path in sorted([*package.glob('datasets/*.py'), *package.glob('data/*.py')]):
        digest.update(path.read_bytes())
    return digest.digest()
