"""Write a spec's data: MARS' folders, names and lists, and the truth; everything or nothing."""

import functools
import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from stmn_plugin.errors import InputError, WorkerError
from stmn_plugin.extras import require
from stmn_plugin.whole_files import whole_folder

from .scene import Camera
from .spec import SyntheticSpec
from .tracklet import draw_tracklet
from .truth import TRUTH_FILE, is_generated_from, write_truth
from .workers import run_jobs, usable_workers

JUNK, DISTRACTOR = -1, 0
# savemat writes the date into the first 116 bytes; a fixed text keeps equal data equal.
_MAT_HEADER = b'MATLAB 5.0 MAT-file, synthetic pedestrians of stmn_plugin'.ljust(116)


def id_name(pid: int) -> str:
    """Return the folder of an identity, also the prefix of its files; junk is ``00-1``."""
    return f'{pid:04d}' if pid >= 0 else f'00{pid}'


def tracklet_name(pid: int, cam: int, number: int) -> str:
    """Return a name such as ``0001C1T0001``; the frames append ``F001.jpg``."""
    return f'{id_name(pid)}C{cam}T{number:04d}'


def frame_name(tracklet: str, frame: int) -> str:
    """Return the file name of frame 1.. of a named tracklet."""
    return f'{tracklet}F{frame:03d}.jpg'


def write_names(path: Path, names: Iterable[str]) -> None:
    """Write a name list as in MARS, with CRLF line ends."""
    path.write_bytes(''.join(f'{name}\r\n' for name in names).encode())


def write_tracks(
    path: Path, variable: str, lengths: Sequence[int], pids: Sequence[int], cams: Sequence[int]
) -> None:
    """Write ``tracks_*_info.mat``: int32 (T, 4), start, end (1-based, inclusive), pid, camera."""
    ends = np.cumsum(lengths)
    starts = ends - np.asarray(lengths) + 1
    _write_mat(path, {variable: np.stack((starts, ends, pids, cams), axis=1).astype(np.int32)})


def write_query(path: Path, rows: Sequence[int]) -> None:
    """Write ``query_IDX.mat``: uint16 (1, Q), 1-based rows of the test tracklets."""
    _write_mat(path, {'query_IDX': np.array([rows], dtype=np.uint16)})


def _write_mat(path: Path, variables: Mapping[str, NDArray[Any]]) -> None:
    from scipy.io import savemat  # slow to import, and not needed for --help

    buffer = io.BytesIO()
    savemat(buffer, variables)  # version 5, as the originals
    path.write_bytes(_MAT_HEADER + buffer.getvalue()[len(_MAT_HEADER) :])


JPEG: dict[str, Any] = {'format': 'JPEG', 'quality': 88, 'subsampling': 2, 'optimize': False}
SPLITS = {
    'train': 'bbox_train',
    'test': 'bbox_test',
    'distractor': 'bbox_test',
    'junk': 'bbox_test',
}


class PersonToDraw(NamedTuple):
    """All tracklets of one identity."""

    stream: str  # 'train', 'test', 'distractor' or 'junk'
    pid: int
    tracklets: int  # per camera


class DrawnTracklet(NamedTuple):
    """The data of a tracklet for the info files, after its crops are written."""

    name: str
    pid: int
    cam: int
    pattern: str
    visibility: NDArray[np.float32]  # (F,)
    mask_bits: NDArray[np.uint8]  # packed bits of (F, h, w), to travel between processes


def ensure(root: str | Path, spec: SyntheticSpec, workers: int | None = None) -> Path:
    """Return the folder of a spec's data under ``root``, generated on first use.

    Returns:
        ``<root>/synthetic/<fingerprint>``, the root that the host's ``mars`` loader takes.

    Raises:
        InputError: the folder cannot be written.
    """
    return generate(Path(root).expanduser() / 'synthetic' / spec.fingerprint, spec, workers)


def generate(
    folder: str | Path, spec: SyntheticSpec, workers: int | None = None, progress: bool = True
) -> Path:
    """Write ``<folder>/mars`` unless it exists.

    The bytes depend on the spec alone. The folder appears when everything is written; a
    process that ends earlier leaves no such folder.

    Args:
        folder: absent, empty, or made by this function from the same spec.
        spec: a SyntheticSpec.
        workers: number of processes, None for one per core.
        progress: shows a progress bar where the output is a terminal.

    Returns:
        ``folder``.

    Raises:
        InputError: the folder cannot be written or holds something else; h5py is not installed.
    """
    require('h5py')
    folder = Path(folder)
    if is_generated_from(folder, spec):
        return folder
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f'{folder}: exists and is not the synthetic data {spec.fingerprint}')
    try:
        with whole_folder(folder) as temporary:
            _write(temporary / 'mars', spec, usable_workers(workers), progress)
    except OSError as error:
        reason = error.strerror or error
        raise InputError(f'{folder}: cannot write the synthetic data: {reason}') from error
    except WorkerError as error:
        raise InputError(f'{folder}: {error}; fewer processes need less memory') from error
    if not is_generated_from(folder, spec):
        raise InputError(f'{folder}: was replaced while the data was made')
    return folder


