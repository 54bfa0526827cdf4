"""Read the rows of a CSV line by line, so that errors name their line."""

import csv
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from stmn_plugin.errors import InputError
from stmn_plugin.input_files import open_regular

if TYPE_CHECKING:
    from .listing import Attempt


def csv_rows(
    path: str, columns: Sequence[str], attempt: 'Attempt'
) -> Iterator[tuple[int, dict[str, str]]]:
    """Yield line number and stripped cells, by column, of each row that is not blank.

    Line by line, so that a quote without its partner is an error of its line, not the begin of a
    cell that swallows the rows below it. A row has as many cells as the header, or cells were lost
    or split; only empty ones at the end may be too many.

    Args:
        path: of the file.
        columns: names that its first line must hold, each once; others are passed over.
        attempt: see ``listing.Attempt``, around each row.

    Raises:
        InputError: names the line; of the header in any case, of rows if ``attempt`` lets it.
    """
    lines = _lines(path)
    first, text = next(lines, (1, ''))
    header = _header(f'{path}:{first}', text, columns)
    for line, text in lines:
        with attempt():
            cells = _cells(f'{path}:{line}', text)
            if not any(cells):
                continue
            if len(cells) < len(header) or any(cells[len(header) :]):
                raise InputError(f'{path}:{line}: {len(cells)} cells, the header has {len(header)}')
            yield line, dict(zip(header, cells, strict=False))


def _lines(path: str) -> Iterator[tuple[int, str]]:
    """Yield number and text of each line that is not blank, for any line ending and BOM."""
    try:
        with open_regular(path, encoding='utf-8-sig') as file:
            for number, text in enumerate(file, 1):
                if text.strip():
                    yield number, text.rstrip('\n')
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, 'strerror', None) or error
        raise InputError(f'{path}: cannot be read as CSV in UTF-8 ({reason})') from error


def _cells(where: str, text: str) -> list[str]:
    if '\0' in text:
        raise InputError(f'{where}: holds a NUL character, so it is no CSV in UTF-8')
    try:
        cells = next(csv.reader([text], strict=True, skipinitialspace=True), [])
    except csv.Error as error:
        raise InputError(
            f'{where}: no row of a CSV ({error}); a quoted cell ends in its line, '
            'and quotes in it are doubled'
        ) from error
    return [cell.strip() for cell in cells]


def _header(where: str, text: str, columns: Sequence[str]) -> list[str]:
    cells = _cells(where, text)
    while cells and not cells[-1]:
        cells.pop()
    missing = [name for name in columns if name not in cells]
    if missing:
        other = [separator for separator in ';\t|' if separator in ','.join(cells)]
        raise InputError(
            f'{where}: column {", ".join(missing)} missing, the first line must name '
            + ','.join(columns)
            + (f'; it is separated by {other[0]!r}, not by commas' if other else '')
        )
    twice = [name for name in columns if cells.count(name) > 1]
    if twice:
        raise InputError(f'{where}: column {", ".join(twice)} is there twice')
    return cells
