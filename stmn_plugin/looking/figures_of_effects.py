"""One run or two, looked at → what their memories do: Figures 7, 8 and 10 of the paper.

Each function takes the subject, the one it is compared with (or None) and the options.
"""

import numpy as np

from stmn_plugin.data.clip_plans import ClipPlan
from stmn_plugin.evaluation.protocols import (
    PROTOCOLS,
    TestOptions,
    apply_protocol,
    distances_in_rows,
)
from stmn_plugin.evaluation.ranked_lists import rank_and_list
from stmn_plugin.evaluation.ranking import summarize

from .clip_truth import clip_truth, find_truth
from .clip_views import view_clips
from .figure_parts import CaptionedFigure, models_and_data, strip_of, thumbnail_of, tracklet_title
from .figures import attention_strips, refinement_maps, retrieval

TOP_FOUND = 10
MASK_GRID = (32, 16)  # of the outlines of masks
SHOWN_DIFFERENCES = 99  # percent of the positions; the others have the last colour
TEMPORAL_NAMES = {'memory': 'temporal memory', 'mlp': 'MLP', 'average': 'average pooling'}


def figure_7(subject, against, options):
    """Where the refinement changes the length of features."""
    views = [subject.gathered.kept[row] for row in subject.choice.shown]
    masks = [None] * len(views)
    if subject.truth is not None:
        frames = [view.frames for view in views]
        masks = _truth_of(subject, subject.choice.shown, frames, MASK_GRID).distractor_share
    clips = []
    for row, view, mask in zip(subject.choice.shown, views, masks, strict=True):
        clips.append(
            refinement_maps.RefinedClip(
                tracklet_title(subject, row),
                strip_of(subject, row, view.frames),
                view.refined_norms - view.frame_norms,
                mask,
            )
        )
    shown = np.concatenate([np.abs(clip.norm_changes).ravel() for clip in clips])
    limit = float(np.percentile(shown, SHOWN_DIFFERENCES)) or 1.0
    mean_norm = np.mean([view.frame_norms for view in views])
    outlined = (
        '' if subject.truth is None else ' Black: border of the true distractor mask, smoothed.'
    )
    caption = (
        'Figure 7. Difference of magnitude |fˢ| − |fᵒ| after and before the refinement, bilinear, '
        'over the grey frame: purple where features get shorter (suppressed), orange where they '
        f'get longer. The colours end at {100 * limit / mean_norm:.2g} % of the mean |fᵒ|.'
        f'{outlined} {len(clips)} tracklets {subject.choice.words}. {models_and_data(subject)}'
    )
    return CaptionedFigure(refinement_maps.draw(clips, limit, caption), caption)


def figure_8(subject, against, options):
    """Retrieval with the temporal average of pooled fᵒ, and of pooled fˢ."""
    protocol = PROTOCOLS[subject.engine.settings.protocol]
    needs = subject.engine.datamanager.gallery_needs_queries[subject.dataset]
    metric = subject.cfg.test.dist_metric
    rows = subject.collection.gallery  # of the collection, as searched
    if protocol.queries_searched and needs:
        rows = np.concatenate([rows, subject.collection.query])
    found, scores = {}, {}
    for kind in ('frame', 'refined'):
        query, gallery = subject.features(kind)
        if subject.cfg.test.normalize_feature:
            query, gallery = query.normalized(), gallery.normalized()
        searched = apply_protocol(query, gallery, protocol, needs)
        distances = distances_in_rows(query, searched, TestOptions(dist_metric=metric))
        lists = rank_and_list(distances, query, searched, TOP_FOUND, protocol.average_precision)
        scores[kind] = summarize(lists.scores, len(searched.pids), protocol.unmatched)
        for row in subject.choice.queries:
            place = subject.collection.query.tolist().index(row)
            found[row, kind] = [
                retrieval.Found(thumbnail_of(subject, rows[index], 0), is_match)
                for index, is_match, distance in zip(
                    lists.indices[place],
                    lists.is_match[place],
                    lists.distances[place],
                    strict=True,
                )
                if np.isfinite(distance)  # a small gallery has no more that count
            ]
    searches = [
        retrieval.Search(
            tracklet_title(subject, row),
            thumbnail_of(subject, row, 0),
            [('fᵒ', found[row, 'frame']), ('fˢ', found[row, 'refined'])],
        )
        for row in subject.choice.queries
    ]
    caption = (
        f'Figure 8. The {TOP_FOUND} nearest tracklets by the features before (fᵒ) and after (fˢ) '
        'the refinement, both averaged over positions and frames, first frames shown: blue and ✓ '
        "the query's person, orange and ✗ somebody else. Protocol "
        f'{subject.engine.settings.protocol}, distance {metric}, queries {subject.choice.words}. '
        f'Over all queries mAP {scores["frame"].mean_ap:.1%} with fᵒ, '
        f'{scores["refined"].mean_ap:.1%} with fˢ. {models_and_data(subject)}'
    )
    return CaptionedFigure(retrieval.draw(searches, caption), caption)


def figure_10(subject, against, options):
    """Temporal attention of clips, in order and reversed, of one run or two."""
    runs, left_out = [subject], ''
    if against is not None and against.cfg.stmn.temporal_mode != 'average':
        if against.cfg.video.seq_len == subject.cfg.video.seq_len:
            runs.append(against)
        else:
            left_out = f' {against.name} is left out: its clips have another length.'
    orders = {'in order': slice(None), 'reversed': slice(None, None, -1)}
    rows = [[] for _ in subject.choice.shown]
    for name, order in orders.items():
        frames = [subject.gathered.kept[row].frames[order] for row in subject.choice.shown]
        attentions = [reordered_attention(run, subject.choice.shown, frames) for run in runs]
        known = [None] * len(frames)
        if subject.truth is not None:
            known = _truth_of(subject, subject.choice.shown, frames, subject.grid).visibility
        for place, row in enumerate(subject.choice.shown):
            strip = attention_strips.Strip(
                strip_of(subject, row, frames[place]), [a[place] for a in attentions], known[place]
            )
            rows[place].append((name, strip))
    rows = [
        attention_strips.AttentionRow(tracklet_title(subject, row), strips)
        for row, strips in zip(subject.choice.shown, rows, strict=True)
    ]
    names = [f'{TEMPORAL_NAMES[run.cfg.stmn.temporal_mode]}, {run.name}' for run in runs]
    seen = ' Seen: the true visible share of the person.' if subject.truth is not None else ''
    caption = (
        'Figure 10. Temporal attention of clips (left) and of the same frames in reversed order '
        f'(right); dashed: average pooling.{seen} {len(rows)} tracklets {subject.choice.words}. '
        f'{models_and_data(*runs)}{left_out}'
    )
    return CaptionedFigure(attention_strips.draw(rows, names, caption), caption)


def reordered_attention(subject, rows, frames):
    """Attention (n, L) of clips made of given frames of tracklets, in the order given."""
    tracklets = []
    for row, chosen in zip(rows, frames, strict=True):
        paths, *rest = subject.collection.tracklets[row]
        tracklets.append((tuple(paths[i] for i in chosen), *rest))
    plan = ClipPlan(len(frames[0]), 'consecutive')  # all frames in order, here one clip
    return np.stack([view.attention for view in view_clips(subject.engine, tracklets, plan)])


def _truth_of(subject, rows, frames, grid):
    tracklets = subject.collection.tracklets
    return clip_truth(find_truth(tracklets), tracklets, rows, frames, grid)
