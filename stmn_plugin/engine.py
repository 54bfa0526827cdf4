"""The host's engines with what a run needs: clips, checks, protocols, checkpoints, a run folder.

``RunMixin`` is put before any engine of the host; ``VideoSTMNEngine`` adds the training step of
STMN. Everything else is the host's: its training loop, its TensorBoard scalars, its learning rates.
"""

import math
import os
from dataclasses import dataclass, field

import torch
import torchreid
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from .checkpoint import save_checkpoint
from .data.clip_plans import ClipPlan
from .errors import InputError
from .evaluation import (
    Evaluation,
    Stopwatch,
    apply_protocol,
    extract_features,
    host_lines,
    rank_features,
    read_evaluations,
    remove_metrics,
    results_table,
    write_metrics,
)
from .feature_store import FeatureStore, fingerprint
from .features import encode_clips, frame_model, pool_tracklets
from .losses import BatchHardTripletLoss, STMNCriterion


@dataclass
class RunSettings:
    """What the host's ``run`` has no argument for."""

    protocol: str = 'official'
    plan: ClipPlan | None = None  # frames of a tracklet that are tested; None: as in training
    flip: bool = False  # average with the mirrored clip
    batch_size: int = 32  # clips at a time in testing
    features_dir: str = ''  # where vectors of frames are kept
    save_freq: int = 1  # epochs between checkpoints
    keep_last: int = 2  # checkpoints that stay
    best_map: float = -1.0  # of the run so far; set when a run is resumed
    facts: dict = field(default_factory=dict)  # of the run, for checkpoints and metrics.json


