"""Write the files of a run in an order in which a kill at any moment loses no checkpoint or line.

A run folder holds ``metrics.json`` (evaluations), ``metrics.jsonl`` (a line per epoch), TensorBoard
events and a folder of checkpoints for every registered model. Only the main process writes.
"""

import contextlib
import logging
import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import Any, NamedTuple

from torch import nn
from torch.optim import Optimizer

from stmn_plugin.config.sections import general_key
from stmn_plugin.distributed import gather_objects, is_main
from stmn_plugin.errors import InputError, printable
from stmn_plugin.numerals import counted
from stmn_plugin.whole_files import link_or_copy

from .checkpoint import (
    BEST,
    UNFINISHED,
    check_folder,
    checkpoint_path,
    save_checkpoint,
    save_unfinished,
)
from .earlier_run import Start, check_no_overwrite, remove_overwritten_files
from .metric_files import append_line, keep_lines, read_evaluations, remove_metrics, write_metrics
from .progress import Curves
from .run_state import EpochLog, Reached, RunFacts

logger = logging.getLogger(__name__)

NEEDED = ('model.load_weights', '*.backbone_weights')  # keys of files from which a run starts


class Parts(NamedTuple):
    """The objects whose state a checkpoint holds."""

    model: nn.Module
    optimizer: Optimizer | None = None
    scheduler: Any = None


