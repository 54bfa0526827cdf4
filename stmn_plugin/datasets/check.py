"""Find all errors of a dataset on disk; each folder is listed once and each frame is read.

Errors are what a run would stop at, or silently miss. Warnings are what may be as it should: counts
and cameras unlike those of the release (of a subset), other image sizes, images in no tracklet,
queries that nothing can match. Images are judged by :func:`read_frame`, which is what reads them in
a run.
"""

import contextlib
import os
import os.path as osp
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeAlias

from torch.utils.data import Dataset
from tqdm import tqdm

from stmn_plugin.data.frames import BadFrame, read_frame
from stmn_plugin.data.loaders import FrameLoader
from stmn_plugin.errors import InputError, printable, worker_failure

from .check_lists import DATASETS, USUAL_SIZE, Contents, count, find_disagreements, find_unmatched
from .left_out import find_left_out
from .listing import data_root, is_image, listing_once, scan

CHUNK = 64  # frames per job of a worker
DEPTH = 5  # of folders, so that a link to a parent folder ends
SHOWN = 3  # names shown of ignored files of one kind; the report has all of them

Complaint: TypeAlias = dict[str, str]
"""``kind`` and ``message``."""
Report: TypeAlias = dict[str, Any]
"""Result of :func:`check_dataset`, ready for JSON."""
Size: TypeAlias = tuple[int, int]
"""Height and width."""
Chunk: TypeAlias = tuple[int, Counter[Size], list[str], list[tuple[str, Size]]]
"""An item of :class:`ImageChunks`."""


class Findings:
    """Complaints of all kinds, in the order in which they were found."""

    def __init__(self) -> None:
        self.errors: list[Complaint] = []
        self.warnings: list[Complaint] = []

    def error(self, kind: str, message: str) -> None:
        self.errors.append({'kind': kind, 'message': printable(message)})

    def warn(self, kind: str, message: str) -> None:
        self.warnings.append({'kind': kind, 'message': printable(message)})

    @contextlib.contextmanager
    def attempt(self) -> Iterator[None]:
        """Note an InputError of a ``with`` block and continue after it."""
        try:
            yield
        except InputError as error:
            self.error('structure', str(error))


def check_dataset(name: str, root: str, workers: int = 0, read_images: bool = True) -> Report:
    """Check one dataset.

    Args:
        name: one of DATASETS.
        root: data root, as for training.
        workers: processes that read images; 0 reads in this one.
        read_images: False compares lists and folders only.

    Returns:
        The report, ready for JSON; the data are bad if ``errors`` is not empty.

    Raises:
        InputError: the dataset is not there at all, a worker was killed, or files cannot be opened
            for want of memory or the like.
    """
    find, read, host_class = DATASETS[name]
    folder, found = find(data_root(root)), Findings()
    with listing_once(), warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter('always')
        contents = read(folder, found.attempt)
        images, left_out = compare_with_disk(contents, found)
    for warning in caught:
        found.warn('structure', str(warning.message))
    if not any(contents.tracklets.values()):
        found.error('structure', f'{folder}: no tracklet could be loaded')
    find_disagreements(name, contents, found)
    report = {
        'dataset': name,
        'folder': folder,
        'counts': count(name, contents, found),
        'queries_without_match': find_unmatched(
            name, contents, host_class.gallery_needs_queries, found
        ),
        'left_out': {
            kind: {'number': len(paths), 'files': paths} for kind, paths in left_out.items()
        },
        'images_on_disk': sum(map(len, images.values())),
        'images_read': 0,
        'sizes': {},
    }
    if read_images:
        sizes = read_all(images, workers, USUAL_SIZE.get(name), found)
        report['images_read'] = report['images_on_disk']
        report['sizes'] = {f'{h}x{w}': n for (h, w), n in sizes.most_common()}
    return {**report, 'errors': found.errors, 'warnings': found.warnings}


