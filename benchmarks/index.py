"""Measure an index of tracklets: adding, opening, searching with and without a filter.

    python benchmarks/index.py                            100,000 tracklets in an SQLite file
    python benchmarks/index.py --count 1000000 --folder /data    a million: 9 GB of files
    python benchmarks/index.py --server postgresql://...  on a server, whose index is deleted first

Features of 2,048 numbers are drawn. The filter is one camera of ten and half of the time, so 5 % of
the tracklets; the wide filter is nine cameras of ten. faiss, if it is installed, searches the same
vectors in its flat float16 index, held in memory. Steps take turns; medians and ranges are
printed. Peak memory is the resident set of the process while the index is searched, before faiss
is loaded. The page cache is warm.
"""

import argparse
import contextlib
import datetime
import os
import statistics
import tempfile
import time

import measuring
import numpy as np
import torch
from tabulate import tabulate

from stmn_plugin.cameras.index import IndexedTracklet, ModelKey, TrackletIndex, Where
from stmn_plugin.cli.command_line import FROM_ONE
from stmn_plugin.evaluation.search import faiss

DIM, CAMERAS, AT_ONCE, TOP = 2048, 10, 1000, 20
BEGIN = datetime.datetime(2026, 3, 1, tzinfo=datetime.timezone.utc)
SECOND = datetime.timedelta(seconds=1)
KEY = ModelKey('0' * 64, 'stmn', 256, 128, 8, DIM)


def rows_from(first):
    """Return AT_ONCE tracklets, one per second."""
    return [
        IndexedTracklet(
            0,
            '/people',
            f'gallery/unknown/{i % CAMERAS}/{i}',
            f'camera{i % CAMERAS}',
            f'video{i // 5000}.mp4',
            str(i),
            'unknown',
            BEGIN + i * SECOND,
            BEGIN + (i + 8) * SECOND,
            40,
        )
        for i in range(first, first + AT_ONCE)
    ]


def features_from(first, count=AT_ONCE):
    return torch.randn(count, DIM, generator=torch.Generator().manual_seed(first))


def fill(index, count):
    """Add the tracklets and return the seconds, without those of drawing them."""
    seconds = 0.0
    for first in range(0, count, AT_ONCE):
        rows, features = rows_from(first), features_from(first)
        begin = time.perf_counter()
        index.add(rows, features)
        seconds += time.perf_counter() - begin
    return seconds


def flat(count):
    """Return a faiss index with the vectors as the index stores them."""
    index = faiss.IndexScalarQuantizer(
        DIM, faiss.ScalarQuantizer.QT_fp16, faiss.METRIC_INNER_PRODUCT
    )
    index.train(np.zeros((1, DIM), np.float32))
    for first in range(0, count, AT_ONCE):
        index.add(torch.nn.functional.normalize(features_from(first)).numpy())
    return index


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--count', type=FROM_ONE, default=100_000, help='a multiple of 1,000')
    parser.add_argument('--repeats', type=FROM_ONE, default=5)
    parser.add_argument('--folder', help='for the file; a temporary one by default')
    parser.add_argument('--server', help='postgresql://... in place of a file')
    parser.add_argument('--no-faiss', action='store_true', help='it holds all vectors in memory')
    args = parser.parse_args()
    middle = BEGIN + args.count // 2 * SECOND
    narrow = Where(cameras=['camera3'], start=middle)
    wide = Where(not_cameras=['camera3'])
    one, many = features_from(-1, 1), features_from(-2, 100)
    with contextlib.ExitStack() as stack:
        folder = args.folder or stack.enter_context(tempfile.TemporaryDirectory())
        url = args.server or os.path.join(folder, 'people.db')
        with TrackletIndex.open(url, KEY) as index:
            index.delete(everything=True)
            seconds = fill(index, args.count)
            print(f'{args.count / seconds:,.0f} tracklets added a second')
        begin = time.perf_counter()
        index = stack.enter_context(TrackletIndex.open(url))
        print(f'opened in {time.perf_counter() - begin:.3f} s')
        begin = time.perf_counter()
        index.search(one, TOP, Where(numbers=[1]))
        print(f'the first search writes the matrix in {time.perf_counter() - begin:.1f} s')
        begin = time.perf_counter()
        with TrackletIndex.open(url) as again:
            again.search(one, TOP)
        print(f'opened and searched again in {time.perf_counter() - begin:.2f} s')
        steps = {
            '1 query': lambda: index.search(one, TOP),
            '1 query, 5 %': lambda: index.search(one, TOP, narrow),
            '1 query, 90 %': lambda: index.search(one, TOP, wide),
            '100 queries': lambda: index.search(many, TOP),
            '100 queries, 5 %': lambda: index.search(many, TOP, narrow),
        }
        measuring.reset_peak()
        seconds = measuring.in_turns(steps, args.repeats)
        print(f'peak memory {measuring.peak_gib():.2f} GiB')
        if faiss is not None and not args.no_faiss:
            other = flat(args.count)
            unit = torch.nn.functional.normalize
            chosen = np.array([int(row.track) for row in index.rows(narrow)])  # its number
            filtered = faiss.SearchParameters(sel=faiss.IDSelectorBatch(chosen))
            theirs = {
                '1 query, faiss': lambda: other.search(unit(one).numpy(), TOP),
                '1 query, 5 %, faiss': lambda: other.search(
                    unit(one).numpy(), TOP, params=filtered
                ),
                '100 queries, faiss': lambda: other.search(unit(many).numpy(), TOP),
            }
            seconds |= measuring.in_turns(theirs, args.repeats)
            seconds |= measuring.in_turns({'1 query, again': steps['1 query']}, args.repeats)
        table = [
            [name, f'{statistics.median(own):.3f}', f'{min(own):.3f} to {max(own):.3f}']
            for name, own in seconds.items()
        ]
        print(tabulate(table, ['step', 'seconds', 'range'], disable_numparse=True))
        print(f'{torch.get_num_threads()} threads, torch {torch.__version__}')


if __name__ == '__main__':
    main()
