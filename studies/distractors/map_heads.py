"""What keeps a spatial memory from its ceiling: its form, its address or the number of steps?

python studies/distractors/map_heads.py --json studies/distractors/map_heads.json

The maps f^o of the persons to train on and to test on are computed once by the encoder that every
row starts from, which is not trained any more. There q^s = f^o, as the query head starts as a copy
of conv5. On these maps:

* *weighted by what is visible*: the mean over the positions, each weighted by the share of it that
  no distractor mask covers. An oracle.
* *true address, N items x scale*: from each position that is at least half covered, the nearest of
  N mean vectors of such positions of the training persons is subtracted (Eq. 2, 3). An oracle: no
  other position reads anything.
* Heads that learn what to subtract, or how to weight positions, by the losses of the recipe, from
  several seeds: spatial memories, the same memory whose address is the true one, a linear weight of
  each position, and an MLP from f^o of a position to what is subtracted from it.
"""

import argparse
import os

import numpy as np
import torch
import torch.nn.functional as F
from heads import FROM_ONE, HERE, Persons, fit
from scipy.cluster.vq import kmeans2
from tabulate import tabulate
from torch import nn

from stmn_plugin.config.kwargs import recipe_kwargs
from stmn_plugin.data.frame_samplers import ClipPlan
from stmn_plugin.errors import InputError, exit_on_input_error
from stmn_plugin.evaluation.features import TrackletFeatures
from stmn_plugin.looking.clip_truth import clip_truth, find_truth
from stmn_plugin.looking.explained_run import open_on_target
from stmn_plugin.looking.frame_weights import score_tracklets
from stmn_plugin.looking.opened_run import config_of_file, training_tracklets
from stmn_plugin.losses import Recipe
from stmn_plugin.models import SpatialMemory
from stmn_plugin.models.heads import BNNeck, bias_free_classifier
from stmn_plugin.training.speed import autocast
from stmn_plugin.whole_files import check_writable, write_json

BASELINE = 'stmn.spatial_mode none stmn.temporal_mode average use_gpu False'
KEPT = 8  # frames of a training tracklet, of which a clip draws L by RRS
ITEMS = 10
COUNTS, SCALES = (1, 9, 40), (0.25, 0.5, 1.0)
COVERED = 0.5  # share of a position from which it counts as one of a distractor
MOST = 20_000  # positions of which means are taken


class NoHead(nn.Module):
    """GAP(f^o), as the baseline."""

    def __init__(self, dim, centres):
        super().__init__()

    def forward(self, maps, covered):
        return maps.mean(dim=(2, 3)), None


class Memory(nn.Module):
    """A spatial memory, addressed by f^o."""

    def __init__(self, dim, centres, bn_scale):
        super().__init__()
        self.memory = SpatialMemory(dim, ITEMS, bn_scale=bn_scale)

    def forward(self, maps, covered):
        return self.memory(maps, maps)


class TrueAddress(Memory):
    """A spatial memory with the address of :func:`true_items` instead of its own."""

    def __init__(self, dim, centres, bn_scale):
        super().__init__(dim, centres, bn_scale)
        self.register_buffer('centres', centres)

    def forward(self, maps, covered):
        probs = F.one_hot(true_items(maps, covered, self.centres), ITEMS).flatten(0, 2)
        self.memory.address = lambda queries: probs.to(maps)
        return self.memory(maps, maps).output, None


class PositionWeight(nn.Module):
    """A linear weight of each position, between 0 and 1."""

    def __init__(self, dim, centres):
        super().__init__()
        self.linear = nn.Linear(dim, 1)
        nn.init.zeros_(self.linear.weight)

    def forward(self, maps, covered):
        weights = torch.sigmoid(self.linear(unit(maps)))  # (T, H, W, 1)
        return weighted_mean(maps, weights.squeeze(3)), None


class PositionMLP(nn.Module):
    """A layer of ITEMS units from f^o of a position to what is subtracted from it."""

    def __init__(self, dim, centres):
        super().__init__()
        self.hidden, self.subtracted = nn.Linear(dim, ITEMS), nn.Linear(ITEMS, dim, bias=False)
        nn.init.zeros_(self.subtracted.weight)

    def forward(self, maps, covered):
        hidden = F.relu(self.hidden(unit(maps))).mean(dim=(1, 2))  # (T, ITEMS)
        return maps.mean(dim=(2, 3)) - self.subtracted(hidden), None


