"""Processes that fill an index together and are killed: each tracklet is there, once."""

import collections
import multiprocessing
import os
import signal

import postgres
import pytest
import torch
from test_index import KEY, make_features, make_rows

from stmn_plugin.cameras.index import TrackletIndex
from stmn_plugin.cameras.index.embedding import CropsGoneError, embed_rows
from stmn_plugin.errors import InputError
from stmn_plugin.evaluation.features import TrackletFeatures

COUNT = 60


@pytest.fixture(params=['sqlite', 'postgresql'])
def url(request, tmp_path):
    if request.param == 'sqlite':
        return str(tmp_path / 'people.db')
    return postgres.empty(request.getfixturevalue('postgres_url'))


@pytest.fixture(autouse=True)
def no_crops(monkeypatch):
    """The paths of a tracklet are its track: what is embedded needs no picture."""
    module = 'stmn_plugin.cameras.index.embedding'
    monkeypatch.setattr(f'{module}.crops_of', lambda row: [row.track])
    monkeypatch.setattr(f'{module}.POLL_SECONDS', 0.05)


def embed(url, log, before_each=None):
    """Embed everything; the log has a line for every tracklet that this process embedded.

    ``before_each`` is called when tracklets are claimed.
    """
    features = make_features(COUNT)

    def embedder(tracklets, name):
        if before_each is not None:
            before_each()
        tracks = [int(track) for [track] in tracklets]
        with open(log, 'a') as file:
            file.write(''.join(f'{track}\n' for track in tracks))
        return TrackletFeatures(features[tracks], None, None)

    embedder.skip_bad = False
    with TrackletIndex.open(url, KEY) as index:
        return embed_rows(index, embedder, make_rows(COUNT), at_once=5)


def check(url):
    unit = torch.nn.functional.normalize(make_features(COUNT)).half().float()
    with TrackletIndex.open(url) as index:
        rows = index.rows()
        assert sorted(int(row.track) for row in rows) == list(range(COUNT))
        features = index.features([row.number for row in rows])
        assert torch.equal(features, unit[[int(row.track) for row in rows]])


def start(fork, *args):
    process = fork.Process(target=embed, args=args)
    process.start()
    return process


@pytest.mark.slow
def test_processes_share_the_work_and_do_nothing_twice(url, tmp_path):
    fork = multiprocessing.get_context('fork')
    TrackletIndex.open(url, KEY).close()
    all_have_claimed, waited = fork.Barrier(3), []

    def meet():
        if not waited:
            waited.append(all_have_claimed.wait())

    processes = [start(fork, url, tmp_path / f'log{i}', meet) for i in range(3)]
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0, 0]
    shares = [log.read_text().split() for log in tmp_path.glob('log?')]
    assert sorted(map(int, sum(shares, []))) == list(range(COUNT)) and len(shares) == 3
    check(url)


@pytest.mark.slow
def test_killed_processes_leave_their_part_to_others(url, tmp_path):
    fork, log = multiprocessing.get_context('fork'), tmp_path / 'log'
    TrackletIndex.open(url, KEY).close()
    for _ in range(6):
        claimed = fork.Semaphore(0)
        victim = start(fork, url, log, claimed.release)
        claimed.acquire(), claimed.acquire()  # it has added a batch, and has another
        os.kill(victim.pid, signal.SIGKILL)
        victim.join()
    other = start(fork, url, log)
    embed(url, log)
    other.join()
    check(url)
    # of a batch that was embedded and not yet added when its process was killed
    times = collections.Counter(log.read_text().split())
    assert sum(times.values()) <= COUNT + 6 * 5


def test_tracklets_without_crops_are_left_out_once_by_every_run(url, tmp_path, monkeypatch):
    """Whole batches of them, too, while the others are added."""

    def crops(row):
        if 10 <= int(row.track) < 30 or row.track == '50':
            raise CropsGoneError('deleted')
        return [row.track]

    monkeypatch.setattr('stmn_plugin.cameras.index.embedding.crops_of', crops)
    assert embed(url, tmp_path / 'log') == (COUNT - 21, 0, 0, {'without crops': 21})
    assert embed(url, tmp_path / 'log') == (0, 0, 0, {'without crops': 21})
    monkeypatch.undo()
    monkeypatch.setattr('stmn_plugin.cameras.index.embedding.crops_of', lambda row: [row.track])
    assert embed(url, tmp_path / 'log') == (21, 0, 0, {})
    check(url)


