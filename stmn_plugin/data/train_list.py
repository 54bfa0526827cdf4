"""A JSON file → which training tracklets are trained on, with labels in place of their own.

What trains sees the labels of the file alone. It is how the steps of ``tools/one_shot.py`` hand
their pseudo-labels to an ordinary run (``data.train_list``).
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

    labels: dict[int, int]  # index of a tracklet → identity that it is trained as
    data: str  # digest of all tracklets of the training set
    total: int  # number of those


def train_list(labels: Iterable[tuple[int, int]], tracklets: Sequence[Tracklet]) -> TrainList:
    """Of (index, label) and the whole training set."""
    return TrainList(dict(sorted(labels)), data_digest(tracklets), len(tracklets))


def write_train_list(path: str, content: TrainList) -> None:
    """Write the file that :func:`read_train_list` reads; InputError where that cannot be done."""
    labels = [list(pair) for pair in content.labels.items()]
    write_json(path, {'data': content.data, 'tracklets': content.total, 'labels': labels})


def read_train_list(path: str) -> TrainList:
    """What a file says.

    Raises:
        InputError: no such file, or a damaged one.
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
    """The tracklets that a file names, with its labels; as many identities as before.

    Raises:
        InputError: as :func:`read_train_list`, or a file of other data.
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
    """InputError unless a digest and a number are those of a training set.

    Args:
        digest, count: of the training set that a file is of.
        tracklets: of the training set at hand.
        origin: starts the message.
    """
    if (digest, count) != (data_digest(tracklets), len(tracklets)):
        raise InputError(
            f'{origin} is of other training data ({count} tracklets; these are {len(tracklets)})'
        )


def data_digest(tracklets: Iterable[Tracklet]) -> str:
    """16 hex digits of persons, cameras, numbers of frames, and names of the first and the last."""
    digest = hashlib.sha256()
    for paths, pid, camid, _ in tracklets:
        ends = [os.path.basename(path) for path in (paths[0], paths[-1])]
        line = f'{(int(pid), int(camid), len(paths), ends)!r}\n'
        digest.update(line.encode('utf-8', 'backslashreplace'))
    return digest.hexdigest()[:16]


def _is_pair(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(map(is_count, value))
