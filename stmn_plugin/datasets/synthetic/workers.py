"""Run a function over jobs in several processes, and detect the death of any of them."""

import functools
import multiprocessing
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from typing import TypeVar

from stmn_plugin.errors import WorkerError

Task = TypeVar('Task')
Result = TypeVar('Result')


def usable_workers(workers: int | None = None) -> int:
    """Return the number of processes: as requested, or one per usable core; 1 in a daemon."""
    if multiprocessing.current_process().daemon:
        return 1
    if workers is None:
        if hasattr(os, 'sched_getaffinity'):
            return len(os.sched_getaffinity(0))
        return os.cpu_count() or 1
    return max(1, workers)


def run_jobs(
    function: Callable[[Task], Result], jobs: Sequence[Task], workers: int
) -> Iterator[tuple[int, Result]]:
    """Yield ``(job number, function(job))`` in the order in which the jobs finish.

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
    pool = ProcessPoolExecutor(workers, mp_context=context, initializer=_follow_parent)
    work, done = functools.partial(_work, function), 0
    try:
        try:
            numbers = {pool.submit(work, job): number for number, job in enumerate(jobs)}
        except OSError as error:
            raise WorkerError(f'a drawing process cannot be started ({error.strerror})') from error
        for future in as_completed(numbers):
            yield numbers[future], future.result()
            done += 1
    except BrokenProcessPool as error:
        left = len(jobs) - done
        raise WorkerError(
            f'a drawing process died: {left} of {len(jobs)} jobs are missing'
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


def _follow_parent() -> None:
    """Leave Ctrl-C to the parent, which ends its workers, and end if the parent ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
    os._exit(1)


def _work(function: Callable[[Task], Result], job: Task) -> Result:
    try:
        return function(job)
    except OSError:
        raise
    except Exception:
        # as text, because not every exception can be pickled
        raise RuntimeError(traceback.format_exc()) from None
