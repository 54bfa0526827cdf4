"""A model and loaders → every target evaluated by protocol, printed and written."""

import os
from dataclasses import dataclass, field

import torch
import torchreid

from .data.clip_plans import ClipPlan
from .epoch_log import EpochLog
from .errors import InputError, resource_errors
from .evaluation import (
    PROTOCOLS,
    Evaluation,
    Stopwatch,
    TestOptions,
    apply_protocol,
    distances_in_rows,
    extract_features,
    host_lines,
    rank_tracklets,
    results_table,
    write_metrics,
)
from .feature_store import FeatureStore, fingerprint
from .features import encode_clips, frame_model, pool_tracklets


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
    seed: int | None = None  # of all that is random in a step; None leaves the generators alone
    facts: dict = field(default_factory=dict)  # of the run, for checkpoints and metrics.json
    config: dict = field(default_factory=dict)  # key → plain value, for checkpoints
    # set when a run is resumed
    best_map: float = -1.0  # of the run so far
    rank1: float = 0.0  # of the last evaluation
    unfinished: EpochLog | None = None  # the epoch that was interrupted
    last_checkpoint: str | None = None


class TestingMixin:
    """Put before an engine of the host: ``test`` by protocol, clip plan and feature store."""

    __test__ = False  # no test case, whatever its name makes pytest think
    settings = None  # a RunSettings; the defaults when nobody sets it
    evaluations = ()  # plain dictionaries, as in metrics.json

    @property
    def bad_frames(self):
        """Paths of frames left out in training and testing (``data.bad_frames skip``)."""
        return self.__dict__.setdefault('_bad_frames', [])

    def complete_settings(self):
        self.settings = self.settings or RunSettings()
        if self.settings.plan is None and self._is_video:
            self.settings.plan = self.datamanager.plan

    def test(self, save_dir='', **options):
        """Evaluate on every target, print and write the results.

        Args:
            save_dir (str): run folder, gets ``metrics.json``.
            **options: those of the host's ``Engine.test``, see :class:`TestOptions`.

        Returns:
            float: rank-1 of the first target.

        Raises:
            InputError: features that are not finite, unreadable frames, files that cannot be
                written.
        """
        options = TestOptions(**options)
        self.complete_settings()
        self.set_model_mode('eval')
        with resource_errors('test.batch_size'):
            results = [self._test_target(name, options, save_dir) for name in self.test_loader]
        print(results_table(results, options.ranks))
        bad_frames = sorted(set(self.bad_frames))
        if bad_frames:
            shown = '\n  '.join(bad_frames[:10])
            print(f'{len(bad_frames)} unreadable frames left out, see metrics.json:\n  {shown}')
        self.evaluations = [*self.evaluations, *(e.as_dict(options.ranks) for e in results)]
        if save_dir:
            facts = {**self.settings.facts, 'bad_frames': bad_frames}
            write_metrics(save_dir, self.evaluations, facts)
        return results[0].ranking.rank(1)

    def _test_target(self, name, options, save_dir):
        watch, protocol = Stopwatch(), PROTOCOLS[self.settings.protocol]
        extract = self.extract_tracklets if self._is_video else self._extract_images
        query, gallery = (extract(name, mode) for mode in ('query', 'gallery'))
        if options.normalize_feature:
            query, gallery = query.normalized(), gallery.normalized()
        needs_queries = getattr(self.datamanager, 'gallery_needs_queries', {}).get(name, False)
        searched = apply_protocol(query, gallery, protocol, needs_queries)
        seconds = {'extraction': watch()}
        ranking = rank_tracklets(query, searched, protocol, options)
        seconds['ranking'] = watch()
        print(f'##### {name}: protocol {self.settings.protocol} #####')
        print(host_lines(ranking, options.ranks))
        if options.visrank:
            self._draw_ranks(name, query, searched, options, save_dir)
        if self.writer is not None:
            self.writer.add_scalar(f'Test/{name}/rank1', ranking.rank(1), self.epoch)
            self.writer.add_scalar(f'Test/{name}/mAP', ranking.mean_ap, self.epoch)
        return Evaluation(
            dataset=name,
            ranking=ranking,
            protocol=self.settings.protocol,
            **protocol._asdict(),
            frames=self.settings.plan.title if self._is_video else 'image',
            flip=self.settings.flip,
            dist_metric=options.dist_metric,
            reranked=options.rerank,
            num_query=len(query.pids),
            num_gallery=len(searched.pids),
            feature_dim=query.features.shape[1],
            seconds=seconds,
            epoch=None if self.epoch is None else self.epoch + 1,
        )

    def extract_tracklets(self, name, mode):
        """Every frame of the plan once, or from ``test.features_dir``."""
        settings, data = self.settings, self.datamanager
        tracklets = data.test_dataset[name][mode]
        model = frame_model(self.model, getattr(self, 'pooling_method', 'avg'))

        def encode(plan):
            loader = data.planned_clips(tracklets, plan, settings.batch_size)
            title, bad_frames = f'{name} {mode}', self.bad_frames
            # named here: the feature store takes a RuntimeError for a failed write
            with resource_errors('test.batch_size'):
                yield from encode_clips(
                    loader, model, self.prepare, settings.flip, title, bad_frames
                )

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
        unreadable = store.unreadable_paths()
        if unreadable and not data.skip_bad:
            raise InputError(
                f'{store.path} was made without {len(unreadable)} unreadable frames, first '
                f'{unreadable[0]}: mend them, or set data.bad_frames skip'
            )
        self.bad_frames.extend(unreadable)
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

    def parse_data_for_eval(self, data):
        return super().parse_data_for_eval({**data, 'img': self.prepare(data['img'])})

    def prepare(self, images, draws=None):
        """To the device, and there augmented and to normalised floats; floats are finished."""
        images = images.to('cuda' if self.use_gpu else 'cpu', non_blocking=True)
        if images.dtype != torch.uint8:
            return images
        if draws is not None:
            images = self.datamanager.augmentation.apply(images, draws)
        return self.datamanager.normalize(images)

    def _draw_ranks(self, name, query, searched, options, save_dir):
        """The host's pictures of ranked results; they need all distances at once."""
        queries, gallery = self.datamanager.fetch_test_loaders(name)
        if len(searched.pids) > len(gallery):  # the protocol searches the queries, too
            gallery = gallery + queries
        torchreid.utils.visualize_ranked_results(
            torch.cat(list(distances_in_rows(query, searched, options))).numpy(),
            (queries, gallery),
            self.datamanager.data_type,
            width=self.datamanager.width,
            height=self.datamanager.height,
            save_dir=os.path.join(save_dir, f'visrank_{name}'),
            topk=min(options.visrank_topk, len(gallery)),
        )
