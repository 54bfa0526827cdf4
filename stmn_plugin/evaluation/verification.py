"""Verification: true and false positive rates of labelled pairs by distance, and a threshold.

Verification decides whether a single pair is one person; ranking finds the nearest tracklet. The
pairs are those of the ranking: every query with all searched tracklets, except junk and
tracklets of the query's person from the query's camera. A threshold accepts the pairs that are
nearer; the share of accepted pairs is the true positive rate among those of one person, the false
positive rate among those of two.

Only positive pairs and the nearest negative ones are held: rates are exact, memory is bounded.

Letters: Q queries, G gallery tracklets, q rows of a chunk of queries.
"""

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from stmn_plugin.labels import JUNK_PID

from .ranking import Labels, checked_labels

REPORTED = (1e-2, 1e-3, 1e-4)  # false positive rates of a table
ROC = tuple(m * 10.0**-e for e in (5, 4, 3, 2) for m in (1, 2, 5)) + (0.1,)
HIGHEST = ROC[-1]  # above it a threshold is useless
MISSED = 0.05  # share of the positive pairs that are farther than the "unlikely" ones begin
FEWEST = 20  # positive pairs of which one may be that share
LEAST_GAIN = 10  # times more of the positive than of the negative pairs are "likely"

Distances = NDArray[np.float32]


class Operating(NamedTuple):
    """A threshold and its rates."""

    false_positive_rate: float  # maximum requested
    below: float  # the threshold: a pair is accepted if its distance is smaller
    true_positive_rate: float
    false_pairs: int  # negative pairs that are accepted; no more than the rate allows


class PairDistances(NamedTuple):
    """Distances of labelled pairs, ascending."""

    positive: Distances
    nearest_negative: Distances  # those accepted at a rate of HIGHEST, and the next one
    num_negative: int

    def at(self, rate: float) -> Operating | None:
        """Find the largest threshold with at most this false positive rate.

        The result is None if the rate is less than one negative pair, so that it cannot be
        measured, or there is no positive pair.

        Args:
            rate: up to HIGHEST.
        """
        allowed = math.floor(rate * self.num_negative * (1 + 1e-12))  # 0.29 * 100 < 29
        if allowed < 1 or not len(self.positive):
            return None
        below = self.nearest_negative[allowed]
        accepted = np.searchsorted(self.positive, below)
        return Operating(
            rate,
            float(below),
            float(accepted / len(self.positive)),
            int(np.searchsorted(self.nearest_negative, below)),
        )

    def unlikely_above(self) -> float | None:
        """Find the distance that a share MISSED of positive pairs exceeds; None for few pairs."""
        if len(self.positive) < FEWEST:
            return None
        return float(self.positive[math.ceil((1 - MISSED) * len(self.positive)) - 1])


class Verification(NamedTuple):
    """Pairs of a target, all together and by their two cameras."""

    pairs: PairDistances
    by_cameras: dict[tuple[int, int], PairDistances]  # smaller camid first
    persons: int  # of the positive pairs

    def as_dict(self, rate: float) -> dict[str, Any]:
        """Return plain values for ``metrics.json``.

        Args:
            rate: false positive rate of the threshold "likely".
        """
        return {
            **_described(self.pairs, REPORTED),
            'persons': self.persons,
            'roc': [list(one[:3]) for one in map(self.pairs.at, ROC) if one],
            'by_cameras': [
                {'camids': list(camids), **_described(pairs, REPORTED)}
                for camids, pairs in sorted(self.by_cameras.items())
            ],
            'threshold': threshold(self.pairs, rate),
        }


def threshold(pairs: PairDistances, rate: float) -> dict[str, Any] | None:
    """Find the two distances between which a pair is undecided.

    The result is None if the rate cannot be measured, or if the nearest pairs are hardly more often
    of one person, so that no distance is evidence.

    Pairs nearer than ``likely_below`` are one person, up to the false positive rate. Few pairs of
    one person lie beyond ``unlikely_above``, which is never below ``likely_below``.
    """
    likely, unlikely = pairs.at(rate), pairs.unlikely_above()
    if likely is None or unlikely is None or likely.true_positive_rate < LEAST_GAIN * rate:
        return None
    return {
        'likely_below': likely.below,
        'unlikely_above': max(unlikely, likely.below),
        'false_positive_rate': rate,
        'true_positive_rate': likely.true_positive_rate,
        'missed': MISSED,
    }


def _described(pairs: PairDistances, rates: Iterable[float]) -> dict[str, Any]:
    points = {rate: pairs.at(rate) for rate in rates}
    return {
        'positive_pairs': len(pairs.positive),
        'negative_pairs': pairs.num_negative,
        'rates': [one._asdict() for one in points.values() if one],
        'not_measurable': [rate for rate, one in points.items() if one is None],
    }


