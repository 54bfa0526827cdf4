"""Thresholds of distances, measured by ``test.verification`` and stored with the weights.

``verification.json`` in the folder of the tested weights holds a record for each combination of
weights, data and test settings. The digest of the weights identifies them in copies of the file.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from stmn_plugin.errors import InputError
from stmn_plugin.input_files import open_regular
from stmn_plugin.plain_values import is_like
from stmn_plugin.whole_files import write_text

NAME = 'verification.json'
LIKELY, UNSURE, UNLIKELY = 'likely', 'unsure', 'unlikely'


@dataclass(frozen=True)
class Thresholds:
    """Two distances, and the data and settings on which they were measured.

    Attributes:
        weights: digest of the weights, see :func:`.fingerprint.digest_of`.
        likely_below: the share of pairs of two persons below it is at most the false positive rate.
        unlikely_above: the share of pairs of one person above it is at most ``missed``.
        false_positive_rate: maximum rate of ``likely_below``.
        true_positive_rate: rate of ``likely_below``.
        missed: share of the pairs of one person above ``unlikely_above``.
        dataset: data of the measurement.
        frames: rule of division into clips.
        flip: whether mirrored frames were averaged.
        dist_metric: metric of the distances.
        normalize_feature: whether features had length 1.
        positive_pairs: number of pairs of one person.
        negative_pairs: number of pairs of two persons.
        persons: number of persons.
    """

    weights: str
    likely_below: float
    unlikely_above: float
    false_positive_rate: float
    true_positive_rate: float
    missed: float
    dataset: str
    frames: str
    flip: bool
    dist_metric: str
    normalize_feature: bool
    positive_pairs: int
    negative_pairs: int
    persons: int

    @classmethod
    def of_evaluation(cls, evaluation: Mapping[str, Any]) -> 'Thresholds | None':
        """Read an evaluation of ``metrics.json``; None if it has no threshold."""
        verification = evaluation.get('verification') or {}
        if not verification.get('threshold'):
            return None
        known = {**evaluation, **verification, **verification['threshold']}
        return cls(**{field.name: known[field.name] for field in fields(cls)})

    def verdict(self, distance: float) -> str:
        """Judge a pair as 'likely', 'unsure' or 'unlikely' the same person.

        >>> both = Thresholds('', 0.2, 0.5, 1e-3, 0.7, 0.05, 'mars', 'rrs', False, 'cosine', False,
        ...     900, 90_000, 100)
        >>> [both.verdict(distance) for distance in (0.19, 0.2, 0.5, 0.51)]
        ['likely', 'unsure', 'unsure', 'unlikely']
        """
        if distance < self.likely_below:
            return LIKELY
        return UNLIKELY if distance > self.unlikely_above else UNSURE

    @property
    def meaning(self) -> str:
        """Meaning of the words and data of the measurement, in two sentences.

        >>> both = Thresholds('', 0.2, 0.5, 1e-3, 0.7, 0.05, 'mars', 'rrs', False, 'cosine', False,
        ...     900, 90_000, 100)
        >>> for part in both.meaning.partition('. ')[0].split('; '):
        ...     print(part)
        Likely: nearer than 0.2, as were 70.0% of the pairs of one person, at most 0.1% of two
        unlikely: farther than 0.5, as were at most 5% of the pairs of one person
        """
        flip = ' and their mirrored frames' if self.flip else ''
        return (
            f'Likely: nearer than {self.likely_below:.4g}, as were {self.true_positive_rate:.1%} '
            f'of the pairs of one person, at most {100 * self.false_positive_rate:.3g}% of two; '
            f'unlikely: farther than {self.unlikely_above:.4g}, as were at most {self.missed:.0%} '
            f'of the pairs of one person. Measured on {self.dataset}, {self.persons:,} persons, '
            f'{self.positive_pairs:,} pairs of one and {self.negative_pairs:,} of two, frames '
            f'{self.frames}{flip}; other cameras may differ.'
        )


def store_thresholds(folder: Path, measured: Thresholds) -> Path:
    """Add a record to the file of a folder, replacing one of the same test.

    Raises:
        InputError: the file is damaged, or cannot be written.
    """
    others = [one for one in read_thresholds(folder) if _test(one) != _test(measured)]
    return write_text(folder / NAME, thresholds_text([*others, measured]) + '\n')


def read_thresholds(folder: Path) -> list[Thresholds]:
    """Read the records of a folder, the newest last; [] without the file.

    Raises:
        InputError: the file is damaged.
    """
    path = folder / NAME
    try:
        with open_regular(path, encoding='utf-8') as file:
            return thresholds_of_text(file.read(), str(path))
    except FileNotFoundError:
        return []
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f'cannot read {path}: {error}') from error


def thresholds_text(records: Sequence[Thresholds]) -> str:
    """Format the records as JSON."""
    return json.dumps([asdict(one) for one in records], indent=1)


def thresholds_of_text(text: str, where: str) -> list[Thresholds]:
    """Parse the records of a text; raise InputError, naming its origin ``where``."""
    example = vars(Thresholds('', 0.0, 0.0, 0.0, 0.0, 0.0, '', '', False, '', False, 0, 0, 0))
    try:
        records = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f'{where}: no records of thresholds: {error}') from error
    if not isinstance(records, list):
        raise InputError(f'{where}: no list of thresholds')
    for number, record in enumerate(records, 1):
        if not isinstance(record, dict) or record.keys() != example.keys():
            raise InputError(f'{where}: number {number} is no record of thresholds')
        for key, value in record.items():
            if not is_like(value, example[key]):
                raise InputError(f'{where}: {key} is {value!r:.60} in number {number}')
    return [Thresholds(**record) for record in records]


def select_thresholds(
    records: Sequence[Thresholds],
    weights: str,
    dist_metric: str,
    normalize_feature: bool,
    frames: str,
    flip: bool,
) -> Thresholds | None:
    """Return the newest record with the same features and metric; None if there is none.

    For the cosine, normalisation of features does not matter.
    """
    own = [
        one
        for one in records
        if (one.weights, one.dist_metric, one.frames, one.flip)
        == (weights, dist_metric, frames, flip)
        and (dist_metric == 'cosine' or one.normalize_feature == normalize_feature)
    ]
    return own[-1] if own else None


def _test(record: Thresholds) -> tuple[Any, ...]:
    return (
        record.weights,
        record.dataset,
        record.frames,
        record.flip,
        record.dist_metric,
        record.normalize_feature,
    )
