"""A batch → losses → gradients → a step of the optimizer, the same for every model.

An engine says what its losses are. Here they become gradients, in mixed precision and on many
processes where that is asked for, and those of ``train.accumulate`` batches a step. Gradients that
are not finite never move a weight: the scaler looks at them on the device, where nothing has to
wait for it. Their norms follow to the host, and there end the run.
"""

import contextlib
import math
from typing import NamedTuple

import torch

from stmn_plugin.distributed import gather, replicate
from stmn_plugin.errors import InputError
from stmn_plugin.nested import map_tensors

from .speed import autocast

NEVER = 2**31 - 1  # steps until a scale grows


class StepMixin:
    """``forward_backward(data)`` for an engine with ``losses(data)``.

    That gives the loss which is differentiated and every term to log by name, as scalar tensors.
    """

    settings = None  # a RunSettings
    scaler = None  # a GradScaler: one for the run
    taken = ()  # steps whose gradients the host has not seen yet
    group = 1  # batches that make the step at hand
    accumulated = 0  # of them so far
    replica = None  # of many processes: what stands in for the model in a step
    _replicated = None  # which parameters it trains
    ddp_options = {'static_graph': True}  # some models hold parameters that no output needs

    def autocast(self):
        """The precision that a forward of the model runs in; losses are computed outside."""
        amp = self.settings.amp if self.settings is not None else 'off'
        return autocast('cuda' if self.use_gpu else 'cpu', amp)

    def start_scaler(self):
        """Make the scaler, as ``settings`` have it where a run goes on.

        Its scale is 1 and stays so, unless ``train.amp`` is fp16, which cannot do without another.
        """
        settings, device_type = self.settings, 'cuda' if self.use_gpu else 'cpu'
        self.taken = []
        if not self._is_scaled():
            self.scaler = torch.amp.GradScaler(device_type, init_scale=1.0, growth_interval=NEVER)
            return
        self.scaler = torch.amp.GradScaler(device_type)
        if settings.scaler:
            self.scaler.load_state_dict(settings.scaler)

    def _is_scaled(self):
        return self.settings is not None and self.settings.amp == 'fp16'

    def forward_backward(self, data):
        """One batch: losses, gradients and, when the batches of a step are together, the step.

        Returns:
            dict: the terms of ``losses`` as numbers.

        Raises:
            InputError: a term is NaN or infinite; the weights are those before the batch.
        """
        if self.scaler is None:  # of a loop that is not ours
            self.start_scaler()
        self.group = group = self._batches_of_step()
        if self.accumulated == 0:
            self.optimizer.zero_grad()
        with self._replica_as_model():
            total, terms = self.losses(data)
            arriving = Arriving(terms)
            self.scaler.scale(total / group).backward()
        numbers = self.check_finite(arriving.numbers())
        self.accumulated += 1
        if self.accumulated == group:
            self.step()
        return numbers

    def _batches_of_step(self):
        """``train.accumulate``, or what is left of the epoch."""
        accumulate = self.settings.accumulate if self.settings is not None else 1
        return min(accumulate, self.num_batches - (self.batch_idx - self.accumulated))

    def step(self):
        """Move the weights by the mean of the gradients that have been accumulated.

        Gradients that are not finite leave them where they are; :meth:`check_steps` says so.
        """
        if self.accumulated < self.group:  # fewer batches came than were to be averaged
            for parameter in self.model.parameters():
                if parameter.grad is not None:
                    parameter.grad.mul_(self.group / self.accumulated)
        self.scaler.unscale_(self.optimizer)
        gradients = self._gradients()
        norms = torch._foreach_norm(list(gradients.values()))  # a scalar tensor each
        limit = self.settings.clip_grad_norm if self.settings is not None else 0
        if limit:
            limit_norm(list(gradients.values()), norms, limit)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.accumulated = 0
        self.taken.append(Step(self.batch_idx, Arriving(dict(zip(gradients, norms, strict=True)))))

    def _gradients(self):
        """Name of a parameter → its gradient, of those that the optimizer moves."""
        names = {parameter: name for name, parameter in self.model.named_parameters()}
        moved = [p for group in self.optimizer.param_groups for p in group['params']]
        return {
            names.get(parameter, f'parameter {number} of the optimizer'): parameter.grad
            for number, parameter in enumerate(moved)
            if parameter.grad is not None
        }

    def check_steps(self, but=0):
        """Log the norms of the gradients of the steps so far, but for the last few.

        Raises:
            InputError: a gradient was NaN or infinite; the weights are those before that step. In
                fp16 that is common while the scale of the loss is too high: such a step is left
                out, and the scale halved. Or its norm is beyond float32, after the step.
        """
        while len(self.taken) > but:
            step = self.taken.pop(0)
            norms = step.norms.numbers()
            broken = [f'{name}: {norm}' for name, norm in norms.items() if not math.isfinite(norm)]
            if not broken:
                self.log_gradient_norm(step.batch_idx, math.hypot(*norms.values()))
            elif self._is_scaled() and self.scaler.get_scale() >= 1:
                self.log_gradient_norm(step.batch_idx, None)
            else:
                raise InputError(
                    f'training stopped: the gradients of {len(broken)} of {len(norms)} parameters '
                    f'are not finite ({broken[0]}) in epoch {self.epoch + 1}, batch '
                    f'{step.batch_idx + 1}; last good checkpoint: '
                    f'{self.last_checkpoint or "none yet"}'
                )

    def log_gradient_norm(self, batch_idx, norm):
        """For the loop of an epoch: of the step after a batch; None: it was left out."""

    def check_finite(self, losses):
        """The losses, or InputError when one is NaN or infinite: the run stops there."""
        broken = [f'{name} {value}' for name, value in losses.items() if not math.isfinite(value)]
        if broken:
            raise InputError(
                f'training stopped: {", ".join(broken)} in epoch {self.epoch + 1}, batch '
                f'{self.batch_idx + 1}; last good checkpoint: {self.last_checkpoint or "none yet"}'
            )
        return losses

    def check_identities(self, pids, weight):
        """InputError for a batch of one identity under a triplet loss of some weight."""
        if weight > 0 and (pids == pids[0]).all():
            raise InputError(
                f'training stopped: all clips or images of epoch {self.epoch + 1}, batch '
                f'{self.batch_idx + 1} are of one identity, and the triplet loss '
                f'(loss.triplet.weight_t {weight}) needs two: batches of IdentityPassSampler and '
                'RandomIdentitySampler have them (sampler.train_sampler); last good checkpoint: '
                f'{self.last_checkpoint or "none yet"}'
            )

    def replicate(self):
        """Of many processes: make the replica, again when other parameters train than before."""
        trained = [parameter.requires_grad for parameter in self.model.parameters()]
        if trained != self._replicated:
            self.replica = None  # its hooks go before those of the next come
            self.replica = replicate(self.model, **self.ddp_options)
            self._replicated = trained

    @contextlib.contextmanager
    def _replica_as_model(self):
        """In the block ``self.model``, of which a step wants only outputs, is the replica."""
        model = self.model
        self.model = model if self.replica is None else self.whole_batch(self.replica)
        try:
            yield
        finally:
            self.model = model

    def whole_batch(self, replica):
        """A function of the own images that gives the replica's outputs for those of all."""
        return lambda images: map_tensors(gather, replica(images))


class Step(NamedTuple):
    """A step that the device was told to make."""

    batch_idx: int  # after which batch
    norms: 'Arriving'  # of the gradients, by parameter


def limit_norm(gradients, norms, limit):
    """Scale gradients in place so that the norm of all together is at most ``limit``.

    Args:
        gradients (list): tensors.
        norms (list): their norms, as scalar tensors on the same device: nothing waits for them.
        limit (float): positive.
    """
    norm = torch.linalg.vector_norm(torch.stack(norms))
    torch._foreach_mul_(gradients, (limit / norm).clamp(max=1))


class Arriving:
    """Scalar tensors on their way to the host: on a GPU the computation goes on meanwhile."""

    def __init__(self, tensors):
        self.names = list(tensors)
        stacked = torch.stack([tensor.detach() for tensor in tensors.values()])
        self.values = stacked.to('cpu', non_blocking=True)
        self.arrived = torch.cuda.Event() if stacked.is_cuda else None
        if self.arrived:
            self.arrived.record()

    def numbers(self):
        """Name → number, once they are there."""
        if self.arrived:
            self.arrived.synchronize()
        return dict(zip(self.names, self.values.tolist(), strict=True))
