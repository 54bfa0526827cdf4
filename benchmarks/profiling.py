"""Divide the time of a step by kinds of kernels of a GPU or operators of a CPU."""

import re
import statistics

import measuring
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

PRODUCTS, IDLE = 'convolutions and products', 'idle'
KINDS = (  # the first kind with a word in the name of a kernel or operator
    ('between processes', r'nccl'),
    ('batch norm', r'batch_?norm|bn_[fb]w|bn_(fwd|bwd)|bnfw|bnbw'),
    ('optimizer and norms', r'multi_tensor|_?fused_(adam|sgd)|foreach|amp_'),
    ('change of layout', r'nhwc_?to_?nchw|nchw_?to_?nhwc|tensorTransform'),
    (
        PRODUCTS,
        r'conv|gemm|gemv|cutlass|xmma|nvjet|fprop|dgrad|wgrad|implicit|winograd|aten::(add|b)?mm',
    ),
    ('pooling', r'pool'),
    ('copies and casts', r'memcpy|memset|copy|cast|::to\b|fill_|zero_'),
    ('softmax, sums, norms', r'softmax|reduce|sum|norm|mean|argm|cdist'),
    ('element by element', r'elementwise|vectorized|triton|aten::'),
)


def kind_of(name):
    """Return the kind of a kernel or operator by its name."""
    found = (kind for kind, words in KINDS if re.search(words, name, re.IGNORECASE))
    return next(found, 'other')


def union_length(intervals):
    """Return the length of the union of intervals (start, end)."""
    total, reached = 0.0, float('-inf')
    for start, end in sorted(intervals):
        total += max(0.0, end - max(start, reached))
        reached = max(reached, end)
    return total


def by_kind(named, steps):
    """Return kind → ms per step, largest first; ``named`` are pairs of name and microseconds."""
    total = {}
    for name, microseconds in named:
        kind = kind_of(name)
        total[kind] = total.get(kind, 0.0) + microseconds / 1e3 / steps
    return dict(sorted(total.items(), key=lambda item: -item[1]))


def profile_rows(run, device, floor, steps=3):
    """Profile ``run()`` by kind of work, with the idle time of the device.

    The idle time is that of steps without the profiler, which slows the launch of kernels: their
    median less the time in which kernels ran.

    Args:
        run: a step.
        device: 'cuda' or 'cpu'.
        floor: seconds of the products of a step at the rate of a large one.
        steps: number of profiled steps, after as many to warm up.

    Returns:
        list: dictionaries; 'lost' is the time beyond the floor of the products.
    """
    for _ in range(steps):
        run()
    seconds = statistics.median(measuring.seconds_of(run) for _ in range(2 * steps + 1))
    activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * (device == 'cuda')
    with profile(activities=activities) as profiler:
        for _ in range(steps):
            run()
        measuring.synchronize()
    if device == 'cuda':
        kernels = [
            event
            for event in profiler.events()
            if event.device_type == DeviceType.CUDA
            and not getattr(event, 'is_user_annotation', False)
        ]
        spans = [(event.time_range.start, event.time_range.end) for event in kernels]
        found = by_kind(((e.name, e.time_range.elapsed_us()) for e in kernels), steps)
        busy = union_length(spans) / 1e3 / steps
        found[IDLE] = max(0.0, 1e3 * seconds - busy)
    else:
        found = by_kind(((e.key, e.self_cpu_time_total) for e in profiler.key_averages()), steps)
    return [
        {
            'kind': kind,
            'ms a step': ms,
            'share': ms / 1e3 / seconds,
            'lost, ms': ms - 1e3 * floor if kind == PRODUCTS else ms,
        }
        for kind, ms in found.items()
    ]


FORMATS = {'ms a step': '.2f', 'share': '.1%', 'lost, ms': '.2f'}


def show(run, device, floor, args, **facts):
    """Profile a step and print its kinds, see :func:`profile_rows`."""
    rows = profile_rows(run, device, floor, min(3, args.repeats))
    measuring.show(rows, FORMATS, args, **facts)
