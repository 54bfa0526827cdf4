"""Fig. 8: what is found, with the features before and after a refinement where there is one."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from stmn_plugin.evaluation.features import TrackletFeatures
from stmn_plugin.evaluation.protocols import apply_protocol, distances_in_rows
from stmn_plugin.evaluation.ranked_lists import RankedLists, rank_and_list
from stmn_plugin.evaluation.ranking import summarize
from stmn_plugin.evaluation.settings import TestOptions

from ..explained_run import ExplainedRun
from ..figure_parts import CaptionedFigure, Options, models_and_data, thumbnail_of, tracklet_title
from .sheet import BLACK, BLUE, LINE, MARGIN, PAGE, VERMILLION, Sheet

GAP = 0.06
LABEL = 0.3
TOP_FOUND = 10
RIGHT, WRONG = '✓', '✗'


class Found(NamedTuple):
    picture: NDArray[np.uint8]  # (h, w, 3)
    right: bool  # the query's person


class Search(NamedTuple):
    title: str
    picture: NDArray[np.uint8]  # (h, w, 3), of the query
    lists: list[tuple[str, list[Found]]]  # by which features, and the nearest first


def draw(searches: Sequence[Search], caption: str) -> Figure:
    """Each query and its lists below each other."""
    length = max(len(found) for search in searches for _, found in search.lists)
    width = (PAGE - 2 * MARGIN - LABEL - 0.15) / (max(length, 8) + 1) - GAP
    height = 2 * width
    line = height + LINE + GAP
    steps = [LINE + len(search.lists) * line + 0.08 for search in searches]
    sheet = Sheet(PAGE, sum(steps) + MARGIN, caption)
    top = MARGIN
    for search, step in zip(searches, steps, strict=True):
        sheet.text(MARGIN, top, search.title, va='top')
        middle = top + LINE + (len(search.lists) * line - height - LINE) / 2
        sheet.picture(MARGIN, middle, width, height, search.picture, BLACK, 1.2)
        sheet.text(MARGIN + width / 2, middle + height + 0.03, 'query', va='top', ha='center')
        for row, (name, found) in enumerate(search.lists):
            y = top + LINE + 0.03 + row * line
            left = MARGIN + width + 0.15
            sheet.text(left, y + height / 2, name, va='center')
            for place, one in enumerate(found):
                x = left + LABEL + place * (width + GAP)
                colour = BLUE if one.right else VERMILLION
                sheet.picture(x, y, width, height, one.picture, colour, 1.6)
                sheet.text(
                    x + width / 2,
                    y + height + 0.015,
                    RIGHT if one.right else WRONG,
                    va='top',
                    ha='center',
                    color=colour,
                    weight='bold',
                )
        top += step
    return sheet.figure


def figure_8(run: ExplainedRun, against: ExplainedRun | None, options: Options) -> CaptionedFigure:
    """Retrieval with the averages of fᵒ and of fˢ, or with the features of the model."""
    protocol, metric = run.run.protocol, run.cfg.test.dist_metric
    rows = run.tracklets.gallery  # of all tracklets, as searched
    if protocol.queries_searched and run.run.gallery_needs_queries(run.target):
        rows = np.concatenate([rows, run.tracklets.query])
    selected = run.selection.queries
    lists: dict[int, list[tuple[str, list[Found]]]] = {row: [] for row in selected}
    scores = []
    for name, query, gallery in _features(run):
        ranked, score = _search(run, query, gallery)
        scores.append(f'{score:.1%} with {name}' if name else f'{score:.1%}')
        for row in selected:
            place = run.tracklets.query.tolist().index(row)
            found = [
                Found(thumbnail_of(run, rows[index], 0), is_match)
                for index, is_match, distance in zip(
                    ranked.indices[place],
                    ranked.is_match[place],
                    ranked.distances[place],
                    strict=True,
                )
                if np.isfinite(distance)  # a small gallery has no more that count
            ]
            lists[row].append((name, found))
    searches = [
        Search(tracklet_title(run, row), thumbnail_of(run, row, 0), lists[row]) for row in selected
    ]
    features = (
        'features before (fᵒ) and after (fˢ) the refinement, both averaged over positions and '
        'frames'
        if _is_refined(run)
        else 'features of the model'
    )
    caption = (
        f'Figure 8. The {TOP_FOUND} nearest tracklets by the {features}, first frames shown: blue '
        "and ✓ the query's person, orange and ✗ somebody else. Protocol "
        f'{run.cfg.test.protocol}, distance {metric}, queries {run.selection.how}. '
        f'Over all queries mAP {", ".join(scores)}. {models_and_data(run)}'
    )
    return CaptionedFigure(draw(searches, caption), caption)


def _is_refined(run: ExplainedRun) -> bool:
    return run.explains >= {'frame_feature', 'refined_feature'}


def _features(run: ExplainedRun) -> Iterator[tuple[str, TrackletFeatures, TrackletFeatures]]:
    """What is searched by: a name, features of the queries, features of the gallery."""
    if not _is_refined(run):
        yield '', *run.run.features(run.target)
        return
    for name, kind in (('fᵒ', 'frame_feature'), ('fˢ', 'refined_feature')):
        yield name, *run.features(kind)


def _search(
    run: ExplainedRun, query: TrackletFeatures, gallery: TrackletFeatures
) -> tuple[RankedLists, float]:
    """The nearest tracklets of every query, and the mAP."""
    protocol = run.run.protocol
    if run.cfg.test.normalize_feature:
        query, gallery = query.normalized(), gallery.normalized()
    needs_queries = run.run.gallery_needs_queries(run.target)
    searched = apply_protocol(query, gallery, protocol, needs_queries)
    distances = distances_in_rows(
        query, searched, TestOptions(dist_metric=run.cfg.test.dist_metric)
    )
    ranked = rank_and_list(distances, query, searched, TOP_FOUND, protocol.average_precision)
    return ranked, summarize(ranked.scores, len(searched.pids), protocol.unmatched).mean_ap