class RunMixin:
    """Training that checks itself and evaluation by protocol, for any engine of the host."""

    settings = None  # a RunSettings; the defaults when nobody sets it
    evaluations = ()  # plain dictionaries, as in metrics.json

    @property
    def bad_frames(self):
        """Paths of frames left out in training and testing (``data.bad_frames skip``)."""
        return self.__dict__.setdefault('_bad_frames', [])

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
        **test_options,
    ):
        """Train and evaluate, or only evaluate; arguments are those of the host's ``Engine.run``.

        Writes checkpoints, TensorBoard events and ``metrics.json`` into ``save_dir``. An evaluation
        that fails costs no epoch: the checkpoint is written all the same.

        Raises:
            InputError: a loss or feature that is not finite, or a file that cannot be written.
        """
        self._complete_settings()
        self.evaluations = read_evaluations(save_dir) if start_epoch else []
        if test_only:
            self.epoch = None
            self.test(save_dir=save_dir, **test_options)
            return
        test_options.update(visrank=False, rerank=False)  # the host leaves them to testing, too
        self.save_dir, self.rank1 = save_dir, 0.0
        self.start_epoch, self.max_epoch = start_epoch, max_epoch
        self.last_checkpoint = None
        if not start_epoch:
            remove_metrics(save_dir)  # an earlier run's: no result of this one
        self.writer = SummaryWriter(log_dir=save_dir)
        try:
            for self.epoch in range(start_epoch, max_epoch):
                self.train(print_freq, fixbase_epoch, open_layers)
                done = self.epoch + 1
                last = done == max_epoch
                evaluate = last or (eval_freq > 0 and done % eval_freq == 0 and done >= start_eval)
                is_best = False
                try:
                    if evaluate:
                        self.rank1 = self.test(save_dir=save_dir, **test_options)
                        is_best = self._improved()
                finally:
                    if evaluate or done % self.settings.save_freq == 0:
                        self.save_model(self.epoch, self.rank1, save_dir, is_best)
        finally:
            self.writer.close()
            self.writer = None

    def _complete_settings(self):
        self.settings = self.settings or RunSettings()
        if self.settings.plan is None and self._is_video:
            self.settings.plan = self.datamanager.plan

    def train(self, print_freq=10, fixbase_epoch=0, open_layers=None):
        """One epoch of the host's loop, under a progress bar."""
        loader = self.train_loader
        if hasattr(self.datamanager, 'batch_sampler'):
            self.datamanager.batch_sampler.set_epoch(self.epoch)
        self.train_loader = tqdm(
            loader,
            desc=f'epoch {self.epoch + 1}/{self.max_epoch}',
            unit='batch',
            leave=False,
            disable=None,
        )
        try:
            super().train(print_freq, fixbase_epoch, open_layers)
        finally:
            self.train_loader = loader

    def forward_backward(self, data):
        return self.check_finite(super().forward_backward(data))

    def check_finite(self, losses):
        """The losses, or InputError when one is NaN or infinite: the run stops there."""
        broken = [f'{name} {value}' for name, value in losses.items() if not math.isfinite(value)]
        if broken:
            raise InputError(
                f'training stopped: {", ".join(broken)} in epoch {self.epoch + 1}, batch '
                f'{self.batch_idx + 1}; last good checkpoint: {self.last_checkpoint or "none yet"}'
            )
        return losses

    def parse_data_for_train(self, data):
        self.bad_frames.extend(data.get('bad_frames', ()))
        return super().parse_data_for_train({**data, 'img': self._prepare(data['img'])})

    def parse_data_for_eval(self, data):
        return super().parse_data_for_eval({**data, 'img': self._prepare(data['img'])})

    def _prepare(self, images):
        """To the device, and there to normalised floats."""
        images = images.to('cuda' if self.use_gpu else 'cpu', non_blocking=True)
        return self.datamanager.normalize(images) if images.dtype == torch.uint8 else images

    def test(
        self,
        dist_metric='euclidean',
        normalize_feature=False,
        visrank=False,
        visrank_topk=10,
        save_dir='',
        use_metric_cuhk03=False,
        ranks=(1, 5, 10, 20),
        rerank=False,
    ):
        """Evaluate on every target, print and write the results.

        Returns:
            float: rank-1 of the first target.
        """
        self._complete_settings()
        if use_metric_cuhk03:
            raise InputError('cuhk03.use_metric_cuhk03 is not supported: use the new split')
        self.set_model_mode('eval')
        results = []
        for name in self.test_loader:
            evaluation, distances = self._evaluate_target(
                name, dist_metric, normalize_feature, rerank
            )
            print(f'##### {name}: protocol {evaluation.protocol} #####')
            print(host_lines(evaluation.ranking, ranks))
            results.append(evaluation)
            if visrank:
                self._draw_ranks(name, distances, visrank_topk, save_dir)
            if self.writer is not None:
                self.writer.add_scalar(f'Test/{name}/rank1', evaluation.ranking.rank(1), self.epoch)
                self.writer.add_scalar(f'Test/{name}/mAP', evaluation.ranking.mean_ap, self.epoch)
        print(results_table(results, ranks))
        self.evaluations = [
            *self.evaluations,
            *(e.as_dict(ranks) for e in results),
        ]
        bad_frames = sorted(set(self.bad_frames))
        if bad_frames:
            shown = '\n  '.join(bad_frames[:10])
            print(f'{len(bad_frames)} unreadable frames left out, see metrics.json:\n  {shown}')
        if save_dir:
            facts = {**self.settings.facts, 'bad_frames': bad_frames}
            write_metrics(save_dir, self.evaluations, facts)
        return results[0].ranking.rank(1)

    def _evaluate_target(self, name, dist_metric, normalize_feature, rerank):
        watch = Stopwatch()
        extract = self._extract_tracklets if self._is_video else self._extract_images
        query, gallery = (extract(name, mode) for mode in ('query', 'gallery'))
        if normalize_feature:
            query, gallery = (
                t._replace(features=torch.nn.functional.normalize(t.features))
                for t in (query, gallery)
            )
        needs_queries = getattr(self.datamanager, 'gallery_needs_queries', {}).get(name, False)
        searched = apply_protocol(query, gallery, self.settings.protocol, needs_queries)
        seconds = {'extraction': watch()}
        ranking, distances = rank_features(query, searched, dist_metric, rerank)
        seconds['ranking'] = watch()
        evaluation = Evaluation(
            dataset=name,
            ranking=ranking,
            protocol=self.settings.protocol,
            queries_searched=len(searched.pids) > len(gallery.pids),
            frames=self.settings.plan.title if self._is_video else 'image',
            flip=self.settings.flip,
            dist_metric=dist_metric,
            reranked=rerank,
            num_query=len(query.pids),
            num_gallery=len(searched.pids),
            feature_dim=query.features.shape[1],
            seconds=seconds,
            epoch=None if self.epoch is None else self.epoch + 1,
        )
        return evaluation, distances

    def _extract_tracklets(self, name, mode):
        """Every frame of the plan once, or from ``test.features_dir``."""
        settings, data = self.settings, self.datamanager
        tracklets = data.test_dataset[name][mode]
        model = frame_model(self.model, getattr(self, 'pooling_method', 'avg'))

        def encode(plan):
            loader = data.planned_clips(name, mode, plan, settings.batch_size)
            title = f'{name} {mode}'
            return encode_clips(loader, model, self._prepare, settings.flip, title, self.bad_frames)

        if settings.features_dir:
            views = 2 if settings.flip else 1
            store = self._open_store(f'{name}-{mode}', tracklets, encode)
            batches = store.clips(settings.plan, views, settings.batch_size)
        else:
            batches = encode(settings.plan)
        every_frame = settings.plan.frames == 'all'
        return pool_tracklets(batches, model, tracklets, every_frame)

    def _open_store(self, name, tracklets, encode):
        """The stored vectors of all frames, made first when they are not there."""
        data, plan = self.datamanager, self.settings.plan._replace(frames='consecutive')
        made_from = fingerprint(
            self.model,
            tracklets,
            arch=type(self.model).__name__,
            size=[data.height, data.width],
            normalisation=[data.normalize.mean, data.normalize.std],
            flip=self.settings.flip,
        )
        store = FeatureStore(self.settings.features_dir, name, made_from, tracklets)
        if not store.exists():
            store.write(encode(plan), self.bad_frames, plan.seq_len)
        store.open()
        self.bad_frames.extend(store.unreadable_paths())
        return store

    def _extract_images(self, name, mode):
        """Image data: the host's loader, one feature an image."""
        return extract_features(self.test_loader[name][mode], self._extract_batch, f'{name} {mode}')

    def _extract_batch(self, data):
        images, pids, camids = self.parse_data_for_eval(data)
        features = self.extract_features(images)
        if self.settings.flip:
            features = (features + self.extract_features(images.flip(-1))) / 2
        return features, pids, camids

    @property
    def _is_video(self):
        return self.datamanager.data_type == 'video'

    def _draw_ranks(self, name, distances, topk, save_dir):
        query, gallery = self.datamanager.fetch_test_loaders(name)
        if distances.shape[1] > len(gallery):  # the protocol searches the queries, too
            gallery = gallery + query
        torchreid.utils.visualize_ranked_results(
            distances,
            (query, gallery),
            self.datamanager.data_type,
            width=self.datamanager.width,
            height=self.datamanager.height,
            save_dir=os.path.join(save_dir, f'visrank_{name}'),
            topk=min(topk, len(gallery)),
        )

    def _improved(self):
        first = next(iter(self.test_loader))
        mean_ap = [e for e in self.evaluations if e['dataset'] == first][-1]['mAP']
        if mean_ap <= self.settings.best_map:
            return False
        self.settings.best_map = mean_ap
        return True

    def save_model(self, epoch, rank1, save_dir, is_best=False):
        """Write the checkpoint of each registered model; the host can load it.

        Raises:
            InputError: it could not be written; older ones stay.
        """
        settings = self.settings or RunSettings()
        for name in self.get_model_names():
            state = {
                'state_dict': self._models[name].state_dict(),
                'epoch': epoch + 1,
                'rank1': float(rank1),
                'best_map': settings.best_map,
                'facts': settings.facts,
            }
            for part, owner in (('optimizer', self._optims), ('scheduler', self._scheds)):
                if owner[name] is not None:
                    state[part] = owner[name].state_dict()
            self.last_checkpoint = save_checkpoint(
                state, os.path.join(save_dir, name), epoch + 1, settings.keep_last, is_best
            )
            print(f'Checkpoint saved to "{self.last_checkpoint}"')


