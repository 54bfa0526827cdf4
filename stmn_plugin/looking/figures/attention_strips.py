"""Fig. 10: temporal attention of clips, and of the same frames in another order."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from stmn_plugin.data.frame_samplers import ClipPlan

from ..clip_truth import clip_truth, find_truth
from ..explained_run import ExplainedRun
from ..figure_parts import (
    CaptionedFigure,
    Options,
    models_and_data,
    short_name,
    strip_of,
    tracklet_title,
)
from ..opened_run import view_clips
from .sheet import BLUE, LINE, MARGIN, PAGE, VERMILION, Sheet, attention_bars, wrap

BAR_HEIGHT = 0.42
GAP = 0.04
LABEL = 0.36
COLOURS = (BLUE, VERMILION)


class Strip(NamedTuple):
    """Frames of a clip with the attention of one or two runs."""

    pictures: list[NDArray[np.uint8]]  # L of (h, w, 3)
    attentions: list[NDArray[np.floating]]  # of (L,), by run
    visibility: NDArray[np.floating] | None  # (L,) share of the person that is seen, where known


class AttentionRow(NamedTuple):
    """The strips of a tracklet."""

    title: str
    strips: list[tuple[str, Strip]]  # by title: in order, reordered


def draw(rows: Sequence[AttentionRow], runs: Sequence[str], caption: str) -> Figure:
    """Draw strips above the bars of their attentions; ``runs`` names one or two attentions."""
    strips = [strip for row in rows for _, strip in row.strips]
    length = len(strips[0].pictures)
    block = (PAGE - 2 * MARGIN) / len(rows[0].strips)
    width = min((block - LABEL - 0.12) / length - GAP, 0.42)
    block = LABEL + length * (width + GAP) + 0.12
    height = 2 * width
    known = strips[0].visibility is not None
    step = LINE + height + BAR_HEIGHT + (LINE if known else 0) + 0.16
    names = [wrap(f'■ {name}', block - LABEL - 3 * MARGIN) for name in runs]
    legend = max(map(len, names)) * LINE + 0.04
    sheet = Sheet(
        2 * MARGIN + len(rows[0].strips) * block, legend + len(rows) * step + MARGIN, caption
    )
    x = MARGIN + LABEL
    for name, colour in zip(names, COLOURS, strict=False):
        sheet.text(x, MARGIN, '\n'.join(name), va='top', color=colour)
        x += block
    highest = max(attention.max() for strip in strips for attention in strip.attentions) * 1.1
    for index, row in enumerate(rows):
        for column, (title, strip) in enumerate(row.strips):
            left = MARGIN + column * block + LABEL
            top = MARGIN + legend + index * step
            sheet.text(left, top, f'{row.title}, {title}', va='top')
            top += LINE + 0.02
            for place, pixels in enumerate(strip.pictures):
                x = left + place * (width + GAP)
                sheet.picture(x, top, width, height, pixels)
                if strip.visibility is not None:
                    sheet.text(
                        x + width / 2,
                        top + height + 0.02,
                        f'{strip.visibility[place]:.0%}',
                        va='top',
                        ha='center',
                    )
            if known:
                sheet.text(left - 0.05, top + height + 0.02, 'seen', va='top', ha='right')
                top += LINE
            axes = sheet.axes(left, top + height + 0.04, length * (width + GAP) - GAP, BAR_HEIGHT)
            attention_bars(
                axes, strip.attentions, COLOURS[: len(runs)], width + GAP, width, highest
            )
            axes.set_yticks([0, round(1 / length, 2)])
    return sheet.figure


def figure_10(run: ExplainedRun, against: ExplainedRun | None, options: Options) -> CaptionedFigure:
    """Show temporal attention of clips, in order and reversed, for one run or two."""
    runs, left_out = [run], ''
    if against is not None and 'attention' in against.explains:
        if against.cfg.video.seq_len == run.cfg.video.seq_len:
            runs.append(against)
        else:
            left_out = f' {short_name(against)} is not shown: its clips have another length.'
    shown, tracklets = run.selection.shown, run.tracklets.all
    truth = find_truth(tracklets)
    strips: list[list[tuple[str, Strip]]] = [[] for _ in shown]
    for order, step in (('in order', 1), ('reversed', -1)):
        frames = [run.statistics.kept[row].frames[::step] for row in shown]
        attentions = [reordered_attention(one, shown, frames) for one in runs]
        seen: Any = [None] * len(frames)
        if truth is not None:
            seen = clip_truth(truth, tracklets, shown, frames, None).visibility
        for place, row in enumerate(shown):
            pictures = strip_of(run, row, frames[place])
            strip = Strip(pictures, [values[place] for values in attentions], seen[place])
            strips[place].append((order, strip))
    rows = [
        AttentionRow(tracklet_title(run, row), own) for row, own in zip(shown, strips, strict=True)
    ]
    in_words = ' Seen: the true visible share of the person.' if truth is not None else ''
    caption = (
        'Figure 10. Temporal attention of clips (left) and of the same frames in reversed order '
        f'(right); dashed: average pooling.{in_words} {len(rows)} tracklets {run.selection.how}. '
        f'{models_and_data(*runs)}{left_out}'
    )
    names = [f'{_kind(one)}, {short_name(one)}' for one in runs]
    return CaptionedFigure(draw(rows, names, caption), caption)


def _kind(run: ExplainedRun) -> str:
    return 'temporal memory' if 'temporal_probs' in run.explains else 'temporal attention'


def reordered_attention(
    run: ExplainedRun, rows: Sequence[int], frames: Sequence[NDArray[np.int64]]
) -> NDArray[np.floating]:
    """Compute attention (n, L) of clips of the given frames of tracklets, in that order."""
    tracklets = []
    for row, chosen in zip(rows, frames, strict=True):
        paths, pid, camid, dsetid = run.tracklets.all[row]
        tracklets.append((tuple(paths[i] for i in chosen), pid, camid, dsetid))
    plan = ClipPlan(len(frames[0]), 'in_order')  # all frames in order, here one clip
    return np.stack([view['attention'] for view in view_clips(run.opened, tracklets, plan)])
