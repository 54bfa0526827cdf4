"""Compute every measure of an explained run, and write ``analysis.json``."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from stmn_plugin.models.explanations import missing_part
from stmn_plugin.whole_files import write_json

from ..clip_statistics import entropy
from ..clip_truth import ClipTruth
from ..explained_run import ExplainedRun
from ..hidden_folders import without_folders
from . import against_truth, memory_use
from .measure import Measure, not_measured


class RunMeasure(NamedTuple):
    """A measure, available for runs whose models explain what it needs."""

    # of statistics, truth or None, the person of each clip (C,), the seed of the bootstrap
    compute: Callable[[Any, ClipTruth | None, NDArray[np.int64], int], Measure]
    definition: str
    needs: tuple[str, ...]  # names of ``models/explanations.py``
    needs_truth: str = ''  # the part of the truth that is needed; '' for none


# a statistic is None if the model does not explain it; ``needs`` prevents its use
MEASURES = {
    'spatial_usage': RunMeasure(
        lambda found, truth, *rest: memory_use.usage(
            found.spatial.mean_probs, found.spatial.entropies, *rest
        ),
        memory_use.USAGE,
        ('spatial_probs',),
    ),
    'spatial_read_out': RunMeasure(
        lambda found, truth, *rest: memory_use.read_out(
            found.spatial,
            found.spatial_values,
            found.original_energy,
            found.change_energy,
            *rest,
        ),
        memory_use.READOUT,
        ('spatial_probs', 'spatial_values', 'frame_norms', 'change_norms'),
    ),
    'temporal_usage': RunMeasure(
        lambda found, truth, *rest: memory_use.usage(
            found.temporal_probs, entropy(found.temporal_probs), *rest
        ),
        memory_use.USAGE,
        ('temporal_probs',),
    ),
    'temporal_attention': RunMeasure(
        lambda found, truth, *rest: memory_use.attention_use(found.attention, *rest),
        memory_use.ATTENTION,
        ('attention',),
    ),
    'attention_and_visibility': RunMeasure(
        lambda found, truth, *rest: against_truth.attention_and_visibility(
            found.attention, truth.visibility, *rest
        ),
        against_truth.ATTENTION,
        ('attention',),
        'who is seen',
    ),
    'refinement_and_distractors': RunMeasure(
        lambda found, truth, *rest: against_truth.refinement_and_distractors(
            found.changes, truth.distractor_share, *rest
        ),
        against_truth.REFINEMENT,
        ('frame_norms', 'refined_norms', 'change_norms'),
        'where distractors are',
    ),
}


def measure_run(run: ExplainedRun, seed: int = 0) -> dict[str, Measure]:
    """Compute every measure by name; one that does not apply says why.

    Args:
        run: a run of :func:`stmn_plugin.looking.explained_run.explain_run`.
        seed: of the bootstrap.
    """
    pids = np.array([pid for _, pid, _, _ in run.tracklets.all])
    # a label of many passers-by counts as one person, which makes intervals wide, not narrow
    persons = pids[run.statistics.clip_tracklets]
    measures = {}
    for name, one in MEASURES.items():
        missing = missing_part(one.needs, run.explains)
        if missing:
            reason = f'{missing[0].upper()}{missing[1:]}.'
            measures[name] = not_measured(one.definition, reason)
        elif one.needs_truth and run.truth is None:
            reason = against_truth.NO_TRUTH.format(one.needs_truth)
            measures[name] = not_measured(one.definition, reason)
        else:
            measures[name] = one.compute(run.statistics, run.truth, persons, seed)
    return measures


def write_analysis(path: str, measured: Sequence[tuple[ExplainedRun, dict[str, Measure]]]) -> None:
    """Write ``analysis.json`` of runs with their measures.

    Raises:
        InputError: the file cannot be written.
    """
    runs = [
        {
            'run': without_folders(run.name),
            'weights': run.weights,
            'dataset': run.target,
            'split': 'query and gallery, each tracklet once',
            'persons': len({pid for _, pid, _, _ in run.tracklets.all}),
            'tracklets': len(run.tracklets.all),
            'clips': sum(run.opened.plan.count(len(paths)) for paths, *_ in run.tracklets.all),
            'frames': run.opened.plan.title,
            'measures': {name: one.as_dict() for name, one in measures.items()},
        }
        for run, measures in measured
    ]
    write_json(path, {'runs': runs})
