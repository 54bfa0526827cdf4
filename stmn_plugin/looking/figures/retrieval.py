"""Fig. 8: retrieved tracklets, with the features before and after a refinement if there is one."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import Tensor

from stmn_plugin.evaluation.evaluator import Evaluator, Searched
from stmn_plugin.evaluation.protocols import apply_protocol, distances_in_rows
from stmn_plugin.evaluation.ranked_lists import rank_and_list
from stmn_plugin.evaluation.ranking import summarize

from ..explained_run import ExplainedRun
from ..figure_parts import CaptionedFigure, Options, models_and_data, thumbnail_of, tracklet_title
from .sheet import BLACK, BLUE, LINE, MARGIN, PAGE, VERMILION, Sheet

GAP = 0.06
LABEL = 0.3
TOP_FOUND = 10
REFINED = {'frame_feature', 'refined_feature'}
RIGHT, WRONG = '✓', '✗'


class FoundTracklet(NamedTuple):
    """A retrieved tracklet."""

    picture: NDArray[np.uint8]  # (h, w, 3)
    right: bool  # the query's person


class Search(NamedTuple):
    """A query and its ranked lists."""

    title: str
    picture: NDArray[np.uint8]  # (h, w, 3), of the query
    lists: list[tuple[str, list[FoundTracklet]]]  # features → tracklets, the nearest first


def draw(searches: Sequence[Search], caption: str) -> Figure:
    """Draw each query with its lists below each other."""
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
                colour = BLUE if one.right else VERMILION
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
    """Show retrieval with the averages of fᵒ and of fˢ, or with the features of the model."""
    evaluator = run.opened.evaluator()
    target = run.opened.targets[run.target]
    rows = run.tracklets.gallery  # of all tracklets, as searched
    if evaluator.protocol.queries_searched and target.gallery_needs_queries:
        rows = np.concatenate([rows, run.tracklets.query])
    selected = run.selection.queries
    lists: dict[int, list[tuple[str, list[FoundTracklet]]]] = {row: [] for row in selected}
    scores = []
    for name, searched, distances in _searches(run, evaluator):
        precision = evaluator.protocol.average_precision
        ranked = rank_and_list(distances, *searched, TOP_FOUND, precision)
        size, unmatched = len(searched.gallery.pids), evaluator.protocol.unmatched
        score = summarize(ranked.scores, size, unmatched).mean_ap
        scores.append(f'{score:.1%} with {name}' if name else f'{score:.1%}')
        for row in selected:
            place = run.tracklets.query.tolist().index(row)
            found = [
                FoundTracklet(thumbnail_of(run, rows[index], 0), is_match)
                for index, is_match, distance in zip(
                    ranked.indices[place],
                    ranked.is_match[place],
                    ranked.distances[place],
                    strict=True,
                )
                if np.isfinite(distance)  # a small gallery has fewer that count
            ]
            lists[row].append((name, found))
    searches = [
        Search(tracklet_title(run, row), thumbnail_of(run, row, 0), lists[row]) for row in selected
    ]
    refined = run.explains >= REFINED  # then vectors are compared, not pair scores
    metric = evaluator.options.dist_metric if refined else evaluator.dist_metric
    features = (
        'features before (fᵒ) and after (fˢ) the refinement, both averaged over positions and '
        'frames'
        if refined
        else 'features of the model'
    )
    caption = (
        f'Figure 8. The {TOP_FOUND} nearest tracklets by the {features}, first frames shown: blue '
        "and ✓ the query's person, orange and ✗ another person. Protocol "
        f'{evaluator.settings.protocol}, distance {metric}, '
        f'queries {run.selection.how}. '
        f'Over all queries mAP {", ".join(scores)}. {models_and_data(run)}'
    )
    return CaptionedFigure(draw(searches, caption), caption)


def _searches(
    run: ExplainedRun, evaluator: Evaluator
) -> Iterator[tuple[str, Searched, Iterator[Tensor]]]:
    """Yield the searches: a name, features, distances in chunks of queries."""
    if not run.explains >= REFINED:
        searched = evaluator.features(run.target)
        assert searched is not None  # a single process
        yield '', searched, evaluator.distances(searched)
        return
    needs_queries = run.opened.targets[run.target].gallery_needs_queries
    for name, kind in (('fᵒ', 'frame_feature'), ('fˢ', 'refined_feature')):
        query, gallery = run.features(kind)
        if evaluator.options.normalize_feature:
            query, gallery = query.normalized(), gallery.normalized()
        gallery = apply_protocol(query, gallery, evaluator.protocol, needs_queries)
        searched = Searched(query, gallery)
        yield name, searched, distances_in_rows(query, gallery, evaluator.options)