def verification_lines(verification: Mapping[str, Any]) -> str:
    """Format the rates of ``Verification.as_dict`` for the console."""
    lines = [
        f'Verification: {verification["positive_pairs"]:,} pairs of one person, '
        f'{verification["negative_pairs"]:,} of two, {verification["persons"]:,} persons'
    ]
    for one in verification['rates']:
        lines.append(
            f'True positive rate at false positive rate {one["false_positive_rate"]:g}: '
            f'{one["true_positive_rate"]:.1%} (distance below {one["below"]:.4g}, '
            f'{one["false_pairs"]:,} false pairs)'
        )
    if verification['not_measurable']:
        rates = ', '.join(f'{rate:g}' for rate in verification['not_measurable'])
        lines.append(
            f'Not measurable: {rates}; a rate needs 1 / rate pairs of two persons, and one of one'
        )
    if verification['threshold'] is None:
        lines.append(
            f'No threshold: too few pairs for test.false_positive_rate, less than {FEWEST} of one '
            f'person, or not {LEAST_GAIN} times as many of these accepted'
        )
    return '\n'.join(lines)


class PairCollector:
    """Collect distances of pairs while a ranking reads them.

    Args:
        query_pids: identities of the queries, see ``evaluate_ranking``.
        gallery_pids: identities of the gallery.
        query_camids: cameras of the queries.
        gallery_camids: cameras of the gallery.
    """

    def __init__(
        self,
        query_pids: Labels,
        gallery_pids: Labels,
        query_camids: Labels,
        gallery_camids: Labels,
    ):
        shape = len(query_pids), len(gallery_pids)
        labels = checked_labels(shape, query_pids, gallery_pids, query_camids, gallery_camids)
        self.query_pids, gallery_pids, self.query_camids, gallery_camids = labels
        self.num_gallery = len(gallery_pids)
        searched = np.flatnonzero(gallery_pids != JUNK_PID)
        self.columns = {  # camera → its tracklets
            int(camid): searched[gallery_camids[searched] == camid]
            for camid in np.unique(gallery_camids[searched])
        }
        self.gallery_pids = gallery_pids
        counts = dict(zip(*np.unique(self.query_camids, return_counts=True), strict=True))
        total = len(self.query_pids) * len(searched)
        self.all = _Collected(total)
        sizes: defaultdict[tuple[int, int], int] = defaultdict(int)
        for camid, count in counts.items():
            for other, columns in self.columns.items():
                sizes[_two(int(camid), other)] += int(count) * len(columns)
        self.by_cameras = {camids: _Collected(size) for camids, size in sizes.items()}
        self.persons: set[int] = set()
        self.start = 0

    def through(self, chunks: Iterable[Tensor]) -> Iterator[Tensor]:
        """Collect the pairs of chunks of queries (q, G), in their order, and yield the chunks."""
        for chunk in chunks:
            for rows in chunk.split(256):
                self._add(rows.float().cpu().numpy())
            yield chunk

    def result(self) -> Verification:
        """Return the collected pairs."""
        return Verification(
            self.all.pairs(),
            {camids: one.pairs() for camids, one in self.by_cameras.items()},
            len(self.persons),
        )

    def _add(self, rows: Distances) -> None:
        """Add distances (q, G) of the next queries; junk has no pairs."""
        own = slice(self.start, self.start + len(rows))
        pids, camids = self.query_pids[own], self.query_camids[own]
        self.start = own.stop
        for camid in np.unique(camids[pids != JUNK_PID]).tolist():
            mine = np.flatnonzero((camids == camid) & (pids != JUNK_PID))
            for other, columns in self.columns.items():
                block = rows[np.ix_(mine, columns)]
                same = pids[mine, None] == self.gallery_pids[columns]
                negative = block[~same]
                for collected in (self.all, self.by_cameras[_two(camid, other)]):
                    collected.add_negative(negative)
                    if camid != other:
                        collected.positive.append(block[same])
                if camid != other:
                    self.persons.update(pids[mine][same.any(axis=1)].tolist())


class _Collected:
    """Positive pairs, and the nearest negative ones.

    Args:
        total: upper bound of the number of pairs.
    """

    def __init__(self, total: int):
        self.positive: list[Distances] = []
        self.num_negative = 0
        self._kept = math.floor(HIGHEST * total) + 2
        self._nearest: list[Distances] = []
        self._held = 0
        self._bound = np.float32(np.inf)  # larger distances are not needed

    def add_negative(self, distances: Distances) -> None:
        self.num_negative += len(distances)
        if np.isfinite(self._bound):
            distances = distances[distances <= self._bound]
        self._nearest.append(distances)
        self._held += len(distances)
        if self._held >= 2 * self._kept + (1 << 16):
            self._reduce()

    def pairs(self) -> PairDistances:
        self._reduce()
        positive = np.concatenate([np.zeros(0, np.float32), *self.positive])
        return PairDistances(np.sort(positive), np.sort(self._nearest[0]), self.num_negative)

    def _reduce(self) -> None:
        values = np.concatenate([np.zeros(0, np.float32), *self._nearest])
        if len(values) > self._kept:
            values = np.partition(values, self._kept - 1)[: self._kept]
            self._bound = values.max()
        self._nearest, self._held = [values], len(values)


def _two(camid: int, other: int) -> tuple[int, int]:
    return min(camid, other), max(camid, other)
