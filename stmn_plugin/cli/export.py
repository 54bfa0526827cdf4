"""Write a model as ONNX, torch or OpenVINO, or its weights alone.

With --format the network itself is written, with batch norms folded, and compared with the model;
manifest.json says how frames are prepared and chosen. --weights writes the weights without the
optimizer; the header holds the config of the run, its epoch and the facts of the model.
"""

import argparse
import functools
import json
import os
from collections.abc import Sequence
from pathlib import Path

from stmn_plugin.console import run_tool
from stmn_plugin.errors import InputError, exit_on_input_error, printable
from stmn_plugin.extras import require
from stmn_plugin.numerals import file_size
from stmn_plugin.whole_files import check_writable

from .command_line import CommandLine

SUFFIX = '.safetensors'
PACKAGES = {  # that a format needs
    'onnx': ('onnx', 'onnxscript', 'onnxruntime'),
    'torch': (),
    'openvino': ('onnx', 'onnxscript', 'openvino'),
    'hub': (),
}
METADATA_KEYS = ('config', 'epoch', 'facts', 'trained_on', 'chosen_by')  # in the header


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = CommandLine(
        takes_keys=False,
        description=__doc__.split('\n', 1)[0],
        epilog='example: %(prog)s log/stmn_mars/model/model-best.pth.tar '
        '--format onnx --output stmn_onnx',
    )
    parser.add_argument(
        'checkpoint', nargs='?', metavar='CHECKPOINT', help='checkpoint to export with --format'
    )
    parser.add_argument(
        '--format',
        choices=tuple(PACKAGES),
        help='kind of the files; hub: weights with a model card',
    )
    parser.add_argument('--output', type=Path, metavar='FOLDER', help='new folder for the files')
    parser.add_argument(
        '--weights',
        nargs=2,
        metavar=('OUT' + SUFFIX, 'CHECKPOINT'),
        help='write the weights of a checkpoint in the safetensors format',
    )
    parser.add_argument(
        '--int8',
        type=Path,
        metavar='FRAMES',
        help='with --format onnx: quantise too, calibrated with the crops of this folder',
    )
    parser.add_argument(
        '--labelled',
        default='',
        metavar='ROOT',
        help='with --int8: tree of own tracklets to measure mAP on',
    )
    parser.add_argument('--terms', default='', help='with --format hub: terms of use, for the card')
    parser.add_argument(
        '--push',
        metavar='OWNER/NAME',
        help='with --format hub: upload to this repository of the hub',
    )
    parser.add_argument('--public', action='store_true', help='with --push: make it public')
    parser.goes_with(['--terms', '--push'], '--format hub')
    parser.goes_with(['--public'], '--push')
    parser.goes_with(['--int8'], '--format onnx')
    parser.goes_with(['--labelled'], '--int8')
    parser.goes_without('--weights', ['--format', '--output'])
    args = parser.parse_args(argv)
    network = [args.checkpoint, args.format, args.output]
    if args.weights is None and None in network:
        parser.error('give CHECKPOINT --format FORMAT --output FOLDER, or --weights')
    if args.weights is not None and args.checkpoint is not None:
        parser.error('--weights OUT CHECKPOINT: another CHECKPOINT is one too many')
    return args


def export_weights(path: str, checkpoint: str) -> int:
    """Write the weights of a checkpoint into ``path``; return its size in bytes.

    Raises:
        InputError: ``path`` has another suffix, which may be a checkpoint, or cannot be written;
            the checkpoint is missing, damaged or none.
    """
    if not path.endswith(SUFFIX):
        raise InputError(f'--weights OUT{SUFFIX} CHECKPOINT: {path} does not end with {SUFFIX}')
    check_writable(path)
    from stmn_plugin import __version__
    from stmn_plugin.models.weight_files import write_safetensors
    from stmn_plugin.training.checkpoint import load_checkpoint

    content = load_checkpoint(checkpoint)
    metadata = {name: json.dumps(content[name]) for name in METADATA_KEYS if name in content}
    return write_safetensors(path, content['state_dict'], {'stmn_plugin': __version__, **metadata})


def export_network(args: argparse.Namespace) -> None:
    """Write the network of a checkpoint; print its inputs and the difference from the model.

    Raises:
        InputError: see ``load_model`` and ``export_model``; a package is missing.
    """
    require(*PACKAGES[args.format])
    if args.format == 'hub':
        share(args)
        return
    from stmn_plugin.cameras.exporting import export_model
    from stmn_plugin.models.loading import load_model

    model = load_model(args.checkpoint)
    manifest = export_model(model, args.format, args.output, args.int8, args.labelled)
    for part in manifest['parts']:
        shape = ', '.join('any' if size is None else str(size) for size in part['input']['shape'])
        print(
            f'Wrote {printable(args.output / part["file"])}: {part["input"]["name"]} ({shape}) → '
            f'{part["output"]["name"]} ({part["output"]["size"]}), differs from the model by '
            f'{part["largest_difference"]:.0e}'
        )
        if 'int8' in part:
            cost = part['int8']
            print(
                f'In int8: cosine to float32 {cost["mean_cosine"]:.4f} in the mean, at least '
                f'{cost["least_cosine"]:.4f}, of {cost["outputs"]} {part["output"]["name"]}'
            )
    if 'mAP' in manifest:
        before, after = manifest['mAP']['model'], manifest['mAP']['int8']
        print(f'mAP {before:.1%}, in int8 {after:.1%} ({100 * (after - before):+.1f} points)')


def share(args: argparse.Namespace) -> None:
    """Write the folder of a hub repository and, with --push, upload it.

    Raises:
        InputError: see ``save_pretrained`` and ``push_to_hub``.
    """
    if args.push:
        require('huggingface_hub')
    from stmn_plugin.cameras.hub import push_to_hub, save_pretrained
    from stmn_plugin.training.metric_files import METRICS

    measured = save_pretrained(args.checkpoint, args.output, args.terms)
    print(f'Wrote {printable(args.output)}; evaluations in its card: {len(measured)}')
    if not measured:
        print(f'No {METRICS} next to the checkpoint has an evaluation of these weights.')
    if args.push:
        print(f'Pushed to {printable(push_to_hub(args.output, args.push, args.public))}')


def main(argv: Sequence[str] | None = None) -> None:
    args = parse_args(argv)
    if args.weights is None:
        with exit_on_input_error(args.debug):
            export_network(args)
        return
    path, checkpoint = args.weights
    with exit_on_input_error(args.debug):
        size, before = export_weights(path, checkpoint), os.path.getsize(checkpoint)
        print(
            f'Wrote {printable(path)}, {file_size(size)}, {size / before:.0%} of '
            f'{printable(checkpoint)} ({file_size(before)})'
        )


run = functools.partial(run_tool, main)  # the installed command
