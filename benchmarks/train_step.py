"""Time a training step: the reference path, each switch alone, all together.

    python benchmarks/train_step.py             4 clips of 6 frames on a CPU, 32 on a GPU
    python benchmarks/train_step.py --memory    memory and time of checkpointed steps

The reference path is float32, contiguous, with the straightforward spatial memory,
torch's unfused Adam, and torchreid's reader and transforms in the workers. A step is the wait for
the next batch, its way to the device, forward, losses, backward and optimizer. Candidates take
turns on the same frames; medians are printed. The floor is three times the FLOPs of a forward at
the rate of a large matrix product, measured in the same run.
"""

import argparse
import functools
import json
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass

import measuring
import profiling
import torch
from measuring import PARTS, StraightforwardSpatialMemory
from reading import host_dataset
from tabulate import tabulate
from torch.utils.data import DataLoader

from stmn_plugin.cli.command_line import FROM_ONE, value_of
from stmn_plugin.config import RANGES
from stmn_plugin.models import SpatialMemory
from stmn_plugin.training.speed import AMP_DTYPES, same_shapes, tf32
from stmn_plugin.training.step import Precision

SEQ_LEN = 6


@dataclass(frozen=True)
class Variant:
    """Differences from our default path; the first is the reference."""

    straightforward: bool = False
    host_loader: bool = False
    channels_last: bool = True
    fused: bool = True
    compile: bool = False
    amp: str = 'off'
    tf32: bool = False
    checkpoint: bool = False


SLOW = {'straightforward': True, 'host_loader': True, 'channels_last': False, 'fused': False}
REFERENCE = 'reference path'
FORMATS = {'seconds': '.3f', 'x reference': '.2f', 'least': '.2f', 'most': '.2f'}
FORMATS |= {'frames/s': '.1f', 'share of matrix rate': '.0%', 'waiting for data': '.1%'}
VARIANTS = {
    REFERENCE: Variant(**SLOW),
    '+ exact shortcut of the spatial memory': Variant(**{**SLOW, 'straightforward': False}),
    '+ our reader, bytes to the device': Variant(**{**SLOW, 'host_loader': False}),
    '+ train.channels_last': Variant(**{**SLOW, 'channels_last': True}),
    '+ train.fused': Variant(**{**SLOW, 'fused': True}),
    '+ train.compile': Variant(**SLOW, compile=True),
    '+ train.amp bf16': Variant(**SLOW, amp='bf16'),
    '+ train.tf32': Variant(**SLOW, tf32=True),
    '+ train.checkpoint_activations': Variant(**SLOW, checkpoint=True),
    'ours, default': Variant(),
    'ours, compiled': Variant(compile=True),
    'ours, checkpoint_activations': Variant(checkpoint=True),
    'ours, tf32': Variant(tf32=True),
    'ours, bf16': Variant(amp='bf16'),
    'ours, fp16': Variant(amp='fp16'),
    'ours, bf16, compiled': Variant(amp='bf16', compile=True),
}


class Steps:
    """Run steps of any variant on shared loaders; variants share weights where they can."""

    def __init__(self, root, clips, workers, separate=None, network=('resnet50', 256, 128)):
        """``separate``: the only variant of this process, set up as in a run."""
        self.root, self.clips, self.workers, self.separate = root, clips, workers, bool(separate)
        self.network = network
        self.engines = {}
        self.waited, self.total = {}, {}  # name → seconds in the rounds so far
        plain = self.engine(separate or Variant())
        ours = plain.train_loader
        self.device = 'cuda' if plain.use_gpu else 'cpu'
        host = DataLoader(
            host_dataset(
                [tracklet[:4] for tracklet in ours.dataset.tracklets], SEQ_LEN, network[1:]
            ),
            batch_sampler=[[request.index for request in batch] for batch in ours.batch_sampler],
            num_workers=workers,
            persistent_workers=workers > 0,
            pin_memory=plain.use_gpu,
        )
        self.batches = {False: measuring.endless(ours), True: measuring.endless(host)}

    def engine(self, variant):
        # a network compiled for one precision is not used for another
        key = (variant.channels_last, variant.fused, variant.compile, variant.compile * variant.amp)
        if key not in self.engines:
            names = ('train.channels_last', 'train.fused', 'train.compile')
            words = [word for pair in zip(names, key, strict=False) for word in pair]
            words += ['train.batch_size', self.clips, 'sampler.num_instances', 2]
            words += ['data.workers', self.workers]
            words += ['train.checkpoint_activations', variant.checkpoint and self.separate]
            engine = measuring.make_engine(self.root, *words, network=self.network)
            engine.trainer.num_batches = 1 << 30
            engine.set_model_mode('train')
            self.engines[key] = engine
        return self.engines[key]

    def run(self, name, variant):
        engine = self.engine(variant)
        model = engine.model
        model.spatial_memory.__class__ = (
            StraightforwardSpatialMemory if variant.straightforward else SpatialMemory
        )
        model.encoder.checkpoint_activations = variant.checkpoint
        if engine.trainer.precision.amp != variant.amp:
            engine.trainer.precision = Precision(self.device, variant.amp)
        start = time.perf_counter()
        batch = next(self.batches[variant.host_loader])
        self.waited[name] = self.waited.get(name, 0) + time.perf_counter() - start
        with tf32(variant.tf32), same_shapes():
            engine.forward_backward(batch)
            measuring.synchronize()
        self.total[name] = self.total.get(name, 0) + time.perf_counter() - start


