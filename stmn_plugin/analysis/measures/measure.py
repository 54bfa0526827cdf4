"""A number with its definition, how many it was taken from, how sure it is, and what it says."""

from dataclasses import asdict, dataclass
from typing import NamedTuple

import numpy as np

RESAMPLES = 1000
LEVEL = 0.95
INTERVAL = (
    f'Intervals: {LEVEL:.0%} percentile bootstrap over tracklets, {RESAMPLES} resamples; '
    'all clips of a drawn tracklet are drawn with it.'
)


class Estimate(NamedTuple):
    value: float
    low: float  # of the interval
    high: float

    def __str__(self):
        return f'{self.value:.3g} [{self.low:.3g}, {self.high:.3g}]'


@dataclass(frozen=True)
class Measure:
    """One entry of ``analysis.json``."""

    definition: str  # of every value and every threshold of the verdict, in words
    values: dict  # name → Estimate
    counts: dict  # what was counted → how many
    verdict: str  # plain words
    does_its_job: bool | None  # None: cannot be said

    def as_dict(self):
        """Plain values for JSON."""
        values = {name: estimate._asdict() for name, estimate in self.values.items()}
        return {**asdict(self), 'values': values}


def not_measured(definition, reason):
    """The entry of a measure that this model or this dataset cannot have."""
    return Measure(definition, {}, {}, reason, None)


def bootstrap(statistic, clip_tracklets, seed=0, resamples=RESAMPLES):
    """Estimates with percentile intervals over tracklets.

    Args:
        statistic (callable): rows of clips, int64 (n,), with repeats → dict of name → float.
        clip_tracklets (numpy.ndarray): (C,) the tracklet of each clip.
        seed (int): of the resampling.

    Returns:
        dict: name → Estimate; the value is the statistic of all clips.
    """
    order = np.argsort(clip_tracklets, kind='stable')
    starts = np.flatnonzero(np.diff(clip_tracklets[order])) + 1
    clips_of = np.split(order, starts)  # rows, tracklet by tracklet
    value = statistic(np.arange(len(clip_tracklets)))
    rng = np.random.default_rng(seed)
    drawn = []
    for _ in range(resamples):
        picked = rng.integers(len(clips_of), size=len(clips_of))
        drawn.append([*statistic(np.concatenate([clips_of[i] for i in picked])).values()])
    tail = 100 * (1 - LEVEL) / 2
    low, high = np.nanpercentile(np.array(drawn), [tail, 100 - tail], axis=0)
    return {
        name: Estimate(float(value[name]), float(low[i]), float(high[i]))
        for i, name in enumerate(value)
    }
