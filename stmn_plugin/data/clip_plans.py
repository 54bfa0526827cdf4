"""Load the clips of a test, in batches across tracklets, reading each frame once a clip.

Batches are not padded to the longest tracklet, and their memory does not depend on its length.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from .clips import IMAGENET_MEAN, IMAGENET_STD, ClipTransform, Normalize
from .frame_samplers import ClipPlan
from .frames import read_clip
from .loaders import FrameLoader, check_shared_memory
from .tracklets import Frames, Tracklet, as_tracklets


class ClipBatch(NamedTuple):
    """Clips of one or more tracklets; a frame that a clip repeats is stored once."""

    frames: Tensor  # (T, 3, H, W)
    rows: Tensor  # (B, L) rows of ``frames`` of each clip
    tracklets: Tensor  # (B,) index of each clip's tracklet
    bad_frames: list[str]  # paths of skipped frames
    stand_ins: Tensor  # (B,) bool: no frame of the clip was readable, another frame replaces it


class PlannedClip(NamedTuple):
    """A clip before collation."""

    frames: Tensor  # (T, 3, H, W)
    rows: NDArray[np.int64]  # (L,)
    tracklet: int
    bad_frames: list[str]
    stand_in: bool


class PlannedClips(Dataset[PlannedClip]):
    """The clips of a plan, tracklet after tracklet.

    Args:
        tracklets: the host's 4-tuples (img_paths, pid, camid, dsetid).
        plan: rule of division into clips.
        transform: frames → tensor, deterministic.
        skip_bad: skip unreadable frames instead of raising.
    """

    def __init__(
        self,
        tracklets: Sequence[Tracklet],
        plan: ClipPlan,
        transform: Callable[[list[Tensor]], Tensor],
        skip_bad: bool = False,
    ):
        self.tracklets = tracklets
        self.plan = plan
        self.transform = transform
        self.skip_bad = skip_bad
        counts = [plan.count(len(paths)) for paths, _, _, _ in tracklets]
        self.ends = np.cumsum(counts)  # clip j belongs to the first tracklet that ends beyond j

    def __len__(self) -> int:
        return int(self.ends[-1]) if len(self.ends) else 0

    def __getitem__(self, index: int) -> PlannedClip:
        tracklet = int(np.searchsorted(self.ends, index, side='right'))
        start = self.ends[tracklet - 1] if tracklet else 0
        paths = self.tracklets[tracklet][0]
        chosen = self.plan.clip(len(paths), index - start)
        frames, rows, bad_frames, stand_in = read_clip(paths, chosen, self.skip_bad)
        return PlannedClip(self.transform(frames), rows, tracklet, bad_frames, stand_in)


def collate_clips(clips: Sequence[PlannedClip]) -> ClipBatch:
    """Collate clips of any number of distinct frames into a ClipBatch."""
    starts = np.cumsum([0] + [len(clip.frames) for clip in clips[:-1]])
    rows = [clip.rows + start for clip, start in zip(clips, starts, strict=True)]
    return ClipBatch(
        torch.cat([clip.frames for clip in clips]),
        torch.from_numpy(np.stack(rows)),
        torch.tensor([clip.tracklet for clip in clips]),
        [path for clip in clips for path in clip.bad_frames],
        torch.tensor([clip.stand_in for clip in clips]),
    )


def clip_loader(
    tracklets: Iterable[Tracklet | Frames],
    plan: ClipPlan,
    height: int,
    width: int,
    mean: Sequence[float] = IMAGENET_MEAN,
    std: Sequence[float] = IMAGENET_STD,
    *,
    batch_size: int = 32,
    workers: int = 0,
    as_uint8: bool = False,
    skip_bad: bool = False,
    pin_memory: bool = False,
) -> FrameLoader:
    """Return a loader of the planned clips of tracklets, one :class:`ClipBatch` per item.

    Workers end with the loader: forking them takes less than half a second, and kept workers would
    hold their memory during the training between two evaluations.

    Args:
        tracklets: the host's 4-tuples, or only the frames of each, see :func:`as_tracklets`.
        plan: rule of division into clips.
        height: height of the clips in pixels.
        width: width of the clips in pixels.
        mean: mean of each colour, for values from 0 to 1.
        std: standard deviation of each colour.
        batch_size: clips per batch.
        workers: worker processes; 0 reads in this process.
        as_uint8: leave the frames uint8, a quarter of the memory; the caller applies
            ``Normalize(mean, std)`` on the model's device.
        skip_bad: skip unreadable frames instead of raising; batches list them.
        pin_memory: pin memory for copies to a GPU.

    Raises:
        InputError: an item is not a tracklet or has no frames, or batches do not fit into shared
            memory. Reading raises InputError for a frame that cannot be read.
    """
    tracklets = as_tracklets(tracklets)
    clips = min(batch_size, sum(len(paths) for paths, *_ in tracklets))
    clip_bytes = plan.seq_len * 3 * height * width * (1 if as_uint8 else 4)
    check_shared_memory(workers, {'test.batch_size': clips * clip_bytes})
    transform = ClipTransform(height, width, [], Normalize(mean, std), as_uint8)
    return FrameLoader(
        PlannedClips(tracklets, plan, transform, skip_bad),
        workers,
        batch_size=batch_size,
        collate_fn=collate_clips,
        generator=torch.Generator(),  # otherwise torch draws from the global one
        pin_memory=pin_memory,
    )
