"""An index of tracklets: what is added is found, filtered, listed, deleted; models do not mix."""

import datetime
import itertools
from dataclasses import replace

import numpy as np
import postgres
import pytest
import torch

from stmn_plugin.cameras.index import IndexedTracklet, ModelKey, TrackletIndex, Where
from stmn_plugin.errors import InputError

KEY = ModelKey('a' * 64, 'stmn', 64, 32, 4, dim=16)
BEGIN = datetime.datetime(2026, 3, 1, 8, tzinfo=datetime.timezone(datetime.timedelta(hours=1)))
MINUTE = datetime.timedelta(minutes=1)
HOSTILE = "'); DROP TABLE tracklet; --"


def make_rows(count, first=0):
    """Tracklets of three cameras, a minute apart and half a minute long; some without times."""
    return [
        IndexedTracklet(
            number=0,
            tree='/people',
            tracklet=f'gallery/unknown/{i % 3}/{i}',
            camera=['lobby', 'gate', HOSTILE][i % 3],
            source=f'video{i % 2}.mp4',
            track=str(i),
            person=f'person {i % 5}' if i % 2 else 'unknown',
            start=None if i % 7 == 6 else BEGIN + i * MINUTE,
            end=None if i % 7 == 6 else BEGIN + (i + 0.5) * MINUTE,
            num_frames=i + 1,
        )
        for i in range(first, first + count)
    ]


