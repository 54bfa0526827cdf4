"""A run folder, or a config with weights → an engine that is ready to be asked, nothing written."""

import os

from stmn_plugin.config import load_config
from stmn_plugin.errors import InputError
from stmn_plugin.runner import prepare

BEST = os.path.join('model', 'model-best.pth.tar')


def config_of_run(folder, words=(), checkpoint=''):
    """The config that a run folder holds, set to test its best weights.

    Args:
        folder (str): ``data.save_dir`` of a training run.
        words (list): KEY VALUE words on top, for example another ``data.root``.
        checkpoint (str): other weights than the best.

    Returns:
        CfgNode: frozen.

    Raises:
        InputError: the folder holds no config or no weights, or the words do not fit.
    """
    checkpoint = checkpoint or os.path.join(folder, BEST)
    for path, what in ((os.path.join(folder, 'config.yaml'), 'config'), (checkpoint, 'weights')):
        if not os.path.isfile(path):
            raise InputError(f'{folder} holds no trained run: no {what} {path}')
    overrides = {
        'model.load_weights': checkpoint,
        'model.resume': '',
        'model.pretrained': False,  # the checkpoint holds every weight
        'test.evaluate': True,
    }
    return load_config(os.path.join(folder, 'config.yaml'), words, overrides)


def open_run(cfg):
    """The engine of a config with its model in eval mode on its device.

    Of use are ``.model``, ``.datamanager`` (``test_dataset[name]['query' | 'gallery']`` are lists
    of the host's tracklets), ``.settings.plan`` (which frames are tested), ``.prepare`` (frames →
    normalised frames on the device) and ``.extract_tracklets(name, mode)``.

    Raises:
        InputError: anything in the config that cannot work.
    """
    engine, _ = prepare(cfg)
    engine.complete_settings()
    engine.set_model_mode('eval')
    engine.epoch = None  # it is only tested
    return engine
