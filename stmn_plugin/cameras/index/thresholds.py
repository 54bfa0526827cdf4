"""Keep the thresholds that were measured with a model in the index of its features."""

from pathlib import Path

from stmn_plugin.evaluation.thresholds import (
    Thresholds,
    read_thresholds,
    select_thresholds,
    thresholds_of_text,
    thresholds_text,
)

from .model_key import ModelKey
from .tracklet_index import TrackletIndex

NOTE = 'verification'


def keep_thresholds(index: TrackletIndex, folder: Path) -> None:
    """Copy the thresholds that were measured with the index's weights from the folder, if any."""
    records = [one for one in read_thresholds(folder) if one.weights == index.model.weights]
    if records:
        index.set_note(NOTE, thresholds_text(records))


def index_thresholds(index: TrackletIndex) -> Thresholds | None:
    """Return the thresholds for the distances of an index; None if none were measured.

    Raises:
        InputError: the record is damaged.
    """
    text = index.note(NOTE)
    if text is None:
        return None
    return thresholds_for(index.model, thresholds_of_text(text, f'{NOTE} of the index'))


def thresholds_for(model: ModelKey, records: list[Thresholds]) -> Thresholds | None:
    """Return the record of a model and of the frames of its features."""
    return select_thresholds(
        records, model.weights, model.metric, model.normalized, model.plan.title, model.flip
    )
