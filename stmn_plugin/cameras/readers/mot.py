"""MOT files: MOTChallenge, BoxMOT, ByteTrack, DeepSORT, Norfair and many others.

A line is ``frame,id,left,top,width,height[,confidence[,...]]`` with 6 to 10 columns. What follows
the confidence differs: of 10 columns the last three are a place in the world (or -1); of 8 or 9 the
eighth is the class, counted from 1, in MOTChallenge's ground truth (ninth: visibility) and in
BoxMOT (ninth: index of the detection) alike. The base of the frame numbers differs between tools
that write the same columns, so it cannot be read off a file.
"""

import math
import re
from pathlib import Path

from stmn_plugin.errors import InputError

from ..boxes import NO_TRACK, Boxes, BoxRows, real, whole
from .files import lines_of
from .options import Recording, TrackOptions

IGNORED = 'marked to be ignored (confidence 0)'
NAMES = ('left', 'top', 'width', 'height')
ORIENTED = 13  # columns that BoxMOT writes of boxes with an angle
NONE_GIVEN = -1


def read_mot(path: Path, recording: Recording, options: TrackOptions) -> Boxes:
    """Read the boxes of a MOT file.

    Ids below 0 are detections without a track. A confidence of 0 says "ignore" (ground truth), and
    one of -1 that there is none.

    Raises:
        InputError: another format; names the line.
    """
    rows = BoxRows()
    for where, line in lines_of(path):
        cells = [cell.strip() for cell in line.split(',')]
        if not 6 <= len(cells) <= 10:
            raise InputError(f'{where}: {len(cells)} columns{_advice(line, len(cells))}')
        frame, track = whole(cells[0], 'the frame', where), whole(cells[1], 'the id', where)
        left, top, width, height = (
            real(cell, f'the {name} of the box', where)
            for cell, name in zip(cells[2:6], NAMES, strict=True)
        )
        confidence = real(cells[6], 'the confidence', where) if len(cells) > 6 else NONE_GIVEN
        if track < 0:
            rows.left_out[NO_TRACK] += 1
        elif confidence == 0:
            rows.left_out[IGNORED] += 1
        else:
            rows.add(
                frame,
                str(track),
                (left, top, left + width, top + height),
                math.nan if confidence == NONE_GIVEN else confidence,
                str(whole(cells[7], 'the class', where)) if len(cells) in (8, 9) else '',
            )
    return rows.boxes(path)


def _advice(line: str, columns: int) -> str:
    if columns == ORIENTED:
        return ' are oriented boxes (BoxMOT), only upright ones can be cropped'
    if columns < 3 and re.search(r'[;\s]', line):  # 2 of a line with decimal commas
        return ', a MOT file has 6 to 10 separated by commas; is it another --format?'
    return ', a MOT file has 6 to 10: frame,id,left,top,width,height,confidence,...'
