"""Clips → trained weights: a run, an epoch and a step, from top to bottom.

The parts have files of their own: what is differentiated (``objective.py``), batches and seeds
(``batches.py``), ``precision.py``, ``gradients.py``, DDP (``replica.py``), what is shown
(``progress.py``) and what is written (``run_record.py``).
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
from stmn_plugin.nested import map_tensors

from .batches import EpochBatches, count_images
from .epoch_log import EpochLog
from .gradients import Arriving, Step, gradients_of, norms_of
from .layers import choose_layers
from .objective import BatchLoss, Objective, in_float32
from .precision import Precision
from .progress import Progress
from .replica import Replica
from .run_record import RunRecord
from .settings import TrainingSettings
from .speed import same_shapes

logger = logging.getLogger(__name__)


class Trainer:
    """Trains what an objective minimises, in mixed precision and on many processes if asked to.

    Epochs and batches count from 0 here, in all that is printed and written from 1.

    Args:
        objective: the model, on its device, and its losses.
        optimizer: of the model.
        scheduler: of the learning rate, a step an epoch; None keeps it.
        batches: to train on.
        record: the run's files; says where the run starts.
        settings: how it is trained.
        use_gpu: where the model is.
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
        self.interruption = Interruption()  # not entered: nothing is ever requested
        self.replica = Replica(self.model, objective.ddp_options)
        self.start()

    def start(self) -> None:
        """Begin where ``record`` says."""
        reached, device_type = self.record.reached, 'cuda' if self.use_gpu else 'cpu'
        self.precision = Precision(device_type, self.settings.amp, reached.scaler)
        self.log: EpochLog | None = reached.unfinished  # of the epoch at hand
        self.epoch = self.stop = 0
        self.batch_idx = self.num_batches = 0
        self.group = 1  # batches that make the step at hand
        self.accumulated = 0  # of them so far
        self.taken: list[Step] = []  # steps whose gradients the host has not seen yet

    # a run

    def fit(self, start: int, stop: int, evaluate: Callable[[], float] | None = None) -> None:
        """Train from ``start`` finished epochs to ``stop``, evaluate and save.

        Args:
            start: finished epochs; ``record.reached`` says how far the next one is.
            stop: epochs in all.
            evaluate: adds to ``record.evaluations`` and returns rank-1.

        Raises:
            InputError: a loss, gradient or feature is not finite, a file cannot be written, or as
                :meth:`train_epoch`.
        """
        self.start()
        self.stop, self.num_batches = stop, len(self.batches)
        with Interruption() as self.interruption:
            self.batches.go_to(start)  # epochs may differ in length
            with self.record.training(start, stop, len(self.batches)):
                if self.log is not None and self.log.trained:
                    self.epoch = start - 1
                    self.finish_epoch(evaluate)
                for self.epoch in range(start, stop):
                    self.train_epoch()
                    self.finish_epoch(evaluate if self._is_due() else None)

    def _is_due(self) -> bool:
        done, every = self.epoch + 1, self.settings.eval_freq
        regular = every > 0 and done % every == 0 and done >= self.settings.start_eval
        return regular or done == self.stop

    def finish_epoch(self, evaluate: Callable[[], float] | None) -> None:
        """Evaluate, report and save: an epoch is reported before a checkpoint says it is done."""
        record, log, results, is_best = self.record, self.log, [], False
        assert log is not None
        self._progress(log).log_epoch()
        if evaluate is not None:
            # an evaluation that fails or is interrupted costs no epoch: it is made up for
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
        """Write a checkpoint: of an epoch that is done, or within one."""
        within = self.log is not None and not self.log.trained
        finished = self.epoch + (not within)
        self.record.save(finished, self.log, self.precision.state(), is_best)

    def _interrupt(self, where: str) -> NoReturn:
        logger.warning(f'Interrupted {where}; model.resume auto goes on from there')
        self.interruption.stop()

    # an epoch

    def train_epoch(self) -> None:
        """Train epoch ``epoch``, or what ``log`` says is left of it.

        Raises:
            Interrupted: a signal came; the state after the last step is saved.
            InputError: out of memory, or a worker died; nothing is saved, as the step was cut.
        """
        self.model.train()
        choose_layers(self.model, self.epoch, self.settings)
        self.replica.refresh()
        if self.log is None or self.log.epoch != self.epoch + 1:
            self.log = EpochLog(self.epoch + 1)
        log = self.log
        self.batches.go_to(self.epoch, log.batches)
        self.num_batches = len(self.batches)
        under_way = int(self.use_gpu)  # the newest step: to look at it would be to wait for it
        errors = resource_errors(
            'train.batch_size', f'; last good checkpoint: {self.record.last_good}'
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
            if self.accumulated:  # the loader ended before it said it would
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
        """Losses and gradients of a batch and, when the batches of a step are together, the step.

        Args:
            data: of the host's loaders: ``img``, ``pid``.

        Raises:
            InputError: a term is NaN or infinite; the weights are those before the batch.
        """
        self.record.bad_frames.extend(data.get('bad_frames', ()))
        left = self.num_batches - (self.batch_idx - self.accumulated)
        self.group = min(self.settings.accumulate, left)
        if self.accumulated == 0:
            self.optimizer.zero_grad()
        loss = self.loss_of(data)
        arriving = Arriving(loss.terms)
        self.precision.backward(loss.total / self.group)
        terms = arriving.numbers()  # travelled during the backward pass
        self._check_finite(terms)
        self.accumulated += 1
        if self.accumulated == self.group:
            self.update_weights()
        return terms

    def loss_of(self, data: dict[str, Any]) -> BatchLoss:
        """The loss of a batch, all processes together, with the graph of its gradients."""
        data = self.batches.finish(data)
        images, pids = self.objective.inputs(data['img'], data['pid'])
        pids = gather(pids)  # of the whole batch
        alike = Arriving({'alike': (pids == pids[0]).all()})  # travels while the model runs
        with self.precision.autocast():
            outputs = self.replica(images)  # of this process's part of the batch
        outputs = map_tensors(lambda tensor: gather(in_float32(tensor)), outputs)
        self._check_identities(alike)
        return self.objective(outputs, pids)

    def update_weights(self) -> None:
        """Move the weights by the mean of the accumulated gradients, if those are finite."""
        self.precision.unscale(self.optimizer)
        gradients = gradients_of(self.model, self.optimizer)
        if self.accumulated < self.group:  # fewer batches came than were to be averaged
            torch._foreach_mul_(list(gradients.values()), self.group / self.accumulated)
        norms = norms_of(list(gradients.values()), self.settings.clip_grad_norm)
        self.precision.step(self.optimizer)
        self.accumulated = 0
        self.taken.append(Step(self.batch_idx, Arriving(dict(zip(gradients, norms, strict=True)))))

    def check_steps(self, but: int = 0) -> None:
        """Log the norms of the gradients of the steps so far, but for the last few.

        Raises:
            InputError: one is NaN or infinite, and not for the scale of the loss in fp16, which
                leaves the step out and is halved; the weights are those before that step.
        """
        while len(self.taken) > but:
            step = self.taken.pop(0)
            norms = step.norms.numbers()
            broken = [f'{name}: {norm}' for name, norm in norms.items() if not math.isfinite(norm)]
            if not broken:
                self.progress.step_done(step.batch_idx, math.hypot(*norms.values()))
            elif self.precision.may_be_too_high:
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

    def _check_identities(self, alike: Arriving) -> None:
        weight = self.objective.triplet_weight
        if weight > 0 and alike.numbers()['alike']:
            self._fail(
                f'all clips or images of {self._place(self.batch_idx)} are of one identity, and '
                f'the triplet loss (loss.triplet.weight_t {weight}) needs two: batches of '
                'IdentityPassSampler and RandomIdentitySampler have them (sampler.train_sampler)'
            )

    def _place(self, batch_idx: int) -> str:
        return f'epoch {self.epoch + 1}, batch {batch_idx + 1}'

    def _fail(self, why: str) -> NoReturn:
        kept = f'last good checkpoint: {self.record.last_good}'
        raise InputError(f'training stopped: {why}; {kept}')
