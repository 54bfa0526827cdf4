"""Find the places of entries in the stable order of their rows, exactly and vectorised.

Letters: q rows, G columns, p entries whose places are computed.
"""

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stmn_plugin.errors import InputError

ORDERED_AT_ONCE = 1 << 17  # values whose columns are sorted together


class Places(NamedTuple):
    """Places of entries in their rows."""

    place: NDArray[np.int64]  # (p,) from 1
    nearer: NDArray[np.int64]  # (p,) entries of the row with smaller values
    equal: NDArray[np.int64]  # (p,) entries of the row with the same value, itself among them


def sortable(distances: object) -> Tensor:
    """Convert an array or tensor of any real type to float32, float64 or int64, keeping the order.

    Raises:
        InputError: masked entries, values that are not real, or that need a larger type.
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
    """Return the index of every entry within its row, from 0; ``row`` (p,) is ascending."""
    return np.arange(len(row)) - np.searchsorted(row, row)


def places_of(distances: Tensor, row: NDArray[np.int64], column: NDArray[np.int64]) -> Places:
    """Find the places of chosen entries in the stable order of their rows.

    Sorting only values is several times faster than sorting columns by them, and gives all except
    the order of equal values; columns are sorted only in rows with ties.

    Args:
        distances: (q, G), as :func:`sortable` gives them.
        row: rows of the entries, (p,), ascending.
        column: columns of the entries, (p,).
    """
    if len(row) == 0:
        return Places(*(np.empty(0, dtype=np.int64),) * 3)
    nth = nth_of_row(row)
    on_device = [torch.from_numpy(x).to(distances.device) for x in (row, column, nth)]
    table = distances.new_zeros(len(distances), nth.max() + 1)  # the chosen entries, row by row
    table[on_device[0], on_device[2]] = distances[on_device[0], on_device[1]]
    if distances.device.type == 'cpu':  # NumPy sorts numbers with vector instructions
        ordered = torch.from_numpy(np.sort(distances.numpy(), axis=1))
    else:
        ordered = distances.sort(dim=1).values
    ordered = ordered.contiguous()  # of transposed distances it is not
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
    """Find the places (p,) of :func:`places_of` in blocks of rows that fit into the cache."""
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
    """Sort the columns of each row (q, G) by value, stably.

    On a CPU 16 bits are sorted at a time, the lowest first: NumPy uses a radix sort for them, and
    two passes take a third of the time of one stable sort of float32.
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
