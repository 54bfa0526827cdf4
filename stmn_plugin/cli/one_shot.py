"""Learn in steps from one labelled tracklet an identity (EUG).

Each step trains a network on labelled and pseudo-labelled tracklets; see docs/one-shot.md.
"""

import functools
import sys
from argparse import Namespace
from collections.abc import Sequence

from stmn_plugin.config import load_config
from stmn_plugin.console import run_tool
from stmn_plugin.errors import exit_on_input_error

from .command_line import CONFIG, CommandLine

DEFAULT = 'one_shot_mars'


def parse_args(argv: Sequence[str] | None = None) -> Namespace:
    parser = CommandLine(
        description=__doc__.split('\n', 1)[0],
        epilog='example: %(prog)s --config one_shot_synthetic one_shot.factor 25. '
        'Interrupt it at any time: the same command continues where it stopped.',
    )
    parser.add_config_flag(f'{CONFIG} ({DEFAULT})', default=DEFAULT)
    parser.add_key_flag(
        'model.name', '-a', '--arch', metavar='NAME', help='model.name: the network of each step'
    )
    parser.add_key_flags('data.root', 'data.sources', 'data.targets', 'data.transforms')
    parser.add_argument('--dry-run', action='store_true', help='print the plan and stop')
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    args = parse_args(argv)
    with exit_on_input_error(args.debug):
        from stmn_plugin.interrupt import Interrupted

        cfg = load_config(args.config_file, args.opts)
        from stmn_plugin.host.one_shot import plan_one_shot, run_one_shot  # after the config

        try:
            if args.dry_run:
                plan_one_shot(cfg)
            else:
                run_one_shot(cfg)
        except Interrupted:
            print('Stopped; the same command continues from there', file=sys.stderr)
            raise


run = functools.partial(run_tool, main)  # the installed command
