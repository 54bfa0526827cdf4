"""Modules that add to the plugin: built in, of installed packages, or a file of research code.

Importing such a module is all that is needed: what it defines registers itself.
"""

import functools
import importlib
import importlib.metadata
import importlib.util
import sys
from pathlib import Path
from types import ModuleType

from .errors import InputError

GROUP = 'stmn_plugin'  # entry points of other packages: any name = their module
BUILT_IN = ('stmn_plugin.models',)
_PREFIX = 'stmn_plugin_import_'


@functools.cache
def load_plugins() -> None:
    """Import built-in architectures and those of installed packages (group ``stmn_plugin``).

    Raises:
        InputError: the module of an entry point cannot be imported.
    """
    for name in BUILT_IN:
        importlib.import_module(name)
    for entry in importlib.metadata.entry_points(group=GROUP):
        try:
            entry.load()
        except ImportError as error:
            raise InputError(
                f'entry point {entry.name} = {entry.value} of group {GROUP}: {error}'
            ) from error


def import_file(path: str) -> ModuleType:
    """Import a Python file by its path; importing it again does nothing.

    Raises:
        InputError: there is no such file, or it is no Python. What it raises itself passes as it
            is, a bug of its author's.
    """
    file = Path(path).expanduser().resolve()
    if not file.is_file():
        raise InputError(f'--import {path}: no such file')
    name = _PREFIX + file.stem
    known = sys.modules.get(name)
    if known is not None:
        if known.__file__ != str(file):
            raise InputError(f'--import {path}: {known.__file__} has the same name')
        return known
    spec = importlib.util.spec_from_file_location(name, file)
    if spec is None or spec.loader is None:
        raise InputError(f'--import {path}: not a Python file')
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except SyntaxError as error:
        del sys.modules[name]
        raise InputError(f'--import {path}:{error.lineno}: {error.msg}') from error
    except BaseException:
        del sys.modules[name]
        raise
    return module


def import_words() -> list[str]:
    """Return the files imported so far as words of a command line, for another process."""
    files = [module.__file__ for name, module in sys.modules.items() if name.startswith(_PREFIX)]
    return [word for file in files if file for word in ('--import', file)]
