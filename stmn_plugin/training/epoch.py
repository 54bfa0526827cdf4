"""A model and a loader → one epoch of steps, timed, printed and logged, that can stop between two.

The host's loop, with its printed line and its TensorBoard scalars, and three things more: what is
random in a step depends on (seed, epoch, step) only; an epoch can be entered at any batch; a signal
ends it after the step at hand. The step itself is in ``step.py``.
"""

import datetime
import functools
import time

from tqdm import tqdm

from stmn_plugin.data.prefetch import SideStream, TimedIterator, prefetch
from stmn_plugin.distributed import is_main, rank, world_size
from stmn_plugin.errors import resource_errors
from stmn_plugin.interrupt import Interruption
from stmn_plugin.randomness import seed_everything

from .epoch_log import EpochLog
from .speed import same_shapes
from .step import StepMixin


class TrainingMixin(StepMixin):
    """Put before an engine of the host: ``train``, one epoch."""

    log = None  # EpochLog of the epoch in progress
    interruption = Interruption()  # not entered: nothing is ever requested
    settings = None  # a RunSettings
    last_checkpoint = None  # its path

    def train(self, print_freq=10, fixbase_epoch=0, open_layers=None):
        """One epoch, or what ``log`` says is left of it.

        Raises:
            Interrupted: a signal came; ``stop_in_epoch`` has saved the state after the last step.
            InputError: out of memory, or a worker died; nothing is saved, as the step was cut.
        """
        self.set_model_mode('train')
        self.two_stepped_transfer_learning(self.epoch, fixbase_epoch, open_layers)
        self.replicate()
        if self.log is None or self.log.epoch != self.epoch + 1:
            self.log = EpochLog(self.epoch + 1)
        if hasattr(self.datamanager, 'batch_sampler'):  # ours: it can start anywhere
            self.datamanager.batch_sampler.set_epoch(self.epoch, self.log.batches)
        self.num_batches = len(self.train_loader)
        under_way = int(self.use_gpu)  # the newest step: to look at it would be to wait for it
        kept = f'; last good checkpoint: {self.last_checkpoint or "none yet"}'
        errors = resource_errors('train.batch_size', kept)
        with self._progress_bar() as bar, errors, same_shapes():
            mark = time.perf_counter()
            for index, data, waited in self._timed_batches(self.log.batches):
                self.batch_idx = index
                losses = self.forward_backward(data)
                self.check_steps(but=under_way)
                now = time.perf_counter()
                seconds, mark = now - mark, now
                images = count_images(data['img']) * world_size()
                self.log.add(losses, images, seconds, waited)
                self.log.learning_rate = self.get_current_lr()
                self._report_step(losses, seconds, waited, print_freq, bar)
                between = self.batch_idx + 1 < self.num_batches and self.accumulated == 0
                if between and self.interruption.agreed():
                    self.check_steps()
                    self.stop_in_epoch()
            if self.accumulated:  # the loader ended before it said it would
                self.step()
            self.check_steps()
        self.log.trained = True
        self.update_lr()

    def stop_in_epoch(self):
        """Save what is needed to go on after this step, and end the run."""
        self.interruption.stop()

    def _timed_batches(self, first):
        """(index, batch, seconds blocked on the loader since the last), from batch ``first`` on."""
        reading = TimedIterator(self._read_batches(first))
        batches = prefetch(reading, self._prepare_batch, self._side) if self.use_gpu else reading
        for index, data in enumerate(batches, first):
            self._seed_step(index + 1)  # whatever has been read since: the next batch, for example
            yield index, data, reading.take_seconds()

    def _read_batches(self, first):
        self._seed_step(0)  # the host's loaders draw their order here
        batches = iter(self.train_loader)
        # the host's loaders start at their beginning: batches that are done are read and dropped
        index = first if hasattr(self.datamanager, 'batch_sampler') else 0
        while index < self.num_batches:
            self._seed_step(index + 1)  # the host's loaders augment here
            data = next(batches, None)
            if data is None:  # the host's RandomIdentitySampler promises more than it has
                return
            if index >= first:
                yield data
            index += 1

    @functools.cached_property
    def _side(self):
        return SideStream()  # one for all epochs: each stream keeps memory of its own

    def _prepare_batch(self, data):
        """With what a step does to a batch first done, so that the step finds nothing to do."""
        images = self.prepare(data['img'], data.get('augmentation'))
        return {**data, 'img': images, 'pid': data['pid'].to(images.device, non_blocking=True)}

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
            for name, value in scalars.items():
                self._write_scalar(name, value, self.batch_idx)

    def log_gradient_norm(self, batch_idx, norm):
        self.log.add_step(norm)
        if self.writer is not None and norm is not None:
            self._write_scalar('gradient_norm', norm, batch_idx)

    def _write_scalar(self, name, value, batch_idx):
        step = self.epoch * self.num_batches + batch_idx
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
        norms = f'gradient norm {log.mean_norm:.4g}, at most {log.largest_norm:.4g}'
        if log.skipped_steps:  # in fp16
            norms = f'{norms if log.steps else "no step"}, {log.skipped_steps} steps left out'
        print(
            f'Epoch {log.epoch}/{self.max_epoch}: {losses}; {norms}; '
            f'{log.images_per_second:.1f} images/s, '
            f'{log.data_wait:.1%} of the time waiting for data, ETA {self.remaining_time()}'
        )


def count_images(images):
    """Of a batch of clips (B, L, 3, H, W) or images (B, 3, H, W)."""
    return images.shape[0] * (images.shape[1] if images.dim() == 5 else 1)
