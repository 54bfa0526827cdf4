"""Write files and folders atomically: they are complete, or the previous ones remain.

A file being written is next to its target under a hidden name, with a lock that the system
releases when its writer is gone, however that ends. So a writer that was killed is told from one
that writes, on every system, and the first write into a folder removes what the dead have left.
"""

import contextlib
import functools
import io
import json
import os
import re
import secrets
import shutil
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, TypeAlias, TypeVar

from filelock import FileLock

from .errors import InputError

Name: TypeAlias = str | os.PathLike[str]
AnyName = TypeVar('AnyName', str, Path)

LEFTOVER_LOCK = re.compile(r'\..+\.tmp-[0-9a-f]{8}\.lock')
LOCK_SECONDS = 5  # to lock a new name, which another process's clean-up may be checking


@contextlib.contextmanager
def atomic_path(path: Name) -> Iterator[str]:
    """Yield a temporary path that becomes ``path`` if the ``with`` block succeeds.

    A link is followed, a device is written to as it is, and the permissions of an older file stay.

    Raises:
        InputError: the folder cannot be written, or ``path`` is no file. What the block raises goes
            through as it is.
    """
    with write_errors(path):
        target, status = _target(path)
    if status is not None and stat.S_ISCHR(status.st_mode):
        yield os.fspath(path)
        return
    with contextlib.ExitStack() as stack:
        with write_errors(path):
            target.parent.mkdir(parents=True, exist_ok=True)
            temporary = stack.enter_context(_temporary_name(target))
        yield str(temporary)
        with write_errors(path):
            _sync(temporary)
            if status is not None:
                _keep_owner_and_mode(temporary, status)
            os.replace(temporary, target)
            _sync_folder(target.parent)


def check_writable(path: Name, *read: Name | None) -> None:
    """Raise InputError for a path that cannot be written, before work whose result goes there.

    Its folder must be there.

    Args:
        path: the path.
        *read: files that the work reads; ``path`` may be none of them.
    """
    for source in [name for name in read if name]:
        with contextlib.suppress(OSError):  # one of them is not there
            if os.path.samefile(path, source):
                raise InputError(f'{os.fspath(path)} is read by this command: name another file')
    with write_errors(path):
        target, status = _target(path)
        if status is None or stat.S_ISREG(status.st_mode):
            tempfile.TemporaryFile(dir=target.parent).close()


@contextlib.contextmanager
def whole_file(path: Name) -> Iterator[BinaryIO]:
    """Open a binary file that becomes ``path`` if complete; an error names it in InputError.

    The ``name`` of the file is that of its temporary, as in :func:`atomic_path`.
    """
    with atomic_path(path) as temporary:
        with write_errors(path):
            raw = _NamedWriter(temporary, path)
        try:
            with io.BufferedWriter(raw) as file:
                yield file
        except Exception:
            if raw.refused is not None:  # torch.save raises RuntimeError instead
                raise raw.refused from None
            raise


def write_bytes(path: AnyName, content: bytes) -> AnyName:
    """Write a file atomically and return its path; errors are those of :func:`atomic_path`."""
    with whole_file(path) as file:
        file.write(content)
    return path


def write_text(path: AnyName, text: str) -> AnyName:
    """Write a UTF-8 file atomically and return its path; errors as in :func:`atomic_path`.

    Bytes of a file name that are no UTF-8 are escaped.
    """
    return write_bytes(path, text.encode('utf-8', 'backslashreplace'))


def write_json(path: AnyName, content: object) -> AnyName:
    """Write plain values as JSON, as :func:`write_text` writes text, and return the path.

    In ASCII: a file name that is no UTF-8 is read back as it was.
    """
    return write_text(path, json.dumps(content, indent=2) + '\n')


def link_or_copy(source: Name, path: Name) -> None:
    """Link a second name to a file atomically, or copy it if the file system has no links."""
    with atomic_path(path) as temporary, write_errors(path):
        try:
            os.link(source, temporary)
        except OSError:
            shutil.copyfile(source, temporary)


def remove_file(path: Name) -> None:
    """Remove a file if it exists; raise InputError if that fails."""
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass
    except OSError as error:
        raise InputError(f'cannot remove {path}: {error.strerror}') from error


