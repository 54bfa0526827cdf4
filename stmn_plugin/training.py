"""A model and a loader → one epoch of steps, timed, printed and logged, that can stop between two.

The host's loop, with its printed line and its TensorBoard scalars, and three things more: what is
random in a step depends on (seed, epoch, step) only; an epoch can be entered at any batch; a signal
ends it after the step at hand. The step is the same for every model: an engine says what its
losses are (``losses``), here they become gradients and, of ``train.accumulate`` batches, a step.
"""

import contextlib
import datetime
import math
import time

import torch
from tqdm import tqdm

from .distributed import gather, is_main, rank, replicate, world_size
from .epoch_log import EpochLog
from .errors import InputError, resource_errors
from .interrupt import Interruption
from .randomness import seed_everything
from .speed import autocast, same_shapes


class TrainingMixin:
    """Put before an engine of the host: ``train``, one epoch."""

    log = None  # EpochLog of the epoch in progress
    interruption = Interruption()  # not entered: nothing is ever requested
    settings = None  # a RunSettings
    last_checkpoint = None  # its path
    scaler = torch.amp.GradScaler('cpu', enabled=False)  # of train.amp fp16: one for the run
    accumulated = 0  # batches whose gradients wait for the step
    replica = None  # of many processes: what stands in for the model in a step
    _replicated = None  # which parameters it trains
    ddp_options = {'static_graph': True}  # some models hold parameters that no output needs

    def train(self, print_freq=10, fixbase_epoch=0, open_layers=None):
        """One epoch, or what ``log`` says is left of it.

        Raises:
            Interrupted: a signal came; ``stop_in_epoch`` has saved the state after the last step.
            InputError: out of memory, or a worker died; nothing is saved, as the step was cut.
        """
        self.set_model_mode('train')
        self.two_stepped_transfer_learning(self.epoch, fixbase_epoch, open_layers)
        self._replicate()
        if self.log is None or self.log.epoch != self.epoch + 1:
            self.log = EpochLog(self.epoch + 1)
        if hasattr(self.datamanager, 'batch_sampler'):  # ours: it can start anywhere
            self.datamanager.batch_sampler.set_epoch(self.epoch, self.log.batches)
        self.num_batches = len(self.train_loader)
        kept = f'; last good checkpoint: {self.last_checkpoint or "none yet"}'
        errors = resource_errors('train.batch_size', kept)
        with self._progress_bar() as bar, errors, same_shapes():
            mark = time.perf_counter()
            for index, data, waited in self._timed_batches(self.log.batches):
                self.batch_idx = index
                with self._replica_as_model():
                    losses = self.forward_backward(data)
                now = time.perf_counter()
                seconds, mark = now - mark, now
                images = count_images(data['img']) * world_size()
                self.log.add(losses, images, seconds, waited)
                self.log.learning_rate = self.get_current_lr()
                self._report_step(losses, seconds, waited, print_freq, bar)
                between = self.batch_idx + 1 < self.num_batches and self.accumulated == 0
                if between and self.interruption.agreed():
                    self.stop_in_epoch()
            if self.accumulated:  # the loader ended before it said it would
                self._step()
        self.log.trained = True
        self.update_lr()

    def losses(self, data):
        """Of one batch.

        Returns:
            tuple: the loss that is differentiated, and every term to log by name, scalar tensors.
        """
        raise NotImplementedError

    def autocast(self):
        """The precision that a forward of the model runs in; losses are computed outside."""
        amp = self.settings.amp if self.settings is not None else 'off'
        return autocast('cuda' if self.use_gpu else 'cpu', amp)

    def forward_backward(self, data):
        """One batch: losses, gradients and, when the batches of a step are together, the step.

        Returns:
            dict: the terms of :meth:`losses` as numbers.

        Raises:
            InputError: a term is NaN or infinite; the weights are those before the batch.
        """
        group = self._batches_of_step()
        last = self.accumulated + 1 == group
        if self.accumulated == 0:
            self.optimizer.zero_grad()
        with self._gradients_shared(last):
            total, terms = self.losses(data)
            arriving = Arriving(terms)
            self.scaler.scale(total / group).backward()
        numbers = self.check_finite(arriving.numbers())
        self.accumulated += 1
        if last:
            self._step()
        return numbers

    def _gradients_shared(self, shared):
        """A block whose gradients many processes average, or keep until those of the step do."""
        if shared or self.replica is None:
            return contextlib.nullcontext()
        return self.replica.no_sync()

    def _batches_of_step(self):
        """``train.accumulate``, or what is left of the epoch."""
        accumulate = self.settings.accumulate if self.settings is not None else 1
        return min(accumulate, self.num_batches - (self.batch_idx - self.accumulated))

    def _step(self):
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.accumulated = 0

    def check_finite(self, losses):
        """The losses, or InputError when one is NaN or infinite: the run stops there."""
        broken = [f'{name} {value}' for name, value in losses.items() if not math.isfinite(value)]
        if broken:
            raise InputError(
                f'training stopped: {", ".join(broken)} in epoch {self.epoch + 1}, batch '
                f'{self.batch_idx + 1}; last good checkpoint: {self.last_checkpoint or "none yet"}'
            )
        return losses

    def stop_in_epoch(self):
        """Save what is needed to go on after this step, and end the run."""
        self.interruption.stop()

    def _timed_batches(self, first):
        """(index, batch, seconds waited for it), from batch ``first`` on."""
        start = time.perf_counter()
        self._seed_step(0)  # the host's loaders draw their order here
        batches = iter(self.train_loader)
        # the host's loaders start at their beginning: batches that are done are read and dropped
        index = first if hasattr(self.datamanager, 'batch_sampler') else 0
        while index < self.num_batches:
            self._seed_step(index + 1)
            data = next(batches, None)
            if data is None:  # the host's RandomIdentitySampler promises more than it has
                return
            if index >= first:
                yield index, data, time.perf_counter() - start
                start = time.perf_counter()  # of the wait for the next one
            index += 1

    def _replicate(self):
        """Again when other parameters train than before, as a replica knows no others."""
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
        return lambda images: gather_outputs(replica(images))

    def _seed_step(self, step):
        """Data do not depend on these generators; dropout differs from process to process."""
        if self.settings is not None and self.settings.seed is not None:
            seed_everything(self.settings.seed, self.epoch, step, rank())

    def _progress_bar(self):
        return tqdm(
            total=self.num_batches,
            initial=self.log.batches,
            desc=f'epoch {self.epoch + 1}/{self.max_epoch}',
            unit='batch',
            leave=False,
            disable=None if is_main() else True,
        )

    def _report_step(self, losses, seconds, waited, print_freq, bar):
        log, averages = self.log, self.log.averages
        mean_seconds, mean_waited = log.seconds / log.batches, log.data_seconds / log.batches
        bar.set_postfix(
            {name: f'{averages[name]:.3f}' for name in list(averages)[:1]}
            | {'images/s': f'{log.images_per_second:.0f}', 'data': f'{log.data_wait:.0%}'},
            refresh=False,
        )
        bar.update()
        if log.batches % print_freq == 0:
            named = [f'{k} {float(v):.4f} ({averages[k]:.4f})' for k, v in (losses or {}).items()]
            parts = [
                f'epoch: [{self.epoch + 1}/{self.max_epoch}][{log.batches}/{self.num_batches}]',
                f'time {seconds:.3f} ({mean_seconds:.3f})',
                f'data {waited:.3f} ({mean_waited:.3f})',
                f'eta {self.remaining_time()}',
                *named,
                f'lr {log.learning_rate:.6f}',
            ]
            print('\t'.join(parts))
        if self.writer is not None:
            scalars = {'time': mean_seconds, 'data': mean_waited, **averages}
            scalars['lr'] = log.learning_rate
            step = self.epoch * self.num_batches + self.batch_idx
            for name, value in scalars.items():
                self.writer.add_scalar(f'Train/{name}', value, step)

    def remaining_time(self):
        """Time to the end of training at the pace of this epoch, evaluations not counted."""
        log = self.log
        batches = self.num_batches - log.batches
        batches += (self.max_epoch - self.epoch - 1) * self.num_batches
        seconds = batches * log.seconds / log.batches if log.batches else 0
        return datetime.timedelta(seconds=int(max(seconds, 0)))

    def print_epoch(self):
        """One line at the end of an epoch."""
        log = self.log
        losses = ', '.join(f'{name} {value:.4f}' for name, value in log.averages.items())
        print(
            f'Epoch {log.epoch}/{self.max_epoch}: {losses}; {log.images_per_second:.1f} images/s, '
            f'{log.data_wait:.1%} of the time waiting for data, ETA {self.remaining_time()}'
        )


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


def gather_outputs(outputs):
    """A model's tensor, or tuple or list of such, for the images of all processes."""
    if isinstance(outputs, (list, tuple)):
        return type(outputs)(map(gather_outputs, outputs))
    return gather(outputs)


def count_images(images):
    """Of a batch of clips (B, L, 3, H, W), images (B, 3, H, W), or a list of such."""
    if isinstance(images, (list, tuple)):  # the host's k_tfm > 1
        return sum(map(count_images, images))
    return images.shape[0] * (images.shape[1] if images.dim() == 5 else 1)
