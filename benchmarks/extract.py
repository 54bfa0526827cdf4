"""Measure frames per second of testing, and peak memory by the length of the longest tracklet.

    python benchmarks/extract.py             the reference path, each switch, all together
    python benchmarks/extract.py --memory    all-frames testing of up to 9,324 frames

The reference path is float32, contiguous, with batch norms, the straightforward spatial memory
and q^t pooled last. Candidates take turns on the same frames of 256x128; medians
are printed. With --memory each row is a separate process that tests one tracklet of F frames and
many of two, as in DukeMTMC-VideoReID: peak memory should not grow with F. The last rows grow the
batch instead.
"""

import argparse
import contextlib
import copy
import json
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import measuring
import profiling
import torch
from measuring import StraightforwardSpatialMemory
from tabulate import tabulate

from stmn_plugin.cli.command_line import FROM_ONE
from stmn_plugin.models import STMN, SpatialMemory, encoder
from stmn_plugin.training.speed import AMP_DTYPES, InferenceModel

SHORT_TRACKLETS = 64
SEQ_LEN = 6


@dataclass(frozen=True)
class Variant:
    straightforward: bool = True
    channels_last: bool = False
    fold: bool = False
    compile: bool = False
    amp: str = 'off'


OURS = {'straightforward': False, 'channels_last': True, 'fold': True}
REFERENCE = 'reference path'
FORMATS = {'seconds': '.3f', 'x reference': '.2f', 'least': '.2f', 'most': '.2f'}
FORMATS |= {'frames/s': '.1f', 'share of matrix rate': '.0%', 'largest difference': '.1e'}
VARIANTS = {
    REFERENCE: Variant(),
    '+ exact shortcuts of the memories': Variant(straightforward=False),
    '+ train.channels_last': Variant(channels_last=True),
    '+ test.fold_bn': Variant(fold=True),
    '+ test.amp bf16': Variant(amp='bf16'),
    'ours, default': Variant(**OURS),
    'ours, compiled': Variant(**OURS, compile=True),
    'ours, bf16': Variant(**OURS, amp='bf16'),
    'ours, bf16, compiled': Variant(**OURS, amp='bf16', compile=True),
}


def pool_last(query, block, maps):
    """Compute GAP(q^t) straightforwardly."""
    return encoder.global_average(encoder.query_block(query, block, maps))


@torch.no_grad()
def measure(args):
    device = 'cuda' if torch.cuda.is_available() else 'cpu'
    backbone, height, width = network = measuring.network_of(args)
    torch.manual_seed(0)
    config = STMN.Config(backbone=backbone)
    trained = STMN(625, SEQ_LEN, config, pretrained=False).eval().to(device)
    torch.nn.init.normal_(trained.spatial_memory.bn.weight)
    images = torch.randn(args.frames, 3, height, width, device=device)
    variants = measuring.chosen(VARIANTS, args, REFERENCE)
    models, candidates, outputs = {}, {}, {}
    for name, variant in variants.items():
        layout = variant.channels_last
        if layout not in models:
            format_ = torch.channels_last if layout else torch.contiguous_format
            models[layout] = copy.deepcopy(trained).to(memory_format=format_)
        tested = InferenceModel(
            models[layout], device, variant.amp, variant.fold or variant.compile, variant.compile
        )

        def run(name=name, variant=variant, tested=tested):
            tested.model.spatial_memory.__class__ = (
                StraightforwardSpatialMemory if variant.straightforward else SpatialMemory
            )
            late = mock.patch.object(encoder, 'pooled_query_block', pool_last)
            with late if variant.straightforward else contextlib.nullcontext():
                outputs[name] = tested.encode_frames(images)

        candidates[name] = run
    size = 256 if args.small else None
    print(measuring.machine_line(device, size))
    dtypes = {n: AMP_DTYPES[v.amp] or torch.float32 for n, v in variants.items()}
    rates = {d: measuring.matrix_rate(d, device, size) for d in {*dtypes.values(), torch.float32}}
    flop = measuring.gflop_per_frame(*network) * 1e9 * args.frames
    facts = {'frames': args.frames}
    if args.profile:
        for name in [n for n in variants if n != REFERENCE]:
            floor = flop / rates[dtypes[name]]
            print(f'{name}, {args.frames} frames:')
            facts |= {'benchmark': 'extract profile', 'testing': name}
            profiling.show(candidates[name], device, floor, args, **facts)
        return
    seconds = measuring.in_turns(candidates, args.repeats, 2, args.seconds)
    gains = measuring.speed_ups(seconds, REFERENCE)
    expected = outputs[REFERENCE]
    rows = []
    for name in variants:
        median = statistics.median(seconds[name])
        rows.append(
            {
                'testing': name,
                'seconds': median,
                'x reference': gains[name][0],
                'least': gains[name][1],
                'most': gains[name][2],
                'frames/s': args.frames / median,
                'share of matrix rate': flop / median / rates[dtypes[name]],
                'largest difference': float((outputs[name] - expected).abs().max()),
            }
        )
    measuring.show(rows, FORMATS, args, benchmark='extract', **facts)
    rounds = len(seconds[REFERENCE])
    print(f'{args.frames} frames; floor in float32 {flop / rates[torch.float32]:.3f} s; ', end='')
    print(f'medians of {rounds}; vectors are {expected.abs().max():.1f} at most')


