"""Shared parts of benchmarks: candidates that take turns, rates of the machine, the slow path."""

import argparse
import contextlib
import io
import json
import os
import statistics
import time

import torch
import torch.nn.functional as F
from reading import make_tracklets
from tabulate import tabulate
from torch.utils.flop_counter import FlopCounterMode

from stmn_plugin.cli.command_line import FROM_ONE
from stmn_plugin.config import load_config
from stmn_plugin.host.runner import prepare
from stmn_plugin.models import STMN, SpatialMemory
from stmn_plugin.models.stmn.memory import SpatialMemoryOutput

PARTS = (  # of the 15.83 GFLOP of a frame, forward, with ResNet-50 at 256x128
    ('plain ResNet-50 with stride 1 in conv5', 8.11),
    ('of that up to conv4', 4.28),
    ('of that, and of each further head', 3.83),
)


def parser_of(doc, repeats):
    """Return a parser with the flags of every benchmark."""
    parser = argparse.ArgumentParser(
        description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--repeats', type=FROM_ONE, default=repeats)
    parser.add_argument('--seconds', type=float, default=1e9, help='start no round after this many')
    parser.add_argument('--json', metavar='FILE', help='append the rows, one JSON line each')
    parser.add_argument(
        '--profile', action='store_true', help='print the time of a step by kind of work'
    )
    parser.add_argument(
        '--small', action='store_true', help='ResNet-18 on 64x32, to try the command'
    )
    return parser


def network_of(args):
    """Return backbone, height and width."""
    return ('resnet18', 64, 32) if args.small else ('resnet50', 256, 128)


def chosen(variants, args, reference):
    """Return the variants that ``--only`` and ``--without`` leave, always with the reference."""
    return {
        name: variant
        for name, variant in variants.items()
        if name == reference
        or (not args.only or any(word in name for word in args.only))
        and not any(word in name for word in args.without)
    }


def gflop_per_frame(backbone='resnet50', height=256, width=128):
    """Return the FLOPs of a forward of STMN in training; a multiply-add counts as two."""
    with torch.device('meta'):
        model = STMN(2, 2, STMN.Config(backbone=backbone), pretrained=False).train()
        clips = torch.zeros(2, 2, 3, height, width)
    with FlopCounterMode(display=False) as counter:
        model(clips)
    return counter.get_total_flops() / 4e9


def show(rows, formats, args, **facts):
    """Print rows as a table, and append them unformatted to ``args.json``.

    Args:
        rows (list): dictionaries.
        formats (dict): column → format of its values, as in ``format``.
        args: of :func:`parser_of`.
        **facts: facts of all rows, for the file.
    """
    texts = [{k: format(v, formats.get(k, '')) for k, v in row.items()} for row in rows]
    print(tabulate(texts, headers='keys', disable_numparse=True))
    if args.json:
        with open(args.json, 'a', encoding='utf-8') as file:
            file.writelines(json.dumps({**facts, **row}) + '\n' for row in rows)


def reset_peak(device='cpu'):
    """Reset :func:`peak_gib`."""
    if device == 'cuda':
        torch.cuda.reset_peak_memory_stats()
    with open('/proc/self/clear_refs', 'w', encoding='ascii') as file:
        file.write('5')


def peak_gib(device='cpu'):
    """Return the peak memory since :func:`reset_peak`: GPU, or resident set of the process."""
    if device == 'cuda':
        return torch.cuda.max_memory_allocated() / 2**30
    with open('/proc/self/status', encoding='ascii') as file:
        return next(int(x.split()[1]) for x in file if x.startswith('VmHWM')) / 2**20


def synchronize():
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def seconds_of(function):
    synchronize()
    start = time.perf_counter()
    function()
    synchronize()
    return time.perf_counter() - start


def in_turns(candidates, repeats, warm_up=1, limit=1e9):
    """Time every candidate once per round, so that a busy machine slows all equally.

    Args:
        candidates (dict): name → callable.
        repeats (int): rounds that count.
        warm_up (int): rounds before them that do not.
        limit (float): after this many seconds no further round starts; one always counts.

    Returns:
        dict: name → list of seconds.
    """
    seconds = {name: [] for name in candidates}
    start = time.perf_counter()
    for round_ in range(warm_up + repeats):
        if round_ > warm_up and time.perf_counter() - start > limit:
            break
        for name, run in candidates.items():
            elapsed = seconds_of(run)
            if round_ >= warm_up:
                seconds[name].append(elapsed)
    return seconds


def speed_ups(seconds, reference):
    """Return name → median over rounds of the speed relative to the reference, and its range."""
    ratios = {
        name: [r / s for r, s in zip(seconds[reference], own, strict=True)]
        for name, own in seconds.items()
    }
    return {name: (statistics.median(r), min(r), max(r)) for name, r in ratios.items()}


def matrix_rate(dtype=torch.float32, device='cpu', size=None):
    """Measure the FLOP per second of a large square matrix product, the best of ten.

    On a CPU also as a 1x1 convolution, for which torch may call a faster library.
    """
    size = size or (8192 if device == 'cuda' else 2048)
    a, b = torch.randn(2, size, size, device=device).to(dtype)
    products = [lambda: torch.mm(a, b)]
    if device == 'cpu':
        image = a.view(size // 128, 16, 8, size).permute(0, 3, 1, 2)  # the same matrix
        kernel = b.view(size, size, 1, 1)
        products.append(lambda: F.conv2d(image, kernel))
    return 2 * size**3 / min(seconds_of(product) for product in products for _ in range(10))


def read_rate(device='cpu'):
    """Measure the bytes per second of a large sum, the best of five."""
    vector = torch.ones(1 << 27, device=device)  # half a GiB
    return 4 * len(vector) / min(seconds_of(vector.sum) for _ in range(5))


def machine_line(device, size=None):
    """Describe the machine and its two rates, for the head of a table; ``size`` of the products."""
    name = (
        torch.cuda.get_device_name() if device == 'cuda' else f'{torch.get_num_threads()} threads'
    )
    rates = ', '.join(
        f'{matrix_rate(getattr(torch, dtype), device, size) / 1e9:,.0f}e9 FLOP/s in {dtype}'
        for dtype in ('float32', 'bfloat16')
    )
    return f'{name}, torch {torch.__version__}: {rates}, {read_rate(device) / 1e9:.1f}e9 bytes/s'


class StraightforwardSpatialMemory(SpatialMemory):
    """Eq. 1-3 straightforwardly: every position's read-out, normalised, subtracted, pooled.

    Set it by ``model.spatial_memory.__class__ = StraightforwardSpatialMemory``.
    """

    def forward(self, frame_features, spatial_queries):
        num_frames, dim, height, width = frame_features.shape
        rows = spatial_queries.permute(0, 2, 3, 1).reshape(-1, dim)  # (T*K, D)
        rows = rows.to(torch.promote_types(rows.dtype, torch.float32))
        similarity = F.normalize(rows, dim=1) @ F.normalize(self.keys, dim=1).T  # (T*K, M)
        probs = F.softmax(self.scale * similarity, dim=1)
        readout = self.bn(probs @ self.values)  # (T*K, D)
        readout = readout.view(num_frames, height, width, dim).permute(0, 3, 1, 2)
        return SpatialMemoryOutput((frame_features - readout).mean(dim=(2, 3)), probs)


def make_data(root, num_ids, num_frames):
    """Write own tracklets of JPEGs like those of MARS under ``root``: two per person and camera."""
    os.makedirs(os.path.join(root, 'jpegs'))
    drawn = make_tracklets(os.path.join(root, 'jpegs'), 2 * num_ids + 2, num_frames)
    places = [f'train/{i // 2}/{i % 2}/t' for i in range(2 * num_ids)] + [
        'query/q/0/t',
        'gallery/q/1/t',
    ]
    for place, (paths, *_) in zip(places, drawn, strict=True):
        folder = os.path.join(root, 'tracklets', place)
        os.makedirs(folder)
        for path in paths:
            os.link(path, os.path.join(folder, os.path.basename(path)))


def make_engine(root, *words, network=('resnet50', 256, 128)):
    """Build the engine of configs/stmn_mars.yaml on :func:`make_data`, before its first batch."""
    file = os.path.join(os.path.dirname(__file__), '..', 'configs', 'stmn_mars.yaml')
    words = ['model.pretrained', 'False', *map(str, words), 'stmn.backbone', network[0]]
    words += ['data.height', str(network[1]), 'data.width', str(network[2])]
    overrides = {'data.root': root, 'data.sources': ['tracklets'], 'data.targets': ['tracklets']}
    with contextlib.redirect_stdout(io.StringIO()):
        engine = prepare(load_config(file, words, overrides))
    return engine


def endless(loader):
    """Yield batches without end."""
    while True:
        yield from loader
