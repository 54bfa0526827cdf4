"""Peak memory of all-frames extraction against the length of the longest tracklet.

python benchmarks/extraction.py

One tracklet of F frames and many of two, as in DukeMTMC-VideoReID (up to 9,324 frames). Each row is
a process of its own: peak resident memory, frames encoded, frames per second. The memory should not
grow with F; the last rows grow the batch instead.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tabulate import tabulate

SHORT_TRACKLETS = 64
SEQ_LEN = 6


def extract(num_frames, batch_size, folder):
    """In a process of its own: make frames (one file, many names would do), extract, measure."""
    import numpy as np
    import torch
    from PIL import Image

    from stmn_plugin.data.clip_plans import ClipPlan, PlannedClips, collate_clips
    from stmn_plugin.data.clips import ClipTransform, Normalize
    from stmn_plugin.features import encode_clips, pool_tracklets
    from stmn_plugin.models import STMN

    torch.manual_seed(0)
    path = str(Path(folder) / 'frame.jpg')
    pixels = np.random.default_rng(0).integers(0, 256, (64, 32, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    tracklets = [((path,) * num_frames, 0, 0, 0)]
    tracklets += [((path,) * 2, i, 0, 0) for i in range(1, SHORT_TRACKLETS)]
    normalize = Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    transform = ClipTransform(64, 32, [], normalize, as_uint8=True)
    clips = PlannedClips(tracklets, ClipPlan(SEQ_LEN, 'all'), transform)
    loader = torch.utils.data.DataLoader(clips, batch_size, collate_fn=collate_clips)
    model = STMN(2, 'resnet18', seq_len=SEQ_LEN, pretrained=False).eval()
    start = time.perf_counter()
    batches = encode_clips(loader, model, normalize, False, 'extract', [])
    features = pool_tracklets(batches, model, tracklets, every_frame=True)
    seconds = time.perf_counter() - start
    assert len(features.features) == SHORT_TRACKLETS
    frames = num_frames + 2 * (SHORT_TRACKLETS - 1)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({'frames': frames, 'peak MiB': peak, 'frames/s': frames / seconds}))


def measure(num_frames, batch_size):
    with tempfile.TemporaryDirectory() as folder:
        words = [sys.executable, __file__, '--child', str(num_frames), str(batch_size), folder]
        done = subprocess.run(words, capture_output=True, text=True, check=True)
    row = {'longest tracklet': num_frames, 'clips in a batch': batch_size}
    return {**row, **json.loads(done.stdout.splitlines()[-1])}


def main():
    parser = argparse.ArgumentParser(description=__doc__.split('\n', 1)[0])
    parser.add_argument('--child', nargs=3, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        extract(int(args.child[0]), int(args.child[1]), args.child[2])
        return
    rows = [measure(num_frames, 16) for num_frames in (100, 1000, 9324)]
    rows += [measure(1000, batch_size) for batch_size in (4, 64)]
    print(tabulate(rows, headers='keys', floatfmt='.0f'))


if __name__ == '__main__':
    main()
