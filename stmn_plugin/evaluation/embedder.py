"""Compute a feature of each tracklet with a trained model: ``Embedder(model, plan)(tracklets)``.

Frames are read, resized and normalised for the model; no data manager or training set is needed.
"""

from collections.abc import Iterable, Iterator, Sequence

import torch
from torch import Tensor
from tqdm import tqdm

from stmn_plugin.data.clip_plans import ClipBatch, clip_loader
from stmn_plugin.data.clips import IMAGENET_MEAN, IMAGENET_STD, Normalize, Prepare
from stmn_plugin.data.frame_samplers import ClipPlan
from stmn_plugin.data.tracklets import Frames, Tracklet, as_tracklets
from stmn_plugin.distributed import gather_objects, is_main, shard
from stmn_plugin.errors import InputError, resource_errors
from stmn_plugin.models.base import VideoModel
from stmn_plugin.numerals import counted
from stmn_plugin.training.speed import InferenceModel

from .feature_store import FeatureFolder, FeatureStore
from .features import (
    ClipFeatures,
    ClipVectors,
    TrackletFeatures,
    clips_of_vectors,
    join_tracklets,
    mean_over_clips,
    mean_over_views,
)
from .fingerprint import fingerprint


class Embedder:
    """Compute features of tracklets.

    A ``frame_once`` model encodes each frame once for all of its clips; any other model encodes
    clip by clip. A tracklet's feature is the mean over its clips, and over the mirrored ones, after
    ``model.finish``. For a model that joins scores of clips, the compared vectors of all clips are
    returned, too; for one that rescores pairs, their mean for each tracklet.

    Args:
        model: a model on the device; it is set to eval mode.
        plan: rule of division of tracklets into clips; ``model.spec.plan`` by default, or, without
            a spec, one clip by RRS.
        device: 'cuda' or 'cpu'.
        amp: precision of encoding: 'off', 'bf16' or 'fp16'.
        flip: average with the mirrored clips.
        batch_size: clips per batch.
        store: folder in which vectors of frames are stored.
        height: height of a frame in pixels; ``model.spec`` has the defaults of this and the
            next three.
        width: width of a frame in pixels.
        mean: mean of the colours, for values from 0 to 1.
        std: standard deviations of the colours.
        workers: worker processes; 0 reads in this process.
        skip_bad: skip unreadable frames instead of raising; :attr:`bad_frames` lists them.
        fold_bn: fold batch norms of encoders into their convolutions.
        compiled: compile the encoders.

    Raises:
        InputError: a store for a model without vectors of frames.
    """

    def __init__(
        self,
        model: VideoModel,
        plan: ClipPlan | None = None,
        device: str = 'cpu',
        amp: str = 'off',
        flip: bool = False,
        batch_size: int = 32,
        store: FeatureFolder | None = None,
        *,
        height: int | None = None,
        width: int | None = None,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        workers: int = 0,
        skip_bad: bool = False,
        fold_bn: bool = True,
        compiled: bool = False,
    ):
        if store is not None and not model.frame_once:
            raise InputError(
                f'test.features_dir: {type(model).__name__} encodes whole clips, there are no '
                'vectors of frames to keep'
            )
        spec = getattr(model, 'spec', None)
        self.model = model.eval()
        self.plan = plan or (spec.plan if spec else ClipPlan(model.seq_len))
        self.device = device
        self.amp = amp
        self.flip = flip
        self.batch_size = batch_size
        self.store = store
        self.height = height or (spec.height if spec else 256)
        self.width = width or (spec.width if spec else 128)
        self.mean = list(mean or (spec.norm_mean if spec else IMAGENET_MEAN))
        self.std = list(std or (spec.norm_std if spec else IMAGENET_STD))
        self.workers = workers
        self.skip_bad = skip_bad
        self.fold_bn = fold_bn
        self.compiled = compiled
        self.prepare = Prepare(device, Normalize(self.mean, self.std))
        self.bad_frames: list[str] = []  # paths of skipped frames
        self._inference: InferenceModel | None = None

    def __call__(
        self, tracklets: Iterable[Tracklet | Frames], name: str = 'tracklets'
    ) -> TrackletFeatures | None:
        """Compute features of tracklets with the current weights.

        With several processes each encodes a part.

        Args:
            tracklets: the host's 4-tuples, or only the paths of the frames of each.
            name: name for the progress bar and the files of the store.

        Returns:
            Features on the CPU in the main process, None in others.

        Raises:
            InputError: a frame cannot be read, a feature is not finite, the store is of other
                weights or frames, or memory is insufficient.
        """
        tracklets = as_tracklets(tracklets)
        counts = [self.plan.count(len(paths)) for paths, *_ in tracklets]
        own = tracklets[shard(counts)]
        self.model.eval()
        with torch.no_grad():
            clips = self._clips(own, name)
            averaged = self.model.rescored > 0
            features = mean_over_clips(clips, own, self._finished, averaged) if own else None
        parts = [part for part in gather_objects(features) if part is not None]
        return join_tracklets(parts) if is_main() else None

    def _clips(self, tracklets: list[Tracklet], name: str) -> Iterator[ClipFeatures]:
        """Yield the features of every clip in batches."""
        model = self._inference_model()
        if not self.model.frame_once:
            yield from self._whole_clips(model, tracklets, name)
            return
        if self.store is None:
            vectors = self._vectors(model, tracklets, self.plan, name)
        else:
            vectors = self._stored_vectors(self.store, model, tracklets, name)
        # 'floor' leaves frames out and repeats others as the released code does
        all_frames = self.plan.frames == 'all' and self.plan.all_clips != 'floor'
        every_frame = all_frames and self.model.weighs_frames
        yield from clips_of_vectors(vectors, self.model, every_frame)

    def _vectors(
        self, model: InferenceModel, tracklets: list[Tracklet], plan: ClipPlan, name: str
    ) -> Iterator[ClipVectors]:
        """Encode each frame once and yield the vectors of clips."""
        for batch, views in self._read(tracklets, plan, name):
            vectors = torch.stack([model.encode_frames(frames) for frames in views])
            yield ClipVectors(vectors, batch.rows, batch.tracklets, batch.stand_ins)

    def _whole_clips(
        self, model: InferenceModel, tracklets: list[Tracklet], name: str
    ) -> Iterator[ClipFeatures]:
        for batch, views in self._read(tracklets, self.plan, name):
            rows = batch.rows.to(self.device)  # (B, L)
            features = mean_over_views([model.encode_clips(frames[rows]) for frames in views])
            weights = torch.ones(len(rows), dtype=torch.float64)
            pairs = None if self.model.join_scores is None else features
            yield ClipFeatures(features, weights, batch.tracklets, batch.stand_ins, pairs)

    def _read(
        self, tracklets: list[Tracklet], plan: ClipPlan, name: str
    ) -> Iterator[tuple[ClipBatch, list[Tensor]]]:
        """Yield batches of clips with their frames on the device, also mirrored with ``flip``."""
        loader = clip_loader(
            tracklets,
            plan,
            self.height,
            self.width,
            self.mean,
            self.std,
            batch_size=self.batch_size,
            workers=self.workers,
            as_uint8=True,
            skip_bad=self.skip_bad,
            pin_memory=self.device == 'cuda',
        )
        quiet = None if is_main() else True  # None: when stderr is no terminal
        # converted here, because the feature store treats a RuntimeError as a failed write
        with resource_errors('test.batch_size'):
            for batch in tqdm(loader, desc=name, unit='batch', leave=False, disable=quiet):
                self.bad_frames.extend(batch.bad_frames)
                frames = self.prepare(batch.frames)
                yield batch, ([frames, frames.flip(-1)] if self.flip else [frames])

    def _stored_vectors(
        self, folder: FeatureFolder, model: InferenceModel, tracklets: list[Tracklet], name: str
    ) -> Iterator[ClipVectors]:
        """Yield vectors of the store, which is written first if it does not exist."""
        plan = self.plan._replace(frames='in_order')
        content = fingerprint(
            self.model,
            tracklets,
            folder.config,
            size=[self.height, self.width],
            normalisation=[self.mean, self.std],
            amp=self.amp,
        )
        store = FeatureStore(folder.path, name, content, tracklets)
        if not store.exists():
            vectors = self._vectors(model, tracklets, plan, name)
            store.write(vectors, self.bad_frames, plan.seq_len)
        views = 2 if self.flip else 1
        store.open(views)
        unreadable = store.unreadable_paths()
        if unreadable and not self.skip_bad:
            raise InputError(
                f'{store.path} was made without {counted(len(unreadable), "unreadable frame")}, '
                f'first {unreadable[0]}: repair them, or set data.bad_frames skip'
            )
        self.bad_frames.extend(unreadable)
        for batch in store.clips(self.plan, views, self.batch_size):
            yield batch._replace(vectors=batch.vectors.to(self.device))

    def _inference_model(self) -> InferenceModel:
        """Return the inference model with current weights; reuse it, as compiling takes long."""
        if self._inference is not None:
            self._inference.refresh()
        else:
            options = self.amp, self.fold_bn, self.compiled
            self._inference = InferenceModel(self.model, self.device, *options)
        return self._inference

    def _finished(self, features: Tensor) -> Tensor:
        """Convert means over clips (G, D), in float32 on the CPU, to features of tracklets."""
        return self.model.finish(features.to(self.device)).float().cpu()
