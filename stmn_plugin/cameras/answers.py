"""Format the answers of a search as a table, CSV and JSON."""

import csv
import datetime
import io
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import Any, NamedTuple

from stmn_plugin.console_table import console_table
from stmn_plugin.errors import printable
from stmn_plugin.evaluation.thresholds import Thresholds
from stmn_plugin.labels import UNKNOWN_PERSON

from .index import IndexedTracklet, ModelKey
from .searching import Found, Query

UTC = datetime.timezone.utc
CSV_COLUMNS = (
    'query rank distance reranked verdict person camera start end source track tracklet tree frames'
    ' number'
)


class Answer(NamedTuple):
    """A query and its results."""

    query: Query
    found: Sequence[Found]  # by rank


def answer_table(answer: Answer, zone: datetime.tzinfo | None = UTC) -> str:
    """Format a query's results for the console, without empty columns."""
    rows = [
        {
            '': one.rank,
            'distance': one.distance,
            're-ranked': one.reranked,
            'verdict': one.verdict,
            'person': None if one.row.person == UNKNOWN_PERSON else printable(one.row.person),
            'camera': printable(one.row.camera),
            'start': one.row.start and f'{one.row.start.astimezone(zone):%Y-%m-%d %H:%M:%S}',
            'end': one.row.end and f'{one.row.end.astimezone(zone):%H:%M:%S}',
            'tracklet': printable(one.row.tracklet),
        }
        for one in answer.found
    ]
    table = console_table(rows, digits=4)
    heading = printable(f'{answer.query.name}: {described(answer.query.rows)}')
    return f'{heading}\n{table or "nothing found"}'


def described(rows: Sequence[IndexedTracklet]) -> str:
    """Describe the tracklets in words."""
    names = ', '.join(row.tracklet for row in rows[:3])
    return names if len(rows) <= 3 else f'{names} and {len(rows) - 3} more'


def answers_csv(answers: Iterable[Answer], zone: datetime.tzinfo | None = UTC) -> str:
    """Return a row for each result with unchanged names."""
    text = io.StringIO()
    table = csv.DictWriter(text, CSV_COLUMNS.split(), lineterminator='\n')
    table.writeheader()
    for query, found in answers:
        for one in found:
            table.writerow({'query': query.name, **_plain(one, zone)})
    return text.getvalue()


def answers_json(
    answers: Iterable[Answer],
    model: ModelKey,
    thresholds: Thresholds | None,
    asked: str,
    zone: datetime.tzinfo | None = UTC,
) -> dict[str, Any]:
    """Return plain values of all answers, with the model and thresholds of their distances."""
    return {
        'asked': asked,
        'model': asdict(model),
        'thresholds': None if thresholds is None else asdict(thresholds),
        'answers': [
            {
                'query': query.name,
                'tracklets': [_plain_row(row, zone) for row in query.rows],
                'results': [_plain(one, zone) for one in found],
            }
            for query, found in answers
        ],
    }


def _plain(one: Found, zone: datetime.tzinfo | None) -> dict[str, Any]:
    return {
        'rank': one.rank,
        'distance': round(one.distance, 6),
        'reranked': None if one.reranked is None else round(one.reranked, 6),
        'verdict': one.verdict,
        **_plain_row(one.row, zone),
    }


def _plain_row(row: IndexedTracklet, zone: datetime.tzinfo | None) -> dict[str, Any]:
    start, end = (
        None if time is None else time.astimezone(zone).isoformat(timespec='milliseconds')
        for time in (row.start, row.end)
    )
    return {
        'person': row.person,
        'camera': row.camera,
        'start': start,
        'end': end,
        'source': row.source,
        'track': row.track,
        'tracklet': row.tracklet,
        'tree': row.tree,
        'frames': row.num_frames,
        'number': row.number,
    }
