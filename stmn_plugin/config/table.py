"""Format settings as tables for ``--help-config`` and the documents.

``python -m stmn_plugin.config.table docs/*.md docs/systems/*.md`` writes keys between the marks of
each document: those of a section into the document that bears its name, those of this plugin but
not of the compared systems into any other. A document without marks stays as it is. Without a
document all keys are printed.
"""

import inspect
import shutil
import sys
from pathlib import Path
from textwrap import fill
from typing import NamedTuple

from tabulate import tabulate

from stmn_plugin.errors import InputError, exit_on_input_error
from stmn_plugin.plugins import load_plugins

from . import host_sections
from .sections import SECTIONS, known_settings

START = '<!-- settings, made by: python -m stmn_plugin.config.table {} -->\n'
SYSTEMS = 'stmn_plugin.models.systems.'
END = '<!-- end of settings -->\n'
_NARROW, _WIDE = 100, 160  # columns of a console


class KeyRow(NamedTuple):
    """A setting in a table."""

    key: str
    default: str
    takes: str
    help: str


def rows(word: str = '', ours: bool = False) -> list[KeyRow]:
    """Return all keys, those of registered architectures, too.

    Args:
        word: what the key or its help must contain, in any case.
        ours: leave out what is the host's, as the host has it, and what other packages add.
    """
    load_plugins()
    return [
        KeyRow(key, one.shown or "''", str(one.rule), one.help)
        for key, one in known_settings()
        if word.lower() in f'{key}\n{one.help}'.lower() and (_is_ours(key) or not ours)
    ]


def as_text(table: list[KeyRow], columns: int | None = None) -> str:
    """Format a table for a console of so many columns; by default those of the terminal."""
    columns = columns or shutil.get_terminal_size((_NARROW, 24)).columns
    columns = min(max(columns, _NARROW), _WIDE)
    key = max(len(row.key) for row in table)
    default = min(max(len(row.default) for row in table), 16)
    left = columns - key - default - 6  # two blanks between columns
    takes = left * 2 // 5
    widths = (key, default, takes, left - takes)
    text: str = tabulate(
        [
            [
                fill(cell, width, break_long_words=False)
                for cell, width in zip(row, widths, strict=True)
            ]
            for row in table
        ],
        ['key', 'default', 'takes', 'meaning'],
        tablefmt='plain',
        disable_numparse=True,
    )
    return text


def as_markdown(table: list[KeyRow]) -> str:
    """Format a table for a document."""
    lines = ['| key | default | takes | meaning |', '|---|---|---|---|']
    for row in table:
        cells = [f'`{row.key}`', f'`{row.default}`', row.takes, row.help]
        lines.append('| ' + ' | '.join(cell.replace('|', '\\|') for cell in cells) + ' |')
    return '\n'.join(lines) + '\n'


def rows_for(name: str) -> list[KeyRow]:
    """Return the keys that the named document shows."""
    section = name.partition('.')[0]
    load_plugins()
    if section in SECTIONS:
        return [row for row in rows() if row.key.startswith(f'{section}.')]
    return [row for row in rows(ours=True) if not _is_of_a_system(row.key)]


def with_table(text: str, name: str) -> str:
    """Insert the table of keys between the marks of a document.

    Args:
        text: of the document.
        name: of its file.

    Returns:
        The document; unchanged if it has no marks.

    Raises:
        InputError: one of its two marks is missing, or is another document's.
    """
    if '<!-- settings' not in text and END not in text:
        return text
    start = START.format(name)
    before, found, behind = text.partition(start)
    _, ends, after = behind.partition(END)
    if not (found and ends):
        raise InputError(f'{name} needs the lines {start.strip()} and {END.strip()}')
    return f'{before}{start}\n{as_markdown(rows_for(name))}\n{END}{after}'


def main(words: list[str]) -> None:
    """Print all keys, or write them into the documents."""
    if not words:
        print(as_markdown(rows()), end='')
    for name in words:
        text = Path(name).read_text(encoding='utf-8')
        Path(name).write_text(with_table(text, Path(name).name), encoding='utf-8')


def _is_of_a_system(key: str) -> bool:
    return SECTIONS[key.rpartition('.')[0]].__module__.startswith(SYSTEMS)


def _is_ours(key: str) -> bool:
    section, _, name = key.rpartition('.')
    classes = (one for one in SECTIONS[section].__mro__ if name in inspect.get_annotations(one))
    module = next(classes).__module__  # of the last that says what the key takes
    return module.startswith('stmn_plugin.') and module != host_sections.__name__


if __name__ == '__main__':
    with exit_on_input_error():
        main(sys.argv[1:])
