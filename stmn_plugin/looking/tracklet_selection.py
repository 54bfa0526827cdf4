"""Select the tracklets of a target that figures show.

They are drawn by a seed or named by the user.
"""

from collections.abc import Sequence
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
    """Unite the lists of a target, each tracklet once."""
    row_of: dict[tuple[str, ...], int] = {}
    tracklets: list[Tracklet] = []
    rows = []
    for split in (query, gallery):
        for tracklet in split:
            paths = tuple(tracklet[0])
            if paths not in row_of:
                row_of[paths] = len(tracklets)
                tracklets.append(tracklet)
        rows.append(np.array([row_of[tuple(t[0])] for t in split], dtype=np.int64))
    return TargetTracklets(tracklets, *rows)


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
