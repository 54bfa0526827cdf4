"""Words that mark a score which, by ``Evaluation.doubt``, does not measure the model."""

from collections.abc import Iterable, Mapping
from typing import Any

NAMED = 3  # runs or epochs; more are counted
NOTE = (
    'Doubt: the order of the gallery decides the score, as a match is as far as another person '
    '("ties") or all features are equal ("collapsed").'
)


def doubt_label(evaluation: Mapping[str, Any]) -> str:
    """Return the word for an evaluation of ``metrics.json``; '' without a doubt.

    >>> doubt_label({'collapsed': True, 'doubt': 'The features of all tracklets are equal ...'})
    'collapsed'
    """
    if evaluation.get('collapsed'):
        return 'collapsed'
    return 'ties' if evaluation.get('doubt') else ''


def doubt_labels(evaluations: Iterable[tuple[object, Mapping[str, Any]]], unit: str) -> str:
    """Return the words for several evaluations with their numbers; '' without a doubt.

    >>> doubt_labels([(1, {'collapsed': True}), (2, {}), (3, {'collapsed': True})], 'seed')
    'collapsed (seed 1, 3)'
    """
    numbers: dict[str, list[str]] = {}
    for number, evaluation in evaluations:
        if word := doubt_label(evaluation):
            numbers.setdefault(word, []).append(str(number))
    return '; '.join(f'{word} ({unit} {_listed(own)})' for word, own in numbers.items())


def _listed(numbers: list[str]) -> str:
    more = len(numbers) - NAMED
    return ', '.join(numbers[:NAMED]) + (f' and {more} more' if more > 0 else '')
