"""Rows → a table that fits a console of 100 columns; what all rows have in common stands above."""

import shutil
import textwrap
from collections.abc import Collection, Mapping, Sequence
from typing import Any

WIDEST, NARROWEST = 100, 80  # columns of a console that tables are made for
GAP = '  '
WRAPPED = (20, 8)  # columns that a long text gets: before columns are left out, and after


def console_table(
    rows: Sequence[Mapping[str, Any]],
    shared: Collection[str] = (),
    least: Sequence[str] = (),
    digits: int = 1,
    width: int | None = None,
) -> str:
    """Format a table, without columns that are empty in every row.

    One that would be too wide gets headers and texts of several lines; then columns are left out,
    and a last line names them.

    Args:
        rows: column → number, text, or None and '' for nothing; all of the same columns.
        shared: conditions of a row. One that is the same in all rows that have it stands in a line
            above.
        least: columns that a file holds, too, and that may be left out, the first one first.
        digits: of floating-point numbers behind the point.
        width: columns; by default those of the terminal, from NARROWEST to WIDEST.

    >>> print(console_table([{'a': 'x', 'b': 1.25, 'c': 'z'}, {'a': 'x', 'b': 10, 'c': ''}], ['a']))
    a x
    <BLANKLINE>
      b  c
    ---  -
    1.2  z
     10
    """
    if not rows:
        return ''
    if width is None:
        width = shutil.get_terminal_size((WIDEST, 24)).columns
        width = min(max(width, NARROWEST), WIDEST)
    columns = {name: [_cell(row[name], digits) for row in rows] for name in rows[0]}
    columns = {name: cells for name, cells in columns.items() if any(cells)}
    above = [name for name in columns if name in shared and len({*columns[name]} - {''}) == 1]
    lines = textwrap.wrap(', '.join(f'{name} {max(columns.pop(name))}' for name in above), width)
    numbers = {name for name, cells in columns.items() if all(map(_is_number, cells))}
    widths = {name: _longest([name, *cells]) for name, cells in columns.items()}
    if _total(widths) > width:
        widths = {name: _longest([*name.split(), *cells]) for name, cells in columns.items()}
    left_out = []
    _wrap_texts(widths, numbers, width, WRAPPED[0])
    for name in least:
        if name in widths and _total(widths) > width:
            left_out.append(name)
            del widths[name]
    _wrap_texts(widths, numbers, width, WRAPPED[1])
    table = [_row({name: name for name in widths}, widths, numbers)]
    table.append(GAP.join('-' * columns_ for columns_ in widths.values()))
    for number in range(len(rows)):
        cells = {name: columns[name][number] for name in widths}
        table.append(_row(cells, widths, numbers))
    if left_out:
        table.append(textwrap.fill(f'In the files only: {", ".join(left_out)}.', width))
    return '\n'.join([*lines, *[''] * bool(lines), *table])


def _cell(value: Any, digits: int) -> str:
    if value is None:
        return ''
    return f'{value:.{digits}f}' if isinstance(value, float) else str(value)


def _is_number(cell: str) -> bool:
    """Return whether a cell is flushed right and never wrapped: 68.0, 68.0 ± 1.5, 0:04:10."""
    return not any(map(str.isalpha, cell))


def _longest(texts: Sequence[str]) -> int:
    return max(map(len, texts))


def _total(widths: Mapping[str, int]) -> int:
    return sum(widths.values()) + len(GAP) * (len(widths) - 1)


def _wrap_texts(widths: dict[str, int], numbers: set[str], width: int, least: int) -> None:
    """Take columns from the widest texts until a table fits, or all have as few as ``least``."""
    texts = [name for name in widths if name not in numbers]
    while texts and _total(widths) > width:
        widest = max(texts, key=widths.__getitem__)
        if widths[widest] <= least:
            return
        widths[widest] -= 1


def _row(cells: Mapping[str, str], widths: Mapping[str, int], numbers: set[str]) -> str:
    """Format a row; its lines are as many as those of its longest cell."""
    wrapped = [
        textwrap.wrap(cell, widths[name], break_on_hyphens=False) for name, cell in cells.items()
    ]
    lines = []
    for number in range(max(1, *map(len, wrapped))):
        parts = [cell[number] if number < len(cell) else '' for cell in wrapped]
        aligned = [
            part.rjust(size) if name in numbers else part.ljust(size)
            for part, (name, size) in zip(parts, widths.items(), strict=True)
        ]
        lines.append(GAP.join(aligned).rstrip())
    return '\n'.join(lines)
