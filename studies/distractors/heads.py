"""What keeps a temporal memory from its ceiling: its form, its address or the number of steps?

python studies/distractors/heads.py --json studies/distractors/heads.json

The frames of the persons to train on and to test on are encoded once by the encoder that every row
starts from, which is not trained any more. On these vectors:

* *N stored attentions, true address*: each clip has the one of N attentions that is nearest to its
  true weights, the square of visibility. The N are made of the tested clips by k-means. An oracle:
  what a temporal memory of N items could gain if it always found the right item (Eq. 6, 7).
* Heads that learn the attention from q^t by the losses of the recipe, from several seeds: a linear
  weight of each frame (as QAN), a linear layer on all queries of the clip, the same on the last
  state of an LSTM (Eq. 4), and temporal memories. `--save` keeps those memories with the encoder,
  as weights from which a row starts (model.load_weights).
"""

import argparse
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from scipy.cluster.vq import kmeans2
from tabulate import tabulate
from torch import nn

from stmn_plugin.cli.command_line import FROM_ONE
from stmn_plugin.config.kwargs import recipe_kwargs
from stmn_plugin.data import sample_rrs
from stmn_plugin.data.frame_samplers import ClipPlan
from stmn_plugin.errors import exit_on_input_error
from stmn_plugin.evaluation.features import TrackletFeatures
from stmn_plugin.looking.explained_run import open_on_target
from stmn_plugin.looking.frame_weights import frame_weights, read_clip_frames, score_tracklets
from stmn_plugin.looking.measures.against_truth import VARIES, correlation
from stmn_plugin.looking.opened_run import config_of_file, training_tracklets
from stmn_plugin.losses import Recipe
from stmn_plugin.models import TemporalMemory, TemporalMLP
from stmn_plugin.models.heads import BNNeck, bias_free_classifier
from stmn_plugin.models.stmn.temporal import TemporalOutput, attend, encode_pattern
from stmn_plugin.whole_files import check_writable, whole_file, write_json

HERE = os.path.dirname(os.path.abspath(__file__))
TEMPORAL_MEMORY = ['stmn.spatial_mode', 'none', 'use_gpu', 'False']
TRUE = 'visibility^2'
KEPT = 12  # frames of a training tracklet, of which a clip draws L by RRS
PERSONS, TRACKLETS = 8, 4  # of a batch
LAST_STEPS = 1 / 6  # of the training, at a tenth of the rate
COUNTS = 1, 2, 3, 5, 10, 20
ITEMS = 5


class FrameWeight(nn.Module):
    """A linear weight of each frame, the same function for all."""

    def __init__(self, dim, length):
        super().__init__()
        self.linear = nn.Linear(dim, 1)

    def forward(self, queries, frames):
        unit = F.normalize(queries, dim=2) * queries.shape[2] ** 0.5
        attention = F.softmax(self.linear(unit)[..., 0], dim=1)
        return TemporalOutput(attend(frames, attention), None, attention)


class LinearAttention(nn.Module):
    """A linear layer from a clip's vector to the logits of its L frames, zero at the start."""

    def __init__(self, dim, length):
        super().__init__()
        self.linear = nn.Linear(self.width(dim, length), length, bias=False)
        nn.init.zeros_(self.linear.weight)

    def forward(self, queries, frames):
        pattern = self.pattern(queries)
        unit = F.normalize(pattern, dim=1) * queries.shape[2] ** 0.5
        attention = F.softmax(self.linear(unit), dim=1)
        return TemporalOutput(attend(frames, attention), None, attention)


class OfAllQueries(LinearAttention):
    """From the queries of all frames, one after the other."""

    def width(self, dim, length):
        return dim * length

    def pattern(self, queries):
        return F.normalize(queries, dim=2).flatten(1)


class OfLastState(LinearAttention):
    """From the last state of an LSTM (Eq. 4)."""

    def __init__(self, dim, length):
        super().__init__(dim, length)
        self.lstm = nn.LSTM(dim, dim, batch_first=True)

    def width(self, dim, length):
        return dim

    def pattern(self, queries):
        return encode_pattern(self.lstm, queries)


class Head(NamedTuple):
    """A kind of head, and what its losses have that those of the others do not."""

    make: Callable[[int, int], nn.Module]  # D, L
    keys: tuple[object, ...] = ()  # of the config, KEY VALUE ...


def memory(*keys, **options):
    """A temporal memory as the study's rows have it."""
    return Head(lambda dim, length: TemporalMemory(dim, ITEMS, length, **options), keys)


