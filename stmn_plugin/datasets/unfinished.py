"""The mark of a tree whose command ended while it moved tracklets: some are missing, or stale."""

import os

from stmn_plugin.errors import InputError

UNLISTED = '.unlisted.jsonl'
"""Name of a file in the tree: a manifest of what the command may have left."""


def refuse_unfinished(tree: str) -> None:
    """Raise InputError for a tree with the mark."""
    path = os.path.join(tree, UNLISTED)
    if os.path.lexists(path):
        raise InputError(
            f'{path}: tools/make_tracklets.py did not finish in this tree; run it there again'
        )
