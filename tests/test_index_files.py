"""What stays in the files of an index: nothing of what was deleted, all of what was added."""

import contextlib
import multiprocessing
import os
import secrets
import signal
import sqlite3
import sys
import time
from dataclasses import replace

import numpy as np
import postgres
import pytest
from test_index import KEY, make_features, make_rows, slow_search
from torch.nn.functional import normalize

from stmn_plugin.cameras.index import TrackletIndex, Where
from stmn_plugin.cameras.index.matrix import HEAD_BYTES
from stmn_plugin.errors import InputError

PIECE = 16  # bytes of a vector that are searched for, at a few places of it


@pytest.fixture
def path(tmp_path):
    return tmp_path / 'index' / 'people.db'


@pytest.fixture(autouse=True)
def folder(path):
    path.parent.mkdir()


def bytes_of(folder):
    files = [one for one in folder.rglob('*') if one.is_file()]
    return b'\0'.join(one.read_bytes() for one in files)


def pieces_of(index, rows):
    """Parts of their vectors, and their names: what must be gone."""
    vectors = index.features([row.number for row in rows]).half().numpy()
    return [
        *(
            content[i : i + PIECE]
            for content in map(np.ndarray.tobytes, vectors)
            for i in np.linspace(0, len(content) - PIECE, 1 + len(content) // 512, dtype=int)
        ),
        *(name.encode() for row in rows for name in (row.person, row.track)),
    ]


def named(rows):
    """With names that are nowhere else."""
    return [replace(row, person=secrets.token_hex(9), track=secrets.token_hex(9)) for row in rows]


@pytest.mark.parametrize('dim', [16, 700, 2048])
def test_deleted_vectors_and_names_are_in_no_file(path, dim):
    """Among rows that stay, of vectors shorter and longer than a page, searched or not."""
    draw, gone = np.random.default_rng(dim), []
    with TrackletIndex.open(path, replace(KEY, dim=dim)) as index:
        for step in range(8):
            count = int(draw.integers(5, 20))
            features = make_features(count, step, dim)
            index.add(named(make_rows(count, 100 * step)), features)
            if step % 3 == 0:
                index.search(features[:1], 3)
            if step % 2:
                rows = index.rows()
                some = draw.choice(len(rows), size=len(rows) // 3, replace=False)
                chosen = [rows[i] for i in sorted(some)]
                pieces = pieces_of(index, chosen)
                left = bytes_of(path.parent)
                assert all(piece in left for piece in pieces[-2:])  # the search would find them
                gone += pieces
                index.delete(Where(numbers=[row.number for row in chosen]))
        left = bytes_of(path.parent)
        assert len(gone) > 100 and not [piece for piece in gone if piece in left]
        kept = pieces_of(index, index.rows())
        assert all(piece in left for piece in kept)


@pytest.mark.parametrize('dim, seed', [(8, 0), (64, 1)])
def test_copies_of_moved_rows_are_gone_too(path, dim, seed):
    """SQLite leaves them in pages when it balances its trees, out of the reach of secure_delete."""
    draw, gone = np.random.default_rng(seed), []

    def name():
        return draw.bytes(int(draw.integers(9, 30))).hex()

    with TrackletIndex.open(path, replace(KEY, dim=dim)) as index:
        for step in range(30):
            count = int(draw.integers(2, 120))
            rows = [
                replace(
                    row, person=name(), track=name(), tracklet=name(), camera=name(), source=name()
                )
                for row in make_rows(count)
            ]
            index.add(rows, make_features(count, step, dim))
            rows = index.rows()
            count, first = draw.integers(len(rows) // 2) + 1, draw.integers(len(rows))
            doomed = rows[first : first + count]  # neighbours, or here and there
            if step % 2:
                doomed = [rows[i] for i in draw.permutation(len(rows))[:count]]
            gone += pieces_of(index, doomed)
            gone += [row.tracklet.encode() for row in doomed]
            index.delete(Where(numbers=[row.number for row in doomed]))
        left = bytes_of(path.parent)
        assert len(gone) > 100 and not [piece for piece in gone if piece in left]
        assert all(row.person.encode() in left for row in index.rows())


def test_an_index_opened_by_a_link_has_one_matrix(path, tmp_path):
    """A second one, next to the link, would keep what is deleted by the name of the file."""
    with TrackletIndex.open(path, KEY) as index:
        index.add(make_rows(20), make_features(20))
        piece = index.features([5]).half().numpy().tobytes()
    link = tmp_path / 'link.db'
    link.symlink_to(path)
    with TrackletIndex.open(link) as index:
        index.search(make_features(1), 1)
        with index.claim(make_rows(3, first=50), 3) as claimed:
            assert len(claimed) == 3
    assert piece in path.with_name('people.db-matrix').read_bytes()
    with TrackletIndex.open(path) as index:
        index.delete(Where(numbers=[5]))
    assert piece not in bytes_of(tmp_path)
    assert sorted(os.listdir(tmp_path)) == ['index', 'link.db']


def test_a_write_ahead_log_keeps_nothing_that_is_deleted(path, monkeypatch):
    """Other programs switch it on, for good; its copies outlive a deletion."""
    with TrackletIndex.open(path, KEY) as index:
        index.add(make_rows(20), make_features(20))
    other = sqlite3.connect(path)
    assert other.execute('PRAGMA journal_mode = WAL').fetchone() == ('wal',)
    assert other.execute('SELECT count(*) FROM tracklet').fetchone() == (20,)
    monkeypatch.setattr('stmn_plugin.cameras.index.sqlite_store.WAIT_SECONDS', 0.1)
    with pytest.raises(InputError, match=r'people\.db: .* write-ahead log.*: close that program'):
        TrackletIndex.open(path)
    other.close()
    with TrackletIndex.open(path) as index:
        index.add(make_rows(5, first=20), make_features(5, seed=1))
        pieces = [index.features([number]).half().numpy().tobytes() for number in (5, 21)]
        index.delete(Where(numbers=[5, 21]))
        assert sorted(os.listdir(path.parent)) == ['people.db', 'people.db-matrix.lock']
        left = bytes_of(path.parent)
    assert not [piece for piece in pieces if piece in left]


def test_a_deletion_that_cannot_write_the_file_anew_says_so_and_is_completed(path, monkeypatch):
    """Another process reads the file for longer than it is waited for; so with a full disk."""
    monkeypatch.setattr('stmn_plugin.cameras.index.sqlite_store.WAIT_SECONDS', 0.1)
    with TrackletIndex.open(path, KEY) as index, contextlib.closing(sqlite3.connect(path)) as other:
        index.add(make_rows(20), make_features(20))
        reader = other.cursor()

        def begin_to_read(*_):
            reader.execute('SELECT * FROM tracklet').fetchone()

        monkeypatch.setattr('stmn_plugin.cameras.index.matrix.Matrix.wipe', begin_to_read)
        with pytest.raises(
            InputError, match=r'people\.db: tracklets are deleted, but .*tries again'
        ):
            index.delete(Where(numbers=[5]))
        reader.close()
        assert index._store._read('SELECT * FROM erased') == [(5,)]
    monkeypatch.undo()
    with TrackletIndex.open(path) as index:
        assert len(index) == 19
        assert index._store._read('SELECT * FROM erased') == []


@pytest.mark.parametrize(
    'where',
    [
        Where(cameras=['gate']),
        Where(persons=['person 3']),
        Where(sources=['video0.mp4']),
        Where(before=make_rows(20)[15].end),
        Where(tracklets=[make_rows(20)[7].tracklet]),
    ],
)
def test_each_criterion_takes_its_vectors_out_of_every_file(path, where):
    with TrackletIndex.open(path, KEY) as index:
        index.add(make_rows(20), make_features(20))
        index.search(make_features(1), 1)
        rows = index.rows(where)
        kept = [row for row in index.rows() if row not in rows]
        pieces = {
            number: index.features([number]).half().numpy().tobytes() for number in range(1, 21)
        }
        assert index.delete(where) == len(rows) > 0 and index.rows() == kept
        left = bytes_of(path.parent)
    assert {n for n, piece in pieces.items() if piece in left} == {row.number for row in kept}


def test_a_deletion_that_was_killed_is_finished_at_the_next_opening(path, monkeypatch):
    """After the commit and before the matrix is wiped."""
    index = TrackletIndex.open(path, KEY)
    index.add(make_rows(20), make_features(20))
    index.search(make_features(1), 1)
    piece = index.features([5]).half().numpy().tobytes()
    monkeypatch.setattr('stmn_plugin.cameras.index.matrix.Matrix.wipe', lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        index.delete(Where(numbers=[5]))
    index.close()
    monkeypatch.undo()
    assert piece in bytes_of(path.parent)
    with TrackletIndex.open(path) as index:
        assert len(index) == 19 and piece not in bytes_of(path.parent)


def test_after_a_backup_was_put_back_the_search_is_that_of_its_rows(path):
    """It then gives numbers again that the matrix knows with other vectors."""
    with TrackletIndex.open(path, KEY) as index:
        index.add(make_rows(10), make_features(10))
    backup = path.read_bytes()
    with TrackletIndex.open(path) as index:
        index.add(make_rows(10, first=10), make_features(10, seed=1))
        index.search(make_features(1), 1)
    path.write_bytes(backup)
    with TrackletIndex.open(path) as index:
        others = make_features(15, seed=2)
        index.add(make_rows(15, first=50), others)
        [matches] = index.search(others[4:5], 1)
        assert matches[0].row.track == '54' and matches[0].distance == pytest.approx(0, abs=1e-3)
        assert len(index) == 25


def test_a_matrix_with_many_deleted_rows_at_its_start_is_made_again(path, monkeypatch):
    monkeypatch.setattr('stmn_plugin.cameras.index.matrix.ROWS_AT_ONCE', 4)
    matrix = path.with_name('people.db-matrix')
    with TrackletIndex.open(path, KEY) as index:
        index.add(make_rows(100), make_features(100))
        index.search(make_features(1), 1)
        before = matrix.stat().st_size
        index.delete(Where(numbers=range(1, 91)))
        [matches] = index.search(make_features(100)[[95]], 3)
        assert matches[0].row.number == 96
        assert matrix.stat().st_size - 4096 == (before - 4096) / 10


DAMAGE = {
    'text': lambda content: b'no database at all\n' * 300,
    'truncated': lambda content: content[: len(content) // 3],
    'zeros': lambda content: content[:100] + bytes(len(content) - 100),
    'noise': lambda content: content[:4096] + os.urandom(len(content) - 4096),
}


@pytest.mark.skipif(not os.path.exists('/proc/self/maps'), reason='Linux shows what is mapped')
def test_a_closed_index_holds_no_mapped_file(path):
    def mapped():
        with open('/proc/self/maps') as maps:
            return f'{path}-matrix' in maps.read()

    with TrackletIndex.open(path, KEY) as index:
        index.add(make_rows(3), make_features(3))
        index.search(make_features(1), 1)
        assert mapped()
    assert not mapped()


@pytest.mark.parametrize('kind', DAMAGE)
def test_a_damaged_database_is_one_line(path, kind):
    key = replace(KEY, dim=512)
    with TrackletIndex.open(path, key) as index:
        index.add(make_rows(200), make_features(200, dim=512))
    path.write_bytes(DAMAGE[kind](path.read_bytes()))
    with pytest.raises(InputError, match=r'people\.db') as raised:  # noqa: SIM117
        with TrackletIndex.open(path) as index:
            index.search(make_features(1, dim=512), 3)
            index.rows()
    assert '\n' not in str(raised.value)


def test_a_vector_of_another_length_is_damage(path):
    with TrackletIndex.open(path, KEY) as index:
        index.add(make_rows(20), make_features(20))
    with contextlib.closing(sqlite3.connect(path)) as db, db:
        db.execute("UPDATE tracklet SET feature = x'00' WHERE number = 7")
    with (
        TrackletIndex.open(path) as index,
        pytest.raises(InputError, match=r'people\.db-matrix .* 7 in the database is damaged'),
    ):
        index.search(make_features(1), 3)


NAN = f"x'{'007e' * KEY.dim}'"


@pytest.mark.parametrize('value', ["x'00'", "x'0000'", "'text'", '5', NAN])
def test_a_damaged_vector_is_one_line(path, value):
    with TrackletIndex.open(path, KEY) as index:
        index.add(make_rows(20), make_features(20))
    with contextlib.closing(sqlite3.connect(path)) as db, db:
        db.execute(f'UPDATE tracklet SET feature = {value} WHERE number = 7')
    with TrackletIndex.open(path) as index:
        for numbers in ([7], [6, 7]):
            with pytest.raises(
                InputError, match=r'people\.db: the vector of tracklet 7 is damaged'
            ):
                index.features(numbers)
        with pytest.raises(InputError, match='7 in the database is damaged'):
            index.search(make_features(1), 3)
        assert index.search(index.features([])) == []


def test_a_damaged_matrix_is_named_and_made_again(path):
    with TrackletIndex.open(path, replace(KEY, metric='euclidean')) as index:
        index.add(make_rows(20), make_features(20))
        expected = index.search(make_features(1), 3)
    matrix = path.with_name('people.db-matrix')
    with open(matrix, 'rb+') as file:
        file.seek(HEAD_BYTES + 2 * KEY.dim * 10)  # the last is compared with the database
        file.write(np.full(KEY.dim, np.nan, np.float16).tobytes())
    with TrackletIndex.open(path) as index:
        with pytest.raises(InputError, match=r'people\.db-matrix is damaged, remove it: '):
            index.search(make_features(1), 3)
        matrix.unlink()
        assert index.search(make_features(1), 3) == expected


def test_a_path_that_cannot_be_looked_up_is_one_line(tmp_path):
    """As in a folder that the user may not enter."""
    for model in (None, KEY):
        with pytest.raises(InputError, match=r'cannot read .*/n+/people\.db: File name too long'):
            TrackletIndex.open(tmp_path / ('n' * 300) / 'people.db', model)


def test_damaged_settings_are_one_line(path):
    with TrackletIndex.open(path, KEY) as index:
        index.add(make_rows(20), make_features(20))
    with contextlib.closing(sqlite3.connect(path)) as db, db:
        db.execute("DELETE FROM setting WHERE name = 'id'")
    with (
        TrackletIndex.open(path) as index,
        pytest.raises(
            InputError, match=r'people\.db-matrix .* the database has lost its setting id'
        ),
    ):
        index.search(make_features(1), 3)
    with contextlib.closing(sqlite3.connect(path)) as db, db:
        text = KEY.as_text().replace('"dim": 16', '"dim": "16"')
        db.execute("UPDATE setting SET value = ? WHERE name = 'model'", [text])
    with pytest.raises(InputError, match=r'people\.db is damaged: its model is not'):
        TrackletIndex.open(path)


@pytest.mark.parametrize('time', ["'noon'", '9000000000000000000', '-70000000000000000'])
def test_times_that_are_none_are_damage(path, time):
    with TrackletIndex.open(path, KEY) as index:
        index.add(make_rows(20), make_features(20))
    with contextlib.closing(sqlite3.connect(path)) as db, db:
        db.execute(f'UPDATE tracklet SET starts = {time} WHERE number = 7')
    with (
        TrackletIndex.open(path) as index,
        pytest.raises(InputError, match='times of tracklet 7 in the index are damaged'),
    ):
        index.rows()


def test_locks_that_cannot_be_made_are_one_line(path):
    """As in a folder that is read-only: of the matrix, of a deletion and of a claim."""
    path.with_name('people.db-matrix.lock').mkdir()
    claims = path.with_name('people.db-claims')
    for share in range(64):
        (claims / f'{share:02}.lock').mkdir(parents=True)
    with TrackletIndex.open(path, KEY) as index:
        index.add(make_rows(20), make_features(20))
        for write in (
            lambda: index.search(make_features(1), 3),
            lambda: index.delete(Where(numbers=[1])),
        ):
            with pytest.raises(InputError, match=r'cannot write .*people\.db-matrix: '):
                write()
        with pytest.raises(InputError, match=r'cannot write .*people\.db-claims/\d\d\.lock: '):  # noqa: SIM117
            with index.claim(make_rows(20), 4):
                pass
    path.with_name('people.db-matrix.lock').rmdir()
    with TrackletIndex.open(path) as index:  # finishes the deletion
        assert len(index) == 19 and index.search(make_features(1), 3)


def test_what_is_no_index_is_refused_and_left_alone(path):
    with pytest.raises(InputError, match=r'no index .*people\.db: tools/embed\.py makes one'):
        TrackletIndex.open(path)
    assert not path.exists()
    with contextlib.closing(sqlite3.connect(path)) as db, db:
        db.execute('CREATE TABLE friend (name TEXT)')
    before = path.read_bytes()
    for model in (None, KEY):
        with pytest.raises(InputError, match='a database of another program'):
            TrackletIndex.open(path, model)
    assert path.read_bytes() == before
    with pytest.raises(InputError, match='index is a folder, an index is a file'):
        TrackletIndex.open(path.parent, KEY)
    with pytest.raises(InputError, match='missing'):
        TrackletIndex.open(path.parent / 'missing' / 'people.db', KEY)


@pytest.mark.parametrize('backend', ['sqlite', 'postgresql'])
@pytest.mark.parametrize('schema, age', [('3', 'a newer'), ('1', 'an older')])
def test_another_schema_is_refused(schema, age, backend, path, request):
    url = str(path)
    if backend == 'postgresql':
        url = postgres.empty(request.getfixturevalue('postgres_url'))
    with TrackletIndex.open(url, KEY) as index:
        index._store.set_setting('schema', schema)
    said = f'{age} version of this program: its tables are of version {schema}, this one knows 2'
    for model in (None, KEY):
        with pytest.raises(InputError, match=said):
            TrackletIndex.open(url, model)


def add_and_delete(url, seed, log, begun):
    """Write without end: batches of seven; the log has the deletions that were answered.

    ``begun`` is set after the first of them.
    """
    draw = np.random.default_rng(seed)
    with TrackletIndex.open(url, KEY) as index, open(log, 'a') as deleted:
        for step in range(10_000):
            if draw.integers(3):
                rows = [replace(row, source=f'{seed}/{step}') for row in make_rows(7)]
                rows = [replace(row, tracklet=f'{seed}/{step}/{row.track}') for row in rows]
                index.add(rows, vectors_of(f'{seed}/{step}'))
            else:
                sources = sorted({row.source for row in index.rows()})
                if sources:
                    gone = str(draw.choice(sources))
                    index.delete(Where(sources=[gone]))
                    deleted.write(f'{gone}\n')
                    deleted.flush()
                    begun.set()
            if step % 4 == 0:
                index.search(make_features(1), 2)


def vectors_of(source):
    """As the index keeps them: others order near ones differently."""
    seed, step = map(int, source.split('/'))
    return normalize(make_features(7, seed=100_000 * seed + step)).half()


@pytest.mark.slow
@pytest.mark.parametrize('backend, seconds', [('sqlite', 0.3), ('postgresql', 0.4)])
def test_kill_9_while_adding_and_deleting_leaves_whole_batches(
    backend, seconds, path, request, tmp_path
):
    """As often as ``pytest --kills 100`` says."""
    kills = request.config.getoption('kills')
    url = str(path)
    if backend == 'postgresql':
        url = postgres.empty(request.getfixturevalue('postgres_url'))
    TrackletIndex.open(url, KEY).close()
    log, draw = tmp_path / 'deleted', np.random.default_rng(0)
    log.touch()
    fork = multiprocessing.get_context('fork')
    seen = 0
    for seed in range(kills):
        begun = fork.Event()
        writer = fork.Process(target=add_and_delete, args=(url, seed, log, begun))
        writer.start()
        begun.wait()
        time.sleep(seconds * draw.random())
        os.kill(writer.pid, signal.SIGKILL)
        writer.join()
        with TrackletIndex.open(url) as index:
            rows = index.rows()
            sources = [row.source for row in rows]
            assert all(sources.count(source) == 7 for source in set(sources))
            deleted = log.read_text().split()
            assert not set(sources) & set(deleted)
            features = {
                (source, i): one
                for source in set(sources)
                for i, one in enumerate(vectors_of(source))
            }
            vectors = index.features([row.number for row in rows])
            for row, vector in zip(rows, vectors, strict=True):
                assert np.allclose(vector, features[row.source, int(row.track)], atol=2e-3)
            query = make_features(1, seed=7)
            # of the rounded query, as the index compares it: near ones change places otherwise
            expected = slow_search(normalize(query).half()[0], vectors, range(len(rows)), 4)
            [matches] = index.search(query, 4)
            assert [match.row for match in matches] == [rows[i] for _, i in expected]
            seen = max(seen, len(deleted))
        if backend == 'sqlite':
            left = bytes_of(path.parent)
            gone = [
                (one / one.norm()).half().numpy().tobytes()
                for source in deleted
                for one in vectors_of(source)
            ]
            assert not [vector for vector in gone if vector in left]
            with contextlib.closing(sqlite3.connect(path)) as db:
                assert db.execute('PRAGMA integrity_check').fetchall() == [('ok',)]
    assert seen > kills / 10  # or nothing was tested


@pytest.mark.skipif(sys.platform != 'linux', reason='names of files are Unicode there')
def test_a_file_may_have_a_name_that_is_no_text(tmp_path):
    path = tmp_path / 'people\udcff?%20.db'
    with TrackletIndex.open(path, KEY) as index:
        index.add(make_rows(3), make_features(3))
    with TrackletIndex.open(path) as index:
        assert len(index) == 3 and len(index.search(make_features(1), 2)[0]) == 2
    assert path in tmp_path.iterdir()
