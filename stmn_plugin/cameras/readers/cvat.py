"""CVAT: the export "CVAT for video 1.1", an XML file of tracks and their boxes.

Frames count from 0 in the whole video, also of a task that starts later or skips frames. A box with
``outside="1"`` ends a track: the person is not in that frame.
"""

from pathlib import Path
from typing import Any

from stmn_plugin.errors import InputError
from stmn_plugin.extras import require
from stmn_plugin.input_files import open_regular

from ..boxes import Boxes, BoxRows, real, whole
from .options import Recording, TrackOptions

EDGES = ('xtl', 'ytl', 'xbr', 'ybr')
OUTSIDE = 'outside of the view (CVAT)'
ROTATED = 'box with an angle'
SHAPES = ('polygon', 'polyline', 'points', 'cuboid', 'ellipse', 'mask', 'skeleton')


def read_cvat(path: Path, recording: Recording, options: TrackOptions) -> Boxes:
    """Read the boxes of an XML file element by element; refuse entities.

    Raises:
        InputError: invalid XML, another export of CVAT, or one of a video of another size.
    """
    require('defusedxml')
    from xml.etree.ElementTree import ParseError

    from defusedxml.common import DefusedXmlException
    from defusedxml.ElementTree import iterparse

    rows = BoxRows()
    try:
        with open_regular(path) as file:
            for number, (event, element) in enumerate(iterparse(file, ('start', 'end'))):
                if event == 'start':
                    _check_start(path, element, first=number == 0)
                elif element.tag == 'original_size' and options.picture is None:
                    _check_size(path, element, recording)
                elif element.tag == 'track':
                    _add_track(path, element, rows)
                    element.clear()
    except OSError as error:
        raise InputError(f'cannot read {path}: {error.strerror or error}') from error
    except (ParseError, DefusedXmlException) as error:
        reason = ' '.join(str(error).split())
        raise InputError(f'{path}: not valid XML ({reason:.200})') from error
    return rows.boxes(path)


def _check_start(path: Path, element: Any, first: bool) -> None:
    if first and element.tag != 'annotations':
        raise InputError(f'{path}: begins with <{element.tag:.40}>, expected <annotations> of CVAT')
    if element.tag == 'image':
        raise InputError(
            f'{path}: is "CVAT for images", which has no tracks; export "CVAT for video 1.1"'
        )


def _check_size(path: Path, element: Any, recording: Recording) -> None:
    size = [
        whole(element.findtext(name), name, f'{path}: original_size')
        for name in ('width', 'height')
    ]
    if size != [recording.width, recording.height]:
        raise InputError(
            f'{path}: belongs to a video of {size[0]} x {size[1]} pixels, {recording.name} has '
            f'{recording.width} x {recording.height} (if it was scaled, give --picture-size)'
        )


def _add_track(path: Path, track: Any, rows: BoxRows) -> None:
    number = whole(track.get('id'), 'the id of a track', str(path))
    where = f'{path}: track {number}'
    for shape in track:
        if shape.tag in SHAPES:
            rows.left_out[f'{shape.tag}, no box'] += 1
        elif shape.tag == 'box':
            frame = whole(shape.get('frame'), 'frame', where)
            if shape.get('outside') == '1':
                rows.left_out[OUTSIDE] += 1
            elif real(shape.get('rotation', '0'), 'rotation', where):
                rows.left_out[ROTATED] += 1
            else:
                left, top, right, bottom = (
                    real(shape.get(edge), edge, f'{where}, frame {frame}') for edge in EDGES
                )
                name = track.get('label') or ''
                rows.add(frame, str(number), (left, top, right, bottom), class_name=name)
