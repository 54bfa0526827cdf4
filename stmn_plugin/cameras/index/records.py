"""Define indexed tracklets and conditions on them, and convert both to values of a database."""

import datetime
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from stmn_plugin.errors import InputError

EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.timezone.utc)
MICROSECOND = datetime.timedelta(microseconds=1)


@dataclass(frozen=True)
class IndexedTracklet:
    """A tracklet.

    Attributes:
        number: key given by the index, never given twice; 0 before insertion.
        tree: absolute folder of the tree that holds the crops.
        tracklet: folder of the crops, relative to the tree.
        camera, source, track: names of camera and video, the tracker's id.
        person: name, or ``unknown``.
        start, end: of the first and last frame, with an offset; UTC when read from an index, None
            if unknown.
        num_frames: crops.
        revision: digest of the crops and their manifest entry; '' if unknown.
    """

    number: int
    tree: str
    tracklet: str
    camera: str
    source: str
    track: str
    person: str
    start: datetime.datetime | None
    end: datetime.datetime | None
    num_frames: int
    revision: str = ''


@dataclass(frozen=True)
class Where:
    """A condition on tracklets: every given field must hold, by one of its values.

    Attributes:
        cameras, persons, sources, tracklets, numbers: accepted values.
        not_cameras: rejected values.
        start, end: the tracklet overlaps [start, end]; one without times never does.
        before: the tracklet ended before this time.

    Raises:
        ValueError: a text in place of a list of values or of a time.
    """

    cameras: Sequence[str] = ()
    not_cameras: Sequence[str] = ()
    start: datetime.datetime | None = None
    end: datetime.datetime | None = None
    persons: Sequence[str] = ()
    sources: Sequence[str] = ()
    tracklets: Sequence[str] = ()
    numbers: Sequence[int] = ()
    before: datetime.datetime | None = None

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if isinstance(value, str):  # else a list of its letters
                raise ValueError(f'{name} of a condition cannot be a text, got {value!r:.80}')

    @property
    def selects_all(self) -> bool:
        """Whether every tracklet meets the condition; empty fields are ignored."""
        return not any(vars(self).values())


EVERYTHING = Where()


class Match(NamedTuple):
    """An indexed tracklet found by a query."""

    row: IndexedTracklet
    distance: float


Parameter = str | int | float | list[str] | list[int] | None

COLUMNS = (
    'number, tree, tracklet, camera, source, track, person, starts, ends, num_frames, revision'
)
_COLUMN_OF = {  # field of Where → column that must be one of its values
    'cameras': 'camera',
    'persons': 'person',
    'sources': 'source',
    'tracklets': 'tracklet',
    'numbers': 'number',
}


def condition(where: Where, mark: str, one_of: Callable[[str], str]) -> tuple[str, list[Parameter]]:
    """``Where`` as SQL with marks, never with values, and the values to bind.

    Args:
        where: the conditions.
        mark: of a value, as the database's driver writes it.
        one_of: column → SQL that it is in a list, which is bound as one value.
    """
    parts: list[str] = []
    values: list[Parameter] = []
    for name, column in _COLUMN_OF.items():
        chosen = list(getattr(where, name))
        if chosen:
            parts.append(one_of(column))
            values.append(chosen)
    if where.not_cameras:
        parts.append(f'NOT ({one_of("camera")})')
        values.append(list(where.not_cameras))
    for moment, comparison in (
        (where.start, 'ends >='),
        (where.end, 'starts <='),
        (where.before, 'ends <'),
    ):
        if moment is not None:
            parts.append(f'{comparison} {mark}')
            values.append(microseconds(moment))
    return ' AND '.join(parts) or 'TRUE', values


def microseconds(moment: datetime.datetime) -> int:
    """Return microseconds since 1970, as the database keeps a time.

    Raises:
        ValueError: no offset.
    """
    if moment.tzinfo is None:
        raise ValueError(f'a time needs its offset from UTC, got {moment}')
    return (moment - EPOCH) // MICROSECOND


def texts_of(row: IndexedTracklet) -> tuple[str, ...]:
    """Return the texts of a tracklet in the order of COLUMNS.

    Raises:
        InputError: a text that is not UTF-8, such as a file name in another encoding.
    """
    texts = (row.tree, row.tracklet, row.camera, row.source, row.track, row.person)
    for text in texts:
        if '\0' in text or any('\ud800' <= char <= '\udfff' for char in text):
            raise InputError(f'{row.tree}, {row.tracklet}: {text!r:.80} is not UTF-8 text')
    return texts


def values_of(row: IndexedTracklet) -> tuple[Parameter, ...]:
    """Return the values of a tracklet for a database, in the order of COLUMNS without the number.

    Raises:
        InputError: see :func:`texts_of`.
    """
    texts = texts_of(row)
    times = (None if time is None else microseconds(time) for time in (row.start, row.end))
    return (*texts, *times, row.num_frames, row.revision)


def no_text(name: str, error: UnicodeEncodeError) -> InputError:
    """Describe a bound value that is not UTF-8, such as a file name in another encoding.

    Args:
        name: of the database.
        error: of its driver.
    """
    return InputError(f'{name}: {error.object!r:.200} is not UTF-8 text')


def row_of(values: Sequence[Any]) -> IndexedTracklet:
    """Build a tracklet from a database's values for COLUMNS.

    Raises:
        InputError: its times are damaged.
    """
    number, tree, tracklet, camera, source, track, person, starts, ends, *rest = values
    try:
        start, end = (
            None if time is None else EPOCH + time * MICROSECOND for time in (starts, ends)
        )
    except (TypeError, OverflowError) as error:
        raise InputError(f'the times of tracklet {number} in the index are damaged') from error
    names = tree, tracklet, camera, source, track, person
    return IndexedTracklet(number, *names, start, end, *rest)
