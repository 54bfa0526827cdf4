"""Table 2 on equal terms: STMN, its baseline and the systems that the paper compares with.

Rows are config files. The paper's numbers are in the rows of the systems it reports, and a figure
shows accuracy against cost. EUG is missing: it trains on fewer labels (``one-shot``).
"""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from stmn_plugin.config.shipped import config_folder
from stmn_plugin.errors import InputError
from stmn_plugin.whole_files import whole_file

from .published import published_scores
from .result_tables import Row
from .variants import FULL_MODEL, Variant, ablation_variants, config_variants

SYSTEMS = {  # model.name → name in the paper, in its order
    'seeforest': 'SeeForest',
    'qan': 'QAN',
    'drsa': 'DRSA',
    'csa': 'CSA',
    'nvan': 'NVAN',
    'ste_nvan': 'STE-NVAN',
    'tclnet': 'TCLNet',
    'mgh': 'MGH',
    'cosam': 'COSAM',
    'stmp': 'STMP',
    'm3d': 'M3D',
    'part_aligned': 'Part-Aligned',
    'sta': 'STA',
    'gltr': 'GLTR',
}
EQUAL_TERMS = 'equal_terms'  # folder of the configs
BASELINE = 'STMN baseline'
MARKER = 3  # half the width of a point, in pixels
NAME_PLACES = [  # x and y in points from a point of the figure, and the side that is nearest to it
    *((5, y, 'left') for y in (3, -3, 8, -8)),
    *((-5, y, 'right') for y in (3, -3, 8, -8)),
]


def stmn_and_baseline() -> list[Variant]:
    """Return the first two rows: the full model, and its encoder with temporal average pooling.

    Raises:
        InputError: a config file is missing.
    """
    baseline = ablation_variants(str(config_folder() / 'ablation'))[0]
    return [Variant('STMN', 'stmn', FULL_MODEL), baseline._replace(title=BASELINE, name='baseline')]


def table2_variants(systems: Sequence[str] | None = None) -> list[Variant]:
    """Return STMN, its baseline, and systems as rows on any common config.

    Args:
        systems: keys of SYSTEMS; all by default.

    Raises:
        InputError: another name, or a config file is missing.
    """
    for name in systems or ():
        if name not in SYSTEMS:
            raise InputError(f'--systems: {name!r} is none of {", ".join(SYSTEMS)}')
    folder = config_folder()
    return [
        *stmn_and_baseline(),
        *(_variant(folder / EQUAL_TERMS, name) for name in dict.fromkeys(systems or SYSTEMS)),
    ]


def _variant(folder: Path, name: str) -> Variant:
    file = str(folder / f'{name}_mars.yaml')
    return config_variants({file: SYSTEMS[name]})[0]._replace(name=name)


def with_published(rows: Sequence[Row]) -> list[Row]:
    """Add what papers report for the same method, dataset and frames to the rows."""
    return [
        row._replace(published=published_scores(row.method, row.dataset, row.frames))
        for row in rows
    ]


def draw_cost(rows: Sequence[Row], path: str) -> str:
    """Draw mAP against GFLOPs of a clip and seconds a tracklet as a PNG; return its path.

    Rows that failed are left out. Seconds are those of the machine that tested.
    """
    import matplotlib

    matplotlib.use('Agg')
    import matplotlib.pyplot as plt
    from matplotlib.ticker import LogLocator, NullFormatter

    named: list[tuple[Any, dict[str, tuple[float, float]]]] = []
    known = [row for row in rows if 'mAP' in row.scores]
    strategies = list(dict.fromkeys((row.dataset, row.frames) for row in known))
    figure, axes = plt.subplots(
        len(strategies) or 1, 2, figsize=(10, 4.5 * len(strategies) or 4.5), squeeze=False,
        sharey='row', layout='constrained',
    )  # fmt: skip
    for (dataset, frames), pair in zip(strategies, axes, strict=False):
        own = [row for row in known if (row.dataset, row.frames) == (dataset, frames)]
        costs = ('gflops_per_clip', 'GFLOPs a clip'), ('seconds_per_tracklet', 's a tracklet')
        for axis, (cost, label) in zip(pair, costs, strict=True):
            points = {}
            for row in own:
                value, score = getattr(row, cost), row.scores['mAP']
                if value is not None:
                    axis.errorbar(value, score.mean, score.std, fmt='o', capsize=2, markersize=4)
                    points[row.method] = value, score.mean
            axis.set(xlabel=label, xscale='log')
            axis.margins(x=0.1)
            axis.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axis.xaxis.set_major_formatter('{x:g}')
            axis.xaxis.set_minor_formatter(NullFormatter())
            axis.grid(alpha=0.3, which='both')
            named.append((axis, points))
        pair[0].set(ylabel='mAP, %', title=f'{dataset}, {frames}')
    figure.draw_without_rendering()  # lays out the axes, in which names are placed
    for axis, points in named:
        _name_points(axis, points)
    with whole_file(path) as file:
        figure.savefig(file, dpi=150, format='png')
    plt.close(figure)
    return path


def _name_points(axis: Any, points: Mapping[str, tuple[float, float]]) -> None:
    """Write each name at the first place next to its point that no name, point or edge covers."""
    from matplotlib.transforms import Bbox

    spots = [axis.transData.transform(point) for point in points.values()]  # in pixels
    taken = [Bbox([spot - MARKER, spot + MARKER]) for spot in spots]
    for name, point in points.items():
        text = axis.annotate(
            name, point, xytext=NAME_PLACES[0][:2], textcoords='offset points', fontsize=7,
            va='center', in_layout=False,
        )  # fmt: skip
        for x, y, side in NAME_PLACES:
            text.xyann = x, y
            text.set_horizontalalignment(side)
            box = text.get_window_extent()
            inside = axis.bbox.count_contains(box.corners()) == 4
            if inside and not any(box.overlaps(other) for other in taken):
                break
        taken.append(box)


def figure_path(output: str) -> str:
    """Return the path of the figure of a comparison, for :func:`draw_cost`."""
    return os.path.join(output, 'table2.png')