class VideoSTMNEngine(RunMixin, torchreid.engine.VideoTripletEngine):
    """Trains STMN: one clip, one forward, all terms of Eq. 8.

    Args:
        datamanager (VideoDataManager): loaders of clips.
        model (STMN): on its device.
        optimizer (Optimizer), scheduler (LRScheduler, optional): the host's or torch's.
        use_gpu (bool): when there is one.
        **criterion_options: of :class:`stmn_plugin.losses.STMNCriterion`.
    """

    def __init__(
        self, datamanager, model, optimizer, scheduler=None, use_gpu=True, **criterion_options
    ):
        super().__init__(datamanager, model, optimizer, scheduler=scheduler, use_gpu=use_gpu)
        self.criterion = STMNCriterion(**criterion_options)

    def forward_backward(self, data):
        clips, pids = self.parse_data_for_train(data)
        output = self.model(clips)
        terms = self.criterion(output, pids)
        accuracy = (output.clip_logits.argmax(dim=1) == pids).float().mean()
        losses = {'loss': terms.total.item()}
        losses.update({name: term.item() for name, term in terms._asdict().items()})
        del losses['total']
        self.check_finite(losses)  # before the step: the weights stay good
        self.optimizer.zero_grad()
        terms.total.backward()
        self.optimizer.step()
        return {**losses, 'acc': 100 * accuracy.item()}

    def parse_data_for_train(self, data):
        self.bad_frames.extend(data.get('bad_frames', ()))
        pids = data['pid'].to('cuda' if self.use_gpu else 'cpu')
        return self._prepare(data['img']), pids

    def extract_features(self, input):
        return self.model(input)


class VideoTripletEngine(RunMixin, torchreid.engine.VideoTripletEngine):
    """The host's engine for image models on video; ``soft_margin`` gives it STMN's triplet loss."""

    def __init__(self, *args, soft_margin=False, **kwargs):
        super().__init__(*args, **kwargs)
        if soft_margin:
            self.criterion_t = BatchHardTripletLoss()


class VideoSoftmaxEngine(RunMixin, torchreid.engine.VideoSoftmaxEngine):
    """The host's engine."""


class ImageTripletEngine(RunMixin, torchreid.engine.ImageTripletEngine):
    """The host's engine."""


class ImageSoftmaxEngine(RunMixin, torchreid.engine.ImageSoftmaxEngine):
    """The host's engine."""
