"""Find the nearest tracklets of queries of one or several tracklets: fused, re-ranked.

Several tracklets of a query are one person. Their distances to a tracklet are fused: 'mean' is the
mean of them, 'nearest' the smallest. Both are exact: the mean follows from the distance to the
mean vector (:func:`mean_distances`), and the nearest k are among the nearest k of each tracklet.

Letters: Q tracklets of a query, D numbers of a feature, N candidates.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from stmn_plugin.evaluation.distances import unit_vectors
from stmn_plugin.evaluation.thresholds import Thresholds

from .index import IndexedTracklet, Match, TrackletIndex, Where

FUSIONS = ('mean', 'nearest')


@dataclass(frozen=True)
class Query:
    """A person to search for.

    Attributes:
        name: of the answer.
        rows: the tracklets; the number of one that is not in the index is 0.
        features: (Q, D).
    """

    name: str
    rows: Sequence[IndexedTracklet]
    features: Tensor


@dataclass(frozen=True)
class Found:
    """A tracklet that was found.

    Attributes:
        rank: from 1.
        row: its record in the index.
        distance: fused.
        reranked: k-reciprocal distance, by which it was ranked; None without re-ranking.
        verdict: see ``Thresholds``; None where no threshold holds.
    """

    rank: int
    row: IndexedTracklet
    distance: float
    reranked: float | None = None
    verdict: str | None = None


@dataclass(frozen=True)
class SearchOptions:
    """How to search.

    Attributes:
        top: results of a query.
        where: which tracklets are compared.
        max_distance: of a result; None for any.
        fusion: one of FUSIONS.
        rerank: number of the nearest tracklets to re-rank; 0 for none.
    """

    top: int = 10
    where: Where = Where()
    max_distance: float | None = None
    fusion: str = 'mean'
    rerank: int = 0


def search(
    index: TrackletIndex,
    queries: Sequence[Query],
    options: SearchOptions,
    thresholds: Thresholds | None = None,
) -> list[list[Found]]:
    """Return the results of every query by rank, without the query's own tracklets.

    All queries are compared in one pass over the index.
    """
    count = max(options.top, options.rerank)
    own = [{row.number for row in query.rows if row.number} for query in queries]
    asked = [
        _comparable(index, query.features).mean(dim=0, keepdim=True).float()
        if options.fusion == 'mean'
        else query.features
        for query in queries
    ]
    if not asked:
        return []
    matches = iter(index.search(torch.cat(asked), count + max(map(len, own)), options.where))
    answers = []
    for query, vectors, numbers in zip(queries, asked, own, strict=True):
        found = _nearest([next(matches) for _ in vectors])
        if options.fusion == 'mean':
            found = [
                Match(row, distance)
                for (row, _), distance in zip(
                    found,
                    mean_distances(index, query.features, [match.distance for match in found]),
                    strict=True,
                )
            ]
        found = [match for match in found if match.row.number not in numbers]
        if options.max_distance is not None:
            found = [match for match in found if match.distance <= options.max_distance]
        answers.append(_ranked(index, query, found[:count], options, thresholds))
    return answers


def mean_distances(index: TrackletIndex, features: Tensor, found: Sequence[float]) -> list[float]:
    """Convert distances to the mean vector of a query (Q, D) to means of the Q distances.

    Of unit vectors q and g a distance is b - b q·g, b = 1 for the cosine and 2 for the squared
    Euclidean distance. The index brings the mean m to length 1, so its b - b (m/|m|)·g becomes the
    mean b - b m·g by |m|. Else the mean of the squared distances exceeds that to m by the spread
    of the q. Either way the order is that of the distances to m.
    """
    vectors = _comparable(index, features)
    mean = vectors.mean(dim=0)
    if len(vectors) == 1:
        return list(found)
    if index.model.has_unit_features:
        base, length = (1.0 if index.model.metric == 'cosine' else 2.0), float(mean.norm())
        return [base - length * (base - distance) for distance in found]
    spread = float((vectors - mean).square().sum(dim=1).mean())
    return [distance + spread for distance in found]


def _comparable(index: TrackletIndex, features: Tensor) -> Tensor:
    """Return features as the index compares them, in float64."""
    vectors = unit_vectors(features) if index.model.has_unit_features else features
    return vectors.double()


def _nearest(lists: Sequence[Sequence[Match]]) -> list[Match]:
    """Merge the matches of a query's tracklets: each row once, at its smallest distance."""
    nearest: dict[int, Match] = {}
    for match in (match for matches in lists for match in matches):
        known = nearest.get(match.row.number)
        if known is None or match.distance < known.distance:
            nearest[match.row.number] = match
    return sorted(nearest.values(), key=lambda match: (match.distance, match.row.number))


def _ranked(
    index: TrackletIndex,
    query: Query,
    found: Sequence[Match],
    options: SearchOptions,
    thresholds: Thresholds | None,
) -> list[Found]:
    reranked: list[float | None] = [None] * len(found)
    order = np.arange(len(found))
    if options.rerank and found:
        from stmn_plugin.evaluation.reranking import rerank  # imports scipy

        candidates = index.features([match.row.number for match in found])
        rows = torch.cat(list(rerank(query.features, candidates, index.model.metric)))  # (Q, N)
        fused = rows.mean(dim=0) if options.fusion == 'mean' else rows.amin(dim=0)
        order = np.argsort(fused.numpy(), kind='stable')
        reranked = fused.tolist()
    return [
        Found(
            rank,
            found[place].row,
            found[place].distance,
            reranked[place],
            thresholds.verdict(found[place].distance) if thresholds else None,
        )
        for rank, place in enumerate(order[: options.top].tolist(), 1)
    ]
