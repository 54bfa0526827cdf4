"""A trained run and its target → everything the figures and numbers of it are made from, once.

Which tracklets are shown is drawn by a seed, never picked for their looks, or named by the user.
"""

import os
from typing import NamedTuple

import numpy as np
import torch

from stmn_plugin.errors import InputError
from stmn_plugin.evaluation.features import TrackletFeatures
from stmn_plugin.training.resumable import position

from .clip_truth import ClipTruth, clip_truth, find_truth
from .clip_views import view_clips
from .gathering import Gathered, gather
from .trained_run import open_run

PROBES = 10  # rows of Fig. 5
SHOWN = 4  # tracklets of Fig. 7 and 10
QUERIES = 2  # of Fig. 8


class Collection(NamedTuple):
    """The tracklets of a target; DukeMTMC-VideoReID's gallery holds the queries, each is once."""

    tracklets: list  # the host's 4-tuples
    query: np.ndarray  # rows of the query split
    gallery: np.ndarray  # rows of the gallery split


class Choice(NamedTuple):
    """What of a collection is shown; rows of tracklets."""

    probes: np.ndarray  # (P,) of the gallery, Fig. 5
    places: np.ndarray  # (P, 3) in 0..1: frame, row, column within the clip of each probe
    shown: list  # Fig. 7, 10
    queries: list  # Fig. 8
    words: str  # how they were chosen, for captions


class Opened(NamedTuple):
    """A run that can be looked at; nothing of it is computed yet."""

    name: str  # of the run, for titles
    cfg: object  # its CfgNode
    engine: object
    dataset: str
    collection: Collection
    choice: Choice


class Subject(NamedTuple):
    """A run, looked at."""

    name: str  # of the run, for titles
    cfg: object  # its CfgNode
    engine: object
    dataset: str
    collection: Collection
    choice: Choice
    weights: str  # file and epoch, for captions
    gathered: Gathered
    grid: tuple  # (H, W) of the feature maps
    truth: ClipTruth | None

    @property
    def data_in_words(self):
        """What was looked at, for captions."""
        return (
            f'{self.dataset}, query and gallery, {len(self.collection.tracklets)} tracklets, '
            f'frames {self.engine.settings.plan.title}'
        )

    def features(self, kind):
        """Query and gallery as TrackletFeatures of 'frame' (f^o) or 'refined' (f^s) features."""
        features = torch.from_numpy(getattr(self.gathered, f'{kind}_features'))
        pids, camids = (np.array([t[i] for t in self.collection.tracklets]) for i in (1, 2))
        return [
            TrackletFeatures(features[rows], pids[rows], camids[rows])
            for rows in (self.collection.query, self.collection.gallery)
        ]


def has_memory(run):
    """Of an Opened or a Subject: the model has a spatial or a temporal memory."""
    return 'memory' in (run.cfg.stmn.spatial_mode, run.cfg.stmn.temporal_mode)


def open_subject(cfg, name, words=(), seed=0):
    """Open a run and choose what of its first target is shown.

    Args:
        cfg (CfgNode): with the weights to look at.
        name (str): of the run.
        words (list): tracklets to show, see :func:`choose`; drawn by the seed when there are none.
        seed (int): of what is drawn.

    Returns:
        Opened

    Raises:
        InputError: not STMN, no such tracklet, or anything in the config that cannot work.
    """
    if cfg.data.type != 'video':
        raise InputError('data.type: the memories of a model are looked at on video data')
    if cfg.model.name != 'stmn':
        raise InputError(f'{name}: model.name: {cfg.model.name} has no memories to look at')
    engine = open_run(cfg)
    dataset = next(iter(engine.test_loader))  # 'mars-validation' where identities are held out
    splits = engine.datamanager.test_dataset[dataset]
    collection = collect(splits['query'], splits['gallery'])
    return Opened(name, cfg, engine, dataset, collection, choose(collection, words, seed))


def study(opened):
    """Look at every tracklet of an opened run.

    Returns:
        Subject

    Raises:
        InputError: a frame cannot be read, or features are not finite.
    """
    engine, choice = opened.engine, opened.choice
    tracklets = opened.collection.tracklets
    truth = find_truth(tracklets)
    keep = {*choice.probes.tolist(), *choice.shown}
    views = view_clips(engine, tracklets)
    gathered = gather(views, len(tracklets), keep, keep_changes=truth is not None)
    grid = next(iter(gathered.kept.values())).frame_norms.shape[1:]
    if truth is not None:
        places = gathered.clip_tracklets, gathered.clip_frames
        truth = clip_truth(truth, tracklets, *places, grid)
    weights = weights_in_words(opened.cfg)
    return Subject(*opened, weights=weights, gathered=gathered, grid=grid, truth=truth)


def weights_in_words(cfg):
    """'model-best.pth.tar, epoch 30'."""
    path = cfg.model.load_weights
    if not path:
        return 'initial weights'
    name = os.path.basename(path)
    try:
        epoch, batches = position(os.path.expanduser(path))
    except InputError:  # weights of another program
        return name
    return f'{name}, within epoch {epoch + 1}' if batches > 0 else f'{name}, epoch {epoch}'


def collect(query, gallery):
    """The lists of a target as one, each tracklet once.

    Returns:
        Collection
    """
    row_of, tracklets, rows = {}, [], []
    for split in (query, gallery):
        for tracklet in split:
            paths = tuple(tracklet[0])
            if paths not in row_of:
                row_of[paths] = len(tracklets)
                tracklets.append(tracklet)
        rows.append(np.array([row_of[tuple(t[0])] for t in split], dtype=np.int64))
    return Collection(tracklets, *rows)


def choose(collection, words, seed):
    """What is shown.

    Args:
        collection (Collection): of the target.
        words (list): each a part of the path of one tracklet's first frame, such as
            '0033C1T0001'; the tracklets of Fig. 7 and 10 and, those that are queries, of Fig. 8.
        seed (int): of what is drawn.

    Returns:
        Choice

    Raises:
        InputError: a word that fits no tracklet or several.
    """
    rng = np.random.default_rng(seed)
    gallery = collection.gallery
    probes = rng.choice(gallery, size=min(PROBES, len(gallery)), replace=False)
    places = rng.random((len(probes), 3))
    if words:
        shown = [find_tracklet(collection.tracklets, word) for word in words]
        queries = [row for row in shown if row in set(collection.query.tolist())]
        return Choice(probes, places, shown, queries, 'chosen by name')
    shown = rng.choice(gallery, size=min(SHOWN, len(gallery)), replace=False).tolist()
    candidates = matchable(collection)
    queries = rng.choice(candidates, size=min(QUERIES, len(candidates)), replace=False).tolist()
    return Choice(probes, places, shown, queries, f'drawn at random (seed {seed})')


def find_tracklet(tracklets, word):
    """Row of the one tracklet whose first frame's path holds the word."""
    found = [row for row, (paths, *_) in enumerate(tracklets) if word in str(paths[0])]
    if len(found) != 1:
        raise InputError(f'--tracklets {word}: the path of one tracklet, not of {len(found)}')
    return found[0]


def matchable(collection):
    """Rows of the queries whose person another camera of the gallery saw."""
    cameras = {}  # pid → its cameras in the gallery
    for row in collection.gallery.tolist():
        _, pid, camid, _ = collection.tracklets[row]
        cameras.setdefault(pid, set()).add(camid)
    queries = [(row, collection.tracklets[row]) for row in collection.query.tolist()]
    return [row for row, (_, pid, camid, _) in queries if cameras.get(pid, set()) - {camid}]
