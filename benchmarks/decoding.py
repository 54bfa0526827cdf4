"""Measure the frames per second of tools/make_tracklets.py, decoding alone and with crops.

    python benchmarks/decoding.py [--codecs libx264 libx265 libsvtav1] [--frames 480]

A video of moving noise is encoded by each codec that this PyAV has; ten boxes of 40 % of its height
walk through each frame. Decoding and cropping take turns; medians of wall-clock and CPU time are
printed.
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import av
import measuring
import numpy as np
from tabulate import tabulate

from stmn_plugin.cameras.making import CroppingJob, make_tracklets
from stmn_plugin.cameras.readers.options import TrackOptions
from stmn_plugin.cameras.videos import VideoFile
from stmn_plugin.cli.command_line import FROM_ONE

FPS, PEOPLE = 25, 10


def write_video(path, codec, size, frames):
    """Draw a texture that drifts by a pixel per frame, with sensor noise."""
    width, height = size
    rng = np.random.default_rng(0)
    texture = rng.integers(0, 256, (height // 8, width // 8, 3), dtype=np.uint8)
    texture = texture.repeat(8, axis=0).repeat(8, axis=1)
    with av.open(str(path), 'w') as container:
        stream = container.add_stream(codec, rate=FPS)
        stream.width, stream.height, stream.pix_fmt = width, height, 'yuv420p'
        for number in range(frames):
            noise = rng.integers(0, 8, texture.shape, dtype=np.uint8)
            pixels = np.roll(texture, number, axis=1) // 2 + noise
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format='rgb24')))
        container.mux(stream.encode())


def write_tracks(path, size, frames):
    width, height = size
    box = int(0.2 * height), int(0.4 * height)
    rows = (
        f'{frame + 1},{person + 1},{(frame + person * width // PEOPLE) % (width - box[0])},'
        f'{height // 4},{box[0]},{box[1]},1,-1,-1,-1\n'
        for frame in range(frames)
        for person in range(PEOPLE)
    )
    path.write_text(''.join(rows))


def measure(codec, size, frames, repeats, folder):
    video, tracks = folder / f'{codec}.mp4', folder / f'{codec}.txt'
    write_video(video, codec, size, frames)
    write_tracks(tracks, size, frames)
    options = TrackOptions(first_frame=1)
    job = CroppingJob(
        video, tracks, 'mot', 'gate', folder / codec, fps=FPS, options=options, replace=True
    )
    cpu = {'decoded': [], 'cropped': []}

    def timed(name, act):
        begin = time.process_time()
        act()
        cpu[name].append(time.process_time() - begin)

    steps = {
        'decoded': lambda: timed('decoded', lambda: [x for x in VideoFile(video).frames()]),
        'cropped': lambda: timed('cropped', lambda: make_tracklets(job)),
    }
    wall = measuring.in_turns(steps, repeats)
    return [
        {
            'codec': codec,
            'step': name,
            'frames/s': f'{frames / statistics.median(wall[name]):.0f}',
            'frames per CPU s': f'{frames / statistics.median(cpu[name]):.0f}',
            'crops/s': f'{PEOPLE * frames / statistics.median(wall[name]):.0f}'
            if name == 'cropped'
            else '',
        }
        for name in steps
    ]


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--codecs', nargs='+', default=['libx264', 'libx265', 'libsvtav1'])
    parser.add_argument('--size', nargs=2, type=FROM_ONE, default=(1280, 720), metavar='PIXELS')
    parser.add_argument('--frames', type=FROM_ONE, default=120)
    parser.add_argument('--repeats', type=FROM_ONE, default=3)
    args = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for codec in args.codecs:
            if codec in av.codecs_available:
                rows += measure(codec, args.size, args.frames, args.repeats, Path(folder))
    print(measuring.machine_line('cpu'))
    print(tabulate(rows, headers='keys', disable_numparse=True))


if __name__ == '__main__':
    main()
