"""Move tracklets into a tree and its manifest once they are whole."""

import contextlib
import secrets
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

from filelock import FileLock

from stmn_plugin.errors import InputError
from stmn_plugin.whole_files import whole_folder, write_errors

from .manifest import ManifestEntry, read_manifest, write_manifest

LOCK = '.manifest.lock'


@contextlib.contextmanager
def staging_folder(tree: Path) -> Iterator[Path]:
    """Yield a hidden folder of the tree, removed at the end, or after a kill by the next call."""
    target = tree / f'.crops-{secrets.token_hex(4)}'
    with write_errors(tree):
        with whole_folder(target) as folder:
            yield folder
        shutil.rmtree(target)


def move_into_tree(
    tree: Path, key: tuple[str, str], entries: Sequence[ManifestEntry], folders: Sequence[Path]
) -> None:
    """Move the folders of crops to where the entries say, and write the manifest.

    Earlier tracklets of the same camera and source, ``key``, are removed.

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
        if len(known) > len(others):
            write_manifest(tree, others)
            for entry in known:
                if entry.video == key:
                    shutil.rmtree(tree / entry.tracklet, ignore_errors=True)
        for entry, crops in zip(entries, folders, strict=True):
            target = tree / entry.tracklet
            shutil.rmtree(target, ignore_errors=True)  # left by a process that was killed
            target.parent.mkdir(parents=True, exist_ok=True)
            crops.rename(target)
        write_manifest(tree, [*others, *entries])
