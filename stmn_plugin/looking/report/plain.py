"""Numbers as plain values that are short on a page."""

from collections.abc import Iterable
from typing import Any


def digits(value: Any) -> float:
    """Five digits: no more are read, and the page stays small."""
    return float(f'{value:.5g}')


def rounded(values: Iterable[Any], places: int) -> list[float]:
    return [round(float(x), places) for x in values]
