"""Write the weights of a checkpoint as a file of their own.

A checkpoint also holds what training needs to go on, with Adam twice the size of the weights. The
config of the run, its epoch and the facts of the model stand in the header of the file, as JSON.
"""

import argparse
import functools
import json
import os
from collections.abc import Sequence

from stmn_plugin.console import run_tool
from stmn_plugin.errors import InputError, exit_on_input_error, printable
from stmn_plugin.whole_files import check_writable

from .command_line import CommandLine

SUFFIX = '.safetensors'
BESIDE = ('config', 'epoch', 'facts', 'trained_on')  # what the header tells


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = CommandLine(
        takes_keys=False,
        description=__doc__.split('\n', 1)[0],
        epilog='example: %(prog)s --weights stmn.safetensors '
        'log/stmn_mars/model/model-best.pth.tar',
    )
    parser.add_argument(
        '--weights',
        nargs=2,
        required=True,
        metavar=('OUT' + SUFFIX, 'CHECKPOINT'),
        help='write the weights of a checkpoint in the safetensors format',
    )
    return parser.parse_args(argv)


def export_weights(path: str, checkpoint: str) -> int:
    """Write the weights of a checkpoint into ``path``; returns its size in bytes.

    Raises:
        InputError: ``path`` has another suffix, which may be a checkpoint, or cannot be written;
            the checkpoint is missing, damaged or none.
    """
    if not path.endswith(SUFFIX):
        raise InputError(f'--weights OUT{SUFFIX} CHECKPOINT: {path} does not end with {SUFFIX}')
    check_writable(path)
    from stmn_plugin import __version__
    from stmn_plugin.models.safetensors_file import write_safetensors
    from stmn_plugin.training.checkpoint import load_checkpoint

    content = load_checkpoint(checkpoint)
    beside = {name: json.dumps(content[name]) for name in BESIDE if name in content}
    return write_safetensors(path, content['state_dict'], {'stmn_plugin': __version__, **beside})


def main(argv: Sequence[str] | None = None) -> None:
    args = parse_args(argv)
    path, checkpoint = args.weights
    with exit_on_input_error(args.debug):
        size, before = export_weights(path, checkpoint), os.path.getsize(checkpoint)
        print(
            f'Wrote {printable(path)}, {size / 1e6:.1f} MB, {size / before:.0%} of '
            f'{printable(checkpoint)} ({before / 1e6:.1f} MB)'
        )


run = functools.partial(run_tool, main)  # the installed command
