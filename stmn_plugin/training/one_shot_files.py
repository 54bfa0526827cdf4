"""The files of one-shot learning: the split, what each step has chosen, the table of all steps.

``split.json`` has the labelled tracklets. ``chosen-01.json`` has what the network of step 0 chose
for step 1, and so on. They say which labels are right, for whoever reads them; what is trained gets
a file of indices and labels alone (``data.train_list``).
"""

import os
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from stmn_plugin.data.tracklets import Tracklet
from stmn_plugin.data.train_list import check_data, data_digest
from stmn_plugin.errors import InputError
from stmn_plugin.input_files import read_json
from stmn_plugin.plain_values import is_count, is_flag, is_number
from stmn_plugin.whole_files import write_json

from .one_shot import PseudoLabels, most_reliable

SPLIT, SUMMARY, TABLE = 'split.json', 'steps.json', 'steps.md'
SPLIT_KEY = 'one_shot.split_file'


class Split(NamedTuple):
    """Which training tracklets keep their label."""

    labelled: list[int]  # indices, in the order of the identities
    unlabelled: list[int]  # all others, in their order


class Chosen(NamedTuple):
    """S_k: what a step trains on besides the labelled tracklets."""

    labels: dict[int, int]  # index of a tracklet → pseudo-label, the most reliable first
    right: float | None = None  # share of these labels that are right; None of no labels
    right_of_all: float | None = None  # the same of all unlabelled tracklets, chosen or not


def split_of(labelled: Sequence[int], count: int) -> Split:
    """Labelled indices and all others below ``count``."""
    others = set(range(count)) - set(labelled)
    return Split(list(labelled), sorted(others))


def write_split(path: str, split: Split, tracklets: Sequence[Tracklet], seed: int | None) -> None:
    """Write a split; ``seed`` None says that it was given.

    Raises:
        InputError: it cannot be written.
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
    """A split of these training tracklets.

    Raises:
        InputError: no such file, a damaged one, or one of other data.
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
    """Where S_k is."""
    return os.path.join(folder, f'chosen-{step:02}.json')


def step_folder(folder: str, step: int) -> str:
    """The run folder of a step."""
    return os.path.join(folder, f'step-{step:02}')


def write_chosen(
    path: str, estimated: PseudoLabels, count: int, split: Split, tracklets: Sequence[Tracklet]
) -> None:
    """Write the ``count`` most reliable pseudo-labels of all unlabelled tracklets.

    Raises:
        InputError: it cannot be written.
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
    """What :func:`write_chosen` has written for a split.

    Raises:
        InputError: a damaged file, or one of another split or size.
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
            'unlabelled tracklets; without it, it is made again'
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
