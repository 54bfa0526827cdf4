"""Remove the distractors of synthetic data: the input of a perfect spatial memory."""

import dataclasses
import functools
import shutil
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
    covered = mask.repeat(MASK_REDUCTION, axis=0).repeat(MASK_REDUCTION, axis=1)
    return np.where(covered[..., None], np.array(PAINT, np.uint8), frame)


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

    Frames have the names, lists and truth of the original data, which is made first if it is
    missing.

    Returns:
        ``<root>/synthetic/<fingerprint>-painted``, as :func:`~.writer.ensure`.

    Raises:
        InputError: the folder cannot be written or holds something else.
    """
    drawn = ensure(root, spec, workers)
    painted = drawn.with_name(f'{drawn.name}-painted')
    if is_generated_from(painted, spec):
        return painted
    if painted.exists() and (not painted.is_dir() or any(painted.iterdir())):
        raise InputError(f'{painted}: exists and is not the painted data of {drawn.name}')
    truth = load_truth(drawn)
    try:
        with whole_folder(painted) as temporary:
            paint = functools.partial(_paint, truth, drawn / 'mars', temporary / 'mars')
            for _ in run_jobs(paint, _shares(drawn / 'mars', truth), usable_workers(workers)):
                pass
            shutil.copytree(drawn / 'mars' / 'info', temporary / 'mars' / 'info')
    except OSError as error:
        reason = error.strerror or error
        raise InputError(f'{painted}: cannot write the painted data: {reason}') from error
    except WorkerError as error:
        raise InputError(f'{painted}: {error}; fewer processes need less memory') from error
    return painted


def _shares(mars: Path, truth: Truth) -> list[_Share]:
    shares = []
    for split in sorted({*SPLITS.values()}):
        for person in sorted((mars / split).iterdir()):
            names = sorted(path.name for path in person.iterdir())
            names.sort(key=truth.index.__getitem__)
            rows = [truth.index[name] for name in names]
            shares.append(_Share(f'{split}/{person.name}', names, rows))
    return shares


def _paint(truth: Truth, drawn: Path, painted: Path, share: _Share) -> None:
    (painted / share.folder).mkdir(parents=True)
    for name, mask in zip(share.names, truth.masks(share.rows), strict=True):
        with Image.open(drawn / share.folder / name) as image:
            frame = paint_out(np.asarray(image.convert('RGB')), mask)
        Image.fromarray(frame).save(painted / share.folder / name, **JPEG)
