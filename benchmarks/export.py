"""Measure the frames per second of exported files, of eager and of our folded path, in one run.

    python benchmarks/export.py [--backbones resnet18 resnet50]

STMN with random weights encodes the same frames of 256x128 by every engine, which take turns;
medians are printed. int8 is calibrated with random frames: only its speed is meaningful.
"""

import argparse
import logging
import statistics
import tempfile
from pathlib import Path

import measuring
import torch
from tabulate import tabulate

from stmn_plugin.cameras.export_formats import FORMATS
from stmn_plugin.cameras.exporting import export_part, parts_of, silent_exporters
from stmn_plugin.cameras.quantising import quantise
from stmn_plugin.cli.command_line import FROM_ONE
from stmn_plugin.config import load_config
from stmn_plugin.config.sections import flatten
from stmn_plugin.models import ModelSpec, build_video_model
from stmn_plugin.training.speed import InferenceModel, use_channels_last

EAGER = 'eager'


@torch.no_grad()
def measure(backbone, frames, repeats, folder):
    words = f'model.name stmn stmn.backbone {backbone} data.type video data.height 256'
    spec = ModelSpec.from_config(flatten(load_config('', f'{words} data.width 128'.split())))
    models = []
    for _ in range(2):
        torch.manual_seed(0)
        model = build_video_model(spec, 625, pretrained=False).eval().requires_grad_(False)
        model.spec = spec
        models.append(model)
    eager, ours = models
    images = torch.randn(frames, 3, 256, 128)
    [part, _] = parts_of(eager)
    engines = {EAGER: eager.encode_frames}
    for kind in FORMATS:
        place = folder / kind
        place.mkdir()
        engines[kind] = FORMATS[kind].open(place / export_part(part, eager, kind, place)['file'])
    place = folder / 'int8'
    place.mkdir()
    file = place / export_part(part, eager, 'onnx', place)['file']
    with silent_exporters():
        quantise(file, part.input, [torch.randn(4, 3, 256, 128) for _ in range(2)])
    engines['onnx, int8'] = FORMATS['onnx'].open(file)
    use_channels_last(ours)
    engines['ours: folded, channels_last'] = InferenceModel(ours, 'cpu').encode_frames
    outputs = {}

    def run(name):
        outputs[name] = engines[name](images)

    turns = {name: (lambda name=name: run(name)) for name in engines}
    seconds = measuring.in_turns(turns, repeats, warm_up=1)
    gains = measuring.speed_ups(seconds, EAGER)
    cosines = {
        name: torch.cosine_similarity(output, outputs[EAGER]).min()
        for name, output in outputs.items()
    }
    return [
        {
            'backbone': backbone,
            'engine': name,
            'seconds': f'{statistics.median(seconds[name]):.3f}',
            'frames/s': f'{frames / statistics.median(seconds[name]):.1f}',
            'x eager': f'{gains[name][0]:.2f}',
            'range': f'{gains[name][1]:.2f} .. {gains[name][2]:.2f}',
            'cosine to eager': f'{cosines[name]:.4f}',
        }
        for name in engines
    ]


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--backbones', nargs='+', default=['resnet18', 'resnet50'])
    parser.add_argument('--frames', type=FROM_ONE, default=8)
    parser.add_argument('--repeats', type=FROM_ONE, default=7)
    args = parser.parse_args()
    logging.getLogger('torch').setLevel(logging.ERROR)
    rows = []
    for backbone in args.backbones:
        with tempfile.TemporaryDirectory() as folder:
            rows += measure(backbone, args.frames, args.repeats, Path(folder))
    print(measuring.machine_line('cpu'))
    print(tabulate(rows, headers='keys', disable_numparse=True))


if __name__ == '__main__':
    main()
