"""Open a run folder, or a config with weights, to explain clips; nothing is written."""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from yacs.config import CfgNode

from stmn_plugin.config import load_config
from stmn_plugin.data.frame_samplers import ClipPlan
from stmn_plugin.data.tracklets import Target, Tracklet
from stmn_plugin.errors import InputError
from stmn_plugin.evaluation.embedder import Embedder
from stmn_plugin.evaluation.evaluator import Evaluator
from stmn_plugin.evaluation.settings import TestOptions
from stmn_plugin.host.parts import build_datamanager
from stmn_plugin.host.registration import register
from stmn_plugin.host.runner import prepare
from stmn_plugin.models.base import VideoModel
from stmn_plugin.training.checkpoint import checkpoint_path, saved_epochs
from stmn_plugin.training.speed import set_tf32

from .explained_clips import explain, read_clips

BEST = os.path.join('model', 'model-best.pth.tar')


def config_of_run(folder: str, words: Sequence[str] = (), checkpoint: str = '') -> CfgNode:
    """Read the config of a run folder, set to test its best weights, or its last if it has no best.

    Args:
        folder: ``data.save_dir`` of a training run.
        words: KEY VALUE words that override it, for example another ``data.root``.
        checkpoint: weights to test instead.

    Returns:
        The config, frozen.

    Raises:
        InputError: the folder holds no config or no weights, or the words do not fit.
    """
    file = os.path.join(folder, 'config.yaml')
    _check_there(folder, 'config', file)
    checkpoint = checkpoint or _weights_of(folder, file)
    _check_there(folder, 'weights', checkpoint)
    return config_of_file(file, words, {'model.load_weights': checkpoint})


def _check_there(folder: str, what: str, path: str) -> None:
    if not os.path.isfile(path):
        raise InputError(f'{folder} holds no trained run: no {what} {path}')


def _weights_of(folder: str, file: str) -> str:
    """Return the best weights of a run; with ``test.best none`` those of its last epoch."""
    best = os.path.join(folder, BEST)
    if not os.path.isfile(best) and load_config(file).test.best == 'none':
        models = os.path.dirname(best)
        epochs = saved_epochs(models)
        if epochs:
            return checkpoint_path(models, max(epochs))
    return best


def config_of_file(
    file: str, words: Sequence[str] = (), overrides: dict[str, Any] | None = None
) -> CfgNode:
    """Read a config, set to test the weights that its ``model.load_weights`` names.

    Args:
        file: YAML file.
        words: KEY VALUE words that override it.
        overrides: full key → value; these override the file and are overridden by the words.

    Returns:
        The config, frozen.

    Raises:
        InputError: as for :func:`stmn_plugin.config.load_config`, or the words set model.resume.
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
    """A model in eval mode on its device, with the targets and test settings of its run."""

    cfg: CfgNode
    embedder: Embedder  # tracklets → features, as the run tests them
    targets: Mapping[str, Target]  # by name, 'mars-validation' where identities are held out
    facts: dict[str, Any]  # architecture, size and cost of the model
    explains: frozenset[str]  # names that ``model.explain`` returns
    evaluator_with: Callable[[TestOptions], Evaluator]  # ranks the queries of a target

    @property
    def model(self) -> VideoModel:
        """The model in eval mode."""
        return self.embedder.model

    @property
    def plan(self) -> ClipPlan:
        """Rule of division of tracklets into clips."""
        return self.embedder.plan

    def clips(
        self, tracklets: Sequence[Tracklet], plan: ClipPlan | None = None
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield clips, see :func:`read_clips`; the default plan is the run's."""
        return read_clips(self.embedder, tracklets, plan or self.plan)

    def explain(self, clips: Tensor) -> dict[str, Tensor]:
        """Let the model explain clips (B, L, 3, H, W), and check the shapes."""
        return explain(self.model, clips)

    def evaluator(self) -> Evaluator:
        """Build an evaluator with the distances of the run, without re-ranking."""
        cfg = self.cfg.test
        return self.evaluator_with(TestOptions(cfg.dist_metric, cfg.normalize_feature))


def open_run(cfg: CfgNode) -> OpenedRun:
    """Load the model of a config and its targets, without training set and optimizer.

    The precision of the run, ``train.tf32``, is set for the rest of the process.

    Raises:
        InputError: invalid settings or files.
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


def training_tracklets(cfg: CfgNode) -> list[Tracklet]:
    """Return the training tracklets of a config, with its labels.

    Raises:
        InputError: invalid settings or data.
    """
    cfg = cfg.clone()
    cfg.defrost()
    cfg.test.evaluate = False
    register(cfg)
    return list(build_datamanager(cfg).train_loader.dataset.tracklets)


@dataclass(frozen=True)
class ClipView:
    """A clip and the tensors by which the model explains it."""

    tracklet: int  # row of the list of tracklets
    frames: NDArray[np.int64]  # (L,) indices into the tracklet's paths
    explained: dict[str, NDArray[np.float32]]  # by the names of ``models/explanations.py``, no B

    def __getitem__(self, name: str) -> NDArray[np.float32]:
        return self.explained[name]

    def __contains__(self, name: str) -> bool:
        return name in self.explained


def view_clips(
    run: OpenedRun, tracklets: Sequence[Tracklet], plan: ClipPlan | None = None
) -> Iterator[ClipView]:
    """Yield the views of the clips of tracklets, in order.

    Args:
        run: the run whose model explains the clips.
        tracklets: the host's 4-tuples (img_paths, pid, camid, dsetid).
        plan: rule of division into clips; the run's own by default.

    Raises:
        InputError: a frame cannot be read.
    """
    plan = plan or run.plan
    clip = 0  # of its tracklet
    last = None
    for clips, owners in run.clips(tracklets, plan):
        explained = {
            name: values.detach().float().cpu().numpy()
            for name, values in run.explain(clips).items()
        }
        for index, tracklet in enumerate(owners.tolist()):
            clip, last = (clip + 1 if tracklet == last else 0), tracklet
            frames = plan.clip(len(tracklets[tracklet][0]), clip)
            own = {name: values[index] for name, values in explained.items()}
            yield ClipView(tracklet, frames, own)
