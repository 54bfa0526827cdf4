"""Search the hyperparameters of Sec. 4.1: each factor with the best of those before it.

All pairs (M, N), then the margin alpha, then the length L of a clip. Runs train on one part of the
training identities and are tested on the other (``data.validation_ids``), never on the test set.
"""

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from tabulate import tabulate

from stmn_plugin.console_table import console_table
from stmn_plugin.errors import InputError
from stmn_plugin.evaluation.doubts import NOTE, doubt_labels
from stmn_plugin.training.metric_files import METRICS
from stmn_plugin.whole_files import write_json, write_text

from .result_tables import Score, score_over_seeds, write_csv
from .run_plan import as_words
from .run_queue import Outcome
from .variants import Variant

ARCH = 'stmn'  # whose hyperparameters they are
SIZES = (5, 10, 20)
SYMBOLS = {
    'stmn.spatial_items': 'M',
    'stmn.temporal_items': 'N',
    'loss.spread.margin': 'alpha',
    'video.seq_len': 'L',
}
FACTORS: tuple[list[dict[str, Any]], ...] = (
    [{'stmn.spatial_items': m, 'stmn.temporal_items': n} for m in SIZES for n in SIZES],
    [{'loss.spread.margin': alpha} for alpha in (0.1, 0.3, 0.5, 0.7, 1.0)],
    [{'video.seq_len': length} for length in (4, 6, 8, 10)],
)
VALIDATION_IDS = 0.2  # 125 of 625 identities
NOTES = (
    'Rates in percent on held-out training identities; ± is the sample standard deviation (n - 1) '
    'over the seeds.',
    'Chosen: the highest mean over the seeds of (rank-1 + mAP) / 2 among the settings with the '
    'fewest failed runs; of equal ones the smaller standard deviation of it, then the one listed '
    'first.',
    NOTE,
)


class GridPoint(NamedTuple):
    """One point of a factor with its scores over the seeds; None where every run failed."""

    changes: dict[str, Any]
    seeds: int
    rank1: Score | None
    mean_ap: Score | None
    score: Score | None  # of (rank-1 + mAP) / 2
    chosen: bool = False
    errors: tuple[str, ...] = ()  # of the runs that failed
    doubt: str = ''  # why scores say nothing of the model, and of which seeds

    @property
    def title(self) -> str:
        return setting_title(self.changes)


def words_of(factors: Iterable[Iterable[GridPoint]]) -> list[str]:
    """Return the values selected for searched factors, as KEY VALUE words."""
    return as_words({k: v for f in factors for s in f if s.chosen for k, v in s.changes.items()})


def setting_title(changes: Mapping[str, Any]) -> str:
    """{'stmn.spatial_items': 10, 'stmn.temporal_items': 5} → 'M=10, N=5'."""
    return ', '.join(f'{SYMBOLS[key]}={value}' for key, value in changes.items())


def factor_variants(
    factor: Iterable[Mapping[str, Any]], chosen: Mapping[str, Any]
) -> list[Variant]:
    """Return the runs of a factor, with the values selected before."""
    variants = []
    for changes in factor:
        together = {**chosen, **changes}
        name = 'grid-' + setting_title(together).replace(', ', '-')
        variants.append(Variant(setting_title(together), name, together))
    return variants


def search_factors(
    run_variants: Callable[[list[Variant]], Iterable[Outcome]],
    factors: Iterable[Sequence[dict[str, Any]]],
) -> Iterator[list[GridPoint]]:
    """Search one factor after the other.

    Args:
        run_variants: variants → outcomes of all seeds, whose evaluations are those at the end of
            training.
        factors: lists of changes to the config.

    Yields:
        The settings of a factor, one of them chosen.

    Raises:
        InputError: no run of a factor has finished, or an evaluation has no rank-1.
    """
    chosen: dict[str, Any] = {}
    for factor in factors:
        variants = factor_variants(factor, chosen)
        outcomes = list(run_variants(variants))
        settings = [
            _setting(changes, [o for o in outcomes if o.title == variant.title])
            for changes, variant in zip(factor, variants, strict=True)
        ]
        best = best_point(settings)
        if best is None:
            raise InputError(f'no run of the {len(variants)} settings has finished')
        chosen.update(settings[best].changes)
        settings[best] = settings[best]._replace(chosen=True)
        yield settings


