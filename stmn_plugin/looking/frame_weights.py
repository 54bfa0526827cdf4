"""Rank a trained run's tracklets with given weights of frames, its own or true ones.

This bounds the gain of a temporal memory: the vectors of the frames stay as trained, and each frame
is weighted by the visibility of the person. Letters: C clips, L frames, V values per frame, D
feature dimensions, Q queries.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stmn_plugin.data.frame_samplers import ClipPlan
from stmn_plugin.data.tracklets import Tracklet
from stmn_plugin.errors import InputError
from stmn_plugin.evaluation.evaluator import Searched
from stmn_plugin.evaluation.features import (
    ClipFeatures,
    TrackletFeatures,
    mean_over_clips,
)
from stmn_plugin.evaluation.protocols import apply_protocol
from stmn_plugin.evaluation.ranking import QueryScores
from stmn_plugin.models.base import VideoModel
from stmn_plugin.training.speed import InferenceModel

from .clip_truth import clip_truth, find_truth
from .explained_run import RunOnTarget

OWN, EQUAL, MOST_VISIBLE = 'own', 'equal', 'most visible'
POWERS = {'visibility': 1, 'visibility^2': 2, 'visibility^4': 4}
WEIGHTINGS = (OWN, EQUAL, *POWERS, MOST_VISIBLE)


class ClipFrames(NamedTuple):
    """The clips of a target as vectors of their frames, and the visibility of the persons."""

    vectors: Tensor  # (C, L, V) of ``VideoModel.encode_frames``
    tracklets: Tensor  # (C,) rows of the tracklets that were encoded
    visibility: NDArray[np.float32]  # (C, L) share of the person that the frame shows


def frame_weights(visibility: NDArray[np.float32], weighting: str) -> Tensor:
    """Compute weights (C, L) that sum to 1 per clip; equal ones if no frame shows the person.

    Args:
        visibility: (C, L) in 0..1.
        weighting: one of WEIGHTINGS except OWN.

    >>> frame_weights(np.array([[0.5, 1.0]], np.float32), 'visibility^2')
    tensor([[0.2000, 0.8000]])
    """
    seen = torch.from_numpy(visibility)
    if weighting == EQUAL:
        seen = torch.ones_like(seen)
    elif weighting == MOST_VISIBLE:  # the first of equal ones
        best = seen.argmax(dim=1, keepdim=True)
        seen = torch.zeros_like(seen).scatter_(1, best, 1.0)
    else:
        seen = seen ** POWERS[weighting]
    unseen = seen.sum(dim=1, keepdim=True) == 0
    seen = seen.masked_fill(unseen, 1.0)
    return seen / seen.sum(dim=1, keepdim=True)


def embed_weighted(model: VideoModel, vectors: Tensor, weights: Tensor) -> Tensor:
    """Compute features (B, D) of clips (B, L, V) with given weights (B, L) of their frames.

    Every frame of the clip is replaced by the weighted mean. A model whose attention sums to 1 over
    the frames then computes the feature of that mean for any attention.
    """
    mean = torch.einsum('bl,blv->bv', weights.to(vectors), vectors)
    return model.embed(mean.unsqueeze(1).expand_as(vectors))


@torch.no_grad()
def read_clip_frames(
    run: RunOnTarget, tracklets: Sequence[Tracklet] | None = None, plan: ClipPlan | None = None
) -> ClipFrames:
    """Encode every clip of tracklets.

    Args:
        run: the run whose model encodes.
        tracklets: the host's 4-tuples; those of the target by default.
        plan: rule of division into clips; the run's own by default.

    Raises:
        InputError: the data has no truth, the model has no frame vectors, or a frame is unreadable.
    """
    opened = run.opened
    tracklets, plan = tracklets or run.tracklets.all, plan or opened.plan
    truth = find_truth(tracklets)
    if truth is None:
        raise InputError(f'{run.target}: visibility is known for synthetic data only')
    if not opened.model.frame_once:
        raise InputError(f'model.name {run.cfg.model.name}: it has no vectors of single frames')
    embedder, vectors, owners = opened.embedder, [], []
    model = InferenceModel(opened.model, embedder.device, embedder.amp, embedder.fold_bn)
    for clips, rows in opened.clips(tracklets, plan):
        frames = model.encode_frames(clips.flatten(0, 1))  # (B*L, V)
        vectors.append(frames.unflatten(0, clips.shape[:2]).cpu())
        owners.append(rows)
    clip_tracklets = torch.cat(owners)
    numbers = clip_tracklets.tolist()
    counted: dict[int, int] = {}
    frames_of = []
    for tracklet in numbers:
        number = counted[tracklet] = counted.get(tracklet, -1) + 1
        frames_of.append(plan.clip(len(tracklets[tracklet][0]), number))
    known = clip_truth(truth, tracklets, numbers, frames_of, None)
    return ClipFrames(torch.cat(vectors), clip_tracklets, known.visibility)


@torch.no_grad()
def rank_weighted(
    run: RunOnTarget, clips: ClipFrames, weightings: Iterable[str] = WEIGHTINGS
) -> dict[str, QueryScores]:
    """Score every query with each weighting, by its name.

    Args:
        run: the run of the clips.
        clips: clips of :func:`read_clip_frames`.
        weightings: some of WEIGHTINGS; OWN is the model's own attention.
    """
    model, device = run.opened.model.eval(), run.opened.embedder.device
    scores = {}
    for name in weightings:
        weights = None if name == OWN else frame_weights(clips.visibility, name)
        batches = []
        for rows in torch.arange(len(clips.vectors)).split(256):
            vectors = clips.vectors[rows].to(device)
            if weights is None:
                features = model.embed(vectors)
            else:
                features = embed_weighted(model, vectors, weights[rows])
            ones = torch.ones(len(rows), dtype=torch.float64)
            alone = torch.zeros(len(rows), dtype=torch.bool)
            batches.append(ClipFeatures(features, ones, clips.tracklets[rows], alone))
        finish = lambda means: model.finish(means.to(device)).float().cpu()  # noqa: E731
        scores[name] = score_tracklets(run, mean_over_clips(batches, run.tracklets.all, finish))
    return scores


def score_tracklets(run: RunOnTarget, features: TrackletFeatures) -> QueryScores:
    """Score every query with features of ``run.tracklets.all``."""
    evaluator = run.opened.evaluator()
    query, gallery = (
        TrackletFeatures(features.features[rows], features.pids[rows], features.camids[rows])
        for rows in (run.tracklets.query, run.tracklets.gallery)
    )
    if evaluator.options.normalize_feature:
        query, gallery = query.normalized(), gallery.normalized()
    needs = run.opened.targets[run.target].gallery_needs_queries
    searched = Searched(query, apply_protocol(query, gallery, evaluator.protocol, needs))
    return evaluator.score(searched)
