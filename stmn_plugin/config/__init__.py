"""Read files and command-line words into one checked config, and derive keyword arguments from it.

A setting is a field of a dataclass, a section: ``host_sections.py``, ``our_sections.py`` and the
``Config`` of an architecture. ``load.py`` merges defaults, a YAML file, flags and KEY VALUE words;
nothing behind ``kwargs.py`` reads a config.
"""

from .checks import check_config, check_ranges, check_transforms
from .defaults import flatten, get_default_config
from .load import BASE, load_config, read_rows, read_yaml
from .rules import TRANSFORMS
from .sections import RANGES, SECTIONS, add_section, section_from, section_of
from .settings import setting

__all__ = [
    'BASE',
    'RANGES',
    'SECTIONS',
    'TRANSFORMS',
    'add_section',
    'check_config',
    'check_ranges',
    'check_transforms',
    'flatten',
    'get_default_config',
    'load_config',
    'read_rows',
    'read_yaml',
    'section_from',
    'section_of',
    'setting',
]
