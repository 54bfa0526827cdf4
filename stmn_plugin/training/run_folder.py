"""A config → ``data.save_dir`` with the config and a log of messages and of what is printed."""

import contextlib
import errno
import logging
import os
import time
from collections.abc import Iterator
from typing import TextIO

from filelock import FileLock, Timeout
from yacs.config import CfgNode

from stmn_plugin.console import lasting_console
from stmn_plugin.distributed import is_main
from stmn_plugin.errors import InputError, printable
from stmn_plugin.log import kept_by, not_shown
from stmn_plugin.whole_files import write_text

from .earlier_run import check_nothing_is_lost

logger = logging.getLogger(__name__)

LOCK = '.lock'
NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)  # of a file system without them


@contextlib.contextmanager
def run_folder(cfg: CfgNode) -> Iterator[str]:
    """``data.save_dir`` with a log of what the main process says in the block; others say nothing.

    Gives the path of the log, '' in other processes.

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
        lasting_console() as console,
        hold_folder(folder),
        _nothing_lost(cfg),
        _log(path) as log,
        console.copied_to(printable(path), log),
        kept_by(console),
    ):
        yield path


@contextlib.contextmanager
def _nothing_lost(cfg: CfgNode) -> Iterator[None]:
    """What a new run would write over is found before data and weights are loaded."""
    new = not (cfg.test.evaluate or cfg.model.resume)  # whatever train.start_epoch counts from
    if new and not cfg.train.overwrite:
        check_nothing_is_lost(cfg.data.save_dir)
    yield


@contextlib.contextmanager
def hold_folder(folder: str) -> Iterator[None]:
    """Keep other processes out of a folder until the block ends or this process is gone.

    The lock is the process's alone: workers that outlive it do not keep it.
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
    """A text file, written line by line: a worker that is forked has no part of one to write."""
    try:
        return open(path, 'w', encoding='utf-8', errors='backslashreplace', buffering=1)
    except OSError as error:
        raise InputError(f'data.save_dir: cannot write {path}: {error.strerror}') from error


def write_config(cfg: CfgNode) -> None:
    """The merged config as ``config.yaml``; late, so that a refused run leaves what is there."""
    cfg = cfg.clone()
    cfg.defrost()
    cfg.train.overwrite = False  # an order for this once, not to be obeyed when the file is used
    write_text(os.path.join(cfg.data.save_dir, 'config.yaml'), cfg.dump())