def _write(mars: Path, spec: SyntheticSpec, workers: int, progress: bool) -> None:
    jobs = _jobs(spec)
    for job in jobs:
        (mars / SPLITS[job.stream] / id_name(job.pid)).mkdir(parents=True)
    drawn: list[list[DrawnTracklet]] = [[] for _ in jobs]
    bar = tqdm(
        total=len(jobs),
        desc=f'drawing {spec.fingerprint}',
        unit='person',
        disable=None if progress else True,  # None: quiet when not a terminal
    )
    with bar:
        for number, result in run_jobs(functools.partial(_draw, mars, spec), jobs, workers):
            drawn[number] = result
            bar.update()
    by_split: dict[str, list[DrawnTracklet]] = {'bbox_train': [], 'bbox_test': []}
    for job, tracklets in zip(jobs, drawn, strict=True):
        by_split[SPLITS[job.stream]] += tracklets
    info = mars / 'info'
    info.mkdir()
    for split, tracklets in zip(('train', 'test'), by_split.values(), strict=True):
        lengths = [len(t.visibility) for t in tracklets]
        pids, cams = [t.pid for t in tracklets], [t.cam for t in tracklets]
        write_names(info / f'{split}_name.txt', _frame_names(tracklets))
        variable = f'track_{split}_info'
        write_tracks(info / f'tracks_{split}_info.mat', variable, lengths, pids, cams)
    write_query(info / 'query_IDX.mat', _query_rows(spec, by_split['bbox_test']))
    everything = by_split['bbox_train'] + by_split['bbox_test']
    write_truth(mars / 'info' / TRUTH_FILE, spec, everything, _frame_names(everything))


def _jobs(spec: SyntheticSpec) -> list[PersonToDraw]:
    """Return identities in the order of the info files, and 1/16 strangers, half of it junk."""
    share = spec.test_ids * spec.tracklets_per_camera
    test = range(spec.train_ids + 1, spec.train_ids + spec.test_ids + 1)
    return [
        *(
            PersonToDraw('train', pid, spec.tracklets_per_camera)
            for pid in range(1, spec.train_ids + 1)
        ),
        PersonToDraw('junk', JUNK, max(1, share // 32)),
        PersonToDraw('distractor', DISTRACTOR, max(2, share // 16)),
        *(PersonToDraw('test', pid, spec.tracklets_per_camera) for pid in test),
    ]


def _draw(mars: Path, spec: SyntheticSpec, job: PersonToDraw) -> list[DrawnTracklet]:
    """Draw and save one identity; return its DrawnTracklets in the order of the info files."""
    folder = mars / SPLITS[job.stream] / id_name(job.pid)
    drawn = []
    for cam in range(1, spec.cameras + 1):
        for number in range(1, job.tracklets + 1):
            tracklet = draw_tracklet(spec, _camera(spec, cam), job.stream, job.pid, cam, number)
            name = tracklet_name(job.pid, cam, number)
            for frame, crop in enumerate(tracklet.crops, 1):
                crop.save(folder / frame_name(name, frame), **JPEG)
            bits = np.packbits(tracklet.masks)
            drawn.append(
                DrawnTracklet(name, job.pid, cam, tracklet.pattern, tracklet.visibility, bits)
            )
    return drawn


@functools.lru_cache(maxsize=6)
def _camera(spec: SyntheticSpec, cam: int) -> Camera:
    """Return a camera, whose scene is drawn once per process."""
    return Camera(spec, cam)


def _frame_names(tracklets: Iterable[DrawnTracklet]) -> list[str]:
    return [
        frame_name(tracklet.name, frame)
        for tracklet in tracklets
        for frame in range(1, len(tracklet.visibility) + 1)
    ]


def _query_rows(spec: SyntheticSpec, tracklets: Iterable[DrawnTracklet]) -> list[int]:
    """Select one tracklet of every test identity and camera, as 1-based rows."""
    rows: dict[tuple[int, int], list[int]] = {}
    for row, tracklet in enumerate(tracklets, 1):
        if tracklet.pid > 0:
            rows.setdefault((tracklet.pid, tracklet.cam), []).append(row)
    return [int(spec.rng('query', *key).choice(choices)) for key, choices in rows.items()]
