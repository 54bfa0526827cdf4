"""Tables of the datasets: MATLAB files of version 5 and 7.3 as arrays of whole numbers.

Every length in a file of version 5 is compared with the bytes present before it is used: a flipped
bit crashes scipy's reader, and the process with it, in one of forty cases. Real two-dimensional
matrices of numbers are read, plain or compressed; other content of a file is skipped.
"""

import struct
import zlib
from collections.abc import Collection
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from stmn_plugin.errors import InputError
from stmn_plugin.input_files import open_regular

from .hdf5 import UnreadableTable, is_hdf5, read_in_subprocess

SIZE_LIMIT = 2**26  # bytes of a file, and of what is in it; the largest table of MARS has 200,000
INT8, INT32, UINT32, MATRIX, COMPRESSED = 1, 5, 6, 14, 15  # kinds of elements
NUMBERS = {
    **{1: 'i1', 2: 'u1', 3: 'i2', 4: 'u2', 5: 'i4', 6: 'u4', 7: 'f4'},
    **{9: 'f8', 12: 'i8', 13: 'u8'},
}
NUMERIC_CLASSES = range(6, 16)  # of a matrix: double, single, the integers
COMPLEX = 0x0800


Order: TypeAlias = Literal['<', '>']
"""Of bytes: the lowest first, or the highest."""


def read_matrix(data: bytes, name: str) -> NDArray[Any]:
    """Read the matrix of a name.

    Args:
        data: the whole file.
        name: the variable.

    Returns:
        Shape (rows, columns), as MATLAB shows it; of the type that it is stored in.

    Raises:
        UnreadableTable
    """
    orders: dict[bytes, Order] = {b'IM': '<', b'MI': '>'}
    order = orders.get(data[126:128])
    if order is None:
        raise UnreadableTable('no readable MATLAB file: its head is not that of version 5 or 7.3')
    rest = memoryview(data)[128:]
    while rest:
        kind, body, rest = _element(rest, order)
        if kind == COMPRESSED:
            kind, body, _ = _element(_inflated(body), order)
        if kind != MATRIX:
            raise UnreadableTable(f'no readable MATLAB file: an element of kind {kind}')
        flags, body = _numbers(body, order, [UINT32])
        shape, body = _numbers(body, order, [INT32])
        own_name, body = _numbers(body, order, [INT8])
        if own_name.tobytes() == name.encode():
            return _matrix(name, flags, shape, body, order)
    raise UnreadableTable(f'has no variable {name!r}')


def _matrix(
    name: str, flags: NDArray[Any], shape: NDArray[Any], body: memoryview, order: Order
) -> NDArray[Any]:
    if len(flags) != 2 or flags[0] & 0xFF not in NUMERIC_CLASSES or flags[0] & COMPLEX:
        raise UnreadableTable(f'{name} is no matrix of real numbers')
    values, _ = _numbers(body, order, NUMBERS)
    # as Python's integers, whose product does not overflow
    rows, columns = shape.tolist() if len(shape) == 2 else (-1, -1)
    if min(rows, columns) < 0 or rows * columns != len(values):
        raise UnreadableTable(
            f'no readable MATLAB file: {name} of shape {shape.tolist()} has {len(values)} values'
        )
    return values.reshape(rows, columns, order='F')


def _element(data: memoryview, order: Order) -> tuple[int, memoryview, memoryview]:
    """Return kind and body of the first element, and the bytes after it."""
    if len(data) < 8:
        raise UnreadableTable('no readable MATLAB file: it is cut off')
    kind, size = struct.unpack(f'{order}II', data[:8])
    if kind >> 16:  # up to four bytes are in the head itself, with their number in the kind
        kind, size, begin, end = kind & 0xFFFF, kind >> 16, 4, 8
        if size > 4:
            raise UnreadableTable(f'no readable MATLAB file: {size} bytes in a head')
    else:
        begin, end = 8, 8 + size
        if end > len(data):
            raise UnreadableTable('no readable MATLAB file: it is cut off')
        if kind != COMPRESSED:
            end += -size % 8
    return kind, data[begin : begin + size], data[end:]


def _numbers(
    data: memoryview, order: Order, kinds: Collection[int]
) -> tuple[NDArray[Any], memoryview]:
    """Return the values of the first element, of one of these kinds, and the bytes after it."""
    kind, body, rest = _element(data, order)
    if kind not in kinds:
        raise UnreadableTable(f'no readable MATLAB file: numbers of kind {kind}')
    dtype = np.dtype(order + NUMBERS[kind])
    if len(body) % dtype.itemsize:
        raise UnreadableTable(f'no readable MATLAB file: {len(body)} bytes of {dtype}')
    return np.frombuffer(body, dtype), rest


def _inflated(body: memoryview) -> memoryview:
    inflate = zlib.decompressobj()
    try:
        data = inflate.decompress(body, SIZE_LIMIT)
    except zlib.error as error:
        raise UnreadableTable(f'no readable MATLAB file: {error}') from error
    if not inflate.eof:  # its checksum was not reached
        raise UnreadableTable('no readable MATLAB file: it is cut off, or far larger than a table')
    return memoryview(data)


LARGEST = 2**31 - 1  # of rows, persons and cameras


def read_table(path: str, name: str, columns: int | None = 4) -> NDArray[np.int64]:
    """Read an integer table of a MATLAB file, oriented as MATLAB shows it.

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
    table = _read_file(path, name)
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


def _read_file(path: str, name: str) -> NDArray[Any]:
    try:
        with open_regular(path) as file:
            data = file.read(SIZE_LIMIT + 1)
        if len(data) > SIZE_LIMIT:
            raise UnreadableTable(f'has more than {SIZE_LIMIT} bytes, far more than a table')
        if is_hdf5(data):
            return read_in_subprocess(data, name, SIZE_LIMIT).T
        return read_matrix(data, name)
    except OSError as error:
        raise InputError(f'{path}: cannot be read ({error.strerror})') from error
    except UnreadableTable as error:
        raise InputError(f"{path}: {error}; place the dataset's own .mat file there") from error


def read_query_rows(path: str, name: str, num_rows: int) -> NDArray[np.int64]:
    """Read the row numbers of the queries, converted from 1-based to 0-based."""
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
    """Find ranges that begin inside an earlier one, or at the same place as a previous row's.

    Args:
        start: first number of each range, shape (n,).
        end: last number of each range, shape (n,).

    Returns:
        Shape (n,).
    """
    order = np.argsort(start, kind='stable')
    inside = np.zeros(len(start), dtype=bool)
    inside[order[1:]] = start[order][1:] <= np.maximum.accumulate(end[order])[:-1]
    return inside
