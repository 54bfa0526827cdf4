"""Select training tracklets and replace their labels by a JSON file (``data.train_list``).

Training uses only the labels of the file. The steps of ``tools/one_shot.py`` pass their
pseudo-labels to an ordinary run in this way.
"""

import hashlib
import os
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from stmn_plugin.errors import InputError
from stmn_plugin.input_files import read_json
from stmn_plugin.plain_values import is_count, is_text
from stmn_plugin.whole_files import write_json

from .host_lists import Training
from .tracklets import Tracklet

KEY = 'data.train_list'


class TrainList(NamedTuple):
    """Some tracklets of a training set."""

    labels: dict[int, int]  # index of a tracklet → identity used in training
    data: str  # digest of all tracklets of the training set
    total: int  # number of those


def train_list(labels: Iterable[tuple[int, int]], tracklets: Sequence[Tracklet]) -> TrainList:
    """Build a list from pairs (index, label) and the whole training set."""
    return TrainList(dict(sorted(labels)), data_digest(tracklets), len(tracklets))


def write_train_list(path: str, content: TrainList) -> None:
    """Write a file for :func:`read_train_list`.

    Raises:
        InputError: the file cannot be written.
    """
    labels = [list(pair) for pair in content.labels.items()]
    write_json(path, {'data': content.data, 'tracklets': content.total, 'labels': labels})


def read_train_list(path: str) -> TrainList:
    """Read a file of :func:`write_train_list`.

    Raises:
        InputError: the file is missing or damaged.
    """
    path = os.path.expanduser(path)
    content = read_json(path, KEY)
    pairs = content.get('labels') if isinstance(content, dict) else None
    if not (
        isinstance(pairs, list)
        and all(map(_is_pair, pairs))
        and is_text(content.get('data'))
        and is_count(content.get('tracklets'))
        and len(dict(pairs)) == len(pairs)
    ):
        raise InputError(
            f'{KEY}: {path} must hold "data", "tracklets" and "labels", a list of '
            '[index of a tracklet, label], none twice'
        )
    return TrainList(dict(pairs), content['data'], content['tracklets'])


def labelled_anew(training: Training, path: str) -> Training:
    """Return the tracklets that a file lists, with its labels; the number of identities stays.

    Raises:
        InputError: as :func:`read_train_list`, or the file belongs to other data.
    """
    content, tracklets = read_train_list(path), training.tracklets
    check_data(content.data, content.total, tracklets, f'{KEY}: {path}')
    for index, label in content.labels.items():
        if index >= len(tracklets) or label >= training.num_pids:
            raise InputError(
                f'{KEY}: {path}: [{index}, {label}] is beyond the {len(tracklets)} tracklets of '
                f'{training.num_pids} identities'
            )
    chosen = [
        (tracklets[index][0], label, *tracklets[index][2:])
        for index, label in content.labels.items()
    ]
    return training._replace(tracklets=chosen)


def check_data(digest: str, count: int, tracklets: Sequence[Tracklet], origin: str) -> None:
    """Raise InputError unless a file belongs to a training set.

    Args:
        digest: digest in the file.
        count: number of tracklets in the file.
        tracklets: the training set.
        origin: start of the message.
    """
    if (digest, count) != (data_digest(tracklets), len(tracklets)):
        raise InputError(
            f'{origin} is of other training data ({count} tracklets; these are {len(tracklets)})'
        )


def data_digest(tracklets: Iterable[Tracklet]) -> str:
    """Digest persons, cameras, numbers of frames and the first and last names to 16 hex digits."""
    digest = hashlib.sha256()
    for paths, pid, camid, _ in tracklets:
        ends = [os.path.basename(path) for path in (paths[0], paths[-1])]
        line = f'{(int(pid), int(camid), len(paths), ends)!r}\n'
        digest.update(line.encode('utf-8', 'backslashreplace'))
    return digest.hexdigest()[:16]


def _is_pair(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(map(is_count, value))
