"""Epochs and evaluations → a run: its folder, checkpoints and results, from any state on.

``RunMixin`` is put before any engine of the host. An epoch is in ``training.py``, testing in
``testing.py``; here is what stands around them, in an order in which no moment to be killed at
loses a checkpoint or a line of a result.
"""

import os
from dataclasses import asdict

from stmn_plugin.distributed import is_main
from stmn_plugin.errors import InputError, printable
from stmn_plugin.evaluation.protocols import stored_table
from stmn_plugin.evaluation.testing import RunSettings, TestingMixin
from stmn_plugin.interrupt import Interruption
from stmn_plugin.training.checkpoint import (
    BEST,
    UNFINISHED,
    check_folder,
    checkpoint_path,
    save_checkpoint,
    save_unfinished,
)
from stmn_plugin.training.curves import Curves
from stmn_plugin.training.earlier_run import Start, check_nothing_is_lost, remove_what_is_lost
from stmn_plugin.training.epoch import TrainingMixin
from stmn_plugin.training.metric_files import (
    append_line,
    keep_lines,
    read_evaluations,
    remove_metrics,
)
from stmn_plugin.whole_files import link_or_copy


class RunMixin(TrainingMixin, TestingMixin):
    """Training that checks itself and evaluation by protocol, for any engine of the host."""

    def run(
        self,
        save_dir='log',
        max_epoch=0,
        start_epoch=0,
        print_freq=10,
        fixbase_epoch=0,
        open_layers=None,
        start_eval=0,
        eval_freq=-1,
        test_only=False,
        dist_metric='euclidean',
        normalize_feature=False,
        visrank=False,
        visrank_topk=10,
        use_metric_cuhk03=False,
        ranks=(1, 5, 10, 20),
        rerank=False,
    ):
        """Train and evaluate, or only evaluate; arguments are those of the host's ``Engine.run``.

        Writes checkpoints, TensorBoard events, ``metrics.json`` and ``metrics.jsonl`` into
        ``save_dir``. ``settings`` says from where in ``start_epoch`` to go on.

        Raises:
            InputError: a loss or feature that is not finite, a file that cannot be written, memory
                that does not suffice.
            Interrupted: a signal came and the state is saved.
        """
        test_options = {
            'dist_metric': dist_metric,
            'normalize_feature': normalize_feature,
            'visrank': visrank and test_only,  # the host leaves these two to testing, too
            'visrank_topk': visrank_topk,
            'use_metric_cuhk03': use_metric_cuhk03,
            'ranks': ranks,
            'rerank': rerank and test_only,
        }
        self.complete_settings()
        self.start_scaler()
        with Interruption() as self.interruption:
            if test_only:
                # a test is added to them
                self.evaluations = read_evaluations(save_dir) if is_main() else []
                self.epoch = None
                with self.interruption.at_once():
                    self.test(save_dir=save_dir, **test_options)
                return
            self.start_epoch, self.max_epoch = start_epoch, max_epoch
            self._open_folder(save_dir)
            try:
                if start_epoch >= max_epoch and self.log is None:
                    self._print_finished(start_epoch)
                if self.log is not None and self.log.trained:
                    self.epoch = start_epoch - 1
                    self.num_batches = len(self.train_loader)
                    self._finish_epoch(True, test_options)
                for self.epoch in range(start_epoch, max_epoch):
                    self.train(print_freq, fixbase_epoch, open_layers)
                    done = self.epoch + 1
                    due = eval_freq > 0 and done % eval_freq == 0 and done >= start_eval
                    self._finish_epoch(due or done == max_epoch, test_options)
            finally:
                if self.writer is not None:
                    self.writer.close()
                self.writer = None

    def _print_finished(self, done):
        print(f'Nothing to train: {done} of {self.max_epoch} epochs are done')
        last = [e for e in self.evaluations if e['epoch'] == done]
        print(stored_table(last) if last else f'metrics.json has no evaluation after epoch {done}')

    def make_way(self, save_dir, start_epoch):
        """Leave nothing in a folder that a run from ``start_epoch`` on would write over.

        Raises:
            InputError: something is there and ``overwrite`` of the settings does not say that it
                may go, or there is no such place to go on from.
        """
        settings, models = self.settings, list(self._models)
        if hasattr(self.datamanager, 'batch_sampler'):  # epochs may differ in length
            self.datamanager.batch_sampler.set_epoch(start_epoch)
        log, batches = settings.unfinished, len(self.train_loader)
        if log is not None and not log.trained and log.batches >= batches:
            raise InputError(
                f'model.resume: {settings.last_checkpoint} was saved after batch {log.batches} of '
                f'an epoch, an epoch has {batches} here: the training data differ'
            )
        start = Start(start_epoch, settings.last_checkpoint or '', settings.auto)
        if not settings.overwrite:
            check_nothing_is_lost(save_dir, start, models)
            return
        keys = ('model.load_weights', 'stmn.backbone_weights')
        needed = {key: settings.config.get(key) for key in keys}
        removed = remove_what_is_lost(save_dir, start, models, needed)
        if removed:
            where = printable(save_dir)
            print(f'train.overwrite: removed {len(removed)} files of the run in {where}')

    def _open_folder(self, save_dir):
        """Take up what a run that is gone on from has left; remove what else is there."""
        settings = self.settings
        if is_main():
            self.make_way(save_dir, self.start_epoch)
        self.save_dir, self.rank1 = save_dir, settings.rank1
        self.log, self.last_checkpoint = settings.unfinished, settings.last_checkpoint
        self.evaluations = []
        if not is_main():
            return
        reported = self.start_epoch - (self.log is not None and self.log.trained)
        self.evaluations = [
            e
            for e in (read_evaluations(save_dir) if reported > 0 else [])
            if e['epoch'] is None or e['epoch'] <= reported
        ]
        if not self.evaluations:
            remove_metrics(save_dir)  # an earlier run's: no result of this one
        keep_lines(save_dir, reported)
        self._restore_best()
        if self.start_epoch < self.max_epoch or self.log is not None:
            for name in self._models:  # not found out when the first epoch is trained
                check_folder(os.path.join(save_dir, name))
            first = self.start_epoch * len(self.train_loader)
            self.writer = Curves(save_dir, purge_step=first or None)

    def _restore_best(self):
        """Where ``model-best`` is of a later epoch that is gone, what is left has a best, too."""
        if self.settings.best_map < 0:
            return
        first = next(iter(self.test_loader))
        own = [e for e in self.evaluations if e['dataset'] == first and e['epoch']]
        epoch = max(own, key=lambda e: e['mAP'], default={'epoch': 0})['epoch']
        for folder in (os.path.join(self.save_dir, name) for name in self._models):
            best, path = os.path.join(folder, BEST), checkpoint_path(folder, epoch)
            if os.path.isfile(best):
                continue
            if os.path.isfile(path):
                link_or_copy(path, best)
            else:
                self.settings.best_map = -1.0  # the next that is evaluated

    def _finish_epoch(self, evaluate, test_options):
        """Evaluate, report and save: an epoch is reported before a checkpoint says it is done."""
        results, is_best = [], False
        if evaluate:
            # an evaluation that fails or is interrupted costs no epoch: it is made up for
            self.save_model(self.epoch, self.rank1, self.save_dir)
            known = len(self.evaluations)
            with self.interruption.at_once():
                self.rank1 = self.test(save_dir=self.save_dir, **test_options)
            results, is_best = self.evaluations[known:], self._improved()
        if is_main():
            append_line(self.save_dir, self.log.as_line(results))
        self.print_epoch()
        self.log = None
        stopping = self.interruption.agreed()
        if evaluate or stopping or (self.epoch + 1) % self.settings.save_freq == 0:
            self.save_model(self.epoch, self.rank1, self.save_dir, is_best)
        if stopping:
            self._stop(f'after epoch {self.epoch + 1}')

    def stop_in_epoch(self):
        # as many epochs are finished as before this one; the log says how far this one is
        self.save_model(self.epoch - 1, self.rank1, self.save_dir)
        self._stop(f'in epoch {self.epoch + 1} after batch {self.batch_idx + 1}')

    def _stop(self, where):
        print(f'Interrupted {where}; model.resume auto goes on from there')
        self.interruption.stop()

    def _improved(self):
        first = next(iter(self.test_loader))
        mean_ap = [e for e in self.evaluations if e['dataset'] == first][-1]['mAP']
        if mean_ap <= self.settings.best_map:
            return False
        self.settings.best_map = mean_ap
        return True

    def save_model(self, epoch, rank1, save_dir, is_best=False):
        """Write the checkpoint of each registered model, in the main process; the host loads it.

        Within an epoch, which ``log`` says, it gets a name of its own.

        Raises:
            InputError: it could not be written, or a weight is not finite; older ones stay.
        """
        settings = self.settings or RunSettings()
        within = self.log is not None and not self.log.trained
        for name in self.get_model_names():
            folder = os.path.join(save_dir, name)
            if not is_main():
                path = os.path.join(folder, UNFINISHED)
                self.last_checkpoint = path if within else checkpoint_path(folder, epoch + 1)
                continue
            state = {
                'state_dict': self._models[name].state_dict(),
                'epoch': epoch + 1,
                'rank1': float(rank1),
                'best_map': settings.best_map,
                'facts': settings.facts,
                'config': settings.config,
                'trained_on': settings.trained_on,
                'unfinished': asdict(self.log) if self.log is not None else None,
            }
            if settings.amp == 'fp16':
                state['scaler'] = self.scaler.state_dict()
            for part, owner in (('optimizer', self._optims), ('scheduler', self._scheds)):
                if owner[name] is not None:
                    state[part] = owner[name].state_dict()
            try:
                if within:
                    path = save_unfinished(state, folder)
                else:
                    path = save_checkpoint(state, folder, epoch + 1, settings.keep_last, is_best)
            except InputError as error:
                good = self.last_checkpoint or 'none yet'
                raise InputError(f'{error}; last good checkpoint: {good}') from error
            self.last_checkpoint = path
            print(f'Checkpoint saved to "{printable(self.last_checkpoint)}"')
