"""Run a command to its end, with its output in a file, and pass signals on to it.

The command saves its state at a signal; then the caller is stopped, too. A command of this package
ends with the process that runs it, even if that is killed.
"""

import contextlib
import os
import shlex
import signal
import subprocess
from collections.abc import Callable, Sequence
from types import FrameType

from stmn_plugin.console import write_in_handler
from stmn_plugin.errors import InputError, printable
from stmn_plugin.interrupt import Interrupted, signals_to_handle
from stmn_plugin.parent_process import FOLLOWS

POLL_SECONDS = 0.5


def run_process(command: Sequence[str], log: str, watch: Callable[[], object]) -> int:
    """Run a command to its end, its output added to a file.

    It gets a process group of its own, so that Ctrl-C reaches it once, from here, and it can save
    its state; a second one ends it at once.

    Args:
        command: words.
        log: file.
        watch: called without arguments every half second.

    Returns:
        Exit code, negative for the signal that killed it.

    Raises:
        InputError: the file cannot be written, or the command cannot be started.
        Interrupted: a signal came; the process has ended.
        Exception: what ``watch`` raises, when the process has saved itself and ended.
    """
    process: subprocess.Popen[bytes] | None = None
    received: list[int] = []

    def forward(signum: int, _: FrameType | None) -> None:
        received.append(signum)
        if process is not None:
            process.send_signal(signum)
        write_in_handler('\nstopping when the running process has saved itself; again: at once\n')

    previous = {signum: signal.signal(signum, forward) for signum in signals_to_handle()}
    try:
        process = _start(command, log)
        for signum in received:  # before there was a process to have it
            process.send_signal(signum)
        _wait_for(process, watch)
    finally:
        for signum, handler in previous.items():
            signal.signal(signum, handler)
    if received:
        raise Interrupted(received[0])
    return process.returncode


def _start(command: Sequence[str], log: str) -> 'subprocess.Popen[bytes]':
    try:
        with open(log, 'ab') as file:
            file.write(f'$ {printable(shlex.join(command))}\n'.encode())
            file.flush()
            return subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                env={**os.environ, FOLLOWS: '1'},
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
    except OSError as error:
        raise InputError(f'cannot run with a log in {log}: {error.strerror}') from error


def _wait_for(process: 'subprocess.Popen[bytes]', watch: Callable[[], object]) -> None:
    """Wait for the end, whatever ``watch`` raises, so that no two processes run at a time."""
    try:
        while process.poll() is None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(POLL_SECONDS)
            watch()
    finally:
        if process.poll() is None:
            process.terminate()
            process.wait()
        if process.stdin is not None:
            process.stdin.close()


def last_error(log: str, start: int, code: int) -> str:
    """Return one line that says why a process failed.

    Args:
        log: its output, after what earlier processes wrote.
        start: bytes of those.
        code: exit code; negative is the signal that killed it.
    """
    if code < 0:
        return f'killed by {signal.Signals(-code).name}'
    with open(log, 'rb') as file:
        file.seek(start)
        lines = [line for line in file.read().decode(errors='replace').splitlines() if line.strip()]
    errors = [line.removeprefix('error: ') for line in lines if line.startswith('error: ')]
    return (errors or lines or [''])[-1].strip() or f'exit code {code}'
