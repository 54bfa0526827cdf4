"""The truth about frames of synthetic clips, with which models are compared."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from stmn_plugin.data.tracklets import Tracklet
from stmn_plugin.datasets.synthetic.truth import TRUTH_FILE, Truth, load_truth
from stmn_plugin.errors import InputError


class ClipTruth(NamedTuple):
    """The truth about the frames of C clips."""

    visibility: NDArray[Any]  # (C, L) share of the person's pixels that the frame shows
    distractor_share: NDArray[Any] | None  # (C, L, H, W) share of the position in the mask


def find_truth(tracklets: Sequence[Tracklet]) -> Truth | None:
    """Find the Truth of a list of tracklets; None if their dataset has none.

    Raises:
        InputError: the truth file is damaged.
    """
    if not tracklets:
        return None
    parents = Path(tracklets[0][0][0]).absolute().parents  # <folder>/mars/bbox_test/0001/x.jpg
    if len(parents) < 4 or not (parents[2] / 'info' / TRUTH_FILE).is_file():
        return None
    return load_truth(parents[3])


def clip_truth(
    truth: Truth,
    tracklets: Sequence[Tracklet],
    clip_tracklets: Sequence[int] | NDArray[np.int64],
    clip_frames: Sequence[Any] | NDArray[np.int64],
    grid: tuple[int, int] | None,
) -> ClipTruth:
    """Return the truth about the frames of clips.

    Args:
        truth: of :func:`find_truth`.
        tracklets: the host's 4-tuples.
        clip_tracklets: (C,) row of each clip's tracklet.
        clip_frames: (C, L) indices into the paths of the tracklet.
        grid: (H, W) of the feature maps; frames are resized, not cropped, so positions are equal
            parts of the mask. None leaves ``distractor_share`` out.

    Raises:
        InputError: the truth file does not contain a frame.
    """
    rows = _rows(truth, tracklets, clip_tracklets, clip_frames)
    shares = None
    if grid is not None:
        distinct, where = np.unique(rows, return_inverse=True)
        first = int(distinct[0])  # a part of the file, as that of one tracklet is small
        read = truth.masks(slice(first, int(distinct[-1]) + 1))
        masks = torch.from_numpy(read[distinct - first]).float()  # (n, h, w)
        shares = F.adaptive_avg_pool2d(masks[:, None], grid)[:, 0].numpy()  # (n, H, W)
        shares = shares[where.reshape(rows.shape)]
    return ClipTruth(truth.visibility[rows], shares)


def _rows(
    truth: Truth,
    tracklets: Sequence[Tracklet],
    clip_tracklets: Sequence[int] | NDArray[np.int64],
    clip_frames: Sequence[Any] | NDArray[np.int64],
) -> NDArray[np.int64]:
    """Find the rows of the truth file for the frames of clips, (C, L)."""
    names = [
        [Path(tracklets[tracklet][0][frame]).name for frame in frames]
        for tracklet, frames in zip(clip_tracklets, clip_frames, strict=True)
    ]
    try:
        return np.array([[truth.index[name] for name in row] for row in names], dtype=np.int64)
    except KeyError as error:
        raise InputError(f'{truth.path} does not know the frame {error.args[0]}') from error
