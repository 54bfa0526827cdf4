"""Train three models on drawn persons, and compare them.

STMN, the paper's baseline and an image model of torchreid, on equal terms. A second call
resumes what was stopped, or shows the results.
"""

import contextlib
import functools
import os
import shlex
import shutil
import sys
from argparse import Namespace
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from stmn_plugin.config import load_config
from stmn_plugin.config.kwargs import synthetic_kwargs
from stmn_plugin.config.shipped import config_path
from stmn_plugin.console import run_tool
from stmn_plugin.datasets.synthetic import ensure_preset
from stmn_plugin.errors import exit_on_input_error, printable
from stmn_plugin.extras import require

from .command_line import CommandLine, invocation_of, refuse_words
from .compare import child

if TYPE_CHECKING:
    from stmn_plugin.comparing.run_queue import Execute, Outcome

CONFIG = 'demo'
IMAGE_MODEL = 'resnet18'
WHAT = f'STMN, its baseline and {IMAGE_MODEL} of torchreid learn to recognise drawn persons'
COST = 'about 4 minutes on two CPU cores without a GPU, 0.7 GB of disk'  # docs/measured.md
QUERIES = '24'  # on the page


def parse_args(argv: Sequence[str] | None = None) -> Namespace:
    parser = CommandLine(
        needs_words=False,
        description=f'{WHAT}: {COST}. A second call resumes, or shows the results.',
        epilog='Results go to data.save_dir (log/demo), the persons are drawn into data.root.',
    )
    return parser.parse_args(argv)


def run_demo(cfg: Any, words: Sequence[str], execute: 'Execute') -> 'list[Outcome]':
    """Draw, train and test what is missing; print and write the table.

    Args:
        cfg: CfgNode, the config with the words.
        words: KEY VALUE words on top of it.
        execute: runs a training to its end.

    Returns:
        Outcomes of STMN, its baseline and the image model.
    """
    print(f'{WHAT}:\n{COST}. Ctrl-C stops it.\nLoading PyTorch', flush=True)
    from stmn_plugin.comparing import result_tables
    from stmn_plugin.comparing.run_plan import TRAINING, plan_runs
    from stmn_plugin.comparing.run_queue import complete_runs
    from stmn_plugin.comparing.table2 import stmn_and_baseline
    from stmn_plugin.comparing.variants import Variant
    from stmn_plugin.device import device_line
    from stmn_plugin.interrupt import Interrupted

    refuse_words(words, dict.fromkeys(['model.resume', *TRAINING], 'the demo'))
    print(device_line(cfg.use_gpu))
    folder = cfg.data.save_dir
    image_model = Variant(f'torchreid {IMAGE_MODEL}', IMAGE_MODEL, {'model.name': IMAGE_MODEL})
    planned = plan_runs([*stmn_and_baseline(), image_model], 1, config_path(CONFIG), words, folder)
    if 'synthetic' in {*cfg.data.sources, *cfg.data.targets}:
        ensure_preset(cfg.data.root, **synthetic_kwargs(cfg))
    try:
        outcomes = list(complete_runs(planned, execute, strategies=()))
    except Interrupted:
        print('Stopped; the same command continues from there', file=sys.stderr)
        raise
    rows = result_tables.rows_of(outcomes)
    try:
        written = result_tables.write_comparison(rows, folder, CONFIG)
    finally:
        print(f'\n{result_tables.as_text(rows)}\n')
    print('The table with all columns:', *map(printable, written))
    return outcomes


def page_of(folder: str) -> str:
    """Write the page of a run unless it is up to date; return its path."""
    from stmn_plugin.training.metric_files import METRICS

    from . import report

    page, results = os.path.join(folder, 'report.html'), os.path.join(folder, METRICS)
    if not os.path.exists(page) or os.path.getmtime(page) < os.path.getmtime(results):
        report.make_report(report.parse_args(['--run', folder, '--max-queries', QUERIES]))
    return page


def next_commands(folder: str) -> list[str]:
    """Return commands to try after the demo, with the run of STMN."""
    words = [
        ('visualize', ['--run', folder]),
        ('train', ['--config', 'stmn_synthetic']),
        ('train', ['--config', 'stmn_mars', 'data.root', 'FOLDER_WITH_MARS']),
    ]
    return [f'{invocation_of(name)} {shlex.join(own)}' for name, own in words]


def next_line() -> str:
    """Return the line above the next commands: how to activate the environment if it is not."""
    python = shutil.which('python')
    is_active = python and os.path.dirname(python) == os.path.dirname(sys.executable)
    if is_active or sys.prefix == sys.base_prefix:
        return 'Next:'
    script = os.path.join(os.path.dirname(sys.executable), 'activate')
    with contextlib.suppress(ValueError):  # of Windows, where it may be on another drive
        script = min(script, os.path.relpath(script), key=len)
    script = printable(script if os.name == 'nt' else f'source {shlex.quote(script)}')
    return f'Next, after {script}:'


def main(argv: Sequence[str] | None = None, execute: 'Execute' = child) -> None:
    args = parse_args(argv)
    with exit_on_input_error(args.debug):
        require('jinja2', 'matplotlib')
        cfg = load_config(config_path(CONFIG), args.opts)
        outcomes = run_demo(cfg, args.opts, execute)
        if failed := [outcome for outcome in outcomes if outcome.error]:
            print(f'{len(failed)} of {len(outcomes)} runs have failed', file=sys.stderr)
            raise SystemExit(1)
        folder = outcomes[0].folder
        print('The page of STMN:', printable(page_of(folder)))
        print(next_line(), *map(printable, next_commands(folder)), sep='\n  ')


run = functools.partial(run_tool, main)  # the installed command
