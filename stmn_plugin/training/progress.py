"""Show training by a progress bar, lines of the log and TensorBoard's curves.

TensorBoard's files are a convenience: a run continues if they cannot be written.
"""

import contextlib
import datetime
import logging
import threading
from collections.abc import Callable
from typing import Any

from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from stmn_plugin.distributed import is_main
from stmn_plugin.errors import printable
from stmn_plugin.numerals import counted

from .run_state import EpochLog

logger = logging.getLogger(__name__)


class Curves:
    """A ``SummaryWriter`` that is closed with a warning when its files cannot be written.

    Args:
        folder: folder of the event files.
        purge_step: TensorBoard ignores earlier events from this step on.
    """

    def __init__(self, folder: str, purge_step: int | None = None) -> None:
        self._writer: Any = None
        self._hook, threading.excepthook = threading.excepthook, self._in_thread
        self._attempt(self._open, folder, purge_step)

    def _open(self, folder: str, purge_step: int | None) -> None:
        self._writer = SummaryWriter(log_dir=folder, purge_step=purge_step)

    def add_scalar(self, name: str, value: Any, step: int | None = None) -> None:
        """Add a point to a curve."""
        if self._writer is not None:
            self._attempt(self._writer.add_scalar, name, value, step)

    def close(self) -> None:
        """Write what is pending and close the files."""
        if self._writer is not None:
            self._attempt(self._writer.close)
        self._writer = None
        threading.excepthook = self._hook

    def _attempt(self, action: Callable[..., Any], *arguments: Any) -> None:
        try:
            action(*arguments)
        except (OSError, UnicodeEncodeError) as error:  # the latter: a folder name not in UTF-8
            writer, self._writer = self._writer, None
            reason = printable(getattr(error, 'strerror', None) or error)
            logger.warning(f'TensorBoard cannot be written ({reason}): continuing without it')
            with contextlib.suppress(OSError, AttributeError):
                writer.close()

    def _in_thread(self, arguments: Any) -> None:
        """Suppress the traceback of an error of TensorBoard's thread, which add_scalar reports."""
        own = type(arguments.thread).__module__.startswith('tensorboard')
        if not own or not isinstance(arguments.exc_value, OSError):
            self._hook(arguments)


class Progress:
    """The progress of an epoch.

    Args:
        log: log of the epoch, filled by the trainer.
        stop: epochs of the run.
        num_batches: batches of an epoch.
        print_freq: batches between two lines of the log.
        curves: TensorBoard's curves, or None.
    """

    def __init__(
        self, log: EpochLog, stop: int, num_batches: int, print_freq: int, curves: Curves | None
    ):
        self.log = log
        self.stop = stop
        self.num_batches = num_batches
        self.print_freq = print_freq
        self.curves = curves

    def __enter__(self) -> 'Progress':
        self.bar = tqdm(
            total=self.num_batches,
            initial=self.log.batches,
            desc=f'epoch {self.log.epoch}/{self.stop}',
            unit='batch',
            leave=False,
            disable=None if is_main() else True,
        )
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.close()

    def batch_done(
        self, index: int, losses: dict[str, float], seconds: float, waited: float
    ) -> None:
        """Show a batch that has been added to ``log``."""
        log, averages = self.log, self.log.averages
        mean_seconds, mean_waited = log.seconds / log.batches, log.data_seconds / log.batches
        self.bar.set_postfix(
            {name: f'{averages[name]:.3f}' for name in list(averages)[:1]}
            | {'images/s': f'{log.images_per_second:.0f}', 'data': f'{log.data_wait:.0%}'},
            refresh=False,
        )
        self.bar.update()
        if log.batches % self.print_freq == 0:
            named = [f'{k} {v:.4f} ({averages[k]:.4f})' for k, v in losses.items()]
            parts = [
                f'epoch: [{log.epoch}/{self.stop}][{log.batches}/{self.num_batches}]',
                f'time {seconds:.3f} ({mean_seconds:.3f})',
                f'data {waited:.3f} ({mean_waited:.3f})',
                f'eta {self.remaining_time()}',
                *named,
                f'lr {log.learning_rate:.6f}',
            ]
            # on a terminal the bar shows it
            level = logging.INFO if self.bar.disable else logging.DEBUG
            logger.log(level, '\t'.join(parts))
        scalars = {'time': mean_seconds, 'data': mean_waited, **averages, 'lr': log.learning_rate}
        self._add(index, scalars)

    def step_done(self, index: int, norm: float | None) -> None:
        """Log the norm of the gradients of the step after a batch; None for a skipped step."""
        self.log.add_step(norm)
        if norm is not None:
            self._add(index, {'gradient_norm': norm})

    def _add(self, index: int, scalars: dict[str, float]) -> None:
        if self.curves is not None:
            step = (self.log.epoch - 1) * self.num_batches + index
            for name, value in scalars.items():
                self.curves.add_scalar(f'Train/{name}', value, step)

    def remaining_time(self) -> datetime.timedelta:
        """Estimate the time to the end of training from this epoch, without evaluations."""
        log = self.log
        batches = self.num_batches - log.batches + (self.stop - log.epoch) * self.num_batches
        seconds = batches * log.seconds / log.batches if log.batches else 0
        return datetime.timedelta(seconds=int(max(seconds, 0)))

    def log_epoch(self) -> None:
        """Log one line at the end of an epoch."""
        log = self.log
        losses = ', '.join(f'{name} {value:.4f}' for name, value in log.averages.items())
        norms = f'gradient norm {log.mean_norm:.4g}, at most {log.largest_norm:.4g}'
        if log.skipped_steps:  # in fp16
            norms = (
                f'{norms if log.steps else "no step"}, {counted(log.skipped_steps, "step")} skipped'
            )
        logger.info(
            f'Epoch {log.epoch}/{self.stop}: {losses}; {norms}; '
            f'{log.images_per_second:.1f} images/s, '
            f'{log.data_wait:.1%} of the time waiting for data, ETA {self.remaining_time()}'
        )
