"""Tracklets → the clips that are tested, each frame of a clip read once, batches across tracklets.

A batch is never padded to the longest tracklet and never a lone clip, and its memory does not
depend on how long a tracklet is.
"""

from typing import NamedTuple

import numpy as np
import torch
from torch.utils.data import Dataset

from .frame_samplers import FRAME_SAMPLERS, count_clips, dealt_clip, interleaved_clip
from .frames import read_clip


class ClipPlan(NamedTuple):
    """How a tracklet is cut into clips for testing."""

    seq_len: int  # L
    frames: str = (
        'rrs'  # 'all', 'consecutive' (all in order), or a frame sampler that takes one clip
    )
    clips_per_tracklet: int = 1  # with 'rrs': at most that many
    rrs_chunks: str = 'balanced'

    def count(self, num_frames):
        """Clips of a tracklet of F frames."""
        if self.frames in ('all', 'consecutive'):
            return count_clips(num_frames, self.seq_len)
        return min(self.clips_per_tracklet, count_clips(num_frames, self.seq_len))

    def clip(self, num_frames, index):
        """Frame indices of one of them, int64 (L,)."""
        if self.frames == 'all':
            return interleaved_clip(num_frames, self.seq_len, index)
        if self.frames == 'consecutive':
            start = index * self.seq_len
            return np.minimum(np.arange(start, start + self.seq_len), num_frames - 1)
        if self.frames == 'rrs':
            count = self.count(num_frames)
            return dealt_clip(num_frames, self.seq_len, count, index, self.rrs_chunks)
        return FRAME_SAMPLERS[self.frames](num_frames, self.seq_len)

    @property
    def title(self):
        """For tables: 'all', 'rrs', 'rrs x 4'."""
        many = self.frames == 'rrs' and self.clips_per_tracklet > 1
        return f'rrs x {self.clips_per_tracklet}' if many else self.frames


class ClipBatch(NamedTuple):
    """Clips of one or many tracklets; a frame that a clip holds twice is there once."""

    frames: torch.Tensor  # (T, 3, H, W)
    rows: torch.Tensor  # (B, L) rows of ``frames`` that make each clip
    tracklets: torch.Tensor  # (B,) whose clip it is
    bad_frames: list  # paths that were left out
    stand_ins: torch.Tensor  # (B,) bool: no frame of the clip could be read, another stands in


class PlannedClips(Dataset):
    """The clips of a plan, tracklet after tracklet.

    Args:
        tracklets (list): the host's 4-tuples (img_paths, pid, camid, dsetid).
        plan (ClipPlan): how they are cut.
        transform (ClipTransform): frames → tensor; nothing is random here.
        skip_bad (bool): leave unreadable frames out instead of raising.
    """

    def __init__(self, tracklets, plan, transform, skip_bad=False):
        self.tracklets = tracklets
        self.plan = plan
        self.transform = transform
        self.skip_bad = skip_bad
        counts = [plan.count(len(paths)) for paths, _, _, _ in tracklets]
        self.ends = np.cumsum(counts)  # clip j belongs to the first tracklet that ends beyond j

    def __len__(self):
        return int(self.ends[-1]) if len(self.ends) else 0

    def __getitem__(self, index):
        tracklet = int(np.searchsorted(self.ends, index, side='right'))
        start = self.ends[tracklet - 1] if tracklet else 0
        paths = self.tracklets[tracklet][0]
        chosen = self.plan.clip(len(paths), index - start)
        frames, rows, bad_frames, stand_in = read_clip(paths, chosen, self.skip_bad)
        rows = torch.from_numpy(rows)
        return ClipBatch(self.transform(frames), rows, tracklet, bad_frames, stand_in)


def collate_clips(clips):
    """Clips of any number of distinct frames → one ClipBatch."""
    starts = np.cumsum([0] + [len(clip.frames) for clip in clips[:-1]]).tolist()
    return ClipBatch(
        torch.cat([clip.frames for clip in clips]),
        torch.stack([clip.rows + start for clip, start in zip(clips, starts, strict=True)]),
        torch.tensor([clip.tracklets for clip in clips]),
        [path for clip in clips for path in clip.bad_frames],
        torch.tensor([clip.stand_ins for clip in clips]),
    )
