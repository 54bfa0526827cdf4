"""Convert a model's own scores of pairs, ``VideoModel.score_pairs``, to rows of distances.

Scores are of pairs of tracklets, or of pairs of clips that ``VideoModel.join_scores`` combines.
They are not distances of vectors, so functions that need such distances reject them. A model may
also order only the nearest of each query anew, by ``VideoModel.rescore``.
"""

from collections.abc import Callable, Iterable, Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stmn_plugin.errors import InputError

from .features import TrackletClips

PAIRS_LIMIT = 1 << 26  # bytes of the features of pairs scored together
QUERIES_AT_ONCE = 64  # queries per copy of the gallery's clips to the device

Rescore = Callable[[Tensor, Tensor], Tensor]
ScorePairs = Callable[[Tensor, Tensor], Tensor]
JoinScores = Callable[[Tensor], Tensor]


@torch.no_grad()
def scored_rows(
    query: Tensor,
    gallery: Tensor,
    score_pairs: ScorePairs,
    device: str | torch.device = 'cpu',
    limit: int = PAIRS_LIMIT,
) -> Iterator[Tensor]:
    """Yield negative scores in chunks of queries; pairs are scored in chunks of both.

    Args:
        query: (Q, D).
        gallery: (G, D).
        score_pairs: (q, D), (g, D) on the device → (q, g), larger is more similar.
        device: of the model.
        limit: bytes of the q * g pairs of D numbers scored together.

    Yields:
        (q, G) on the CPU.
    """
    pairs = max(limit // (query.element_size() * query.shape[1]), 1)
    width = max(min(len(gallery), int(pairs**0.5)), 1)
    for queries in query.split(max(pairs // width, 1)):
        queries = queries.to(device)
        parts = [
            score_pairs(queries, some.to(device)).float().cpu() for some in gallery.split(width)
        ]
        yield -torch.cat(parts, dim=1)


@torch.no_grad()
def joined_rows(
    query: TrackletClips,
    gallery: TrackletClips,
    score_pairs: ScorePairs,
    join_scores: JoinScores,
    device: str | torch.device = 'cpu',
    limit: int = PAIRS_LIMIT,
) -> Iterator[Tensor]:
    """Yield negative scores of tracklets whose clips are compared, in chunks of queries.

    Tracklets with the same number of clips are scored together, without padding. Memory is
    bounded, except for the scores of the clips of the two longest tracklets.

    Args:
        query: compared vectors of the clips of Q tracklets.
        gallery: compared vectors of the clips of G tracklets.
        score_pairs: (n, D), (m, D) of clips on the device → (n, m), larger is more similar.
        join_scores: scores of clips (q, g, n, m) → of tracklets (q, g), larger is more similar.
        device: of the model.
        limit: bytes of the n * m pairs of D numbers scored together.

    Yields:
        (q, G) on the CPU.
    """
    pairs = max(limit // (query.features.element_size() * query.features.shape[1]), 1)
    side = max(int(pairs**0.5), 1)  # clips
    for start in range(0, len(query.counts), QUERIES_AT_ONCE):
        some = np.arange(start, min(start + QUERIES_AT_ONCE, len(query.counts)))
        rows = torch.empty(len(some), len(gallery.counts))
        for columns, theirs in _alike(gallery, np.arange(len(gallery.counts)), side):
            theirs = theirs.to(device)
            for queries, ours in _alike(query, some, side):
                scores = _score_clips(ours.to(device), theirs, score_pairs, side)
                q, g = len(queries), len(columns)
                by_tracklet = scores.view(q, len(ours) // q, g, len(theirs) // g).transpose(1, 2)
                places = torch.from_numpy(queries - start)[:, None], torch.from_numpy(columns)
                rows[places] = join_scores(by_tracklet).float().cpu()
        yield -rows


@torch.no_grad()
def rescored_rows(
    rows: Iterable[Tensor],
    query: Tensor,
    gallery: Tensor,
    rescore: Rescore,
    count: int,
    device: str | torch.device = 'cpu',
) -> Iterator[Tensor]:
    """Yield rows in which the nearest of each query have exchanged their distances.

    They are ordered by distance plus ``rescore`` and get their own distances in ascending order, so
    that all others stay behind them.

    Args:
        rows: distances in chunks of queries, (q, G).
        query: vectors that are compared, (Q, D).
        gallery: the same of the gallery, (G, D).
        rescore: (P, D), (P, D) on the device → (P,).
        count: of the nearest of each query.
        device: of the model.

    Yields:
        (q, G) on the CPU.
    """
    start = 0
    for chunk in rows:
        chunk = chunk.cpu().clone()
        nearest, places = chunk.topk(min(count, chunk.shape[1]), dim=1, largest=False)  # (q, N)
        for one, own, row, theirs in zip(
            chunk, query[start : start + len(chunk)], nearest, places, strict=True
        ):
            pairs = own.expand(len(theirs), -1).to(device), gallery[theirs].to(device)
            order = (row + rescore(*pairs).float().cpu()).argsort(stable=True)
            one[theirs[order]] = row
        start += len(chunk)
        yield chunk


def _alike(
    clips: TrackletClips, numbers: NDArray[np.int64], most: int
) -> Iterator[tuple[NDArray[np.int64], Tensor]]:
    """Yield tracklets with equal numbers of clips: their indices (g,) and clips (g * m, D).

    Args:
        clips: clips of all tracklets.
        numbers: indices of the tracklets to use.
        most: maximum number of clips together, at least those of one tracklet.
    """
    first, counts = np.cumsum(clips.counts) - clips.counts, clips.counts[numbers]
    for count in np.unique(counts):
        alike, step = numbers[counts == count], max(most // int(count), 1)
        for start in range(0, len(alike), step):
            part = alike[start : start + step]
            rows = (first[part, None] + np.arange(count)).ravel()
            yield part, clips.features[torch.from_numpy(rows)]


def _score_clips(query: Tensor, gallery: Tensor, score_pairs: ScorePairs, side: int) -> Tensor:
    """Score clips (n, D), (m, D) → (n, m), in squares of ``side`` clips."""
    return torch.cat(
        [
            torch.cat([score_pairs(ours, theirs) for theirs in gallery.split(side)], dim=1)
            for ours in query.split(side)
        ]
    )


def refuse_pair_scores(model: object, what: str) -> None:
    """Raise InputError for a function that needs distances of vectors if a model scores pairs.

    Args:
        model: any model.
        what: key or name for the message.
    """
    if getattr(model, 'score_pairs', None) is not None:
        raise InputError(
            f'{what}: {type(model).__name__} scores pairs of tracklets itself, there is no '
            'distance of vectors'
        )
