"""The plugin → torchreid's registries. The only file that knows the host's private names.

Nothing of the host's files is edited and no method of its classes is patched: names in its modules
are added or bound to subclasses. PyPI's 0.2.5 keeps its modules under ``torchreid.reid``, the
canonical 1.4.0 under ``torchreid``; both offer them as attributes of the package, so attributes are
all that is used.
"""

import functools

import torchreid

from .config import get_default_config
from .config.kwargs import stmn_kwargs, synthetic_kwargs
from .data.datamanager import VideoDataManager
from .data.frames import read_image
from .data.host_datasets import PRID2011, DukeMTMCVidReID, Mars, iLIDSVID
from .data.lsvid import LSVID
from .data.synthetic_dataset import Synthetic
from .data.tracklets import Tracklets
from .engine import VideoSTMNEngine
from .losses import MemorySpreadLoss
from .models import stmn
from .weight_files import allow_numpy_scalars


def register(cfg=None):
    """Add STMN to torchreid: model, datasets, data manager with ``rrs``, loss and engine.

    Registering again, with another config, rebinds what is ours.

    Args:
        cfg (CfgNode, optional): settings of the model and the synthetic data; defaults otherwise.

    Raises:
        ValueError: a name is taken by somebody else.
    """
    cfg = get_default_config() if cfg is None else cfg
    _bind(model_registry(), 'stmn', functools.partial(stmn, **stmn_kwargs(cfg)))
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
    allow_numpy_scalars()


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
