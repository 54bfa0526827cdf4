"""Put features of the tracklets of a tree into an index.

Indexed tracklets are skipped unless they have changed: the command can be interrupted at any time,
and the same command continues where it stopped. Several such processes share the work.
"""

import argparse
import functools
import time
from collections.abc import Sequence
from pathlib import Path

from stmn_plugin.config.rules import Whole
from stmn_plugin.console import run_tool
from stmn_plugin.errors import exit_on_input_error, printable
from stmn_plugin.numerals import counted

from .command_line import CommandLine, value_of


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = CommandLine(
        takes_keys=False,
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog='example: %(prog)s log/stmn_mars/model/model-best.pth.tar people --index people.db',
    )
    parser.add_argument('checkpoint', metavar='CHECKPOINT', help='checkpoint of a video model')
    parser.add_argument(
        'tree', metavar='TREE', type=Path, help='tree of tracklets, made by tools/make_tracklets.py'
    )
    parser.add_argument(
        '--index',
        required=True,
        metavar='INDEX',
        help='SQLite file, created if it is missing, or postgresql://USER@HOST/DATABASE',
    )
    parser.add_argument(
        '--frames',
        choices=('rrs', 'all'),
        help='frames of a tracklet to encode (default: as the model was tested)',
    )
    parser.add_argument(
        '--device',
        choices=('cpu', 'cuda'),
        help='device to compute on (default: a GPU, if there is one)',
    )
    parser.add_argument('--amp', choices=('off', 'bf16', 'fp16'), default='off', help='precision')
    parser.add_argument(
        '--batch-size',
        type=value_of(Whole(1, 100_000)),
        default=32,
        metavar='N',
        help='clips in a batch (default: 32)',
    )
    parser.add_argument(
        '--workers',
        type=value_of(Whole(0, 1024)),
        default=0,
        metavar='N',
        help='processes that read crops (default: 0)',
    )
    parser.add_argument(
        '--skip-bad',
        action='store_true',
        help='leave out unreadable crops, and tracklets without a readable one',
    )
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    args = parse_args(argv)
    with exit_on_input_error(args.debug):
        from stmn_plugin.cameras.boxes import reasons
        from stmn_plugin.cameras.index.embedding import embed_rows, tree_rows
        from stmn_plugin.cameras.index.model_key import ModelKey
        from stmn_plugin.cameras.index.thresholds import keep_thresholds
        from stmn_plugin.cameras.index.tracklet_index import TrackletIndex
        from stmn_plugin.cameras.manifest import NAME as MANIFEST
        from stmn_plugin.device import usable_gpu
        from stmn_plugin.models.loading import load_model

        rows = tree_rows(args.tree)
        device = args.device or ('cuda' if usable_gpu(True) else 'cpu')
        model = load_model(args.checkpoint, device)
        key = ModelKey.of(model, **({'frames': args.frames} if args.frames else {}))
        embedder = key.embedder(
            model,
            device,
            amp=args.amp,
            batch_size=args.batch_size,
            workers=args.workers,
            skip_bad=args.skip_bad,
        )
        with TrackletIndex.open(args.index, key) as index:
            begin = time.perf_counter()
            added, changed, gone, left_out = embed_rows(index, embedder, rows)
            keep_thresholds(index, Path(args.checkpoint).expanduser().parent)
            seconds = time.perf_counter() - begin
            rate = f', {added / seconds:.1f} a second' if added else ''
            print(
                printable(
                    f'{index.name}: {counted(added, "tracklet")} added in {seconds:.1f} s{rate}; '
                    f'{len(index):,} in all'
                )
            )
            if changed:
                print(f'{changed:,} had changed since they were embedded: embedded again')
            if left_out:
                print(f'tracklets left out: {reasons(left_out)}')
            if gone:
                print(
                    printable(
                        f'{gone:,} in the index are no longer in {args.tree / MANIFEST}: '
                        'tools/index.py --delete removes them'
                    )
                )
        if embedder.bad_frames:
            print(
                printable(
                    f'left out {counted(len(embedder.bad_frames), "unreadable crop")}, first '
                    f'{embedder.bad_frames[0]}'
                )
            )


run = functools.partial(run_tool, main)  # the installed command
