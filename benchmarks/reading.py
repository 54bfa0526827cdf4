"""Measure frames per second of a reading process: the host's path and ours, on the same files.

    python benchmarks/reading.py

The host decodes, converts and normalises frame by frame in the worker and sends floats. Ours
decodes in the worker and sends bytes, a quarter of the size; whole batches are normalised in the
main process. A first check confirms that both give the same clips.

Then the training transforms, by one worker: applied there to each clip, or drawn there and applied
in the main process to whole batches (on the GPU when there is one). "Delivered" is the output
of the loader, "finished" is augmented and normalised. Both give the same clips, also checked.

The candidates take turns, so that a busy machine slows all of them equally; medians are printed.
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
from PIL import Image
from torch.utils.data import DataLoader

from stmn_plugin.cli.command_line import FROM_ONE
from stmn_plugin.data.clips import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    ClipDataset,
    ClipRequest,
    ClipTransform,
    Normalize,
)
from stmn_plugin.data.frame_samplers import sample_evenly

SIZE = (256, 128)  # height, width of a MARS frame
RECIPE = ['random_flip', 'random_erase']  # of the paper
EVERYTHING = ['random_flip', 'random_crop', 'color_jitter', 'random_erase']


def make_tracklets(folder, num_tracklets, num_frames, seed=0):
    """Write JPEG files of the size and quality of MARS (q90, about 9 kB); return 4-tuples."""
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


def host_dataset(tracklets, seq_len, size=SIZE):
    """Return torchreid's VideoDataset with its test transform."""
    import torchreid  # after stmn_plugin, which silences the advice to compile its ranking

    with contextlib.redirect_stdout(io.StringIO()):
        _, transform = torchreid.data.transforms.build_transforms(*size, transforms=[])
    return torchreid.data.VideoDataset(
        tracklets,
        tracklets,
        tracklets,
        transform=transform,
        seq_len=seq_len,
        sample_method='evenly',
        verbose=False,
    )


class AugmentedInWorker(ClipDataset):
    """Clips that are augmented in the worker and sent as bytes."""

    def __getitem__(self, key):
        item = super().__getitem__(key)
        draws = item.pop('augmentation')
        return {**item, 'img': self.transform.augmentation.apply_to_clip(item['img'], draws)}


def our_dataset(tracklets, seq_len, names=(), as_uint8=True, kind=ClipDataset):
    sampler = functools.partial(sample_evenly, seq_len=seq_len)
    normalize = Normalize(IMAGENET_MEAN, IMAGENET_STD)
    return kind(tracklets, sampler, ClipTransform(*SIZE, names, normalize, as_uint8))


def finish(dataset, batch):
    """Apply the remaining augmentation and normalise, on the GPU if there is one."""
    device = 'cuda' if torch.cuda.is_available() else 'cpu'
    clips = batch['img'].to(device, non_blocking=True)
    if 'augmentation' in batch:
        clips = dataset.transform.augmentation.apply(clips, batch['augmentation'])
    return dataset.transform.normalize(clips)


def deliver(dataset, batch):
    """Return the batch unchanged."""


def run(dataset, after, augmented, workers, batch_size):
    """Time one epoch; with a worker, from the first request to the last batch."""
    loader = make_loader(dataset, augmented, workers, batch_size)
    begin = time.perf_counter()
    for batch in loader:
        after(dataset, batch)
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - begin


def make_loader(dataset, augmented, workers, batch_size):
    indices = range(len(dataset))
    keys = [ClipRequest(i, 0, i) for i in indices] if augmented else indices
    batches = [keys[start : start + batch_size] for start in range(0, len(keys), batch_size)]
    pin_memory = torch.cuda.is_available()
    return DataLoader(dataset, batch_sampler=batches, num_workers=workers, pin_memory=pin_memory)


def compare(title, candidates, args, workers, augmented=False):
    """Print the frames per second of each candidate and the ratio to the first of them."""
    seconds = {name: [] for name in candidates}
    for repeat in range(args.repeats + 1):
        for name, (dataset, after) in candidates.items():
            elapsed = run(dataset, after, augmented, workers, args.batch_size)
            if repeat:  # the first round fills the page cache
                seconds[name].append(elapsed)
    print(f'\n{title:44}{"frames/s":>10}{"ratio":>8}   range of the ratio')
    first = next(iter(seconds.values()))
    for name, times in seconds.items():
        rate = args.tracklets * args.seq_len / statistics.median(times)
        ratios = [f / t for f, t in zip(first, times, strict=True)]
        print(
            f'{name:44}{rate:10.0f}{statistics.median(ratios):8.2f}'
            f'   {min(ratios):.2f} .. {max(ratios):.2f}'
        )


def compare_with_host(tracklets, args):
    host = host_dataset(tracklets, args.seq_len)
    ours = our_dataset(tracklets, args.seq_len)
    floats = our_dataset(tracklets, args.seq_len, as_uint8=False)
    clip = ours.transform.normalize(ours[0]['img'])
    torch.testing.assert_close(clip, host[0]['img'], rtol=1e-5, atol=1e-5)
    candidates = {
        'torchreid': (host, deliver),
        'ours, bytes': (ours, deliver),
        'ours, bytes, normalised in main': (ours, finish),
        'ours, floats from the worker': (floats, deliver),
    }
    for workers, where in ((0, 'in one process'), (1, 'one worker')):
        compare(f'reading, {where}', candidates, args, workers)


def compare_augmentation(tracklets, args):
    plain = our_dataset(tracklets, args.seq_len)
    for names, title in ((RECIPE, 'flip, erase'), (EVERYTHING, 'flip, crop, jitter, erase')):
        there = our_dataset(tracklets, args.seq_len, names, kind=AugmentedInWorker)
        here = our_dataset(tracklets, args.seq_len, names)
        batches = (next(iter(make_loader(d, True, 0, args.batch_size))) for d in (there, here))
        clips = [finish(d, batch).cpu() for d, batch in zip((there, here), batches, strict=True)]
        # on a GPU torchvision's resize may differ by one grey level
        torch.testing.assert_close(*clips, rtol=0, atol=0 if names == RECIPE else 0.02)
        candidates = {
            'in the worker, delivered': (there, deliver),
            'left to the main process, delivered': (here, deliver),
            'no augmentation, delivered': (plain, deliver),
            'in the worker, finished': (there, finish),
            'left to the main process, finished': (here, finish),
            'no augmentation, finished': (plain, finish),
        }
        compare(title, candidates, args, workers=1, augmented=True)


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--tracklets', type=FROM_ONE, default=64)
    parser.add_argument('--frames', type=FROM_ONE, default=24, help='per tracklet')
    parser.add_argument('--seq-len', type=FROM_ONE, default=24, help='frames read of each tracklet')
    parser.add_argument('--batch-size', type=FROM_ONE, default=8, help='clips')
    parser.add_argument('--repeats', type=FROM_ONE, default=7)
    args = parser.parse_args()
    torch.set_num_threads(1)  # the main process works on one core, too
    with tempfile.TemporaryDirectory() as folder:
        tracklets = make_tracklets(folder, args.tracklets, args.frames)
        size = statistics.mean(Path(path).stat().st_size for t in tracklets for path in t[0])
        print(f'{SIZE[0]}x{SIZE[1]} JPEG, {size / 1000:.1f} kB, clips of {args.seq_len} frames')
        compare_with_host(tracklets, args)
        compare_augmentation(tracklets, args)


if __name__ == '__main__':
    main()
