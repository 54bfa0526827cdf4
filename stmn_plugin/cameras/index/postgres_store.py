"""Store an index on a PostgreSQL server with pgvector, for any number of machines.

Its tables lie in a schema of their own. Vectors are ``halfvec`` and compared exactly; an HNSW index
is made and used on request only. Work is claimed in a table by ``FOR UPDATE SKIP LOCKED``: if
a process dies, the server releases its claims.
"""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import psycopg
from pgvector import HalfVector

from stmn_plugin.errors import InputError

from .postgres_server import SCHEMA_NAME, Connection, Server
from .records import COLUMNS, IndexedTracklet, Parameter, Where, condition, row_of, values_of
from .store import Vectors

MAX_EF_SEARCH = 1000  # that pgvector allows
PGVECTOR_VERSION = "SELECT extversion FROM pg_extension WHERE extname = 'vector'"
ITERATIVE_SCANS = 0, 8  # first version with them; conditions would leave too few results before
# for more queries at once the vectors are read once and compared here: the server would read all of
# them for each query
FEW_QUERIES = 4
ROWS_OF_A_READ = 8192
CREATING = 0x73746D6E  # advisory lock of those that make the tables
# of vectors of length 1 the negative product and 1 are the cosine distance; <-> is not squared
OPERATORS = {'cosine': '<#>', 'euclidean': '<->'}
OPERATOR_CLASSES = {'cosine': 'halfvec_ip_ops', 'euclidean': 'halfvec_l2_ops'}
TABLES = """
CREATE SCHEMA IF NOT EXISTS {schema};
CREATE TABLE setting (name TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE work (tree TEXT, tracklet TEXT, PRIMARY KEY (tree, tracklet));
CREATE TABLE tracklet (
    number BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    tree TEXT NOT NULL, tracklet TEXT NOT NULL,
    camera TEXT NOT NULL, source TEXT NOT NULL, track TEXT NOT NULL, person TEXT NOT NULL,
    starts BIGINT, ends BIGINT, num_frames INTEGER NOT NULL, revision TEXT NOT NULL,
    feature halfvec({dim}) NOT NULL,
    UNIQUE (tree, tracklet)
);
CREATE INDEX tracklet_camera ON tracklet (camera, starts, ends);
CREATE INDEX tracklet_time ON tracklet (starts, ends);
CREATE INDEX tracklet_person ON tracklet (person)
"""
TAKE = """
SELECT tree, tracklet FROM work JOIN requested USING (tree, tracklet)
ORDER BY tree, tracklet LIMIT %s FOR UPDATE OF work SKIP LOCKED
"""
# of the claimed names; they may have been done before they were put into the table
DONE = """
SELECT tree, tracklet FROM tracklet JOIN unnest(%s::text[], %s::text[]) AS taken (tree, tracklet)
USING (tree, tracklet)
"""
FINISH = """
DELETE FROM work USING unnest(%s::text[], %s::text[]) AS done (tree, tracklet)
WHERE work.tree = done.tree AND work.tracklet = done.tracklet
"""
# what this connection has claimed, whether added or left out
FORGET = """
DELETE FROM requested USING unnest(%s::text[], %s::text[]) AS had (tree, tracklet)
WHERE requested.tree = had.tree AND requested.tracklet = had.tracklet
"""
ENQUEUE = """
INSERT INTO work SELECT tree, tracklet FROM requested
WHERE (tree, tracklet) NOT IN (SELECT tree, tracklet FROM tracklet)
ON CONFLICT DO NOTHING
"""
Name = tuple[str, str]
"""Tree and tracklet."""


