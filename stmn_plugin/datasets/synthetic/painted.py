"""Change the frames of synthetic data by their distractor masks.

With the distractors painted out they are the input of a perfect spatial memory.
"""

import dataclasses
import functools
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from stmn_plugin.errors import InputError, WorkerError
from stmn_plugin.whole_files import whole_folder

from .spec import PRESETS, SyntheticSpec
from .tracklet import MASK_REDUCTION
from .truth import Truth, is_generated_from, load_truth
from .workers import run_jobs, usable_workers
from .writer import JPEG, SPLITS, ensure

Change = Callable[[NDArray[np.uint8], NDArray[np.bool_]], NDArray[np.uint8]]

PAINT = (124, 116, 104)  # ImageNet's mean colour: 0 in a normalised frame


class _Share(NamedTuple):
    """The frames of one person's folder and their rows of the truth, in increasing order."""

    folder: str  # below mars, 'bbox_train/0001'
    names: list[str]
    rows: list[int]


def paint_out(frame: NDArray[np.uint8], mask: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """Paint the masked cells of a frame in one colour.

    Args:
        frame: (height, width, 3).
        mask: (height / MASK_REDUCTION, width / MASK_REDUCTION).

    Returns:
        A copy.
    """
    return np.where(_of_pixels(mask), np.array(PAINT, np.uint8), frame)


def mask_below(frame: NDArray[np.uint8], mask: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """Append the mask of a frame to it, white on black: a picture of twice the height.

    Arguments are those of :func:`paint_out`.
    """
    below = np.where(_of_pixels(mask), np.uint8(255), np.zeros_like(frame))
    return np.concatenate([frame, below])


def _of_pixels(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Enlarge a mask to the pixels of its frame, (height, width, 1)."""
    whole = mask.repeat(MASK_REDUCTION, axis=0).repeat(MASK_REDUCTION, axis=1)
    return whole[..., None]


def ensure_preset(root: str | Path, preset: str, seed: int = 0, paint_out: bool = False) -> Path:
    """Return the folder of a preset's data under ``root``, made on first use.

    Args:
        root: data root.
        preset: one of PRESETS.
        seed: selects persons and scenes.
        paint_out: as :func:`ensure_painted`.

    Raises:
        InputError: the folder cannot be written.
    """
    spec = dataclasses.replace(PRESETS[preset], seed=seed)
    return ensure_painted(root, spec) if paint_out else ensure(root, spec)


def ensure_painted(root: str | Path, spec: SyntheticSpec, workers: int | None = None) -> Path:
    """Return the folder of a spec's data without scene objects and occluders, made on first use.

    Returns:
        ``<root>/synthetic/<fingerprint>-painted``, as :func:`ensure_changed`.

    Raises:
        InputError: the folder cannot be written or holds something else.
    """
    return ensure_changed(root, spec, 'painted', paint_out, workers)


def ensure_changed(
    root: str | Path, spec: SyntheticSpec, name: str, change: Change, workers: int | None = None
) -> Path:
    """Return the folder of a spec's data with every frame changed, made on first use.

    Frames have the names, lists and truth of the original data, which is made first if it is
    missing.

    Args:
        root: data root.
        spec: the data to change.
        name: tells this change from others.
        change: frame (height, width, 3) and its distractor mask, as :func:`paint_out` takes them,
            → frame of any size; a function of a module, for other processes.
        workers: number of processes, None for one per core.

    Returns:
        ``<root>/synthetic/<fingerprint>-<name>``, as :func:`~.writer.ensure`.

    Raises:
        InputError: the folder cannot be written or holds something else.
    """
    drawn = ensure(root, spec, workers)
    changed = drawn.with_name(f'{drawn.name}-{name}')
    if is_generated_from(changed, spec):
        return changed
    if changed.exists() and (not changed.is_dir() or any(changed.iterdir())):
        raise InputError(f'{changed}: exists and is not the {name} data of {drawn.name}')
    truth = load_truth(drawn)
    try:
        with whole_folder(changed) as temporary:
            write = functools.partial(_change, change, truth, drawn / 'mars', temporary / 'mars')
            for _ in run_jobs(write, _shares(drawn / 'mars', truth), usable_workers(workers)):
                pass
            shutil.copytree(drawn / 'mars' / 'info', temporary / 'mars' / 'info')
    except OSError as error:
        reason = error.strerror or error
        raise InputError(f'{changed}: cannot write the {name} data: {reason}') from error
    except WorkerError as error:
        raise InputError(f'{changed}: {error}; fewer processes need less memory') from error
    return changed


def _shares(mars: Path, truth: Truth) -> list[_Share]:
    shares = []
    for split in sorted({*SPLITS.values()}):
        for person in sorted((mars / split).iterdir()):
            names = sorted(path.name for path in person.iterdir())
            names.sort(key=truth.index.__getitem__)
            rows = [truth.index[name] for name in names]
            shares.append(_Share(f'{split}/{person.name}', names, rows))
    return shares


def _change(change: Change, truth: Truth, drawn: Path, changed: Path, share: _Share) -> None:
    (changed / share.folder).mkdir(parents=True)
    for name, mask in zip(share.names, truth.masks(share.rows), strict=True):
        with Image.open(drawn / share.folder / name) as image:
            frame = change(np.asarray(image.convert('RGB')), mask)
        Image.fromarray(frame).save(changed / share.folder / name, **JPEG)
