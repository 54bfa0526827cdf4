"""Data loaders that report failures of their worker processes instead of waiting for ever.

Workers pass batches in shared memory, on Linux in /dev/shm, which may be very small in a container.
If it is full, torch's worker loses the batch and keeps running, and its parent waits for ever.
"""

import contextlib
import os
import os.path as osp
import shutil
import signal
import traceback
from collections.abc import Iterator, Mapping
from multiprocessing.queues import Queue
from typing import Any

from torch.utils.data import DataLoader, Dataset

from stmn_plugin.distributed import from_environment
from stmn_plugin.errors import InputError, WorkerError
from stmn_plugin.interrupt import leave_signals_to_parent

SHARED_MEMORY = '/dev/shm'
READY = 2  # batches that each worker prefetches, torch's default
# limit for a batch while all workers run: no disk is so slow, only a deadlock takes so long
PATIENCE_SECONDS = 30 * 60
LOST = ('DataLoader timed out', 'Too many open files', 'shared memory')  # in torch's errors
END = object()


class FrameLoader(DataLoader[Any]):
    """torch's DataLoader, with failures of workers raised as WorkerError.

    Args:
        dataset: see ``DataLoader``.
        workers: worker processes; 0 reads in this process.
        **options: further arguments of ``DataLoader``.
    """

    def __init__(self, dataset: Dataset[Any], workers: int, **options: Any):
        # SIGCHLD reports a dead child; without it torch looks for one only if there is no timeout
        limited = workers > 0 and hasattr(signal, 'SIGCHLD')
        super().__init__(
            dataset,
            num_workers=workers,
            worker_init_fn=begin_work,
            timeout=PATIENCE_SECONDS if limited else 0,
            **options,
        )

    @classmethod
    def like(cls, loader: DataLoader[Any]) -> 'FrameLoader':
        """Return a loader with the batches of one of the host's loaders."""
        return cls(
            loader.dataset,
            loader.num_workers,
            batch_sampler=loader.batch_sampler,
            pin_memory=loader.pin_memory,
        )

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]  # torch names a private class
        if self.num_workers == 0:
            return super().__iter__()
        try:
            batches = super().__iter__()  # starts the workers
        except OSError as error:
            raise WorkerError(
                f'{self.num_workers} processes cannot be started ({error.strerror})'
            ) from error
        return self._received(batches)

    def _received(self, batches: Iterator[Any]) -> Iterator[Any]:
        while True:
            with _pipe_errors():
                batch = next(batches, END)
            if batch is END:
                return
            yield batch


@contextlib.contextmanager
def _pipe_errors() -> Iterator[None]:
    """Convert errors of the pipe to a worker, but not those of the worker itself."""
    try:
        yield
    except (EOFError, ConnectionError) as error:
        if str(error).startswith('Caught '):
            raise
        raise WorkerError(f'a process that reads frames died ({type(error).__name__})') from error
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[-1:]  # a worker's error begins with its traceback
        if any(text in str(reason) for text in LOST):
            raise WorkerError(*reason) from error
        raise


def begin_work(worker: int) -> None:
    """Initialise a worker: leave signals to the parent, and end it if it loses a batch."""
    leave_signals_to_parent(worker)
    Queue._on_queue_feeder_error = staticmethod(_end)  # type: ignore[attr-defined]  # private


def _end(error: BaseException, _: object) -> None:
    """End a worker that cannot send a batch, because the parent notices an end but not a loss.

    This is the hook of ``multiprocessing.Queue`` for errors of the sending thread.
    """
    if 'shared memory' not in str(error):
        traceback.print_exception(error)
    os._exit(1)


def check_shared_memory(workers: int, batch_sizes: Mapping[str, int]) -> None:
    """Check that batches fit into shared memory.

    Args:
        workers: worker processes of each loader.
        batch_sizes: config key that sets the size of a batch → bytes of a batch.

    Raises:
        InputError: they do not; the message names data.workers, the key and /dev/shm.
    """
    if workers == 0 or not osp.isdir(SHARED_MEMORY):
        return
    free = shutil.disk_usage(SHARED_MEMORY).free
    processes = from_environment('LOCAL_WORLD_SIZE', 1)  # on this machine
    for key, size in batch_sizes.items():
        ready = READY * workers + 1  # one is worked on
        if ready * size * processes > free:
            fitting = max(0, (free // (size * processes) - 1) // READY)
            raise InputError(
                f'data.workers {workers}: up to {ready} batches ({key}) of {size / 2**20:.1f} MiB '
                f'lie in {SHARED_MEMORY}, which has {free / 2**20:.1f} MiB free; set data.workers '
                f'{fitting} or make it larger (docker run --shm-size)'
            )