HEADS = {
    'none': NoHead,
    'memory': lambda *args: Memory(*args, bn_scale=0.0),
    'memory, BN scale 0.1': lambda *args: Memory(*args, bn_scale=0.1),
    'memory, BN scale 1': lambda *args: Memory(*args, bn_scale=1.0),
    'memory, true address': lambda *args: TrueAddress(*args, bn_scale=0.0),
    'memory, true address, BN scale 0.1': lambda *args: TrueAddress(*args, bn_scale=0.1),
    'linear weight of each position': PositionWeight,
    'MLP of each position': PositionMLP,
}


def parse_args(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.split('\n', 1)[0])
    parser.add_argument('--config-file', default=os.path.join(HERE, 'rows.yaml'))
    parser.add_argument('--steps', type=FROM_ONE, nargs='+', default=[600], help='(600)')
    parser.add_argument('--seeds', type=FROM_ONE, default=3, metavar='N')
    parser.add_argument('--heads', nargs='+', choices=HEADS, default=HEADS, metavar='NAME')
    parser.add_argument('--json', metavar='FILE')
    parser.add_argument('opts', nargs='*', metavar='KEY VALUE', help='config keys')
    return parser.parse_intermixed_args(argv)


def unit(maps):
    """Positions with vectors of length sqrt(D), channels last: (T, D, H, W) → (T, H, W, D)."""
    return F.normalize(maps, dim=1).permute(0, 2, 3, 1) * maps.shape[1] ** 0.5


def weighted_mean(maps, weights):
    """Mean over the positions of (T, D, H, W), weighted by (T, H, W): (T, D)."""
    total = weights.sum(dim=(1, 2)).clamp(min=1e-3)
    return torch.einsum('tdhw,thw->td', maps, weights) / total[:, None]


def true_items(maps, covered, centres):
    """Items of positions (T, H, W): 0 if less than COVERED is masked, else that of the nearest."""
    distances = centres.square().sum(dim=1) - 2 * maps.permute(0, 2, 3, 1) @ centres.T
    return (distances.argmin(dim=3) + 1) * (covered >= COVERED)


def minus_items(maps, covered, centres, scale):
    """GAP of maps from which ``scale`` times the true item of each position is subtracted."""
    items = torch.cat([torch.zeros_like(centres[:1]), centres])
    read = items[true_items(maps, covered, centres)]  # (T, H, W, D)
    return maps.mean(dim=(2, 3)) - scale * read.mean(dim=(1, 2))


class Maps:
    """f^o of clips (C, L, D, H, W) and the share of each position in the masks (C, L, H, W)."""

    @torch.no_grad()
    def __init__(self, run, tracklets, plan):
        opened, model, truth = run.opened, run.opened.model.eval(), find_truth(tracklets)
        if truth is None:
            raise InputError(f'{run.target}: masks are known for synthetic data only')
        maps, covered = [], []
        for clips, rows in opened.clips(tracklets, plan):
            with autocast('cpu', opened.embedder.amp):
                own = model.encoder(clips.flatten(0, 1)).frame_features
            maps.append(own.bfloat16().unflatten(0, clips.shape[:2]).contiguous())
            frames = [plan.clip(len(tracklets[row][0]), 0) for row in rows.tolist()]
            known = clip_truth(truth, tracklets, rows.tolist(), frames, tuple(own.shape[2:]))
            covered.append(torch.from_numpy(known.distractor_share))
        self.maps, self.covered = torch.cat(maps), torch.cat(covered)

    def batches(self):
        """Maps (C', L, D, H, W) in float32 and what is covered of them, in order."""
        for rows in torch.arange(len(self.maps)).split(128):
            yield self.maps[rows].float(), self.covered[rows]


class Tested(Maps):
    """The test clips, one for each tracklet."""

    def __init__(self, run):
        super().__init__(run, run.tracklets.all, run.opened.plan)
        self.run, self.dim = run, run.opened.model.feature_dim
        self.labels = [np.array([t[i] for t in run.tracklets.all]) for i in (1, 2)]

    @torch.no_grad()
    def score(self, pooled, after=lambda features: features):
        """Their mAP; ``pooled``: maps and what is covered → (T, D); ``after``: clips → features."""
        found = []
        for maps, covered in self.batches():
            frames = pooled(maps.flatten(0, 1), covered.flatten(0, 1))
            found.append(after(frames.unflatten(0, maps.shape[:2]).mean(dim=1)))
        aps = score_tracklets(self.run, TrackletFeatures(torch.cat(found), *self.labels)).aps
        return float(np.nanmean(aps))


