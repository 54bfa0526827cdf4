"""Create the run folder ``data.save_dir``, lock it, and log messages and printed output there."""

import contextlib
import errno
import logging
import os
import time
from collections.abc import Iterator
from typing import TextIO

from filelock import FileLock, Timeout
from yacs.config import CfgNode

from stmn_plugin.console import robust_console
from stmn_plugin.distributed import is_main
from stmn_plugin.errors import InputError, printable
from stmn_plugin.log import kept_by, not_shown
from stmn_plugin.whole_files import write_text

from .earlier_run import check_no_overwrite

logger = logging.getLogger(__name__)

LOCK = '.lock'
NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)  # a file system without locks


@contextlib.contextmanager
def run_folder(cfg: CfgNode) -> Iterator[str]:
    """Log the main process's output to ``data.save_dir`` in a ``with`` block; silence the others.

    Yields:
        The path of the log, '' in other processes.

    Raises:
        InputError: the folder cannot be written, or another process trains or tests in it.
    """
    if not is_main():
        with (
            open(os.devnull, 'w', encoding='utf-8') as nothing,
            contextlib.redirect_stdout(nothing),
            not_shown(),
        ):
            yield ''
        return
    folder = cfg.data.save_dir
    kind = 'test' if cfg.test.evaluate else 'train'
    path = os.path.join(folder, f'{kind}.log-{time.strftime("%Y-%m-%d-%H-%M-%S")}')
    try:
        os.makedirs(folder, exist_ok=True)
    except OSError as error:
        raise InputError(f'data.save_dir: cannot write {folder}: {error.strerror}') from error
    with (
        robust_console() as console,
        hold_folder(folder),
        _no_overwrite(cfg),
        _log(path) as log,
        console.copied_to(printable(path), log),
        kept_by(console),
    ):
        yield path


@contextlib.contextmanager
def _no_overwrite(cfg: CfgNode) -> Iterator[None]:
    """Reject a run that would overwrite files, before data and weights are loaded."""
    new = not (cfg.test.evaluate or cfg.model.resume)  # also with train.start_epoch > 0
    if new and not cfg.train.overwrite:
        check_no_overwrite(cfg.data.save_dir)
    yield


@contextlib.contextmanager
def hold_folder(folder: str) -> Iterator[None]:
    """Lock a folder against other processes in a ``with`` block.

    The lock ends with this process; workers that outlive it do not hold it.

    Raises:
        InputError: another process holds the lock, or the folder cannot be written.
    """
    lock = FileLock(os.path.join(folder, LOCK), blocking=False)
    try:
        lock.acquire()
    except Timeout as error:
        raise InputError(f'data.save_dir: another process works in {folder}') from error
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise InputError(f'data.save_dir: cannot write {folder}: {error.strerror}') from error
        logger.warning(
            f'{printable(folder)} cannot be locked ({error.strerror}): start nothing else in it'
        )
    try:
        yield
    finally:
        lock.release()


def _log(path: str) -> TextIO:
    """Open a line-buffered text file, so that forked workers inherit no unwritten text."""
    try:
        return open(path, 'w', encoding='utf-8', errors='backslashreplace', buffering=1)
    except OSError as error:
        raise InputError(f'data.save_dir: cannot write {path}: {error.strerror}') from error


def write_config(cfg: CfgNode) -> None:
    """Write the merged config as ``config.yaml``, after the checks that may reject the run."""
    cfg = cfg.clone()
    cfg.defrost()
    cfg.train.overwrite = False  # applies to this run only, not to users of the file
    write_text(os.path.join(cfg.data.save_dir, 'config.yaml'), cfg.dump())
