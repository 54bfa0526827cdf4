"""Train, test and compare: one table of models, variants or runs.

Rows are architectures, variants of STMN or given runs. Each training and each test is a
process of its own.
"""

import functools
import os
import sys
from argparse import Namespace
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stmn_plugin.config.rules import Whole
from stmn_plugin.config.shipped import config_folder
from stmn_plugin.console import run_tool
from stmn_plugin.console_table import console_table
from stmn_plugin.errors import InputError, exit_on_input_error
from stmn_plugin.extras import require
from stmn_plugin.numerals import counted
from stmn_plugin.plugins import import_words

from .command_line import CONFIG, CommandLine, refuse_words, value_of

if TYPE_CHECKING:
    from stmn_plugin.comparing.run_plan import PlannedRun
    from stmn_plugin.comparing.run_queue import Execute, Outcome
    from stmn_plugin.comparing.variants import Variant

COMMANDS = Path(__file__).parents[1] / '__main__.py'
ABLATION = str(config_folder() / 'ablation')


def parse_args(argv: Sequence[str] | None = None) -> Namespace:
    parser = CommandLine(
        description=__doc__.split('\n', 1)[0],
        epilog='example: %(prog)s --config stmn_synthetic --archs stmn resnet18 --seeds 3. '
        'Interrupt it at any time: the same command continues where it stopped.',
    )
    parser.add_config_flag(CONFIG + ', of all runs')
    parser.add_key_flags('data.root', 'data.sources', 'data.targets')
    names: dict[str, Any] = {'nargs': '+', 'metavar': 'NAME'}
    parser.add_argument(
        '--archs', help='architectures, named as by --list-archs of tools/main.py', **names
    )
    parser.add_argument('--ablation', action='store_true', help='the variants of configs/ablation')
    parser.add_argument(
        '--table2',
        action='store_true',
        help='STMN, its baseline and the systems of Table 2 on equal terms (configs/equal_terms)',
    )
    parser.add_argument('--systems', help='restrict --table2 to these, by model.name', **names)
    parser.add_argument(
        '--variants', metavar='FILE', help='YAML file of title: {KEY: VALUE}, a row for each title'
    )
    parser.add_argument(
        '--runs', nargs='+', metavar='FOLDER', help='folders of trained runs, of any name'
    )
    parser.add_argument(
        '--grid',
        action='store_true',
        help='search M, N, alpha and L on held-out training identities (Sec. 4.1)',
    )
    parser.add_argument(
        '--seeds',
        type=value_of(Whole(1, 1_000)),
        default=3,
        metavar='N',
        help='runs of each row (default: 3)',
    )
    parser.add_argument(
        '--published', metavar='NAME', help='add rows of what papers report on this dataset'
    )
    parser.add_argument(
        '--output',
        metavar='FOLDER',
        help='folder of runs and tables (default: log/compare/<config file>)',
    )
    parser.add_argument('--dry-run', action='store_true', help='print the planned runs and stop')
    parser.goes_with(['--systems'], '--table2')
    trained = ['--archs', '--ablation', '--table2', '--variants']
    parser.goes_without('--grid', [*trained, '--runs', '--published'])
    args = parser.parse_args(argv)
    rows = args.archs or args.ablation or args.table2 or args.variants
    for flag in ('seeds', 'config_file') if args.runs and not rows else ():
        if flag in parser.given:
            name = flag.partition('_')[0]
            parser.error(f'--{name} goes with {", ".join(trained)}, not with --runs alone')
    return args


def default_output(config_file: str) -> str:
    stem = os.path.splitext(os.path.basename(config_file))[0]
    return os.path.join('log', 'compare', stem or 'runs')


def table_name(args: Namespace) -> str:
    """Return the name of the table's files, one for each kind of table."""
    file: str | None = args.variants
    if file:
        return os.path.splitext(os.path.basename(file))[0]
    if args.table2:
        return 'table2'
    return 'ablation' if args.ablation else 'compare'


def child(words: Sequence[str], log: str, watch: Callable[[], object]) -> int:
    """Run the command ``train`` of this package, wherever it is installed, in a subprocess."""
    from stmn_plugin.comparing.child_process import run_process

    words = [*import_words(), *words]
    return run_process([sys.executable, str(COMMANDS), 'train', *words], log, watch)


