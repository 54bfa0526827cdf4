"""Ultralytics: a folder of ``<video>_<frame>.txt``, written by ``track`` with ``save_txt=True``.

A line is ``class xc yc w h [confidence] [id]`` in fractions of the picture. The sixth of six
columns is the id, or with ``save_conf=True`` the confidence of a box that has no track yet: only
the other lines tell. Frames count from 1, and with ``vid_stride`` those that were processed.
"""

import math
import re
from collections import Counter
from pathlib import Path, PurePath

from stmn_plugin.errors import InputError
from stmn_plugin.numerals import is_digits

from ..boxes import NO_TRACK, Boxes, BoxRows, real, whole
from .files import lines_of, text_files
from .options import Recording, TrackOptions

FIRST_FRAME = 1
NAMES = ('centre x', 'centre y', 'width', 'height')


def read_ultralytics(path: Path, recording: Recording, options: TrackOptions) -> Boxes:
    """Read the boxes of a folder ``labels``, in fractions of the picture.

    Of a folder of images the files are called as the images, and frames are numbered by these.

    Raises:
        InputError: files of another video, or lines of another kind.
    """
    first = FIRST_FRAME if options.first_frame is None else options.first_frame
    files = label_files(path, recording, options.stream, first)
    lines = [
        (where, frame, line.split()) for file, frame in files for where, line in lines_of(file)
    ]
    with_confidence = has_confidence(path, lines)
    rows = BoxRows()
    for where, frame, cells in lines:
        x, y, width, height = (
            real(cell, f'the {name} of the box', where)
            for cell, name in zip(cells[1:5], NAMES, strict=True)
        )
        if max(abs(x), abs(y)) > 2 or max(width, height) > 2:
            raise InputError(f'{where}: a box in fractions of the picture has no {max(x, y):g}')
        if len(cells) < 6 + with_confidence:
            rows.left_out[NO_TRACK] += 1
            continue
        rows.add(
            frame,
            str(whole(cells[-1], 'the id', where)),
            (x - width / 2, y - height / 2, x + width / 2, y + height / 2),
            real(cells[5], 'the confidence', where) if with_confidence else math.nan,
            str(whole(cells[0], 'the class', where)),
        )
    return rows.boxes(path)


def label_files(
    folder: Path, recording: Recording, stream: str, first_frame: int
) -> list[tuple[Path, int]]:
    """Return the files of a video, and their frame numbers.

    Raises:
        InputError: there is none; names the videos of the files.
    """
    found = text_files(folder, '<video>_<frame>.txt, one a frame')
    if recording.images:
        places: dict[str, int] = {}
        for place, name in enumerate(recording.images):
            other = recording.images[places.setdefault(PurePath(name).stem, place)]
            if other != name:
                raise InputError(f'{folder}: {other} and {name} would have one file of boxes')
        own = [(file, places[file.stem] + first_frame) for file in found if file.stem in places]
        others: Counter[str] = Counter({f'such as {found[0].name}': 1})
    else:
        named = [(file, re.fullmatch('(.*)_([0-9]+)', file.stem)) for file in found]
        stem = stream or recording.stem
        own = [
            (file, whole(match[2], 'the frame', str(file)))
            for file, match in named
            if match and match[1] == stem
        ]
        others = Counter(f'{match[1]}_<frame>.txt' for _, match in named if match)
    if not own:
        names = ', '.join(name for name, _ in others.most_common(3)) or found[0].name
        raise InputError(f'{folder}: has no file of a frame of {recording.name}; it has {names}')
    return own


def has_confidence(folder: Path, lines: list[tuple[str, int, list[str]]]) -> bool:
    """Return whether lines hold the confidence, which comes before the id.

    Raises:
        InputError: no line has an id, or lines of both kinds are mixed.
    """
    first = {len(cells): where for where, _, cells in reversed(lines)}
    odd = sorted(set(first) - {5, 6, 7})
    if odd:
        raise InputError(
            f'{first[odd[0]]}: {odd[0]} columns, expected class xc yc w h [confidence] [id]; '
            'segments, poses and oriented boxes are not supported'
        )
    if 7 in first and 5 in first:
        raise InputError(
            f'{first[5]}: 5 columns, but 7 at {first[7]}: files of runs with and without '
            'save_conf are mixed'
        )
    sixth = [cells[5] for _, _, cells in lines if len(cells) == 6]
    if 7 not in first and sixth and not all(map(is_digits, sixth)):
        raise InputError(
            f'{folder}: the sixth column is a confidence and no line has an id; write the files '
            'by track with save_txt=True'
        )
    return 7 in first
