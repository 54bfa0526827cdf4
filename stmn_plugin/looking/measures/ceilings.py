"""Measure the share of an oracle's gain that a method reaches, from average precisions.

Letters: S seeds, Q queries.
"""

import numpy as np

from ..clip_statistics import Floats, Indices
from .measure import INTERVAL, Estimate, Measure, bootstrap

NEGLIGIBLE_SHARE = 0.1  # of the ceiling
SHARE = (
    'difference = mean over the queries and seeds of the average precision of the row minus that '
    'of the baseline with the same seed. ceiling = the same of the oracle. share = difference / '
    'ceiling. It helps when difference > 0 in every seed and its interval lies above 0; it harms '
    'when difference < 0 in every seed and its interval lies below 0; it does not help when the '
    f'interval of share lies below {NEGLIGIBLE_SHARE}; everything else is undecided. {INTERVAL}'
)


def share_of_ceiling(
    row: Floats, baseline: Floats, oracle: Floats, query_persons: Indices, seed: int = 0
) -> Measure:
    """Measure the share of an oracle's gain over the baseline that a method reaches.

    Args:
        row: average precision of the method for every query and seed, (S, Q) in 0..1; NaN for a
            query without a match.
        baseline: the same of the baseline.
        oracle: the same of the oracle.
        query_persons: (Q,)
        seed: of the bootstrap.

    Returns:
        Values ``difference``, ``ceiling``, ``share`` and ``difference_1`` ... of each seed.

    Raises:
        ValueError: arrays of different shapes.
    """
    if not row.shape == baseline.shape == oracle.shape or row.shape[1:] != query_persons.shape:
        shapes = row.shape, baseline.shape, oracle.shape, query_persons.shape
        raise ValueError(f'expected three arrays (S, Q) and persons (Q,), got {shapes}')
    matched = ~np.isnan(row).any(axis=0)
    gained, possible = (row - baseline)[:, matched], (oracle - baseline)[:, matched]  # (S, Q')

    def statistic(rows: Indices) -> dict[str, float]:
        seeds = gained[:, rows].mean(axis=1)
        difference, ceiling = float(seeds.mean()), float(possible[:, rows].mean())
        return {
            'difference': difference,
            'ceiling': ceiling,
            'share': difference / ceiling if ceiling else np.nan,
            **{f'difference_{number}': float(one) for number, one in enumerate(seeds, 1)},
        }

    values = bootstrap(statistic, query_persons[matched], seed)
    of_seeds = [values[f'difference_{number}'].value for number in range(1, len(row) + 1)]
    counts = {'seeds': len(row), 'queries': int(matched.sum())}
    return Measure(SHARE, values, counts, *verdict(values['difference'], values['share'], of_seeds))


def verdict(
    difference: Estimate, share: Estimate, of_seeds: list[float]
) -> tuple[str, bool | None]:
    """Judge by SHARE, in words; True: helps, False: harms or does not help, None: undecided."""
    found = f'difference {difference}, share of the ceiling {share}'
    if min(of_seeds) > 0 and difference.side_of(0) > 0:
        return f'It helps ({found}).', True
    if max(of_seeds) < 0 and difference.side_of(0) < 0:
        return f'It harms ({found}).', False
    if share.side_of(NEGLIGIBLE_SHARE) < 0:
        return f'It does not help ({found}).', False
    return f'Undecided ({found}).', None
