"""Table 2 on equal terms: STMN, its baseline and the systems that the paper compares with.

Rows are config files; the paper's numbers stand in the rows of what it reports, and a figure sets
accuracy against cost. EUG is missing: it is a training procedure on fewer labels (``one-shot``).
"""

import os
from collections.abc import Sequence
from pathlib import Path

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


def stmn_and_baseline() -> list[Variant]:
    """Return the first two rows: the full model, and its encoder with temporal average pooling.

    Raises:
        InputError: a config file is missing.
    """
    baseline = ablation_variants(str(config_folder() / 'ablation'))[0]
    return [Variant('STMN', 'stmn', FULL_MODEL), baseline._replace(title=BASELINE, name='baseline')]


def table2_variants(systems: Sequence[str] | None = None) -> list[Variant]:
    """STMN, its baseline, and systems as rows on any common config.

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
    """Rows with what papers report for the same method, dataset and frames, where they do."""
    return [
        row._replace(published=published_scores(row.method, row.dataset, row.frames))
        for row in rows
    ]


def draw_cost(rows: Sequence[Row], path: str) -> str:
    """Write mAP against GFLOPs of a clip and against seconds a tracklet as a PNG; its path.

    Rows that failed are left out. Seconds are those of the machine that tested.
    """
    import matplotlib

    matplotlib.use('Agg')
    import matplotlib.pyplot as plt

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
            for row in own:
                value, score = getattr(row, cost), row.scores['mAP']
                if value is None:
                    continue
                axis.errorbar(value, score.mean, score.std, fmt='o', capsize=2, markersize=4)
                axis.annotate(
                    row.method,
                    (value, score.mean),
                    xytext=(4, 3),
                    textcoords='offset points',
                    fontsize=7,
                )
            axis.set(xlabel=label, xscale='log')
            axis.grid(alpha=0.3, which='both')
        pair[0].set(ylabel='mAP, %', title=f'{dataset}, {frames}')
    with whole_file(path) as file:
        figure.savefig(file, dpi=150, format='png')
    plt.close(figure)
    return path


def figure_path(output: str) -> str:
    """Where :func:`draw_cost` puts the figure of a comparison."""
    return os.path.join(output, 'table2.png')
