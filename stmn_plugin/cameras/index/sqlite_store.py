"""Store an index in one SQLite file: no server, exact search, deleted content is overwritten.

The rollback journal makes a lock for readers and writers of the file: while a search reads, no
process commits, so rows, vectors and the matrix of the file belong together. Deleted content is
overwritten (``secure_delete``) in the file at the commit and in the matrix right after it. Then the
file is written anew (``VACUUM``): where SQLite has moved rows between pages it leaves copies of
them in the unused parts of pages, which ``secure_delete`` does not find.
"""

import contextlib
import hashlib
import json
import os
import secrets
import sqlite3
import stat
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
from filelock import FileLock, Timeout

from stmn_plugin.errors import InputError
from stmn_plugin.whole_files import write_errors

from .matrix import Matrix, is_vector
from .records import COLUMNS, IndexedTracklet, Where, condition, no_text, row_of, values_of
from .store import Vectors

WAIT_SECONDS = 300.0  # for other processes that write; a deletion writes the whole file
SHARES = 64  # of the tracklets to embed; a process takes one or several at a time
APPLICATION_ID = 0x73746D6E  # in the head of the file
TABLES = f"""
CREATE TABLE setting (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE tracklet (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    tree TEXT NOT NULL, tracklet TEXT NOT NULL,
    camera TEXT NOT NULL, source TEXT NOT NULL, track TEXT NOT NULL, person TEXT NOT NULL,
    starts INTEGER, ends INTEGER, num_frames INTEGER NOT NULL, revision TEXT NOT NULL,
    feature BLOB NOT NULL,
    UNIQUE (tree, tracklet)
);
CREATE TABLE erased (number INTEGER PRIMARY KEY);
CREATE INDEX tracklet_camera ON tracklet (camera, starts, ends);
CREATE INDEX tracklet_time ON tracklet (starts, ends);
CREATE INDEX tracklet_person ON tracklet (person);
PRAGMA application_id = {APPLICATION_ID}
"""
MISTAKES = ('no such', 'syntax error', 'ambiguous', 'misuse')  # of ours, in OperationalErrors


