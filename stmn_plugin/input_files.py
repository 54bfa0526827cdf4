"""Open regular files only, which can be read to their end without waiting."""

import errno
import json
import os
import stat
from typing import IO, Any

from .errors import InputError

# neither exists on Windows, where opening never waits
NEVER_WAIT = getattr(os, 'O_NONBLOCK', 0) | getattr(os, 'O_NOCTTY', 0)
KINDS = {
    stat.S_IFDIR: 'a folder',
    stat.S_IFIFO: 'a pipe',
    stat.S_IFSOCK: 'a socket',
    stat.S_IFCHR: 'a device',
    stat.S_IFBLK: 'a device',
}


def open_regular(
    path: str | os.PathLike[str], encoding: str | None = None, newline: str | None = None
) -> IO[Any]:
    """Open a file for reading, and reject everything but a regular file at once.

    A pipe waits for a writer and a device may never end. A link to a regular file is accepted. The
    opened file itself is checked, so nothing can replace it in between.

    Args:
        path: of the file.
        encoding (str, optional): of its text; None opens it for bytes.
        newline (str, optional): as for ``open``.

    Returns:
        file: to be closed by the caller (``with``).

    Raises:
        OSError: as ``open``, for what is no regular file and for a path that none can have, too;
            ``strerror`` is the reason in words.
    """
    mode = 'rb' if encoding is None else 'r'
    try:
        return open(path, mode, encoding=encoding, newline=newline, opener=_open_regular)
    except ValueError as error:  # a NUL, or half of a surrogate pair
        raise OSError(errno.EINVAL, f'no file can be called so ({error})', path) from error


def _open_regular(path: str, flags: int) -> int:
    try:
        descriptor = os.open(path, flags | NEVER_WAIT)
    except OSError as error:
        if error.errno == errno.ENXIO:  # a socket, or a device without a driver
            raise OSError(errno.ENXIO, 'is no regular file', path) from error
        raise
    kind = stat.S_IFMT(os.fstat(descriptor).st_mode)
    if kind != stat.S_IFREG:
        os.close(descriptor)
        raise OSError(errno.EINVAL, f'is {KINDS.get(kind, "no file")}, no regular file', path)
    return descriptor


def read_json(path: str | os.PathLike[str], key: str) -> Any:
    """Read a JSON file.

    Args:
        path: of the file.
        key: of the config that names it, starts the message.

    Raises:
        InputError: it cannot be read, or is no JSON.
    """
    try:
        with open_regular(path, encoding='utf-8') as file:
            return json.load(file)
    except OSError as error:
        raise InputError(f'{key}: cannot read {path}: {error.strerror}') from error
    except (ValueError, RecursionError) as error:
        raise InputError(f'{key}: {path} is no JSON: {error}') from error
