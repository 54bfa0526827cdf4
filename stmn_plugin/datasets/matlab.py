"""Bytes of a MATLAB file of version 5 → one matrix of numbers; damaged bytes are an error.

Every length is compared with the bytes there are, before anything is made of it: a flipped bit
ends scipy's reader, and the process with it, in one of forty cases. Read are real matrices of
numbers with two dimensions, as they are or compressed; all else that a file holds is passed over.
"""

import struct
import zlib
from collections.abc import Collection
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from .hdf5 import UnreadableTable

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
    """The matrix of a name.

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
    """Kind and body of the first element, and what is behind it."""
    if len(data) < 8:
        raise UnreadableTable('no readable MATLAB file: it is cut off')
    kind, size = struct.unpack(f'{order}II', data[:8])
    if kind >> 16:  # up to four bytes stand in the head itself, their number beside the kind
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
    """The values of the first element, which is of one of these kinds, and what is behind it."""
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
    if not inflate.eof:  # its checksum was not reached, either
        raise UnreadableTable('no readable MATLAB file: it is cut off, or far larger than a table')
    return memoryview(data)
