"""Draw Figures 5 to 10 of the paper and measure the memories.

Writes figure-N.png, figure-N.svg, figure-N.txt (the caption) and analysis.json into RUN/figures.
"""

import functools
import os
from argparse import Namespace
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from stmn_plugin.config.rules import SEED, OneOf, Whole
from stmn_plugin.console import run_tool
from stmn_plugin.errors import InputError, exit_on_input_error, printable, resource_errors
from stmn_plugin.extras import require
from stmn_plugin.whole_files import write_text

from .command_line import CONFIG, CommandLine, value_of

if TYPE_CHECKING:
    from stmn_plugin.looking.explained_run import ExplainedRun, RunOnTarget

Run = TypeVar('Run')

NUMBERS = (5, 6, 7, 8, 9, 10)
FORMATS = ('png', 'svg')
USED_BY = {'tracklets': (7, 8, 10), 'items': (6, 9)}  # flag → figures
KEYS_OF_PLAN = {
    'seq_len': 'video.seq_len',
    'frames': 'test.frames',
    'clips_per_tracklet': 'test.clips_per_tracklet',
    'rrs_chunks': 'video.rrs_chunks',
    'all_clips': 'test.all_clips',
}


def parse_args(argv: Sequence[str] | None = None) -> Namespace:
    parser = CommandLine(
        description=__doc__.split('\n', 1)[0],
        epilog='example: %(prog)s --run log/stmn_mars --against log/ablation/6_sm_tm_no_spread. '
        'KEY VALUE words hold for both runs, for example data.root /data.',
    )
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument(
        '--run', metavar='FOLDER', help='folder of a training run (its data.save_dir)'
    )
    parser.add_config_flag(CONFIG + ', with model.load_weights', what, default=None)
    parser.add_argument(
        '--against',
        metavar='FOLDER',
        help='second run for Figures 5 (no spread loss) and 10 (an MLP)',
    )
    parser.add_key_flags('data.root')
    figure = value_of(Whole(min(NUMBERS), max(NUMBERS)))
    parser.add_argument(
        '--figures',
        nargs='+',
        type=figure,
        metavar='N',
        help='figures to draw, 5 to 10 (default: all)',
    )
    parser.add_argument('--output', metavar='FOLDER', help='folder to write (default: RUN/figures)')
    parser.add_argument(
        '--format',
        nargs='+',
        type=value_of(OneOf(FORMATS)),
        default=list(FORMATS),
        metavar='NAME',
        help='formats of the figures (default: png svg)',
    )
    parser.add_argument(
        '--tracklets',
        nargs='+',
        default=[],
        metavar='NAME',
        help='tracklets to show in Figures 7, 8 and 10: part of the path of the '
        'first frame, such as 0033C1T0001',
    )
    items = value_of(Whole(0, 65_536))
    parser.add_argument(
        '--items',
        type=items,
        default=0,
        metavar='N',
        help='items to show in Figures 6 and 9 (0: all)',
    )
    parser.add_argument(
        '--seed', type=value_of(SEED), default=0, metavar='N', help='seed of all random choices'
    )
    return parser.parse_args(argv)


def check_figures(args: Namespace) -> None:
    """Raise InputError for a flag that none of ``--figures`` uses."""
    for name, using in USED_BY.items():
        if getattr(args, name) and not {*using} & {*(args.figures or using)}:
            raise InputError(f'--{name} goes with --figures {" or ".join(map(str, using))}')


def configs(args: Namespace) -> list[tuple[Any, str]]:
    """Return config and name of the run and of the one it is compared with, if any."""
    from stmn_plugin.looking.opened_run import config_of_file, config_of_run

    if args.run:
        found = [(config_of_run(args.run, args.opts), args.run)]
    else:
        cfg = config_of_file(args.config_file, args.opts)
        found = [(cfg, cfg.data.save_dir)]
    if args.against:
        found.append((config_of_run(args.against, args.opts), args.against))
    return [(cfg, os.path.normpath(name)) for cfg, name in found]


def open_runs(args: Namespace) -> 'list[RunOnTarget]':
    """Open the runs; the same clips are shown for both."""
    from stmn_plugin.looking.explained_run import open_on_target

    opened = [open_on_target(cfg, name, args.tracklets, args.seed) for cfg, name in configs(args)]
    lists = [[paths for paths, *_ in one.tracklets.all] for one in opened]
    if lists[-1] != lists[0]:
        raise InputError(f'--against {args.against}: its target has other tracklets')
    plans = [one.opened.plan._asdict() for one in opened]
    for field, value in plans[0].items():
        if plans[-1][field] != value:
            raise InputError(
                f'--against {args.against}: {KEYS_OF_PLAN[field]} is {plans[-1][field]}, '
                f'of {opened[0].name} {value}; both must use the same clips'
            )
    return opened


def possible_figures(opened: 'Sequence[RunOnTarget]', args: Namespace) -> list[int]:
    """Return the numbers of the figures that the runs support; print why others are left out."""
    from stmn_plugin.looking.figures import FIGURES

    reasons = {n: FIGURES[n].missing(*pair(opened)) for n in args.figures or NUMBERS}
    for number, reason in reasons.items():
        if reason and args.figures:
            raise InputError(f'--figures {number}: {reason}')
        if reason:
            print(f'Figure {number} is left out: {reason}')
    return [number for number, reason in reasons.items() if not reason]


def pair(runs: Sequence[Run]) -> tuple[Run, Run | None]:
    """Return the run and the one it is compared with, or None."""
    return runs[0], (runs[1] if len(runs) > 1 else None)


def write_figures(
    runs: 'Sequence[ExplainedRun]', numbers: Iterable[int], args: Namespace, folder: str
) -> None:
    """Write the figures and their captions."""
    from stmn_plugin.looking.figure_parts import Options
    from stmn_plugin.looking.figures import FIGURES
    from stmn_plugin.looking.figures.sheet import save_figure

    options = Options(args.items, args.seed)
    for number in numbers:
        figure, caption = FIGURES[number].make(*pair(runs), options)
        paths = save_figure(figure, folder, f'figure-{number}', args.format)
        path = os.path.join(folder, f'figure-{number}.txt')
        write_text(path, caption + '\n')
        print('\n'.join(map(printable, paths)))


def main(argv: Sequence[str] | None = None) -> None:
    args = parse_args(argv)
    with exit_on_input_error(args.debug):
        require('matplotlib')
        check_figures(args)
        from stmn_plugin.looking.explained_run import explain_run
        from stmn_plugin.looking.measures.run_measures import measure_run, write_analysis

        opened = open_runs(args)
        numbers = possible_figures(opened, args)
        with resource_errors('test.batch_size'):
            runs = [explain_run(one) for one in opened]
        folder = args.output or os.path.join(runs[0].name, 'figures')
        measured = [(run, measure_run(run, args.seed)) for run in runs]
        path = os.path.join(folder, 'analysis.json')
        write_analysis(path, measured)
        write_figures(runs, numbers, args, folder)
        for run, measures in measured:
            print(f'\n{printable(run.name)} ({printable(run.weights)})')
            for name, one in measures.items():
                print(f'  {name}: {one.verdict}')
        print(f'\nDefinitions and numbers: {printable(path)}')


run = functools.partial(run_tool, main)  # the installed command
