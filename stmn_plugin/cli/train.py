"""Train and evaluate a video (or image) person re-ID model.

The flags are those of torchreid's own scripts/main.py, and -a, --list-archs and --debug.
"""

import functools
import os
import shlex
from argparse import Namespace
from collections.abc import Sequence

from yacs.config import CfgNode

from stmn_plugin.config import load_config
from stmn_plugin.console import run_tool
from stmn_plugin.errors import exit_on_input_error, printable

from .command_line import CONFIG, IMPORT, CommandLine, invocation_of


def parse_args(argv: Sequence[str] | None = None) -> Namespace:
    parser = CommandLine(
        description=__doc__.split('\n', 1)[0],
        epilog='example: %(prog)s --config stmn_synthetic '
        '-a resnet18 data.save_dir log/resnet18 train.max_epoch 4',
    )
    parser.add_config_flag(CONFIG)
    parser.add_key_flag(
        'model.name',
        '-a',
        '--arch',
        metavar='NAME',
        help='model.name: stmn, or another of --list-archs',
    )
    parser.add_key_flags('data.root', 'data.sources', 'data.targets', 'data.transforms')
    parser.add_argument('--list-archs', action='store_true', help='list the architectures and stop')
    parser.add_argument(
        '--video',
        action='store_true',
        help='with --list-archs: video models only, each with a description',
    )
    parser.goes_with(['--video'], '--list-archs')
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    args = parse_args(argv)
    if args.list_archs and args.video:
        print_video_models()
        return
    if args.list_archs:
        from stmn_plugin.host.registration import model_registry, register

        register()
        print('\n'.join(sorted(model_registry())))
        return
    with exit_on_input_error(args.debug):
        cfg = load_config(args.config_file, args.opts)
        from stmn_plugin.host.runner import run  # slow, so after the config: a typo is told at once

        run(cfg, next_command(args, cfg))


def print_video_models() -> None:
    """Print a line per registered video model: its name, and the first line of its docstring."""
    from stmn_plugin.models import VIDEO_MODELS
    from stmn_plugin.plugins import load_plugins

    load_plugins()
    width = max(map(len, VIDEO_MODELS))
    for name, model in sorted(VIDEO_MODELS.items()):
        line = (model.__doc__ or '').strip().partition('\n')[0]
        print(f'{name:{width}}  {line}'.rstrip())


def next_command(args: Namespace, cfg: CfgNode) -> str:
    """Return the command for the page of the run or tested weights; '' if there can be none."""
    words = [word for file in args.imports or () for word in (IMPORT, file)]
    folder = cfg.data.save_dir
    if cfg.data.type != 'video':
        return ''
    if not cfg.test.evaluate or os.path.exists(os.path.join(folder, 'config.yaml')):
        words += ['--run', folder]
    elif cfg.model.load_weights:
        words += ['--config', args.config_file] if args.config_file else []
        words += args.opts
    else:
        return ''
    return printable(f'{invocation_of("report")} {shlex.join(words)}')


run = functools.partial(run_tool, main)  # the installed command
