"""Connect to a PostgreSQL server, and again when the connection is lost."""

import logging
import time
from collections.abc import Callable
from typing import Any, TypeVar

import psycopg
from pgvector.psycopg import register_vector
from psycopg.conninfo import conninfo_to_dict
from psycopg.types import TypeInfo

from stmn_plugin.errors import InputError
from stmn_plugin.numerals import is_digits

from .records import no_text

logger = logging.getLogger(__name__)

Connection = psycopg.Connection[tuple[Any, ...]]
T = TypeVar('T')

AWAY_SECONDS = 60.0  # of attempts to reach a server before giving up
FIRST_PAUSE, LONGEST_PAUSE = 0.25, 8.0  # seconds between two attempts
SCHEMA_NAME = 'tracklet_index'
# words of errors for which another attempt is useless: rejected logins, URLs that libpq cannot use,
FINAL = ('FATAL', 'invalid')
# unless they contain one of these
SOON = ('starting up', 'shutting down', 'in recovery', 'too many', 'reserved for')
OF_USERS = (  # errors whose cause is the server or its settings; the others are mistakes of ours
    psycopg.OperationalError,
    psycopg.InternalError,
    psycopg.errors.InsufficientPrivilege,
)


class Server:
    """A database, by its URL.

    Args:
        url: ``postgresql://USER:PASSWORD@HOST:PORT/DATABASE``.
        with_pgvector: make the extension, if the database has none.

    Raises:
        InputError: the URL is invalid.
    """

    def __init__(self, url: str, with_pgvector: bool = False):
        self.name = _without_password(url)
        self._url = url
        self._with_pgvector = with_pgvector
        self._db: Connection | None = None

    def run(self, action: Callable[[Connection], T]) -> T:
        """Run an action and return its result; run it again if the connection is lost.

        Raises:
            InputError: the server cannot be reached for AWAY_SECONDS, or rejects the action.
        """
        end, pause = time.monotonic() + AWAY_SECONDS, FIRST_PAUSE
        while True:
            try:
                return action(self._connected())
            except psycopg.OperationalError as error:
                reason = ' '.join(str(error).split())
                is_lost = self._db is None or self._db.closed
                final = any(word in reason for word in FINAL)
                final = final and not any(word in reason for word in SOON)
                if not is_lost or (final and self._db is None):
                    raise InputError(f'{self.name}: {reason:.300}') from error
                if time.monotonic() + pause > end:
                    raise InputError(
                        f'{self.name} cannot be reached for {AWAY_SECONDS:.0f} s; what was added '
                        f'before is kept: {reason:.300}'
                    ) from error
                logger.warning('%s cannot be reached, trying again: %.300s', self.name, reason)
            except UnicodeEncodeError as error:
                raise no_text(self.name, error) from error
            except OF_USERS as error:
                raise InputError(f'{self.name}: {" ".join(str(error).split()):.300}') from error
            time.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE)

    @property
    def connection(self) -> Connection | None:
        """The connection that was used last."""
        return self._db

    def close(self) -> None:
        if self._db is not None:
            self._db.close()

    def _connected(self) -> Connection:
        if self._db is not None and not self._db.closed:
            return self._db
        self._db = None
        db = psycopg.connect(
            self._url,
            autocommit=True,
            connect_timeout=10,
            keepalives_idle=30,  # the server soon releases the work of a machine that vanished
            keepalives_interval=10,
            keepalives_count=3,
        )
        try:
            db.execute(
                "SELECT set_config('search_path', %s || current_setting('search_path'), false)",
                [f'{SCHEMA_NAME}, '],
            )
            if self._with_pgvector:
                db.execute('CREATE EXTENSION IF NOT EXISTS vector')
            if TypeInfo.fetch(db, 'halfvec') is None:
                raise InputError(
                    f'{self.name} has no pgvector 0.7 or later in this database: install it and '
                    'run CREATE EXTENSION vector'
                )
            register_vector(db)
        except BaseException:
            db.close()
            raise
        self._db = db
        return db


def _without_password(url: str) -> str:
    """Return the URL without its password, for messages."""
    try:
        parts = conninfo_to_dict(url)
    except psycopg.ProgrammingError as error:
        reason = str(error).partition(': "')[0]  # behind it is what may be the password
        raise InputError(f'the URL of the server cannot be read: {reason}') from None
    for port in str(parts.get('port') or '5432').split(','):
        if not is_digits(port):  # else an error of name resolution, which is tried again
            raise InputError(f'{port!r:.80} is not a port of a PostgreSQL server')
    user = f'{parts["user"]}@' if parts.get('user') else ''
    port = f':{parts["port"]}' if parts.get('port') else ''
    database = parts.get('dbname') or parts.get('user', '')
    return f'postgresql://{user}{parts.get("host", "")}{port}/{database}'
