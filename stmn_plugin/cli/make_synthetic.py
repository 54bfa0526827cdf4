"""Make the synthetic pedestrians: as a dataset, or as videos.

--root writes a dataset in the layout of MARS; --footage writes a video of every camera, in which
all test persons pass, with its MOT file, and a table of who is who. Flags replace fields of the
preset, for example --train-ids 100 --seed 2.
"""

import argparse
import dataclasses
import functools
import time
from collections.abc import Sequence
from pathlib import Path

from stmn_plugin.config.rules import Whole
from stmn_plugin.console import run_tool
from stmn_plugin.datasets.synthetic import PRESETS, SyntheticSpec, contact_sheet, ensure, load_truth
from stmn_plugin.errors import exit_on_input_error, printable
from stmn_plugin.numerals import counted

from .command_line import CommandLine, value_of


def main(argv: Sequence[str] | None = None) -> None:
    args = parse_args(argv)
    with exit_on_input_error(args.debug):
        changes = {
            field.name: getattr(args, field.name)
            for field in dataclasses.fields(SyntheticSpec)
            if getattr(args, field.name) is not None
        }
        spec = dataclasses.replace(PRESETS[args.preset], **changes)
        start = time.perf_counter()
        if args.footage:
            from stmn_plugin.cameras.synthetic_footage import make_footage

            made = make_footage(args.footage, spec, args.strangers)
            print(
                f'{printable(str(args.footage))}: {counted(len(made), "video")} with their tracks, '
                f'{counted(spec.test_ids, "person")} and '
                f'{counted(args.strangers, "stranger")} at each, '
                f'{time.perf_counter() - start:.1f} s'
            )
            return
        folder = ensure(args.root, spec, workers=args.workers)
        seconds = time.perf_counter() - start
        truth = load_truth(folder)
        print(
            f'{printable(folder)}: {spec.train_ids} + {spec.test_ids} persons, '
            f'{counted(spec.cameras, "camera")}, {len(truth.patterns)} tracklets, '
            f'{len(truth.names)} frames, {seconds:.1f} s'
        )
        if args.contact_sheet:
            print(printable(contact_sheet(folder, args.contact_sheet)))


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = CommandLine(
        takes_keys=False,
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made = parser.add_mutually_exclusive_group(required=True)
    made.add_argument('--root', help='data folder; the dataset becomes <root>/synthetic/<name>')
    made.add_argument(
        '--footage', type=Path, metavar='FOLDER', help='folder for videos and MOT files'
    )
    parser.add_argument(
        '--preset', choices=PRESETS, default='default', help='amount of data (default: default)'
    )
    for field in dataclasses.fields(SyntheticSpec):
        flag = '--' + field.name.replace('_', '-')
        parser.add_argument(flag, type=field.type, help=f'default preset: {field.default}')
    strangers = value_of(Whole(0, 1_000))
    parser.add_argument(
        '--strangers',
        type=strangers,
        default=2,
        metavar='N',
        help='strangers who pass in each video (default: 2)',
    )
    parser.add_argument('--contact-sheet', metavar='FILE', help='also draw a PNG of some tracklets')
    workers = value_of(Whole(1, 1_024))
    parser.add_argument('--workers', type=workers, help='processes (default: one per core)')
    of_tracklets = ['--tracklets-per-camera', '--min-frames', '--max-frames']
    of_tracklets.append('--temporal-distractors')
    parser.goes_with(['--contact-sheet', '--workers', *of_tracklets], '--root')
    parser.goes_with(['--strangers'], '--footage')
    return parser.parse_args(argv)


run = functools.partial(run_tool, main)  # the installed command
