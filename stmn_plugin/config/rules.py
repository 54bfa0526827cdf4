"""Rules of values: convert text to a value of the key's type and range, or None.

A value arrives as it was written: text (a scalar of a YAML file, a word of the command line), a
list of such, or None (YAML's null). Nothing is guessed from the look of a value: a key that takes
text takes ``2024`` and ``off`` as they are, and a key that takes a number takes 1e-4, which YAML
calls text. ``str`` of a rule says in words what it takes.
"""

import contextlib
import datetime
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import yaml

BOOLEANS = {'true': True, 'yes': True, 'on': True, 'false': False, 'no': False, 'off': False}
_OCTAL = re.compile(r'[+-]?0[\d_]')  # 010 is 8 to YAML and 10 to Python
_LONGEST_SHOWN = 80
N = TypeVar('N', int, float)


class Rule:
    """What a key takes; kinds differ in :meth:`_read`."""

    def read(self, written: object) -> Any:
        """Return the value of a text, or None if it is invalid."""
        return self._read(written) if isinstance(written, str) else None

    def _read(self, text: str) -> Any:
        raise NotImplementedError  # each kind has its own


@dataclass(frozen=True)
class Flag(Rule):
    """Booleans as YAML and Python write them."""

    def _read(self, text: str) -> Any:
        return BOOLEANS.get(text.lower())

    def __str__(self) -> str:
        return 'True or False'


@dataclass(frozen=True)
class Whole(Rule):
    """A whole number in a closed range."""

    least: int
    most: int

    def _read(self, text: str) -> Any:
        number = _number(int, text)
        return number if number is not None and self.least <= number <= self.most else None

    def __str__(self) -> str:
        return f'a whole number from {self.least:,} to {self.most:,}'


@dataclass(frozen=True)
class Number(Rule):
    """A finite number, both ends included unless said otherwise."""

    least: float
    most: float
    above: bool = False  # more than the least
    below: bool = False  # less than the most

    def _read(self, text: str) -> Any:
        number = _number(float, text)
        # NaN is neither inside nor equal to an end
        if number is None or not self.least <= number <= self.most:
            return None
        at_open_end = (self.above and number == self.least) or (self.below and number == self.most)
        return None if at_open_end else number

    def __str__(self) -> str:
        start = f'above {self.least:,}' if self.above else f'from {self.least:,}'
        return f'a number {start} to {"below " * self.below}{self.most:,}'


@dataclass(frozen=True)
class Text(Rule):
    """Any word, unchanged."""

    what: str  # in a message
    may_be_empty: bool = False
    pattern: str = r'[^\0]*'

    def _read(self, text: str) -> Any:
        fits = re.fullmatch(self.pattern, text, re.DOTALL) if text else self.may_be_empty
        return text if fits else None

    def __str__(self) -> str:
        return f'{self.what}{", or empty" * self.may_be_empty}'


@dataclass(frozen=True)
class OneOf(Rule):
    """One of a few words."""

    choices: tuple[str, ...]
    any_case: bool = False  # choices are in lower case

    def _read(self, text: str) -> Any:
        text = text.lower() if self.any_case else text
        return text if text in self.choices else None

    def __str__(self) -> str:
        return f'one of {", ".join(self.choices)}'


class Moment(Rule):
    """A time of day with its offset from UTC, in ISO 8601."""

    def _read(self, text: str) -> datetime.datetime | None:
        with contextlib.suppress(ValueError, OverflowError):
            moment = datetime.datetime.fromisoformat(re.sub('[zZ]$', '+00:00', text))
            moment.astimezone(datetime.timezone.utc)  # some of the years 1 and 9999 have no UTC
            return moment if moment.tzinfo is not None else None
        return None

    def __str__(self) -> str:
        return 'a time with its offset from UTC, such as 2026-03-01T08:00:00+01:00'


@dataclass(frozen=True)
class WordOr(Rule):
    """A certain word, or a value of another rule."""

    word: str
    other: Rule

    def _read(self, text: str) -> Any:
        return text if text == self.word else self.other.read(text)

    def __str__(self) -> str:
        return f'{self.word}, or {self.other}'


@dataclass(frozen=True)
class ListOf(Rule):
    """Several values; a single one needs no brackets.

    Without a fixed length the elements are names or a set of numbers, so none comes twice.
    """

    element: Rule
    least: int = 0
    length: int | None = None

    def read(self, written: object) -> list[Any] | None:
        if isinstance(written, str):
            written = _flow_sequence(written)
        if not isinstance(written, list):
            return None
        values = [self.element.read(one) for one in written]
        if None in values or len(values) < self.least:
            return None
        if self.length is None:
            return values if len(set(values)) == len(values) else None
        return values if len(values) == self.length else None

    def __str__(self) -> str:
        if self.length is not None:
            return f'a list of {self.length} values, each {self.element}'
        return f'a list of {self.least} or more values, none twice, each {self.element}'


def as_written(value: Any) -> Any:
    """Convert a Python value to the text or list that a rule reads."""
    if isinstance(value, (list, tuple)):
        return [as_written(one) for one in value]
    return value if value is None or isinstance(value, dict) else str(value)


def shown(written: object) -> str:
    """Return the written text, for a message."""
    text = 'null' if written is None else repr(written)
    if len(text) <= _LONGEST_SHOWN:
        return text
    return f'{text[:_LONGEST_SHOWN]}... ({len(text):,} characters)'


def _number(kind: Callable[[str], N], text: str) -> N | None:
    if not text.isascii() or text != text.strip() or _OCTAL.match(text):
        return None
    try:
        return kind(text)
    except ValueError:  # also for whole numbers of thousands of digits
        return None


def _flow_sequence(text: str) -> list[str | None] | None:
    """Split ``[a, b]``, ``(a, b)`` or ``a, b`` into texts; None for anything else."""
    if text[:1] + text[-1:] == '()':
        text = text[1:-1]
    text = text if text[:1] == '[' else f'[{text}]'
    try:
        node = yaml.compose(text, Loader=yaml.BaseLoader)
    except (yaml.YAMLError, RecursionError):  # brackets by the hundred
        return None
    if not isinstance(node, yaml.SequenceNode):
        return None
    return [one.value if isinstance(one, yaml.ScalarNode) else None for one in node.value]


# names and rules that several settings share

AUTO = 'auto'
TRANSFORMS = ('random_flip', 'random_crop', 'random_patch', 'color_jitter', 'random_erase')
HOST_SAMPLERS = (
    'RandomIdentitySampler',
    'SequentialSampler',
    'RandomSampler',
    'RandomDomainSampler',
    'RandomDatasetSampler',
)
IDENTITY_PASS = 'IdentityPassSampler'  # ours: P x K, an epoch is one pass over the identities

FLAG = Flag()
COUNT = Whole(1, 65_536)
ITEMS = Whole(1, 4_096)  # the statistics of a memory are items x items
EPOCHS = Whole(0, 1_000_000)
INTERVAL = Whole(1, 1_000_000)
SEED = Whole(0, 2**32 - 1)
WEIGHT = Number(0, 1_000)
DECAY = Number(0, 1, below=True)
PRECISION = OneOf(('off', 'bf16', 'fp16'))
NAME = Text('a name')
NAMES = ListOf(NAME, least=1)
FOLDER = Text('a folder')
FILE = Text('a file', may_be_empty=True)
