"""Move tracklets into a tree and its manifest once they are whole."""

import contextlib
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

from filelock import FileLock

from stmn_plugin.datasets.unfinished import UNLISTED
from stmn_plugin.errors import InputError
from stmn_plugin.whole_files import temporary_folder, write_errors

from .manifest import ManifestEntry, read_manifest, write_manifest

LOCK = '.manifest.lock'


@contextlib.contextmanager
def staging_folder(tree: Path) -> Iterator[Path]:
    """Yield a hidden folder of the tree, removed at the end, or after a kill by the next call."""
    with write_errors(tree), temporary_folder(tree / 'crops') as folder:
        yield folder


def move_into_tree(
    tree: Path, key: tuple[str, str], entries: Sequence[ManifestEntry], folders: Sequence[Path]
) -> None:
    """Move the folders of crops to where the entries say, and write the manifest.

    Earlier tracklets of the same camera and source, ``key``, are removed. Of a folder that is a
    link the link is removed, not what it points to.

    Raises:
        InputError: a folder belongs to another video.
    """
    with FileLock(tree / LOCK):
        known = read_manifest(tree)
        others = [entry for entry in known if entry.video != key]
        taken = {entry.tracklet: entry for entry in others}
        for entry in entries:
            if entry.tracklet in taken:
                raise InputError(
                    f'{tree / entry.tracklet}: belongs to {taken[entry.tracklet].source}; '
                    f'rename {entry.source}'
                )
        candidates = [*read_manifest(tree, UNLISTED), *known, *entries]
        unlisted = {one.tracklet: one for one in candidates if one.tracklet not in taken}
        write_manifest(tree, unlisted.values(), UNLISTED)
        write_manifest(tree, others)
        for tracklet in unlisted:
            _remove(tree / tracklet)
        for entry, crops in zip(entries, folders, strict=True):
            target = tree / entry.tracklet
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.move(crops, target)  # a folder above may be a link to another disk
        write_manifest(tree, [*others, *entries])
        (tree / UNLISTED).unlink()


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