@contextlib.contextmanager
def whole_folder(folder: Path) -> Iterator[Path]:
    """Yield an empty temporary folder that becomes ``folder`` on success.

    If another process made ``folder`` meanwhile, that one stays: look at what is there.

    Raises:
        OSError: the file system refuses, or ``folder`` is not empty.
    """
    with temporary_folder(folder) as temporary:
        yield temporary
        try:
            with contextlib.suppress(OSError):
                folder.rmdir()  # not every system replaces an empty folder
            os.rename(temporary, folder)
        except OSError:
            if not folder.is_dir() or not any(folder.iterdir()):
                raise
        _sync_folder(folder.parent)


@contextlib.contextmanager
def temporary_folder(target: Path) -> Iterator[Path]:
    """Yield an empty hidden folder next to ``target``, which the end of the block removes.

    After a kill the next write into that place does.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    with _temporary_name(target) as temporary:
        temporary.mkdir()
        yield temporary


@contextlib.contextmanager
def write_errors(path: Name) -> Iterator[None]:
    """Convert errors of writing in a ``with`` block to InputError that names ``path``."""
    try:
        yield
    except OSError as error:
        raise InputError(f'cannot write {path}: {error.strerror or error}') from error


def remove_leftovers(folder: Name) -> None:
    """Remove incomplete files of dead processes from a folder."""
    folder = Path(folder)
    for name in os.listdir(folder) if folder.is_dir() else []:
        if LEFTOVER_LOCK.fullmatch(name):
            lock = folder / name
            with contextlib.suppress(OSError):  # its writer is alive, or it is not ours
                with FileLock(lock, blocking=False):
                    _remove(lock.with_suffix(''))
                if not os.path.lexists(lock.with_suffix('')):
                    _remove(lock)


_clean_once = functools.cache(remove_leftovers)  # at the first write of this process into a folder


@contextlib.contextmanager
def _temporary_name(target: Path) -> Iterator[Path]:
    """Yield a free name in the folder of ``target`` and remove its file after the block."""
    _clean_once(target.parent)
    temporary = target.with_name(f'.{target.name}.tmp-{secrets.token_hex(4)}')
    lock = FileLock(f'{temporary}.lock', timeout=LOCK_SECONDS)
    with contextlib.suppress(OSError):  # no locks here, or no space, which the write reports
        lock.acquire()
    try:
        yield temporary
    finally:
        _remove(temporary)  # does nothing after the renaming
        lock.release()
        _remove(Path(lock.lock_file))


def _remove(path: Path) -> None:
    with contextlib.suppress(OSError):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink()


def _target(path: Name) -> tuple[Path, os.stat_result | None]:
    """Return the target of a write to ``path``, and the status of an existing file or None.

    Raises:
        OSError: something that is neither a file nor a device.
    """
    try:
        status = os.stat(path)
    except FileNotFoundError:
        status = None
    if status is not None and not (stat.S_ISREG(status.st_mode) or stat.S_ISCHR(status.st_mode)):
        raise OSError('it is no regular file')
    return Path(os.path.realpath(path)), status


def _keep_owner_and_mode(path: Path, status: os.stat_result) -> None:
    if hasattr(os, 'chown'):
        with contextlib.suppress(OSError):  # only root may change owners
            os.chown(path, status.st_uid, status.st_gid)
    with contextlib.suppress(OSError):
        os.chmod(path, stat.S_IMODE(status.st_mode))


def _sync(path: Path) -> None:
    with open(path, 'rb+') as file:
        os.fsync(file.fileno())


def _sync_folder(path: Path) -> None:
    """Flush a renaming to disk, on systems that can open folders."""
    with contextlib.suppress(OSError):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


class _NamedWriter(io.FileIO):
    """Raises InputError for ``path`` at the call that fails on a full disk."""

    def __init__(self, temporary: str, path: Name):
        super().__init__(temporary, 'w')
        self.path = path
        self.refused: InputError | None = None

    def write(self, data: Any) -> int:
        try:
            with write_errors(self.path):
                return super().write(data)
        except InputError as error:
            self.refused = error
            raise
