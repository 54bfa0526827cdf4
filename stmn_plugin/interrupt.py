"""Stop on a signal at a safe point, with the exit code that a shell expects."""

import contextlib
import os
import signal
import threading
import time
from collections.abc import Iterator
from types import FrameType
from typing import Any, NoReturn

from .console import write_in_handler
from .distributed import max_over_ranks, world_size

# SIGHUP: the terminal or ssh session is gone; SIGUSR1: a scheduler such as SLURM says that time is
# nearly up; Windows has neither
NOTICES = tuple(getattr(signal, n) for n in ('SIGHUP', 'SIGUSR1') if hasattr(signal, n))
SIGNALS = (signal.SIGINT, signal.SIGTERM, *NOTICES)
# torchrun passes on a signal that every process of the job may have got by itself; on a busy
# machine it takes seconds to do so
REPEAT_SECONDS = 5.0


def signals_to_handle() -> list[signal.Signals]:
    """SIGNALS; SIGHUP not under nohup, which asks for it to be ignored."""
    return [
        signum
        for signum in SIGNALS
        if signum not in NOTICES or signal.getsignal(signum) is not signal.SIG_IGN
    ]


class Interrupted(SystemExit):
    """Ends the process with the code of the signal, as 130 after SIGINT and 143 after SIGTERM."""

    def __init__(self, signum: int) -> None:
        super().__init__(128 + signum)
        self.signum = signum

    def __str__(self) -> str:
        return signal.Signals(self.signum).name


class Interruption:
    """While the block runs, signals only leave a request; a second SIGINT or SIGTERM ends at once.

    A terminal that closes may send several SIGHUP, and a scheduler SIGTERM after SIGUSR1: those
    are one request. ``agreed()`` is to be asked between two steps. Python allows handlers in the
    main thread only; in another thread signals act as they always do.
    """

    def __init__(self) -> None:
        self.signum: int | None = None
        self._pressed = False  # SIGINT or SIGTERM has come
        self._since = 0.0
        self._agreed = 0  # the signal of this or another process that they stop for
        self._at_once = False
        self._previous: dict[signal.Signals, Any] = {}

    @property
    def requested(self) -> bool:
        return self.signum is not None

    def agreed(self) -> bool:
        """Return whether any process of the run got a signal; the answer is the same in all."""
        self._agreed = max_over_ranks(self.signum or 0)
        return self._agreed != 0

    def __enter__(self) -> 'Interruption':
        if threading.current_thread() is threading.main_thread():
            self._previous = {
                signum: signal.signal(signum, self._handle) for signum in signals_to_handle()
            }
        return self

    def __exit__(self, *_: object) -> None:
        for signum, handler in self._previous.items():
            signal.signal(signum, handler)
        self._previous = {}

    def _handle(self, signum: int, _: FrameType | None) -> None:
        if signum not in NOTICES and self._pressed:
            if world_size() > 1 and time.monotonic() - self._since < REPEAT_SECONDS:
                return
            os._exit(128 + signum)  # no clean-up is needed: files are complete or absent
        if signum not in NOTICES:
            self._pressed, self._since = True, time.monotonic()
        if self.requested:
            return
        self.signum = signum
        what = 'stopping' if self._at_once else 'finishing the step, then saving'
        write_in_handler(f'\n{signal.Signals(signum).name}: {what}; again to end at once\n')
        if self._at_once:
            self.stop()

    def stop(self) -> NoReturn:
        """Raise the exception that ends the run."""
        raise Interrupted(self.signum or self._agreed)

    @contextlib.contextmanager
    def at_once(self) -> Iterator[None]:
        """Let a signal stop a ``with`` block immediately, for work that changes no weights."""
        self._at_once = True  # before the check, so that a signal in between is noticed
        try:
            if self.requested:
                self.stop()
            yield
        finally:
            self._at_once = False


def leave_signals_to_parent(_: int) -> None:
    """``worker_init_fn`` of the loaders.

    Ctrl-C and job schedulers signal every process; a worker that dies of it would break the step
    that its parent still wants to finish. Workers end when their parent dies or ends them.
    """
    for signum in (signal.SIGINT, *NOTICES):
        signal.signal(signum, signal.SIG_IGN)
    if hasattr(signal, 'sigwaitinfo'):  # not on macOS
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Thread(target=_obey_parent, args=(os.getppid(),), daemon=True).start()


def _obey_parent(parent: int) -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != parent:
        pass
    os._exit(0)
