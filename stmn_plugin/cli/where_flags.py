"""Flags for conditions on tracklets, shared by the commands that search and delete."""

import argparse
import datetime
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from stmn_plugin.config.rules import Moment, Rule, Text
from stmn_plugin.errors import InputError

from .command_line import flags_of, value_of

if TYPE_CHECKING:
    from stmn_plugin.cameras.index import TrackletIndex
    from stmn_plugin.cameras.index.records import Where

NAME = Text('a name')
_SECONDS = {'s': 1, 'm': 60, 'h': 3600, 'd': 86400, 'w': 7 * 86400}


class _Age(Rule):
    """A length of time."""

    def _read(self, text: str) -> datetime.timedelta | None:
        match = re.fullmatch('([1-9][0-9]{0,4})([smhdw])', text)
        return datetime.timedelta(seconds=int(match[1]) * _SECONDS[match[2]]) if match else None

    def __str__(self) -> str:
        return 'a length of time such as 30d (s, m, h, d, w)'


def add_where_flags(parser: argparse.ArgumentParser, title: str) -> list[str]:
    """Add the flags; several words of a flag are alternatives, several flags must all hold.

    Returns:
        Their names.
    """
    group = parser.add_argument_group(title)
    add_camera_and_time_flags(group)
    _add_names(group, '--person', 'tracklets of persons with these names')
    _add_names(group, '--source', 'tracklets from these videos')
    _add_names(group, '--tracklet', 'these tracklets: folders in their tree')
    help = 'tracklets that ended longer ago, such as 30d or 12h'
    group.add_argument('--older-than', type=value_of(_Age()), metavar='AGE', help=help)
    return flags_of(group)


def add_camera_and_time_flags(group: 'argparse._ArgumentGroup') -> None:
    """Add the flags that a search shares; in a search the others name the query."""
    _add_names(group, '--camera', 'tracklets of these cameras')
    _add_names(group, '--not-camera', 'tracklets of all cameras but these')
    for flag, name, help in (
        ('--from', 'since', 'tracklets that end then or later, such as 2026-03-01T08:00:00+01:00'),
        ('--to', 'until', 'tracklets that begin then or earlier'),
    ):
        group.add_argument(flag, type=value_of(Moment()), metavar='TIME', dest=name, help=help)


def _add_names(group: 'argparse._ArgumentGroup', flag: str, help: str) -> None:
    group.add_argument(flag, nargs='+', type=value_of(NAME), default=[], metavar='NAME', help=help)


def check_cameras(index: 'TrackletIndex', flag: str, names: Sequence[str]) -> None:
    """Raise InputError for a camera that the index does not have: a misspelt name."""
    from stmn_plugin.cameras.index.records import Where

    for name in names:
        if not index.rows(Where(cameras=[name])):
            known = sorted({row.camera for row in index.rows()})
            shown = ', '.join(known[:10]) + (', ...' if len(known) > 10 else '')
            raise InputError(f'{flag} {name}: the index has no such camera; it has {shown}')


def where_of(args: argparse.Namespace) -> 'Where':
    """Return the settings of the flags."""
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
