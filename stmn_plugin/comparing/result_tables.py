"""Make tables of outcomes: a row for each method, strategy and target, as text, JSON and CSV."""

import csv
import datetime
import io
import os
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

from tabulate import tabulate

from stmn_plugin.console_table import console_table
from stmn_plugin.evaluation.doubts import NOTE, doubt_labels
from stmn_plugin.evaluation.protocols import conditions
from stmn_plugin.whole_files import write_json, write_text

from .run_queue import Outcome

SCORES = ('rank-1', 'rank-5', 'rank-10', 'mAP', 'mINP')
MEASURED = 'measured'
NOTES = (
    'Rates in percent; ± is the sample standard deviation (n - 1) over the seeds.',
    'Tested: the weights after the last epoch, not those that were best on the test set.',
    'GFLOPs: convolutions and matrix products, a multiply-add being two; L frames make a clip. '
    'Parameters: at test time, without the classifier.',
    's/tracklet: reading and encoding of all query and gallery tracklets, by their number, on the '
    'machine that tested; mean over the seeds.',
    'Peak memory: most that a process that only tests has held, tensors on the GPU where there is '
    'one, else resident memory without its workers; highest of the seeds, if all are of one kind.',
    'Training: time of all steps with the waiting for data, without evaluations; mean.',
)
SHARED = ('dataset', 'protocol', 'frames', 'distance', 'seeds', 'L', 'feature')
LEAST = ('rank-10', 'mINP', 'rank-5', 'feature', 'L', 'peak memory, GiB', 's/tracklet', 'training')
NOTE_TABLE2 = (
    'Published: rank-1 / mAP that Table 2 of the STMN paper prints for the method under this '
    'strategy, RRS or all frames; empty where it prints none. * those that its authors ran; each '
    'under the training, the backbone and the details of the test of its own paper.'
)
NOTE_PUBLISHED = 'Rows marked "published" are numbers of their papers, not measured here.'


class Score(NamedTuple):
    """A number over seeds."""

    mean: float
    std: float | None  # sample standard deviation; None for a single value
    values: tuple[float, ...] = ()  # one for each seed, where they are known

    def __str__(self) -> str:
        return f'{self.mean:.1f}' + ('' if self.std is None else f' ± {self.std:.1f}')


class Row(NamedTuple):
    """A method under one strategy on one target; what is not known is None."""

    method: str
    scores: dict[str, Score]  # percent
    dataset: str = ''
    protocol: str = ''
    frames: str = ''
    distance: str = ''
    seeds: tuple[int | None, ...] = ()
    seeds_planned: int | None = None  # more than there are seeds when runs have failed
    parameters: int | None = None
    seq_len: int | None = None  # L
    gflops_per_frame: float | None = None
    gflops_per_clip: float | None = None
    feature_dim: int | None = None
    seconds_per_tracklet: float | None = None
    peak_memory: int | None = None  # bytes
    training_seconds: float | None = None
    doubt: str = ''  # why scores say nothing of the model, and of which seeds
    published: str = ''  # rank-1 / mAP of the paper's Table 2
    source: str = MEASURED
    error: str = ''


class Key(NamedTuple):
    """What has a row of its own."""

    method: str
    dataset: str
    protocol: str
    frames: str
    distance: str


Member: TypeAlias = tuple[Outcome, dict[str, Any]]  # and one of its evaluations


def score_over_seeds(values: Sequence[float]) -> Score:
    """Compute mean and sample standard deviation of numbers, at least one."""
    std = statistics.stdev(values) if len(values) > 1 else None
    return Score(statistics.fmean(values), std, tuple(values))


def rows_of(outcomes: Sequence[Outcome]) -> list[Row]:
    """Return rows in the order of the outcomes, then one for every run that failed."""
    groups: dict[tuple[Key, str], dict[str, Member]] = {}  # and tested data → folder → member
    for outcome in outcomes:
        for e in outcome.evaluations:
            group = Key(outcome.title, e['dataset'], *conditions(e)), _tested_data(e)
            groups.setdefault(group, {})[outcome.folder] = outcome, e
    keys = [key for key, _ in groups]
    rows = []
    for (key, data), members in groups.items():
        planned = len({outcome.folder for outcome in outcomes if outcome.title == key.method})
        if keys.count(key) > 1:  # the same name of a target, not the same tracklets
            key = key._replace(dataset=f'{key.dataset} (data {data})')
        rows.append(_row(key, [*members.values()], planned))
    failed = [
        Row(outcome.title, {}, seeds=(outcome.seed,), error=f'{outcome.name}: {outcome.error}')
        for outcome in outcomes
        if outcome.error
    ]
    return rows + failed


def _tested_data(evaluation: Mapping[str, Any]) -> str:
    """Return the first digits of the digests of its query and gallery."""
    digests = evaluation.get('made_from') or {}
    return '-'.join(str(digests.get(kind, '?'))[:6] for kind in ('query', 'gallery'))


