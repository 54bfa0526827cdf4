"""Store vectors of frames, so that another protocol, metric or plan of clips needs no encoding.

``<name>.npy`` holds the vectors of every frame, tracklet after tracklet, (F, views, V) float32;
``<name>.json``, written last, records their origin, their place in the file and its checksum, and
has its own checksum. Both files are used only if their checksums are correct.
"""

import hashlib
import io
import json
import math
import os
import zlib
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from stmn_plugin.data.frame_samplers import ClipPlan
from stmn_plugin.data.frames import readable_clip
from stmn_plugin.data.tracklets import Tracklet
from stmn_plugin.errors import InputError
from stmn_plugin.input_files import open_regular
from stmn_plugin.plain_values import is_count, named
from stmn_plugin.whole_files import check_writable, whole_file, write_errors, write_json

from .features import ClipVectors

BLOCK = 1 << 24  # bytes per read of the check


class FeatureFolder(NamedTuple):
    """The folder of the vectors, and the config that they depend on."""

    path: str  # ``test.features_dir``
    config: Mapping[str, Any] = {}  # key → value


class FeatureStore:
    """The stored vectors of one list of tracklets.

    Args:
        folder: ``test.features_dir``.
        name: name of the files, e.g. ``mars-query``.
        fingerprint: that of model, config and frames, see ``fingerprint.py``.
        tracklets: the host's 4-tuples.
    """

    def __init__(
        self, folder: str, name: str, fingerprint: Mapping[str, Any], tracklets: Sequence[Tracklet]
    ):
        self.path = os.path.join(os.path.expanduser(folder), f'{name}.npy')
        self.record_path = os.path.join(os.path.expanduser(folder), f'{name}.json')
        self.fingerprint = fingerprint
        lengths = [len(paths) for paths, _, _, _ in tracklets]
        self.starts = np.cumsum([0, *lengths])  # (G + 1,) rows of each tracklet
        self.tracklets = tracklets

    def exists(self) -> bool:
        """Return whether both files exist."""
        return os.path.exists(self.record_path) and os.path.exists(self.path)

    def write(
        self, batches: Iterable[ClipVectors], bad_frames: Collection[str], seq_len: int
    ) -> None:
        """Write the vectors of all frames.

        Args:
            batches: ClipVectors of the plan 'in_order'.
            bad_frames: paths that ``batches`` skips, filled while they are read.
            seq_len: L of the plan.

        Raises:
            InputError: the disk is full or the folder cannot be written; no file remains.
        """
        try:
            with write_errors(self.path):
                os.makedirs(os.path.dirname(self.path), exist_ok=True)
            check_writable(self.path)
        except InputError as error:
            raise InputError(f'test.features_dir: {error}') from error
        crc, offset, shape = 0, 0, (len(self.tracklets), 1, 1)
        with whole_file(self.path) as file:
            for vectors in self._in_order(batches, seq_len):
                data = np.ascontiguousarray(vectors, dtype='<f4').tobytes()
                if not offset:
                    shape = (int(self.starts[-1]), *vectors.shape[1:])
                    header = _header(shape)
                    data, offset = header + data, len(header)
                crc = zlib.crc32(data, crc)
                file.write(data)
        bad, frames = set(bad_frames), (path for paths, *_ in self.tracklets for path in paths)
        record = {
            'made_from': self.fingerprint,
            'offset': offset,
            'shape': list(shape),
            'crc32': crc,
            'unreadable': [row for row, path in enumerate(frames) if path in bad] if bad else [],
        }
        write_json(self.record_path, {**record, 'sha256': _digest(record)})

    def _in_order(
        self, batches: Iterable[ClipVectors], seq_len: int
    ) -> Iterator[NDArray[np.float32]]:
        """Yield vectors (n, views, V) of all frames in order, without the repeats in last clips."""
        lengths = (
            min(seq_len, len(paths) - start)
            for paths, _, _, _ in self.tracklets
            for start in range(0, len(paths), seq_len)
        )
        for vectors, rows, *_ in batches:
            needed = torch.cat([row[: next(lengths)] for row in rows])
            yield vectors[:, needed.to(vectors.device)].transpose(0, 1).float().cpu().numpy()

    def open(self, views: int = 1) -> None:
        """Map the vectors into memory after checking their origin and every byte.

        Args:
            views: number of views needed: 1, or 2 with the mirrored frames.

        Raises:
            InputError: the files are stale (the message says what differs) or damaged.
        """
        try:
            record = self._read_record()
            self._check_fingerprint(record['made_from'], record['shape'][1], views)
            self.vectors = self._map(record['offset'], record['shape'], record['crc32'])
        except OSError as error:  # without a name where an opened file cannot be read
            path = error.filename or self.path
            reason = error.strerror or error
            raise InputError(f'test.features_dir: cannot read {path}: {reason}') from error
        self.readable = np.ones(len(self.vectors), dtype=bool)
        self.readable[record['unreadable']] = False

    def _read_record(self) -> dict[str, Any]:
        """Read the json file and check its checksum and types."""
        try:
            with open_regular(self.record_path, encoding='utf-8') as file:
                record: dict[str, Any] = json.load(file)
            digest = record.pop('sha256')
            if digest != _digest(record):
                raise ValueError('its content is not what was written')
            _check_record(record)
            return record
        except LookupError as error:
            reason = f'it has no {error}, as those of an earlier version'
            raise _damaged(self.record_path, reason) from error
        except (ValueError, TypeError, AttributeError, RecursionError) as error:
            raise _damaged(self.record_path, error) from error

    def _check_fingerprint(self, stored: Mapping[str, Any], stored_views: int, views: int) -> None:
        keys = dict.fromkeys([*self.fingerprint, *stored])  # in their order
        differing = [key for key in keys if stored.get(key) != self.fingerprint.get(key)]
        if stored_views < views:
            differing.append('test.flip')
        if differing:
            raise InputError(
                f'{self.path} was made from other {", ".join(differing)}: remove it or give '
                'another test.features_dir'
            )

    def _map(self, offset: int, shape: Sequence[int], crc: int) -> NDArray[np.float32]:
        """Map the vectors of the file, whose header is not interpreted."""
        with open_regular(self.path) as file:
            size = os.fstat(file.fileno()).st_size
            if size != offset + 4 * math.prod(shape):
                raise _damaged(self.path, f'it has {size} bytes')
            found = 0
            while block := file.read(BLOCK):
                found = zlib.crc32(block, found)
            if found != crc:
                raise _damaged(self.path, 'its bytes are not those written')
            return np.memmap(file, '<f4', 'r', offset, tuple(shape))

    def unreadable_paths(self) -> list[str]:
        """Return the paths of frames that were unreadable when the vectors were written."""
        if self.readable.all():
            return []
        frames = (path for paths, _, _, _ in self.tracklets for path in paths)
        return [path for path, readable in zip(frames, self.readable, strict=True) if not readable]

    def clips(self, plan: ClipPlan, views: int, batch_size: int) -> Iterator[ClipVectors]:
        """Yield ClipVectors of any plan, as the embedder computes them.

        Args:
            plan: rule of division into clips.
            views: 1, or 2 with the mirrored frames.
            batch_size: clips per batch.
        """
        batch = []
        for tracklet, (paths, _, _, _) in enumerate(self.tracklets):
            for index in range(plan.count(len(paths))):
                batch.append((tracklet, plan.clip(len(paths), index)))
                if len(batch) == batch_size:
                    yield self._read(batch, views)
                    batch = []
        if batch:
            yield self._read(batch, views)

    def _read(self, batch: Sequence[tuple[int, NDArray[np.int64]]], views: int) -> ClipVectors:
        frames, stand_ins = [], []
        for tracklet, chosen in batch:
            start, end = self.starts[tracklet : tracklet + 2]
            indices, stand_in = readable_clip(chosen, self.readable[start:end])
            frames.append(start + indices)
            stand_ins.append(stand_in)
        needed, rows = np.unique(np.stack(frames), return_inverse=True)
        vectors = torch.from_numpy(self.vectors[needed, :views])  # (T, views, V), a copy
        return ClipVectors(
            vectors.transpose(0, 1),
            torch.from_numpy(rows.reshape(len(batch), -1)),
            torch.tensor([tracklet for tracklet, _ in batch]),
            torch.tensor(stand_ins),
        )


def _header(shape: Sequence[int]) -> bytes:
    file = io.BytesIO()
    header = {'descr': '<f4', 'fortran_order': False, 'shape': shape}
    np.lib.format.write_array_header_1_0(file, header)
    return file.getvalue()


def _digest(record: Mapping[str, Any]) -> str:
    text = json.dumps(record, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _check_record(record: Mapping[str, Any]) -> None:
    """Raise ValueError unless every value of a record is valid."""
    shape, unreadable = record['shape'], record['unreadable']
    right = (
        named(record['made_from'], lambda value: True),
        is_count(record['offset']),
        is_count(record['crc32']),
        isinstance(shape, list) and len(shape) == 3 and all(map(is_count, shape)),
        isinstance(unreadable, list) and all(map(is_count, unreadable)),
    )
    if not all(right) or shape[1] not in (1, 2) or any(row >= shape[0] for row in unreadable):
        raise ValueError('its values are impossible')


def _damaged(path: str, reason: object) -> InputError:
    return InputError(f'{path} is damaged, remove it: {reason}')
