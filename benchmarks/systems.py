"""Measure the cost of STMN, its baseline and the systems of Table 2, relative to STMN.

    python benchmarks/systems.py                               ResNet-50, frames of 256x128
    python benchmarks/systems.py stmn.backbone resnet18 data.height 64 data.width 32 mgh.graphs 2

A step is forward, losses, backward and Adam on random clips of two persons. The feature is that of
clips in eval mode, a tracklet by RRS each. Rows take turns, so that a busy machine slows all
equally; printed are medians over the rounds, and the ratio to STMN in the same round with its
range. Parameters of classifiers are not counted. Weights are random; no data are read.
"""

import argparse
import contextlib
import json
import statistics

import measuring
import torch
from tabulate import tabulate

from stmn_plugin.cli.command_line import FROM_ONE
from stmn_plugin.comparing.run_plan import as_words
from stmn_plugin.comparing.table2 import SYSTEMS, table2_variants
from stmn_plugin.config import flatten, load_config
from stmn_plugin.config.kwargs import recipe_kwargs
from stmn_plugin.losses.recipe import Recipe
from stmn_plugin.models import ModelSpec, build_video_model
from stmn_plugin.models.facts import model_facts
from stmn_plugin.training.objective import ClipObjective

CLASSES = 625  # of MARS
REFERENCE = 'STMN'


class Row:
    """A network of Table 2 with its losses and optimizer."""

    def __init__(self, variant, config_file, words, clips, device):
        cfg = load_config(config_file, [*words, *as_words(variant.changes)])
        spec = ModelSpec.from_config(flatten(cfg))
        self.model = build_video_model(spec, CLASSES, pretrained=False)
        self.facts = model_facts(cfg, self.model)
        self.model = self.model.to(device)
        self.objective = ClipObjective(self.model, Recipe(**recipe_kwargs(cfg)))
        own = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        self.optimizer = torch.optim.Adam(own, lr=0.0, fused=True)  # random clips teach nothing
        shape = clips, spec.seq_len, 3, spec.height, spec.width
        self.clips = torch.randn(shape, device=device)
        self.pids = torch.arange(clips, device=device) // (clips // 2)

    def step(self):
        self.model.train()
        loss = self.objective(self.model(self.clips), self.pids).total
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()

    @torch.no_grad()
    def feature(self):
        self.model.eval()
        self.model(self.clips)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('--config-file', default='configs/stmn_mars.yaml')
    parser.add_argument('--systems', nargs='+', choices=list(SYSTEMS), metavar='NAME')
    parser.add_argument('--clips', type=FROM_ONE, default=4, help='of a step, of two persons')
    parser.add_argument('--repeats', type=FROM_ONE, default=3, help='rounds that count')
    parser.add_argument('--json', metavar='FILE', help='also write the numbers here')
    parser.add_argument('words', nargs='*', metavar='KEY VALUE')
    args = parser.parse_args()
    device = 'cuda' if torch.cuda.is_available() else 'cpu'
    words = ['part_aligned.vgg_weights', 'random', *args.words]
    print(measuring.machine_line(device))
    rows = {}
    for variant in table2_variants(args.systems):
        with contextlib.redirect_stdout(None):
            rows[variant.title] = Row(variant, args.config_file, words, args.clips, device)
    found = {}
    for what, name in (('step', 'step'), ('feature', 'feature')):
        candidates = {title: getattr(row, name) for title, row in rows.items()}
        seconds = measuring.in_turns(candidates, args.repeats)
        gains = measuring.speed_ups(seconds, REFERENCE)
        for title, own in seconds.items():
            ratio, low, high = (1 / gains[title][i] for i in (0, 2, 1))
            found.setdefault(title, dict(rows[title].facts))[f's a {what}'] = statistics.median(own)
            found[title][f'{what} / STMN'] = ratio
            found[title][f'{what} range'] = f'{low:.2f} .. {high:.2f}'
    table = [
        {
            'method': title,
            'parameters, M': f'{one["parameters"] / 1e6:.2f}',
            'GFLOPs a clip': f'{one["gflops_per_frame"] * one["seq_len"]:.1f}',
            'feature': one['feature_dim'],
            's a step': f'{one["s a step"]:.3f}',
            '/ STMN': f'{one["step / STMN"]:.2f}',
            'range': one['step range'],
            's a feature': f'{one["s a feature"] / args.clips:.3f}',
            '/ STMN ': f'{one["feature / STMN"]:.2f}',
            'range ': one['feature range'],
        }
        for title, one in found.items()
    ]
    print(tabulate(table, headers='keys', disable_numparse=True))
    print(f'{args.clips} clips a step; medians of {args.repeats} rounds')
    if args.json:
        with open(args.json, 'w', encoding='utf-8') as file:
            json.dump(found, file, indent=1)


if __name__ == '__main__':
    main()
