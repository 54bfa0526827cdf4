"""Run folder, or config with weights → a run that can be asked about clips. Writes nothing."""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from yacs.config import CfgNode

from stmn_plugin.config import load_config
from stmn_plugin.data.clip_plans import ClipPlan
from stmn_plugin.data.tracklets import Target, Tracklet
from stmn_plugin.errors import InputError
from stmn_plugin.evaluation.embedder import Embedder
from stmn_plugin.evaluation.evaluator import Evaluator
from stmn_plugin.evaluation.settings import TestOptions
from stmn_plugin.host.runner import prepare
from stmn_plugin.models.base import VideoModel
from stmn_plugin.training.speed import set_tf32

from .explained_clips import explain, read_clips

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
    embedder: Embedder  # tracklets → features, as the run tests them
    targets: Mapping[str, Target]  # by name, 'mars-validation' where identities are held out
    facts: dict[str, Any]  # of the model: architecture, size, cost
    explains: frozenset[str]  # names that ``model.explain`` gives
    evaluator_with: Callable[[TestOptions], Evaluator]  # ranks the queries of a target

    @property
    def model(self) -> VideoModel:
        return self.embedder.model

    @property
    def plan(self) -> ClipPlan:
        """Which frames of a tracklet are tested."""
        return self.embedder.plan

    def clips(
        self, tracklets: Sequence[Tracklet], plan: ClipPlan | None = None
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """See :func:`read_clips`; by the plan of the run, if none is given."""
        return read_clips(self.embedder, tracklets, plan or self.plan)

    def explain(self, clips: Tensor) -> dict[str, Tensor]:
        """What the model explains of clips (B, L, 3, H, W), in shapes as their names say."""
        return explain(self.model, clips)

    def evaluator(self) -> Evaluator:
        """Ranks the queries of a target by the distances of the run, without re-ranking."""
        cfg = self.cfg.test
        return self.evaluator_with(TestOptions(cfg.dist_metric, cfg.normalize_feature))


def open_run(cfg: CfgNode) -> OpenedRun:
    """Load the model of a config and list its targets: no training set, no optimizer.

    The precision of the run, ``train.tf32``, holds for the process from here on.

    Raises:
        InputError: anything in the config that cannot work.
    """
    if cfg.data.type != 'video':
        raise InputError(f'data.type {cfg.data.type}: a run is shown on video data')
    cfg = cfg.clone()
    cfg.defrost()
    cfg.test.evaluate = True
    cfg.freeze()
    set_tf32(cfg.train.tf32)
    engine = prepare(cfg)
    embedder = engine.embedder
    assert isinstance(embedder, Embedder)  # of video
    size = cfg.video.seq_len, 3, embedder.height, embedder.width
    black = torch.zeros(1, *size, device=embedder.device)
    return OpenedRun(
        cfg,
        embedder,
        engine.evaluator().targets,
        engine.record.run.facts,
        frozenset(explain(embedder.model.eval(), black)),
        engine.evaluator,
    )
