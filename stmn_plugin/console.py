"""Make stdout and stderr never raise, even if they are absent, full or without a reader.

What a run prints is a convenience: a console that fails is dropped, with a word in the run's log,
and the run continues. The log is dropped in the same way, with a word on the console.
"""

import contextlib
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NoReturn, TextIO

from tqdm import tqdm


class Console:
    """A stream to print to, and copies of it; a failing one is dropped, none raises.

    Args:
        stream (TextIO, optional): None where a process has been started without it.
        name (str): what it is called when it is gone.
        reports_to (Console, optional): where a failed stream is reported; here by default. Its
            logs receive a copy of what is printed here, except progress bars.
    """

    def __init__(
        self, stream: TextIO | None, name: str, reports_to: 'Console | None' = None
    ) -> None:
        self._stream = stream
        self._outlets: dict[str, TextIO] = {name: stream} if stream is not None else {}
        self._reports_to = reports_to or self
        self._closures = [] if stream is not None else [f'{name} is closed: continuing without it']
        if reports_to is not None:
            reports_to._closures += self._closures

    def __getattr__(self, name: str) -> Any:  # encoding, fileno and the like
        if name.startswith('_'):
            raise AttributeError(name)
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        self._put(text)
        if self._reports_to is not self and '\r' not in text:  # not a progress bar
            self._reports_to.log(text)
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        self.write(''.join(lines))

    def log(self, text: str) -> None:
        """Write to the copies alone."""
        for name, stream in list(self._outlets.items()):
            if stream is not self._stream:
                self._attempt(name, _write, stream, text)

    def show(self, text: str) -> None:
        """Write to the stream alone, at once."""
        for name, stream in list(self._outlets.items()):
            if stream is self._stream:
                self._attempt(name, _write_at_once, stream, text)

    def flush(self) -> None:
        for name, stream in list(self._outlets.items()):
            self._attempt(name, stream.flush)

    def isatty(self) -> bool:
        with contextlib.suppress(ValueError):  # closed
            stream = self._stream
            return stream is not None and stream in self._outlets.values() and stream.isatty()
        return False

    @contextlib.contextmanager
    def copied_to(self, name: str, log: TextIO) -> Iterator[None]:
        """Write to a file, too, while the block runs, and at its end the error that ends it."""
        self.flush()
        self._outlets[name] = log
        for word in self._closures[:]:
            self._attempt(name, log.write, f'{word}\n')
        try:
            yield
        except BaseException as error:
            self.flush()
            if name in self._outlets:
                self._attempt(name, log.write, f'{type(error).__name__}: {error}\n')
            raise
        finally:
            self.flush()
            self._outlets.pop(name, None)

    def _put(self, text: str) -> None:
        for name, stream in list(self._outlets.items()):
            self._attempt(name, _write, stream, text)

    def _attempt(self, name: str, action: Callable[..., object], *arguments: Any) -> None:
        try:
            action(*arguments)
        except BlockingIOError:  # a reader that is slow loses this text, not the next
            pass
        except (OSError, ValueError) as error:  # ValueError: somebody has closed it
            _silence(self._outlets.pop(name))
            reason = getattr(error, 'strerror', None) or error
            self._reports_to.report_closed(
                f'{name} cannot be written ({reason}): continuing without it'
            )

    def report_closed(self, word: str) -> None:
        """Say it wherever something can be said, and in the logs to come."""
        self._closures.append(word)
        self._put(f'{word}\n')


class Printed(Console):
    """stdout: whole lines, above the progress bars, which are on stderr."""

    _line = ''  # text of an incomplete line

    def write(self, text: str) -> int:
        self._line += text
        lines, end, rest = self._line.rpartition('\n')
        if end:
            self._line = rest
            self._put_above_bars(lines + end)
        return len(text)

    def flush(self) -> None:
        line, self._line = self._line, ''
        if line:
            self._put_above_bars(line)
        super().flush()

    def show(self, text: str) -> None:
        with tqdm.external_write_mode(file=self):
            super().show(text)

    def _put_above_bars(self, text: str) -> None:
        with tqdm.external_write_mode(file=self):
            self._put(text)


@contextlib.contextmanager
def robust_console() -> Iterator[Console]:
    """Make stdout and stderr never raise in a ``with`` block; yield the Console of stdout."""
    if isinstance(sys.stdout, Console):
        yield sys.stdout
        return
    out = Printed(sys.stdout, 'stdout')
    err = Console(sys.stderr, 'stderr', reports_to=out)
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            yield out
        finally:
            out.flush()
            err.flush()


def run_tool(main: Callable[[], Any]) -> NoReturn:
    """Run the ``main`` of a tool and exit, even if its console fails.

    Ctrl-C is one line and the exit code that a shell expects; a run, where it saves itself, and a
    queue of runs have a way of their own to stop.
    """
    _open_closed_descriptors()
    try:
        with robust_console():
            sys.exit(main())
    except KeyboardInterrupt:
        from . import ctrl_c  # not before: it takes Ctrl-C over, which is for tools to do

        ctrl_c.print_interrupted()
        sys.exit(ctrl_c.EXIT_CODE)


def write_in_handler(text: str) -> None:
    """Write to stderr from a signal handler, which may have interrupted a print(); never raises."""
    if sys.__stderr__ is not None:
        with contextlib.suppress(OSError):
            os.write(2, text.encode())


def _write(stream: TextIO, text: str) -> None:
    """Write text, escaping characters that the encoding of the stream lacks."""
    try:
        stream.write(text)
    except UnicodeEncodeError:
        encoding = getattr(stream, 'encoding', None) or 'ascii'
        stream.write(text.encode(encoding, 'backslashreplace').decode(encoding))


def _write_at_once(stream: TextIO, text: str) -> None:
    _write(stream, text)
    stream.flush()


def _silence(stream: TextIO) -> None:
    """Redirect a failed stream to nowhere, so that its buffer does not fail at the exit."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        descriptor = stream.fileno()
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, descriptor)
        os.close(nowhere)


def _open_closed_descriptors() -> None:
    """Lead 0, 1 and 2 to nowhere where they are closed.

    Else the next file that is opened, a checkpoint perhaps, gets what libraries print.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # the lowest that is free
