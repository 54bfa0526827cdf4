"""Cut what a tracker found in videos into tracklets.

VIDEO is a video file or a folder of images; --tracks names the tracker's files, one for each VIDEO
in order (or one file of several videos); --camera is one for all, or one for each.
More videos can be added to the same --output; the tree is a data root of the dataset 'tracklets'.
"""

import argparse
import contextlib
import functools
import logging
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from stmn_plugin.config.rules import Moment, Number
from stmn_plugin.console import run_tool
from stmn_plugin.errors import InputError, exit_on_input_error, printable
from stmn_plugin.labels import natural_key
from stmn_plugin.numerals import counted

from .command_line import FROM_ONE, CommandLine, value_of
from .track_flags import (
    FORMAT_NAMES,
    NAME,
    add_fps_flag,
    add_track_flags,
    track_options,
)

if TYPE_CHECKING:
    from stmn_plugin.cameras.making import CroppingJob, Made

logger = logging.getLogger(__name__)


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = CommandLine(
        takes_keys=False,
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog='example: %(prog)s lobby.mp4 --tracks lobby.txt --format mot '
        '--first-frame 1 --camera lobby --output people',
    )
    parser.add_argument(
        'videos', nargs='+', type=Path, metavar='VIDEO', help='video file, or folder of images'
    )
    parser.add_argument(
        '--tracks',
        nargs='+',
        type=Path,
        required=True,
        metavar='FILE',
        help="tracker's files or folders, one for each VIDEO in order, or one for all",
    )
    parser.add_argument(
        '--format', choices=FORMAT_NAMES, required=True, help='format of the tracks'
    )
    parser.add_argument(
        '--camera',
        nargs='+',
        type=value_of(NAME),
        required=True,
        metavar='NAME',
        help='camera of all videos, or one for each',
    )
    parser.add_argument(
        '--output', metavar='TREE', type=Path, required=True, help='folder of the tree'
    )
    parser.add_argument(
        '--start',
        nargs='+',
        type=value_of(Moment()),
        metavar='TIME',
        help='start of each VIDEO, with its offset from UTC: 2026-03-01T08:00:00+01:00',
    )
    add_fps_flag(parser)
    parser.add_argument(
        '--persons', type=Path, metavar='CSV', help='CSV with the columns track,person[,video]'
    )
    parser.add_argument(
        '--split',
        choices=('train', 'query', 'gallery'),
        default='gallery',
        help='split of the dataset (default: gallery)',
    )
    parser.add_argument('--replace', action='store_true', help='make the tracklets of VIDEO again')
    parser.add_argument(
        '--skip-bad', action='store_true', help='leave out a VIDEO that cannot be decoded whole'
    )
    add_track_flags(parser)
    chosen = parser.add_argument_group('which boxes become crops')
    chosen.add_argument(
        '--classes',
        nargs='+',
        default=[],
        metavar='NAME',
        help='names or numbers of the classes to take',
    )
    chosen.add_argument(
        '--min-confidence',
        type=value_of(Number(-1e6, 1e6)),
        metavar='P',
        help='least confidence of a box',
    )
    for side in ('height', 'width'):
        chosen.add_argument(
            f'--min-{side}',
            type=FROM_ONE,
            default=1,
            metavar='PIXELS',
            help=f'least {side} of a box in the picture',
        )
    chosen.add_argument(
        '--min-frames',
        type=FROM_ONE,
        default=1,
        metavar='N',
        help='fewest boxes of a track to take',
    )
    chosen.add_argument(
        '--every',
        type=FROM_ONE,
        default=1,
        metavar='N',
        help='take one of N boxes of a track',
    )
    chosen.add_argument(
        '--max-frames',
        type=FROM_ONE,
        metavar='N',
        help='most crops of a tracklet, evenly spread over its track',
    )
    chosen.add_argument(
        '--margin',
        type=value_of(Number(0, 1)),
        default=0.0,
        metavar='SHARE',
        help='share of width and height to add on each side',
    )
    return parser.parse_args(argv)


