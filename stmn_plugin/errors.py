"""What a wrong input becomes: one clear line, exit code 2, nothing that looks like a result."""

import contextlib
import sys
from collections.abc import Iterator

from .console import robust_console
from .log import shown_on

EXIT_BAD_INPUT = 2


def printable(text: object) -> str:
    r"""Format a name or value as one line that a console shows unchanged.

    Characters that could forge a line, move the cursor or change the direction of writing are
    escaped, and so is a byte of a file name that is not UTF-8, which no encoding can write.

    >>> print(printable('café\n\x1b[2J\udcff'))
    café\n\x1b[2J\xff
    """
    return ''.join(char if char.isprintable() else _escaped(char) for char in str(text))


def _escaped(char: str) -> str:
    if '\udc80' <= char <= '\udcff':  # a byte that Python could not decode
        return f'\\x{ord(char) - 0xDC00:02x}'
    return char.encode('unicode_escape').decode('ascii')


class InputError(ValueError):
    """Something the user gave is wrong; one line that names the file, key or value."""

    def __init__(self, message: object) -> None:
        kind, text = type(self), str(message)
        if text.startswith(f'Caught {kind.__name__} in '):  # a loader's worker raised it
            self.__notes__ = [text]  # with its traceback, for --debug; the last line is ours
            text = text.strip().splitlines()[-1]
            text = text.removeprefix(f'{kind.__module__}.{kind.__name__}: ')
        super().__init__(printable(text))


@contextlib.contextmanager
def exit_on_input_error(debug: bool = False) -> Iterator[None]:
    """Turn an InputError in the block of a command into one line on stderr and exit code 2.

    Messages of the package are shown on the console. With ``debug`` the InputError goes through.
    """
    with robust_console() as console, shown_on(console):
        try:
            yield
        except InputError as error:
            if debug:
                raise
            print(f'error: {error}', file=sys.stderr)
            raise SystemExit(EXIT_BAD_INPUT) from None


# phrases of torch, CUDA and its libraries, whose errors have no separate type for this
NO_MEMORY = ('DefaultCPUAllocator', 'out of memory', 'bad_alloc', 'ALLOC_FAILED')


class WorkerError(RuntimeError):
    """A process that reads frames died or could not be started."""


def worker_failure(error: BaseException) -> str:
    """Return the reason of a failed worker process; empty if the error is about something else."""
    reason = ' '.join(str(error).split())
    # torch tells of a killed worker wherever its parent is, not only where it waits for it
    known = isinstance(error, WorkerError) or reason.startswith('DataLoader worker')
    return reason[:300] if known else ''


@contextlib.contextmanager
def resource_errors(batch_size_key: str, note: str = '') -> Iterator[None]:
    """Turn out-of-memory and the death of a loader's worker into an InputError naming the key.

    Args:
        batch_size_key (str): of the config.
        note (str): ends the message.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        reason = ' '.join(str(error).split())
        if isinstance(error, MemoryError) or any(words in reason for words in NO_MEMORY):
            raise InputError(
                f'{batch_size_key} needs more memory than there is: {reason[:300]}{note}'
            ) from error
        failure = worker_failure(error)
        if failure:
            raise InputError(
                f'data.workers: {failure} (fewer workers need less memory, and less of /dev/shm)'
                f'{note}'
            ) from error
        raise
