"""Embed a tree of tracklets into an index, by any number of processes that may be killed."""

import contextlib
import datetime
import hashlib
import json
import logging
import os
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from stmn_plugin.cameras.manifest import NAME as MANIFEST
from stmn_plugin.cameras.manifest import ManifestEntry, read_manifest
from stmn_plugin.errors import InputError, printable
from stmn_plugin.labels import natural_key

from .records import IndexedTracklet, Where, texts_of
from .tracklet_index import TrackletIndex

if TYPE_CHECKING:
    from stmn_plugin.evaluation.embedder import Embedder

logger = logging.getLogger(__name__)

AT_ONCE = 256  # tracklets that are embedded, and added to the index, together
REPORT_SECONDS = 10.0
NO_CROPS = 'without crops'  # reasons for which a tracklet is left out: they have been deleted,
UNREADABLE = 'without a readable crop'  # or the embedder skips bad frames
SHOWN = 10  # names in a warning
POLL_SECONDS = 1.0  # between two checks of the work of other processes


class CropsGoneError(InputError):
    """The folder of a tracklet is missing, or empty."""


class Embedded(NamedTuple):
    """Counts of :func:`embed_rows`."""

    added: int  # by this process
    changed: int  # that this process deleted, to be embedded again
    gone: int  # tracklets in the index that the manifest of their tree no longer lists
    left_out: Counter[str]  # reason → tracklets that are not in the index


def tree_rows(tree: Path) -> list[IndexedTracklet]:
    """Read the tracklets of a tree's manifest, with their revisions.

    Raises:
        InputError: no tracklets, an invalid line, or a name that is not text.
    """
    entries = read_manifest(tree)
    if not entries:
        problem = 'lists no tracklet' if (tree / MANIFEST).exists() else 'not found, so no tracklet'
        raise InputError(f'{tree / MANIFEST}: {problem}; tools/make_tracklets.py adds tracklets')
    tree = tree.resolve()
    rows = [
        replace(row_of_entry(tree, entry), revision=revision_of(tree, entry)) for entry in entries
    ]
    for row in rows:
        texts_of(row)  # before a feature is computed
    return rows


def revision_of(tree: Path, entry: ManifestEntry) -> str:
    """Digest a tracklet's entry in the manifest, and its crops' names and sizes.

    '' if there are none, or the folder cannot be read: crops may be deleted once they are embedded.
    """
    try:
        with os.scandir(tree / entry.tracklet) as files:
            crops = sorted(
                (file.name, file.stat().st_size) for file in files if not file.name.startswith('.')
            )
    except OSError:
        return ''
    if not crops:
        return ''
    return hashlib.sha256(json.dumps([asdict(entry), crops]).encode()).hexdigest()


def embed_rows(
    index: TrackletIndex,
    embedder: 'Embedder',
    rows: Sequence[IndexedTracklet],
    at_once: int = AT_ONCE,
) -> Embedded:
    """Embed those of the rows that are not in the index, and add them.

    Tracklets of another revision are deleted from the index first, so they are embedded again.
    Tracklets without crops stay in it if they are there, and are left out otherwise. If the
    embedder skips bad frames, tracklets without a readable crop are left out, too, and a warning
    names them. Several processes may run at the same time; each takes a part. At the end this one
    waits for the others, and takes over their parts if they die.

    Args:
        index: made with the model of the embedder.
        embedder: of ``index.model``.
        rows: of a tree.
        at_once: tracklets that are embedded and added together; a kill loses at most these.

    Raises:
        InputError: a crop cannot be read, or the database rejects the rows. Tracklets added before
            stay.
    """
    progress = _Progress(len(rows))
    changed = _delete_changed(index, rows)
    added, left_out = 0, Counter[str]()
    unreadable: list[str] = []
    left = _missing(index, rows)
    progress.start(len(rows) - len(left))
    while left:
        with index.claim(left, at_once) as claimed:
            crops = _existing_crops(claimed)
            left_out[NO_CROPS] += len(claimed) - len(crops)
            if embedder.skip_bad:
                bad = _without_readable_crop(crops)
                unreadable += [row.tracklet for row in bad]
                crops = {row: paths for row, paths in crops.items() if row not in bad}
            if crops:
                found = embedder(list(crops.values()), 'tracklets')
                assert found is not None  # one process a group
                added += index.add(list(crops), found.features)
        if claimed:
            done = {row.tracklet for row in claimed}
            left = [row for row in left if row.tracklet not in done]
        else:
            time.sleep(POLL_SECONDS)
            left = _missing(index, left)
        progress.report(len(rows) - len(left))
    if unreadable:
        names = ', '.join(unreadable[:SHOWN])
        more = f' and {len(unreadable) - SHOWN:,} more' if len(unreadable) > SHOWN else ''
        logger.warning('tracklets %s, left out: %s', UNREADABLE, printable(names + more))
        left_out[UNREADABLE] = len(unreadable)
    return Embedded(added, changed, _count_gone(index, rows), +left_out)


