"""A measure: values with definition, counts, bootstrap intervals and a verdict."""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm, t

RESAMPLES = 1000
LEVEL = 0.95
NOISE = 1e-6  # differences below that are those of float32
INTERVAL = (
    f'Intervals: {LEVEL:.0%} percentile bootstrap over persons, {RESAMPLES} resamples, widened as '
    "Student's t is for few persons and unbounded for fewer than six; all clips of a drawn person "
    'are drawn with it. A statement is supported when the interval lies wholly on its side of the '
    'threshold, refuted when it lies wholly on the other side; when the interval holds the '
    'threshold there is no evidence.'
)


class Estimate(NamedTuple):
    """A value with its interval."""

    value: float
    low: float  # of the interval
    high: float

    def __str__(self) -> str:
        return f'{self.value:.3g} [{self.low:.3g}, {self.high:.3g}]'

    def side_of(self, threshold: float) -> int:
        """Return 1 if the interval is above a threshold, -1 if below, 0 if it includes it."""
        return int(self.low > threshold + NOISE) - int(self.high < threshold - NOISE)


class Claim(NamedTuple):
    """A statement that an estimate above a threshold supports and one below it refutes."""

    name: str  # of the estimate
    threshold: float
    statement: str  # 'attention follows visibility'
    refuted: str  # the statement if it is below: 'attention goes against visibility'


@dataclass(frozen=True)
class Measure:
    """One entry of ``analysis.json``."""

    definition: str  # of every value and every threshold of the verdict, in words
    values: dict[str, Estimate]
    counts: Mapping[str, float]  # of what
    verdict: str  # plain words
    does_its_job: bool | None  # None: cannot be said

    def as_dict(self) -> dict[str, Any]:
        """Return plain values for JSON; an unbounded end of an interval is None."""
        values = {
            name: {part: x if math.isfinite(x) else None for part, x in one._asdict().items()}
            for name, one in self.values.items()
        }
        return {**asdict(self), 'values': values}


def not_measured(definition: str, reason: str) -> Measure:
    """Return the entry of a measure that does not apply to this model or dataset."""
    return Measure(definition, {}, {}, reason, None)


def judge(
    values: Mapping[str, Estimate], claims: Iterable[Claim], part: str, supported: str
) -> tuple[str, bool | None]:
    """Return the verdict of the first claim that is not supported, or of all of them.

    Args:
        values: estimates by name.
        claims: each is meaningful only if those before it hold.
        part: part of the model, such as 'spatial memory'.
        supported: the verdict if every claim is supported.

    Returns:
        The verdict in words; True, False when a claim is refuted, None without evidence.
    """
    for claim in claims:
        estimate = values[claim.name]
        side = estimate.side_of(claim.threshold)
        found = f'{claim.name} {estimate}'
        if side < 0:
            refuted = claim.refuted[0].upper() + claim.refuted[1:]
            return f'{refuted} ({found}). The {part} does not work as intended.', False
        if side == 0:
            held = f'the {LEVEL:.0%} interval includes {claim.threshold:g}'
            return f'No evidence that {claim.statement} ({found}: {held}).', None
    return supported, True


def bootstrap(
    statistic: Callable[[NDArray[np.int64]], Mapping[str, float]],
    clip_persons: NDArray[np.int64],
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> dict[str, Estimate]:
    """Estimate statistics with percentile intervals over persons.

    Clips of one person are alike, so persons are drawn, not clips or tracklets. Percentiles of few
    draws are too narrow; these are set so that a mean gets the interval of Student's t
    (Hesterberg, "What teachers should know about the bootstrap", 2015, "expanded percentile").

    Args:
        statistic: rows of clips, int64 (n,), with repeats → numbers by name.
        clip_persons: (C,) the person of each clip.
        seed: seed of the resampling.
        resamples: number of draws.

    Returns:
        Estimates by name; the value is the statistic of all clips. Fewer than six persons
        have no interval: it is unbounded.
    """
    order = np.argsort(clip_persons, kind='stable')
    starts = np.flatnonzero(np.diff(clip_persons[order])) + 1
    clips_of = np.split(order, starts)  # rows, person by person
    value = statistic(np.arange(len(clip_persons)))
    persons = len(clips_of)
    # no draw lies beyond the lowest and the highest of n persons, between which the mean of a
    # symmetric distribution lies in 1 - 2^(1 - n) of cases
    if 1 - 2 ** (1 - persons) < LEVEL:
        return {name: Estimate(float(x), -math.inf, math.inf) for name, x in value.items()}
    rng = np.random.default_rng(seed)
    drawn = []
    for _ in range(resamples):
        picked = rng.integers(persons, size=persons)
        drawn.append([*statistic(np.concatenate([clips_of[i] for i in picked])).values()])
    quantile = t.isf((1 - LEVEL) / 2, persons - 1) * math.sqrt(persons / (persons - 1))
    tail = 100 * norm.sf(quantile)
    low, high = np.nanpercentile(np.array(drawn), [tail, 100 - tail], axis=0)
    return {
        name: Estimate(float(value[name]), float(low[i]), float(high[i]))
        for i, name in enumerate(value)
    }