def test_what_was_claimed_and_left_out_can_be_claimed_again(url):
    rows = make_rows(20)
    with TrackletIndex.open(url, KEY) as one, TrackletIndex.open(url, KEY) as other:
        for index in (one, other, one):
            with index.claim(rows, 20) as mine:
                assert len(mine) == 20


def test_what_is_claimed_is_one_processes_until_it_fails(url):
    with TrackletIndex.open(url, KEY) as one, TrackletIndex.open(url, KEY) as other:
        rows = make_rows(20)
        with pytest.raises(KeyError), one.claim(rows, 15) as mine:
            assert len(set(mine)) == 15 and set(mine) <= set(rows)
            with other.claim(rows, 20) as others:
                assert not {row.track for row in mine} & {row.track for row in others}
            raise KeyError
        with other.claim(rows, 20) as mine:
            assert len(mine) == 20
            other.add(mine, make_features(20))
        with one.claim(rows, 20) as mine:
            assert mine == []


def test_work_that_failed_is_claimed_by_a_new_connection_as_by_the_first(url):
    """Often: a new one may lie in memory where the lost one lay."""
    rows = make_rows(20)
    with TrackletIndex.open(url, KEY) as index:
        for _ in range(20):
            with pytest.raises(KeyError), index.claim(rows, 15):
                raise KeyError
            with index.claim(rows, 20) as mine:
                assert len(mine) == 20


def test_a_server_that_restarts_is_waited_for_and_one_that_stays_away_ends_it(
    postgres_url, monkeypatch, messages
):
    psycopg = pytest.importorskip('psycopg')
    server = 'stmn_plugin.cameras.index.postgres_server'
    with TrackletIndex.open(postgres.empty(postgres_url), KEY) as index:
        with index.claim(make_rows(10), 5) as mine:
            with psycopg.connect(postgres_url, autocommit=True) as admin:
                admin.execute(
                    'SELECT pg_terminate_backend(pid, 60000) FROM pg_stat_activity '  # waits
                    "WHERE pid != pg_backend_pid() AND backend_type = 'client backend'"
                )
            assert index.add(mine, make_features(5)) == 5
        assert 'cannot be reached, trying again: ' in messages()
        with index.claim(make_rows(10), 10) as rest:
            assert {row.track for row in [*mine, *rest]} == {str(i) for i in range(10)}
            assert len(rest) == 5
        monkeypatch.setattr(f'{server}.AWAY_SECONDS', 0.5)
        monkeypatch.setattr(f'{server}.psycopg.connect', refuse)
        index._store._server.close()
        with pytest.raises(
            InputError, match='cannot be reached for 0 s; what was added before is kept: no'
        ):
            index.rows()
        with pytest.raises(InputError, match='cannot be reached'):
            TrackletIndex.open(postgres_url)
    monkeypatch.undo()
    with TrackletIndex.open(postgres_url) as index:
        assert len(index) == 5


def refuse(*_, **__):
    import psycopg

    raise psycopg.OperationalError('no route to host')


def test_a_server_that_refuses_is_one_line_at_once(postgres_url, monkeypatch):
    server = 'stmn_plugin.cameras.index.postgres_server'
    monkeypatch.setattr(f'{server}.time.sleep', None)  # as before another attempt
    for url, said in (
        (postgres_url.replace('/postgres?', '/nowhere?'), 'database "nowhere" does not exist'),
        ('postgresql://u:secret@localhost:x/y', "'x' is not a port"),
        ('postgresql://u:secret@localhost/y?sslmode=maybe', 'sslmode'),
        ('postgresql://u:secret@[::1', 'the URL of the server cannot be read: .* IPv6'),
        ('postgresql://u:secret%zz@localhost/y', 'cannot be read: invalid percent-encoded'),
    ):
        with pytest.raises(InputError, match=said) as raised:
            TrackletIndex.open(url)
        assert 'secret' not in str(raised.value) and '\n' not in str(raised.value)
    postgres.empty(postgres_url)
    with pytest.raises(InputError, match='no index in postgresql://'):
        TrackletIndex.open(postgres_url)
