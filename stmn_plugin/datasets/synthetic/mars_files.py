"""MARS' names and lists: which file a crop goes to and what the info folder says about it."""

import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

JUNK, DISTRACTOR = -1, 0
# savemat writes the date into the first 116 bytes; a fixed text keeps equal data equal.
_MAT_HEADER = b'MATLAB 5.0 MAT-file, synthetic pedestrians of stmn_plugin'.ljust(116)


def id_name(pid: int) -> str:
    """Folder of an identity, also the first four letters of its files; junk is ``00-1``."""
    return f'{pid:04d}' if pid >= 0 else f'00{pid}'


def tracklet_name(pid: int, cam: int, number: int) -> str:
    """For example ``0001C1T0001``; the frames append ``F001.jpg``."""
    return f'{id_name(pid)}C{cam}T{number:04d}'


def frame_name(tracklet: str, frame: int) -> str:
    """File name of frame 1.. of a named tracklet."""
    return f'{tracklet}F{frame:03d}.jpg'


def write_names(path: Path, names: Iterable[str]) -> None:
    """A name list as in MARS: lines end with CRLF."""
    path.write_bytes(''.join(f'{name}\r\n' for name in names).encode())


def write_tracks(
    path: Path, variable: str, lengths: Sequence[int], pids: Sequence[int], cams: Sequence[int]
) -> None:
    """``tracks_*_info.mat``: int32 (T, 4), rows start, end (1-based, inclusive), pid, camera."""
    ends = np.cumsum(lengths)
    starts = ends - np.asarray(lengths) + 1
    _write_mat(path, {variable: np.stack((starts, ends, pids, cams), axis=1).astype(np.int32)})


def write_query(path: Path, rows: Sequence[int]) -> None:
    """``query_IDX.mat``: uint16 (1, Q), 1-based rows of the test tracklets."""
    _write_mat(path, {'query_IDX': np.array([rows], dtype=np.uint16)})


def _write_mat(path: Path, variables: Mapping[str, NDArray[Any]]) -> None:
    from scipy.io import savemat  # slow, and --help of make-synthetic needs it not

    buffer = io.BytesIO()
    savemat(buffer, variables)  # version 5, as the originals
    path.write_bytes(_MAT_HEADER + buffer.getvalue()[len(_MAT_HEADER) :])
