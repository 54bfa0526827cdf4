"""Make queries of a tracklet of the index, a person, folders of crops or tracks of a video."""

import contextlib
import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from stmn_plugin.datasets.csv_rows import csv_rows
from stmn_plugin.errors import InputError
from stmn_plugin.labels import UNKNOWN_PERSON
from stmn_plugin.numerals import is_digits

from .index import IndexedTracklet, TrackletIndex, Where
from .index.embedding import crops_of, row_of_entry
from .making import CroppingJob, make_tracklets
from .searching import Query

if TYPE_CHECKING:
    from stmn_plugin.evaluation.embedder import Embedder

NO_CAMERA = 'query'  # of crops that come from no camera of the index
KINDS = ('tracklet', 'person', 'crops')  # columns of a file of queries


@dataclass(frozen=True)
class Asked:
    """A query before its features are known: its name, and its tracklets, which are one person."""

    name: str
    rows: Sequence[IndexedTracklet]  # number 0: not in the index


def ask_tracklet(index: TrackletIndex, name: str) -> IndexedTracklet:
    """Return a query of a tracklet of the index.

    Args:
        index: that holds it.
        name: its folder in the tree, or its number in the index.

    Raises:
        InputError: the index has no such tracklet, or several trees have one.
    """
    if is_digits(name) and len(name) < 19:
        rows = index.rows(Where(numbers=[int(name)]))
    else:
        rows = index.rows(Where(tracklets=[name.rstrip('/')]))
    if not rows:
        raise InputError(f'--tracklet {name}: the index has no such tracklet')
    if len(rows) > 1:
        places = ', '.join(f'{row.number} ({row.tree})' for row in rows[:5])
        raise InputError(
            f'--tracklet {name}: several trees have this tracklet; give its number: {places}'
        )
    return rows[0]


def ask_person(index: TrackletIndex, name: str) -> list[IndexedTracklet]:
    """Return all tracklets of the index that have this name.

    Raises:
        InputError: there are none.
    """
    rows = index.rows(Where(persons=[name]))
    if not rows or name == UNKNOWN_PERSON:
        raise InputError(f'--person {name}: no tracklet of the index has this name')
    return rows


def ask_crops(index: TrackletIndex, folder: Path) -> IndexedTracklet:
    """Return a query of a folder of crops of a person, or of an indexed tracklet's folder.

    Raises:
        InputError: it cannot be read, or has no crops.
    """
    folder = folder.expanduser().resolve()
    names = {str(parent): folder.relative_to(parent).as_posix() for parent in folder.parents}
    for row in index.rows(Where(tracklets=list(names.values()))):
        if names.get(row.tree) == row.tracklet:
            return row
    row = IndexedTracklet(
        0, str(folder.parent), folder.name, NO_CAMERA, '', '', UNKNOWN_PERSON, None, None, 0
    )
    return dataclasses.replace(row, num_frames=len(crops_of(row)))


def ask_video(job: CroppingJob, tracks: Sequence[str]) -> list[IndexedTracklet]:
    """Return the tracks of a video, whose crops are saved in the output of the job.

    Args:
        job: of the video; only the tracks of its filters are replaced.
        tracks: ids, in the order of the result.

    Raises:
        InputError: the file has no such track, or an error of ``make_tracklets``.
    """
    filters = dataclasses.replace(job.filters, tracks=tuple(tracks))
    made = make_tracklets(dataclasses.replace(job, filters=filters))
    rows = {entry.track: row_of_entry(job.output.resolve(), entry) for entry in made.entries}
    return [rows[track] for track in dict.fromkeys(tracks) if track in rows]


def read_queries(index: TrackletIndex, path: Path) -> list[Asked]:
    """Read queries from a CSV with the column query and one of tracklet, person or crops.

    Rows of the same query are one person.

    Raises:
        InputError: names the line.
    """
    asked: dict[str, list[IndexedTracklet]] = {}
    for line, cells in csv_rows(str(path), ('query',), contextlib.nullcontext):
        given = [kind for kind in KINDS if cells.get(kind)]
        if not cells['query'] or len(given) != 1:
            raise InputError(f'{path}:{line}: needs a query, and one of {", ".join(KINDS)}')
        try:
            if given == ['person']:
                rows = ask_person(index, cells['person'])
            elif given == ['crops']:
                rows = [ask_crops(index, path.parent / cells['crops'])]
            else:
                rows = [ask_tracklet(index, cells['tracklet'])]
        except InputError as error:
            raise InputError(f'{path}:{line}: {error}') from error
        asked.setdefault(cells['query'], []).extend(rows)
    if not asked:
        raise InputError(f'{path}: holds no query')
    return [Asked(name, rows) for name, rows in asked.items()]


def make_queries(
    index: TrackletIndex, asked: Sequence[Asked], embedder: 'Embedder | None'
) -> list[Query]:
    """Return queries with their features, from the index if it has them, else from the model.

    Args:
        index: the index to search.
        asked: the queries as the user gave them.
        embedder: of the index's model; needed only if a query is not in the index.

    Raises:
        InputError: a query needs a model and ``embedder`` is None; crops cannot be read.
    """
    outside = list(dict.fromkeys(row for query in asked for row in query.rows if not row.number))
    features = {}
    if outside:
        if embedder is None:
            raise InputError(
                f'{Path(outside[0].tree, outside[0].tracklet)} is not in the index: CHECKPOINT '
                'must name the model that the index was made with'
            )
        found = embedder([crops_of(row) for row in outside], 'queries')
        assert found is not None  # a single process
        features = dict(zip(outside, found.features, strict=True))
    numbers = list(dict.fromkeys(row.number for query in asked for row in query.rows if row.number))
    known = dict(zip(numbers, index.features(numbers), strict=True))
    return [
        Query(
            query.name,
            query.rows,
            torch.stack([known[row.number] if row.number else features[row] for row in query.rows]),
        )
        for query in asked
    ]
