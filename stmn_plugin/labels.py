"""Convert identities and cameras of any type to int64 numbers with the same equalities.

NumPy compares 1 with '1', int64 with float32 and int64 with uint64 by converting both, which can
make different people equal and equal ones different. Here nothing is rounded.
"""

import re
from collections.abc import Iterable, Sequence
from decimal import Decimal
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .errors import InputError

JUNK_PID = -1
UNKNOWN = JUNK_PID  # person or camera of an unlabelled tracklet: neither right nor wrong
UNKNOWN_PERSON = 'unknown'  # its name in folders and lists


def comparable(query: Any, gallery: Any, name: str) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Labels of queries (Q,) and gallery (G,) as int64 numbers, to be compared with ==.

    A label is a whole number (of an integer type, or a float that holds it exactly), a text or
    bytes, and all of both lists are of one of these kinds. Numbers that fit into int64 stay what
    they are, so the number of junk does.

    Raises:
        InputError: labels of two kinds, masked, missing, not whole, or so large that their float
            type cannot tell neighbours apart; a list of more dimensions. Quotes ``name``.
    """
    sides = [_exact_labels(labels, name) for labels in (query, gallery)]
    if all(side.dtype == np.int64 for side in sides):
        return sides[0], sides[1]
    both = np.concatenate([side.astype(object) for side in sides])
    kinds = {type(label).__name__ for label in both}
    if len(kinds) > 1:
        raise InputError(f'{name} of several kinds cannot be compared: {", ".join(sorted(kinds))}')
    if {str(JUNK_PID), str(JUNK_PID).encode()} & set(both):
        raise InputError(f'{name}: junk is the number {JUNK_PID}, not a text')
    codes = np.unique(both, return_inverse=True)[1].astype(np.int64)
    codes[both == JUNK_PID] = JUNK_PID
    return codes[: len(sides[0])], codes[len(sides[0]) :]


def _exact_labels(labels: Any, name: str) -> NDArray[Any]:
    """Return an array (n,) of int64 if all values fit, else of int, str or bytes objects."""
    import torch  # slow to import, and natural_key() needs none

    if isinstance(labels, torch.Tensor):
        of_numpy = (torch.float16, torch.float32, torch.float64)
        if labels.is_floating_point() and labels.dtype not in of_numpy:
            raise InputError(f'{name}: {labels.dtype} holds no labels')
        labels = labels.detach().cpu().numpy()
    if np.ma.is_masked(labels):
        raise InputError(f'{name}: some are masked')
    if hasattr(labels, 'dtype'):
        labels = np.asarray(labels)
        if labels.ndim != 1:
            raise InputError(f'{name} must have one dimension, got shape {labels.shape}')
        if labels.dtype.kind == 'f':
            return _whole_numbers(labels, name)
        if labels.dtype.kind in 'iu' and (labels.astype(np.int64) == labels).all():
            return np.asarray(labels, dtype=np.int64)
    elif isinstance(labels, str | bytes) or not isinstance(labels, Sequence):
        raise InputError(f'{name} must be a list, array or tensor, got {type(labels).__name__}')
    exact = [_exact_label(label, name) for label in labels]
    fit = all(type(label) is int and -(2**63) <= label < 2**63 for label in exact)
    return np.array(exact, dtype=np.int64 if fit else object)


def _exact_label(label: object, name: str) -> int | str | bytes:
    """Convert a label to int, str or bytes."""
    if isinstance(label, str):
        return str(label)
    if isinstance(label, bytes):
        return bytes(label)
    if isinstance(label, int | np.integer) and not isinstance(label, bool):
        return int(label)
    if isinstance(label, float | np.floating):
        return int(_whole_numbers(np.asarray([label]), name)[0])
    raise InputError(
        f'{name} must be whole numbers or texts, got {type(label).__name__} {label!r:.50}'
    )


def _whole_numbers(labels: NDArray[Any], name: str) -> NDArray[np.int64]:
    """Floats (n,) as int64."""
    exact_below = min(2 / float(np.finfo(labels.dtype).eps), 2.0**53)
    exact = (np.abs(labels) < exact_below) & (labels == np.trunc(labels))
    if not exact.all():
        raise InputError(
            f'{name} must be whole numbers, as {labels.dtype} below {exact_below:.0f}, '
            f'got {labels[~exact][0]}'
        )
    return labels.astype(np.int64)


def count_matchable(
    query_pids: Any, gallery_pids: Any, query_camids: Any, gallery_camids: Any
) -> int:
    """Count the queries that have a match: the same pid under another camid."""
    pids = comparable(query_pids, gallery_pids, 'pids')
    camids = comparable(query_camids, gallery_camids, 'camids')
    cameras: dict[int, set[int]] = {}  # pid → its cameras in the gallery
    for pid, camid in zip(pids[1].tolist(), camids[1].tolist(), strict=True):
        cameras.setdefault(pid, set()).add(camid)
    return sum(
        pid != JUNK_PID and bool(cameras.get(pid, set()) - {camid})
        for pid, camid in zip(pids[0].tolist(), camids[0].tolist(), strict=True)
    )


def natural_key(text: str) -> tuple[list[str | Decimal], str]:
    """Sort key under which 'f2' comes before 'f10'; names equal as numbers keep a fixed order."""
    # Decimal takes any number of digits; int refuses more than 4,300
    parts = [Decimal(p) if i % 2 else p for i, p in enumerate(re.split(r'(\d+)', text))]
    return parts, text


def number_labels(labels: Iterable[Any]) -> dict[Any, int]:
    """Numbers 0..n-1 for the distinct labels in natural order: the same on every file system."""
    return {
        label: i for i, label in enumerate(sorted(set(labels), key=lambda x: natural_key(str(x))))
    }


def relabel(tracklets: Iterable[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
    """Renumber pids as classes 0..n-1 of a classifier, in the order of the raw pids."""
    classes = number_labels(tracklet[1] for tracklet in tracklets)
    return [(paths, classes[pid], *rest) for paths, pid, *rest in tracklets]
