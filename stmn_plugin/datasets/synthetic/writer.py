"""From a spec to files: MARS' folders, names and lists, plus the truth; all or nothing."""

import functools
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from stmn_plugin.errors import InputError, WorkerError
from stmn_plugin.extras import require
from stmn_plugin.whole_files import whole_folder

from . import mars_files
from .mars_files import DISTRACTOR, JUNK
from .scene import Camera
from .spec import SyntheticSpec
from .tracklet import draw_tracklet
from .truth import TRUTH_FILE, holds_truth_of, write_truth
from .workers import run_jobs, usable_workers

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
    """What is left to write about a tracklet when its crops are on disk."""

    name: str
    pid: int
    cam: int
    pattern: str
    visibility: NDArray[np.float32]  # (F,)
    mask_bits: NDArray[np.uint8]  # packed bits of (F, h, w), to travel between processes


def ensure(root: str | Path, spec: SyntheticSpec, workers: int | None = None) -> Path:
    """The folder of this spec's data under ``root``, made on first use.

    Returns:
        ``<root>/synthetic/<fingerprint>``, the root that the host's ``mars`` loader takes.

    Raises:
        InputError: the folder cannot be written.
    """
    return generate(Path(root).expanduser() / 'synthetic' / spec.fingerprint, spec, workers)


def generate(
    folder: str | Path, spec: SyntheticSpec, workers: int | None = None, progress: bool = True
) -> Path:
    """Writes ``<folder>/mars`` unless it is there already.

    The bytes depend on the spec alone. The folder appears when everything is written; whatever
    ends the process earlier leaves nothing of that name.

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
    if holds_truth_of(folder, spec):
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
    if not holds_truth_of(folder, spec):
        raise InputError(f'{folder}: was replaced by something else while the data was made')
    return folder


def _write(mars: Path, spec: SyntheticSpec, workers: int, progress: bool) -> None:
    jobs = _jobs(spec)
    for job in jobs:
        (mars / SPLITS[job.stream] / mars_files.id_name(job.pid)).mkdir(parents=True)
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
        mars_files.write_names(info / f'{split}_name.txt', _frame_names(tracklets))
        variable = f'track_{split}_info'
        mars_files.write_tracks(info / f'tracks_{split}_info.mat', variable, lengths, pids, cams)
    mars_files.write_query(info / 'query_IDX.mat', _query_rows(spec, by_split['bbox_test']))
    everything = by_split['bbox_train'] + by_split['bbox_test']
    write_truth(mars / 'info' / TRUTH_FILE, spec, everything, _frame_names(everything))


def _jobs(spec: SyntheticSpec) -> list[PersonToDraw]:
    """Identities in the order of the info files; a sixteenth more strangers, half of it junk."""
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
    """Draws and saves one identity; returns its DrawnTracklets in the order of the info files."""
    folder = mars / SPLITS[job.stream] / mars_files.id_name(job.pid)
    drawn = []
    for cam in range(1, spec.cameras + 1):
        for number in range(1, job.tracklets + 1):
            tracklet = draw_tracklet(spec, _camera(spec, cam), job.stream, job.pid, cam, number)
            name = mars_files.tracklet_name(job.pid, cam, number)
            for frame, crop in enumerate(tracklet.crops, 1):
                crop.save(folder / mars_files.frame_name(name, frame), **JPEG)
            bits = np.packbits(tracklet.masks)
            drawn.append(
                DrawnTracklet(name, job.pid, cam, tracklet.pattern, tracklet.visibility, bits)
            )
    return drawn


@functools.lru_cache(maxsize=6)
def _camera(spec: SyntheticSpec, cam: int) -> Camera:
    """Scenes are drawn once per process."""
    return Camera(spec, cam)


def _frame_names(tracklets: Iterable[DrawnTracklet]) -> list[str]:
    return [
        mars_files.frame_name(tracklet.name, frame)
        for tracklet in tracklets
        for frame in range(1, len(tracklet.visibility) + 1)
    ]


def _query_rows(spec: SyntheticSpec, tracklets: Iterable[DrawnTracklet]) -> list[int]:
    """One tracklet of every test identity at every camera, as 1-based rows."""
    rows: dict[tuple[int, int], list[int]] = {}
    for row, tracklet in enumerate(tracklets, 1):
        if tracklet.pid > 0:
            rows.setdefault((tracklet.pid, tracklet.cam), []).append(row)
    return [int(spec.rng('query', *key).choice(choices)) for key, choices in rows.items()]
