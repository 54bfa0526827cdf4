"""Flags for facts about a tracker's file, for the commands that read one."""

import argparse
import re
from typing import TYPE_CHECKING

from stmn_plugin.config.rules import Number, Rule, Text, Whole, WordOr

from .command_line import FROM_ONE, CommandLine, flags_of, value_of

if TYPE_CHECKING:
    from stmn_plugin.cameras.readers.options import TrackOptions

FORMAT_NAMES = ('mot', 'ultralytics', 'supervision', 'cvat', 'coco', 'deepstream')
IN_PIXELS = tuple(name for name in FORMAT_NAMES if name != 'ultralytics')  # others: fractions
OF_STREAMS = ('ultralytics', 'coco', 'deepstream')  # a file or folder may hold several videos
FIRST_FRAME = WordOr('names', Whole(0, 2**31))
NAME = Text('a name that a folder can have', pattern=r'(?!\.)[^\0/\\]+')


class Size(Rule):
    """Width and height, such as 1920x1080."""

    def _read(self, text: str) -> tuple[int, int] | None:
        match = re.fullmatch('([1-9][0-9]{0,4})[xX]([1-9][0-9]{0,4})', text)
        return (int(match[1]), int(match[2])) if match else None

    def __str__(self) -> str:
        return 'a size such as 1920x1080'


def add_track_flags(parser: CommandLine) -> list[str]:
    """Add a group of flags, of which :func:`track_options` makes options; return their names."""
    files = parser.add_argument_group('facts about the tracks that their format leaves open')
    files.add_argument(
        '--first-frame',
        type=value_of(FIRST_FRAME),
        metavar='N',
        help='number of the first frame in the file; names: numbers in the names of images',
    )
    files.add_argument(
        '--stride',
        type=FROM_ONE,
        default=1,
        metavar='N',
        help='the tracker processed one of N frames and numbered only these',
    )
    files.add_argument(
        '--first-pixel',
        type=value_of(Whole(0, 1)),
        default=0,
        metavar='N',
        help='number of the leftmost column and topmost row; 1 in files of MOTChallenge itself',
    )
    files.add_argument(
        '--picture-size',
        type=value_of(Size()),
        metavar='WxH',
        help='size of the picture that the boxes belong to, if it is not that of the video',
    )
    files.add_argument(
        '--frame-column',
        default='',
        metavar='NAME',
        help='with --format supervision: column of the frame number',
    )
    files.add_argument(
        '--stream',
        default='',
        metavar='NAME',
        help='video or stream to take from the file or folder',
    )
    parser.goes_with(['--frame-column'], '--format supervision')
    parser.goes_with(['--stream'], *(f'--format {name}' for name in OF_STREAMS))
    parser.goes_with(['--first-pixel', '--picture-size'], *(f'--format {n}' for n in IN_PIXELS))
    return flags_of(files)


def add_fps_flag(parser: 'argparse.ArgumentParser | argparse._ArgumentGroup') -> None:
    """Add ``--fps``."""
    parser.add_argument(
        '--fps',
        type=value_of(Number(0, 1_000_000, above=True)),
        help='frames a second of images, or in place of the times in a video',
    )


def track_options(args: argparse.Namespace) -> 'TrackOptions':
    """Return the settings of the flags."""
    from stmn_plugin.cameras.readers.options import TrackOptions

    by_name = args.first_frame == 'names'
    return TrackOptions(
        first_frame=None if by_name or args.first_frame is None else int(args.first_frame),
        by_name=by_name,
        stride=args.stride,
        first_pixel=args.first_pixel,
        picture=args.picture_size,
        frame_column=args.frame_column,
        stream=args.stream,
    )