def extract(num_frames, batch_size, folder):
    """Make frames, extract features and measure, in a separate process."""
    import numpy as np
    from PIL import Image

    from stmn_plugin.data.frame_samplers import ClipPlan
    from stmn_plugin.evaluation.embedder import Embedder

    torch.manual_seed(0)
    path = str(Path(folder) / 'frame.jpg')
    pixels = np.random.default_rng(0).integers(0, 256, (64, 32, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    tracklets = [((path,) * num_frames, 0, 0, 0)]
    tracklets += [((path,) * 2, i, 0, 0) for i in range(1, SHORT_TRACKLETS)]
    config = STMN.Config(backbone='resnet18')
    model = STMN(2, SEQ_LEN, config, pretrained=False).eval()
    plan = ClipPlan(SEQ_LEN, 'all')
    embedder = Embedder(model, plan, batch_size=batch_size, height=64, width=32, fold_bn=False)
    start = time.perf_counter()
    features = embedder(tracklets)
    seconds = time.perf_counter() - start
    assert len(features.features) == SHORT_TRACKLETS
    frames = num_frames + 2 * (SHORT_TRACKLETS - 1)
    print(
        json.dumps(
            {
                'frames': frames,
                'peak MiB': 1024 * measuring.peak_gib(),
                'frames/s': frames / seconds,
            }
        )
    )


def memory_row(num_frames, batch_size):
    with tempfile.TemporaryDirectory() as folder:
        words = [sys.executable, __file__, '--child', str(num_frames), str(batch_size), folder]
        done = subprocess.run(words, stdout=subprocess.PIPE, text=True, check=True)
    row = {'longest tracklet': num_frames, 'clips in a batch': batch_size}
    return {**row, **json.loads(done.stdout.splitlines()[-1])}


def main():
    on_gpu = torch.cuda.is_available()
    parser = measuring.parser_of(__doc__, 20 if on_gpu else 7)
    parser.add_argument('--frames', type=FROM_ONE, default=192 if on_gpu else 24)
    parser.add_argument(
        '--only', nargs='*', default=[], help='candidates to run, by a part of the name'
    )
    parser.add_argument(
        '--without', nargs='*', default=[], help='candidates to leave out, by a part of the name'
    )
    parser.add_argument('--memory', action='store_true')
    parser.add_argument('--child', nargs=3, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        extract(int(args.child[0]), int(args.child[1]), args.child[2])
    elif args.memory:
        rows = [memory_row(num_frames, 16) for num_frames in (100, 1000, 9324)]
        rows += [memory_row(1000, batch_size) for batch_size in (4, 64)]
        print(tabulate(rows, headers='keys', floatfmt='.0f'))
    else:
        measure(args)


if __name__ == '__main__':
    main()
