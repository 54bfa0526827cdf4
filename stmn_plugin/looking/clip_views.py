"""An opened run and tracklets → what its model explains of every clip."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from stmn_plugin.data.clip_plans import ClipPlan
from stmn_plugin.data.tracklets import Tracklet

from .opened_run import OpenedRun


@dataclass(frozen=True)
class ClipView:
    """One clip as the model saw it."""

    tracklet: int  # row of the list of tracklets
    frames: NDArray[np.int64]  # (L,) indices into the tracklet's paths
    explained: dict[str, NDArray[np.float32]]  # by the names of ``models/explanations.py``, no B

    def __getitem__(self, name: str) -> NDArray[np.float32]:
        return self.explained[name]

    def __contains__(self, name: str) -> bool:
        return name in self.explained


def view_clips(
    run: OpenedRun, tracklets: Sequence[Tracklet], plan: ClipPlan | None = None
) -> Iterator[ClipView]:
    """Views of the clips of tracklets, in order.

    Args:
        run: whose model is asked.
        tracklets: the host's 4-tuples (img_paths, pid, camid, dsetid).
        plan: which frames make a clip; the run's own by default.

    Raises:
        InputError: a frame cannot be read.
    """
    plan = plan or run.plan
    clip = 0  # of its tracklet
    last = None
    for clips, owners in run.clips(tracklets, plan):
        explained = {
            name: values.detach().float().cpu().numpy()
            for name, values in run.explain(clips).items()
        }
        for index, tracklet in enumerate(owners.tolist()):
            clip, last = (clip + 1 if tracklet == last else 0), tracklet
            frames = plan.clip(len(tracklets[tracklet][0]), clip)
            own = {name: values[index] for name, values in explained.items()}
            yield ClipView(tracklet, frames, own)
