"""Where does a trained run lose the signal that its memories need?

python studies/distractors/lost_signal.py log/studies/distractors/tm-... --json lost.json

Prints, of a finished run of the study: what the identification loss gains per unit of attention
moved towards the visible frames, at equal weights, on the training persons; with a spatial memory
how far its read-out is aligned with what distractors add to f^o, frames as drawn against the same
frames painted; and the mAP when what distractors add is taken out by a memory that is set by hand,
whose positions address the right item: the ceiling of Eq. 1-3 with unchanged features. The values
set by hand are taken from the tested frames themselves: an oracle, not a result.
"""

import argparse
import os
from pathlib import Path

import numpy as np
import torch

from stmn_plugin.cli.command_line import FROM_ONE, value_of
from stmn_plugin.config.kwargs import recipe_kwargs
from stmn_plugin.config.rules import Whole
from stmn_plugin.datasets.synthetic import ensure_painted
from stmn_plugin.errors import InputError, exit_on_input_error
from stmn_plugin.evaluation.features import TrackletFeatures
from stmn_plugin.looking.clip_truth import clip_truth, find_truth
from stmn_plugin.looking.explained_run import open_on_target
from stmn_plugin.looking.frame_weights import score_tracklets
from stmn_plugin.looking.measures.lost_signal import (
    attention_gradient,
    gradient_and_visibility,
    oracle_memory,
    read_out_and_distractors,
)
from stmn_plugin.looking.opened_run import config_of_run, training_tracklets
from stmn_plugin.losses import Recipe
from stmn_plugin.models import STMN
from stmn_plugin.models.heads import global_average
from stmn_plugin.whole_files import write_json

SCALES = (0.25, 0.5, 1.0)
PERSONS, TRACKLETS = 8, 4  # of a batch whose gradient is taken
TAKEN = 0.1  # of the positions, from which items are made


def parse_args(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.split('\n', 1)[0])
    parser.add_argument('run', help='folder of a finished run')
    parser.add_argument('--checkpoint', default='', help='other weights than the last ones')
    parser.add_argument('--batches', type=FROM_ONE, default=40, help='of training clips (40)')
    count = value_of(Whole(2, 10_000))
    parser.add_argument(
        '--items', type=count, nargs='+', default=[10], help='of memories set by hand (10)'
    )
    parser.add_argument('--json', metavar='FILE')
    parser.add_argument('opts', nargs='*', metavar='KEY VALUE', help='config keys')
    return parser.parse_intermixed_args(argv)


def last_checkpoint(folder):
    paths = Path(folder, 'model').glob('model.pth.tar-*')
    return str(max(paths, key=lambda path: int(path.name.rsplit('-', 1)[1]), default=''))


def training_batches(cfg, tracklets, count):
    """Rows of training tracklets, PERSONS x TRACKLETS in each batch, by the seed of the run."""
    rng, rows_of = np.random.default_rng(cfg.train.seed), {}
    for row, (_, pid, _, _) in enumerate(tracklets):
        rows_of.setdefault(pid, []).append(row)
    persons = sorted(rows_of)
    for _ in range(count):
        chosen = rng.choice(len(persons), min(PERSONS, len(persons)), replace=False)
        picked = [rng.choice(rows_of[persons[one]], TRACKLETS) for one in chosen]
        yield np.concatenate(picked).tolist()


def gradient_of_attention(run, tracklets, count):
    """By the name of an identification loss: the measure on clips of training persons."""
    model, cfg = run.opened.model.eval(), run.cfg
    recipe, truth = Recipe(**recipe_kwargs(cfg)), find_truth(tracklets)
    found, visibility, persons = {}, [], []
    for rows in training_batches(cfg, tracklets, count):
        own = [tracklets[row] for row in rows]
        clips = torch.cat([clips for clips, _ in run.opened.clips(own)])
        with torch.no_grad():
            frames = model.encode_frames(clips.flatten(0, 1))[:, : model.feature_dim]
        pids = torch.tensor([pid for _, pid, _, _ in own], device=frames.device)

        def losses(features, pids=pids):
            logits = model.classifier_clip(model.bnneck_clip(features))
            return {
                'cross_entropy': recipe.cross_entropy(logits, pids),
                'triplet': recipe.triplet(features, pids),
            }

        for name, own_gradient in attention_gradient(
            frames.unflatten(0, clips.shape[:2]), losses
        ).items():
            found.setdefault(name, []).append(own_gradient.cpu().numpy())
        chosen = [run.opened.plan.clip(len(paths), 0) for paths, *_ in own]
        visibility.append(clip_truth(truth, own, range(len(own)), chosen, None).visibility)
        persons.append(pids.cpu().numpy())
    known = np.concatenate(visibility), np.concatenate(persons)
    return {
        name: gradient_and_visibility(np.concatenate(own), *known) for name, own in found.items()
    }


