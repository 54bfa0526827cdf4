"""Distances → places in the order of each row, equal ones as they stand; exact, without a loop.

Letters: q rows, G columns, p entries whose places are asked for.
"""

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stmn_plugin.errors import InputError

ORDERED_AT_ONCE = 1 << 17  # values whose columns are sorted together


class Places(NamedTuple):
    """Where an entry stands in its row."""

    place: NDArray[np.int64]  # (p,) from 1
    nearer: NDArray[np.int64]  # (p,) entries of the row with smaller values
    equal: NDArray[np.int64]  # (p,) entries of the row with the same value, itself among them


def sortable(distances: object) -> Tensor:
    """An array or tensor of any real type as a float32, float64 or int64 one in the same order.

    Raises:
        InputError: masked entries, no real numbers, or such that only a larger type can tell apart.
    """
    if np.ma.is_masked(distances):
        raise InputError('distances: some are masked')
    if isinstance(distances, Tensor):
        distances = distances.detach()
        if distances.is_floating_point():
            return distances.float() if distances.element_size() < 4 else distances
        distances = distances.cpu().numpy()
    array = np.array(distances)  # a copy: torch refuses read-only arrays
    if array.dtype.kind in 'biu' and (array.astype(np.int64) == array).all():
        return torch.from_numpy(array.astype(np.int64, copy=False))
    if array.dtype.kind != 'f' or array.dtype.itemsize > 8:
        raise InputError(f'distances must be real numbers of up to 64 bits, got {array.dtype}')
    return sortable(torch.from_numpy(array.astype(array.dtype.newbyteorder('='), copy=False)))


def nth_of_row(row: NDArray[np.int64]) -> NDArray[np.int64]:
    """0-based number of every entry among those of its row; ``row`` (p,) ascends."""
    return np.arange(len(row)) - np.searchsorted(row, row)


def places_of(distances: Tensor, row: NDArray[np.int64], column: NDArray[np.int64]) -> Places:
    """Places of chosen entries in the stable order of their rows.

    Sorting values alone is some times faster than sorting columns by them, and tells all but how
    equal values follow each other: columns are sorted in rows only where that matters.

    Args:
        distances: (q, G), as :func:`sortable` gives them.
        row, column: (p,), the rows ascending.
    """
    if len(row) == 0:
        return Places(*(np.empty(0, dtype=np.int64),) * 3)
    nth = nth_of_row(row)
    on_device = [torch.from_numpy(x).to(distances.device) for x in (row, column, nth)]
    table = distances.new_zeros(len(distances), nth.max() + 1)  # what is asked for, row by row
    table[on_device[0], on_device[2]] = distances[on_device[0], on_device[1]]
    if distances.device.type == 'cpu':  # NumPy sorts numbers with vector instructions
        ordered = torch.from_numpy(np.sort(distances.numpy(), axis=1))
    else:
        ordered = distances.sort(dim=1).values
    nearer, not_farther = (
        torch.searchsorted(ordered, table, right=right)[on_device[0], on_device[2]].cpu().numpy()
        for right in (False, True)
    )
    place, equal = nearer + 1, not_farther - nearer
    tied = np.flatnonzero(equal > 1)
    if len(tied):
        place[tied] = _stable_places(distances, row[tied], column[tied])
    return Places(place, nearer, equal)


def _stable_places(
    distances: Tensor, row: NDArray[np.int64], column: NDArray[np.int64]
) -> NDArray[np.int64]:
    """The places (p,) of :func:`places_of`, some rows at a time: their orders stay in the cache."""
    some, own = np.unique(row, return_inverse=True)
    places = []
    count = max(ORDERED_AT_ONCE // distances.shape[1], 1)
    for start in range(0, len(some), count):
        stop = start + count
        order = stable_order(distances[torch.from_numpy(some[start:stop]).to(distances.device)])
        ranks = np.empty_like(order)
        np.put_along_axis(ranks, order, np.arange(1, order.shape[1] + 1)[None], axis=1)
        of_these = slice(*np.searchsorted(own, (start, stop)))
        places.append(ranks[own[of_these] - start, column[of_these]])
    return np.concatenate(places)


def stable_order(distances: Tensor) -> NDArray[np.int64]:
    """Columns of each row (q, G) by value, equal ones as they stand.

    On a CPU by 16 bits at a time, the lowest first: NumPy's sort of those is a radix sort, and two
    passes take a third of the time of one stable sort of float32.
    """
    if distances.device.type != 'cpu':
        return distances.sort(dim=1, stable=True).indices.cpu().numpy()
    size = distances.element_size()
    whole = np.dtype(f'<i{size}')
    bits = distances.numpy()
    if distances.is_floating_point():
        bits = (bits + 0.0).astype(f'<f{size}', copy=False).view(whole)  # without a -0
        bits = bits ^ ((bits >> (8 * size - 1)) & np.iinfo(whole).max)  # ordered as whole numbers
    bits = bits.astype(whole, copy=False) ^ np.iinfo(whole).min  # and as numbers without a sign
    digits = np.moveaxis(bits.view('<u2').reshape(*bits.shape, size // 2), 2, 0)  # (size / 2, q, G)
    order = np.argsort(digits[0], axis=1, kind='stable')
    for digit in digits[1:]:
        by_digit = np.argsort(np.take_along_axis(digit, order, 1), axis=1, kind='stable')
        order = np.take_along_axis(order, by_digit, 1)
    return order
