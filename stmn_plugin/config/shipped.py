"""Find the configs that the package contains, by name.

A wheel holds them as ``stmn_plugin/configs``; in a checkout they are next to the package.
"""

import difflib
import os
from pathlib import Path

from stmn_plugin.errors import InputError

from .rules import shown

SUFFIXES = ('.yaml', '.yml')


def config_folder() -> Path:
    """Return the folder of the shipped configs.

    Raises:
        InputError: the package is incomplete.
    """
    package = Path(__file__).resolve().parents[1]
    for folder in (package / 'configs', package.parent / 'configs'):
        if (folder / 'stmn_synthetic.yaml').is_file():
            return folder
    raise InputError(f'{package}: the configs of this package are missing, install it again')


def config_names() -> list[str]:
    """Return the names of the shipped configs, as ``stmn_mars`` and ``ablation/1_baseline``."""
    folder = config_folder()
    return sorted(
        path.relative_to(folder).with_suffix('').as_posix() for path in folder.rglob('*.yaml')
    )


def config_path(word: str | os.PathLike[str]) -> str:
    """Return the file that ``--config`` names: a path, or a shipped config by its name.

    A file wins over a shipped config of the same name. The path of a file that does not exist is
    returned as it is, for its reader to name.

    Raises:
        InputError: a name, and no config is called so; names the nearest.
    """
    word = os.fspath(word)
    path = os.path.expanduser(word)
    if not word or os.path.isfile(path):
        return path
    names = config_names()
    if word in names:
        return str(config_folder() / f'{word}.yaml')
    stem, suffix = os.path.splitext(os.path.basename(word))
    if os.path.lexists(path):  # a folder, for example
        return path
    if suffix in SUFFIXES and stem in names:
        raise InputError(f'no config file {word}; the package brings one: --config {stem}')
    if suffix in SUFFIXES or os.path.basename(word) != word:
        return path
    nearest = difflib.get_close_matches(word, names, n=1, cutoff=0)
    raise InputError(f'no config is called {shown(word)}; the nearest is {nearest[0]!r}')
