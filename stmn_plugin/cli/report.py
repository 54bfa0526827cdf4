"""Write one HTML page of a run: results, curves, its queries.

It also has the items of the memories. Any browser opens it, without network or server.
"""

import functools
import os
from argparse import Namespace
from collections.abc import Sequence
from dataclasses import fields
from typing import TYPE_CHECKING, Any

import yaml

from stmn_plugin.console import run_tool
from stmn_plugin.errors import InputError, exit_on_input_error, printable, resource_errors
from stmn_plugin.extras import require
from stmn_plugin.numerals import file_size

from .command_line import CONFIG, FROM_ONE, CommandLine

if TYPE_CHECKING:
    from stmn_plugin.looking.report.html_file import WrittenPage

HEIGHT = 96  # pixels of a frame on the page


def parse_args(argv: Sequence[str] | None = None) -> Namespace:
    parser = CommandLine(
        description=__doc__.split('\n', 1)[0],
        epilog='example: %(prog)s --run log/stmn_mars --max-queries 200 '
        'data.root /data test.frames all',
    )
    parser.add_argument(
        '--run', metavar='FOLDER', help='folder of a training run (its data.save_dir)'
    )
    parser.add_config_flag('instead of --run: ' + CONFIG + ', with model.load_weights FILE')
    parser.add_key_flags('data.root')
    parser.add_argument(
        '--output', metavar='FILE', help='file to write (default: report.html in the run folder)'
    )
    parser.add_argument(
        '--top-k', type=FROM_ONE, default=10, metavar='K', help='tracklets to show for a query'
    )
    parser.add_argument(
        '--max-queries',
        type=FROM_ONE,
        metavar='N',
        help='show N queries of a dataset, evenly spread; scores are those of all',
    )
    where = parser.add_mutually_exclusive_group()
    where.add_argument(
        '--embed', action='store_const', const=True, help='keep all pictures inside the page'
    )
    where.add_argument(
        '--folder',
        action='store_const',
        const=False,
        dest='embed',
        help='write the pictures into a folder next to the page',
    )
    return parser.parse_args(argv)


def read_config(args: Namespace) -> tuple[Any, str]:
    """Return the config of the run, and its folder."""
    from stmn_plugin.looking.opened_run import config_of_file, config_of_run

    if bool(args.run) == bool(args.config_file):
        raise InputError('give either --run FOLDER or --config-file FILE')
    if args.run:
        return config_of_run(args.run, args.opts), args.run
    cfg = config_of_file(args.config_file, args.opts)
    if not cfg.model.load_weights:
        raise InputError('model.load_weights: name the checkpoint that the page is to show')
    return cfg, cfg.data.save_dir


def make_report(args: Namespace) -> 'WrittenPage':
    """Write the page; return its path, folder of pictures and size."""
    cfg, folder = read_config(args)
    from stmn_plugin.config.kwargs import run_kwargs
    from stmn_plugin.evaluation.settings import TestOptions
    from stmn_plugin.looking import report
    from stmn_plugin.looking.figure_parts import BEST, CHOSEN
    from stmn_plugin.looking.hidden_folders import without_folders
    from stmn_plugin.looking.opened_run import open_run
    from stmn_plugin.looking.report.film_strips import StripSize, film_strips
    from stmn_plugin.looking.report.page import training_panels
    from stmn_plugin.training.metric_files import read_epoch_lines, read_evaluations

    given = run_kwargs(cfg)
    options = TestOptions(**{field.name: given[field.name] for field in fields(TestOptions)})
    size = StripSize.like(cfg.data.height, cfg.data.width, cfg.video.seq_len, HEIGHT)
    evaluations, lines = read_evaluations(folder), read_epoch_lines(folder)
    run = open_run(cfg)
    with resource_errors('test.batch_size'):
        browser = report.rank_for_page(run, options, cfg.data.root, args.top_k, args.max_queries)
    strips = film_strips(browser.clips, size, run.embedder.skip_bad)
    weights = cfg.model.load_weights
    chosen = {'how_they_were_chosen': CHOSEN} if BEST in os.path.basename(weights) else {}
    overview = report.Overview(
        title=os.path.basename(os.path.abspath(folder)),
        facts={**run.facts, 'weights': without_folders(weights), **chosen},
        evaluations=evaluations,
        panels=training_panels(lines),
        config=yaml.safe_dump(without_folders(yaml.safe_load(cfg.dump()))),
    )
    path = args.output or os.path.join(folder, 'report.html')
    return report.write_report(path, overview, browser, strips, size, args.embed)


def main(argv: Sequence[str] | None = None) -> None:
    args = parse_args(argv)
    with exit_on_input_error(args.debug):
        require('jinja2', 'matplotlib')
        written = make_report(args)
        where = f'in {printable(written.folder)}' if written.folder else 'inside'
        print(f'Wrote {printable(written.path)}, {file_size(written.size)}, its pictures {where}')


run = functools.partial(run_tool, main)  # the installed command
