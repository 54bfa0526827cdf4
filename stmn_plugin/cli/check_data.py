"""Check a dataset before it is used: lists, folders, every frame.

Reads every frame, compares lists, folders and the official statistics, writes a report. Exit code
0: nothing wrong; 1: the report has errors; 2: bad arguments, or the dataset is not there.
"""

import argparse
import functools
import os
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from stmn_plugin.config import RANGES
from stmn_plugin.console import run_tool
from stmn_plugin.errors import InputError, exit_on_input_error, printable
from stmn_plugin.numerals import counted
from stmn_plugin.whole_files import check_writable, write_json

from .command_line import CommandLine, value_of

if TYPE_CHECKING:
    from stmn_plugin.datasets.check import Complaint, Report

SHOWN = 10  # complaints of one kind on the screen; the report has all of them


def main(argv: Sequence[str] | None = None) -> int:
    args = parse_args(argv)
    with exit_on_input_error(args.debug):
        # slow imports, which --help does not need
        from stmn_plugin.datasets.check import check_dataset
        from stmn_plugin.datasets.check_lists import DATASETS

        if args.source not in DATASETS:
            raise InputError(f'--source takes one of {", ".join(DATASETS)}, got {args.source!r}')
        check_writable(args.output)  # before reading for hours
        report = check_dataset(args.source, args.root, args.workers, not args.list_only)
        write_json(args.output, report)
        print_report(report)
        numbers = [counted(len(report[f'{kind}s']), kind) for kind in ('error', 'warning')]
        print(f'{printable(args.output)}: {", ".join(numbers)}')
    return 1 if report['errors'] else 0


def print_report(report: 'Report') -> None:
    print(f'{report["dataset"]} in {printable(report["folder"])}')
    print(f'{"found / official":14}{"persons":>16}{"tracklets":>18}{"frames":>22}')
    for label, numbers in report['counts'].items():
        cells = [
            f'{n["found"]:,} / {"-" if n["official"] is None else format(n["official"], ",")}'
            for n in numbers.values()
        ]
        print(f'{label:14}{cells[0]:>16}{cells[1]:>18}{cells[2]:>22}')
    for search, numbers in report['queries_without_match'].items():
        print(f'{search}: {numbers["without_match"]} of {numbers["queries"]} queries without match')
    sizes = list(report['sizes'].items())
    shown = ', '.join(f'{size} ({number:,})' for size, number in sizes[:SHOWN])
    more = f' and {len(sizes) - SHOWN} more sizes' if len(sizes) > SHOWN else ''
    print(f'{report["images_read"]:,} of {report["images_on_disk"]:,} images read: {shown}{more}')
    print_complaints('warning', report['warnings'])
    print_complaints('error', report['errors'])


def print_complaints(label: str, complaints: 'Iterable[Complaint]') -> None:
    for kind in dict.fromkeys(complaint['kind'] for complaint in complaints):
        messages = [c['message'] for c in complaints if c['kind'] == kind]
        for message in messages[:SHOWN]:
            print(f'{label} ({kind}): {printable(message)}')
        if len(messages) > SHOWN:
            print(f'{label} ({kind}): ... and {len(messages) - SHOWN} more')
        if kind == 'counts':
            print('  (in a subset or a miniature they do differ; in a full copy they must not)')


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = CommandLine(
        takes_keys=False,
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        '--root', required=True, metavar='FOLDER', help='folder that holds the datasets (data.root)'
    )
    parser.add_argument('-s', '--source', required=True, metavar='NAME', help='dataset to check')
    cores = len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count()
    parser.add_argument(
        '--workers',
        type=value_of(RANGES['data.workers']),
        default=cores,
        metavar='N',
        help='processes that read; 0: read in this one (default: one per core)',
    )
    output = 'data_report.json'
    parser.add_argument(
        '--output', default=output, metavar='FILE', help=f'report to write (default: {output})'
    )
    parser.add_argument('--list-only', action='store_true', help='do not read the images')
    return parser.parse_args(argv)


run = functools.partial(run_tool, main)  # the installed command