class RunRecord:
    """A run's evaluations, best score and checkpoints, in memory and in its folder.

    Args:
        parts: name of a folder of checkpoints, such as 'model' → what they hold.
        run: facts of the run that the files record.
        reached: the point at which the run starts.
        first_target: data set whose score selects the best checkpoint.
        keep_last: number of checkpoints to keep.
        overwrite: remove the files of an earlier run in the folder.
        best_by: the score, as evaluations name it ('mAP', 'rank-1'), or 'none'.
    """

    def __init__(
        self,
        parts: dict[str, Parts] | None = None,
        run: RunFacts | None = None,
        reached: Reached | None = None,
        first_target: str | None = None,
        keep_last: int = 2,
        overwrite: bool = False,
        best_by: str = 'mAP',
    ):
        self.folder = ''
        self.parts = {} if parts is None else parts
        self.run = run or RunFacts()
        self.reached = reached or Reached()
        self.first_target = first_target
        self.keep_last = keep_last
        self.overwrite = overwrite
        self.best_by = best_by
        self.best_map = self.reached.best_map
        self.rank1 = self.reached.rank1  # of the last evaluation
        self.last_checkpoint: str | None = self.reached.path or None
        self.evaluations: list[dict[str, Any]] = []  # as in metrics.json
        self.bad_frames: list[str] = []  # skipped in training and testing (data.bad_frames skip)
        self.curves: Curves | None = None

    @property
    def last_checkpoint_text(self) -> str:
        """Path of the newest checkpoint, for messages."""
        return self.last_checkpoint or 'none yet'

    # files of an earlier run

    def remove_overwritten(self, folder: str, epochs: int, num_batches: int) -> None:
        """Remove the files that the run would overwrite, if ``overwrite`` is set.

        Args:
            folder: folder of the run.
            epochs: finished epochs at the start of the run.
            num_batches: batches of an epoch.

        Raises:
            InputError: there are such files and ``overwrite`` is not set, or an epoch has fewer
                batches than the checkpoint has finished.
        """
        log = self.reached.unfinished
        if log is not None and not log.trained and log.batches >= num_batches:
            raise InputError(
                f'model.resume: {self.reached.path} was saved after batch {log.batches} of '
                f'an epoch, an epoch has {num_batches} here: the training data differ'
            )
        start, models = Start(epochs, self.reached.path, self.reached.auto), list(self.parts)
        if not self.overwrite:
            check_no_overwrite(folder, start, models)
            return
        config = self.run.config
        needed = {key: config[key] for key in config if general_key(key) in NEEDED}
        removed = remove_overwritten_files(folder, start, models, needed)
        if removed:
            where = printable(folder)
            logger.info(
                f'train.overwrite: removed {counted(len(removed), "file")} of the run in {where}'
            )

    @contextlib.contextmanager
    def training(self, start: int, stop: int, num_batches: int) -> Iterator[None]:
        """Open the files for a training from epoch ``start`` to ``stop`` in a ``with`` block.

        Evaluations and lines of an earlier part of the run are read.

        Raises:
            InputError: as :meth:`remove_overwritten`, or the folder cannot be written.
        """
        self.evaluations = []
        if is_main() and self.folder:
            self.remove_overwritten(self.folder, start, num_batches)
            self._restore_results(start)
            if start < stop or self.reached.unfinished is not None:
                for name in self.parts:  # checked before the first epoch is trained
                    check_folder(os.path.join(self.folder, name))
                self.curves = Curves(self.folder, purge_step=start * num_batches or None)
        try:
            yield
        finally:
            if self.curves is not None:
                self.curves.close()
            self.curves = None

    def _restore_results(self, start: int) -> None:
        log = self.reached.unfinished
        reported = start - (log is not None and log.trained)
        self.evaluations = [
            e
            for e in (read_evaluations(self.folder) if reported > 0 else [])
            if e['epoch'] is None or e['epoch'] <= reported
        ]
        if not self.evaluations:
            remove_metrics(self.folder)  # results of an earlier run
        keep_lines(self.folder, reported)
        self._restore_best()

    def _restore_best(self) -> None:
        """Restore ``model-best`` from the remaining checkpoints if its epoch was removed."""
        if self.best_map < 0 or self.best_by == 'none':
            return
        own = [e for e in self.evaluations if e['dataset'] == self.first_target and e['epoch']]
        if self.best_by == 'rank-1':
            own.reverse()  # the last of equal scores
        epoch = max(own, key=lambda e: e[self.best_by], default={'epoch': 0})['epoch']
        for folder in (os.path.join(self.folder, name) for name in self.parts):
            best, path = os.path.join(folder, BEST), checkpoint_path(folder, epoch)
            if os.path.isfile(best):
                continue
            if os.path.isfile(path):
                link_or_copy(path, best)
            else:
                self.best_map = -1.0  # the next evaluation becomes the best

    def read_tests(self, folder: str) -> None:
        """Read the evaluations of a folder, to which a test adds its own."""
        self.evaluations = read_evaluations(folder) if is_main() else []

    # results

    def add_evaluation(self, evaluation: dict[str, Any], folder: str) -> None:
        """Add an evaluation and write ``metrics.json``; call this in all processes together."""
        self.evaluations = [*self.evaluations, evaluation]
        bad_frames = self.all_bad_frames()
        if is_main() and folder:
            write_metrics(folder, self.evaluations, {**self.run.facts, 'bad_frames': bad_frames})

    def all_bad_frames(self) -> list[str]:
        """Gather the bad frames of all processes in the main process."""
        return sorted({path for paths in gather_objects(self.bad_frames) for path in paths})

    def improved(self) -> bool:
        """Return whether the last evaluation of the first target is the best, and remember it."""
        if self.best_by == 'none':
            return False
        scores = [e[self.best_by] for e in self.evaluations if e['dataset'] == self.first_target]
        if not scores or scores[-1] < self.best_map:  # no scores if the target has no labels
            return False
        if scores[-1] == self.best_map and self.best_by == 'mAP':
            return False
        self.best_map = scores[-1]
        return True

    @property
    def chosen_by(self) -> str:
        """How the best checkpoint was chosen, in words for its users."""
        held_out = self.run.config.get('data.validation_ids')
        split = 'held-out training identities' if held_out else 'test data'
        return f'{self.best_by} on the {split} of {self.first_target}'

    def add_line(self, line: dict[str, Any]) -> None:
        """Add an epoch to ``metrics.jsonl``."""
        if is_main() and self.folder:
            append_line(self.folder, line)

    # checkpoints

    def save(
        self,
        epochs: int,
        log: EpochLog | None = None,
        scaler: Mapping[str, Any] | None = None,
        is_best: bool = False,
        folder: str = '',
    ) -> None:
        """Write the checkpoint of every model, in the format of the host.

        Args:
            epochs: finished epochs.
            log: log of the current epoch; the checkpoint is named as unfinished within it.
            scaler: state of the GradScaler.
            is_best: also write ``model-best.pth.tar``.
            folder: folder to write to instead of the run's.

        Raises:
            InputError: a file could not be written, or a weight is not finite; older checkpoints
                are kept.
        """
        within = log is not None and not log.trained
        for name, parts in self.parts.items() if folder or self.folder else ():
            place = os.path.join(folder or self.folder, name)
            if not is_main():
                path = os.path.join(place, UNFINISHED)
                self.last_checkpoint = path if within else checkpoint_path(place, epochs)
                continue
            state = self._state(parts, epochs, log, scaler)
            if is_best:
                state['chosen_by'] = self.chosen_by
            try:
                if within:
                    path = save_unfinished(state, place)
                else:
                    path = save_checkpoint(state, place, epochs, self.keep_last, is_best)
            except InputError as error:
                raise InputError(
                    f'{error}; last good checkpoint: {self.last_checkpoint_text}'
                ) from error
            self.last_checkpoint = path
            logger.debug(f'Checkpoint saved to "{printable(path)}"')

    def _state(
        self, parts: Parts, epochs: int, log: EpochLog | None, scaler: Mapping[str, Any] | None
    ) -> dict[str, Any]:
        state = {
            'state_dict': parts.model.state_dict(),
            'epoch': epochs,
            'rank1': float(self.rank1),
            'best_map': self.best_map,
            'facts': self.run.facts,
            'config': self.run.config,
            'trained_on': self.run.trained_on,
            'unfinished': asdict(log) if log is not None else None,
        }
        if scaler is not None:
            state['scaler'] = dict(scaler)
        for part in ('optimizer', 'scheduler'):
            if getattr(parts, part) is not None:
                state[part] = getattr(parts, part).state_dict()
        return state
