"""The plugin → torchreid's registries. The only file that knows the host's private names.

Nothing of the host's files is edited and no method of its classes is patched: names in its modules
are added, or bound to subclasses and to guards of its downloaders. PyPI's 0.2.5 keeps its modules
under ``torchreid.reid``, the canonical 1.4.0 under ``torchreid``; both offer them as attributes of
the package, so attributes are all that is used.
"""

import functools
import os
from types import SimpleNamespace

import gdown
import torchreid

from stmn_plugin.config import get_default_config
from stmn_plugin.config.kwargs import stmn_kwargs, synthetic_kwargs
from stmn_plugin.data.datamanager import VideoDataManager
from stmn_plugin.data.frames import read_image
from stmn_plugin.datasets.downloads import fetch_dataset, fetch_weights
from stmn_plugin.datasets.host_datasets import PRID2011, DukeMTMCVidReID, Mars, iLIDSVID
from stmn_plugin.datasets.lsvid import LSVID
from stmn_plugin.datasets.synthetic_dataset import Synthetic
from stmn_plugin.datasets.tracklets import Tracklets
from stmn_plugin.losses import MemorySpreadLoss
from stmn_plugin.models import stmn
from stmn_plugin.models.weight_files import allow_numpy_scalars

from .engine import VideoSTMNEngine


def register(cfg=None, **model_options):
    """Add STMN to torchreid: model, datasets, data manager with ``rrs``, loss and engine.

    Registering again, with another config, rebinds what is ours. The host fetches a missing dataset
    only with ``data.download`` from then on.

    Args:
        cfg (CfgNode, optional): settings of the model and the synthetic data; defaults otherwise.
        **model_options: arguments of :class:`stmn_plugin.models.STMN` in place of the config's,
            such as ``seq_len=6``.

    Raises:
        ValueError: a name is taken by somebody else.
        TypeError: an argument that STMN does not have.
    """
    cfg = get_default_config() if cfg is None else cfg
    model_kwargs = stmn_kwargs(cfg)
    if unknown := sorted(set(model_options) - set(model_kwargs)):
        raise TypeError(f'STMN has no {", ".join(unknown)}; it has {", ".join(model_kwargs)}')
    _bind(model_registry(), 'stmn', functools.partial(stmn, **{**model_kwargs, **model_options}))
    datasets = {
        'lsvid': LSVID,
        'tracklets': Tracklets,
        'synthetic': functools.partial(Synthetic, **synthetic_kwargs(cfg)),
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
    _bind(engine, 'VideoSTMNEngine', VideoSTMNEngine)
    _guard_downloads(cfg.data.download)
    allow_numpy_scalars()


def _guard_downloads(allowed):
    """Let no downloader of the host's run unasked."""

    def fetch_archive(url, path):
        folder = os.path.dirname(path)
        fetch = torchreid.utils.download_url
        fetch_dataset(url, path, folder, allowed=allowed, fetch=fetch)

    def fetch_from_drive(url, path, **options):
        folder = path.removesuffix('data.zip')  # the file lies beside the folder
        fetch_dataset(url, path, folder, allowed=allowed, fetch=gdown.download, **options)

    datasets = torchreid.data.datasets
    names = vars(datasets.dataset)
    names['download_url'] = fetch_archive
    names['mkdir_if_missing'] = lambda folder: None  # made when there is something to put into it
    names = vars(datasets.image.university1652)
    names['gdown'] = SimpleNamespace(download=fetch_from_drive)
    for build in model_registry().values():
        names = getattr(build, '__globals__', {})
        if 'model_zoo' in names:
            names['model_zoo'] = SimpleNamespace(load_url=fetch_weights)


def model_registry():
    """The host's model factory, name → callable."""
    return vars(torchreid.models)['__model_factory']


def dataset_registry():
    """The host's video datasets, name → class."""
    return vars(torchreid.data.datasets)['__video_datasets']


def _bind(registry, name, value, replaces_host=False):
    taken_by = _origin(registry[name]) if name in registry else None
    allowed = {None, 'stmn_plugin'} | ({'torchreid'} if replaces_host else set())
    if taken_by not in allowed:
        raise ValueError(f'cannot register {name!r}: the name is taken by {taken_by}')
    registry[name] = value


def _origin(entry):
    """The top package that an entry of a registry comes from."""
    entry = getattr(entry, 'func', entry)  # of a functools.partial
    return getattr(entry, '__module__', type(entry).__module__).split('.')[0]
