"""Runs a function over jobs in several processes; the death of any of them is noticed."""

import functools
import multiprocessing
import multiprocessing.connection
import os
import signal
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any, TypeVar, cast

from stmn_plugin.errors import WorkerError

Job = TypeVar('Job')
Result = TypeVar('Result')


def usable_workers(workers: int | None = None) -> int:
    """Number of processes to use: as asked, or one per usable core; 1 within a daemon process."""
    if multiprocessing.current_process().daemon:
        return 1
    if workers is None:
        if hasattr(os, 'sched_getaffinity'):
            return len(os.sched_getaffinity(0))
        return os.cpu_count() or 1
    return max(1, workers)


def run_jobs(
    function: Callable[[Job], Result], jobs: Sequence[Job], workers: int
) -> Iterator[tuple[int, Result]]:
    """Yields ``(job number, function(job))`` in the order in which the jobs finish.

    Unlike ``multiprocessing.Pool``, workers end by themselves when this process is killed, and a
    worker that is killed raises here instead of being waited for.

    Args:
        function: picklable where processes are spawned, not forked.
        jobs: a list; all take about the same time.
        workers: number of processes; 1 stays in this one.

    Raises:
        OSError: as raised by a worker.
        RuntimeError: another error of a worker, with its traceback.
        WorkerError: a worker was killed or cannot be started.
    """
    workers = min(workers, len(jobs))
    if workers <= 1:
        yield from ((number, function(job)) for number, job in enumerate(jobs))
        return
    # Forked workers skip the imports of the calling program, which may be torch's.
    context = multiprocessing.get_context('fork' if sys.platform == 'linux' else 'spawn')
    numbered = list(enumerate(jobs))
    processes: list[BaseProcess] = []
    readers: list[Connection] = []
    missing = len(jobs)
    try:
        for first in range(workers):
            process, reader = _start(context, function, numbered[first::workers])
            processes.append(process)
            readers.append(reader)
        while readers:
            for ready in multiprocessing.connection.wait(readers):
                reader = cast(Connection, ready)
                try:
                    number, result, error = reader.recv()
                except EOFError:
                    readers.remove(reader)
                    continue
                if error is not None:
                    raise error
                missing -= 1
                yield number, result
        if missing:
            raise WorkerError(f'a process that draws died: {missing} of {len(jobs)} are missing')
    finally:
        for process in processes:
            process.terminate()
        for process in processes:
            process.join()


def _start(
    context: Any, function: Callable[[Job], Result], share: Sequence[tuple[int, Job]]
) -> tuple[BaseProcess, Connection]:
    """A worker and the end of its pipe to read from."""
    try:
        reader, writer = context.Pipe(duplex=False)
        arguments = (function, share, writer, os.getpid())
        process = context.Process(target=_work, args=arguments, daemon=True)
        process.start()
    except OSError as error:
        raise WorkerError(f'a process that draws cannot be started ({error.strerror})') from error
    writer.close()  # so that the end of the worker is the end of the pipe
    return process, reader


def _work(
    function: Callable[[Job], Result],
    share: Sequence[tuple[int, Job]],
    writer: Connection,
    parent: int,
) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent gets it too and terminates us
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    send = functools.partial(_send, writer)
    for number, job in share:
        if os.getppid() != parent:
            return  # nobody waits any more
        try:
            send((number, function(job), None))
        except OSError as error:
            send((number, None, OSError(error.errno, error.strerror, error.filename)))
        except Exception:
            send((number, None, RuntimeError(traceback.format_exc())))


def _send(writer: Connection, message: object) -> None:
    try:
        writer.send(message)
    except BrokenPipeError:
        os._exit(1)  # the parent is gone