def compare(
    args: Namespace,
    words: list[str],
    archs: Sequence[str] | None,
    runs: Sequence[str] | None,
    execute: 'Execute',
) -> int:
    """Print the table of architectures, variants and existing runs; return failed runs."""
    from stmn_plugin.comparing import result_tables, table2, variants
    from stmn_plugin.comparing.existing_runs import existing_runs
    from stmn_plugin.comparing.published import published_rows
    from stmn_plugin.comparing.run_plan import plan_runs, training_config
    from stmn_plugin.comparing.run_queue import complete_runs
    from stmn_plugin.device import device_line

    output = args.output or default_output(args.config_file)
    chosen = []
    if archs or not (args.ablation or args.table2 or args.variants or runs):
        default = training_config(args.config_file, words).model.name
        chosen += variants.arch_variants(archs or [default])
    if args.ablation:
        chosen += variants.ablation_variants(ABLATION)
    if args.table2:
        chosen += table2.table2_variants(args.systems)
    if args.variants:
        chosen += variants.named_variants(args.variants)
    planned = []
    if chosen:  # existing runs have configs of their own
        check_variants(chosen)
        planned += plan_runs(chosen, args.seeds, args.config_file, words, output)
    if runs:
        planned += existing_runs(runs, words, taken=[row.title for row in chosen])
    if args.dry_run:
        print_plan(planned)
        return 0
    print(device_line(any(run.cfg and run.cfg.use_gpu for run in planned)))
    outcomes = list(complete_runs(planned, execute))
    rows = result_tables.rows_of(outcomes)
    if args.table2:
        rows = table2.with_published(rows)
    if args.published:
        rows += published_rows(args.published, args.ablation)
    try:  # files first: a console may fail; but a full disk hides no table
        written = result_tables.write_comparison(rows, output, table_name(args))
        if args.table2:
            written.append(table2.draw_cost(rows, table2.figure_path(output)))
    finally:
        print(f'\n{result_tables.as_text(rows)}\n', *result_tables.notes_for(rows), sep='\n')
    print('Written:', *written)
    return sum(bool(outcome.error) for outcome in outcomes)


def search_grid(args: Namespace, words: list[str], execute: 'Execute') -> int:
    """Print the tables of the grid search; return the number of failed runs."""
    from stmn_plugin.comparing import grid
    from stmn_plugin.comparing.run_plan import TRAINING, plan_runs, training_config
    from stmn_plugin.comparing.run_queue import complete_runs
    from stmn_plugin.device import device_line

    refuse_words(words, dict.fromkeys(TRAINING, '--grid'))  # nothing is tested afterwards
    output = args.output or default_output(args.config_file)
    cfg = training_config(args.config_file, words)
    if cfg.model.name != grid.ARCH:
        raise InputError(
            f'--grid searches hyperparameters of {grid.ARCH}, model.name is {cfg.model.name}'
        )
    if 1 not in cfg.test.ranks:
        raise InputError(f'test.ranks {cfg.test.ranks}: --grid chooses by rank-1, add 1')
    if not cfg.data.validation_ids:
        words = [*words, 'data.validation_ids', str(grid.VALIDATION_IDS)]
    if args.dry_run:
        first, *later = grid.FACTORS
        variants = grid.factor_variants(first, {})
        print_plan(plan_runs(variants, args.seeds, args.config_file, words, output))
        for factor in later:
            print(f'then, with the best of these: {", ".join(map(grid.setting_title, factor))}')
        return 0
    print(device_line(cfg.use_gpu))
    failed = 0
    factors: list[list[grid.GridPoint]] = []

    def run_variants(variants: 'Sequence[Variant]') -> 'Iterator[Outcome]':
        nonlocal failed
        planned = plan_runs(variants, args.seeds, args.config_file, words, output)
        for outcome in complete_runs(planned, execute, strategies=()):
            failed += bool(outcome.error)
            yield outcome

    for settings in grid.search_factors(run_variants, grid.FACTORS):
        factors.append(settings)
        try:
            written = grid.write_grid(factors, output)
        finally:
            print(f'\n{grid.factor_text(settings)}\n')
    print(*grid.NOTES, sep='\n')
    print('Chosen:', *grid.words_of(factors))
    print('Written:', *written)
    return failed


def check_variants(variants: 'Iterable[Variant]') -> None:
    """Report a mistyped architecture before any run starts."""
    from stmn_plugin.host.parts import check_arch
    from stmn_plugin.host.registration import register

    register()
    for variant in variants:
        if 'model.name' in variant.changes:
            check_arch(variant.changes['model.name'])


def print_plan(planned: 'Iterable[PlannedRun]') -> None:
    """Print the planned runs with their folders and progress."""
    seen, lines = set(), []
    for run in planned:
        state = 'the same run as above' if run.folder in seen else run.state
        seen.add(run.folder)
        folder, name = os.path.split(run.folder)
        cells = {'folder': folder, 'run': run.title, 'seed': run.seed, 'name': name}
        lines.append({**cells, 'state': state})
    print(console_table(lines, shared=['folder']))


def main(argv: Sequence[str] | None = None, execute: 'Execute' = child) -> None:
    args = parse_args(argv)
    with exit_on_input_error(args.debug):
        from stmn_plugin.comparing.published import DATASETS
        from stmn_plugin.comparing.run_plan import SET_BY
        from stmn_plugin.interrupt import Interrupted

        refuse_words(args.opts, SET_BY)

        words, archs, runs = args.opts, args.archs, args.runs
        if args.published and args.published not in DATASETS:
            raise InputError(
                f'--published takes one of {", ".join(DATASETS)}, got {args.published!r}'
            )
        if args.table2:
            require('matplotlib')
        try:
            if args.grid:
                failed = search_grid(args, words, execute)
            else:
                failed = compare(args, words, archs, runs, execute)
        except Interrupted:
            print('Stopped; the same command continues from there', file=sys.stderr)
            raise
    if failed:
        print(counted(failed, 'run has', 'runs have'), 'failed', file=sys.stderr)
        raise SystemExit(1)


run = functools.partial(run_tool, main)  # the installed command