class PostgresStore:
    """See :class:`.store.Store`.

    Args:
        url: of the database.
        settings: of a new index; None: it must exist.
        dim: D of a new index.

    Raises:
        InputError: the server cannot be reached, rejects the login, or has no pgvector or no index.
    """

    def __init__(self, url: str, settings: Mapping[str, str] | None, dim: int = 0):
        self._server = Server(url, with_pgvector=settings is not None)
        self._work = Server(url)  # whose transactions are open while tracklets are embedded
        # names in the temporary table of a connection; the object itself, as its id() may be reused
        self._requested: tuple[Connection | None, set[Name]] = (None, set())
        self.name = self._server.name
        self._server.run(lambda db: _make_tables(db, self.name, settings, dim))

    def close(self) -> None:
        self._server.close()
        self._work.close()

    def setting(self, name: str) -> str | None:
        found = self._read('SELECT value FROM setting WHERE name = %s', name)
        return found[0][0] if found else None

    def set_setting(self, name: str, value: str) -> None:
        insert = 'INSERT INTO setting VALUES (%s, %s) ON CONFLICT (name) DO UPDATE SET value = %s'
        self._server.run(lambda db: db.execute(insert, (name, value, value)))

    def insert(self, rows: Sequence[IndexedTracklet], vectors: Vectors) -> int:
        values = [
            (*values_of(row), HalfVector(vector)) for row, vector in zip(rows, vectors, strict=True)
        ]
        columns = COLUMNS.removeprefix('number, ')
        marks = ', '.join(['%b'] * (COLUMNS.count(',') + 1))
        insert = (
            f'INSERT INTO tracklet ({columns}, feature) VALUES ({marks}) '
            'ON CONFLICT (tree, tracklet) DO NOTHING'
        )

        def add(db: Connection) -> int:
            with db.transaction(), db.cursor() as cursor:
                cursor.executemany(insert, values)
                return max(cursor.rowcount, 0)

        return self._server.run(add)

    def known(self, tree: str, tracklets: Sequence[str] | None = None) -> dict[str, str]:
        sql = 'SELECT tracklet, revision FROM tracklet WHERE tree = %s'
        values: list[Parameter] = [tree]
        if tracklets is not None:
            sql += f' AND {_one_of("tracklet")}'
            values.append(list(tracklets))
        return dict(self._read(sql, *values))

    def rows(self, where: Where) -> list[IndexedTracklet]:
        return self._server.run(lambda db: _rows(db, where))

    def vectors(self, numbers: Sequence[int], dim: int) -> dict[int, Vectors]:
        read = f'SELECT number, feature FROM tracklet WHERE {_one_of("number")}'
        found = self._read(read, list(numbers))
        return {number: feature.to_numpy().astype(np.float16) for number, feature in found}

    def nearest(
        self, queries: Vectors, top: int, where: Where, metric: str, approximate: bool
    ) -> list[list[tuple[IndexedTracklet, float]]]:
        if len(queries) > FEW_QUERIES and not approximate:
            return self._server.run(lambda db: _compare_here(db, queries, top, where, metric))
        sql, values = condition(where, '%s', _one_of)
        distance = f'feature {OPERATORS[metric]} %b'
        # HNSW serves the bare operator; the sum is computed for every row
        order = 'distance' if approximate else f'({distance}) + 0, number'
        read = (
            f'SELECT {COLUMNS}, {distance} AS distance FROM tracklet WHERE {sql} '
            f'ORDER BY {order} LIMIT %s'
        )

        def as_distance(value: float) -> float:
            return value**2 if metric == 'euclidean' else max(1 + value, 0.0)

        def search(db: Connection) -> list[list[tuple[IndexedTracklet, float]]]:
            found = []
            with db.transaction():
                if approximate:
                    self._use_hnsw(db, top)
                for query in map(HalfVector, queries):
                    again = [] if approximate else [query]
                    rows = db.execute(read, [query, *values, *again, top])
                    found.append([(row_of(one), as_distance(last)) for *one, last in rows])
            return found

        return self._server.run(search)

    def make_hnsw(self, metric: str) -> None:
        kind = OPERATOR_CLASSES[metric]
        make = f'CREATE INDEX IF NOT EXISTS tracklet_hnsw ON tracklet USING hnsw (feature {kind})'
        self._server.run(lambda db: db.execute(make))

    def delete(self, where: Where) -> int:
        sql, values = condition(where, '%s', _one_of)
        delete = f'DELETE FROM tracklet WHERE {sql}'
        count = self._server.run(lambda db: db.execute(delete, values).rowcount)
        if count:
            self._server.run(lambda db: db.execute('VACUUM tracklet'))
        return count

    def finish_deletions(self) -> None:
        pass  # the server has its own vacuum

    def count(self) -> int:
        return int(self._read('SELECT count(*) FROM tracklet')[0][0])

    @contextlib.contextmanager
    def claim(self, rows: Sequence[IndexedTracklet], limit: int) -> Iterator[list[IndexedTracklet]]:
        by_name = {(row.tree, row.tracklet): row for row in rows}
        names = self._work.run(lambda db: self._take(db, frozenset(by_name), limit))
        db = self._work.connection
        try:
            yield [by_name[name] for name in names]
            if db is not None:
                # if the connection is lost, they stay in the table until a later claim
                with contextlib.suppress(psycopg.OperationalError):
                    self._take_out(db, names)
                    db.execute(FORGET, _columns(names))
                    db.execute('COMMIT')
                    self._requested[1].difference_update(names)
        except BaseException:
            if db is not None:  # releases the claims before this returns
                with contextlib.suppress(psycopg.OperationalError):
                    db.execute('ROLLBACK')
            self._work.close()
            raise

    def _take(self, db: Connection, requested: frozenset[Name], limit: int) -> list[Name]:
        """Begin a transaction that claims at most ``limit`` of the requested that are not done."""
        connection, known = self._requested
        if connection is not db or not requested <= known:
            _enqueue(db, requested)
            self._requested = db, set(requested)
        while True:
            db.execute('BEGIN')
            names = [(tree, tracklet) for tree, tracklet in db.execute(TAKE, [limit])]
            if not self._take_out(db, names):
                return names
            db.execute('COMMIT')

    def _take_out(self, db: Connection, names: Sequence[Name]) -> bool:
        """Remove those of the names from the table that are in the index; return whether any is."""
        done = [(tree, tracklet) for tree, tracklet in db.execute(DONE, _columns(names))]
        if done:
            db.execute(FINISH, _columns(done))
        return bool(done)

    def _use_hnsw(self, db: Connection, top: int) -> None:
        if not db.execute("SELECT to_regclass('tracklet_hnsw')").fetchall()[0][0]:
            raise InputError(f'{self.name} has no HNSW index: tools/index.py URL --hnsw makes one')
        version = db.execute(PGVECTOR_VERSION).fetchall()[0][0]
        if tuple(map(int, version.split('.')[:2])) < ITERATIVE_SCANS:
            raise InputError(
                f'{self.name} has pgvector {version}; approximate search needs 0.8 or later'
            )
        db.execute("SET LOCAL hnsw.iterative_scan = 'strict_order'")
        db.execute(f'SET LOCAL hnsw.ef_search = {min(max(40, 2 * top), MAX_EF_SEARCH)}')
        db.execute('SET LOCAL enable_seqscan = off')

    def _read(self, sql: str, *values: Parameter) -> list[tuple[Any, ...]]:
        return self._server.run(lambda db: db.execute(sql, values).fetchall())