HEADS = {
    'linear weight of each frame': Head(FrameWeight),
    'linear, of all queries': Head(OfAllQueries),
    "linear, of the LSTM's state": Head(OfLastState),
    'MLP': Head(lambda dim, length: TemporalMLP(dim, ITEMS, length)),
    'memory': memory(),
    'memory, w/o L_S': memory('loss.spread.weight', 0.0),
    'memory, L_S summed': memory('loss.spread.reduction', 'sum'),
    'memory, scale 1': memory(scale=1.0),
    'memory, attention scale 5': memory(attention_scale=5.0),
    'memory, attention scale 20, values from 0': memory(attention_scale=20.0, value_range=0.0),
}


def parse_args(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.split('\n', 1)[0])
    parser.add_argument('--config-file', default=os.path.join(HERE, 'rows.yaml'))
    parser.add_argument('--steps', type=FROM_ONE, nargs='+', default=[150, 600], help='(150 600)')
    parser.add_argument('--seeds', type=FROM_ONE, default=3, metavar='N')
    parser.add_argument('--heads', nargs='+', choices=HEADS, default=HEADS, metavar='NAME')
    parser.add_argument('--json', metavar='FILE')
    parser.add_argument('--save', metavar='FOLDER', help='for the memories, with the encoder')
    parser.add_argument('opts', nargs='*', metavar='KEY VALUE', help='config keys')
    return parser.parse_intermixed_args(argv)


def stored_attentions(weights, count):
    """Replace true weights (C, L) by the nearest of ``count`` means of k-means."""
    count = min(count, len(np.unique(weights, axis=0)))
    centres, nearest = kmeans2(weights, count, minit='++', seed=0)
    return centres[nearest]


def followed(attention, visibility):
    """Correlation of attention and visibility within a clip, mean over clips where it varies."""
    used = np.ptp(visibility, axis=1) >= VARIES
    found = correlation(attention[used].astype(np.float64), visibility[used].astype(np.float64))
    return float(found.mean())


class Tested:
    """The test clips: attentions → mean average precision and what they follow."""

    def __init__(self, run):
        self.run, self.clips = run, read_clip_frames(run)
        self.dim = run.opened.model.feature_dim
        self.vectors = self.clips.vectors.float()  # (C, L, 2D), a clip for each tracklet
        self.labels = [np.array([t[i] for t in run.tracklets.all]) for i in (1, 2)]

    @property
    def queries(self):
        return self.vectors[..., self.dim :]

    @property
    def frames(self):
        return self.vectors[..., : self.dim]

    def score(self, attention, after=lambda features: features):
        """``after``: from the clips' vectors to their features."""
        features = after(attend(self.frames, attention))
        aps = score_tracklets(self.run, TrackletFeatures(features, *self.labels)).aps
        follows = followed(attention.numpy(), self.clips.visibility)
        return {'mAP': float(np.nanmean(aps)), 'follows': follows}


class Persons:
    """The training persons, of whose tracklets batches are drawn."""

    def __init__(self, tracklets, length, kept):
        self.length, self.kept, self.rows_of = length, kept, {}
        for row, (_, pid, *_) in enumerate(tracklets):
            self.rows_of.setdefault(pid, []).append(row)
        self.persons = sorted(self.rows_of)

    def draw(self, rng):
        """Rows of tracklets (B,), RRS clips of their frames (B, L), numbers of persons (B,)."""
        count = min(PERSONS, len(self.persons))
        chosen = rng.choice(len(self.persons), count, replace=False)
        rows, clips = [], []
        for person in chosen:
            own = self.rows_of[self.persons[person]]
            for row in rng.choice(own, TRACKLETS, replace=len(own) < TRACKLETS):
                rows.append(row)
                clips.append(sample_rrs(self.kept, self.length, rng))
        drawn = np.array(rows), np.array(clips), chosen.repeat(TRACKLETS)
        return tuple(map(torch.from_numpy, drawn))


class Training(Persons):
    """The frames of the training persons, from which batches of clips are drawn."""

    def __init__(self, run, tracklets, length):
        super().__init__(tracklets, length, KEPT)
        clips = read_clip_frames(run, tracklets, ClipPlan(KEPT, 'rrs'))
        self.vectors = clips.vectors.float()  # (C, KEPT, 2D)

    def batch(self, rng):
        """Clips (B, L, 2D) and the numbers of their persons (B,)."""
        rows, frames, pids = self.draw(rng)
        return self.vectors[rows[:, None], frames], pids