class Training(Persons, Maps):
    """The maps of the training persons, from which batches of clips are drawn."""

    def __init__(self, run, tracklets, length):
        Persons.__init__(self, tracklets, length, KEPT)
        Maps.__init__(self, run, tracklets, ClipPlan(KEPT, 'rrs'))

    def batch(self, rng):
        """Maps (B*L, D, H, W), what is covered of them, and the numbers of their persons (B,)."""
        rows, frames, pids = self.draw(rng)
        drawn = rows[:, None], frames
        return self.maps[drawn].float().flatten(0, 1), self.covered[drawn].flatten(0, 1), pids

    def centres(self, count):
        """Means (count, D) of kinds of covered positions, by k-means."""
        rng, found = np.random.default_rng(0), []
        for maps, covered in self.batches():
            chosen = torch.from_numpy(rng.random(len(maps)) < 0.1)
            positions = maps[chosen].flatten(0, 1).permute(0, 2, 3, 1)
            found.append(positions[covered[chosen].flatten(0, 1) >= COVERED])
        positions = torch.cat(found)[:MOST].numpy()
        return torch.from_numpy(kmeans2(positions, count, minit='++', seed=0)[0]).float()


def train(make, centres, training, tested, cfg, steps, seed):
    """Train a head with BNNeck and classifier; the mAP of the test clips with it."""
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    dim, recipe = tested.dim, Recipe(**recipe_kwargs(cfg))
    head, neck = make(dim, centres), BNNeck(dim)
    classifier = bias_free_classifier(dim, len(training.persons))

    def loss_of():
        maps, covered, pids = training.batch(rng)
        output, probs = head(maps, covered)
        features = output.unflatten(0, (len(pids), -1)).mean(dim=1)
        loss = recipe.cross_entropy(classifier(neck(features)), pids)
        loss = loss + recipe.triplet(features, pids)
        return loss if probs is None else loss + recipe.spread(probs, len(pids))

    fit(nn.ModuleList([head, neck, classifier]), loss_of, cfg, steps)
    return tested.score(lambda maps, covered: head(maps, covered)[0], neck)


def oracles(training, tested):
    """By name, the mAP of f^o as it is and with what is known of the masks."""
    found = {
        'maps as they are': tested.score(lambda maps, covered: maps.mean(dim=(2, 3))),
        'weighted by what is visible': tested.score(
            lambda maps, covered: weighted_mean(maps, 1 - covered)
        ),
    }
    for count in COUNTS:
        centres = training.centres(count)
        for scale in SCALES:
            found[f'true address, {count} item{"s" * (count > 1)} x {scale:g}'] = tested.score(
                lambda maps, covered, c=centres, s=scale: minus_items(maps, covered, c, s)
            )
    return found


def main(argv=None):
    args = parse_args(argv)
    with exit_on_input_error(debug=False):
        if args.json:
            check_writable(args.json)
        cfg = config_of_file(args.config_file, [*BASELINE.split(), *args.opts])
        torch.manual_seed(cfg.train.seed)
        run = open_on_target(cfg, 'encoder')
        tested = Tested(run)
        training = Training(run, training_tracklets(cfg), cfg.video.seq_len)
        oracle = oracles(training, tested)
        rows = [[name, f'{100 * one:.1f}'] for name, one in oracle.items()]
        print(tabulate(rows, ['maps', 'mAP'], tablefmt='pipe', disable_numparse=True))
        centres, found, rows = training.centres(ITEMS - 1), {}, []
        for steps in args.steps:
            for name in args.heads:
                scores = [
                    train(HEADS[name], centres, training, tested, cfg, steps, seed)
                    for seed in range(1, args.seeds + 1)
                ]
                found[f'{name}, {steps} steps'] = scores
                rows.append([name, steps, ', '.join(f'{100 * one:.1f}' for one in scores)])
                print(*rows[-1], sep=' | ', flush=True)
        titles = 'head', 'steps', 'mAP of each seed'
        print(tabulate(rows, titles, tablefmt='pipe', disable_numparse=True))
        if args.json:
            write_json(args.json, {'oracle': oracle, 'heads': found})


if __name__ == '__main__':
    main()
