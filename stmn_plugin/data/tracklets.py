"""Types of tracklets (the host's 4-tuple, or only its frames) and of test data."""

import os
from collections.abc import Iterable, Sequence
from typing import NamedTuple, TypeAlias, cast

from stmn_plugin.errors import InputError
from stmn_plugin.labels import UNKNOWN, count_matchable

Tracklet: TypeAlias = tuple[Sequence[str], int, int, int]
"""Paths of the frames in the order of time, person, camera, dataset: the host's 4-tuple."""

Frames: TypeAlias = Sequence[str | os.PathLike[str]]
"""Paths of the frames of a tracklet of unknown person and camera."""


class Target(NamedTuple):
    """A dataset to test on."""

    query: Sequence[Tracklet]
    gallery: Sequence[Tracklet]
    gallery_needs_queries: bool = False  # its official gallery holds the queries, this one not yet

    @property
    def searched(self) -> Sequence[Tracklet]:
        """The tracklets that the official protocol searches."""
        return [*self.gallery, *self.query] if self.gallery_needs_queries else self.gallery

    @property
    def is_labelled(self) -> bool:
        """Whether the person of every tracklet is known."""
        return UNKNOWN not in {pid for _, pid, _, _ in [*self.query, *self.gallery]}

    def count_matchable(self) -> int:
        """Count the queries that have a match among the searched tracklets."""
        return count_matchable(
            [pid for _, pid, _, _ in self.query],
            [pid for _, pid, _, _ in self.searched],
            [camid for _, _, camid, _ in self.query],
            [camid for _, _, camid, _ in self.searched],
        )


def as_tracklets(tracklets: Iterable[Tracklet | Frames]) -> list[Tracklet]:
    """Convert tracklets to the host's 4-tuples; lists of paths get ``labels.UNKNOWN`` as labels.

    Raises:
        InputError: an item is not a tracklet or has no frames; the message names its index.
    """
    return [_as_tracklet(place, tracklet) for place, tracklet in enumerate(tracklets)]


def _as_tracklet(place: int, tracklet: Tracklet | Frames) -> Tracklet:
    known = _is_labelled(tracklet)
    whole: tuple[Frames, int, int, int]
    whole = cast(Tracklet, tracklet) if known else (cast(Frames, tracklet), UNKNOWN, UNKNOWN, 0)
    paths, pid, camid, dsetid = whole
    if isinstance(paths, str | bytes) or not all(isinstance(p, str | os.PathLike) for p in paths):
        raise InputError(
            f'tracklet {place}: expected paths of frames, or (paths, pid, camid, dsetid), '
            f'got {tracklet!r:.100}'
        )
    if not len(paths):
        raise InputError(f'tracklet {place} has no frame')
    named = cast(Sequence[str], paths) if known else tuple(os.fspath(path) for path in paths)
    return named, pid, camid, dsetid


def _is_labelled(tracklet: object) -> bool:
    return (
        isinstance(tracklet, tuple)
        and len(tracklet) == 4
        and not isinstance(tracklet[0], str | os.PathLike)
    )
