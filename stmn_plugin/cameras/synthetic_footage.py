"""Draw videos of synthetic pedestrians at several cameras, with MOT files and their persons.

For demos and tests of the whole chain from a video to an answer, without recordings of persons.
"""

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from stmn_plugin.datasets.synthetic import SyntheticSpec
from stmn_plugin.datasets.synthetic.footage import (
    STRANGER,
    FootageFrame,
    Pass,
    draw_footage,
)
from stmn_plugin.extras import require
from stmn_plugin.whole_files import atomic_path, write_text

from .videos import silent_av

FPS = 10
GAP = 8  # frames between two entries
TRUTH = 'truth.csv'


class Footage(NamedTuple):
    """The files of a camera."""

    camera: str
    video: Path
    tracks: Path  # MOT, frames from 1


def make_footage(
    folder: Path, spec: SyntheticSpec, strangers: int = 2, frames_of_pass: int = 24
) -> list[Footage]:
    """Write ``camera<N>.mp4`` and ``camera<N>.txt`` for every camera, and ``truth.csv``.

    All test persons of the spec and some strangers pass every camera once, each time in another
    order and direction. Ids of tracks do not depend on the person. The truth is a CSV with the
    columns video, track and person for ``--persons`` of tools/make_tracklets.py, without strangers.

    Args:
        folder: receives the files.
        spec: persons, cameras, size of a person's box and seed.
        strangers: number of strangers at each camera.
        frames_of_pass: frames in which a person crosses the picture.

    Raises:
        InputError: av is not installed; a file cannot be written.
    """
    require('av')
    folder.mkdir(parents=True, exist_ok=True)
    made, truth = [], io.StringIO()
    rows = csv.writer(truth, lineterminator='\n')
    rows.writerow(('video', 'track', 'person'))
    for number in range(1, spec.cameras + 1):
        passes = plan_passes(spec, number, strangers, frames_of_pass)
        name = f'camera{number}'
        frames = max(one.start + one.frames for one in passes) + 2
        drawn = list(draw_footage(spec, number, passes, frames))
        footage = Footage(name, folder / f'{name}.mp4', folder / f'{name}.txt')
        write_video(footage.video, drawn)
        write_text(footage.tracks, mot_lines(drawn))
        known = [one for one in passes if one.pid != STRANGER]
        rows.writerows((footage.video.name, one.track, f'person{one.pid}') for one in known)
        made.append(footage)
    write_text(folder / TRUTH, truth.getvalue())
    return made


def plan_passes(spec: SyntheticSpec, number: int, strangers: int, frames: int) -> list[Pass]:
    """Draw the order, directions and track ids of the persons at a camera."""
    rng = spec.rng('query', number)
    first = spec.train_ids + 1
    pids = [*range(first, first + spec.test_ids), *[STRANGER] * strangers]
    tracks = rng.permutation(len(pids)) + 1
    return [
        Pass(int(track), pids[place], 1 + order * GAP, frames, bool(rng.integers(2)))
        for order, (place, track) in enumerate(
            zip(rng.permutation(len(pids)).tolist(), tracks, strict=True)
        )
    ]


def mot_lines(frames: Sequence[FootageFrame]) -> str:
    """Format the boxes as a MOT file, with frames from 1."""
    return ''.join(
        f'{number},{track},{left:.2f},{top:.2f},{right - left:.2f},{bottom - top:.2f},1,-1,-1,-1\n'
        for number, frame in enumerate(frames, 1)
        for track, (left, top, right, bottom) in sorted(frame.boxes.items())
    )


def write_video(path: Path, frames: Sequence[FootageFrame]) -> None:
    """Encode pictures, in H.264 where this PyAV can."""
    av = silent_av()
    codec = 'libx264' if 'libx264' in av.codecs_available else 'mpeg4'
    with atomic_path(path) as temporary, av.open(temporary, 'w', format='mp4') as container:
        stream: Any = container.add_stream(codec, rate=FPS)
        stream.width, stream.height = frames[0].picture.size
        stream.pix_fmt = 'yuv420p'
        for frame in frames:
            pixels = np.asarray(frame.picture)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format='rgb24')))
        container.mux(stream.encode())
