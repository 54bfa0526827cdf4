"""A config → ``data.save_dir`` with the config and a log of what is printed."""

import contextlib
import errno
import os
import sys
import time

from filelock import FileLock, Timeout
from tqdm import tqdm

from .distributed import is_main
from .errors import InputError, printable
from .whole_files import write_text

LOCK = '.lock'
NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)  # of a file system without them


@contextlib.contextmanager
def run_folder(cfg):
    """``data.save_dir`` with a log of everything that the main process prints in the block.

    Raises:
        InputError: the folder cannot be written, or another process trains or tests in it.
    """
    if not is_main():
        with (
            open(os.devnull, 'w', encoding='utf-8') as nothing,
            contextlib.redirect_stdout(nothing),
        ):
            yield
        return
    folder = cfg.data.save_dir
    kind = 'test' if cfg.test.evaluate else 'train'
    path = os.path.join(folder, f'{kind}.log-{time.strftime("%Y-%m-%d-%H-%M-%S")}')
    try:
        os.makedirs(folder, exist_ok=True)
    except OSError as error:
        raise InputError(f'data.save_dir: cannot write {folder}: {error.strerror}') from error
    with (
        _held(folder),
        _log(path) as log,
        contextlib.redirect_stdout(Tee(sys.stdout, log)),
    ):
        yield


@contextlib.contextmanager
def _held(folder):
    """Keep other processes out until the block ends or this process is gone.

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
        print(f'{printable(folder)} cannot be locked ({error.strerror}): start nothing else in it')
    try:
        yield
    finally:
        lock.release()


@contextlib.contextmanager
def _log(path):
    """A text file that also gets the error that ends the block."""
    try:
        log = open(path, 'w', encoding='utf-8')  # noqa: SIM115, closed with the block below
    except OSError as error:
        raise InputError(f'data.save_dir: cannot write {path}: {error.strerror}') from error
    with log:
        try:
            yield log
        except BaseException as error:
            log.write(f'{type(error).__name__}: {error}\n')
            raise


def write_config(cfg):
    """The merged config as ``config.yaml``; late, so that a refused run leaves what is there."""
    write_text(os.path.join(cfg.data.save_dir, 'config.yaml'), cfg.dump())


class Tee:
    """Prints to the console, above any progress bar, and to a file."""

    def __init__(self, console, file):
        self.console = console
        self.file = file

    def write(self, text):
        self.file.write(text)
        tqdm.write(text, file=self.console, end='')

    def flush(self):
        self.console.flush()
        self.file.flush()
