"""Collect everything that figures and measures need of a run's first target, in one pass."""

import os
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from yacs.config import CfgNode

from stmn_plugin.errors import InputError
from stmn_plugin.evaluation.features import TrackletFeatures
from stmn_plugin.training.resumable import position

from .clip_statistics import ClipStatistics, reduce_clips
from .clip_truth import ClipTruth, clip_truth, find_truth
from .opened_run import OpenedRun, open_run, view_clips
from .tracklet_selection import ChosenTracklets, TargetTracklets, select_tracklets, unite_splits

CHANGES = {'frame_norms', 'refined_norms', 'change_norms'}


@dataclass(frozen=True)
class RunOnTarget:
    """An opened run and the tracklets of its first target to show; nothing is computed yet."""

    name: str  # of the run, for titles
    opened: OpenedRun
    target: str  # name of the dataset
    tracklets: TargetTracklets
    selection: ChosenTracklets

    @property
    def cfg(self) -> CfgNode:
        """Config of the run."""
        return self.opened.cfg

    @property
    def explains(self) -> frozenset[str]:
        """Names that the model explains."""
        return self.opened.explains


@dataclass(frozen=True)
class ExplainedRun(RunOnTarget):
    """A run with the statistics of its model's explanations for every clip of the target."""

    statistics: ClipStatistics
    truth: ClipTruth | None  # the truth about synthetic clips

    @property
    def weights(self) -> str:
        """Weights in words for captions: 'model-best.pth.tar, epoch 30'."""
        return weights_line(self.cfg)

    @property
    def data_line(self) -> str:
        """Dataset, tracklets and frames, for captions."""
        return (
            f'{self.target}, query and gallery, {len(self.tracklets.all)} tracklets, '
            f'frames {self.opened.plan.title}'
        )

    def features(self, name: str) -> tuple[TrackletFeatures, TrackletFeatures]:
        """Return query and gallery with 'frame_feature' or 'refined_feature', means over clips."""
        features = torch.from_numpy(getattr(self.statistics, name))
        pids, camids = (np.array([t[i] for t in self.tracklets.all]) for i in (1, 2))
        query, gallery = (
            TrackletFeatures(features[rows], pids[rows], camids[rows])
            for rows in (self.tracklets.query, self.tracklets.gallery)
        )
        return query, gallery


def open_on_target(
    cfg: CfgNode, name: str, tracklets: Sequence[str] = (), seed: int = 0
) -> RunOnTarget:
    """Open a run and select the tracklets of its first target to show.

    Args:
        cfg: config with the weights to load.
        name: name of the run.
        tracklets: names of the ones to show, see :func:`select_tracklets`; drawn if empty.
        seed: seed of the draw.

    Raises:
        InputError: no such tracklet, or invalid settings or files.
    """
    opened = open_run(cfg)
    target = next(iter(opened.targets))
    united = unite_splits(opened.targets[target].query, opened.targets[target].gallery)
    return RunOnTarget(name, opened, target, united, select_tracklets(united, tracklets, seed))


def explain_run(run: RunOnTarget) -> ExplainedRun:
    """Let the model explain every clip of the target; skip this if it explains nothing.

    Raises:
        InputError: a frame cannot be read, or an explanation is not finite.
    """
    tracklets = run.tracklets.all
    truth = find_truth(tracklets)
    keep = {*run.selection.probes.tolist(), *run.selection.shown}
    views = view_clips(run.opened, tracklets) if run.explains else ()
    keep_changes = truth is not None and run.explains >= CHANGES
    statistics = reduce_clips(views, len(tracklets), keep, keep_changes)
    of_clips = None
    if truth is not None and statistics.kept:
        kept = next(iter(statistics.kept.values()))
        grid = None
        if 'frame_norms' in kept:
            height, width = kept['frame_norms'].shape[1:]
            grid = height, width
        places = statistics.clip_tracklets, statistics.clip_frames
        of_clips = clip_truth(truth, tracklets, *places, grid)
    return ExplainedRun(**vars(run), statistics=statistics, truth=of_clips)


def weights_line(cfg: CfgNode) -> str:
    """Describe the weights of a run: 'model-best.pth.tar, epoch 30'."""
    path: str = cfg.model.load_weights
    if not path:
        return 'initial weights'
    name = os.path.basename(path)
    try:
        epoch, batches = position(os.path.expanduser(path))
    except InputError:  # weights of another program
        return name
    return f'{name}, within epoch {epoch + 1}' if batches > 0 else f'{name}, epoch {epoch}'
