"""STMN and tracklets → what its memories did in every clip: maps, probabilities, attention."""

from typing import NamedTuple

import numpy as np
import torch

from stmn_plugin.errors import InputError
from stmn_plugin.models import STMN


class ClipView(NamedTuple):
    """One clip as the model saw it. Letters are those of ``models/memory.py``; float32 arrays."""

    tracklet: int  # row of the list of tracklets
    frames: np.ndarray  # (L,) int64, indices into the tracklet's paths
    attention: np.ndarray  # (L,) o-hat, sums to 1
    temporal_probs: np.ndarray | None  # (N,) A^t; None where there is no temporal memory
    spatial_probs: np.ndarray | None  # (L, H, W, M) A^s; None where there is no spatial memory
    frame_norms: np.ndarray  # (L, H, W) |f^o|
    refined_norms: np.ndarray  # (L, H, W) |f^s|
    change_norms: np.ndarray  # (L, H, W) |f^s - f^o|
    frame_feature: np.ndarray  # (D,) temporal average of GAP(f^o)
    refined_feature: np.ndarray  # (D,) temporal average of GAP(f^s)
    clip_feature: np.ndarray  # (D,) f^t after the BNNeck, what is searched


@torch.no_grad()
def view_clips(engine, tracklets, plan=None):
    """Views of the clips of tracklets, in order.

    Args:
        engine: from :func:`stmn_plugin.looking.trained_run.open_run`.
        tracklets (list): the host's 4-tuples (img_paths, pid, camid, dsetid).
        plan (ClipPlan, optional): which frames make a clip; the engine's own by default.

    Yields:
        ClipView

    Raises:
        InputError: the model is not STMN, or a frame cannot be read.
    """
    model, settings = engine.model, engine.settings
    if not isinstance(model, STMN):
        raise InputError(f'model.name: {type(model).__name__} has no memories to look at')
    plan = settings.plan if plan is None else plan
    clip = 0  # of its tracklet
    last = None
    for batch in engine.datamanager.planned_clips(tracklets, plan, settings.batch_size):
        details = _look(model, engine.prepare(batch.frames), batch.rows)
        for index, tracklet in enumerate(batch.tracklets.tolist()):
            clip, last = (clip + 1 if tracklet == last else 0), tracklet
            frames = plan.clip(len(tracklets[tracklet][0]), clip)
            own = {
                name: None if value is None else value[index].float().cpu().numpy()
                for name, value in details.items()
            }
            yield ClipView(tracklet, frames, **own)


def _look(model, frames, rows):
    """Fields of ClipView as tensors with the clips (B, ...) in front; frames (T, 3, h, w)."""
    rows = rows.to(frames.device)  # (B, L)
    maps = model.encoder(frames)
    original = maps.frame_features  # (T, D, H, W)
    height, width = original.shape[2:]
    if model.spatial_memory is None:
        refined, spatial_probs = original, None
    else:
        refined = model.spatial_memory.refine(original, maps.spatial_queries)
        _, probs = model.spatial_memory(original, maps.spatial_queries)  # (T*K, M)
        spatial_probs = probs.view(len(frames), height, width, -1)[rows]
    vectors = refined.mean(dim=(2, 3))[rows]  # (B, L, D)
    queries = maps.temporal_queries
    queries = None if queries is None else queries[rows]
    clip = model.temporal_memory(queries, vectors)
    return {
        'attention': clip.attention,
        'temporal_probs': clip.probs,
        'spatial_probs': spatial_probs,
        'frame_norms': torch.linalg.vector_norm(original, dim=1)[rows],
        'refined_norms': torch.linalg.vector_norm(refined, dim=1)[rows],
        'change_norms': torch.linalg.vector_norm(refined - original, dim=1)[rows],
        'frame_feature': original.mean(dim=(2, 3))[rows].mean(dim=1),
        'refined_feature': vectors.mean(dim=1),
        'clip_feature': model.bnneck_clip(clip.output),
    }
