"""The flags that say which tracklets of an index: shared by the commands that search and delete."""

import argparse
import datetime
import re
from typing import TYPE_CHECKING, Any

from stmn_plugin.config.rules import Moment, Rule, Text

from .command_line import value_of

if TYPE_CHECKING:
    from stmn_plugin.cameras.index.records import Where

NAME = Text('a name')
_SECONDS = {'s': 1, 'm': 60, 'h': 3600, 'd': 86400, 'w': 7 * 86400}


class _Age(Rule):
    """A length of time."""

    def _read(self, text: str) -> datetime.timedelta | None:
        match = re.fullmatch(r'([1-9]\d{0,5})([smhdw])', text)
        return datetime.timedelta(seconds=int(match[1]) * _SECONDS[match[2]]) if match else None

    def __str__(self) -> str:
        return 'a length of time such as 30d (s, m, h, d, w)'


def add_where_flags(parser: argparse.ArgumentParser, title: str) -> None:
    """Add the flags; several words of a flag are alternatives, several flags must all hold."""
    group = parser.add_argument_group(title)

    def add_names(flag: str, help: str) -> None:
        group.add_argument(
            flag, nargs='+', type=value_of(NAME), default=[], metavar='NAME', help=help
        )

    def add_time(flag: str, rule: Rule, **options: Any) -> None:
        group.add_argument(flag, type=value_of(rule), **options)

    add_names('--camera', 'of one of these cameras')
    add_names('--not-camera', 'of none of these')
    add_names('--person', 'with one of these names')
    add_names('--source', 'from one of these videos')
    add_names('--tracklet', 'folders, relative to their tree')
    times = {'metavar': 'TIME', 'dest': 'since'}
    add_time('--from', Moment(), help='not over at 2026-03-01T08:00:00+01:00', **times)
    add_time('--to', Moment(), metavar='TIME', dest='until', help='begun by then')
    add_time('--older-than', _Age(), metavar='AGE', help='over for so long: 30d, 12h')


def where_of(args: argparse.Namespace) -> 'Where':
    """What the flags say."""
    from stmn_plugin.cameras.index.records import Where

    now = datetime.datetime.now(datetime.timezone.utc)
    return Where(
        cameras=tuple(args.camera),
        not_cameras=tuple(args.not_camera),
        start=args.since,
        end=args.until,
        persons=tuple(args.person),
        sources=tuple(args.source),
        tracklets=tuple(args.tracklet),
        before=None if args.older_than is None else now - args.older_than,
    )
