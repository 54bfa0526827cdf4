"""Run folder, or config with weights → a run that can be asked about clips. Writes nothing."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from yacs.config import CfgNode

from stmn_plugin.config import load_config
from stmn_plugin.data.clip_plans import ClipPlan
from stmn_plugin.data.tracklets import Tracklet
from stmn_plugin.errors import InputError
from stmn_plugin.evaluation.evaluator import Evaluator
from stmn_plugin.evaluation.features import TrackletFeatures
from stmn_plugin.evaluation.protocols import PROTOCOLS, Protocol
from stmn_plugin.evaluation.settings import TestOptions
from stmn_plugin.host.runner import prepare
from stmn_plugin.models.explanations import check_explained
from stmn_plugin.training.speed import set_tf32

BEST = os.path.join('model', 'model-best.pth.tar')


def config_of_run(folder: str, words: Sequence[str] = (), checkpoint: str = '') -> CfgNode:
    """The config that a run folder holds, set to test its best weights.

    Args:
        folder: ``data.save_dir`` of a training run.
        words: KEY VALUE words on top, for example another ``data.root``.
        checkpoint: other weights than the best.

    Returns:
        The config, frozen.

    Raises:
        InputError: the folder holds no config or no weights, or the words do not fit.
    """
    checkpoint = checkpoint or os.path.join(folder, BEST)
    for path, what in ((os.path.join(folder, 'config.yaml'), 'config'), (checkpoint, 'weights')):
        if not os.path.isfile(path):
            raise InputError(f'{folder} holds no trained run: no {what} {path}')
    weights = {'model.load_weights': checkpoint}
    return config_of_file(os.path.join(folder, 'config.yaml'), words, weights)


def config_of_file(
    file: str, words: Sequence[str] = (), overrides: dict[str, Any] | None = None
) -> CfgNode:
    """A config, set to test the weights that its ``model.load_weights`` names, and no others.

    Args:
        file: YAML file.
        words: KEY VALUE words on top.
        overrides: full key → value, between file and words.

    Returns:
        The config, frozen.

    Raises:
        InputError: as for :func:`stmn_plugin.config.load_config`, or the words ask to resume.
    """
    overrides = {**(overrides or {}), 'model.resume': '', 'test.evaluate': True}
    cfg = load_config(file, words, overrides)
    if cfg.model.resume:  # it would replace the weights after they are loaded
        raise InputError(f'model.resume {cfg.model.resume}: name weights by model.load_weights')
    if cfg.model.load_weights:
        cfg.defrost()
        cfg.model.pretrained = False  # the checkpoint holds every weight
        cfg.freeze()
    return cfg


@dataclass(frozen=True)
class OpenedRun:
    """A model in eval mode on its device, the targets of its run and how they are tested."""

    cfg: CfgNode
    engine: Any
    explains: frozenset[str]  # names that the model's ``explain`` gives

    @property
    def plan(self) -> ClipPlan:
        """Which frames of a tracklet are tested."""
        return self.engine.settings.plan

    @property
    def protocol(self) -> Protocol:
        return PROTOCOLS[self.cfg.test.protocol]

    @property
    def facts(self) -> dict[str, Any]:
        """Of the model: architecture, size, cost."""
        return self.engine.record.run.facts

    @property
    def skip_bad(self) -> bool:
        """Whether unreadable frames are left out."""
        return self.engine.datamanager.skip_bad

    @property
    def targets(self) -> list[str]:
        """Names of the datasets, 'mars-validation' where identities are held out."""
        return list(self.engine.test_loader)

    def tracklets(self, target: str) -> tuple[list[Tracklet], list[Tracklet]]:
        """Queries and gallery of a target."""
        splits = self.engine.datamanager.test_dataset[target]
        return splits['query'], splits['gallery']

    def gallery_needs_queries(self, target: str) -> bool:
        """Whether a protocol that searches the queries has to add them to the gallery."""
        return self.engine.datamanager.gallery_needs_queries[target]

    def clips(
        self, tracklets: Sequence[Tracklet], plan: ClipPlan | None = None
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Normalised clips (B, L, 3, H, W) on the device and the rows (B,) of their tracklets.

        Raises:
            InputError: a frame cannot be read.
        """
        plan = plan or self.plan
        batch_size = self.engine.settings.batch_size
        for batch in self.engine.datamanager.planned_clips(tracklets, plan, batch_size):
            frames = self.engine.prepare(batch.frames)  # (T, 3, H, W)
            yield frames[batch.rows.to(frames.device)], batch.tracklets

    @torch.no_grad()
    def explain(self, clips: Tensor) -> dict[str, Tensor]:
        """What the model explains of clips (B, L, 3, H, W), in shapes as their names say."""
        return explain(self.engine.model, clips)

    def features(self, target: str) -> tuple[TrackletFeatures, TrackletFeatures]:
        """Features of the queries and of the gallery of a target, as they are tested."""
        query, gallery = map(self.engine.embedder, self.tracklets(target))
        return query, gallery

    def evaluator(self, options: TestOptions) -> Evaluator:
        """Ranks the queries of a target as the run does."""
        return self.engine.evaluator(options)


def open_run(cfg: CfgNode) -> OpenedRun:
    """Load the model of a config and read its targets.

    The precision of the run, ``train.tf32``, holds for the process from here on.

    Raises:
        InputError: anything in the config that cannot work.
    """
    if cfg.data.type != 'video':
        raise InputError(f'data.type {cfg.data.type}: a run is shown on video data')
    set_tf32(cfg.train.tf32)
    engine = prepare(cfg)
    engine.set_model_mode('eval')
    engine.epoch = None  # it is only tested
    size = cfg.video.seq_len, 3, cfg.data.height, cfg.data.width
    with torch.no_grad():
        device = next(engine.model.parameters()).device
        explained = explain(engine.model, torch.zeros(1, *size, device=device))
    return OpenedRun(cfg, engine, frozenset(explained))


def explain(model: Any, clips: Tensor) -> dict[str, Tensor]:
    """``model.explain``, checked; nothing of a model that is no VideoModel.

    Raises:
        ValueError: the model gives a name that ``explanations.py`` knows in another shape.
    """
    explained = model.explain(clips) if hasattr(model, 'explain') else {}
    check_explained(explained, *clips.shape[:2])
    return explained
