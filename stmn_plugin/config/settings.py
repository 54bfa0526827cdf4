"""Settings of sections, each written once: type, default, rule and one line of help.

A section of the config is a frozen dataclass whose fields are :func:`setting`. From it come the
yacs tree, the checks of values, ``--help-config`` and the tables of the documents.
"""

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from .rules import Rule


class Setting(NamedTuple):
    """One key of a section."""

    name: str
    make_default: Callable[[], Any]
    rule: Rule
    help: str
    shown: str  # the default in a table
    in_vectors: bool

    @property
    def default(self) -> Any:
        """The default, computed if it depends on the machine."""
        return self.make_default()


def setting(
    default: Any, rule: Rule, help: str, shown: str = '', *, in_vectors: bool = True
) -> Any:
    """Define a field of a section.

    Args:
        default: of the field's type; a list is copied for each config. A function without
            arguments computes a default that depends on the machine.
        rule: what the key takes, see ``rules.py``.
        help: one line, with the paper's symbol or section where there is one.
        shown: what tables say instead of a default that is computed.
        in_vectors: False where no vector of a trained network depends on the key, as on the weight
            of a loss: stored vectors (``test.features_dir``) then stay valid when it changes.
    """
    metadata = {'rule': rule, 'help': help, 'shown': shown, 'in_vectors': in_vectors}
    if callable(default):
        return dataclasses.field(default_factory=default, metadata=metadata)
    if isinstance(default, list):
        return dataclasses.field(default_factory=default.copy, metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


def settings_of(section: type) -> Iterator[Setting]:
    """Return the settings of a section, in order.

    Raises:
        TypeError: the section is no dataclass, or a field was not made by :func:`setting`.
    """
    for field in dataclasses.fields(section):
        if 'rule' not in field.metadata:
            raise TypeError(f'{section.__qualname__}.{field.name} was not made by setting()')
        metadata = field.metadata
        if field.default_factory is not dataclasses.MISSING:
            make_default = field.default_factory
        else:
            make_default = _Constant(field.default)
        shown = metadata['shown'] or str(make_default())
        yield Setting(
            field.name,
            make_default,
            metadata['rule'],
            metadata['help'],
            shown,
            metadata['in_vectors'],
        )


class _Constant:
    """Return a function that returns one value."""

    def __init__(self, value: Any):
        self.value = value

    def __call__(self) -> Any:
        return self.value