def make_features(count, seed=0, dim=16):
    return torch.randn(count, dim, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(params=['sqlite', 'postgresql'])
def url(request, tmp_path):
    """Where there is no index yet."""
    if request.param == 'sqlite':
        return str(tmp_path / 'people.db')
    return postgres.empty(request.getfixturevalue('postgres_url'))


def test_everything_is_deleted_on_request_only(url):
    """A list of names that turned out empty is no request."""
    with TrackletIndex.open(url, KEY) as index:
        index.add(make_rows(5), make_features(5))
        for where in (Where(), Where(numbers=[]), Where(persons=[], not_cameras=())):
            with pytest.raises(ValueError, match='the condition is empty'):
                index.delete(where)
        assert len(index) == 5
        assert index.delete(Where(numbers=[2]), everything=True) == 1
        assert index.delete(everything=True) == 4 and len(index) == 0


@pytest.mark.parametrize('name', ['cameras', 'not_cameras', 'persons', 'tracklets', 'start'])
def test_a_text_is_no_list_of_names(name):
    """It would be one of letters, so that 'gate' excludes no camera."""
    with pytest.raises(ValueError, match=f"{name} of a condition cannot be a text, got 'gate'"):
        Where(**{name: 'gate'})


@pytest.fixture
def index(url):
    with TrackletIndex.open(url, KEY) as opened:
        opened.add(make_rows(40), make_features(40))
        yield opened


def slow_search(query, features, chosen, top, metric='cosine'):
    """Places of the nearest and their distances, one by one, in float64 of the rounded vectors."""
    found = []
    for i in chosen:
        a, b = (np.asarray(x, dtype=np.float64) for x in (query, features[i]))
        if metric == 'cosine':
            distance = 1 - a @ b / np.sqrt((a @ a) * (b @ b))
        else:
            distance = ((a - b) ** 2).sum()
        found.append((distance, i))
    return sorted(found)[:top]


def holds(row, where):
    """The condition in words."""
    overlaps = row.start is not None and (
        (where.start is None or row.end >= where.start)
        and (where.end is None or row.start <= where.end)
    )
    return (
        (not where.cameras or row.camera in where.cameras)
        and row.camera not in where.not_cameras
        and (not where.persons or row.person in where.persons)
        and (not where.sources or row.source in where.sources)
        and (not where.tracklets or row.tracklet in where.tracklets)
        and (not where.numbers or row.number in where.numbers)
        and ((where.start is None and where.end is None) or overlaps)
        and (where.before is None or (row.end is not None and row.end < where.before))
    )


CONDITIONS = [
    Where(),
    Where(cameras=['gate']),
    Where(cameras=['gate', HOSTILE], sources=['video1.mp4']),
    Where(not_cameras=['lobby', 'nowhere']),
    Where(start=BEGIN + 10 * MINUTE),
    Where(end=BEGIN + 10 * MINUTE),
    Where(start=BEGIN + 3.25 * MINUTE, end=BEGIN + 8 * MINUTE, not_cameras=[HOSTILE]),
    Where(before=BEGIN + 8 * MINUTE),
    Where(persons=['person 1', 'person 3', "' OR 1=1 --"]),
    Where(tracklets=['gallery/unknown/1/4', 'gallery/unknown/2/5']),
    Where(numbers=[2, 3, 5, 7, 999]),
    Where(cameras=['nowhere']),
]


@pytest.mark.parametrize('where', CONDITIONS)
def test_the_nearest_of_those_that_meet_the_condition(index, where):
    rows, features = index.rows(), make_features(40).numpy()
    chosen = [i for i, row in enumerate(rows) if holds(row, where)]
    assert len(chosen) < 40 or where == Where()
    assert index.rows(where) == [rows[i] for i in chosen]
    queries = make_features(3, seed=1)
    for query, matches in zip(queries.numpy(), index.search(queries, 6, where), strict=True):
        expected = slow_search(query, features, chosen, 6)
        assert [match.row for match in matches] == [rows[i] for _, i in expected]
        distances = [match.distance for match in matches]
        assert np.allclose(distances, [one for one, _ in expected], atol=2e-3)


@pytest.mark.parametrize('metric', ['cosine', 'euclidean'])
def test_many_queries_at_once_find_what_single_ones_find(url, metric, monkeypatch):
    if url.startswith('postgresql'):
        monkeypatch.setattr('stmn_plugin.cameras.index.postgres_store.ROWS_OF_A_READ', 7)
    key = ModelKey('a' * 64, 'stmn', 64, 32, 4, 16, metric)
    features, queries = make_features(40), make_features(20, seed=1)
    with TrackletIndex.open(url, key) as index:
        index.add(make_rows(40), features)
        for where in (Where(), Where(not_cameras=['gate']), Where(cameras=['nowhere'])):
            chosen = [i for i, row in enumerate(index.rows()) if holds(row, where)]
            together = index.search(queries, 6, where)
            for query, matches in zip(queries, together, strict=True):
                wanted = slow_search(query, features, chosen, 6, metric)
                assert [match.row.number - 1 for match in matches] == [i for _, i in wanted]
                distances = [match.distance for match in matches]
                assert np.allclose(distances, [one for one, _ in wanted], atol=1e-2)
            [alone] = index.search(queries[3:4], 6, where)
            assert [match.row for match in alone] == [match.row for match in together[3]]


def test_rows_come_back_as_they_were_with_times_in_utc(index):
    for given, row in zip(make_rows(40), index.rows(), strict=True):
        assert row == IndexedTracklet(row.number, *list(vars(given).values())[1:])
        assert row.start is None or row.start.utcoffset() == datetime.timedelta(0)
    assert [row.number for row in index.rows()] == list(range(1, 41))


def test_features_come_back_in_the_order_of_the_numbers(index):
    features = index.features([7, 3, 7])
    unit = make_features(40) / make_features(40).norm(dim=1, keepdim=True)
    assert torch.equal(features, unit[[6, 2, 6]].half().float())
    with pytest.raises(InputError, match='no tracklet 41'):
        index.features([1, 41])


def test_names_that_are_no_text_are_one_line(index):
    """Such as those of files in another encoding."""
    for ask in (
        lambda: index.known('/tree\udcff'),
        lambda: index.set_note('n', '\udcff'),
        lambda: index.add([replace(make_rows(1)[0], camera='\udcff')], make_features(1)),
    ):
        with pytest.raises(InputError, match=r"'.*\\udcff' is not UTF-8 text"):
            ask()
    try:
        assert index.rows(Where(cameras=['\udcff'])) == []
    except InputError as error:  # of a server, whose driver encodes it
        assert 'is not UTF-8 text' in str(error)


def test_a_tracklet_is_added_once(index):
    again = make_rows(42)
    assert index.add(again, make_features(42, seed=9)) == 2 and len(index) == 42
    assert torch.equal(index.features([40]), index.features([40]))
    [[match]] = index.search(make_features(40)[39:], 1)
    assert (match.row.number, match.distance) == (40, pytest.approx(0, abs=1e-3))


def test_equal_distances_are_in_the_order_of_numbers(index):
    index.add(make_rows(8, first=100), torch.ones(8, 16))
    [matches] = index.search(torch.ones(1, 16), 5)
    assert [match.row.number for match in matches] == [41, 42, 43, 44, 45]


def test_euclidean_distances_of_normalised_features_are_squared(url):
    key = ModelKey('a' * 64, 'stmn', 64, 32, 4, 16, 'euclidean', normalized=True)
    features, queries = (torch.nn.functional.normalize(make_features(n, n)) for n in (40, 2))
    with TrackletIndex.open(url, key) as index:
        index.add(make_rows(40), 7 * features)
        for query, matches in zip(queries, index.search(queries, 5), strict=True):
            expected = slow_search(query, features, range(40), 5, 'euclidean')
            assert [match.row.number - 1 for match in matches] == [i for _, i in expected]
            distances = [match.distance for match in matches]
            assert np.allclose(distances, [one for one, _ in expected], atol=2e-3)


def test_approximate_search_is_of_servers_and_finds_the_nearest_of_few(index, url):
    query = make_features(1, seed=1)
    exact = index.search(query, 5, Where(not_cameras=['gate']))
    if not url.startswith('postgresql'):
        with pytest.raises(InputError, match='is searched exactly: only PostgreSQL has HNSW'):
            index.search(query, 5, approximate=True)
        return
    with pytest.raises(InputError, match='has no HNSW index'):
        index.search(query, 5, approximate=True)
    index.make_hnsw()
    assert index.search(query, 5, Where(not_cameras=['gate']), approximate=True) == exact
    assert index.search(query, 5, Where(not_cameras=['gate'])) == exact


def test_an_old_pgvector_searches_exactly_only(postgres_url):
    import psycopg

    change = "UPDATE pg_extension SET extversion = %s WHERE extname = 'vector'"
    query = make_features(1, seed=1)
    with TrackletIndex.open(postgres.empty(postgres_url), KEY) as index:
        index.add(make_rows(40), make_features(40))
        index.make_hnsw()
        with psycopg.connect(postgres_url, autocommit=True) as db:
            known = "SELECT extversion FROM pg_extension WHERE extname = 'vector'"
            version = db.execute(known).fetchone()[0]
            db.execute(change, ['0.7.4'])
            try:
                with pytest.raises(InputError, match='has pgvector 0.7.4; approximate .* 0.8 or'):
                    index.search(query, 5, approximate=True)
                assert len(index.search(query, 5)[0]) == 5
            finally:
                db.execute(change, [version])
        assert len(index.search(query, 5, approximate=True)[0]) == 5


def test_euclidean_distances_are_squared_and_of_features_as_they_are(url):
    key = ModelKey('a' * 64, 'stmn', 64, 32, 4, 16, 'euclidean')
    features, queries = 30 * make_features(40), 30 * make_features(2, seed=1)
    with TrackletIndex.open(url, key) as index:
        index.add(make_rows(40), features)
        for query, matches in zip(queries, index.search(queries, 5), strict=True):
            expected = slow_search(query, features, range(40), 5, 'euclidean')
            assert [match.row.number - 1 for match in matches] == [i for _, i in expected]
            distances = [match.distance for match in matches]
            assert np.allclose(distances, [one for one, _ in expected], rtol=2e-3)
        with pytest.raises(InputError, match='65,504'):
            index.add(make_rows(1, first=50), torch.full((1, 16), 1e5))
        assert len(index) == 40


@pytest.mark.parametrize('seed', range(3))
def test_any_order_of_adding_and_deleting_gives_the_same_search(tmp_path, seed):
    """Against a dictionary; the index is also closed, opened and copied without its matrix."""
    draw = np.random.default_rng(seed)
    path, there, given = tmp_path / 'people.db', {}, itertools.count()
    query = make_features(1, seed=50)
    index = TrackletIndex.open(path, KEY)
    for _ in range(40):
        action = draw.integers(6)
        if action <= 2:
            rows = [row for _ in range(draw.integers(1, 9)) for row in make_rows(1, next(given))]
            features = make_features(len(rows), seed=int(draw.integers(1 << 30)))
            index.add(rows, features)
            there |= {row.tracklet: one for row, one in zip(rows, features, strict=True)}
        elif action == 3 and there:
            gone = draw.choice(sorted(there), size=draw.integers(1, len(there) + 1), replace=False)
            gone = list(gone)[: draw.integers(1, 30)]
            assert index.delete(Where(tracklets=list(map(str, gone)))) == len(gone)
            there = {name: one for name, one in there.items() if name not in gone}
        elif action == 4:
            index.close()
            if draw.integers(2):
                path.with_name('people.db-matrix').unlink(missing_ok=True)
            index = TrackletIndex.open(path)
        assert len(index) == len(there)
        if draw.integers(2):
            [matches] = index.search(query, 5)
            names = sorted(there)
            expected = slow_search(query[0], [there[name] for name in names], range(len(names)), 5)
            assert [match.row.tracklet for match in matches] == [names[i] for _, i in expected]
    index.close()


@pytest.mark.parametrize(
    'change, said',
    [
        ({'weights': 'b' * 64}, 'weights aaaaaaaaaaaaaaaa and not bbbbbbbbbbbbbbbb'),
        ({'height': 128}, 'height 64 and not 128'),
        ({'seq_len': 8}, 'seq_len 4 and not 8'),
        ({'metric': 'euclidean'}, 'metric cosine and not euclidean'),
        ({'flip': True}, 'flip False and not True'),
    ],
)
def test_an_index_of_another_model_is_refused(index, url, change, said):
    with pytest.raises(InputError) as raised:
        TrackletIndex.open(url, ModelKey(**{**vars(KEY), **change}))
    assert str(raised.value).endswith(f'features cannot be compared: {said}')
    with TrackletIndex.open(url) as again:
        assert again.model == KEY


def test_notes_stay(index, url):
    assert index.note('verification') is None
    index.set_note('verification', '{"a": "é"}')
    index.set_note('verification', '{"b": 2}')
    with TrackletIndex.open(url) as again:
        assert again.note('verification') == '{"b": 2}'
