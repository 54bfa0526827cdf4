"""Add, search, list and delete features of tracklets: one API for any store."""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

import numpy as np

from stmn_plugin.errors import InputError
from stmn_plugin.extras import require
from stmn_plugin.numerals import is_digits

from .model_key import ModelKey
from .records import EVERYTHING, IndexedTracklet, Match, Where
from .sqlite_store import SqliteStore
from .store import SCHEMA, Store, Vectors

if TYPE_CHECKING:  # torch is slow to import, and listing and deleting need none
    from torch import Tensor

SERVERS = ('postgresql://', 'postgres://')


class TrackletIndex:
    """Features of tracklets, all of one model, and the records of these tracklets.

    Features are stored as float16, with length 1 if the distance does not depend on it. Queries
    are rounded in the same way. An object belongs to one thread.

    Attributes:
        model: everything that the features depend on.
        name: of the file or server, without a password, for messages.
    """

    def __init__(self, store: Store, model: ModelKey):
        self._store = store
        self.model = model
        self.name = store.name
        self._metric = 'cosine' if model.has_unit_features else 'euclidean'

    @classmethod
    def open(cls, url: str | Path, model: ModelKey | None = None) -> 'TrackletIndex':
        """Open an index, or make it.

        Args:
            url: a file, or ``postgresql://USER@HOST/DATABASE``.
            model: the model of the features; without it the index must exist.

        Raises:
            InputError: the index is missing, damaged, of another program or version, or of another
                model; the server cannot be reached.
        """
        settings = {'schema': str(SCHEMA), 'model': model.as_text()} if model else None
        store: Store
        if str(url).startswith(SERVERS):
            require('psycopg', 'pgvector')
            from .postgres_store import PostgresStore

            store = PostgresStore(str(url), settings, model.dim if model else 0)
        else:
            store = SqliteStore(Path(url).expanduser(), settings)
        try:
            index = cls(store, _agreed_model(store, model))
            store.finish_deletions()
            return index
        except BaseException:
            store.close()
            raise

    def add(self, rows: Sequence[IndexedTracklet], features: 'Tensor') -> int:
        """Add tracklets in one transaction; those of the same tree and folder stay as they are.

        Args:
            rows: N of them; their numbers are ignored.
            features: of the model, (N, D) of any float type.

        Returns:
            How many were added.

        Raises:
            InputError: features exceed float16, or the database rejects the rows.
        """
        vectors = self._vectors(features)
        if len(rows) != len(vectors):
            raise ValueError(f'{len(rows)} rows and {len(vectors)} features')
        return self._store.insert(rows, vectors)

    def search(
        self,
        queries: 'Tensor',
        top: int = 10,
        where: Where = EVERYTHING,
        approximate: bool = False,
    ) -> list[list[Match]]:
        """Find the nearest tracklets of every query among all that meet the condition.

        Args:
            queries: features of the model, (Q, D).
            top: matches of a query, at least 1; fewer if there are not so many.
            where: which tracklets are compared.
            approximate: of a server, by the HNSW index of :meth:`make_hnsw`.

        Returns:
            For each query by ascending distance, then by number.

        Raises:
            InputError: queries exceed float16, or there is no approximate search.
        """
        if top < 1:
            raise ValueError(f'top must be at least 1, got {top}')
        vectors = self._vectors(queries)
        if not len(vectors):
            return []
        found = self._store.nearest(vectors, top, where, self._metric, approximate)
        # |a - b|^2 = 2 (1 - ab) of vectors with length 1
        factor = 2 if self._metric != self.model.metric else 1
        return [[Match(row, factor * distance) for row, distance in one] for one in found]

    def make_hnsw(self) -> None:
        """Make the HNSW index of a server; rows that are added later are included."""
        self._store.make_hnsw(self._metric)

    def rows(self, where: Where = EVERYTHING) -> list[IndexedTracklet]:
        """Return the records of tracklets by number."""
        return self._store.rows(where)

    def features(self, numbers: Sequence[int]) -> 'Tensor':
        """Return the features of tracklets in the order of the numbers, float32 (N, D).

        Raises:
            InputError: a number that is not in the index, or its vector is damaged.
        """
        import torch

        if not numbers:
            return torch.empty(0, self.model.dim)
        found = self._store.vectors(numbers, self.model.dim)
        missing = [number for number in numbers if number not in found]
        if missing:
            raise InputError(f'{self._store.name}: no tracklet {missing[0]}')
        return torch.from_numpy(np.stack([found[number] for number in numbers])).float()

    def delete(self, where: Where = EVERYTHING, everything: bool = False) -> int:
        """Remove tracklets; how many. Their files stay.

        When this returns, the vectors are in no file of an SQLite index any more. A server may keep
        them in its log and its backups, see docs/cameras-index.md.

        Args:
            where: which tracklets.
            everything: allow a condition that every tracklet meets, such as ``Where(persons=[])``.

        Raises:
            ValueError: such a condition, and ``everything`` is false.
        """
        if where.selects_all and not everything:
            raise ValueError('the condition is empty: delete(everything=True) empties the index')
        return self._store.delete(where)

    def known(self, tree: str, tracklets: Sequence[str] | None = None) -> dict[str, str]:
        """Folder → revision of a tree's tracklets that are in the index; of some, or of all."""
        return self._store.known(tree, tracklets)

    def claim(
        self, rows: Sequence[IndexedTracklet], limit: int
    ) -> AbstractContextManager[list[IndexedTracklet]]:
        """Claim at most ``limit`` of the rows in the block: other processes do not embed them.

        None of them is in the index yet, or another process's. A process that dies leaves its own
        to the others.
        """
        return self._store.claim(rows, limit)

    def note(self, name: str) -> str | None:
        """Return a text that is stored with the index."""
        return self._store.setting(f'note:{name}')

    def set_note(self, name: str, text: str) -> None:
        """Keep a text with the index."""
        self._store.set_setting(f'note:{name}', text)

    def __len__(self) -> int:
        return self._store.count()

    def close(self) -> None:
        self._store.close()

    def __enter__(self) -> 'TrackletIndex':
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _vectors(self, features: 'Tensor') -> Vectors:
        from stmn_plugin.evaluation.distances import unit_vectors

        if features.dim() != 2 or features.shape[1] != self.model.dim:
            raise ValueError(
                f'expected features of shape (N, {self.model.dim}), got {tuple(features.shape)}'
            )
        vectors = features.detach().cpu()
        if self.model.has_unit_features:
            vectors = unit_vectors(vectors)
        vectors = vectors.half().contiguous()
        if not vectors.isfinite().all():
            raise InputError('features are NaN, infinite or above 65,504, the largest of float16')
        array: Vectors = vectors.numpy()
        return array


def _agreed_model(store: Store, model: ModelKey | None) -> ModelKey:
    """Return the model of an index, or ``model`` if it is given."""
    schema = store.setting('schema')
    if schema is None or not is_digits(schema):
        raise InputError(f'{store.name} is not an index of this program')
    if int(schema) != SCHEMA:
        age = 'a newer' if int(schema) > SCHEMA else 'an older'
        raise InputError(
            f'{store.name} was made by {age} version of this program: its tables are of version '
            f'{schema}, this one knows {SCHEMA}'
        )
    try:
        made_with = ModelKey.from_text(store.setting('model') or '')
    except (ValueError, TypeError) as error:
        raise InputError(
            f'{store.name} is damaged: its model is not a valid JSON object'
        ) from error
    if model is not None and model != made_with:
        raise InputError(
            f'{store.name} was made with another model, whose features cannot be compared: '
            f'{made_with.differences(model)}'
        )
    return made_with