def _setting(changes: dict[str, Any], outcomes: Iterable[Outcome]) -> GridPoint:
    outcomes = list(outcomes)
    well = [outcome for outcome in outcomes if not outcome.error]
    errors = tuple(f'{o.name}: {o.error}' for o in outcomes if o.error)
    for outcome in well:
        if any('rank-1' not in e for e in outcome.evaluations):
            file = os.path.join(outcome.folder, METRICS)
            raise InputError(f'{file}: an evaluation has no rank-1, by which --grid chooses')
    scores = [(100 * e['rank-1'], 100 * e['mAP']) for o in well for e in o.evaluations]
    if not scores:
        return GridPoint(changes, 0, None, None, None, errors=errors)
    rank1, mean_ap = zip(*scores, strict=True)
    both = [(a + b) / 2 for a, b in scores]
    return GridPoint(
        changes,
        len(scores),
        score_over_seeds(rank1),
        score_over_seeds(mean_ap),
        score_over_seeds(both),
        errors=errors,
        doubt=doubt_labels(((o.seed, e) for o in well for e in o.evaluations), 'seed'),
    )


def best_point(settings: Sequence[GridPoint]) -> int | None:
    """Return the index of the best setting, see NOTES; None when none has a score."""
    ranked = [
        (-setting.seeds, -setting.score.mean, setting.score.std or 0.0, index)
        for index, setting in enumerate(settings)
        if setting.score is not None
    ]
    return min(ranked)[-1] if ranked else None


def factor_text(settings: Sequence[GridPoint]) -> str:
    """Format a factor as a table for a console."""
    return console_table(_cells(settings), shared=['seeds'])


def factor_markdown(settings: Sequence[GridPoint]) -> str:
    """Format a factor as a table for a document."""
    lines = _cells(settings)
    for name in ('doubt', 'error'):
        if not any(line[name] for line in lines):
            lines = [{key: cell for key, cell in line.items() if key != name} for line in lines]
    return str(tabulate(lines, headers='keys', tablefmt='github', disable_numparse=True))


def _cells(settings: Sequence[GridPoint]) -> list[dict[str, Any]]:
    return [
        {
            **{SYMBOLS[key]: value for key, value in setting.changes.items()},
            'seeds': setting.seeds,
            'rank-1': str(setting.rank1 or 'failed'),
            'mAP': str(setting.mean_ap or 'failed'),
            '': 'chosen' if setting.chosen else '',
            'doubt': setting.doubt,
            'error': '; '.join(setting.errors),
        }
        for setting in settings
    ]


def write_grid(factors: Sequence[Sequence[GridPoint]], folder: str) -> list[str]:
    """Write ``grid.md``, ``grid.json`` and ``grid.csv``, and return their paths."""
    plain = [
        {
            'factor': setting_title(dict.fromkeys(setting.changes, '?')).replace('=?', ''),
            'setting': setting.title,
            'chosen': setting.chosen,
            'seeds': setting.seeds,
            **{
                f'{name} {part}': None if value is None else getattr(value, part)
                for name, value in (('rank-1', setting.rank1), ('mAP', setting.mean_ap))
                for part in ('mean', 'std')
            },
            'doubt': setting.doubt,
            'error': '; '.join(setting.errors),
        }
        for settings in factors
        for setting in settings
    ]
    tables = '\n\n'.join(factor_markdown(settings) for settings in factors)
    notes = ''.join(f'* {note}\n' for note in NOTES)
    return [
        write_text(os.path.join(folder, 'grid.md'), f'{tables}\n\n{notes}'),
        write_json(os.path.join(folder, 'grid.json'), {'notes': NOTES, 'settings': plain}),
        write_csv(os.path.join(folder, 'grid.csv'), plain),
    ]
