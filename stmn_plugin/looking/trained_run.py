"""A run folder, or a config with weights → an engine that is ready to be asked, nothing written."""

import os

from stmn_plugin.config import load_config
from stmn_plugin.errors import InputError
from stmn_plugin.host.runner import prepare
from stmn_plugin.training.speed import set_tf32

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
    weights = {'model.load_weights': checkpoint}
    return config_of_file(os.path.join(folder, 'config.yaml'), words, weights)


def config_of_file(file, words=(), overrides=None):
    """A config, set to test the weights that its ``model.load_weights`` names, and no others.

    Args:
        file (str): YAML file.
        words (list): KEY VALUE words on top.
        overrides (dict, optional): full key → value, between file and words.

    Returns:
        CfgNode: frozen.

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


def open_run(cfg):
    """The engine of a config with its model in eval mode on its device.

    Of use are ``.model``, ``.datamanager`` (``test_dataset[name]['query' | 'gallery']`` are lists
    of the host's tracklets), ``.settings.plan`` (which frames are tested), ``.prepare`` (frames →
    normalised frames on the device) and ``.extract_tracklets(name, mode)``. The precision of the
    run, ``train.tf32``, holds for the process from here on.

    Raises:
        InputError: anything in the config that cannot work.
    """
    set_tf32(cfg.train.tf32)
    engine, _ = prepare(cfg)
    engine.complete_settings()
    engine.set_model_mode('eval')
    engine.epoch = None  # it is only tested
    return engine
