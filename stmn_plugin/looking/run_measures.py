"""A run, looked at → every measure of its memories, as ``analysis.json`` holds them."""

import numpy as np

from stmn_plugin.whole_files import write_json

from .gathering import entropy
from .hidden_folders import without_folders
from .measures import against_truth, memory_use
from .measures.measure import not_measured

NO_SPATIAL = 'The model has no spatial memory.'
NO_TEMPORAL = 'The model has no temporal memory.'
NO_ATTENTION = 'The model averages over time: it has no temporal attention.'


def measure(subject, seed=0):
    """Every measure of a run.

    Args:
        subject (Subject): of :func:`stmn_plugin.looking.subject.study`.
        seed (int): of the bootstrap.

    Returns:
        dict: name → Measure; those that this model or dataset cannot have say why.
    """
    gathered, truth = subject.gathered, subject.truth
    spatial, temporal = gathered.spatial, gathered.temporal_probs
    pids = np.array([pid for _, pid, _, _ in subject.collection.tracklets])
    # (C,); a label of many passers-by counts as one person, which makes intervals wide, not narrow
    persons = pids[gathered.clip_tracklets]
    attends = subject.cfg.stmn.temporal_mode != 'average'
    measures = {
        'spatial_usage': not_measured(memory_use.USAGE, NO_SPATIAL),
        'spatial_read_out': not_measured(memory_use.READOUT, NO_SPATIAL),
        'temporal_usage': not_measured(memory_use.USAGE, NO_TEMPORAL),
        'temporal_attention': not_measured(memory_use.ATTENTION, NO_ATTENTION),
        'attention_and_visibility': not_measured(
            against_truth.ATTENTION,
            against_truth.NO_TRUTH.format('who is seen') if attends else NO_ATTENTION,
        ),
        'refinement_and_distractors': not_measured(
            against_truth.REFINEMENT,
            against_truth.NO_TRUTH.format('where distractors are') if spatial else NO_SPATIAL,
        ),
    }
    if spatial is not None:
        measures['spatial_usage'] = memory_use.usage(
            spatial.mean_probs, spatial.entropies, persons, seed
        )
        measures['spatial_read_out'] = memory_use.read_out(
            spatial,
            subject.engine.model.spatial_memory.values.detach().cpu().numpy(),
            gathered.original_energy,
            gathered.change_energy,
            persons,
            seed,
        )
        if truth is not None:
            measures['refinement_and_distractors'] = against_truth.refinement_and_distractors(
                gathered.changes, truth.distractor_share, persons, seed
            )
    if temporal is not None:
        measures['temporal_usage'] = memory_use.usage(temporal, entropy(temporal), persons, seed)
    if attends:
        measures['temporal_attention'] = memory_use.attention_use(gathered.attention, persons, seed)
        if truth is not None:
            measures['attention_and_visibility'] = against_truth.attention_and_visibility(
                gathered.attention, truth.visibility, persons, seed
            )
    return measures


def write_analysis(path, subjects_and_measures):
    """Write ``analysis.json``.

    Args:
        path (str)
        subjects_and_measures (list): of (Subject, dict of :func:`measure`).
    """
    runs = [
        {
            'run': without_folders(subject.name),
            'weights': subject.weights,
            'dataset': subject.dataset,
            'split': 'query and gallery, each tracklet once',
            'persons': len({pid for _, pid, _, _ in subject.collection.tracklets}),
            'tracklets': len(subject.collection.tracklets),
            'clips': len(subject.gathered.clip_tracklets),
            'frames': subject.engine.settings.plan.title,
            'measures': {name: one.as_dict() for name, one in measures.items()},
        }
        for subject, measures in subjects_and_measures
    ]
    write_json(path, {'runs': runs})
