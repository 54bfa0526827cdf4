"""Draw the film strips and compute the attention that the page of a search shows."""

import datetime
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from stmn_plugin.data.frame_samplers import ClipPlan
from stmn_plugin.errors import InputError
from stmn_plugin.evaluation.embedder import Embedder
from stmn_plugin.looking.explained_clips import attention_of
from stmn_plugin.looking.report.film_strips import StripSize, film_strip
from stmn_plugin.looking.report.search_page import ShownAnswer, ShownTracklet

from .answers import UTC, Answer
from .index import IndexedTracklet, ModelKey
from .index.embedding import crops_of


class Pictures(NamedTuple):
    """The contents of the page of answers."""

    answers: list[ShownAnswer]
    strips: list[bytes]
    size: StripSize


def draw_answers(
    answers: Sequence[Answer],
    model: ModelKey,
    height: int,
    zone: datetime.tzinfo | None = UTC,
    embedder: Embedder | None = None,
) -> Pictures:
    """Draw film strips of all tracklets, each once, with the attention of a model if it is given.

    A tracklet with missing or damaged crops has no strip.

    Args:
        answers: of a search.
        model: of the index.
        height: of a frame in a strip, pixels.
        zone: in which times are shown.
        embedder: of the model.

    Raises:
        InputError: the clips of the model are too long for a strip.
    """
    size = StripSize.like(model.height, model.width, model.seq_len, height)
    plan = ClipPlan(model.seq_len, 'rrs', 1, model.rrs_chunks)
    rows = list(
        dict.fromkeys(
            row for query, found in answers for row in (*query.rows, *(one.row for one in found))
        )
    )
    clips: list[tuple[list[str], NDArray[np.int64], bytes] | None]
    with ThreadPoolExecutor() as pool:
        clips = list(pool.map(lambda row: _drawn(row, plan, size), rows))
    drawn = [row for row, clip in zip(rows, clips, strict=True) if clip]
    pictures = {row: place for place, row in enumerate(drawn)}
    chosen = {row: clip[1] for row, clip in zip(rows, clips, strict=True) if clip}
    attention: dict[IndexedTracklet, list[float]] = {}
    if embedder is not None and drawn:
        shares = attention_of(embedder, [clip[0] for clip in clips if clip], plan)
        if shares is not None:
            attention = dict(zip(drawn, shares.tolist(), strict=True))

    def shown(row: IndexedTracklet, **values: Any) -> ShownTracklet:
        return ShownTracklet(
            row.tracklet,
            row.camera,
            row.person,
            row.source,
            row.track,
            row.start and row.start.astimezone(zone),
            row.end and row.end.astimezone(zone),
            row.num_frames,
            frames=(chosen[row] + 1).tolist() if row in chosen else (),
            strip=pictures.get(row),
            attention=attention.get(row),
            **values,
        )

    return Pictures(
        [
            ShownAnswer(
                query.name,
                [shown(row) for row in query.rows],
                [
                    shown(
                        one.row,
                        rank=one.rank,
                        distance=one.distance,
                        reranked=one.reranked,
                        verdict=one.verdict,
                    )
                    for one in found
                ],
            )
            for query, found in answers
        ],
        [clip[2] for clip in clips if clip],
        size,
    )


def _drawn(
    row: IndexedTracklet, plan: ClipPlan, size: StripSize
) -> tuple[list[str], NDArray[np.int64], bytes] | None:
    """Read the crops, choose some and draw their strip; None if they cannot be read."""
    try:
        paths = crops_of(row)
        chosen = plan.clip(len(paths), 0)
        return paths, chosen, film_strip(paths, chosen, size)
    except InputError:
        return None
