"""Read HDF5 files that may be damaged or malicious: checked datasets, tables in a subprocess.

The library that reads HDF5 trusts its files: a dataset may lie in another file, be far larger than
the file, or end the process. Nothing is read before :func:`checked` has seen it. Where a file comes
from elsewhere, a process apart reads it, this file as a script, without torch (0.2 s).
"""

import contextlib
import io
import os
import subprocess
import sys
from typing import Any

import numpy as np
from numpy.typing import NDArray

SIGNATURE = b'\x89HDF\r\n\x1a\n'
SECONDS = 60  # for a table that takes a quarter
MEMORY = 2**31  # bytes of the subprocess, including the library's own


class UnreadableTable(ValueError):
    """The bytes are not such a file, are damaged, or lack the requested data."""


def is_hdf5(data: bytes) -> bool:
    """Return whether these bytes are an HDF5 file; MATLAB's begin with 512 other bytes."""
    return any(data.startswith(SIGNATURE, begin) for begin in (0, 512, 1024, 2048))


def checked(file: Any, name: str, kinds: str, ndim: int, size_limit: int) -> Any:
    """Return a dataset of a file that is safe to read: not linked, of the expected type and size.

    Args:
        file: an open h5py.File.
        name: of the dataset, in the root of the file.
        kinds: of numpy's types, such as 'iuf'.
        ndim: number of dimensions.
        size_limit: bytes of its values, and of a chunk of them, at most.

    Returns:
        The h5py.Dataset.

    Raises:
        UnreadableTable: it is none of this.
    """
    import h5py  # its caller has opened the file with it

    link = file.get(name, getlink=True)
    if link is None:
        raise UnreadableTable(f'has no variable {name!r}')
    found = file.get(name) if isinstance(link, h5py.HardLink) else None
    if not isinstance(found, h5py.Dataset) or found.is_virtual or found.external:
        raise UnreadableTable(f'{name} is no dataset within the file')
    if found.dtype.kind not in kinds or found.ndim != ndim:
        raise UnreadableTable(f'{name} has shape {found.shape} of {found.dtype}')
    for shape in (found.shape, found.chunks or ()):
        if np.prod(shape, dtype=object) * found.dtype.itemsize > size_limit:
            raise UnreadableTable(f'{name} has shape {found.shape}, far beyond its kind')
    return found


def read_in_subprocess(data: bytes, name: str, size_limit: int) -> NDArray[Any]:
    """Read a two-dimensional dataset of numbers in a subprocess.

    Args:
        data: the whole file.
        name: of the dataset.
        size_limit: see :func:`checked`.

    Returns:
        As stored; MATLAB shows the transpose.

    Raises:
        UnreadableTable
        InputError: h5py is not installed.
    """
    from stmn_plugin.extras import require  # not in the subprocess

    require('h5py')
    command = [sys.executable, __file__, name, str(size_limit)]
    environment = {**os.environ, 'OMP_NUM_THREADS': '1', 'OPENBLAS_NUM_THREADS': '1'}
    try:
        reader = subprocess.run(
            command, input=data, capture_output=True, timeout=SECONDS, env=environment, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise UnreadableTable(f'reading it took more than {SECONDS} s') from error
    if reader.returncode:
        output = reader.stderr.decode(errors='replace').strip().splitlines()
        reason = output[-1] if output else f'it ended its reader with code {reader.returncode}'
        raise UnreadableTable(f'no readable MATLAB file: {reason}')
    table: NDArray[Any] = np.load(io.BytesIO(reader.stdout), allow_pickle=False)
    return table


def _read_table(name: str, size_limit: int) -> None:
    """Run in the subprocess: read a file from stdin, write its dataset to stdout."""
    with contextlib.suppress(ImportError, ValueError):  # not on Windows; a lower limit is set
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    try:
        import h5py  # needed only for LS-VID's lists and synthetic data

        with h5py.File(io.BytesIO(sys.stdin.buffer.read()), 'r') as file:
            table = checked(file, name, 'iuf', 2, size_limit)[()]
    except Exception as error:  # the library raises many types on damaged bytes
        raise SystemExit(' '.join(str(error).split()) or type(error).__name__) from error
    np.save(sys.stdout.buffer, table, allow_pickle=False)


if __name__ == '__main__':
    _read_table(sys.argv[1], int(sys.argv[2]))
