"""Kinds of plain values, as files hold them that anyone may have changed."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

LARGEST = 1e300  # integers are compared with it without conversion to float


def is_number(value: Any) -> bool:
    """Return whether a value is a finite number, not True or False."""
    if isinstance(value, np.floating):
        value = float(value)
    return type(value) in (int, float) and abs(value) < LARGEST


def is_count(value: Any) -> bool:
    """Return whether a value is a non-negative whole number of a plausible size."""
    return type(value) is int and 0 <= value < 10**12


def is_share(value: Any) -> bool:
    """Return whether a value is a number from 0 to 1."""
    return is_number(value) and 0 <= value <= 1


def is_positive(value: Any) -> bool:
    """Return whether a value is a non-negative number."""
    return is_number(value) and value >= 0


def is_text(value: Any) -> bool:
    """Return whether a value is a string."""
    return isinstance(value, str)


def is_flag(value: Any) -> bool:
    """Return whether a value is True or False."""
    return isinstance(value, bool)


def is_setting(value: Any) -> bool:
    """Return whether a value can be in a config: a flag, text, a number, or a list of such."""
    if isinstance(value, (list, tuple)):
        return all(map(is_setting, value))
    return value is None or isinstance(value, (bool, int, float, str))


def named(value: Any, kind: Callable[[Any], bool]) -> bool:
    """Return whether a value is a dictionary from names to values of a kind."""
    return isinstance(value, Mapping) and all(
        isinstance(key, str) and kind(item) for key, item in value.items()
    )


def is_like(value: Any, example: Any) -> bool:
    """Return whether a value can replace another: same kind, length and sign, finite.

    >>> is_like([0.5, 1], (0.9, 0.999)), is_like('1', 1), is_like(2.5, 1), is_like(0, 20)
    (True, False, False, False)
    """
    if example is None or value is None:
        return is_setting(value)
    if isinstance(example, Mapping):
        return isinstance(value, Mapping) and all(map(is_number, value.values()))
    if isinstance(example, (list, tuple)):
        same = isinstance(value, (list, tuple)) and len(value) == len(example)
        return same and all(map(is_like, value, example))
    if isinstance(example, float):
        return is_number(value) and not value < 0 <= example
    if type(example) is int:  # a divisor among them does not become 0
        return type(value) is int and is_number(value) and not value < min(example, 1)
    if isinstance(example, (bool, str)):
        return type(value) is type(example)
    from torch import Tensor  # slow to import, and an index is listed without it

    if isinstance(example, Tensor):
        return isinstance(value, Tensor) and value.shape == example.shape
    return type(value) is type(example)
