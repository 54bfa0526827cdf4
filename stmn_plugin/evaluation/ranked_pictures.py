"""Write ranked lists as pictures: a folder (video) or a sheet (images) for every query.

The host's ``visualize_ranked_results`` names a query by the base name of its first frame, which
several queries can share, and needs all distances at once. The content is as the host writes it.
"""

import os
import re
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TypeAlias

import numpy as np
from PIL import Image, ImageOps
from torch import Tensor

from stmn_plugin.data.frames import read_frame
from stmn_plugin.data.tracklets import Tracklet
from stmn_plugin.input_files import open_regular
from stmn_plugin.whole_files import whole_file, whole_folder, write_errors

from .features import TrackletFeatures
from .ranked_lists import rank_and_list

FoundFrames: TypeAlias = tuple[Sequence[str], bool]
"""Paths of a tracklet, or the path of an image, and whether it is a match."""

UNSAFE = re.compile(r'[^\w.-]+')
LONGEST, SUFFIX = 150, 10  # characters of a name; file systems allow 255
QUERY = 'query_top000'
BORDER, SPACING = 5, 10  # pixels of a sheet
GREEN, RED, BLACK, WHITE = (0, 255, 0), (255, 0, 0), (0, 0, 0), (255, 255, 255)


def draw_ranked_lists(
    chunks: Iterable[Tensor],
    query: TrackletFeatures,
    searched: TrackletFeatures,
    tracklets: tuple[Sequence[Tracklet], Sequence[Tracklet]],
    folder: str,
    k: int,
    size: tuple[int, int],
) -> None:
    """Write every query with the k nearest tracklets that count.

    A query of video gets a folder with the frames of each tracklet in ``query_top000``,
    ``gallery_top001_TRUE``, ...; one of images gets ``<name>.jpg``, the query first, green borders
    for the right person. Names contain person, camera and tracklet.

    Args:
        chunks: distances (q, G), the first queries first.
        query: features of the queries.
        searched: features of the searched tracklets.
        tracklets: the host's tuples of both, in the same order.
        folder: created if missing; files of an earlier test are replaced.
        k: number of tracklets to show.
        size: width and height of a picture in a sheet.

    Raises:
        InputError: a file cannot be written, or an image cannot be read.
    """
    queries, gallery = tracklets
    lists = rank_and_list(chunks, query, searched, k)
    names = distinct_names([_title(*tracklet[:3]) for tracklet in queries])
    for row, name in enumerate(names):
        found = [
            (gallery[index][0], bool(is_match))
            for index, is_match, distance in zip(
                lists.indices[row], lists.is_match[row], lists.distances[row], strict=True
            )
            if np.isfinite(distance)  # a small gallery has fewer that count
        ]
        paths, target = queries[row][0], Path(folder) / name
        if isinstance(paths, str):
            _write_sheet(target, paths, found, size)
        else:
            _write_folder(target, paths, found)


def distinct_names(titles: list[str]) -> list[str]:
    """Return names that are valid and distinct in any file system, close to the titles.

    >>> distinct_names(['a/b', 'a b', 'A_B', 'c'])
    ['a_b', 'a_b-2', 'A_B-3', 'c']
    """
    names: list[str] = []
    taken: set[str] = set()
    for title in titles:
        safe = UNSAFE.sub('_', title).encode('ascii', 'replace').decode().replace('?', '_')
        stem, suffix = os.path.splitext(safe.lstrip('.') or '_')
        stem, suffix = stem[:LONGEST], suffix[:SUFFIX]
        name, number = stem + suffix, 1
        while name.casefold() in taken:
            number += 1
            name = f'{stem}-{number}{suffix}'
        taken.add(name.casefold())
        names.append(name)
    return names


def _title(paths: Sequence[str], pid: int, camid: int) -> str:
    first = Path(paths if isinstance(paths, str) else paths[0])
    return f'person{pid}_camera{camid}_{first.parent.name[:50]}_{first.stem[:50]}'


def _write_folder(folder: Path, frames: Sequence[str], found: list[FoundFrames]) -> None:
    with write_errors(folder):
        if (folder / QUERY).is_dir():
            shutil.rmtree(folder)
        with whole_folder(folder) as temporary:
            _copy(frames, temporary / QUERY)
            for rank, (paths, is_match) in enumerate(found, 1):
                right = 'TRUE' if is_match else 'FALSE'
                _copy(paths, temporary / f'gallery_top{rank:03}_{right}')


def _copy(paths: Sequence[str], folder: Path) -> None:
    folder.mkdir()
    for path, name in zip(paths, distinct_names(list(map(os.path.basename, paths))), strict=True):
        try:
            source = open_regular(path)
        except OSError:  # it was also skipped in testing
            continue
        with source, open(folder / name, 'wb') as target:
            shutil.copyfileobj(source, target)


def _write_sheet(path: Path, image: str, found: list[FoundFrames], size: tuple[int, int]) -> None:
    width, height = size
    sheet = Image.new('RGB', ((width + SPACING) * (1 + len(found)), height), WHITE)
    shown = [(image, BLACK), *((str(other), GREEN if right else RED) for other, right in found)]
    for place, (other, colour) in enumerate(shown):
        picture = Image.fromarray(read_frame(other).permute(1, 2, 0).numpy())
        inner = picture.resize((width - 2 * BORDER, height - 2 * BORDER))
        sheet.paste(ImageOps.expand(inner, BORDER, colour), (place * (width + SPACING), 0))
    with whole_file(f'{path}.jpg') as file:
        sheet.save(file, 'JPEG')
