"""A folder that appears whole or not at all, also when the process is killed half-way."""

import contextlib
import errno
import fcntl
import os
import shutil
import uuid

_MARK = '.tmp-'  # of hidden siblings: .<name>.tmp-<random> and its .lock


@contextlib.contextmanager
def whole_folder(folder):
    """Gives an empty temporary sibling that becomes ``folder`` on success and goes on an error.

    A killed process leaves its temporary behind; the next one for the same folder removes it. A
    lock, which the system releases when the process and its workers are gone, tells a dead
    temporary from one that is being filled. If another process made ``folder`` meanwhile, that one
    stays: the caller checks what it finds.

    Args:
        folder: Path to make; absent or empty.

    Raises:
        OSError: the file system refuses.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    _remove_stale(folder)
    temporary = folder.with_name(f'.{folder.name}{_MARK}{uuid.uuid4().hex[:12]}')
    lock = temporary.with_name(temporary.name + '.lock')
    with _own_lock(lock):
        try:
            temporary.mkdir()
            yield temporary
            _rename(temporary, folder)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)  # nothing is there after the renaming
            lock.unlink(missing_ok=True)


def _rename(temporary, folder):
    try:
        os.rename(temporary, folder)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise  # those two: another process was faster


@contextlib.contextmanager
def _own_lock(path):
    """Creates and locks ``path``."""
    while True:
        with path.open('a') as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            # Somebody who cleans up may have unlinked it between our opening and our locking.
            if path.exists():
                yield
                return


def _remove_stale(folder):
    for path in sorted(folder.parent.glob(f'.{folder.name}{_MARK}*.lock')):
        with contextlib.suppress(OSError), path.open('r+') as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # refused while somebody fills it
            shutil.rmtree(path.with_suffix(''), ignore_errors=True)
            path.unlink(missing_ok=True)