def compare_with_disk(
    contents: Contents, found: Findings
) -> tuple[dict[str, list[str]], dict[str, list[str]]]:
    """Report frames that are missing or in no tracklet, and files that are not frames.

    Returns:
        Dict folder → sorted names of the images in it; dict as of :func:`find_left_out`.
    """
    listed: dict[str, set[str]] = {}
    for tracklets in contents.tracklets.values():
        for path in (path for paths, *_ in tracklets for path in paths):
            folder, _, name = path.rpartition(os.sep)
            listed.setdefault(folder, set()).add(name)
    listings: dict[str, list[tuple[str, bool]]] = {}
    for tree in contents.trees:
        _walk(tree, DEPTH, listings, found)
    for folder in listed.keys() - listings.keys():
        listings[folder] = _entries(folder, found)
    images, others = {}, {}
    for folder in sorted(listings):
        expected, entries = listed.get(folder, set()), listings[folder]
        present = {name for name, is_dir in entries if not is_dir and is_image(name)}
        # at the level of frames a folder is unexpected, above it it belongs to a person
        folders = {name for name, is_dir in entries if is_dir and is_image(name) and expected}
        images[folder] = sorted(present)
        others[folder] = [
            (name, False) for name, is_dir in entries if not is_dir and name not in present
        ]
        for name in sorted(folders):
            found.error('folder', f'{osp.join(folder, name)}: a folder where an image belongs')
        for name in sorted(expected - present - folders):
            found.error('missing', f'{osp.join(folder, name)}: listed, but not there')
        for name in sorted(present - expected):
            found.warn('unlisted', f'{osp.join(folder, name)}: in no tracklet')
    left_out = find_left_out(others, contents.tracklets.values(), contents.sources)
    for kind, paths in left_out.items():
        shown = ', '.join(paths[:SHOWN]) + ', ...' * (len(paths) > SHOWN)
        found.warn('left out', f'{len(paths):,} {kind} in no tracklet: {shown}')
    return images, left_out


def _walk(
    folder: str, depth: int, listings: dict[str, list[tuple[str, bool]]], found: Findings
) -> None:
    """Add the entries of a folder and of ``depth`` levels below it."""
    listings[folder] = _entries(folder, found)
    for name in sorted(name for name, is_dir in listings[folder] if is_dir):
        if depth:
            _walk(osp.join(folder, name), depth - 1, listings, found)
        else:
            found.warn('folder', f'{osp.join(folder, name)}: too deep, not looked into')


def _entries(folder: str, found: Findings) -> list[tuple[str, bool]]:
    if osp.isdir(folder):  # else its frames are missing, each of them
        with found.attempt():
            return scan(folder)
    return []


class ImageChunks(Dataset[Chunk]):
    """Chunks of frames: (number, their sizes, errors, frames of an unusual size)."""

    def __init__(self, images: Mapping[str, Sequence[str]], usual_size: Size | None):
        self.usual_size = usual_size
        self.chunks = [
            (folder, names[start : start + CHUNK])
            for folder, names in sorted(images.items())
            for start in range(0, len(names), CHUNK)
        ]

    def __len__(self) -> int:
        return len(self.chunks)

    def __getitem__(self, index: int) -> Chunk:
        folder, names = self.chunks[index]
        sizes: Counter[Size] = Counter()
        complaints, unusual = [], []
        for path in (osp.join(folder, name) for name in names):
            try:
                height, width = read_frame(path).shape[1:]
            except BadFrame as error:
                complaints.append(str(error))
                continue
            size = height, width
            sizes[size] += 1
            if self.usual_size not in (None, size):
                unusual.append((path, size))
        return len(names), sizes, complaints, unusual


def read_all(
    images: Mapping[str, Sequence[str]], workers: int, usual_size: Size | None, found: Findings
) -> Counter[Size]:
    """Read every image and return the number of images by size (height, width)."""
    sizes: Counter[Size] = Counter()
    unusual: list[tuple[str, Size]] = []
    # its workers end with this process, and it notices if one is killed
    loader = FrameLoader(
        ImageChunks(images, usual_size), workers, batch_size=None, collate_fn=_as_is
    )
    total = sum(map(len, images.values()))
    try:
        with tqdm(total=total, unit='frame', disable=None) as progress:
            for number, some_sizes, complaints, some_unusual in loader:
                progress.update(number)
                sizes.update(some_sizes)
                for message in complaints:
                    found.error('image', message)
                unusual += some_unusual
    except RuntimeError as error:
        failure = worker_failure(error)
        if not failure:
            raise
        raise InputError(f'--workers {workers}: {failure}') from error
    if unusual and usual_size:
        expected = f'{usual_size[0]}x{usual_size[1]}'
        if usual_size not in sizes:  # a resized copy, or a miniature; do not list every frame
            found.warn('size', f'none of the {len(unusual)} images is {expected}')
            unusual = []
        for path, (height, width) in unusual:
            found.warn('size', f'{path}: {height}x{width}, expected {expected}')
    return sizes


def _as_is(item: Chunk) -> Chunk:
    return item
