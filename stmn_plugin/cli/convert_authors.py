"""Convert a checkpoint of the authors' released code.

The output has the same features: ``stmn_plugin.load_model`` and ``model.load_weights`` take
it. Items and the length of clips are read from its shapes, everything else from the config.
"""

import argparse
import functools
import json
import os
from collections.abc import Sequence

from stmn_plugin.config import load_config
from stmn_plugin.console import run_tool
from stmn_plugin.errors import exit_on_input_error, printable
from stmn_plugin.whole_files import check_writable, whole_file

from .command_line import CONFIG, CommandLine
from .export import SUFFIX

RELEASED = 'stmn_mars_released'


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = CommandLine(
        takes_keys=False,
        description=__doc__.split('\n', 1)[0],
        epilog='example: %(prog)s ckpt_best.pth stmn_released.safetensors',
    )
    parser.add_argument('checkpoint', metavar='CHECKPOINT', help="state dict of the authors' code")
    parser.add_argument(
        'output', metavar='OUTPUT', help=f'a checkpoint, or with {SUFFIX} a file of weights'
    )
    parser.add_config_flag(f'{CONFIG}; {RELEASED} by default', default=RELEASED)
    return parser.parse_args(argv)


def convert(checkpoint: str, output: str, config: str = RELEASED) -> dict[str, int]:
    """Write the weights of a checkpoint of theirs; return the settings read from its shapes.

    Raises:
        InputError: the checkpoint is missing, damaged or of another code, or not of the network
            that the config describes; ``output`` is the checkpoint, or cannot be written.
    """
    import torch

    from stmn_plugin.config.defaults import flatten
    from stmn_plugin.models.authors_weights import (
        converted,
        read_authors_weights,
        settings_in_authors_weights,
    )
    from stmn_plugin.models.building import ModelSpec, build_video_model
    from stmn_plugin.models.weight_files import write_safetensors

    checkpoint = os.path.expanduser(checkpoint)
    check_writable(output, checkpoint)
    tensors = read_authors_weights(checkpoint)
    found = settings_in_authors_weights(tensors)
    cfg = load_config(config, overrides={'model.name': 'stmn', **found})
    with torch.device('meta'):
        model = build_video_model(
            ModelSpec.from_config(flatten(cfg)), len(tensors['cls_t.weight']), pretrained=False
        )
    weights = converted(tensors, model, checkpoint)
    if output.endswith(SUFFIX):
        write_safetensors(output, weights, {'config': json.dumps(flatten(cfg))})
    else:
        with whole_file(output) as file:
            torch.save({'state_dict': weights, 'config': flatten(cfg)}, file)
    return found


def main(argv: Sequence[str] | None = None) -> None:
    args = parse_args(argv)
    with exit_on_input_error(args.debug):
        found = convert(args.checkpoint, args.output, args.config_file)
        sizes = ', '.join(f'{key} {value}' for key, value in found.items())
        print(f'Wrote {printable(args.output)}: {sizes}; config {args.config_file}')


run = functools.partial(run_tool, main)  # the installed command
