"""Name of a section → its dataclass; architectures add theirs when they register."""

from .ranges import RANGES
from .settings import settings_of

SECTIONS: dict[str, type] = {}


def add_section(name: str, section: type) -> None:
    """Make the fields of a dataclass keys of every config made from now on.

    Raises:
        TypeError: a field was not made by :func:`.settings.setting`.
        ValueError: the name is a section of another dataclass, or of the host.
    """
    known = SECTIONS.get(name)
    is_other = known is not None and known.__qualname__ != section.__qualname__
    if is_other or (known is None and any(key.startswith(f'{name}.') for key in RANGES)):
        raise ValueError(f'cannot add section {name!r}: the name is taken')
    rules = {f'{name}.{one.name}': one.rule for one in settings_of(section)}
    RANGES.update(rules)
    SECTIONS[name] = section
