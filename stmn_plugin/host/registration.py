"""Register the plugin with torchreid; the only file that uses private names of the host.

No file of the host is edited and no method of its classes is patched: names in its modules are
added, or bound to subclasses and to guards of its downloaders. PyPI's 0.2.5 has its modules under
``torchreid.reid``, the canonical 1.4.0 under ``torchreid``; both are accessed as attributes of the
package.
"""

import dataclasses
import functools
import os
from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import Any

import gdown
import torchreid
from torch import nn
from yacs.config import CfgNode

from stmn_plugin.config import get_default_config
from stmn_plugin.config.kwargs import synthetic_kwargs
from stmn_plugin.config.sections import section_of
from stmn_plugin.data.datamanager import VideoDataManager
from stmn_plugin.data.frames import read_image
from stmn_plugin.datasets.downloads import fetch_dataset, fetch_weights
from stmn_plugin.datasets.host_datasets import PRID2011, DukeMTMCVidReID, Mars, iLIDSVID
from stmn_plugin.datasets.lsvid import LSVID
from stmn_plugin.datasets.synthetic_dataset import SyntheticDataset
from stmn_plugin.datasets.tracklets import Tracklets
from stmn_plugin.losses import MemorySpreadLoss
from stmn_plugin.models import VIDEO_MODELS, VideoModel
from stmn_plugin.models.weight_files import allow_numpy_scalars

from .engine import VideoEngine


def register(cfg: CfgNode | None = None, **model_options: Any) -> None:
    """Add to torchreid: video models, datasets, data manager with ``rrs``, loss and engine.

    Registering again with another config replaces our entries. From then on the host downloads a
    missing dataset only with ``data.download``.

    Args:
        cfg: settings of the models and the synthetic data; None for the defaults.
        **model_options: ``seq_len``, ``height``, ``width`` and settings of architectures that
            replace those of the config, such as ``backbone='resnet18'``, for every architecture
            that has them.

    Raises:
        ValueError: a name is taken by another package.
        TypeError: no architecture has such an option.
    """
    cfg = get_default_config() if cfg is None else cfg
    _register_models(cfg, model_options)
    datasets = {
        'lsvid': LSVID,
        'tracklets': Tracklets,
        'synthetic': functools.partial(SyntheticDataset, **synthetic_kwargs(cfg)),
    }
    for name, dataset in datasets.items():
        _bind(dataset_registry(), name, dataset)
    repaired = {
        'mars': Mars,
        'dukemtmcvidreid': DukeMTMCVidReID,
        'ilidsvid': iLIDSVID,
        'prid2011': PRID2011,
    }
    for name, dataset in repaired.items():
        _bind(dataset_registry(), name, dataset, replaces_host=True)
    _bind(vars(torchreid.data.datasets.dataset), 'read_image', read_image, replaces_host=True)
    data, losses, engine = vars(torchreid.data), vars(torchreid.losses), vars(torchreid.engine)
    _bind(data, 'VideoDataManager', VideoDataManager, replaces_host=True)
    _bind(losses, 'MemorySpreadLoss', MemorySpreadLoss)
    _bind(engine, 'VideoSTMNEngine', VideoEngine)
    _guard_downloads(cfg.data.download)
    allow_numpy_scalars()


def _register_models(cfg: CfgNode, options: Mapping[str, Any]) -> None:
    """Add every video model to the host's factory."""
    configs = {name: section_of(cfg, name) for name in VIDEO_MODELS}
    names = {name: [field.name for field in dataclasses.fields(c)] for name, c in configs.items()}
    sizes = {'seq_len': cfg.video.seq_len, 'height': cfg.data.height, 'width': cfg.data.width}
    known = dict.fromkeys([*sizes, *(field for fields in names.values() for field in fields)])
    if unknown := sorted(set(options) - set(known)):
        raise TypeError(f'no model has {", ".join(unknown)}; there are {", ".join(known)}')
    sizes |= {key: value for key, value in options.items() if key in sizes}
    for name, config in configs.items():
        own = {key: value for key, value in options.items() if key in names[name]}
        config = dataclasses.replace(config, **own)
        build = functools.partial(build_registered, VIDEO_MODELS[name], config=config, **sizes)
        _bind(model_registry(), name, build)


def build_registered(
    kind: type[VideoModel],
    num_classes: int,
    loss: str = 'softmax',
    pretrained: bool = True,
    use_gpu: bool = True,
    *,
    seq_len: int,
    height: int,
    width: int,
    config: Any,
) -> VideoModel:
    """Build a video model from the arguments of the host's factory; ignore loss and device."""
    return kind.build(num_classes, seq_len, (height, width), config, pretrained)


def _guard_downloads(allowed: bool) -> None:
    """Replace the host's downloaders by ones that run only if downloads are allowed."""

    def fetch_archive(url: str, path: str) -> None:
        folder = os.path.dirname(path)
        fetch = torchreid.utils.download_url
        fetch_dataset(url, path, folder, allowed=allowed, fetch=fetch)

    def fetch_from_drive(url: str, path: str, **options: Any) -> None:
        folder = path.removesuffix('data.zip')  # the file is next to the folder
        fetch_dataset(url, path, folder, allowed=allowed, fetch=gdown.download, **options)

    datasets = torchreid.data.datasets
    names = vars(datasets.dataset)
    names['download_url'] = fetch_archive
    names['mkdir_if_missing'] = lambda folder: None  # created with the first file instead
    names = vars(datasets.image.university1652)
    names['gdown'] = SimpleNamespace(download=fetch_from_drive)
    for build in model_registry().values():
        names = getattr(build, '__globals__', {})
        if 'model_zoo' in names:
            names['model_zoo'] = SimpleNamespace(load_url=fetch_weights)


def model_registry() -> dict[str, Callable[..., nn.Module]]:
    """Return the host's model factory, name → callable."""
    registry: dict[str, Callable[..., nn.Module]] = vars(torchreid.models)['__model_factory']
    return registry


def dataset_registry() -> dict[str, Callable[..., Any]]:
    """Return the host's video datasets, name → class."""
    registry: dict[str, Callable[..., Any]] = vars(torchreid.data.datasets)['__video_datasets']
    return registry


def _bind(registry: dict[str, Any], name: str, value: object, replaces_host: bool = False) -> None:
    taken_by = _origin(registry[name]) if name in registry else None
    allowed = {None, 'stmn_plugin'} | ({'torchreid'} if replaces_host else set())
    if taken_by not in allowed:
        raise ValueError(f'cannot register {name!r}: the name is taken by {taken_by}')
    registry[name] = value


def _origin(entry: object) -> str:
    """Return the top-level package of an entry of a registry."""
    entry = getattr(entry, 'func', entry)  # of a functools.partial
    module: str = getattr(entry, '__module__', type(entry).__module__)
    return module.split('.')[0]