def _make_tables(db: Connection, name: str, settings: Mapping[str, str] | None, dim: int) -> None:
    there = f"SELECT to_regclass('{SCHEMA_NAME}.setting') IS NOT NULL"
    if db.execute(there).fetchall()[0][0]:
        return
    if settings is None:
        raise InputError(f'no index in {name}: tools/embed.py makes one')
    with db.transaction():
        db.execute('SELECT pg_advisory_xact_lock(%s)', [CREATING])
        if not db.execute(there).fetchall()[0][0]:
            for statement in TABLES.format(schema=SCHEMA_NAME, dim=dim).split(';'):
                db.execute(statement)
            for pair in settings.items():
                db.execute('INSERT INTO setting VALUES (%s, %s)', pair)


def _rows(db: Connection, where: Where) -> list[IndexedTracklet]:
    sql, values = condition(where, '%s', _one_of)
    found = db.execute(f'SELECT {COLUMNS} FROM tracklet WHERE {sql} ORDER BY number', values)
    return [row_of(one) for one in found]


def _compare_here(
    db: Connection, queries: Vectors, top: int, where: Where, metric: str
) -> list[list[tuple[IndexedTracklet, float]]]:
    """Rank as ``PostgresStore.nearest`` does, in one pass over the vectors.

    Distances of equal vectors may differ by the rounding of a matrix product, which then orders
    them.
    """
    import torch  # slow to import, and only searching needs it

    from stmn_plugin.evaluation.search import top_k

    sql, values = condition(where, '%s', _one_of)
    numbers = np.empty((len(queries), 0), np.int64)  # (Q, at most top), as are the distances
    distances = np.empty((len(queries), 0), np.float32)
    with db.transaction():
        # the rows that are read last are those whose vectors were compared
        db.execute('SET TRANSACTION ISOLATION LEVEL REPEATABLE READ')
        with db.cursor('vectors', binary=True) as cursor:
            cursor.execute(f'SELECT number, feature FROM tracklet WHERE {sql}', values)
            while part := cursor.fetchmany(ROWS_OF_A_READ):
                part.sort(key=lambda row: row[0])  # of equal distances the lower number is first
                vectors = np.stack([feature.to_numpy() for _, feature in part]).astype(np.float16)
                best = top_k(
                    torch.from_numpy(queries),
                    torch.from_numpy(vectors),
                    min(top, len(part)),
                    metric,
                    'torch',
                    unit=True,
                )
                own = np.array([number for number, _ in part])[best.indices.numpy()]
                numbers = np.concatenate([numbers, own], axis=1)
                distances = np.concatenate([distances, best.distances.numpy()], axis=1)
                order = np.lexsort((numbers, distances), axis=1)[:, :top]
                numbers = np.take_along_axis(numbers, order, axis=1)
                distances = np.take_along_axis(distances, order, axis=1)
        found = np.unique(numbers).tolist()
        rows = {row.number: row for row in _rows(db, Where(numbers=found))} if found else {}
    return [
        [(rows[number], distance) for number, distance in zip(*pair, strict=True)]
        for pair in zip(numbers.tolist(), distances.tolist(), strict=True)
    ]


def _enqueue(db: Connection, requested: frozenset[Name]) -> None:
    """Fill the temporary table of a connection, and add what is not done to the table of work."""
    with db.transaction():
        db.execute('DROP TABLE IF EXISTS requested')
        db.execute('CREATE TEMPORARY TABLE requested (tree TEXT, tracklet TEXT)')
        fill = 'INSERT INTO requested SELECT * FROM unnest(%s::text[], %s::text[])'
        db.execute(fill, _columns(sorted(requested)))
        db.execute(ENQUEUE)


def _columns(names: Sequence[Name]) -> list[list[str]]:
    return [[tree for tree, _ in names], [tracklet for _, tracklet in names]]


def _one_of(column: str) -> str:
    return f'{column} = ANY(%s)'
