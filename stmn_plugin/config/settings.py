"""A setting written once: type and default, what it takes, and one line of help.

A section of the config is a frozen dataclass whose fields are :func:`setting`. From it come the
yacs tree, the checks of values, ``--help-config`` and the table of the docs.
"""

import copy
import dataclasses
from collections.abc import Iterator
from typing import Any, NamedTuple

from .rules import Rule


class Setting(NamedTuple):
    """One key of a section."""

    name: str
    default: Any
    rule: Rule
    help: str


def setting(default: Any, rule: Rule, help: str) -> Any:
    """A field of a section.

    Args:
        default: of the field's type; a list is copied for each config.
        rule: what the key takes, see ``rules.py``.
        help: one line, with the paper's symbol or section where there is one.
    """
    metadata = {'rule': rule, 'help': help}
    if isinstance(default, list):
        return dataclasses.field(default_factory=lambda: copy.copy(default), metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


def settings_of(section: type) -> Iterator[Setting]:
    """The settings of a section, in order.

    Raises:
        TypeError: a field was not made by :func:`setting`.
    """
    for field in dataclasses.fields(section):
        if 'rule' not in field.metadata:
            raise TypeError(f'{section.__qualname__}.{field.name} was not made by setting()')
        if field.default_factory is not dataclasses.MISSING:
            default = field.default_factory()
        else:
            default = field.default
        yield Setting(field.name, default, field.metadata['rule'], field.metadata['help'])
