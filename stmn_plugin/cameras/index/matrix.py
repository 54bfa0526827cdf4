"""Keep the vectors of an SQLite index in ``people.db-matrix``, one array that is mapped, not read.

The file is derived: if it is missing or belongs to another database, it is made from the rows. Row
i holds the vector of number ``first + i``, zeros if that number is deleted. The head of the file
identifies the database and has the number of the last row.
"""

import os
import sqlite3
import struct
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
from filelock import FileLock
from numpy.typing import NDArray

from stmn_plugin.errors import InputError
from stmn_plugin.whole_files import atomic_path, remove_file, write_errors

from .store import Vectors

HEAD_BYTES = 4096  # so that rows begin on a page
HEAD = struct.Struct('<8s32sqqq')
MAGIC = b'stmnmat1'
ROWS_AT_ONCE = 4096  # copied; a kill loses at most these


class Head(NamedTuple):
    """The head of a matrix file."""

    database: bytes  # its setting 'id'
    dim: int
    first: int  # number of row 0
    last: int  # number of the last row


class Matrix:
    """The matrix file of a database.

    Args:
        path: of it.
    """

    def __init__(self, path: Path):
        self.path = path
        self._mapped: tuple[tuple[int, tuple[int, int]], Vectors] | None = None

    def follow(self, db: sqlite3.Connection, dim: int) -> tuple[int, Vectors]:
        """Bring the file up to the state of the database.

        Args:
            db: in a read transaction, which must last as long as the array is used.
            dim: D.

        Returns:
            The number of row 0, and the rows (n, D), mapped.

        Raises:
            InputError: the file cannot be written; a vector of the database is damaged.
        """
        database, seq = _state(db, self.path)
        head = self._head()
        if head is None or head.last != seq or not self._belongs(head, db, database, dim):
            with write_errors(self.path), FileLock(f'{self.path}.lock'):
                head = self._head()
                if head is None or head.last > seq or not self._belongs(head, db, database, dim):
                    head = self._start(db, database, dim)
                head = self._append(db, head, seq)
        return head.first, self._map((head.last - head.first + 1, dim))

    def _map(self, shape: tuple[int, int]) -> Vectors:
        """Map the rows privately, because torch copies an array that it may not write."""
        key = self.path.stat().st_ino, shape
        if self._mapped is None or self._mapped[0] != key:
            array = np.empty(shape, np.float16)
            if shape[0]:
                array = np.memmap(self.path, np.float16, 'c', HEAD_BYTES, shape)
            self._mapped = key, array
        return self._mapped[1]

    def unmap(self) -> None:
        """Close the mapped file, whose pages count as memory of the process once read."""
        self._mapped = None

    def wipe(self, numbers: Sequence[int]) -> None:
        """Overwrite the vectors of numbers with zeros, on the disk when this returns."""
        with write_errors(self.path), FileLock(f'{self.path}.lock'):
            head = self._head()
            if head is None:
                remove_file(self.path)
                return
            dim = head.dim
            with open(self.path, 'rb+') as file:
                rows = (file.seek(0, os.SEEK_END) - HEAD_BYTES + 2 * dim - 1) // (2 * dim)
                slots = np.unique(np.asarray(numbers, dtype=np.int64)) - head.first
                # rows behind the last, too: a process that was killed may have left them
                for start, length in _runs(slots[(slots >= 0) & (slots < rows)]):
                    file.seek(HEAD_BYTES + 2 * dim * start)
                    file.write(bytes(2 * dim * length))
                _sync(file)

    def _head(self) -> Head | None:
        """Read the head of the file; None if it is missing or no matrix."""
        try:
            with open(self.path, 'rb') as file:
                magic, *values = HEAD.unpack(file.read(HEAD.size))
        except (FileNotFoundError, struct.error):
            return None
        except OSError as error:
            raise InputError(f'cannot read {self.path}: {error.strerror}') from error
        return Head(*values) if magic == MAGIC else None

    def _belongs(self, head: Head, db: sqlite3.Connection, database: bytes, dim: int) -> bool:
        """Return whether the file belongs to this database, and no backup has replaced it since.

        After that, numbers are given again: the newest vector that both have would differ. Files
        that are too short, or begin with many rows that are deleted, are not kept.
        """
        if (head.database, head.dim) != (database, dim):
            return False
        oldest, newest = db.execute('SELECT min(number), max(number) FROM tracklet').fetchone()
        length = head.last - head.first + 1
        if oldest is None or self.path.stat().st_size < HEAD_BYTES + 2 * dim * length:
            return oldest is None and length == 0
        if oldest < head.first or oldest - head.first > max(length // 2, ROWS_AT_ONCE):
            return False
        both = 'SELECT number, feature FROM tracklet WHERE number <= ? ORDER BY number DESC LIMIT 1'
        found = db.execute(both, (head.last,)).fetchone()
        if found is None:
            return True
        with open(self.path, 'rb') as file:
            file.seek(HEAD_BYTES + 2 * dim * (found[0] - head.first))
            copied: bool = file.read(2 * dim) == found[1]
        return copied

    def _start(self, db: sqlite3.Connection, database: bytes, dim: int) -> Head:
        """Replace the file by one without rows."""
        [oldest] = db.execute('SELECT min(number) FROM tracklet').fetchone()
        first = oldest or 1
        head = Head(database, dim, first, first - 1)
        remove_file(self.path)  # first, because both together may not fit on the disk
        with atomic_path(self.path) as temporary, open(temporary, 'wb') as file:
            file.write(_packed(head).ljust(HEAD_BYTES, b'\0'))
        return head

    def _append(self, db: sqlite3.Connection, head: Head, seq: int) -> Head:
        """Copy the rows up to number ``seq``; the head says so when they are on the disk."""
        size = 2 * head.dim
        newer = 'SELECT number, feature FROM tracklet WHERE number > ? ORDER BY number'
        found = db.execute(newer, (head.last,))
        with open(self.path, 'rb+') as file:
            while rows := found.fetchmany(ROWS_AT_ONCE):
                for number, feature in rows:
                    if not is_vector(feature, head.dim):
                        raise InputError(
                            f'{self.path} cannot be made: the vector of tracklet {number} in the '
                            'database is damaged'
                        )
                slots = np.array([number for number, _ in rows]) - head.first
                done = 0
                for start, length in _runs(slots):
                    file.seek(HEAD_BYTES + size * start)
                    file.write(b''.join(one for _, one in rows[done : done + length]))
                    done += length
                head = self._advance(file, head, rows[-1][0])
            if head.last != seq:  # the newest are deleted
                head = self._advance(file, head, seq)
        return head

    def _advance(self, file: BinaryIO, head: Head, last: int) -> Head:
        head = head._replace(last=last)
        size = HEAD_BYTES + 2 * head.dim * (last - head.first + 1)
        if file.seek(0, os.SEEK_END) < size:
            file.truncate(size)
        _sync(file)
        file.seek(0)
        file.write(_packed(head))
        _sync(file)
        return head


def is_vector(feature: object, dim: int) -> bool:
    """Return whether a value of the database has the type and length of a vector, all finite."""
    return (
        isinstance(feature, bytes)
        and len(feature) == 2 * dim
        and bool(np.isfinite(np.frombuffer(feature, np.float16)).all())
    )


def _state(db: sqlite3.Connection, path: Path) -> tuple[bytes, int]:
    """Return the id of the database and the number that it gave last.

    Raises:
        InputError: it has no id.
    """
    database = db.execute("SELECT value FROM setting WHERE name = 'id'").fetchone()
    if database is None:
        raise InputError(f'{path} cannot be made: the database has lost its setting id')
    found = db.execute("SELECT seq FROM sqlite_sequence WHERE name = 'tracklet'").fetchone()
    return database[0].encode(), found[0] if found else 0


def _packed(head: Head) -> bytes:
    return HEAD.pack(MAGIC, *head)


def _runs(numbers: NDArray[np.int64]) -> Iterator[tuple[int, int]]:
    """Return first and length of every run of consecutive ones among ascending numbers."""
    for run in np.split(numbers, np.flatnonzero(np.diff(numbers) != 1) + 1):
        if len(run):
            yield int(run[0]), len(run)


def _sync(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())
