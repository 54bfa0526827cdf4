"""Numbers of a run → TensorBoard's event files, which are a convenience: they never end a run."""

import contextlib
import logging
import threading
from collections.abc import Callable
from typing import Any

from torch.utils.tensorboard import SummaryWriter

from stmn_plugin.errors import printable

logger = logging.getLogger(__name__)


class Curves:
    """A ``SummaryWriter`` that is dropped, with a word, when its files cannot be written.

    Args:
        folder (str): of the event files.
        purge_step (int, optional): earlier events from this step on do not count.
    """

    def __init__(self, folder: str, purge_step: int | None = None) -> None:
        self._writer: Any = None
        self._hook, threading.excepthook = threading.excepthook, self._in_thread
        self._attempt(self._open, folder, purge_step)

    def _open(self, folder: str, purge_step: int | None) -> None:
        self._writer = SummaryWriter(log_dir=folder, purge_step=purge_step)

    def add_scalar(self, name: str, value: Any, step: int | None = None) -> None:
        if self._writer is not None:
            self._attempt(self._writer.add_scalar, name, value, step)

    def close(self) -> None:
        if self._writer is not None:
            self._attempt(self._writer.close)
        self._writer = None
        threading.excepthook = self._hook

    def _attempt(self, action: Callable[..., Any], *arguments: Any) -> None:
        try:
            action(*arguments)
        except (OSError, UnicodeEncodeError) as error:  # the latter: a folder that is no UTF-8
            writer, self._writer = self._writer, None
            reason = printable(getattr(error, 'strerror', None) or error)
            logger.warning(f'TensorBoard takes nothing more ({reason}): going on without it')
            with contextlib.suppress(OSError, AttributeError):
                writer.close()

    def _in_thread(self, arguments: Any) -> None:
        """TensorBoard's thread, too, raises what ``add_scalar`` will: it needs no traceback."""
        own = type(arguments.thread).__module__.startswith('tensorboard')
        if not own or not isinstance(arguments.exc_value, OSError):
            self._hook(arguments)
