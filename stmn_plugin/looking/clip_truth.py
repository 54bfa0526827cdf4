"""Clips of synthetic tracklets → what is known about their frames, beside what the model did."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F

from stmn_plugin.datasets.synthetic.truth import TRUTH_FILE, load_truth
from stmn_plugin.errors import InputError


class ClipTruth(NamedTuple):
    visibility: np.ndarray  # (C, L) share of the person's pixels that the frame shows
    distractor_share: np.ndarray  # (C, L, H, W) share of the position that the mask covers


def find_truth(tracklets):
    """The Truth of a list of tracklets; None when their dataset has none.

    Args:
        tracklets (list): the host's 4-tuples (img_paths, pid, camid, dsetid).

    Raises:
        InputError: the truth file is damaged.
    """
    if not tracklets:
        return None
    parents = Path(tracklets[0][0][0]).absolute().parents  # <folder>/mars/bbox_test/0001/x.jpg
    if len(parents) < 4 or not (parents[2] / 'info' / TRUTH_FILE).is_file():
        return None
    return load_truth(parents[3])


def clip_truth(truth, tracklets, clip_tracklets, clip_frames, grid):
    """What is known about clips.

    Args:
        truth (Truth): of :func:`find_truth`.
        tracklets (list): the host's 4-tuples.
        clip_tracklets (numpy.ndarray): (C,) row of each clip's tracklet.
        clip_frames (numpy.ndarray): (C, L) indices into the paths of the tracklet.
        grid (tuple): (H, W) of the feature maps; frames are resized, not cropped, so positions are
            equal parts of the mask.

    Returns:
        ClipTruth

    Raises:
        InputError: a frame that the truth file does not know.
    """
    rows = _rows(truth, tracklets, clip_tracklets, clip_frames)
    distinct, where = np.unique(rows, return_inverse=True)
    masks = torch.from_numpy(truth.masks()[distinct]).float()  # (n, h, w)
    shares = F.adaptive_avg_pool2d(masks[:, None], grid)[:, 0].numpy()  # (n, H, W)
    return ClipTruth(
        visibility=truth.visibility[rows],
        distractor_share=shares[where.reshape(rows.shape)],
    )


def _rows(truth, tracklets, clip_tracklets, clip_frames):
    """Rows of the truth file of the frames of clips, int64 (C, L)."""
    names = [
        [Path(tracklets[tracklet][0][frame]).name for frame in frames]
        for tracklet, frames in zip(clip_tracklets, clip_frames, strict=True)
    ]
    try:
        return np.array([[truth.index[name] for name in row] for row in names], dtype=np.int64)
    except KeyError as error:
        raise InputError(f'{truth.path} does not know the frame {error.args[0]}') from error
