"""Roboflow supervision: files of ``CSVSink`` and ``JSONSink``.

Columns are ``x_min,y_min,x_max,y_max,class_id,confidence,tracker_id`` and what the user has added.
The frame number is among the latter, under any name, or nowhere. An empty id or -1 is no track.
"""

import contextlib
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from stmn_plugin.errors import InputError

from ..boxes import NO_TRACK, Boxes, BoxRows, real, whole
from .files import json_of
from .options import Recording, TrackOptions

CORNERS = ('x_min', 'y_min', 'x_max', 'y_max')
NEEDED = (*CORNERS, 'tracker_id')


def read_supervision(path: Path, recording: Recording, options: TrackOptions) -> Boxes:
    """Read the boxes of a ``.json`` file, or of a CSV.

    Raises:
        InputError: ``--frame-column`` is not given, or names no column; another format.
    """
    if not options.frame_column:
        raise InputError(
            f'{path}: --frame-column must name the column with the frame number; '
            "supervision's sinks write none by themselves"
        )
    columns = (options.frame_column, *NEEDED)
    rows = BoxRows()
    table = _json_rows(path, columns) if path.suffix.lower() == '.json' else _csv(path, columns)
    for where, cells in table:
        track = cells['tracker_id']
        if track in ('', None) or whole(track, 'tracker_id', where) < 0:
            rows.left_out[NO_TRACK] += 1
            continue
        left, top, right, bottom = (real(cells[name], name, where) for name in CORNERS)
        confidence = cells.get('confidence')
        classes = [cells.get(name) for name in ('class_name', 'class_id')]
        rows.add(
            whole(cells[options.frame_column], options.frame_column, where),
            str(whole(track, 'tracker_id', where)),
            (left, top, right, bottom),
            math.nan if confidence in ('', None) else real(confidence, 'confidence', where),
            next((str(name) for name in classes if name not in ('', None)), ''),
        )
    return rows.boxes(path)


def _csv(path: Path, columns: tuple[str, ...]) -> Iterator[tuple[str, dict[str, Any]]]:
    from stmn_plugin.datasets.csv_rows import csv_rows

    for line, cells in csv_rows(str(path), columns, contextlib.nullcontext):
        yield f'{path}:{line}', {**cells}


def _json_rows(path: Path, columns: tuple[str, ...]) -> Iterator[tuple[str, dict[str, Any]]]:
    content = json_of(path)
    if not isinstance(content, list):
        raise InputError(f'{path}: is not a list of boxes, as JSONSink writes it')
    for number, cells in enumerate(content, 1):
        where = f'{path}: box {number}'
        if not isinstance(cells, dict):
            raise InputError(f'{where} is not an object')
        missing = [name for name in columns if name not in cells]
        if missing:
            raise InputError(f'{where} has no {", ".join(missing)}; it has {", ".join(cells)}')
        yield where, cells
