"""Listed folders and the frames used of them → what is left out, counted by kind and named."""

import os.path as osp
from collections import defaultdict

from stmn_plugin.errors import printable
from stmn_plugin.labels import natural_key

SHOWN = 3  # names in a line


def find_left_out(listings, lists, sources):
    """What lies beside the frames and folders that were used.

    Args:
        listings (dict): folder → its entries as (name, is it a folder); hidden ones are not in it.
        lists (iterable): lists of the host's 4-tuples.
        sources (iterable): files and folders that were read.

    Returns:
        dict: kind, '.txt' for example, 'folder' or 'no suffix' → paths in natural order.
    """
    used = {path for tracklets in lists for paths, *_ in tracklets for path in paths}
    used.update(sources)
    found = defaultdict(list)
    for folder, entries in listings.items():
        prefix = osp.join(folder, '')
        for name, is_dir in entries:
            if prefix + name not in used:
                kind = 'folder' if is_dir else osp.splitext(name)[1].lower() or 'no suffix'
                found[kind].append(prefix + name)
    return {kind: sorted(paths, key=natural_key) for kind, paths in sorted(found.items())}


def left_out_line(base, found):
    """The result of :func:`find_left_out` in a line, paths relative to ``base``; '' if empty."""
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
