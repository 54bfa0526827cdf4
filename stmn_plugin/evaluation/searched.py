"""Facts needed to interpret a score: queries in the gallery, and equal features."""

import functools
import itertools
import os
from collections.abc import Iterable, Sequence

from torch import Tensor

from stmn_plugin.data.tracklets import Tracklet
from stmn_plugin.input_files import open_regular

from .distances import unit_vectors

BLOCK = 1 << 20  # bytes compared together
ROWS = 4096  # features per block
# share of the largest squared length: rounding error of distances of equal vectors in float32
ROUNDING = 1e-6


def count_searched(queries: Iterable[Tracklet], searched: Iterable[Tracklet]) -> int:
    """Count the query tracklets among the searched ones, also under other paths.

    Tracklets are the same if person, camera, number of frames and the bytes of their first
    and last frames agree; DukeMTMC-VideoReID has copies of its queries in its gallery.

    Args:
        queries: query tracklets; images have a path instead of paths.
        searched: searched tracklets.
    """
    alike: dict[tuple[int, int, int], list[Sequence[str]]] = {}
    for paths, pid, camid, *_ in searched:
        alike.setdefault((pid, camid, len(_frames(paths))), []).append(_frames(paths))
    return sum(
        any(
            _same(_frames(paths), other)
            for other in alike.get((pid, camid, len(_frames(paths))), ())
        )
        for paths, pid, camid, *_ in queries
    )


def _frames(paths: str | Sequence[str]) -> Sequence[str]:
    return [paths] if isinstance(paths, str) else paths  # image data


def _same(frames: Sequence[str], others: Sequence[str]) -> bool:
    return all(a == b or _same_bytes(a, b) for a, b in ((frames[i], others[i]) for i in (0, -1)))


def _same_bytes(a: str, b: str) -> bool:
    try:
        if os.path.getsize(a) != os.path.getsize(b):
            return False
        with open_regular(a) as one, open_regular(b) as other:
            blocks = (iter(functools.partial(file.read, BLOCK), b'') for file in (one, other))
            return all(x == y for x, y in itertools.zip_longest(*blocks))
    except OSError:  # an unreadable frame is skipped or reported during encoding
        return False


def is_collapsed(features: Sequence[Tensor], dist_metric: str) -> bool:
    """Return whether all features are equal by a metric, within rounding in float32.

    Args:
        features: features (n, D) of queries and gallery.
        dist_metric: 'cosine' or 'euclidean'.
    """
    blocks = [block for part in features for block in part.split(ROWS)]
    scale = max(float(block.abs().max()) for block in blocks)
    if scale == 0:
        return True

    def prepared(block: Tensor) -> Tensor:
        return unit_vectors(block) if dist_metric == 'cosine' else block.double() / scale

    count = sum(map(len, blocks))
    mean = sum(prepared(block).double().sum(dim=0) for block in blocks) / count
    largest = deviation = 0.0
    for block in map(prepared, blocks):
        largest = max(largest, float(block.double().square().sum(dim=1).max()))
        deviation = max(deviation, float((block - mean).square().sum(dim=1).max()))
    return deviation <= ROUNDING * largest
