"""Build the parts of an engine from a data manager, ours or the host's, and a model."""

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from stmn_plugin.data.tracklets import Target
from stmn_plugin.errors import InputError
from stmn_plugin.evaluation.embedder import Embedder
from stmn_plugin.evaluation.feature_store import FeatureFolder
from stmn_plugin.evaluation.image_embedder import ImageEmbedder
from stmn_plugin.evaluation.settings import TestSettings
from stmn_plugin.losses import Recipe
from stmn_plugin.models import FrameByFrame, VideoModel
from stmn_plugin.training.objective import ClipObjective, FrameObjective, Objective
from stmn_plugin.training.run_record import RunRecord


def default_objective(
    datamanager: Any, model: nn.Module, use_gpu: bool, options: dict[str, Any]
) -> Objective:
    """Build the losses of a video model on clips, or the host's losses of an image model."""
    if isinstance(model, VideoModel):
        return ClipObjective(model, Recipe(**options))
    return FrameObjective(model, datamanager.num_train_pids, use_gpu=use_gpu, **options)


def check_clip_shape(datamanager: Any, model: Any) -> None:
    """Raise InputError unless a model takes the clips of a data manager."""
    served = getattr(getattr(datamanager, 'plan', None), 'seq_len', None)
    taken = getattr(model, 'seq_len', served)
    if served not in (None, taken) and not model.takes_any_length:
        raise InputError(
            f'video.seq_len: the model takes clips of {taken} frames and the data manager serves '
            f'{served}; register(seq_len={served}) builds it for those'
        )
    size = getattr(datamanager, 'height', None), getattr(datamanager, 'width', None)
    built_for = getattr(model, 'frame_size', None)
    if built_for not in (None, size) and None not in size:
        raise InputError(
            f'data.height, data.width: the model takes frames of {built_for[0]}x{built_for[1]} '
            f'pixels and the data manager serves {size[0]}x{size[1]}; '
            f'register(height={size[0]}, width={size[1]}) builds it for those'
        )


def as_video_model(model: nn.Module, datamanager: Any, pooling_method: str) -> VideoModel:
    """Return the model, an image model as a video model that pools its frames."""
    if isinstance(model, VideoModel):
        return model
    return FrameByFrame(model, datamanager.plan.seq_len, pooling_method)


def targets_of(datamanager: Any) -> dict[str, Target]:
    """Return the targets that a data manager has loaders of, by name."""
    needs = getattr(datamanager, 'gallery_needs_queries', {})
    return {
        name: Target(splits['query'], splits['gallery'], needs.get(name, False))
        for name, splits in datamanager.test_dataset.items()
        if name in datamanager.test_loader
    }


def video_embedder(
    model: VideoModel, datamanager: Any, settings: TestSettings, record: RunRecord, use_gpu: bool
) -> Embedder:
    """Build an embedder of tracklets; unreadable frames are listed in the record."""
    store = None
    if settings.features_dir:
        store = FeatureFolder(settings.features_dir, record.run.config)
    embedder = Embedder(
        model,
        settings.plan,
        'cuda' if use_gpu else 'cpu',
        settings.amp,
        settings.flip,
        settings.batch_size,
        store,
        height=datamanager.height,
        width=datamanager.width,
        mean=datamanager.normalize.mean,
        std=datamanager.normalize.std,
        workers=datamanager.loader_options['workers'],
        skip_bad=datamanager.skip_bad,
        fold_bn=settings.fold_bn,
        compiled=settings.compiled,
    )
    embedder.bad_frames = record.bad_frames
    return embedder


def image_embedder(
    model: nn.Module,
    datamanager: Any,
    settings: TestSettings,
    prepare: Callable[[Tensor], Tensor],
) -> ImageEmbedder:
    """Build an embedder of the lists of images of a data manager, which its loaders read."""
    loaders = {
        f'{name}-{mode}': loader
        for name, modes in datamanager.test_loader.items()
        for mode, loader in modes.items()
    }
    return ImageEmbedder(model, loaders, prepare, settings.amp, settings.flip)