def jobs_of(args: argparse.Namespace) -> list['CroppingJob']:
    """Plan a job for each video.

    Raises:
        InputError: numbers of videos, tracks, cameras and starts do not fit; a video comes twice.
    """
    from stmn_plugin.cameras.making import CroppingJob
    from stmn_plugin.cameras.readers.formats import FORMATS
    from stmn_plugin.cameras.selection import Filters

    videos, tracks = args.videos, args.tracks
    if len(tracks) == 1 and FORMATS[args.format].several:
        tracks = tracks * len(videos)
    if len(tracks) != len(videos):
        raise InputError(
            f'--tracks: {len(tracks)} for {len(videos)} videos; each video needs its own, in order'
        )
    cameras = args.camera * len(videos) if len(args.camera) == 1 else args.camera
    if len(cameras) != len(videos):
        raise InputError(f'--camera: {len(cameras)} names for {len(videos)} videos')
    starts = args.start or [None] * len(videos)
    if len(starts) != len(videos):
        raise InputError(f'--start: {len(starts)} times for {len(videos)} videos')
    names = [video.resolve().name for video in videos]
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise InputError(f'VIDEO: two are called {twice[0]}; rename one')
    hidden = [name for name in names if name.startswith('.')]
    if hidden:
        raise InputError(f'VIDEO: {hidden[0]} would name hidden folders; rename it')
    if args.split == 'train' and args.persons is None:
        raise InputError('--split train: --persons CSV must name the persons')
    if args.first_frame == 'names' and not all(map(os.path.isdir, videos)):
        raise InputError('--first-frame names: only for folders of images')
    options = track_options(args)
    filters = Filters(
        classes=tuple(args.classes),
        min_confidence=args.min_confidence,
        min_height=args.min_height,
        min_width=args.min_width,
        min_frames=args.min_frames,
        every=args.every,
        max_frames=args.max_frames,
        margin=args.margin,
    )
    return [
        CroppingJob(
            video=video,
            tracks=track,
            format=args.format,
            camera=camera,
            output=args.output,
            start=start,
            fps=args.fps,
            options=options,
            filters=filters,
            split=args.split,
            persons=read_persons(args.persons, name),
            replace=args.replace,
        )
        for video, track, camera, start, name in zip(
            videos, tracks, cameras, starts, names, strict=True
        )
    ]


def read_persons(path: Path | None, video: str) -> Mapping[str, str]:
    """Read track → name of the person from the rows of a CSV for a video, or for any.

    Raises:
        InputError: no CSV with the columns track and person; a name that no folder can have; a
            track twice.
    """
    if path is None:
        return {}
    from stmn_plugin.datasets.csv_rows import csv_rows

    persons: dict[str, str] = {}
    for line, cells in csv_rows(str(path), ('track', 'person'), contextlib.nullcontext):
        if cells.get('video', '') not in ('', video):
            continue
        track, person = cells['track'], cells['person']
        if NAME.read(person) is None:
            raise InputError(f'{path}:{line}: person must be {NAME}, got {person!r}')
        if persons.setdefault(track, person) != person:
            raise InputError(f'{path}:{line}: track {track} is already {persons[track]}')
    return persons


def named(made: 'Made', persons: Mapping[str, str]) -> str:
    """Describe how many tracklets have a name, and which tracks with a name have none."""
    tracks = {entry.track for entry in made.entries}
    other = sorted(persons.keys() - tracks, key=natural_key)
    line = f'{counted(len(tracks & persons.keys()), "tracklet")} named'
    if other:
        line += f'; no tracklet has the track {", ".join(other[:10])}'
        line += f' or {len(other) - 10:,} more' * (len(other) > 10)
    return line


def main(argv: Sequence[str] | None = None) -> None:
    args = parse_args(argv)
    with exit_on_input_error(args.debug):
        from stmn_plugin.cameras.making import make_tracklets
        from stmn_plugin.cameras.manifest import NAME as MANIFEST
        from stmn_plugin.cameras.manifest import read_manifest
        from stmn_plugin.cameras.videos import BadVideo

        left_out: list[str] = []
        for job in jobs_of(args):
            begin = time.perf_counter()
            try:
                made = make_tracklets(job)
            except BadVideo as error:
                if not args.skip_bad:
                    raise
                logger.warning('left out: %s', error)
                left_out.append(job.video.name)
                continue
            seconds = time.perf_counter() - begin
            print(*map(printable, made.lines()), sep='\n')
            if args.persons is not None:
                print(printable(f'  {args.persons}: {named(made, job.persons)}'))
            print(
                f'  {counted(made.frames, "frame")} in {seconds:.1f} s, '
                f'{made.frames / seconds:.0f} a second'
            )
        entries = read_manifest(args.output)
        cameras = len({entry.camera for entry in entries})
        line = f'{args.output / MANIFEST}: {counted(len(entries), "tracklet")}, '
        line += counted(cameras, 'camera')
        if left_out:
            line += (
                f'; {len(left_out)} of {counted(len(args.videos), "video")} left out: '
                f'{", ".join(left_out)}'
            )
        print(printable(line))


run = functools.partial(run_tool, main)  # the installed command
