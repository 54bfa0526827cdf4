"""Files and words → one checked config → keyword arguments for everything else."""

from .checks import TRANSFORMS, check_config, check_transforms
from .defaults import add_stmn_config, get_default_config
from .load import load_config, split_words

__all__ = [
    'TRANSFORMS',
    'add_stmn_config',
    'check_config',
    'check_transforms',
    'get_default_config',
    'load_config',
    'split_words',
]
