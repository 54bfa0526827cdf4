"""Store the truth about every drawn frame with the data, and read it."""

import contextlib
import dataclasses
import functools
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from stmn_plugin.errors import InputError
from stmn_plugin.extras import require
from stmn_plugin.input_files import open_regular

from ..hdf5 import checked
from .motion import PATTERNS
from .spec import GENERATOR_VERSION, SyntheticSpec
from .tracklet import MASK_REDUCTION, MASK_SHARE

if TYPE_CHECKING:
    from .writer import DrawnTracklet

TRUTH_FILE = 'truth.h5'  # in mars/info
SIZE_LIMIT = 2**28  # bytes of all names, or of the visibility; 13 a frame are needed


@dataclasses.dataclass(frozen=True)
class Truth:
    """The truth about N frames in T tracklets, in the order of train_name.txt, test_name.txt.

    Attributes:
        spec: the SyntheticSpec that was drawn.
        names: (N,) file names such as '0001C1T0001F001.jpg'; no name occurs twice.
        visibility: (N,) float32, share of the person's pixels that the crop shows; 0 without one.
        patterns: tracklet name such as '0001C1T0001' -> pattern name, see motion.py.
        mask_shape: (h, w) of a distractor mask.
        path: the HDF5 file.
    """

    spec: SyntheticSpec
    names: list[str]
    visibility: NDArray[np.float32]
    patterns: dict[str, str]
    mask_shape: tuple[int, int]
    path: Path

    @functools.cached_property
    def index(self) -> dict[str, int]:
        """File name -> row."""
        return {name: row for row, name in enumerate(self.names)}

    @functools.cached_property
    def tracklets(self) -> dict[str, slice]:
        """Tracklet name -> slice of its rows."""
        firsts = [row for row, name in enumerate(self.names) if name.endswith('F001.jpg')]
        ends = [*firsts[1:], len(self.names)]
        return {
            self.names[first][: -len('F001.jpg')]: slice(first, end)
            for first, end in zip(firsts, ends, strict=True)
        }

    def masks(self, rows: slice | Sequence[int] = slice(None)) -> NDArray[np.bool_]:
        """Read distractor masks from the file: true where scene objects or occluders are seen.

        Args:
            rows: a slice or increasing row numbers.

        Returns:
            bool array (rows, h, w).
        """
        with _opened(self.path) as file:
            masks: NDArray[np.bool_] = _masks(file, len(self.names), self.mask_shape)[rows]
        return masks


def write_truth(
    path: Path, spec: SyntheticSpec, tracklets: Sequence['DrawnTracklet'], names: Sequence[str]
) -> None:
    """Write the truth file.

    Args:
        path: the file to make.
        spec: the SyntheticSpec.
        tracklets: T DrawnTracklets of writer.py; masks are packed bits.
        names: N file names of their frames, in order.
    """
    shape = (spec.height // MASK_REDUCTION, spec.width // MASK_REDUCTION)
    masks = np.concatenate(
        [
            np.unpackbits(t.mask_bits, count=len(t.visibility) * shape[0] * shape[1])
            .reshape(-1, *shape)
            .astype(bool)
            for t in tracklets
        ]
    )  # (N, h, w)
    import h5py  # needed only for synthetic data

    with h5py.File(path, 'w') as file:
        file['names'] = np.array(names, dtype='S')
        file['visibility'] = np.concatenate([t.visibility for t in tracklets])
        file['tracklet_names'] = np.array([t.name for t in tracklets], dtype='S')
        file['tracklet_patterns'] = np.array([t.pattern for t in tracklets], dtype='S')
        stored = file.create_dataset(
            'distractor_mask',
            data=masks,
            chunks=(min(64, len(masks)), *shape),
            compression='gzip',
            shuffle=True,
        )
        stored.attrs['resolution'] = f'1/{MASK_REDUCTION} of the crop in both directions'
        stored.attrs['reduction'] = MASK_REDUCTION
        stored.attrs['meaning'] = (
            f'at least {MASK_SHARE} of the cell shows scene objects or occluders, '
            'rather than the person, plain ground or wall'
        )
        file['visibility'].attrs['meaning'] = 'share of the person pixels that the crop shows'
        file.attrs['spec'] = spec.to_json()
        file.attrs['fingerprint'] = spec.fingerprint
        file.attrs['generator_version'] = GENERATOR_VERSION


def load_truth(folder: str | Path) -> Truth:
    """Read the truth of a generated folder.

    Args:
        folder: as returned by ``generate`` or ``ensure``.

    Raises:
        InputError: there is no truth file, or it cannot be read; h5py is not installed.
    """
    path = _truth_path(folder)
    with _opened(path) as file:
        names, tracklets, patterns = (
            checked(file, name, 'S', 1, SIZE_LIMIT).asstr()[:].tolist()
            for name in ('names', 'tracklet_names', 'tracklet_patterns')
        )
        visibility = checked(file, 'visibility', 'f', 1, SIZE_LIMIT)[:]
        spec = SyntheticSpec(**json.loads(file.attrs['spec']))
        mask_shape = spec.height // MASK_REDUCTION, spec.width // MASK_REDUCTION
        _masks(file, len(names), mask_shape)
    if len(visibility) != len(names) or not ((visibility >= 0) & (visibility <= 1)).all():
        raise InputError(f'{path}: its visibility is not one number from 0 to 1 for each frame')
    if len(patterns) != len(tracklets) or not set(patterns) <= set(PATTERNS):
        raise InputError(f'{path}: its patterns are not one of {", ".join(PATTERNS)} a tracklet')
    return Truth(
        spec=spec,
        names=names,
        visibility=visibility,
        patterns=dict(zip(tracklets, patterns, strict=True)),
        mask_shape=mask_shape,
        path=path,
    )


def is_generated_from(folder: str | Path, spec: SyntheticSpec) -> bool:
    """Return whether ``folder`` was generated from ``spec``; an existing truth file is complete."""
    try:
        with _opened(_truth_path(folder)) as file:
            return bool(file.attrs.get('fingerprint') == spec.fingerprint)
    except InputError:
        return False


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """Open a truth file in a ``with`` block; convert any error of the library to one line."""
    require('h5py')
    import h5py

    try:
        with open_regular(path) as data, h5py.File(data, 'r') as file:
            yield file
    except (OSError, KeyError, RuntimeError, TypeError, ValueError) as error:
        raise InputError(f'{path}: not a truth file of synthetic data: {error}') from error


def _masks(file: Any, num_frames: int, shape: tuple[int, int]) -> Any:
    masks = checked(file, 'distractor_mask', 'b', 3, num_frames * shape[0] * shape[1])
    if masks.shape != (num_frames, *shape):
        raise ValueError(f'distractor_mask has shape {masks.shape}, not {(num_frames, *shape)}')
    return masks


def _truth_path(folder: str | Path) -> Path:
    return Path(folder) / 'mars' / 'info' / TRUTH_FILE
