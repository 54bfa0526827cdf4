"""The files of one-shot learning: the split, the selection of each step, the table of all steps.

``split.json`` holds the labelled tracklets. ``chosen-01.json`` holds the tracklets that the network
of step 0 selected for step 1, and so on. They mark the correct labels for readers; training gets a
file with indices and labels only (``data.train_list``).
"""

import os
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from tabulate import tabulate

from stmn_plugin.console_table import console_table
from stmn_plugin.data.tracklets import Tracklet
from stmn_plugin.data.train_list import check_data, data_digest
from stmn_plugin.errors import InputError
from stmn_plugin.input_files import read_json
from stmn_plugin.plain_values import is_count, is_flag, is_number
from stmn_plugin.whole_files import write_json, write_text

from .metric_files import check_evaluations
from .one_shot import PseudoLabels, most_reliable

SPLIT, SUMMARY, TABLE = 'split.json', 'steps.json', 'steps.md'
SPLIT_KEY = 'one_shot.split_file'


class Split(NamedTuple):
    """The labelled and unlabelled training tracklets."""

    labelled: list[int]  # indices, in the order of the identities
    unlabelled: list[int]  # all others, in their order


class Chosen(NamedTuple):
    """S_k, the pseudo-labelled tracklets of a step."""

    labels: dict[int, int]  # index of a tracklet → pseudo-label, the most reliable first
    right: float | None = None  # share of correct labels; None without labels
    right_of_all: float | None = None  # the same for all unlabelled tracklets


def split_of(labelled: Sequence[int], count: int) -> Split:
    """Split the indices below ``count`` into the labelled ones and all others."""
    others = set(range(count)) - set(labelled)
    return Split(list(labelled), sorted(others))


def write_split(path: str, split: Split, tracklets: Sequence[Tracklet], seed: int | None) -> None:
    """Write a split; ``seed`` None means that the user supplied it.

    Raises:
        InputError: the file cannot be written.
    """
    labelled = [
        {
            'index': index,
            'identity': int(tracklets[index][1]),
            'camera': int(tracklets[index][2]),
            'frames': len(tracklets[index][0]),
            'first_frame': os.path.basename(tracklets[index][0][0]),
        }
        for index in split.labelled
    ]
    content = {'data': data_digest(tracklets), 'tracklets': len(tracklets), 'seed': seed}
    write_json(path, {**content, 'labelled': labelled})


def read_split(path: str, tracklets: Sequence[Tracklet]) -> Split:
    """Read a split of these training tracklets.

    Raises:
        InputError: the file is missing, damaged or belongs to other data.
    """
    path = os.path.expanduser(path)
    content, origin = read_json(path, SPLIT_KEY), f'{SPLIT_KEY}: {path}'
    rows = content.get('labelled') if isinstance(content, dict) else None
    if not (
        isinstance(rows, list)
        and all(isinstance(row, dict) and is_count(row.get('index')) for row in rows)
        and is_count(content.get('tracklets'))
    ):
        raise InputError(f'{origin} must hold "data", "tracklets" and "labelled", with an "index"')
    check_data(str(content.get('data')), content['tracklets'], tracklets, origin)
    labelled = [row['index'] for row in rows]
    if max(labelled, default=0) >= len(tracklets):
        raise InputError(f'{origin}: tracklet {max(labelled)} is beyond the last one')
    pids = [tracklets[index][1] for index in labelled]
    if sorted(pids) != sorted({pid for _, pid, _, _ in tracklets}):
        raise InputError(f'{origin} must name one tracklet of each identity')
    return split_of(labelled, len(tracklets))


def chosen_path(folder: str, step: int) -> str:
    """Return the path of the file of S_k."""
    return os.path.join(folder, f'chosen-{step:02}.json')


def step_folder(folder: str, step: int) -> str:
    """Return the run folder of a step."""
    return os.path.join(folder, f'step-{step:02}')


def write_chosen(
    path: str, estimated: PseudoLabels, count: int, split: Split, tracklets: Sequence[Tracklet]
) -> None:
    """Write the ``count`` most reliable pseudo-labels of all unlabelled tracklets.

    Raises:
        InputError: the file cannot be written.
    """
    truth = np.array([tracklets[index][1] for index in split.unlabelled], dtype=np.int64)
    right = estimated.labels == truth
    places = most_reliable(estimated.scores, count)
    rows = [
        {
            'index': split.unlabelled[place],
            'label': int(estimated.labels[place]),
            'score': float(estimated.scores[place]),
            'right': bool(right[place]),
        }
        for place in places
    ]
    shares = {'right': _share(right[places]), 'right_of_all': _share(right)}
    write_json(path, {'unlabelled': len(truth), **shares, 'chosen': rows})


