"""A model and planned clips → one feature per tracklet; every frame is encoded once.

A *frame model* is a ``VideoModel`` with ``frame_once``: ``encode_frames`` needs one frame at a
time, ``embed`` puts clips of those vectors together. Between the two the vectors may be kept
(``feature_store.py``) and put together again in another way.
"""

from typing import NamedTuple

import numpy as np
import torch
from tqdm import tqdm

from stmn_plugin.distributed import is_main
from stmn_plugin.errors import InputError

from .search import unit_vectors

# of a clip without a readable frame of its own: nothing beside any other clip of its tracklet
STAND_IN_WEIGHT = 1e-12


class TrackletFeatures(NamedTuple):
    features: torch.Tensor  # (G, D) on the CPU
    pids: np.ndarray  # (G,)
    camids: np.ndarray  # (G,)

    def normalized(self):
        """With features of length 1."""
        return self._replace(features=unit_vectors(self.features))


def join_tracklets(parts):
    """The TrackletFeatures of several lists of tracklets, one after the other."""
    return TrackletFeatures(
        torch.cat([part.features for part in parts]),
        np.concatenate([part.pids for part in parts]),
        np.concatenate([part.camids for part in parts]),
    )


class ClipVectors(NamedTuple):
    """A batch of clips as vectors of frames; mirrored frames come as a second set."""

    vectors: torch.Tensor  # (1 or 2, T, V)
    rows: torch.Tensor  # (B, L) rows of T that make each clip
    tracklets: torch.Tensor  # (B,)
    stand_ins: torch.Tensor  # (B,) bool: the clip itself has no readable frame


class ImageFrameModel:
    """An image model of the host as a frame model: features of frames, pooled over the clip.

    With ``weights`` of the frames (each distinct frame 1, repeats 0) a tracklet's feature is the
    mean over its frames whatever the clips are; the host's RRS counts repeats.
    """

    def __init__(self, model, pooling='avg'):
        self.model = model
        self.pooling = pooling

    def encode_frames(self, frames):
        """(T, 3, H, W) → (T, D)"""
        return self.model(frames)

    def embed(self, vectors):
        """(B, L, D) → (B, D)"""
        return vectors.mean(dim=1) if self.pooling == 'avg' else vectors.amax(dim=1)


def frame_model(model, pooling='avg'):
    """The model itself if it is one, or an image model made one."""
    return model if hasattr(model, 'embed') else ImageFrameModel(model, pooling)


@torch.no_grad()
def encode_clips(loader, model, prepare, flip, description, bad_frames):
    """Clips of a loader → ClipVectors, batch by batch.

    Args:
        loader (DataLoader): of ``ClipBatch``.
        model: a frame model, in eval mode.
        prepare (callable): frames → normalised frames on the model's device.
        flip (bool): encode the mirrored frames, too.
        description (str): for the progress bar, quiet when stderr is no terminal.
        bad_frames (list): gets the paths that were left out.
    """
    quiet = None if is_main() else True  # None: when stderr is no terminal
    for batch in tqdm(loader, desc=description, unit='batch', leave=False, disable=quiet):
        frames = prepare(batch.frames)
        views = [frames, frames.flip(-1)] if flip else [frames]
        vectors = torch.stack([model.encode_frames(view) for view in views])
        bad_frames.extend(batch.bad_frames)
        yield ClipVectors(vectors, batch.rows, batch.tracklets, batch.stand_ins)


@torch.no_grad()
def pool_tracklets(batches, model, tracklets, every_frame=False):
    """ClipVectors → one feature per tracklet, the mean over its clips (and over mirrored ones).

    Args:
        batches (iterable): of ClipVectors.
        model: a frame model, in eval mode.
        tracklets (list): the host's 4-tuples, for pids and camids.
        every_frame (bool): weigh a clip of an image model by its distinct frames, so that the
            feature is the mean over all frames.

    Returns:
        TrackletFeatures

    Raises:
        InputError: a feature is not finite.
    """
    sums, weights = None, torch.zeros(len(tracklets), dtype=torch.float64)
    for vectors, rows, owners, stand_ins in batches:
        features, weight = _clip_features(model, vectors, rows, every_frame)
        weight = torch.where(stand_ins, STAND_IN_WEIGHT * weight, weight)
        if sums is None:
            sums = torch.zeros(len(tracklets), features.shape[1], dtype=torch.float64)
        sums.index_add_(0, owners, features.double().cpu() * weight[:, None])
        weights.index_add_(0, owners, weight)
    features = (sums / weights[:, None]).float()
    broken = (~torch.isfinite(features).all(dim=1)).nonzero().flatten().tolist()
    if broken:
        raise InputError(
            f'the model gives features that are NaN or infinite for {len(broken)} of '
            f'{len(tracklets)} tracklets, first {tracklets[broken[0]][0][0]}'
        )
    return TrackletFeatures(
        features,
        np.array([pid for _, pid, _, _ in tracklets]),
        np.array([camid for _, _, camid, _ in tracklets]),
    )


def _clip_features(model, vectors, rows, every_frame):
    """Features (B, D), mean over the views, and the weight of each clip (B,)."""
    rows_there = rows.to(vectors.device)
    if every_frame and isinstance(model, ImageFrameModel) and model.pooling == 'avg':
        distinct = torch.ones_like(rows, dtype=torch.float64)
        distinct[:, 1:] = (rows[:, 1:] != rows[:, :-1]).double()  # repeats stand together
        weight = distinct.sum(dim=1)  # (B,)
        share = (distinct / weight[:, None]).to(vectors)  # (B, L)
        views = [torch.einsum('bl,bld->bd', share, view[rows_there]) for view in vectors]
    else:
        weight = torch.ones(len(rows), dtype=torch.float64)
        views = [model.embed(view[rows_there]) for view in vectors]
    return torch.stack(views).mean(dim=0), weight