class SqliteStore:
    """See :class:`.store.Store`.

    Args:
        path: of the file.
        settings: of a new index; None: it must exist.

    Raises:
        InputError: it is missing, damaged, or no database.
    """

    def __init__(self, path: Path, settings: Mapping[str, str] | None):
        self.name = str(path)
        # of a link the file's own: two matrices of one database, and a deletion would miss one
        self.path = Path(os.path.realpath(path))
        self._matrix = Matrix(self.path.with_name(f'{self.path.name}-matrix'))
        try:
            if stat.S_ISDIR(path.stat().st_mode):
                raise InputError(f'{path} is a folder, an index is a file')
        except FileNotFoundError as error:
            if settings is None:
                raise InputError(f'no index {path}: tools/embed.py makes one') from error
        except OSError as error:
            raise InputError(f'cannot read {path}: {error.strerror}') from error
        with self._errors():
            mode = 'rw' if settings is None else 'rwc'
            self._db = sqlite3.connect(
                f'file:{quote(os.fsencode(path.absolute()))}?mode={mode}',
                uri=True,
                timeout=WAIT_SECONDS,
                isolation_level=None,  # transactions are begun and ended here
            )
        try:
            with self._errors():
                self._db.execute('PRAGMA secure_delete = ON')
                [(mode,)] = self._db.execute('PRAGMA journal_mode')  # reads the file
            if mode == 'wal':
                self._leave_wal()
            self._make_tables(settings)
        except BaseException:
            self._db.close()
            raise

    def close(self) -> None:
        self._db.close()
        self._matrix.unmap()

    def setting(self, name: str) -> str | None:
        found = self._read('SELECT value FROM setting WHERE name = ?', name)
        return found[0][0] if found else None

    def set_setting(self, name: str, value: str) -> None:
        with self._writing():
            self._db.execute('INSERT OR REPLACE INTO setting VALUES (?, ?)', (name, value))

    def insert(self, rows: Sequence[IndexedTracklet], vectors: Vectors) -> int:
        values = [
            (*values_of(row), vector.tobytes()) for row, vector in zip(rows, vectors, strict=True)
        ]
        marks = ', '.join('?' * (COLUMNS.count(',') + 1))
        columns = COLUMNS.removeprefix('number, ')
        with self._writing():
            before = self._db.total_changes
            self._db.executemany(
                f'INSERT OR IGNORE INTO tracklet ({columns}, feature) VALUES ({marks})', values
            )
            return self._db.total_changes - before

    def known(self, tree: str, tracklets: Sequence[str] | None = None) -> dict[str, str]:
        sql, values = 'SELECT tracklet, revision FROM tracklet WHERE tree = ?', [tree]
        if tracklets is not None:
            sql += f' AND {_one_of("tracklet")}'
            values.append(json.dumps(tracklets))
        return dict(self._read(sql, *values))

    def rows(self, where: Where) -> list[IndexedTracklet]:
        sql, values = _condition(where)
        found = self._read(f'SELECT {COLUMNS} FROM tracklet WHERE {sql} ORDER BY number', *values)
        return [row_of(one) for one in found]

    def vectors(self, numbers: Sequence[int], dim: int) -> dict[int, Vectors]:
        sql, values = _condition(Where(numbers=numbers))
        found = self._read(f'SELECT number, feature FROM tracklet WHERE {sql}', *values)
        for number, feature in found:
            if not is_vector(feature, dim):
                raise InputError(f'{self.name}: the vector of tracklet {number} is damaged')
        return {number: np.frombuffer(feature, np.float16) for number, feature in found}

    def nearest(
        self, queries: Vectors, top: int, where: Where, metric: str, approximate: bool
    ) -> list[list[tuple[IndexedTracklet, float]]]:
        import torch  # slow to import, and only searching needs it

        from stmn_plugin.evaluation.search import top_k

        if approximate:
            self.make_hnsw(metric)
        sql, values = _condition(where)
        with self._reading():  # nothing is deleted or added until the rows are read
            first, matrix = self._matrix.follow(self._db, queries.shape[1])
            # as one text: a row of Python objects each would take longer than the search
            gather = f'SELECT group_concat(number) FROM tracklet WHERE {sql}'
            [text] = self._db.execute(gather, values).fetchone()
            if text is None:
                return [[] for _ in queries]
            numbers = np.sort(np.fromstring(text, np.int64, sep=','), kind='stable')  # long runs
            try:
                best = top_k(
                    torch.from_numpy(queries),
                    matrix,
                    min(top, len(numbers)),
                    metric,
                    'torch',  # faster than faiss for few queries
                    numbers - first,
                    unit=True,
                )
            except InputError as error:  # vectors of the database and queries are finite
                raise InputError(f'{self._matrix.path} is damaged, remove it: {error}') from error
            indices = best.indices + first
            rows = {row.number: row for row in self.rows(Where(numbers=indices.unique().tolist()))}
        return [
            [(rows[number], distance) for number, distance in zip(*pair, strict=True)]
            for pair in zip(indices.tolist(), best.distances.tolist(), strict=True)
        ]

    def make_hnsw(self, metric: str) -> None:
        raise InputError(f'{self.name} is searched exactly: only PostgreSQL has HNSW')

    def delete(self, where: Where) -> int:
        sql, values = _condition(where)
        with self._writing():
            self._db.execute(f'INSERT INTO erased SELECT number FROM tracklet WHERE {sql}', values)
            deleted = self._db.execute(f'DELETE FROM tracklet WHERE {sql}', values)
        self.finish_deletions()
        return deleted.rowcount

    def finish_deletions(self) -> None:
        erased = [number for (number,) in self._read('SELECT number FROM erased')]
        if erased:
            self._matrix.wipe(erased)
            try:
                self._db.execute('VACUUM')
            except sqlite3.OperationalError as error:
                raise InputError(
                    f'{self.name}: tracklets are deleted, but the file may still have copies of '
                    f'them ({error}); the next command that opens it tries again to remove these'
                ) from error
            with self._writing():
                self._db.execute(
                    f'DELETE FROM erased WHERE {_one_of("number")}', [json.dumps(erased)]
                )

    def count(self) -> int:
        return int(self._read('SELECT count(*) FROM tracklet')[0][0])

    @contextlib.contextmanager
    def claim(self, rows: Sequence[IndexedTracklet], limit: int) -> Iterator[list[IndexedTracklet]]:
        shares: dict[int, list[tuple[int, IndexedTracklet]]] = {}
        for place, row in enumerate(rows):
            digest = hashlib.sha256(f'{row.tree}\n{row.tracklet}'.encode()).digest()
            shares.setdefault(digest[0] % SHARES, []).append((place, row))
        folder = self.path.with_name(f'{self.path.name}-claims')
        with write_errors(folder):
            folder.mkdir(exist_ok=True)
        claimed: list[tuple[int, IndexedTracklet]] = []
        with contextlib.ExitStack() as locks:
            for share in sorted(shares, key=lambda _: secrets.token_bytes(4)):
                if len(claimed) >= limit:
                    break
                lock = folder / f'{share:02}.lock'
                try:
                    locks.enter_context(FileLock(lock, blocking=False))
                except Timeout:
                    continue
                except OSError as error:
                    raise InputError(f'cannot write {lock}: {error.strerror}') from error
                own = shares[share]
                for tree in {row.tree for _, row in own}:
                    done = self.known(tree, [row.tracklet for _, row in own if row.tree == tree])
                    own = [x for x in own if x[1].tree != tree or x[1].tracklet not in done]
                claimed += own[: limit - len(claimed)]
            yield [row for _, row in sorted(claimed, key=lambda one: one[0])]

    def _leave_wal(self) -> None:
        """Go back to the rollback journal, if another program has changed the file.

        A write-ahead log has copies of deleted content, and lets a process commit while others
        read.
        """
        try:
            self._db.execute('PRAGMA journal_mode = DELETE')
        except sqlite3.OperationalError as error:
            raise InputError(
                f'{self.name}: another program has given it a write-ahead log, which keeps what is '
                f'deleted, and it cannot be changed back ({error}): close that program'
            ) from error

    def _make_tables(self, settings: Mapping[str, str] | None) -> None:
        if self._read('SELECT 1 FROM sqlite_master LIMIT 1'):
            if self._read('PRAGMA application_id') != [(APPLICATION_ID,)]:
                raise InputError(f'{self.name} is not an index but a database of another program')
            return
        if settings is None:
            raise InputError(f'{self.name} is empty, not an index: tools/embed.py makes one')
        with self._writing():
            if not self._db.execute('SELECT 1 FROM sqlite_master LIMIT 1').fetchone():
                for statement in TABLES.split(';'):
                    self._db.execute(statement)
                own = {'id': secrets.token_hex(16), **settings}
                self._db.executemany('INSERT INTO setting VALUES (?, ?)', own.items())

    def _read(self, sql: str, *values: object) -> list[tuple[Any, ...]]:
        with self._errors():
            return self._db.execute(sql, values).fetchall()

    @contextlib.contextmanager
    def _reading(self) -> Iterator[None]:
        """Read one state of the database in the block."""
        with self._errors():
            self._db.execute('BEGIN')
            try:
                yield
            finally:
                self._db.execute('ROLLBACK')

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        """Write all of the block or nothing."""
        with self._errors():
            self._db.execute('BEGIN IMMEDIATE')
            try:
                yield
                self._db.execute('COMMIT')
            except BaseException:
                if self._db.in_transaction:
                    self._db.execute('ROLLBACK')
                raise

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except UnicodeEncodeError as error:
            raise no_text(self.name, error) from error
        except sqlite3.DatabaseError as error:
            of_ours = type(error) not in (sqlite3.DatabaseError, sqlite3.OperationalError)
            if of_ours or any(word in str(error) for word in MISTAKES):
                raise
            raise InputError(f'{self.name}: {error}') from error


def _one_of(column: str) -> str:
    return f'{column} IN (SELECT value FROM json_each(?))'


def _condition(where: Where) -> tuple[str, list[object]]:
    sql, values = condition(where, '?', _one_of)
    return sql, [json.dumps(value) if isinstance(value, list) else value for value in values]
