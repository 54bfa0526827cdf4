"""Frames per second of one reading process: the host's path beside ours, on the same JPEG files.

    python benchmarks/reading.py

The host decodes, converts and normalises frame by frame in the worker and sends floats. Ours
decodes in the worker and sends bytes, a quarter of the size; whole batches are normalised in the
main process (on the GPU when there is one). Both give the same clips, which is checked first. The
candidates take turns, so that a busy machine slows all of them alike; medians are printed.
"""

import argparse
import contextlib
import functools
import io
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
import torchreid
from PIL import Image
from torch.utils.data import DataLoader

from stmn_plugin.data.clips import ClipDataset, ClipTransform, Normalize
from stmn_plugin.data.datamanager import IMAGENET_MEAN, IMAGENET_STD
from stmn_plugin.data.frame_samplers import sample_evenly

SIZE = (256, 128)  # height, width of a MARS frame


def make_tracklets(folder, num_tracklets, num_frames, seed=0):
    """JPEG files of the size and quality of MARS (q90, about 9 kB): the host's 4-tuples."""
    rng = np.random.default_rng(seed)
    tracklets = []
    for i in range(num_tracklets):
        coarse = Image.fromarray(rng.integers(30, 226, (16, 8, 3), dtype=np.uint8))
        smooth = np.asarray(coarse.resize(SIZE[::-1], Image.Resampling.BICUBIC), dtype=np.float64)
        paths = []
        for frame in range(num_frames):
            pixels = smooth + rng.normal(0, 4, smooth.shape)  # the noise of a sensor
            path = Path(folder, f'{i:04d}C1T0001F{frame + 1:03d}.jpg')
            Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(path, quality=90)
            paths.append(str(path))
        tracklets.append((tuple(paths), i, 0, 0))
    return tracklets


def host_dataset(tracklets, seq_len):
    """torchreid's own VideoDataset with its own test transform."""
    with contextlib.redirect_stdout(io.StringIO()):
        _, transform = torchreid.data.transforms.build_transforms(*SIZE, transforms=[])
    return torchreid.data.VideoDataset(
        tracklets,
        tracklets,
        tracklets,
        transform=transform,
        seq_len=seq_len,
        sample_method='evenly',
        verbose=False,
    )


def our_dataset(tracklets, seq_len, normalize, as_uint8=True):
    sampler = functools.partial(sample_evenly, seq_len=seq_len)
    return ClipDataset(tracklets, sampler, ClipTransform(*SIZE, [], normalize, as_uint8))


def run(dataset, workers, batch_size, after=None):
    """Seconds of one epoch; with a worker, from the first request to the last batch."""
    loader = DataLoader(dataset, batch_size=batch_size, num_workers=workers)
    begin = time.perf_counter()
    for batch in loader:
        if after is not None:
            after(batch['img'])
    return time.perf_counter() - begin


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--tracklets', type=int, default=64)
    parser.add_argument('--frames', type=int, default=24, help='per tracklet')
    parser.add_argument('--seq-len', type=int, default=24, help='frames read of each tracklet')
    parser.add_argument('--batch-size', type=int, default=8, help='clips')
    parser.add_argument('--repeats', type=int, default=7)
    args = parser.parse_args()
    torch.set_num_threads(1)  # the main process normalises on one core, too
    normalize = Normalize(IMAGENET_MEAN, IMAGENET_STD)
    with tempfile.TemporaryDirectory() as folder:
        tracklets = make_tracklets(folder, args.tracklets, args.frames)
        size = statistics.mean(Path(path).stat().st_size for t in tracklets for path in t[0])
        host = host_dataset(tracklets, args.seq_len)
        ours = our_dataset(tracklets, args.seq_len, normalize)
        floats = our_dataset(tracklets, args.seq_len, normalize, as_uint8=False)
        torch.testing.assert_close(normalize(ours[0]['img']), host[0]['img'], rtol=1e-5, atol=1e-5)
        candidates = {
            'host': (host, None),
            'ours, bytes': (ours, None),
            'ours, bytes, normalised in main': (ours, normalize),
            'ours, floats from the worker': (floats, None),
        }
        print(f'{SIZE[0]}x{SIZE[1]} JPEG, {size / 1000:.1f} kB, clips of {args.seq_len} frames')
        print(f'{"":40}{"frames/s":>10}{"x host":>8}   range of the ratio')
        for workers, where in ((0, 'one process'), (1, 'one worker')):
            seconds = {name: [] for name in candidates}
            for repeat in range(args.repeats + 1):
                for name, (dataset, after) in candidates.items():
                    elapsed = run(dataset, workers, args.batch_size, after)
                    if repeat:  # the first round fills the page cache
                        seconds[name].append(elapsed)
            for name, times in seconds.items():
                rate = args.tracklets * args.seq_len / statistics.median(times)
                ratios = [h / t for h, t in zip(seconds['host'], times, strict=True)]
                print(
                    f'{where + ": " + name:40}{rate:10.0f}{statistics.median(ratios):8.2f}'
                    f'   {min(ratios):.2f} .. {max(ratios):.2f}'
                )


if __name__ == '__main__':
    main()
