"""List the tracklets of an index, or delete some of them.

Without an action it counts the tracklets of every camera. --delete removes them and their vectors
from the index; the crops stay in their tree.
"""

import argparse
import functools
from collections.abc import Sequence
from typing import TYPE_CHECKING

from stmn_plugin.console import run_tool
from stmn_plugin.console_table import console_table
from stmn_plugin.errors import InputError, exit_on_input_error, printable
from stmn_plugin.numerals import counted

from .command_line import CommandLine
from .where_flags import add_where_flags, check_cameras, where_of

if TYPE_CHECKING:
    from stmn_plugin.cameras.index.records import IndexedTracklet


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = CommandLine(
        takes_keys=False,
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog='example: %(prog)s people.db --delete --older-than 30d',
    )
    parser.add_argument(
        'index', metavar='INDEX', help='SQLite file, or postgresql://USER@HOST/DATABASE'
    )
    action = parser.add_mutually_exclusive_group()
    action.add_argument('--rows', action='store_true', help='list every tracklet')
    action.add_argument(
        '--hnsw',
        action='store_true',
        help='make an HNSW index for approximate search (on a server)',
    )
    action.add_argument(
        '--delete', action='store_true', help='delete these tracklets and their vectors'
    )
    parser.add_argument('--all', action='store_true', help='with --delete: delete every tracklet')
    conditions = add_where_flags(parser, 'which tracklets (all by default)')
    parser.goes_with(['--all'], '--delete')
    for flag in ('--all', '--hnsw'):
        parser.goes_without(flag, conditions)
    return parser.parse_args(argv)


def summary(rows: Sequence['IndexedTracklet']) -> str:
    """Format a table of cameras with their tracklets, videos, persons and times."""
    by_camera: dict[str, list[IndexedTracklet]] = {}
    for row in rows:
        by_camera.setdefault(row.camera, []).append(row)
    lines = [
        {
            'camera': printable(camera),
            'tracklets': len(own),
            'videos': len({row.source for row in own}),
            'persons with a name': len({row.person for row in own} - {'unknown'}),
            'from': _shown(min((row.start for row in own if row.start), default=None)),
            'to': _shown(max((row.end for row in own if row.end), default=None)),
        }
        for camera, own in sorted(by_camera.items())
    ]
    return console_table(lines)


def _shown(moment: object) -> str:
    return str(moment)[:19] if moment else '-'


def main(argv: Sequence[str] | None = None) -> None:
    args = parse_args(argv)
    with exit_on_input_error(args.debug):
        from stmn_plugin.cameras.index.tracklet_index import TrackletIndex

        where = where_of(args)
        if args.delete and where.selects_all and not args.all:
            raise InputError('--delete: give a condition, or --all')
        with TrackletIndex.open(args.index) as index:
            if args.hnsw:
                index.make_hnsw()
                return
            check_cameras(index, '--not-camera', args.not_camera)  # a wrong one would keep nothing
            if args.delete:
                deleted = index.delete(where, everything=args.all)
                print(
                    printable(f'{index.name}: {counted(deleted, "tracklet")} deleted, ')
                    + f'{len(index):,} left'
                )
                return
            rows = index.rows(where)
            if args.rows:
                for row in rows:
                    cells = row.number, row.tree, row.tracklet, row.camera, row.source, row.person
                    print(*map(printable, cells), _shown(row.start), _shown(row.end), sep='\t')
            else:
                if rows:
                    print(summary(rows))
                print(f'{counted(len(rows), "tracklet")}, times in UTC')


run = functools.partial(run_tool, main)  # the installed command
