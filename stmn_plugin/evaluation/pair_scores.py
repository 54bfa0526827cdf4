"""A model's own score of pairs of tracklets, ``VideoModel.score_pairs`` → rows of distances.

Such a score is no distance of two vectors, so what works on distances of vectors refuses it.
"""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from stmn_plugin.errors import InputError

PAIRS_LIMIT = 1 << 26  # bytes of the features of the pairs that are scored at a time

ScorePairs = Callable[[Tensor, Tensor], Tensor]


@torch.no_grad()
def scored_rows(
    query: Tensor,
    gallery: Tensor,
    score_pairs: ScorePairs,
    device: str | torch.device = 'cpu',
    limit: int = PAIRS_LIMIT,
) -> Iterator[Tensor]:
    """Rows of negative scores in chunks of queries; pairs are scored in chunks of both.

    Args:
        query: (Q, D).
        gallery: (G, D).
        score_pairs: (q, D), (g, D) on the device → (q, g), larger is nearer.
        device: of the model.
        limit: bytes of the q * g pairs of D numbers that are scored at a time.

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


def refuse_pair_scores(model: object, what: str) -> None:
    """InputError, if a model scores pairs itself, for what needs distances of vectors.

    Args:
        model: any.
        what: key or name for the message.
    """
    if getattr(model, 'score_pairs', None) is not None:
        raise InputError(
            f'{what}: {type(model).__name__} scores pairs of tracklets itself, there is no '
            'distance of vectors'
        )
