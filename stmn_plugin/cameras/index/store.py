"""Define the interface of a database for an index: rows and float16 vectors, no model."""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from .records import IndexedTracklet, Where

SCHEMA = 2
"""Version of the tables; another one is refused."""

Vectors = NDArray[np.float16]
"""(n, D), C-contiguous."""


class Store(Protocol):
    """Tables of one index.

    Every method is one transaction and raises InputError if the database rejects it; vectors are
    (n, D).
    """

    name: str
    """Name of the file or server, for messages."""

    def setting(self, name: str) -> str | None: ...

    def set_setting(self, name: str, value: str) -> None: ...

    def insert(self, rows: Sequence[IndexedTracklet], vectors: Vectors) -> int:
        """Add rows whose tree and tracklet are new, in their order, and return their number."""

    def known(self, tree: str, tracklets: Sequence[str] | None = None) -> dict[str, str]:
        """Return the revisions of a tree's indexed tracklets, of the given ones or all."""

    def rows(self, where: Where) -> list[IndexedTracklet]:
        """Return the tracklets that meet a condition, by number."""

    def vectors(self, numbers: Sequence[int], dim: int) -> dict[int, Vectors]:
        """Return the vectors (D,) of existing tracklets by number."""

    def nearest(
        self, queries: Vectors, top: int, where: Where, metric: str, approximate: bool
    ) -> list[list[tuple[IndexedTracklet, float]]]:
        """Find the nearest tracklets of every query (Q, D) by distance, then by number.

        Args:
            queries: (Q, D).
            top: number of tracklets per query.
            where: condition that tracklets must meet.
            metric: 'cosine', of vectors that have length 1, or 'euclidean', squared.
            approximate: use approximate search, if the store has it.
        """

    def make_hnsw(self, metric: str) -> None:
        """Build the structures of approximate search."""

    def delete(self, where: Where) -> int:
        """Remove rows with the bytes of their vectors; return how many."""

    def finish_deletions(self) -> None:
        """Do what a process that was killed in :meth:`delete` has left."""

    def count(self) -> int: ...

    def claim(
        self, rows: Sequence[IndexedTracklet], limit: int
    ) -> AbstractContextManager[list[IndexedTracklet]]:
        """Claim at most ``limit`` of the rows in the block: other processes do not embed them.

        None of them is in the index or another process's; a process that dies leaves its own to
        the others.
        """

    def close(self) -> None: ...
