"""Tables of the datasets: a MATLAB file in, an array of whole numbers in a possible range out."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from stmn_plugin.errors import InputError
from stmn_plugin.input_files import open_regular

from .hdf5 import UnreadableTable, is_hdf5, read_apart
from .matlab import SIZE_LIMIT, read_matrix

LARGEST = 2**31 - 1  # of rows, persons and cameras


def read_table(path: str, name: str, columns: int | None = 4) -> NDArray[np.int64]:
    """One integer table of a MATLAB file, oriented as MATLAB shows it.

    Reads MAT v5 and v7.3 (HDF5, which stores the transpose), whole numbers of any type.

    Args:
        path: the .mat file.
        name: the variable.
        columns: its width; None for a vector stored as a row or a column.

    Returns:
        int64 array (n, columns), or (n,) for a vector; n > 0, no value below -1 or above 2^31-1.

    Raises:
        InputError: names the file and what is wrong with it.
    """
    table = _matrix(path, name)
    expected = '(1, n)' if columns is None else f'(n, {columns})'
    if 1 not in table.shape if columns is None else table.shape[1] != columns:
        raise InputError(f'{path}: {name} has shape {table.shape}, expected {expected}')
    if not table.size:
        raise InputError(f'{path}: {name} is empty')
    # NaN is none of these; -1 is MARS' junk
    possible = (table >= -1) & (table <= LARGEST) & (table == np.round(table))
    if not possible.all():
        row, column = np.argwhere(~possible)[0].tolist()
        raise InputError(
            f'{path}: {name} holds {table[row, column]} in row {row + 1}, column {column + 1}, '
            f'expected whole numbers from -1 to {LARGEST}'
        )
    whole = table.astype(np.int64)
    return whole.reshape(-1) if columns is None else whole


def _matrix(path: str, name: str) -> NDArray[Any]:
    try:
        with open_regular(path) as file:
            data = file.read(SIZE_LIMIT + 1)
        if len(data) > SIZE_LIMIT:
            raise UnreadableTable(f'has more than {SIZE_LIMIT} bytes, far more than a table')
        if is_hdf5(data):
            return read_apart(data, name, SIZE_LIMIT).T
        return read_matrix(data, name)
    except OSError as error:
        raise InputError(f'{path}: cannot be read ({error.strerror})') from error
    except UnreadableTable as error:
        raise InputError(f"{path}: {error}; place the dataset's own .mat file there") from error


def read_query_rows(path: str, name: str, num_rows: int) -> NDArray[np.int64]:
    """The 1-based row numbers of the queries as 0-based ones, in the file's order."""
    rows = read_table(path, name, columns=None)
    outside = rows[(rows < 1) | (rows > num_rows)]
    if outside.size:
        raise InputError(
            f'{path}: {name} names row {outside[0]}, the test tracklets are rows 1 to {num_rows}'
        )
    distinct, counts = np.unique(rows, return_counts=True)
    if len(distinct) < len(rows):
        twice = distinct[counts > 1][0]
        raise InputError(f'{path}: {name} names row {twice} twice')
    return rows - 1


def starts_within_another(start: NDArray[np.int64], end: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Which ranges begin inside one that begins before them, or at the same place in a row before.

    Args:
        start, end: first and last number of each range, shape (n,).

    Returns:
        Shape (n,).
    """
    order = np.argsort(start, kind='stable')
    inside = np.zeros(len(start), dtype=bool)
    inside[order[1:]] = start[order][1:] <= np.maximum.accumulate(end[order])[:-1]
    return inside
