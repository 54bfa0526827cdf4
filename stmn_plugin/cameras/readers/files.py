"""Read text, JSON and folders of a tracker; errors name the file."""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from stmn_plugin.errors import InputError
from stmn_plugin.input_files import open_regular
from stmn_plugin.labels import natural_key


def lines_of(path: Path) -> Iterator[tuple[str, str]]:
    """Yield ``file:line`` and text of every line that is not blank."""
    try:
        with open_regular(path, encoding='utf-8-sig') as file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    yield f'{path}:{number}', line.strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, 'strerror', None) or 'it is not UTF-8 text'
        raise InputError(f'cannot read {path}: {reason}') from error


def json_of(path: Path) -> Any:
    """Read a JSON file."""
    try:
        with open_regular(path, encoding='utf-8-sig') as file:
            return json.load(file)
    except OSError as error:
        raise InputError(f'cannot read {path}: {error.strerror}') from error
    except (ValueError, RecursionError) as error:
        raise InputError(f'{path}: is not JSON: {error}') from error


def text_files(folder: Path, what: str) -> list[Path]:
    """Return the files ``*.txt`` of a folder in natural order.

    Args:
        folder: the folder.
        what: its expected content, for the message.

    Raises:
        InputError: it is not a folder, cannot be read, or has no such file.
    """
    try:
        names = [name for name in os.listdir(folder) if name.lower().endswith('.txt')]
    except NotADirectoryError as error:
        raise InputError(f'{folder}: is a file, expected the folder of {what}') from error
    except OSError as error:
        raise InputError(f'cannot read {folder}: {error.strerror}') from error
    if not names:
        raise InputError(f'{folder}: contains no .txt file, expected {what}')
    return [folder / name for name in sorted(names, key=natural_key)]
