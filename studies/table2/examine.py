"""Which part of a finished row of Table 2 ranks badly, and which loss moves its encoder?

python studies/table2/examine.py log/table2/rows/sta-f7b45462-seed1

Prints rank-1 and mAP (cosine, RRS) of parts of the feature of a trained row: the mean of the
frames' conv5 vectors, then the outputs of the layers that follow. Prints the same for the weights
that the row starts from, and the norms of the gradients that the losses of its first batch give
the encoder.
"""

import argparse
import json
import os

import numpy as np
import torch
from tabulate import tabulate

from stmn_plugin.errors import InputError, exit_on_input_error
from stmn_plugin.evaluation.ranking import rank_features
from stmn_plugin.host.runner import prepare
from stmn_plugin.looking.explained_run import open_on_target
from stmn_plugin.looking.opened_run import config_of_file, config_of_run
from stmn_plugin.models.heads import global_average
from stmn_plugin.models.systems.sta import fuse

CONV5 = "mean of the frames' conv5"


def of_stmn(model, maps):
    return {'after the BNNeck': model.bnneck_clip(mean_of_frames(maps))}


def of_sta(model, maps):
    vectors = model._vectors(maps.flatten(0, 1)).unflatten(0, maps.shape[:2])
    best, summed = fuse(*model._parts(vectors)).chunk(2, dim=1)
    reduced = model.reduce(torch.cat([best, summed], dim=1))
    return {
        'best frame of each part': best,
        'weighted sum of frames': summed,
        'both': torch.cat([best, summed], dim=1),
        'after the linear layer': reduced,
        'after its batch norm': model.bn(reduced),
        'after the ReLU (the row)': model.bn(reduced).relu(),
    }


def of_gltr(model, maps):
    vectors = model._vectors(maps.flatten(0, 1)).unflatten(0, maps.shape[:2])  # (B, L, d)
    stacked = model.pyramid(vectors)
    feature = model.clip_feature(vectors)
    return {
        'x, frame vectors': vectors.mean(dim=1),
        'dilated convolutions': stacked.mean(dim=1)[:, vectors.shape[2] :],
        'both': stacked.mean(dim=1),
        'after the attention': feature,
        'after the BNNeck (the row)': model.neck(feature),
    }


def of_stmp(model, maps):
    refined, vectors = model.rru(maps), vectors_of(maps)
    state, states = vectors[:, 0], []
    for frame in vectors.unbind(dim=1):
        state = (state + frame) / 2
        states.append(state)
    stages, maps = {}, refined.transpose(1, 2)  # (B, C, L, H, W)
    for number, layer in enumerate(model.stim):
        maps = layer(maps)
        if number in (2, 5):  # the ReLUs
            name = 'after 1x1x1' if number == 2 else 'after 3x3x3 (the row)'
            stages[name] = maps.mean(dim=(2, 3, 4))
    return {
        'first frame alone': vectors[:, 0],
        'refined by gates of 1/2': torch.stack(states).mean(dim=0),
        'refined maps': mean_of_frames(refined),
        'the last of them': refined[:, -1].mean(dim=(2, 3)),
        **stages,
    }


def of_csa(model, maps):
    snippets = model.snippets(vectors_of(maps))
    return {'v, frame vectors': snippets.values.mean(dim=1), 'e, by own query': snippets.feature}


PARTS = {'stmn': of_stmn, 'sta': of_sta, 'gltr': of_gltr, 'stmp': of_stmp, 'csa': of_csa}


def vectors_of(maps):
    """(B, L, D, H, W) → (B, L, D)."""
    return global_average(maps.flatten(0, 1)).unflatten(0, maps.shape[:2])


def mean_of_frames(maps):
    """(B, L, D, H, W) → (B, D)."""
    return vectors_of(maps).mean(dim=1)


@torch.no_grad()
def rank_parts(cfg):
    """Name of a part → its numbers, rank-1 and mAP in per cent."""
    run = open_on_target(cfg, '')
    model, tracklets = run.opened.model, run.tracklets.all
    found = {}
    for clips, _ in run.opened.clips(tracklets):
        maps = model.encoder(clips.flatten(0, 1)).frame_features.unflatten(0, clips.shape[:2])
        parts = {CONV5: mean_of_frames(maps), **PARTS[cfg.model.name](model, maps)}
        for name, features in parts.items():
            found.setdefault(name, []).append(features)
    pids, camids = (np.array([tracklet[i] for tracklet in tracklets]) for i in (1, 2))
    query, gallery = run.tracklets.query, np.arange(len(tracklets))  # official: queries searched
    scores = {}
    for name, features in found.items():
        features = torch.cat(features)
        labels = pids[query], pids[gallery], camids[query], camids[gallery]
        ranking = rank_features(features[query], features[gallery], *labels)
        scores[name] = features.shape[1], 100 * ranking.cmc[0], 100 * ranking.mean_ap
    return scores


def gradient_norms(cfg):
    """Name of a loss → its value for the first batch, norm of its gradient at the encoder."""
    engine = prepare(cfg)
    model = engine.model.train()
    terms = engine.trainer.loss_of(next(iter(engine.train_loader))).terms
    parameters = list(model.backbone().parameters())
    norms = {}
    for name, loss in terms.items():
        if not loss.requires_grad:
            continue  # an accuracy
        found = torch.autograd.grad(loss, parameters, retain_graph=True, allow_unused=True)
        squares = sum(one.double().square().sum() for one in found if one is not None)
        norms[name] = loss.item(), float(squares) ** 0.5
    return norms


def main():
    parser = argparse.ArgumentParser(description=__doc__.split('\n', 1)[0])
    parser.add_argument('run', help='folder of a finished row')
    parser.add_argument('--json', metavar='FILE', help='also write the numbers here')
    parser.add_argument('words', nargs='*', metavar='KEY VALUE', help='config keys')
    args = parser.parse_intermixed_args()
    with exit_on_input_error(debug=False):
        trained = config_of_run(args.run, args.words)
        if trained.model.name not in PARTS:
            raise InputError(f'model.name {trained.model.name}: only {", ".join(PARTS)}')
        file = os.path.join(args.run, 'config.yaml')
        start = config_of_file(file, args.words)
        training = start.clone()
        training.defrost()
        training.test.evaluate = False
        training.freeze()
        norms = gradient_norms(training)
        found = {'start': rank_parts(start), 'trained': rank_parts(trained)}
    table = [
        [name, size, *found['start'][name][1:], *one]
        for name, (size, *one) in found['trained'].items()
    ]
    headers = ['part', 'numbers', 'start: rank-1', 'mAP', 'trained: rank-1', 'mAP']
    print(tabulate(table, headers=headers, floatfmt='.1f'))
    losses = [(name, *values) for name, values in norms.items()]
    print(tabulate(losses, headers=['loss', 'first batch', 'gradient'], floatfmt='.2f'))
    if args.json:
        with open(args.json, 'w', encoding='utf-8') as file:
            json.dump({**found, 'gradients': norms}, file, indent=1)


if __name__ == '__main__':
    main()