def crops_of(row: IndexedTracklet) -> list[str]:
    """Return the paths of the crops of a tracklet in natural order, as the dataset does.

    Raises:
        CropsGoneError: the folder is missing or empty.
        InputError: it cannot be read.
    """
    folder = Path(row.tree, row.tracklet)
    try:
        names = [path.name for path in folder.iterdir() if not path.name.startswith('.')]
    except OSError as error:
        kind = CropsGoneError if isinstance(error, FileNotFoundError) else InputError
        raise kind(f'cannot read {folder}: {error.strerror}') from error
    if not names:
        raise CropsGoneError(f'{folder} has no crops')
    return [str(folder / name) for name in sorted(names, key=natural_key)]


def row_of_entry(tree: Path, entry: ManifestEntry) -> IndexedTracklet:
    """Convert a manifest's entry to a tracklet without a number."""
    start, end = (
        None if time is None else datetime.datetime.fromisoformat(time)
        for time in (entry.start, entry.end)
    )
    names = entry.camera, entry.source, entry.track, entry.person
    return IndexedTracklet(0, str(tree), entry.tracklet, *names, start, end, len(entry.frames))


def _delete_changed(index: TrackletIndex, rows: Sequence[IndexedTracklet]) -> int:
    """Delete what is in the index with another revision; return how many."""
    revisions = {(row.tree, row.tracklet): row.revision for row in rows if row.revision}
    changed = [
        tracklet
        for tree in {tree for tree, _ in revisions}
        for tracklet, revision in index.known(tree).items()
        if revisions.get((tree, tracklet), revision) != revision
    ]
    if not changed:
        return 0
    numbers = [  # another process may have embedded some again in the meantime
        row.number
        for row in index.rows(Where(tracklets=changed))
        if revisions.get((row.tree, row.tracklet), row.revision) != row.revision
    ]
    return index.delete(Where(numbers=numbers)) if numbers else 0


def _count_gone(index: TrackletIndex, rows: Sequence[IndexedTracklet]) -> int:
    """Count the tracklets in the index that the manifests of the trees no longer list."""
    names: dict[str, set[str]] = {}
    for row in rows:
        names.setdefault(row.tree, set()).add(row.tracklet)
    return sum(len(index.known(tree).keys() - own) for tree, own in names.items())


def _existing_crops(rows: Sequence[IndexedTracklet]) -> dict[IndexedTracklet, list[str]]:
    """Return the paths of the crops of the tracklets that have any."""
    found = {}
    for row in rows:
        with contextlib.suppress(CropsGoneError):
            found[row] = crops_of(row)
    return found


def _without_readable_crop(
    crops: Mapping[IndexedTracklet, Sequence[str]],
) -> list[IndexedTracklet]:
    from stmn_plugin.data.frames import has_readable_frame  # not before: it imports torch

    return [row for row, paths in crops.items() if not has_readable_frame(paths)]


def _missing(index: TrackletIndex, rows: Sequence[IndexedTracklet]) -> list[IndexedTracklet]:
    known = {tree: index.known(tree) for tree in {row.tree for row in rows}}
    return [row for row in rows if row.tracklet not in known[row.tree]]


class _Progress:
    """Log every REPORT_SECONDS the number of tracklets, the rate and the time left."""

    def __init__(self, total: int):
        self.total = total

    def start(self, done: int) -> None:
        self.first, self.since = done, time.monotonic()
        self.reported = self.since
        if done:
            logger.info('%s of %s tracklets are in the index', f'{done:,}', f'{self.total:,}')

    def report(self, done: int) -> None:
        now = time.monotonic()
        if now - self.reported < REPORT_SECONDS or done == self.first:
            return
        self.reported = now
        rate = (done - self.first) / (now - self.since)
        left = datetime.timedelta(seconds=round((self.total - done) / rate))
        logger.info(
            '%s of %s tracklets, %.1f a second, %s left', f'{done:,}', f'{self.total:,}', rate, left
        )
