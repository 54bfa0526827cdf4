"""A model and loaders → every target evaluated by protocol, printed and written."""

import os

from stmn_plugin.distributed import broadcast, broadcast_buffers, gather_objects, is_main, shard
from stmn_plugin.errors import InputError, printable, resource_errors
from stmn_plugin.peak_memory import peak_memory
from stmn_plugin.training.provenance import config_digests, data_digests
from stmn_plugin.training.speed import InferenceModel, autocast

from .feature_store import FeatureStore
from .features import encode_clips, frame_model, join_tracklets, pool_tracklets
from .fingerprint import fingerprint, weights_digest
from .protocols import (
    PROTOCOLS,
    Evaluation,
    Stopwatch,
    apply_protocol,
    distances_in_rows,
    extract_features,
    host_lines,
    results_table,
    score_tracklets,
)
from .ranked_pictures import draw_ranked_lists
from .ranking import summarize
from .searched import count_searched, is_collapsed
from .settings import TestOptions, TestSettings


class TestingMixin:
    """Put before an engine of the host: ``test`` by protocol, clip plan and feature store."""

    __test__ = False  # no test case, whatever its name makes pytest think
    settings = None  # a TestSettings; the defaults when nobody sets it
    record = None  # a RunRecord
    inference = None  # an InferenceModel, once something was tested

    @property
    def evaluations(self):
        """Plain dictionaries, as in metrics.json."""
        return self.record.evaluations

    @property
    def bad_frames(self):
        """Paths of frames left out in training and testing (``data.bad_frames skip``)."""
        return self.record.bad_frames

    def complete_settings(self):
        self.settings = self.settings or TestSettings()
        if self.settings.plan is None and self._is_video:
            self.settings.plan = self.datamanager.plan

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
        """Evaluate on every target; arguments are those of the host's ``Engine.test``.

        Every process encodes its part of the tracklets, the main one does all the rest. The results
        of a target are in ``metrics.json`` of the run folder ``save_dir`` before they are printed
        and before the next target.

        Returns:
            float: rank-1 of the first target.

        Raises:
            InputError: features that are not finite, unreadable frames, files that cannot be
                written.
        """
        options = TestOptions(
            dist_metric=dist_metric,
            normalize_feature=normalize_feature,
            visrank=visrank,
            visrank_topk=visrank_topk,
            use_metric_cuhk03=use_metric_cuhk03,
            ranks=ranks,
            rerank=rerank,
        )
        self.complete_settings()
        self.set_model_mode('eval')
        broadcast_buffers(self.model)  # batch statistics of training are those of each process
        with resource_errors('test.batch_size'):
            results = [self._test_target(name, options, save_dir) for name in self.test_loader]
        print(results_table(results, options.ranks))
        bad_frames = self.record.all_bad_frames()
        if bad_frames:
            shown = '\n  '.join(map(printable, bad_frames[:10]))
            print(f'{len(bad_frames)} unreadable frames left out, see metrics.json:\n  {shown}')
        return results[0].ranking.rank(1)

    def _test_target(self, name, options, save_dir):
        watch, result = Stopwatch(), None
        query, searched = self.searched_features(name, options)
        if is_main():
            result = self._rank_target(name, query, searched, options, watch)
        result = broadcast(result)
        self.record.add_evaluation(result.as_dict(options.ranks), save_dir)
        if not is_main():
            return result
        print(f'##### {name}: protocol {self.settings.protocol} #####')
        print(host_lines(result.ranking, options.ranks))
        if result.doubt:
            print(f'Warning: {result.doubt}')
        if self.writer is not None:
            self.writer.add_scalar(f'Test/{name}/rank1', result.ranking.rank(1), self.epoch)
            self.writer.add_scalar(f'Test/{name}/mAP', result.ranking.mean_ap, self.epoch)
        if options.visrank:
            self._draw_ranks(name, query, searched, options, save_dir)
        return result

    def _rank_target(self, name, query, searched, options, watch):
        extraction = watch()
        tracklets = sum(map(len, self.datamanager.test_dataset[name].values()))
        seconds = {'extraction': extraction, 'per_tracklet': round(extraction / tracklets, 6)}
        scores = score_tracklets(query, searched, PROTOCOLS[self.settings.protocol], options)
        seconds['ranking'] = watch()
        return self.describe(name, scores, query, searched, options, seconds)

    def describe(self, name, scores, query, searched, options, seconds):
        """``Evaluation`` of the scores of what :meth:`searched_features` gave."""
        protocol = PROTOCOLS[self.settings.protocol]
        queries, tracklets = self.searched_tracklets(name)
        num_searched = count_searched(queries, tracklets)
        features = query.features, searched.features
        return Evaluation(
            dataset=name,
            ranking=summarize(scores, len(searched.pids), protocol.unmatched),
            protocol=self.settings.protocol,
            queries_searched=num_searched == len(queries),
            average_precision=protocol.average_precision,
            unmatched=protocol.unmatched,
            num_query_searched=num_searched,
            num_query_tied=int(scores.tied.sum()),
            collapsed=is_collapsed(features, options.dist_metric),
            frames=self.settings.plan.title if self._is_video else 'image',
            flip=self.settings.flip,
            amp=self.settings.amp,
            dist_metric=options.dist_metric,
            reranked=options.rerank,
            num_query=len(query.pids),
            num_gallery=len(searched.pids),
            feature_dim=query.features.shape[1],
            seconds=seconds,
            normalize_feature=options.normalize_feature,
            weights=weights_digest(self.model),
            peak_memory=peak_memory(),
            epoch=None if self.epoch is None else self.epoch + 1,
            made_from={
                **config_digests(self.record.run.config),
                **data_digests(self.datamanager, name),
            },
        )

    def searched_features(self, name, options):
        """Features of a target's queries and of the gallery that the protocol searches.

        Where the protocol adds the queries to the gallery, they come last in it. Both are None in
        all processes but the main one.
        """
        extract = self.extract_tracklets if self._is_video else self._extract_images
        query, gallery = (extract(name, mode) for mode in ('query', 'gallery'))
        if not is_main():
            return None, None
        if options.normalize_feature:
            query, gallery = query.normalized(), gallery.normalized()
        protocol = PROTOCOLS[self.settings.protocol]
        return query, apply_protocol(query, gallery, protocol, self._needs_queries(name))

    def _needs_queries(self, name):
        return getattr(self.datamanager, 'gallery_needs_queries', {}).get(name, False)

    def searched_tracklets(self, name):
        """The host's tuples of a target's queries, and of what the protocol searches."""
        queries, gallery = (list(x) for x in self.datamanager.fetch_test_loaders(name))
        searches = PROTOCOLS[self.settings.protocol].queries_searched
        return queries, gallery + queries if searches and self._needs_queries(name) else gallery

    def extract_tracklets(self, name, mode):
        """Every frame of the plan once, or from ``test.features_dir``.

        Returns:
            TrackletFeatures: None in all processes but the main one.
        """
        settings, data = self.settings, self.datamanager
        tracklets = data.test_dataset[name][mode]
        tracklets = tracklets[shard([settings.plan.count(len(paths)) for paths, *_ in tracklets])]
        model = frame_model(self.model, getattr(self, 'pooling_method', 'avg'))
        encoder = self._inference_model(model)

        def encode(plan):
            loader = data.planned_clips(tracklets, plan, settings.batch_size)
            title, bad_frames = f'{name} {mode}', self.bad_frames
            # named here: the feature store takes a RuntimeError for a failed write
            with resource_errors('test.batch_size'):
                yield from encode_clips(
                    loader, encoder, self.prepare, settings.flip, title, bad_frames
                )

        if settings.features_dir:
            views = 2 if settings.flip else 1
            store = self._open_store(f'{name}-{mode}', tracklets, encode, views)
            device = 'cuda' if self.use_gpu else 'cpu'
            batches = (
                batch._replace(vectors=batch.vectors.to(device))
                for batch in store.clips(settings.plan, views, settings.batch_size)
            )
        else:
            batches = encode(settings.plan)
        every_frame = settings.plan.frames == 'all'
        features = pool_tracklets(batches, model, tracklets, every_frame) if tracklets else None
        parts = [part for part in gather_objects(features) if part is not None]
        return join_tracklets(parts) if is_main() else None

    def _inference_model(self, model):
        """As the settings want it, with the weights of now; kept, since compiling takes long."""
        settings = self.settings
        if self.inference is not None:
            self.inference.refresh()
        else:
            self.inference = InferenceModel(
                model,
                'cuda' if self.use_gpu else 'cpu',
                settings.amp,
                settings.fold_bn,
                settings.compiled,
            )
        return self.inference

    def _open_store(self, name, tracklets, encode, views):
        """The stored vectors of all frames, made first when they are not there."""
        data, plan = self.datamanager, self.settings.plan._replace(frames='consecutive')
        made_from = fingerprint(
            self.model,
            tracklets,
            self.record.run.config,
            size=[data.height, data.width],
            normalisation=[data.normalize.mean, data.normalize.std],
            amp=self.settings.amp,
        )
        store = FeatureStore(self.settings.features_dir, name, made_from, tracklets)
        if not store.exists():
            store.write(encode(plan), self.bad_frames, plan.seq_len)
        store.open(views)
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
        with autocast('cuda' if self.use_gpu else 'cpu', self.settings.amp):
            features = self.extract_features(images).float()
            if self.settings.flip:
                features = (features + self.extract_features(images.flip(-1)).float()) / 2
        return features, pids, camids

    @property
    def _is_video(self):
        return self.datamanager.data_type == 'video'

    def parse_data_for_eval(self, data):
        return super().parse_data_for_eval({**data, 'img': self.prepare(data['img'])})

    def _draw_ranks(self, name, query, searched, options, save_dir):
        """Pictures of ranked results, a folder or a sheet for every query."""
        draw_ranked_lists(
            distances_in_rows(query, searched, options),
            query,
            searched,
            self.searched_tracklets(name),
            os.path.join(save_dir, f'visrank_{name}'),
            options.visrank_topk,
            (self.datamanager.width, self.datamanager.height),
        )
