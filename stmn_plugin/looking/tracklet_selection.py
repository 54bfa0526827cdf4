"""Select the tracklets of a target that figures show.

They are drawn by a seed or named by the user.
"""

import os
from collections.abc import Hashable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from stmn_plugin.data.tracklets import Tracklet
from stmn_plugin.errors import InputError

PROBES = 10  # rows of Fig. 5
SHOWN = 4  # tracklets of Fig. 7 and 10
QUERIES = 2  # of Fig. 8


class TargetTracklets(NamedTuple):
    """Each tracklet of a target once: DukeMTMC-VideoReID's gallery holds the queries."""

    all: list[Tracklet]
    query: NDArray[np.int64]  # rows of the query split
    gallery: NDArray[np.int64]  # rows of the gallery split


class ChosenTracklets(NamedTuple):
    """The tracklets to show; rows of :class:`TargetTracklets`."""

    probes: NDArray[np.int64]  # (P,) of the gallery, Fig. 5
    places: NDArray[np.float64]  # (P, 3) in 0..1: frame, row, column in the clip of each probe
    shown: list[int]  # Fig. 7, 10
    queries: list[int]  # Fig. 8
    how: str  # way of selection, for captions


def unite_splits(query: Sequence[Tracklet], gallery: Sequence[Tracklet]) -> TargetTracklets:
    """Unite the lists of a target, each tracklet once.

    A tracklet of the gallery is that of the query if it has the same paths, or is a copy with the
    same person, camera, and names of folder and frames, whose first and last file have its sizes.
    """
    row_of: dict[tuple[str, ...], int] = {}  # paths → row
    tracklets: list[Tracklet] = []
    for tracklet in query:
        if row_of.setdefault(tuple(tracklet[0]), len(tracklets)) == len(tracklets):
            tracklets.append(tracklet)
    named = {_names(tracklet): row for row, tracklet in enumerate(tracklets)}
    for tracklet in gallery:
        paths, copied = tuple(tracklet[0]), named.get(_names(tracklet))
        if copied is not None and _are_copies(paths, tracklets[copied][0]):
            row_of.setdefault(paths, copied)
        if row_of.setdefault(paths, len(tracklets)) == len(tracklets):
            tracklets.append(tracklet)
    query_rows, gallery_rows = (
        np.array([row_of[tuple(paths)] for paths, *_ in split], dtype=np.int64)
        for split in (query, gallery)
    )
    return TargetTracklets(tracklets, query_rows, gallery_rows)


def _names(tracklet: Tracklet) -> Hashable:
    paths, pid, camid, _ = tracklet
    folder = os.path.basename(os.path.dirname(paths[0]))
    return pid, camid, folder, tuple(map(os.path.basename, paths))


def _are_copies(paths: Sequence[str], others: Sequence[str]) -> bool:
    try:
        return all(os.path.getsize(paths[end]) == os.path.getsize(others[end]) for end in (0, -1))
    except OSError:  # a missing frame is reported where it is read
        return False


def select_tracklets(target: TargetTracklets, names: Sequence[str], seed: int) -> ChosenTracklets:
    """Select the tracklets to show.

    Args:
        target: tracklets of a target.
        names: each a part of the path of one tracklet's first frame, such as '0033C1T0001'; the
            tracklets of Fig. 7 and 10 and, those that are queries, of Fig. 8.
        seed: seed of the draw.

    Raises:
        InputError: a name matches no tracklet or several.
    """
    rng = np.random.default_rng(seed)
    gallery = target.gallery
    probes = rng.choice(gallery, size=min(PROBES, len(gallery)), replace=False)
    places = rng.random((len(probes), 3))
    if names:
        shown = [find_tracklet(target.all, name) for name in names]
        queries = [row for row in shown if row in set(target.query.tolist())]
        return ChosenTracklets(probes, places, shown, queries, 'chosen by name')
    shown = rng.choice(gallery, size=min(SHOWN, len(gallery)), replace=False).tolist()
    candidates = matchable_queries(target)
    queries = rng.choice(candidates, size=min(QUERIES, len(candidates)), replace=False).tolist()
    return ChosenTracklets(probes, places, shown, queries, f'drawn at random (seed {seed})')


def find_tracklet(tracklets: Sequence[Tracklet], name: str) -> int:
    """Return the row of the only tracklet whose first frame's path contains the name."""
    found = [row for row, (paths, *_) in enumerate(tracklets) if name in str(paths[0])]
    if len(found) != 1:
        raise InputError(f'--tracklets {name}: the path of one tracklet, not of {len(found)}')
    return found[0]


def matchable_queries(target: TargetTracklets) -> list[int]:
    """Return the rows of queries whose person is in the gallery with another camera."""
    cameras: dict[int, set[int]] = {}  # pid → its cameras in the gallery
    for row in target.gallery.tolist():
        _, pid, camid, _ = target.all[row]
        cameras.setdefault(pid, set()).add(camid)
    queries = [(row, target.all[row]) for row in target.query.tolist()]
    return [row for row, (_, pid, camid, _) in queries if cameras.get(pid, set()) - {camid}]
