"""NVIDIA DeepStream: a folder of ``<app>_<stream>_<frame>.txt`` (``kitti-track-output-dir``).

A line is ``label id 0.0 0 0.0 left top right bottom`` with seven zeros and, in later versions, the
confidence. Pixels are those of the stream multiplexer, which scales every stream to its own size.
Files of ``gie-kitti-output-dir`` look alike and have no id.
"""

import math
import re
from collections import Counter
from pathlib import Path

from stmn_plugin.errors import InputError

from ..boxes import NO_TRACK, Boxes, BoxRows, real, whole
from .files import lines_of, text_files
from .options import Recording, TrackOptions

UNTRACKED = str(2**64 - 1)
NAMES = ('left', 'top', 'right', 'bottom')
NUMBERS = (11, 12)  # after the three zeros: box, seven zeros, and the confidence
_LINE = re.compile(r'(?P<label>.+?)\s+(?:(?P<track>[0-9]+)\s+)?0\.0+\s+0\s+0\.0+\s+(?P<numbers>.*)')


def read_deepstream(path: Path, recording: Recording, options: TrackOptions) -> Boxes:
    """Read the boxes of one stream of a folder.

    Raises:
        InputError: ``--picture-size`` is not given; several streams and none named; files of
            detections, or of another format.
    """
    if options.picture is None:
        raise InputError(
            f"{path}: --picture-size WIDTHxHEIGHT must give the size of DeepStream's multiplexer "
            '([streammux] width, height), to which the boxes refer'
        )
    rows = BoxRows()
    for file, frame in frame_files(path, options.stream):
        for where, line in lines_of(file):
            match = _LINE.fullmatch(line)
            numbers = match['numbers'].split() if match else []
            if match is None or len(numbers) not in NUMBERS:
                raise InputError(f'{where}: expected label id 0.0 0 0.0 left top right bottom ...')
            track = match['track']
            if track is None:
                raise InputError(
                    f'{where}: has no track id; gie-kitti-output-dir writes detections, '
                    'kitti-track-output-dir tracks'
                )
            if track == UNTRACKED:
                rows.left_out[NO_TRACK] += 1
                continue
            left, top, right, bottom = (
                real(number, f'the {name} of the box', where)
                for number, name in zip(numbers, NAMES, strict=False)
            )
            later = len(numbers) == NUMBERS[-1]
            confidence = real(numbers[-1], 'the confidence', where) if later else math.nan
            rows.add(frame, track, (left, top, right, bottom), confidence, match['label'])
    return rows.boxes(path)


def frame_files(folder: Path, stream: str) -> list[tuple[Path, int]]:
    """Return the files of a stream, and their frame numbers.

    Args:
        folder: of all streams.
        stream: such as ``00_001``, or the number of the stream; '' if there is only one.
    """
    found = text_files(folder, '<app>_<stream>_<frame>.txt')
    named = [(file, re.fullmatch('([0-9]+_([0-9]+))_([0-9]+)', file.stem)) for file in found]
    wrong = [file for file, match in named if match is None]
    if wrong:
        raise InputError(f'{wrong[0]}: the name must be <app>_<stream>_<frame>.txt')
    streams: Counter[str] = Counter()
    files = []
    for file, match in named:
        assert match is not None
        streams[match[1]] += 1
        if not stream or stream in (match[1], match[2], str(int(match[2]))):
            files.append((file, whole(match[3], 'the frame', str(file))))
    if not files or (not stream and len(streams) > 1):
        raise InputError(
            f'{folder}: --stream NAME must choose one of the streams {", ".join(sorted(streams))}'
            + (f', got {stream}' if stream else '')
        )
    return files
