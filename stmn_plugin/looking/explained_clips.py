"""Let a model explain clips of tracklets, and check the result."""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stmn_plugin.data.clip_plans import clip_loader
from stmn_plugin.data.frame_samplers import ClipPlan
from stmn_plugin.data.tracklets import Frames, Tracklet, as_tracklets
from stmn_plugin.evaluation.embedder import Embedder
from stmn_plugin.models.base import VideoModel
from stmn_plugin.models.explanations import check_explained


@torch.no_grad()
def explain(model: VideoModel, clips: Tensor) -> dict[str, Tensor]:
    """Call ``model.explain`` and check its result.

    Raises:
        ValueError: a tensor's shape does not fit its name in ``explanations.py``.
    """
    explained = model.explain(clips)
    check_explained(explained, *clips.shape[:2])
    return explained


def read_clips(
    embedder: Embedder, tracklets: Sequence[Tracklet], plan: ClipPlan
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield normalised clips (B, L, 3, H, W) on the device and the rows (B,) of their tracklets.

    Raises:
        InputError: a frame cannot be read.
    """
    loader = clip_loader(
        tracklets,
        plan,
        embedder.height,
        embedder.width,
        embedder.mean,
        embedder.std,
        batch_size=embedder.batch_size,
        workers=embedder.workers,
        as_uint8=True,
        skip_bad=embedder.skip_bad,
    )
    for batch in loader:
        frames = embedder.prepare(batch.frames)  # (T, 3, H, W)
        yield frames[batch.rows.to(frames.device)], batch.tracklets


def attention_of(
    embedder: Embedder, tracklets: Sequence[Frames], plan: ClipPlan
) -> NDArray[np.float32] | None:
    """Compute temporal attention (N, L) of the first clip of N tracklets; None without attention.

    Args:
        embedder: embedder of the model.
        tracklets: paths of the crops of each tracklet.
        plan: a plan with one clip per tracklet.

    Raises:
        InputError: a frame cannot be read.
    """
    parts = []
    for clips, _ in read_clips(embedder, as_tracklets(tracklets), plan):
        explained = explain(embedder.model, clips)
        if 'attention' not in explained:
            return None
        parts.append(explained['attention'].float().cpu().numpy())
    return np.concatenate(parts)
