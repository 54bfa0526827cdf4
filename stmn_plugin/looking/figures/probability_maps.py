"""Fig. 5: matching probabilities of both memories, one run or two side by side."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from ..explained_run import ExplainedRun
from ..figure_parts import CaptionedFigure, Options, models_and_data, short_name
from ..opened_run import ClipView
from .sheet import COLUMN, LINE, MARGIN, PAGE, SEQUENTIAL, TEXT, Sheet, wrap

CELL_HEIGHT = 0.135
BOLD = 1.2  # width of bold letters, at most


class ProbabilityMaps(NamedTuple):
    """Matching probabilities of a run: rows are queries, columns items."""

    title: str
    spatial: NDArray[np.floating] | None  # (P, M)
    temporal: NDArray[np.floating] | None  # (P, N)


def draw(runs: Sequence[ProbabilityMaps], caption: str) -> Figure:
    """Draw maps of one or two runs side by side, each run with at least one map."""
    panels = [
        (place, kind, getattr(run, kind))
        for place, run in enumerate(runs)
        for kind in ('spatial', 'temporal')
        if getattr(run, kind) is not None
    ]
    width = COLUMN if len(runs) == 1 else PAGE
    rows = max(len(probs) for _, _, probs in panels)
    height, left = CELL_HEIGHT * rows, 0.42
    bar, gap, between_runs = 0.42, 0.14, 0.3
    spaces = gap * (len(panels) - len(runs)) + between_runs * (len(runs) - 1)
    cell = (width - left - bar - 0.14 - spaces) / sum(probs.shape[1] for _, _, probs in panels)
    titles = []
    for place, run in enumerate(runs):
        items = sum(probs.shape[1] for of, _, probs in panels if of == place)
        titles.append(wrap(run.title, items * cell / BOLD))
    top = (1 + max(map(len, titles))) * LINE + 0.1
    sheet = Sheet(width, top + height + 2.6 * LINE, caption)
    last = None
    for place, kind, probs in panels:
        if place != last:
            if last is not None:
                left += between_runs - gap
            sheet.text(left, MARGIN, '\n'.join(titles[place]), va='top', weight='bold')
            last = place
        count, items = probs.shape
        axes = sheet.axes(left, top, cell * items, height * count / rows)
        axes.pcolormesh(probs, cmap=SEQUENTIAL, vmin=0, vmax=1, linewidth=0)
        axes.invert_yaxis()
        axes.set_title(kind, pad=3, fontsize=TEXT)
        axes.set_xlabel('item', labelpad=1)
        axes.set_xticks(np.arange(items) + 0.5, [str(n + 1) for n in range(items)])
        axes.tick_params(length=0, pad=2)
        axes.set_yticks([])
        if axes is sheet.figure.axes[0]:
            axes.set_yticks(np.arange(count) + 0.5, [str(n + 1) for n in range(count)])
            axes.set_ylabel('query', labelpad=2)
        left += cell * items + gap
    sheet.colour_bar(width - bar, top, 0.09, height, (0, 1), 'prob.', SEQUENTIAL, (0, 0.5, 1))
    return sheet.figure


def figure_5(run: ExplainedRun, against: ExplainedRun | None, options: Options) -> CaptionedFigure:
    """Show matching probabilities of both memories for random positions and gallery clips."""
    runs = [run] if against is None else [against, run]
    runs = [one for one in runs if one.explains & {'spatial_probs', 'temporal_probs'}]
    probes, places = run.selection.probes, run.selection.places
    maps = []
    for one in runs:
        views = [one.statistics.kept[row] for row in probes.tolist()]
        spatial = temporal = None
        if 'spatial_probs' in one.explains:
            spatial = np.stack([at_place(v, p) for v, p in zip(views, places, strict=True)])
        if 'temporal_probs' in one.explains:
            temporal = np.stack([view['temporal_probs'] for view in views])
        maps.append(ProbabilityMaps(_spread_in_words(one), spatial, temporal))
    caption = (
        f'Figure 5. Matching probabilities of {len(probes)} queries (rows) with the items of each '
        f'memory (columns): {_queries_in_words(maps)}; drawn with seed '
        f'{options.seed}. {models_and_data(*runs)}'
    )
    return CaptionedFigure(draw(maps, caption), caption)


def at_place(view: ClipView, place: NDArray[np.floating]) -> NDArray[np.floating]:
    """Return spatial probabilities (M,) at a place (frame, row, column) in 0..1 of a clip."""
    probs = view['spatial_probs']  # (L, H, W, M)
    row = tuple(int(p * size) for p, size in zip(place, probs.shape[:-1], strict=True))
    at: NDArray[np.floating] = probs[row]
    return at


def _queries_in_words(maps: Sequence[ProbabilityMaps]) -> str:
    clips = 'random clips of the gallery'
    said = []
    if any(one.spatial is not None for one in maps):
        said.append('spatial queries of random positions in random frames of the gallery')
        clips = 'the clips that those lie in'
    if any(one.temporal is not None for one in maps):
        said.append(f'temporal queries of {clips}')
    return ', '.join(said)


def _spread_in_words(run: ExplainedRun) -> str:
    kind = 'with' if run.cfg.loss.spread.weight > 0 else 'without'
    return f'{kind} spread loss: {short_name(run)}'
