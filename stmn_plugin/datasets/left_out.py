"""Find files in listed folders that no tracklet uses, counted by kind and named."""

import os.path as osp
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

from stmn_plugin.data.tracklets import Tracklet
from stmn_plugin.errors import printable
from stmn_plugin.labels import natural_key

SHOWN = 3  # names in a line


def find_left_out(
    listings: Mapping[str, Iterable[tuple[str, bool]]],
    lists: Iterable[Sequence[Tracklet]],
    sources: Iterable[str],
) -> dict[str, list[str]]:
    """Find the files and folders that are not used.

    Args:
        listings: folder → its entries as (name, is it a folder); hidden ones are not in it.
        lists: lists of the host's 4-tuples.
        sources: files and folders that were read.

    Returns:
        Kind, '.txt' for example, 'folder' or 'no suffix' → paths in natural order.
    """
    used = {path for tracklets in lists for paths, *_ in tracklets for path in paths}
    used.update(sources)
    found: dict[str, list[str]] = defaultdict(list)
    for folder, entries in listings.items():
        prefix = osp.join(folder, '')
        for name, is_dir in entries:
            if prefix + name not in used:
                kind = 'folder' if is_dir else osp.splitext(name)[1].lower() or 'no suffix'
                found[kind].append(prefix + name)
    return {kind: sorted(paths, key=natural_key) for kind, paths in sorted(found.items())}


def left_out_line(base: str, found: Mapping[str, Sequence[str]]) -> str:
    """Format :func:`find_left_out` in a line, paths relative to ``base``; '' if empty."""
    paths = sorted((path for some in found.values() for path in some), key=natural_key)
    if not paths:
        return ''
    most = sorted(found.items(), key=lambda item: -len(item[1]))
    counts = ', '.join(f'{len(some):,} {kind}' for kind, some in most[: 2 * SHOWN])
    names = [osp.relpath(path, base) for path in paths[:SHOWN]]
    return printable(
        f'left out, in no tracklet: {counts}{", ..." * (len(most) > 2 * SHOWN)} '
        f'({", ".join(names)}{", ..." * (len(paths) > SHOWN)})'
    )
