"""Collect rows of a tracker's file as arrays of boxes, in its own frame numbers and pixels."""

import math
from array import array
from collections import Counter
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from stmn_plugin.errors import InputError
from stmn_plugin.numerals import real_number

NO_TRACK = 'no track id'  # reasons for which a row is left out
NO_AREA = 'box without area'
LARGEST = 2**53 - 1  # a float holds each of these, and rounds no other whole number to one


@dataclass
class Boxes:
    """N boxes of a tracker's file, and counts of the rows that were left out.

    Attributes:
        frames: (N,) as the file numbers them.
        tracks: (N,) places in ``track_ids``.
        track_ids: ids as text.
        corners: (N, 4) left, top, right, bottom, in pixels or fractions of the picture.
        confidence: (N,) nan where the file gives none.
        classes: (N,) places in ``class_names``.
        class_names: classes as text, '' for none.
        left_out: reason → number of rows.
    """

    frames: NDArray[np.int64]
    tracks: NDArray[np.int64]
    track_ids: list[str]
    corners: NDArray[np.float64]
    confidence: NDArray[np.float64]
    classes: NDArray[np.int64]
    class_names: list[str]
    left_out: Counter[str] = field(default_factory=Counter)

    def __len__(self) -> int:
        return len(self.frames)

    def only(self, rows: NDArray[np.bool_], reason: str = '') -> 'Boxes':
        """Select boxes by rows; count the others as left out for a reason."""
        left_out = self.left_out.copy()
        if reason and not rows.all():
            left_out[reason] += int((~rows).sum())
        return Boxes(
            self.frames[rows],
            self.tracks[rows],
            self.track_ids,
            self.corners[rows],
            self.confidence[rows],
            self.classes[rows],
            self.class_names,
            left_out,
        )


class BoxRows:
    """Collect rows, about 60 bytes each, and return them as :class:`Boxes`."""

    def __init__(self) -> None:
        self._frames, self._tracks, self._classes = array('q'), array('q'), array('q')
        self._corners, self._confidence = array('d'), array('d')
        self._track_places: dict[str, int] = {}
        self._class_places: dict[str, int] = {}
        self.left_out: Counter[str] = Counter()

    def add(
        self,
        frame: int,
        track: str,
        corners: tuple[float, float, float, float],
        confidence: float = math.nan,
        class_name: str = '',
    ) -> None:
        """Add a row; one whose right or bottom edge is not beyond the other is left out."""
        left, top, right, bottom = corners
        if not (left < right and top < bottom):
            self.left_out[NO_AREA] += 1
            return
        self._frames.append(frame)
        self._tracks.append(self._track_places.setdefault(track, len(self._track_places)))
        self._classes.append(self._class_places.setdefault(class_name, len(self._class_places)))
        self._corners.extend(corners)
        self._confidence.append(confidence)

    def boxes(self, path: object) -> Boxes:
        """Return all rows.

        Args:
            path: of the file, for messages.

        Raises:
            InputError: there are none, none has a track, or a track is in a frame twice.
        """
        if not self._frames:
            if self.left_out[NO_TRACK]:
                raise InputError(
                    f'{path}: none of its {self.left_out.total():,} boxes has a track id: these '
                    'are detections, run a tracker first'
                )
            if self.left_out:
                raise InputError(f'{path}: no box is left: {reasons(self.left_out)}')
            raise InputError(f'{path}: contains no box')
        frames, tracks, classes = (
            np.array(column, np.int64) for column in (self._frames, self._tracks, self._classes)
        )
        track_ids = list(self._track_places)
        order = np.lexsort((frames, tracks))
        same = (np.diff(frames[order]) == 0) & (np.diff(tracks[order]) == 0)
        if same.any():
            row = order[np.flatnonzero(same)[0]]
            raise InputError(
                f'{path}: track {track_ids[tracks[row]]} has two boxes in frame {frames[row]}; '
                'it may hold several runs, or several videos'
            )
        return Boxes(
            frames,
            tracks,
            track_ids,
            np.array(self._corners, np.float64).reshape(-1, 4),
            np.array(self._confidence, np.float64),
            classes,
            list(self._class_places),
            self.left_out,
        )


def reasons(left_out: Counter[str]) -> str:
    """Format counts and reasons in a line."""
    return ', '.join(f'{count:,} {reason}' for reason, count in left_out.most_common())


def whole(text: object, what: str, where: str) -> int:
    """Parse a whole number, also as ``3.0`` or ``3.0e+00``; raise InputError with its place."""
    number = real(text, what, where)
    if number != int(number):
        raise InputError(f'{where}: {what} must be a whole number, got {text!r:.40}')
    return int(number)


def real(text: object, what: str, where: str) -> float:
    """Parse a number of at most LARGEST; raise InputError with its place."""
    number = real_number(text) if isinstance(text, str) else text
    if isinstance(number, int | float) and not isinstance(number, bool):
        if abs(number) > LARGEST:
            raise InputError(f'{where}: {what} is too large, got {text!r:.40}')
        if not math.isnan(number):
            return float(number)
    raise InputError(f'{where}: {what} must be a number, got {text!r:.40}')