def read_chosen(path: str, count: int, split: Split) -> Chosen:
    """Read a file of :func:`write_chosen` for a split.

    Raises:
        InputError: the file is damaged or belongs to another split or size.
    """
    content = read_json(path, 'data.save_dir')
    rows = content.get('chosen') if isinstance(content, dict) else None
    shares = [content.get(name) for name in ('right', 'right_of_all')] if rows is not None else []
    if not (
        isinstance(rows, list)
        and all(map(_is_choice, rows))
        and all(share is None or is_number(share) for share in shares)
        and len(rows) == count == len({row['index'] for row in rows})
        and {row['index'] for row in rows} <= set(split.unlabelled)
        and max((row['label'] for row in rows), default=0) < len(split.labelled)
    ):
        raise InputError(
            f'data.save_dir: {path} is damaged or of another split: it must hold {count} '
            'unlabelled tracklets; delete it to create it again'
        )
    return Chosen({row['index']: row['label'] for row in rows}, *shares)


def _is_choice(row: Any) -> bool:
    return (
        isinstance(row, Mapping)
        and is_count(row.get('index'))
        and is_count(row.get('label'))
        and is_number(row.get('score'))
        and is_flag(row.get('right'))
    )


def _share(right: Any) -> float | None:
    return float(right.mean()) if len(right) else None


class StepResult(NamedTuple):
    """The results of a step."""

    step: int
    num_labelled: int
    chosen: Chosen  # the pseudo-labels it was trained on
    following: Chosen  # the pseudo-labels its network selected
    evaluations: Sequence[Mapping[str, Any]]  # of every target, after the step

    def as_dict(self) -> dict[str, Any]:
        """Return the results as plain values."""
        return {
            'step': self.step,
            'trained_on': self.num_labelled + len(self.chosen.labels),
            'pseudo_labels': len(self.chosen.labels),
            'pseudo_labels_right': self.chosen.right,
            'estimated_right': self.following.right_of_all,
            'evaluations': list(self.evaluations),
        }


def steps_text(results: Sequence[StepResult]) -> str:
    """Format a table with a row per step, in per cent, for a console."""
    return console_table(_cells(results))


def steps_markdown(results: Sequence[StepResult]) -> str:
    """Format the same table for a document."""
    table: str = tabulate(
        _cells(results), headers='keys', tablefmt='github', floatfmt='.1f', missingval='-'
    )
    return table


def _cells(results: Sequence[StepResult]) -> list[dict[str, Any]]:
    rows = []
    for result in results:
        row = {
            'step': result.step,
            'trained on': result.num_labelled + len(result.chosen.labels),
            'pseudo-labels': len(result.chosen.labels),
            'of them right': _percent(result.chosen.right),
            'right of all estimated': _percent(result.following.right_of_all),
        }
        for one in result.evaluations:
            target = f'{one["dataset"]} ' if len(result.evaluations) > 1 else ''
            row |= {f'{target}{key}': _percent(one.get(key)) for key in ('rank-1', 'mAP')}
        rows.append(row)
    return rows


def write_summary(
    folder: str, arch: str, factor: int, split: Split, results: Sequence[StepResult]
) -> None:
    """Write ``steps.json`` and ``steps.md``.

    Raises:
        InputError: a file cannot be written.
    """
    content = {
        'arch': arch,
        'factor': factor,
        'labelled': len(split.labelled),
        'unlabelled': len(split.unlabelled),
        'steps': [result.as_dict() for result in results],
    }
    write_json(os.path.join(folder, SUMMARY), content)
    protocols = {
        f'{one["dataset"]}: protocol {one["protocol"]}, frames {one["frames"]}'
        for result in results
        for one in result.evaluations
    }
    notes = [f'{arch}, one labelled tracklet an identity, {factor} % a step', *sorted(protocols)]
    text = f'{steps_markdown(results)}\n\n' + ''.join(f'{note}.\n' for note in notes)
    write_text(os.path.join(folder, TABLE), text)


def read_summary(folder: str) -> dict[int, list[dict[str, Any]]]:
    """Read step → evaluations from ``steps.json``; {} without the file.

    A step whose folder was removed keeps the evaluations that it has there.

    Raises:
        InputError: the file is damaged.
    """
    path = os.path.join(folder, SUMMARY)
    if not os.path.exists(path):
        return {}
    content = read_json(path, 'data.save_dir')
    try:
        known = {row['step']: row['evaluations'] for row in content['steps']}
        for evaluations in known.values():
            check_evaluations(evaluations)
    except (TypeError, KeyError, ValueError) as error:
        raise InputError(
            f'data.save_dir: {path} is damaged: {error}; delete it to create it again'
        ) from error
    return known


def _percent(share: Any) -> float | None:
    return None if share is None else 100 * share