def fit(parts, loss_of, cfg, steps):
    """Train parts at the rate of the rows, by the loss that ``loss_of()`` gives for each step."""
    optimizer = torch.optim.Adam(
        parts.parameters(), cfg.train.lr, weight_decay=cfg.train.weight_decay
    )
    parts.train()
    for step in range(steps):
        if step == round(steps * (1 - LAST_STEPS)):
            optimizer.param_groups[0]['lr'] *= cfg.train.gamma
        loss = loss_of()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    parts.eval()


def train(kind, training, tested, cfg, steps, seed):
    """Train a head with BNNeck and classifier; the scores of the test clips, and the head."""
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    own_cfg = cfg.clone()
    own_cfg.merge_from_list(list(kind.keys))
    dim, recipe = tested.dim, Recipe(**recipe_kwargs(own_cfg))
    head, neck = kind.make(dim, training.length), BNNeck(dim)
    classifier = bias_free_classifier(dim, len(training.persons))

    def loss_of():
        clips, pids = training.batch(rng)
        output = head(clips[..., dim:], clips[..., :dim])
        loss = recipe.cross_entropy(classifier(neck(output.output)), pids)
        loss = loss + recipe.triplet(output.output, pids)
        if output.probs is not None:
            loss = loss + recipe.spread(output.probs, len(pids))
        return loss

    fit(nn.ModuleList([head, neck, classifier]), loss_of, cfg, steps)
    with torch.no_grad():
        output = head(tested.queries, tested.frames)
        equal = torch.full_like(output.attention, 1 / training.length)
        true = frame_weights(tested.clips.visibility, TRUE)
        weights = {'own': output.attention, 'equal': equal, 'true': true}
        return {name: tested.score(one, neck) for name, one in weights.items()}, head


def save_start(path, model, head):
    """Write the weights of a model with this memory; a row has classifiers of its own."""
    start = {name: own for name, own in model.state_dict().items() if 'classifier' not in name}
    for name, own in head.state_dict().items():
        start[f'temporal_memory.{name}'] = own
    with whole_file(path) as file:
        torch.save({'state_dict': start}, file)


def shown(scores, name, what, factor=100):
    return ', '.join(f'{factor * one[name][what]:.{1 if factor == 100 else 2}f}' for one in scores)


def main(argv=None):
    args = parse_args(argv)
    with exit_on_input_error(debug=False):
        if args.json:
            check_writable(args.json)
        if args.save:
            os.makedirs(args.save, exist_ok=True)
            check_writable(os.path.join(args.save, 'start'))
        cfg = config_of_file(args.config_file, [*TEMPORAL_MEMORY, *args.opts])
        torch.manual_seed(cfg.train.seed)
        run = open_on_target(cfg, 'encoder')
        tested = Tested(run)
        training = Training(run, training_tracklets(cfg), cfg.video.seq_len)
        true = frame_weights(tested.clips.visibility, TRUE)
        equal = torch.full_like(true, 1 / true.shape[1])
        oracle = {'equal weights': tested.score(equal), 'true weights': tested.score(true)}
        for count in COUNTS:
            attentions = torch.from_numpy(stored_attentions(true.numpy(), count))
            name = f'{count} stored attention{"s" * (count > 1)}, true address'
            oracle[name] = tested.score(attentions)
        rows = [[name, f'{100 * one["mAP"]:.1f}'] for name, one in oracle.items()]
        print(tabulate(rows, ['weights', 'mAP'], tablefmt='pipe', disable_numparse=True))
        found, rows = {}, []
        for steps in args.steps:
            for name in args.heads:
                scores = []
                for seed in range(1, args.seeds + 1):
                    own, head = train(HEADS[name], training, tested, cfg, steps, seed)
                    scores.append(own)
                    if args.save and isinstance(head, TemporalMemory):
                        file = re.sub(r'\W+', '-', f'{name} {steps} seed{seed}') + '.pth'
                        save_start(Path(args.save, file), run.opened.model, head)
                found[f'{name}, {steps} steps'] = scores
                gains = [one['own']['mAP'] - one['equal']['mAP'] for one in scores]
                rooms = [one['true']['mAP'] - one['equal']['mAP'] for one in scores]
                share = f'{100 * sum(gains) / sum(rooms):.0f}'
                cells = (shown(scores, weights, 'mAP') for weights in ('own', 'equal', 'true'))
                rows.append([name, steps, *cells, share, shown(scores, 'own', 'follows', 1)])
                print(*rows[-1], sep=' | ', flush=True)
        titles = 'head', 'steps', 'mAP', 'equal weights', 'true weights', 'share, %', 'follows'
        print(tabulate(rows, titles, tablefmt='pipe', disable_numparse=True))
        if args.json:
            write_json(args.json, {'oracle': oracle, 'heads': found})


if __name__ == '__main__':
    main()
