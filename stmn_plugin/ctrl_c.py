"""End with one line and exit code 130 on Ctrl-C during loading; tools import this first.

An exception in the middle of an import leaves half a module behind, and libraries that catch it
fail in strange ways: there the process ends at once. Elsewhere Ctrl-C is Python's
KeyboardInterrupt, which ``console.run_tool`` makes the same of.
"""

import contextlib
import os
import signal
import sys
from types import FrameType

EXIT_CODE = 128 + signal.SIGINT


def print_interrupted() -> None:
    """Print the line in one of the processes that torchrun started."""
    if os.environ.get('RANK', '0') == '0' and sys.__stderr__ is not None:
        with contextlib.suppress(OSError):  # no reader
            os.write(2, b'interrupted\n')


def _handle(signum: int, frame: FrameType | None) -> None:
    while frame is not None:
        if frame.f_code.co_filename.startswith('<frozen importlib'):
            print_interrupted()
            os._exit(EXIT_CODE)
        frame = frame.f_back
    raise KeyboardInterrupt


def _is_child() -> bool:
    """Return whether this process was spawned by multiprocessing: its parent gets Ctrl-C, too."""
    process = sys.modules.get('multiprocessing.process')
    if process is None:
        return False
    # the first is how multiprocessing knows a child that still imports its parent's main module
    importing = getattr(process.current_process(), '_inheriting', False)
    return importing or process.parent_process() is not None


if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, signal.SIG_IGN if _is_child() else _handle)
