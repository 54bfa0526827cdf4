"""Send messages of the package to the console of a command and the log of a run.

Modules log to ``logging.getLogger(__name__)`` and set up nothing: a program that uses the package
sees its messages as it sees those of any library. Commands show them by :func:`shown_on`, and a run
folder keeps them by :func:`kept_by`. What a library prints is made a message by
:func:`prints_logged`.
"""

import contextlib
import io
import logging
import sys
from collections.abc import Iterator
from typing import TextIO

from .console import Console

PACKAGE = 'stmn_plugin'


class _Alone(logging.Formatter):
    """The message alone; from a warning on with its level."""

    def format(self, record: logging.LogRecord) -> str:
        text = super().format(record)
        return f'{record.levelname.capitalize()}: {text}' if record.levelno > logging.INFO else text


class _Stamped(logging.Formatter):
    """The time before every line, so that tables stay in line and lines can be searched for."""

    def format(self, record: logging.LogRecord) -> str:
        begin = f'{self.formatTime(record, "%Y-%m-%d %H:%M:%S")} {record.levelname:7} '
        lines = super().format(record).splitlines()
        return '\n'.join(f'{begin}{line}'.rstrip() for line in lines)


class _Handler(logging.Handler):
    """Writes to a console or to its logs; neither raises."""

    def __init__(self, console: Console, level: int, formatter: logging.Formatter):
        super().__init__(level)
        self.console = console
        self.setFormatter(formatter)

    def write(self, text: str) -> None:
        raise NotImplementedError

    def emit(self, record: logging.LogRecord) -> None:
        try:
            text = self.format(record)
        except Exception:  # a message that does not fit its arguments; logging reports its place
            self.handleError(record)
            return
        self.write(f'{text}\n')


class _Shown(_Handler):
    def write(self, text: str) -> None:
        self.console.show(text)


class _Kept(_Handler):
    def write(self, text: str) -> None:
        self.console.log(text)


@contextlib.contextmanager
def shown_on(console: Console) -> Iterator[None]:
    """Show messages on a console in the block, above progress bars, except debug messages.

    A block within a block shows nothing twice.
    """
    if _shown():
        yield
        return
    with _added(_Shown(console, logging.INFO, _Alone())):
        yield


@contextlib.contextmanager
def kept_by(console: Console) -> Iterator[None]:
    """Write messages of every level, with the time, to the logs of a console in the block."""
    with _added(_Kept(console, logging.DEBUG, _Stamped())):
        yield


@contextlib.contextmanager
def not_shown() -> Iterator[None]:
    """Show no messages on a console in the block: those of one process of many are enough."""
    handlers = {handler: handler.level for handler in _shown()}
    for handler in handlers:
        handler.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        for handler, level in handlers.items():  # a block within a block ends nothing
            handler.setLevel(level)


def _shown() -> list[logging.Handler]:
    handlers = logging.getLogger(PACKAGE).handlers
    return [handler for handler in handlers if isinstance(handler, _Shown)]


@contextlib.contextmanager
def _added(handler: logging.Handler) -> Iterator[None]:
    logger = logging.getLogger(PACKAGE)
    before = logger.level
    logger.setLevel(min(handler.level, before or handler.level))
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(before)


@contextlib.contextmanager
def prints_logged(logger: logging.Logger) -> Iterator[None]:
    """Turn printed lines into debug messages in the block, except progress within a line."""
    lines = _PrintedLines(logger, sys.stdout)
    with contextlib.redirect_stdout(lines):
        try:
            yield
        finally:
            lines.write('\n')


class _PrintedLines(io.TextIOBase):
    def __init__(self, logger: logging.Logger, shown: TextIO | None):
        self._logger = logger
        self._shown = shown
        self._line = ''
        self._progress = False  # a line of the console is drawn again and again, as by a download

    def writable(self) -> bool:
        return True

    def write(self, text: str) -> int:
        if '\r' in text or self._progress:
            self._progress = not text.endswith('\n')
            if self._shown is not None:
                self._shown.write(text)
            return len(text)
        *lines, self._line = f'{self._line}{text}'.split('\n')
        for line in filter(str.strip, lines):
            self._logger.debug('%s', line)
        return len(text)

    def flush(self) -> None:
        if self._progress and self._shown is not None:
            self._shown.flush()
