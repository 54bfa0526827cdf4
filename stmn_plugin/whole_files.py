"""Content → a file that is whole, or the one that was there before."""

import contextlib
import json
import os
import re

from .errors import InputError


@contextlib.contextmanager
def atomic_path(path):
    """A temporary path that becomes ``path`` when the block ends well, and vanishes otherwise.

    Raises:
        InputError: the disk is full or the folder cannot be written; the old file stays as it was.
    """
    temporary = f'{path}.tmp-{os.getpid()}'
    try:
        os.makedirs(os.path.dirname(path) or '.', exist_ok=True)
        yield temporary
        with open(temporary, 'rb+') as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except (OSError, RuntimeError) as error:  # torch.save reports a full disk as RuntimeError
        reason = getattr(error, 'strerror', None) or str(error).splitlines()[0]
        raise InputError(f'cannot write {path}: {reason}') from error
    finally:
        with contextlib.suppress(OSError):
            os.unlink(temporary)


def write_text(path, text):
    """Write a file in UTF-8, whole, and return its path; InputError as :func:`atomic_path`."""
    with atomic_path(path) as temporary, open(temporary, 'w', encoding='utf-8') as file:
        file.write(text)
    return path


def write_json(path, content):
    """Write plain values as :func:`write_text` writes text, and return the path.

    In ASCII: a file name that is no UTF-8 can be written, too.
    """
    return write_text(path, json.dumps(content, indent=2) + '\n')


def remove_leftovers(folder):
    """Remove the temporary files of runs that were killed while they wrote."""
    for name in os.listdir(folder) if os.path.isdir(folder) else []:
        if re.search(r'\.tmp-\d+$', name):
            with contextlib.suppress(OSError):
                os.unlink(os.path.join(folder, name))
