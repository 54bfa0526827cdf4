"""A config → ``data.save_dir`` with the config and a log of what is printed."""

import contextlib
import os
import sys
import time

from tqdm import tqdm

from .checkpoint import atomic_path
from .distributed import is_main
from .errors import InputError


@contextlib.contextmanager
def run_folder(cfg):
    """``data.save_dir`` with a log of everything that the main process prints in the block."""
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
        log = open(path, 'w', encoding='utf-8')  # noqa: SIM115, closed with the block below
    except OSError as error:
        raise InputError(f'data.save_dir: cannot write {folder}: {error.strerror}') from error
    with log, contextlib.redirect_stdout(Tee(sys.stdout, log)):
        try:
            yield
        except BaseException as error:
            log.write(f'{type(error).__name__}: {error}\n')
            raise


def write_config(cfg):
    """The merged config as ``config.yaml``; late, so that a refused run leaves what is there."""
    path = os.path.join(cfg.data.save_dir, 'config.yaml')
    with atomic_path(path) as temporary, open(temporary, 'w', encoding='utf-8') as file:
        file.write(cfg.dump())


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
