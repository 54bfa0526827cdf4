"""Split training tracklets into a training and a validation part (Sec. 4.1)."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from stmn_plugin.errors import InputError
from stmn_plugin.labels import relabel

from .tracklets import Tracklet

NUM_QUERIES = 200  # as in the paper's validation part of MARS: 125 identities, 1,223 tracklets


def validation_name(sources: Iterable[str]) -> str:
    """Return the name of the validation part of these datasets as a target."""
    return f'{"+".join(sources)}-validation'


class ValidationSplit(NamedTuple):
    """Lists of the host's 4-tuples; no identity is in ``train`` and in the other two."""

    train: list[Tracklet]  # pids are renumbered from 0
    query: list[Tracklet]
    gallery: list[Tracklet]  # all held-out tracklets, including the queries


def hold_out(
    tracklets: Sequence[Tracklet],
    validation_ids: float,
    seed: int = 0,
    num_queries: int = NUM_QUERIES,
) -> ValidationSplit:
    """Draw identities to validate on, and queries among their tracklets.

    Queries are drawn from the tracklets of persons seen by several cameras; if there are fewer than
    ``num_queries``, all are used. Queries stay in the gallery, as in the official protocol of MARS;
    a query's own ranking excludes its camera and thus itself.

    Args:
        tracklets: training tracklets (img_paths, pid, camid, dsetid).
        validation_ids: share of the identities (below 1) or their number.
        seed: seed of the draw.
        num_queries: maximum number of queries.

    Raises:
        InputError: no identity remains to train on, or no held-out person is seen by two cameras.
    """
    pids = sorted({pid for _, pid, _, _ in tracklets})
    share = validation_ids < 1
    count = max(1, round(validation_ids * len(pids))) if share else int(validation_ids)
    if count >= len(pids):
        raise InputError(
            f'data.validation_ids {validation_ids:g} holds out {count} of {len(pids)} training '
            'identities: none is left to train on'
        )
    rng = np.random.default_rng(seed)
    held_out = {pids[i] for i in rng.permutation(len(pids))[:count]}
    gallery = [tracklet for tracklet in tracklets if tracklet[1] in held_out]
    cameras: dict[int, set[int]] = {}  # pid → those that saw it
    for _, pid, camid, _ in gallery:
        cameras.setdefault(pid, set()).add(camid)
    query = [tracklet for tracklet in gallery if len(cameras[tracklet[1]]) > 1]
    if not query:
        raise InputError(
            f'data.validation_ids {validation_ids:g}: none of the {count} held-out identities is '
            'seen by two cameras; hold out more, or set another data.validation_seed'
        )
    chosen = np.sort(rng.permutation(len(query))[:num_queries])
    return ValidationSplit(
        train=relabel([tracklet for tracklet in tracklets if tracklet[1] not in held_out]),
        query=[query[i] for i in chosen],
        gallery=gallery,
    )