def _row(key: Key, members: Sequence[Member], planned: int) -> Row:
    records = [outcome.record for outcome, _ in members if outcome.record is not None]
    evaluations = [evaluation for _, evaluation in members]
    facts = records[0].metrics
    length, gflops = facts.get('seq_len'), facts.get('gflops_per_frame')
    return Row(
        **key._asdict(),
        seeds=tuple(outcome.seed for outcome, _ in members),
        seeds_planned=planned,
        scores={
            name: score_over_seeds([100 * e[name] for e in evaluations])
            for name in SCORES
            if all(name in e for e in evaluations)  # test.ranks says which there are
        },
        parameters=facts.get('parameters'),
        seq_len=length,
        gflops_per_frame=gflops,
        gflops_per_clip=None if gflops is None or length is None else gflops * length,
        feature_dim=facts.get('feature_dim'),
        seconds_per_tracklet=statistics.fmean(e['seconds']['per_tracklet'] for e in evaluations),
        peak_memory=_highest_peak(evaluations),
        training_seconds=statistics.fmean(record.training_seconds for record in records),
        doubt=doubt_labels(((outcome.seed, e) for outcome, e in members), 'seed'),
    )


def _highest_peak(evaluations: Iterable[Mapping[str, Any]]) -> int | None:
    """Return the peak of processes that only tested; None where one trained, too, or has none.

    None also where some held their tensors on a GPU and some did not.
    """
    peaks = [e.get('peak_memory') or {} if e['epoch'] is None else {} for e in evaluations]
    on_gpu = {bool(peak.get('gpu')) for peak in peaks}
    values: list[int] = [peak.get('gpu') or peak.get('resident') or 0 for peak in peaks]
    return max(values) if len(on_gpu) == 1 and all(values) else None


def as_text(rows: Sequence[Row]) -> str:
    """Format rows for a console, and a line for each that failed."""
    cells = [{**line, 'error': 'failed' * bool(line['error'])} for line in _cells(rows)]
    failures = [f'{row.method}, {row.error}' for row in rows if row.error]
    return '\n'.join([console_table(cells, SHARED, LEAST), *failures])


def as_markdown(rows: Sequence[Row]) -> str:
    """Format rows as a table for a document, without the columns that are empty in every row."""
    cells = _cells(rows)
    filled = [name for name in cells[0] if any(line[name] != '' for line in cells)]
    lines = [[line[name] for name in filled] for line in cells]
    # the cells are text as it shall be read: 68.0 must not become 68
    return str(tabulate(lines, headers=filled, tablefmt='github', disable_numparse=True))


def _cells(rows: Sequence[Row]) -> list[dict[str, str]]:
    return [
        {
            'method': row.method,
            'dataset': row.dataset,
            'protocol': row.protocol,
            'frames': row.frames,
            'distance': row.distance,
            'seeds': _seeds(row),
            **{name: str(row.scores.get(name, '')) for name in SCORES},
            'published': row.published,
            'doubt': row.doubt,
            'params, M': _number(row.parameters, 1e6, 2),
            'L': str(row.seq_len or ''),
            'GFLOPs/clip': _number(row.gflops_per_clip, 1, 3),
            'feature': str(row.feature_dim or ''),
            's/tracklet': _number(row.seconds_per_tracklet, 1, 4),
            'peak memory, GiB': _number(row.peak_memory, 2**30, 2),
            'training': _clock(row.training_seconds),
            'source': row.source if any(r.source != MEASURED for r in rows) else '',
            'error': row.error,
        }
        for row in rows
    ]


def _seeds(row: Row) -> str:
    count, planned = len(row.seeds), row.seeds_planned
    if row.error or not count:
        return ''
    return str(count) if planned in (None, count) else f'{count} of {planned}'


def _number(value: float | None, unit: float, digits: int) -> str:
    return '' if value is None else f'{value / unit:.{digits}f}'


def _clock(seconds: float | None) -> str:
    return '' if seconds is None else str(datetime.timedelta(seconds=round(seconds)))


def notes_for(rows: Sequence[Row]) -> list[str]:
    """Return the notes that are needed to read a table."""
    published = any(row.source != MEASURED for row in rows)
    doubted = any(row.doubt for row in rows)
    of_table2 = any(row.published for row in rows)
    return [*NOTES, *[NOTE] * doubted, *[NOTE_TABLE2] * of_table2, *[NOTE_PUBLISHED] * published]


def write_comparison(rows: Sequence[Row], folder: str, name: str = 'compare') -> list[str]:
    """Write ``compare.md``, ``.json`` and ``.csv``; rates in percent, bytes and seconds.

    Returns:
        The paths.

    Raises:
        InputError: a file cannot be written.
    """
    notes = notes_for(rows)
    plain = [{**row._asdict(), 'scores': _plain(row.scores)} for row in rows]
    flat = [
        {
            **{key: value for key, value in row.items() if key not in ('scores', 'seeds')},
            'seeds': ' '.join(map(str, row['seeds'])),
            **{
                f'{score} {part}': row['scores'].get(score, {}).get(part)
                for score in SCORES
                for part in ('mean', 'std')
            },
        }
        for row in plain
    ]
    text = '\n'.join([as_markdown(rows), '', *(f'* {note}' for note in notes), ''])
    return [
        write_text(os.path.join(folder, f'{name}.md'), text),
        write_json(os.path.join(folder, f'{name}.json'), {'notes': notes, 'rows': plain}),
        write_csv(os.path.join(folder, f'{name}.csv'), flat),
    ]


def _plain(scores: Mapping[str, Score]) -> dict[str, Any]:
    return {name: value._asdict() for name, value in scores.items()}


def write_csv(path: str, rows: Sequence[Mapping[str, Any]]) -> str:
    """Write dictionaries of the same keys, and return the path."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
    return write_text(path, text.getvalue())
