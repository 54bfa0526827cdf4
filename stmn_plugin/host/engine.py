"""torchreid's engine, which delegates training to ``Trainer`` and testing to ``evaluation``."""

import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
import torchreid
from torch import Tensor, nn
from torch.optim import Optimizer

from stmn_plugin.data.clips import Prepare
from stmn_plugin.distributed import broadcast_buffers, gather
from stmn_plugin.evaluation.embedder import Embedder
from stmn_plugin.evaluation.evaluator import Evaluator
from stmn_plugin.evaluation.image_embedder import ImageEmbedder
from stmn_plugin.evaluation.settings import TestOptions, TestSettings
from stmn_plugin.evaluation.testing import evaluate_targets
from stmn_plugin.interrupt import Interruption
from stmn_plugin.training.batches import EpochBatches
from stmn_plugin.training.objective import Objective
from stmn_plugin.training.provenance import config_digests, data_digests
from stmn_plugin.training.run_record import Parts, RunRecord
from stmn_plugin.training.settings import TrainingSettings
from stmn_plugin.training.trainer import Trainer

from .engine_parts import (
    as_video_model,
    check_clip_shape,
    default_objective,
    image_embedder,
    targets_of,
    video_embedder,
)

logger = logging.getLogger(__name__)


class VideoEngine(torchreid.engine.Engine):  # type: ignore[misc]  # the host has no types
    """The host's interface to training and testing of any model.

    Args:
        datamanager: ours or the host's, of video or image data.
        model: the model on its device.
        optimizer: the host's or torch's; None for a model that is only tested.
        scheduler: the host's or torch's.
        use_gpu: use a GPU if there is one.
        objective: the function to minimise; by default built from the loss options.
        training: settings of training.
        testing: settings of testing.
        record: the run's files and starting point.
        pooling_method: 'avg' or 'max' pooling of frame features over a clip, for image models.
        **loss_options: arguments of :class:`stmn_plugin.losses.Recipe` for a video model, of
            :class:`FrameObjective` for an image model.

    Raises:
        InputError: clips have another length or frame size than the model takes.
    """

    def __init__(
        self,
        datamanager: Any,
        model: nn.Module,
        optimizer: Any,
        scheduler: Any = None,
        use_gpu: bool = True,
        *,
        objective: Objective | None = None,
        training: TrainingSettings | None = None,
        testing: TestSettings | None = None,
        record: RunRecord | None = None,
        pooling_method: str = 'avg',
        **loss_options: Any,
    ):
        check_clip_shape(datamanager, model)
        use_gpu = torch.cuda.is_available() and use_gpu
        device_type = 'cuda' if use_gpu else 'cpu'
        normalize = getattr(datamanager, 'normalize', None)
        augmentation = getattr(datamanager, 'augmentation', None)
        self.prepare = Prepare(device_type, normalize, augmentation)
        self.record = record or RunRecord()
        self.record.first_target = next(iter(datamanager.test_loader), None)
        training = training or TrainingSettings()
        sampler = getattr(datamanager, 'batch_sampler', None)
        batches = EpochBatches(
            datamanager.train_loader, self.prepare, sampler, training.seed, ahead=use_gpu
        )
        if objective is None:
            objective = default_objective(datamanager, model, use_gpu, loss_options)
        parts = objective, optimizer, scheduler, batches, self.record
        self.trainer = Trainer(*parts, training, use_gpu)
        super().__init__(datamanager, use_gpu)
        self.settings = testing or TestSettings()
        if self.settings.plan is None and datamanager.data_type == 'video':
            self.settings.plan = getattr(datamanager, 'plan', None)
        self.pooling_method = pooling_method
        self.ends_with_table = False  # whether the caller of ``run`` shows a table of the results
        self._embedder: Embedder | ImageEmbedder | None = None
        self.model, self.optimizer, self.scheduler = model, optimizer, scheduler
        self.register_model('model', model, optimizer, scheduler)

    def register_model(
        self,
        name: str = 'model',
        model: Any = None,
        optim: Optimizer | None = None,
        sched: Any = None,
    ) -> None:
        """Add a model whose checkpoints are saved with the others."""
        super().register_model(name, model, optim, sched)
        self.record.parts[name] = Parts(model, optim, sched)

    # attributes that the host keeps in the engine

    @property
    def epoch(self) -> Any:
        return self.trainer.epoch

    @epoch.setter
    def epoch(self, value: Any) -> None:
        self.trainer.epoch = value

    @property
    def max_epoch(self) -> int:
        return self.trainer.stop

    @max_epoch.setter
    def max_epoch(self, value: int) -> None:
        self.trainer.stop = value

    @property
    def writer(self) -> Any:
        return self.record.curves

    @writer.setter
    def writer(self, value: Any) -> None:
        self.record.curves = value

    # training

    def run(
        self,
        save_dir: str = 'log',
        max_epoch: int = 0,
        start_epoch: int = 0,
        print_freq: int = 10,
        fixbase_epoch: int = 0,
        open_layers: Sequence[str] | str | None = None,
        start_eval: int = 0,
        eval_freq: int = -1,
        test_only: bool = False,
        dist_metric: str = 'euclidean',
        normalize_feature: bool = False,
        visrank: bool = False,
        visrank_topk: int = 10,
        use_metric_cuhk03: bool = False,
        ranks: Sequence[int] = (1, 5, 10, 20),
        rerank: bool = False,
    ) -> None:
        """Train and evaluate, or only evaluate; arguments are those of the host's ``Engine.run``.

        Checkpoints, TensorBoard events, ``metrics.json`` and ``metrics.jsonl`` are written into
        ``save_dir``. ``record`` holds the starting point within ``start_epoch``.

        Raises:
            InputError: a loss or feature is not finite, a file cannot be written, or memory is
                insufficient.
            Interrupted: a signal arrived and the state is saved.
        """
        options: dict[str, Any] = {
            'dist_metric': dist_metric,
            'normalize_feature': normalize_feature,
            'visrank': visrank and test_only,  # as in the host, only in testing
            'visrank_topk': visrank_topk,
            'save_dir': save_dir,
            'use_metric_cuhk03': use_metric_cuhk03,
            'ranks': ranks,
            'rerank': rerank and test_only,
        }
        trainer, record = self.trainer, self.record
        if test_only:
            record.read_tests(save_dir)
            self.epoch = None
            with Interruption() as interruption, interruption.at_once():
                self.test(**options)
            return
        trainer.settings = replace(
            trainer.settings,
            print_freq=print_freq,
            fixbase_epoch=fixbase_epoch,
            open_layers=open_layers,
            start_eval=start_eval,
            eval_freq=eval_freq,
        )
        record.folder = save_dir
        trainer.fit(start_epoch, max_epoch, lambda: self.test(**options))
        if start_epoch >= max_epoch and record.reached.unfinished is None:
            logger.info(f'Nothing to train: {start_epoch} of {self.max_epoch} epochs are finished')

    def train(
        self,
        print_freq: int = 10,
        fixbase_epoch: int = 0,
        open_layers: Sequence[str] | str | None = None,
    ) -> None:
        """Train the epoch ``epoch``, see :meth:`Trainer.train_epoch`."""
        self.trainer.settings = replace(
            self.trainer.settings,
            print_freq=print_freq,
            fixbase_epoch=fixbase_epoch,
            open_layers=open_layers,
        )
        self.trainer.train_epoch()

    def forward_backward(self, data: dict[str, Any]) -> dict[str, float]:
        """Train one batch, see :meth:`Trainer.train_batch`."""
        return self.trainer.train_batch(data)

    def save_model(self, epoch: int, rank1: float, save_dir: str, is_best: bool = False) -> None:
        """Write the checkpoint of each registered model after ``epoch`` (from 0)."""
        self.record.rank1 = rank1
        trainer = self.trainer
        self.record.save(epoch + 1, trainer.log, trainer.precision.state(), is_best, save_dir)

    def parse_data_for_train(self, data: dict[str, Any]) -> tuple[Tensor, Tensor]:
        """Return the model's input on its device, and the identities of all processes."""
        trainer = self.trainer
        data = trainer.batches.finish(data)
        images, pids = trainer.objective.inputs(data['img'], data['pid'])
        return images, gather(pids)

    # testing

    def test(
        self,
        dist_metric: str = 'euclidean',
        normalize_feature: bool = False,
        visrank: bool = False,
        visrank_topk: int = 10,
        save_dir: str = '',
        use_metric_cuhk03: bool = False,
        ranks: Sequence[int] = (1, 5, 10, 20),
        rerank: bool = False,
    ) -> float:
        """Evaluate on every target; arguments are those of the host's ``Engine.test``.

        Returns:
            Rank-1 of the first target with labels; 0 without one.

        Raises:
            InputError: features are not finite, or a file cannot be read or written.
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
        self.set_model_mode('eval')
        broadcast_buffers(self.model)  # training leaves each process its own batch statistics
        epoch = None if self.epoch is None else self.epoch + 1
        size = self.datamanager.width, self.datamanager.height
        table_follows = self.ends_with_table and epoch in (None, self.max_epoch)
        results = evaluate_targets(
            self.evaluator(options), self.record, save_dir, epoch, size, table_follows
        )
        return float(results[0].ranking.rank(1)) if results else 0.0

    def test_by(self, settings: TestSettings, config: dict[str, Any]) -> None:
        """Change how the model is tested.

        Args:
            settings: the settings from now on.
            config: config of the run (full key → value) that they belong to, for its results.
        """
        self.settings, self._embedder = settings, None
        self.record.run = replace(self.record.run, config=config)

    def evaluator(self, options: TestOptions | None = None) -> Evaluator:
        """Build an evaluator of the data manager's targets with the settings of the engine."""
        data, run = self.datamanager, self.record.run

        def digests_of(name: str) -> dict[str, str]:
            # a test alone does not need the training set
            known = {'train': run.trained_on} if run.trained_on else {}
            return {**config_digests(run.config), **data_digests(data, name), **known}

        parts = self.model, self.embedder, targets_of(data)
        return Evaluator(*parts, self.settings, options, digests_of)

    @property
    def embedder(self) -> Embedder | ImageEmbedder:
        """Embedder of tracklets or of lists of images with the settings of the engine."""
        if self._embedder is None:
            data, settings = self.datamanager, self.settings
            if data.data_type == 'video':
                model = as_video_model(self.model, data, self.pooling_method)
                self._embedder = video_embedder(model, data, settings, self.record, self.use_gpu)
            else:
                self._embedder = image_embedder(self.model, data, settings, self.prepare)
        return self._embedder

    def parse_data_for_eval(self, data: dict[str, Any]) -> tuple[Tensor, Tensor, Tensor]:
        """Return finished images on the device, identities and cameras."""
        return self.prepare(data['img']), data['pid'], data['camid']

    def extract_features(self, input: Tensor) -> Tensor:
        """Compute features (B, D) of clips or images."""
        model = self.model
        if input.dim() == 5:
            model = as_video_model(model, self.datamanager, self.pooling_method)
        features: Tensor = model.train(self.model.training)(input)
        return features
