"""Read what a run folder holds: config, progress and results, without loading a checkpoint."""

import os
from typing import Any, NamedTuple

from stmn_plugin.config import read_yaml
from stmn_plugin.config.defaults import recorded_settings
from stmn_plugin.errors import InputError
from stmn_plugin.training.checkpoint import UNFINISHED, saved_epochs
from stmn_plugin.training.metric_files import read_epoch_lines, read_metrics

CONFIG = 'config.yaml'


class StoredRun(NamedTuple):
    """The content of ``data.save_dir`` of a run."""

    path: str
    config: dict[str, Any] = {}  # key → value when it was started last; empty: it never was
    epochs: int = 0  # finished ones in the newest checkpoint
    metrics: dict[str, Any] = {'evaluations': []}  # also the facts of the model
    lines: list[dict[str, Any]] = []  # of metrics.jsonl, one an epoch

    def checkpoint(self, epoch: int) -> str:
        """Return the path of the weights after an epoch."""
        return os.path.join(self.path, 'model', f'model.pth.tar-{epoch}')

    def final_evaluations(self, max_epoch: int) -> list[dict[str, Any]]:
        """Return those that ended the training; [] unless it ended after ``max_epoch`` epochs."""
        reported = self.lines and self.lines[-1]['epoch'] == max_epoch == self.epochs
        last = [e for e in self.metrics['evaluations'] if e['epoch'] == max_epoch]
        return last if reported else []

    @property
    def settings(self) -> dict[str, Any]:
        """The config with keys that it does not know yet."""
        return recorded_settings(self.config)

    @property
    def digests(self) -> dict[str, str]:
        """Digests of config and data of the last weights; {} of older or unfinished runs."""
        final = self.final_evaluations(self.settings['train.max_epoch'])
        return final[0].get('made_from') or {} if final else {}

    @property
    def missing_weights(self) -> str:
        """One line if the last evaluated epoch is beyond every checkpoint, else ''.

        A checkpoint is written before its evaluation, so this one was deleted. Epochs without an
        evaluation may have none: a run that was killed trains them again.
        """
        last = max((e['epoch'] or 0 for e in self.metrics['evaluations']), default=0)
        if last <= self.epochs:
            return ''
        return f'{self.path} holds results of epoch {last} without its weights'

    @property
    def training_seconds(self) -> float:
        """Of all steps with the waiting for data; evaluations are not counted."""
        return float(sum(line['seconds'] for line in self.lines))

    def state(self, max_epoch: int) -> str:
        """'finished', 'interrupted after epoch 3 of 30', 'new', or which weights are lost."""
        if self.missing_weights:
            return self.missing_weights
        if self.final_evaluations(max_epoch):
            return 'finished'
        if self.epochs or self.config:
            return f'interrupted after epoch {self.epochs} of {max_epoch}'
        return 'new'


def is_run(path: str) -> bool:
    """Return whether a training was started in a folder."""
    return os.path.isfile(os.path.join(path, CONFIG))


def read_run(path: str) -> StoredRun:
    """Read the record of a run folder.

    Raises:
        InputError: a damaged file in it.
    """
    lines = read_epoch_lines(path)
    return StoredRun(
        path=path,
        config=read_yaml(os.path.join(path, CONFIG)) if is_run(path) else {},
        epochs=_finished_epochs(os.path.join(path, 'model'), lines),
        metrics=read_metrics(path),
        lines=lines,
    )


def read_or_reason(path: str) -> tuple[StoredRun, str]:
    """Return the record of a run folder and '', or an empty one and what is damaged."""
    try:
        return read_run(path), ''
    except InputError as error:
        return StoredRun(path), str(error)


def _finished_epochs(folder: str, lines: list[dict[str, Any]]) -> int:
    """Return those of the newest checkpoint; the name of a state within an epoch has no number."""
    reported = os.path.isfile(os.path.join(folder, UNFINISHED)) and lines
    last: int = lines[-1]['epoch'] if reported else 0
    return max([*saved_epochs(folder), last])


def same_folder(one: str, other: str) -> bool:
    """Return whether two paths lead to the same place."""
    return os.path.realpath(os.path.expanduser(one)) == os.path.realpath(os.path.expanduser(other))
