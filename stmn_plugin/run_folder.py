"""A config → ``data.save_dir`` with the config and a log of what is printed."""

import contextlib
import os
import sys
import time

from tqdm import tqdm

from .distributed import is_main
from .errors import InputError, printable
from .whole_files import write_text

try:
    import fcntl
except ImportError:  # a system without it
    fcntl = None

LOCK = '.lock'


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
        lock = open(os.path.join(folder, LOCK), 'a')  # noqa: SIM115, closed with the block below
    except OSError as error:
        raise InputError(f'data.save_dir: cannot write {folder}: {error.strerror}') from error
    with lock:
        _hold(lock, folder)
        with _log(path) as log, contextlib.redirect_stdout(Tee(sys.stdout, log)):
            yield


def _hold(lock, folder):
    """Keep other processes out until the file is closed or this process is gone.

    A POSIX lock belongs to the process alone: workers that outlive it do not keep it.
    """
    if fcntl is None:
        return
    try:
        fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError) as error:
        raise InputError(f'data.save_dir: another process works in {folder}') from error
    except OSError as error:  # a file system that knows no locks
        print(f'{printable(folder)} cannot be locked ({error.strerror}): start nothing else in it')


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
