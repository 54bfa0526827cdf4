"""The training loop: a run, an epoch and a step, from top to bottom.

Its parts have their own files: the loss (``objective.py``), batches and seeds (``batches.py``),
DDP, mixed precision and gradient norms (``step.py``), progress (``progress.py``) and the files of
the run (``run_record.py``).
"""

import logging
import math
import time
from collections.abc import Callable
from typing import Any, NoReturn

import torch
from torch import nn
from torch.optim import Optimizer

from stmn_plugin.distributed import gather, world_size
from stmn_plugin.errors import InputError, resource_errors
from stmn_plugin.interrupt import Interruption
from stmn_plugin.training.step import map_tensors

from .batches import EpochBatches, count_images
from .objective import BatchLoss, Objective, in_float32
from .progress import Progress
from .run_record import RunRecord
from .run_state import EpochLog
from .settings import TrainingSettings, choose_layers
from .speed import same_shapes
from .step import PendingScalars, Precision, Replica, Step, gradients_of, norms_of

logger = logging.getLogger(__name__)


class Trainer:
    """Train a model to minimise an objective, optionally in mixed precision and several processes.

    Epochs and batches count from 0 here, and from 1 in all output and files.

    Args:
        objective: the model, on its device, and its losses.
        optimizer: optimizer of the model.
        scheduler: scheduler of the learning rate with a step per epoch, or None.
        batches: batches to train on.
        record: the run's files, which determine where the run starts.
        settings: settings of the training.
        use_gpu: whether the model is on a GPU.
    """

    def __init__(
        self,
        objective: Objective,
        optimizer: Optimizer,
        scheduler: Any,
        batches: EpochBatches,
        record: RunRecord,
        settings: TrainingSettings | None = None,
        use_gpu: bool = False,
    ):
        self.model: nn.Module = objective.model
        self.objective = objective
        self.optimizer = optimizer
        self.scheduler = scheduler
        self.batches = batches
        self.record = record
        self.settings = settings or TrainingSettings()
        self.use_gpu = use_gpu
        self.interruption = Interruption()  # not entered, so it never requests a stop
        self.replica = Replica(self.model, objective.ddp_options)
        self.start()

    def start(self) -> None:
        """Set the state to the starting point that ``record`` holds."""
        reached, device_type = self.record.reached, 'cuda' if self.use_gpu else 'cpu'
        self.precision = Precision(device_type, self.settings.amp, reached.scaler)
        self.log: EpochLog | None = reached.unfinished  # of the current epoch
        self.epoch = self.stop = 0
        self.batch_idx = self.num_batches = 0
        self.group = 1  # batches of the current step
        self.accumulated = 0  # of these finished
        self.taken: list[Step] = []  # steps whose gradients have not been checked

    # a run

    def fit(self, start: int, stop: int, evaluate: Callable[[], float] | None = None) -> None:
        """Train from ``start`` finished epochs to ``stop``, evaluate and save.

        Args:
            start: finished epochs; ``record.reached`` holds the progress of the next one.
            stop: total number of epochs.
            evaluate: adds to ``record.evaluations`` and returns rank-1.

        Raises:
            InputError: a loss, gradient or feature is not finite, a file cannot be written, or an
                error of :meth:`train_epoch`.
            Interrupted: a signal arrived and the state is saved.
        """
        self.start()
        self.stop, self.num_batches = stop, len(self.batches)
        with Interruption() as self.interruption:
            self.batches.start_at(start)  # epochs may differ in length
            with self.record.training(start, stop, len(self.batches)):
                if self.log is not None and self.log.trained:
                    self.epoch = start - 1
                    self.finish_epoch(evaluate)
                for self.epoch in range(start, stop):
                    self.train_epoch()
                    self.finish_epoch(evaluate if self._is_due() else None)
            if self.interruption.agreed():  # during the last save: more may follow this training
                self._interrupt(f'after epoch {stop}')

    def _is_due(self) -> bool:
        done, every = self.epoch + 1, self.settings.eval_freq
        regular = every > 0 and done % every == 0 and done >= self.settings.start_eval
        return regular or done == self.stop

    def finish_epoch(self, evaluate: Callable[[], float] | None) -> None:
        """Evaluate, report and save; an epoch is reported before a checkpoint marks it finished."""
        record, log, results, is_best = self.record, self.log, [], False
        assert log is not None
        self._progress(log).log_epoch()
        if evaluate is not None:
            # if the evaluation fails or is interrupted, a resumed run repeats it, not the epoch
            self.save()
            known = len(record.evaluations)
            with self.interruption.at_once():
                record.rank1 = evaluate()
            results, is_best = record.evaluations[known:], record.improved()
        record.add_line(log.as_line(results))
        self.log = None
        stopping = self.interruption.agreed()
        if evaluate is not None or stopping or (self.epoch + 1) % self.settings.save_freq == 0:
            self.save(is_best)
        if stopping:
            self._interrupt(f'after epoch {self.epoch + 1}')

    def save(self, is_best: bool = False) -> None:
        """Write a checkpoint of a finished epoch, or within one."""
        within = self.log is not None and not self.log.trained
        finished = self.epoch + (not within)
        self.record.save(finished, self.log, self.precision.state(), is_best)

    def _interrupt(self, where: str) -> NoReturn:
        logger.warning(f'Interrupted {where}; model.resume auto resumes from there')
        self.interruption.stop()

    # an epoch

    def train_epoch(self) -> None:
        """Train epoch ``epoch``, or the batches of it that ``log`` does not contain.

        Raises:
            Interrupted: a signal arrived; the state after the last step is saved.
            InputError: out of memory, or a worker died; nothing is saved, because the step is
                incomplete.
        """
        self.model.train()
        choose_layers(self.model, self.epoch, self.settings)
        self.replica.refresh()
        if self.log is None or self.log.epoch != self.epoch + 1:
            self.log = EpochLog(self.epoch + 1)
        log = self.log
        self.batches.start_at(self.epoch, log.batches)
        self.num_batches = len(self.batches)
        under_way = int(self.use_gpu)  # the newest step; checking it would wait for the GPU
        errors = resource_errors(
            'train.batch_size', f'; last good checkpoint: {self.record.last_checkpoint_text}'
        )
        with self._progress(log) as self.progress, errors, same_shapes():
            mark = time.perf_counter()
            for index, data, waited in self.batches.of_epoch(self.epoch, log.batches):
                self.batch_idx = index
                losses = self.train_batch(data)
                self.check_steps(but=under_way)
                now = time.perf_counter()
                seconds, mark = now - mark, now
                log.add(losses, count_images(data['img']) * world_size(), seconds, waited)
                log.learning_rate = self.optimizer.param_groups[-1]['lr']
                self.progress.batch_done(index, losses, seconds, waited)
                between = index + 1 < self.num_batches and self.accumulated == 0
                if between and self.interruption.agreed():
                    self.check_steps()
                    self.save()
                    self._interrupt(f'in epoch {self.epoch + 1} after batch {index + 1}')
            if self.accumulated:  # the loader has fewer batches than its length
                self.update_weights()
            self.check_steps()
        log.trained = True
        if self.scheduler is not None:
            self.scheduler.step()

    def _progress(self, log: EpochLog) -> Progress:
        options = self.num_batches, self.settings.print_freq, self.record.curves
        return Progress(log, self.stop, *options)

    # a step

    def train_batch(self, data: dict[str, Any]) -> dict[str, float]:
        """Compute losses and gradients of a batch; after the last batch of a step, update weights.

        Args:
            data: a batch in the host's format, with ``img`` and ``pid``.

        Returns:
            The loss terms by name.

        Raises:
            InputError: a term is NaN or infinite; the weights are those before the batch.
        """
        self.record.bad_frames.extend(data.get('bad_frames', ()))
        left = self.num_batches - (self.batch_idx - self.accumulated)
        self.group = min(self.settings.accumulate, left)
        if self.accumulated == 0:
            self.optimizer.zero_grad()
        loss = self.loss_of(data)
        arriving = PendingScalars(loss.terms)
        self.precision.backward(loss.total / self.group)
        terms = arriving.numbers()  # copied during the backward pass
        self._check_finite(terms)
        self.accumulated += 1
        if self.accumulated == self.group:
            self.update_weights()
        return terms

    def loss_of(self, data: dict[str, Any]) -> BatchLoss:
        """Compute the loss of a batch over all processes, with its graph."""
        data = self.batches.finish(data)
        images, pids = self.objective.inputs(data['img'], data['pid'])
        pids = gather(pids)  # of the whole batch
        alike = PendingScalars({'alike': (pids == pids[0]).all()})  # copied while the model runs
        with self.precision.autocast():
            outputs = self.replica(images)  # of this process's part of the batch
        outputs = map_tensors(lambda tensor: gather(in_float32(tensor)), outputs)
        self._check_identities(alike)
        return self.objective(outputs, pids)

    def update_weights(self) -> None:
        """Update the weights by the mean of the accumulated gradients, if these are finite."""
        self.precision.unscale(self.optimizer)
        gradients = gradients_of(self.model, self.optimizer)
        if self.accumulated < self.group:  # the gradients were divided by too large a number
            torch._foreach_mul_(list(gradients.values()), self.group / self.accumulated)
        norms = norms_of(list(gradients.values()), self.settings.clip_grad_norm)
        self.precision.step(self.optimizer)
        self.accumulated = 0
        self.taken.append(
            Step(self.batch_idx, PendingScalars(dict(zip(gradients, norms, strict=True))))
        )

    def check_steps(self, but: int = 0) -> None:
        """Log the norms of the gradients of all unchecked steps except the last ``but`` ones.

        Raises:
            InputError: a norm is NaN or infinite for another reason than the scale of the loss in
                fp16, which skips the step and is halved; the weights are those before that step.
        """
        while len(self.taken) > but:
            step = self.taken.pop(0)
            norms = step.norms.numbers()
            broken = [f'{name}: {norm}' for name, norm in norms.items() if not math.isfinite(norm)]
            if not broken:
                self.progress.step_done(step.batch_idx, math.hypot(*norms.values()))
            elif self.precision.scale_may_overflow:
                self.progress.step_done(step.batch_idx, None)
            else:
                self._fail(
                    f'the gradients of {len(broken)} of {len(norms)} parameters are not finite '
                    f'({broken[0]}) in {self._place(step.batch_idx)}'
                )

    def _check_finite(self, terms: dict[str, float]) -> None:
        broken = [f'{name} {value}' for name, value in terms.items() if not math.isfinite(value)]
        if broken:
            self._fail(f'{", ".join(broken)} in {self._place(self.batch_idx)}')

    def _check_identities(self, alike: PendingScalars) -> None:
        weight = self.objective.triplet_weight
        if weight > 0 and alike.numbers()['alike']:
            self._fail(
                f'all clips or images of {self._place(self.batch_idx)} are of one identity, and '
                f'the triplet loss (loss.triplet.weight_t {weight}) needs two: use sampler.'
                'train_sampler IdentityPassSampler or RandomIdentitySampler'
            )

    def _place(self, batch_idx: int) -> str:
        return f'epoch {self.epoch + 1}, batch {batch_idx + 1}'

    def _fail(self, why: str) -> NoReturn:
        kept = f'last good checkpoint: {self.record.last_checkpoint_text}'
        raise InputError(f'training stopped: {why}; {kept}')