def of_this_machine(name, device):
    """Return whether a variant runs here: TF32 and fp16 need a GPU."""
    return device == 'cuda' or not ('tf32' in name or 'fp16' in name)


def measure(args, root):
    network = measuring.network_of(args)
    steps = Steps(root, args.clips, args.workers, network=network)
    size = 256 if args.small else None
    print(measuring.machine_line(steps.device, size))
    frames, gflop = args.clips * SEQ_LEN, measuring.gflop_per_frame(*network)
    print(f'{frames} frames of {network[1]}x{network[2]} a step, {args.workers} workers; ', end='')
    print(f'GFLOP a frame, forward: STMN with {network[0]} {gflop:.2f}', end='')
    print('' if args.small else ''.join(f'; {name} {part}' for name, part in PARTS))
    variants = measuring.chosen(VARIANTS, args, REFERENCE)
    variants = {n: v for n, v in variants.items() if of_this_machine(n, steps.device)}
    candidates = {n: (lambda n=n, v=v: steps.run(n, v)) for n, v in variants.items()}
    rates = {}  # of each precision
    for variant in variants.values():
        dtype = AMP_DTYPES[variant.amp] or torch.float32
        with tf32(variant.tf32):
            if (dtype, variant.tf32) not in rates:
                rates[dtype, variant.tf32] = measuring.matrix_rate(dtype, steps.device, size)
    rate = {n: rates[AMP_DTYPES[v.amp] or torch.float32, v.tf32] for n, v in variants.items()}
    flop = 3e9 * gflop * frames
    facts = {'frames': frames, 'workers': args.workers}
    if args.profile:
        for name in [n for n in variants if n != REFERENCE]:
            print(f'{name}, {frames} frames:')
            facts |= {'benchmark': 'train_step profile', 'step': name}
            profiling.show(candidates[name], steps.device, flop / rate[name], args, **facts)
        return
    measuring.in_turns(candidates, 0, warm_up=1)
    steps.waited.clear()
    steps.total.clear()
    seconds = measuring.in_turns(candidates, args.repeats, 0, args.seconds)
    gains = measuring.speed_ups(seconds, REFERENCE)
    rows = []
    for name in variants:
        median = statistics.median(seconds[name])
        rows.append(
            {
                'step': name,
                'seconds': median,
                'x reference': gains[name][0],
                'least': gains[name][1],
                'most': gains[name][2],
                'frames/s': frames / median,
                'share of matrix rate': flop / median / rate[name],
                'waiting for data': steps.waited[name] / steps.total[name],
            }
        )
    measuring.show(rows, FORMATS, args, benchmark='train_step', **facts)
    rounds = len(seconds[REFERENCE])
    print(f'floor in float32: {flop / rate[REFERENCE]:.3f} s a step; medians of {rounds}')


def peak(args, root, name):
    """Measure the peak memory of a few steps in a separate process."""
    steps = Steps(root, args.clips, args.workers, separate=VARIANTS[name])
    before = measuring.peak_gib(steps.device)
    measuring.reset_peak(steps.device)
    run = functools.partial(steps.run, name, VARIANTS[name])
    seconds = measuring.in_turns({name: run}, 4)[name]
    after = measuring.peak_gib(steps.device)
    print(json.dumps({'seconds': seconds, 'peak GiB': after, 'before GiB': before}))


def memory_rows(args, root, rounds=2):
    """Measure memory and time of plain and checkpointed steps; processes take turns."""
    names = (REFERENCE, 'ours, default', 'ours, checkpoint_activations')
    found = {name: [] for name in names}
    for _ in range(rounds):
        for name in names:
            words = ['--clips', str(args.clips), '--workers', '0', '--child', root, name]
            done = subprocess.run(
                [sys.executable, __file__, *words], stdout=subprocess.PIPE, text=True, check=True
            )
            found[name].append(json.loads(done.stdout.splitlines()[-1]))
    rows = []
    for name in names:
        row = {'step': name}
        row['peak GiB'] = max(one['peak GiB'] for one in found[name])
        row['before GiB'] = max(one['before GiB'] for one in found[name])
        row['seconds'] = statistics.median(s for one in found[name] for s in one['seconds'])
        rows.append(row)
    for row in rows:
        for key in ('peak GiB', 'seconds'):
            row[f'{key} x reference'] = row[key] / rows[0][key]
    return rows


def main():
    on_gpu = torch.cuda.is_available()
    parser = measuring.parser_of(__doc__, 20 if on_gpu else 5)
    parser.add_argument('--clips', type=FROM_ONE, default=32 if on_gpu else 4)
    workers = value_of(RANGES['data.workers'])
    parser.add_argument('--workers', type=workers, default=16 if on_gpu else 1)
    parser.add_argument(
        '--only', nargs='*', default=[], help='candidates to run, by a part of the name'
    )
    parser.add_argument(
        '--without', nargs='*', default=[], help='candidates to leave out, by a part of the name'
    )
    parser.add_argument('--memory', action='store_true')
    parser.add_argument('--child', nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        peak(args, *args.child)
        return
    with tempfile.TemporaryDirectory() as root:
        measuring.make_data(root, num_ids=2 * args.clips, num_frames=12)
        if not args.memory:
            measure(args, root)
            return
        rows = memory_rows(args, root)
        print(tabulate(rows, headers='keys', floatfmt='.2f'))


if __name__ == '__main__':
    main()
