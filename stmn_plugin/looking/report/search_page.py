"""Write the answers of a search as one HTML page: film strips with times and cameras.

The HTML contains everything in the order of rank; the script only sorts and hides.
"""

import datetime
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .film_strips import StripSize
from .html_file import WrittenPage, write_html

WIDTH = 1000  # of a timeline, in its own coordinates


@dataclass(frozen=True)
class ShownTracklet:
    """A tracklet on the page, of a query or a result.

    Attributes:
        tracklet: name given by the user, as the next four.
        camera: name of the camera.
        person: name of the person.
        source: name of the video.
        track: name of the track.
        start: time of the first frame, in the time zone of the page.
        end: time of the last frame.
        num_frames: number of frames of the tracklet.
        frames: numbers of the frames in the strip, from 1.
        strip: number of its picture; None if its crops are missing or damaged.
        attention: attention for these frames, sum 1; None if not computed.
        rank: rank from 1; 0 for a query.
        distance: distance to the query.
        reranked: distance to the query after re-ranking, if it was done.
        verdict: 'likely', 'unsure', 'unlikely', or None without a measured threshold.
    """

    tracklet: str
    camera: str
    person: str
    source: str
    track: str
    start: datetime.datetime | None
    end: datetime.datetime | None
    num_frames: int
    frames: Sequence[int] = ()
    strip: int | None = None
    attention: Sequence[float] | None = None
    rank: int = 0
    distance: float = 0.0
    reranked: float | None = None
    verdict: str | None = None


@dataclass(frozen=True)
class ShownAnswer:
    """A query and its results."""

    name: str
    tracklets: Sequence[ShownTracklet]  # of the query
    results: Sequence[ShownTracklet]  # by rank


@dataclass(frozen=True)
class SearchFacts:
    """The part of the page about the whole search."""

    title: str
    asked: str  # which tracklets were searched, how queries were fused
    meaning: str  # of the verdicts, or why there are none
    facts: Mapping[str, str]  # of index and model


def write_search_page(
    path: str,
    search: SearchFacts,
    answers: Sequence[ShownAnswer],
    strips: Sequence[bytes],
    size: StripSize,
    embed: bool | None = None,
) -> WrittenPage:
    """Write the page of a search.

    Args:
        path: of the HTML file.
        search: text at the top.
        answers: one per query.
        strips: WebP pictures that ``ShownTracklet.strip`` numbers.
        size: size of a frame in them.
        embed: see :func:`.html_file.write_html`, which also documents the errors.
    """
    shown = [one for answer in answers for one in (*answer.tracklets, *answer.results)]
    attention = [share for one in shown for share in one.attention or ()]
    values = {
        **vars(search),
        'queries': [_answer(number, answer) for number, answer in enumerate(answers, 1)],
        'judged': any(one.verdict for one in shown),
        'highest': max(attention, default=1.0),
    }
    return write_html(path, 'search', values, strips, size, embed)


def timeline(number: int, answer: ShownAnswer) -> dict[str, Any] | None:
    """Compute marks of the results and the query on a timeline for every camera.

    Args:
        number: of the answer, from 1.
        answer: of a query.

    Returns:
        None if fewer than two tracklets have times.
    """
    dated = [one for one in (*answer.tracklets, *answer.results) if one.start and one.end]
    if len(dated) < 2:
        return None
    first = min(one.start for one in dated if one.start)
    last = max(one.end for one in dated if one.end)
    length = (last - first).total_seconds() or 1.0

    def place(moment: datetime.datetime | None) -> float:
        assert moment is not None  # dated
        return round(WIDTH * (moment - first).total_seconds() / length, 2)

    cameras: dict[str, list[dict[str, Any]]] = {}
    for one in sorted(dated, key=lambda one: (one.camera, -one.rank)):  # the nearest drawn last
        label = f'{one.rank}: {one.distance:.4g}' if one.rank else 'query'
        mark = {
            'id': f'q{number}r{one.rank}' if one.rank else f'q{number}',
            'kind': (one.verdict or '') if one.rank else 'query',
            'x1': place(one.start),
            'x2': place(one.end),
            'tip': f'{label}, {_moment(one.start)["text"]}',
        }
        cameras.setdefault(one.camera, []).append(mark)
    return {
        'first': _moment(first)['text'],
        'last': _moment(last)['text'],
        'cameras': [{'camera': name, 'marks': marks} for name, marks in cameras.items()],
    }


def _answer(number: int, answer: ShownAnswer) -> dict[str, Any]:
    return {
        'name': answer.name,
        'tracklets': [_values(one) for one in answer.tracklets],
        'results': [_values(one) for one in answer.results],
        'cameras': sorted({one.camera for one in answer.results}),
        'reranked': any(one.reranked is not None for one in answer.results),
        'timeline': timeline(number, answer),
    }


def _values(one: ShownTracklet) -> dict[str, Any]:
    return {
        **vars(one),
        'start': one.start and _moment(one.start),
        'end': one.end and _moment(one.end),
        'distance': f'{one.distance:.4g}',
        'reranked': None if one.reranked is None else f'{one.reranked:.4g}',
    }


def _moment(moment: Any) -> dict[str, str]:
    offset = moment.strftime('%z')
    zone = 'UTC' if not moment.utcoffset() else f'{offset[:3]}:{offset[3:5]}'
    return {
        'iso': moment.isoformat(timespec='milliseconds'),
        'text': f'{moment:%Y-%m-%d %H:%M:%S} {zone}',
        'short': f'{moment:%H:%M:%S}',
    }
