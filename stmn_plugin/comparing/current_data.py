"""A config → what its datasets hold at this moment, as digests; each dataset is read once."""

import contextlib
import io
import json

from stmn_plugin.config.defaults import flatten
from stmn_plugin.config.kwargs import videodata_kwargs
from stmn_plugin.data.datamanager import VideoDataManager
from stmn_plugin.host.registration import register
from stmn_plugin.training.provenance import data_digests

_known = {}  # values of the keys that name the data → digests


def current_data(cfg) -> dict:
    """Digests of the lists that a run with this config would train and test on now.

    Args:
        cfg (CfgNode): for video.

    Returns:
        dict: target → :func:`stmn_plugin.training.provenance.data_digests`.

    Raises:
        InputError: data that cannot be loaded.
    """
    parts = ('data.', 'synthetic.', 'sampler.', 'video.', 'train.batch_size')
    named = {k: v for k, v in flatten(cfg).items() if k.startswith(parts) and k != 'data.save_dir'}
    key = json.dumps(named, sort_keys=True)
    if key not in _known:
        register(cfg)
        with contextlib.redirect_stdout(io.StringIO()):  # tables of every dataset
            datamanager = VideoDataManager(**videodata_kwargs(cfg))
        _known[key] = {name: data_digests(datamanager, name) for name in datamanager.test_loader}
    return _known[key]


def forget_data() -> None:
    """Read every dataset anew at the next call."""
    _known.clear()