@torch.no_grad()
def maps_of(run, painted):
    """Clip by clip: its tracklet, f^o drawn, what distractors add to it, mask share, A^s."""
    model, tracklets, opened = run.opened.model.eval(), run.tracklets.all, run.opened
    truth = find_truth(tracklets)
    folder = truth.path.parents[2]
    others = [
        (tuple(str(painted / Path(p).relative_to(folder)) for p in paths), *rest)
        for paths, *rest in tracklets
    ]
    number, last = 0, None
    pairs = zip(opened.clips(tracklets), opened.clips(others), strict=True)
    for (drawn, rows), (clean, _) in pairs:
        maps = model.encoder(drawn.flatten(0, 1))
        features = maps.frame_features
        added = features - model.encoder(clean.flatten(0, 1)).frame_features  # (T, D, H, W)
        probs = None
        if model.spatial_memory is not None:
            probs = model.spatial_memory.address(maps.spatial_queries)
            probs = probs.unflatten(0, (len(rows), -1)).cpu().numpy()  # (B, L*K, M)
        added = added.unflatten(0, drawn.shape[:2]).permute(0, 1, 3, 4, 2).flatten(1, 3)
        pooled = global_average(features).unflatten(0, drawn.shape[:2]).mean(dim=1)  # (B, D)
        for place, row in enumerate(rows.tolist()):
            number, last = (number + 1 if row == last else 0), row
            frames = [opened.plan.clip(len(tracklets[row][0]), number)]
            share = clip_truth(truth, tracklets, [row], frames, tuple(features.shape[2:]))
            own = None if probs is None else probs[place]
            yield row, pooled[place], added[place].numpy(), share.distractor_share.ravel(), own


def spatial_ceiling(run, items, painted):
    """The measure of the read-out (None without one), and mAP by what is taken out.

    ``items``: numbers of items of the memories that are set by hand.
    """
    rng, model, tracklets = np.random.default_rng(0), run.opened.model, run.tracklets.all
    taken = {'added': [], 'share': [], 'probs': [], 'persons': []}
    for row, _, added, share, probs in maps_of(run, painted):
        some = rng.random(len(share)) < TAKEN
        taken['added'].append(added[some])
        taken['share'].append(share[some])
        taken['persons'].append(np.full(some.sum(), tracklets[row][1]))
        if probs is not None:
            taken['probs'].append(probs[some])
    added, share, persons = (np.concatenate(taken[key]) for key in ('added', 'share', 'persons'))
    alignment = None
    if taken['probs']:
        probs, values = np.concatenate(taken['probs']), model.spatial_memory.values
        values = values.detach().cpu().numpy()
        alignment = read_out_and_distractors(probs, values, added, share, persons)
    centres = {f'{count} items': oracle_memory(added, share, count)[0][1:] for count in items}
    means = {f'{name} x {scale:g}': [] for name in (*centres, 'added') for scale in SCALES}
    means['nothing'], owners = [], []
    for row, pooled, added, share, _ in maps_of(run, painted):
        removed = {'added': (share[:, None] * added).mean(axis=0)}
        for name, values in centres.items():
            distances = np.square(values).sum(axis=1) - 2 * added @ values.T
            read = values[distances.argmin(axis=1)] * (share >= 0.5)[:, None]
            removed[name] = read.mean(axis=0)
        means['nothing'].append(pooled)
        for name, own in removed.items():
            for scale in SCALES:
                means[f'{name} x {scale:g}'].append(pooled - scale * torch.from_numpy(own).float())
        owners.append(row)
    precisions = {}
    for name, pooled in means.items():
        sums = torch.zeros(len(tracklets), model.feature_dim)
        sums.index_add_(0, torch.tensor(owners), torch.stack(pooled))
        counts = torch.bincount(torch.tensor(owners), minlength=len(tracklets))
        with torch.no_grad():
            features = model.bnneck_clip(sums / counts[:, None])
        labels = (np.array([t[i] for t in tracklets]) for i in (1, 2))
        aps = score_tracklets(run, TrackletFeatures(features, *labels)).aps
        precisions[name] = float(np.nanmean(aps))
    return alignment, precisions


def main(argv=None):
    args = parse_args(argv)
    with exit_on_input_error(debug=False):
        checkpoint = args.checkpoint or last_checkpoint(args.run)
        cfg = config_of_run(args.run, [*args.opts, 'use_gpu', 'False'], checkpoint)
        run = open_on_target(cfg, os.path.basename(args.run))
        if not isinstance(run.opened.model, STMN):
            raise InputError(f'model.name {cfg.model.name}: this looks into stmn')
        truth = find_truth(run.tracklets.all)
        if truth is None:
            raise InputError(f'{run.target}: only synthetic data knows where distractors are')
        painted = ensure_painted(truth.path.parents[4], truth.spec)
        gradients = gradient_of_attention(run, training_tracklets(cfg), args.batches)
        alignment, precisions = spatial_ceiling(run, args.items, painted)
        measures = {f'gradient, {name}': one for name, one in gradients.items()}
        if alignment is not None:
            measures['read-out'] = alignment
        for name, one in measures.items():
            print(f'{name}: {one.verdict}')
            print('   ', ', '.join(f'{key} {value}' for key, value in one.values.items()))
        for name, value in precisions.items():
            print(f'mAP, equal weights, minus {name}: {100 * value:.1f}')
        if args.json:
            found = {name: one.as_dict() for name, one in measures.items()}
            write_json(args.json, {'measures': found, 'mAP': precisions, 'run': args.run})


if __name__ == '__main__':
    main()
