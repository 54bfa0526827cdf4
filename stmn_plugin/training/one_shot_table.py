"""The results of the steps of one-shot learning → a table and a JSON file."""

import os
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from tabulate import tabulate

from stmn_plugin.whole_files import write_json, write_text

from .one_shot_files import SUMMARY, TABLE, Chosen, Split


class StepResult(NamedTuple):
    """What came of a step."""

    step: int
    num_labelled: int
    chosen: Chosen  # what it was trained on besides
    following: Chosen  # what its network has chosen
    evaluations: Sequence[Mapping[str, Any]]  # at its end, of every target

    def as_dict(self) -> dict[str, Any]:
        """As plain values."""
        return {
            'step': self.step,
            'trained_on': self.num_labelled + len(self.chosen.labels),
            'pseudo_labels': len(self.chosen.labels),
            'pseudo_labels_right': self.chosen.right,
            'estimated_right': self.following.right_of_all,
            'evaluations': list(self.evaluations),
        }


def steps_table(results: Sequence[StepResult], form: str = 'simple') -> str:
    """A row a step, in per cent; targets one beside the other."""
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
    table: str = tabulate(rows, headers='keys', tablefmt=form, floatfmt='.1f', missingval='-')
    return table


def write_summary(
    folder: str, arch: str, factor: int, split: Split, results: Sequence[StepResult]
) -> None:
    """Write ``steps.json`` and ``steps.md``; InputError where that cannot be done."""
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
    text = f'{steps_table(results, "github")}\n\n' + ''.join(f'{note}.\n' for note in notes)
    write_text(os.path.join(folder, TABLE), text)


def _percent(share: Any) -> float | None:
    return None if share is None else 100 * share
