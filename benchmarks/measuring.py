"""What benchmarks share: candidates that take turns, the rates of the machine, the slow path."""

import contextlib
import io
import os
import statistics
import time

import torch
import torch.nn.functional as F
from reading import make_tracklets

from stmn_plugin.config import load_config
from stmn_plugin.host.runner import prepare
from stmn_plugin.models import SpatialMemory
from stmn_plugin.models.stmn.memory import SpatialMemoryOutput

GFLOP_PER_FRAME = 15.83  # forward of STMN with ResNet-50 at 256x128, a multiply-add being two
PARTS = (  # of them
    ('plain ResNet-50 with stride 1 in conv5', 8.11),
    ('of that up to conv4', 4.28),
    ('of that, and of each further head', 3.83),
)


def reset_peak(device='cpu'):
    """Start :func:`peak_gib` anew."""
    if device == 'cuda':
        torch.cuda.reset_peak_memory_stats()
    with open('/proc/self/clear_refs', 'w', encoding='ascii') as file:
        file.write('5')


def peak_gib(device='cpu'):
    """Most memory since :func:`reset_peak`: of the GPU, or the resident set of the process."""
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


def in_turns(candidates, repeats, warm_up=1):
    """Seconds of every candidate, each run once per round, so that a busy machine slows all alike.

    Args:
        candidates (dict): name → callable.
        repeats (int): rounds that count.
        warm_up (int): rounds before them that do not.

    Returns:
        dict: name → list of seconds.
    """
    seconds = {name: [] for name in candidates}
    for round_ in range(warm_up + repeats):
        for name, run in candidates.items():
            elapsed = seconds_of(run)
            if round_ >= warm_up:
                seconds[name].append(elapsed)
    return seconds


def speed_ups(seconds, reference):
    """Name → median over the rounds of seconds of the reference / seconds, and its range."""
    ratios = {
        name: [r / s for r, s in zip(seconds[reference], own, strict=True)]
        for name, own in seconds.items()
    }
    return {name: (statistics.median(r), min(r), max(r)) for name, r in ratios.items()}


def matrix_rate(dtype=torch.float32, device='cpu', size=None):
    """FLOP per second of a large square matrix product, the best of ten.

    On a CPU also as a 1x1 convolution, which may be served by a faster library.
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
    """Bytes per second of a large sum; the best of five."""
    vector = torch.ones(1 << 27, device=device)  # half a GiB
    return 4 * len(vector) / min(seconds_of(vector.sum) for _ in range(5))


def machine_line(device):
    """The machine and its two rates, for the head of a table."""
    name = (
        torch.cuda.get_device_name() if device == 'cuda' else f'{torch.get_num_threads()} threads'
    )
    rates = ', '.join(
        f'{matrix_rate(dtype, device) / 1e9:,.0f}e9 FLOP/s in {str(dtype).removeprefix("torch.")}'
        for dtype in (torch.float32, torch.bfloat16)
    )
    return f'{name}, torch {torch.__version__}: {rates}, {read_rate(device) / 1e9:.1f}e9 bytes/s'


class StraightforwardSpatialMemory(SpatialMemory):
    """Eq. 1-3 as one writes them down: every position's read-out, normalised, subtracted, pooled.

    A model gets it by ``model.spatial_memory.__class__ = StraightforwardSpatialMemory``.
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
    """Own tracklets of JPEGs like those of MARS under ``root``: two per person and camera."""
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


def make_engine(root, *words):
    """The engine of configs/stmn_mars.yaml on :func:`make_data`, at its first batch."""
    file = os.path.join(os.path.dirname(__file__), '..', 'configs', 'stmn_mars.yaml')
    words = ['model.pretrained', 'False', *map(str, words)]
    overrides = {'data.root': root, 'data.sources': ['tracklets'], 'data.targets': ['tracklets']}
    with contextlib.redirect_stdout(io.StringIO()):
        engine = prepare(load_config(file, words, overrides))
    return engine


def endless(loader):
    """Batches without end."""
    while True:
        yield from loader
