"""Digests of configs and lists of tracklets that identify runs and the inputs of evaluations.

The folder name of a compared run contains :func:`run_digest`. Two evaluations of the same weights
give the same numbers if :func:`config_digests` and :func:`data_digests` are equal.
"""

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from typing import Any

from stmn_plugin.config.defaults import flatten, get_default_config
from stmn_plugin.config.sections import general_key, is_of_another

from .resuming import is_recipe

DIGITS, NAME_DIGITS = 16, 8
# the start of a run: users may change these when resuming; runs that differ in them are distinct
START_KEYS = {
    'model.pretrained',
    'model.load_weights',
    '*.backbone_weights',
    '*.backbone_sha256',
    'data.train_list',
    'one_shot.split_file',
    'train.start_epoch',
    'train.allow_changed',  # weights trained with two recipes
}
# keys of test.* that do not affect results; a new key counts as one that does
FREE_IN_TESTING = {
    'test.evaluate',
    'test.start_eval',
    'test.eval_freq',
    'test.best',
    'test.visrank',
    'test.visrank_topk',
    'test.features_dir',
    'test.batch_size',
    'test.verification',
    'test.false_positive_rate',
}


def is_start(key: str) -> bool:
    """Return whether a key describes the start of a run."""
    return general_key(key) in START_KEYS


def experiment_of(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings that determine the final weights, except the seed: key → value.

    They are the recipe, the length of the training and its start. Data sets are identified by their
    names, not by their folders.
    """
    return {
        key: value
        for key, value in config.items()
        if (is_recipe(key, config) or is_start(key) or key == 'train.max_epoch')
        and key != 'train.seed'
        and not is_of_another(key, config['model.name'])
    }


def run_digest(config: Mapping[str, Any]) -> str:
    """Return the 8 hex digits that name an experiment, including the content of initial files.

    Keys at their default are ignored, so a key that a later version adds changes no digest;
    keys of other architectures are always ignored.
    """
    parts = _unlike_defaults(experiment_of(config))
    for key in filter(is_start, parts):
        parts[key] = _contents(parts[key])
    return _digest(_plain(parts))[:NAME_DIGITS]


def _unlike_defaults(config: Mapping[str, Any]) -> dict[str, Any]:
    default = flatten(get_default_config())
    return {key: value for key, value in config.items() if value != default.get(key)}


def _contents(value: Any) -> Any:
    path = os.path.expanduser(value) if isinstance(value, str) else ''
    if not os.path.isfile(path):  # a flag, a number or a link
        return value
    with open(path, 'rb') as file:
        digest = hashlib.sha256()
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def decides_test(key: str) -> bool:
    """Return whether test results of given weights depend on a key outside the recipe."""
    return key == 'data.bad_frames' or (key.startswith('test.') and key not in FREE_IN_TESTING)


def config_digests(config: Mapping[str, Any]) -> dict[str, str]:
    """Digest the settings that determine weights and results, without keys at their default.

    Args:
        config: key → value.

    Returns:
        'recipe' and 'test' → digest.
    """
    return first_version_digests(_unlike_defaults(config))


def first_version_digests(config: Mapping[str, Any]) -> dict[str, str]:
    """Digest all keys of a config, as the first version of this package recorded them."""
    whole = {**flatten(get_default_config()), **config}
    recipe = {key: value for key, value in config.items() if is_recipe(key, whole)}
    test = {key: value for key, value in config.items() if decides_test(key)}
    return {'recipe': _digest(_plain(recipe)), 'test': _digest(_plain(test))}


def data_digests(datamanager: Any, name: str) -> dict[str, str]:
    """Digest the lists of a target and of the training data.

    To be cheap, a tracklet counts by its person, camera, number of frames, and the names and sizes
    of its first and last frame. Folders do not count.

    Args:
        datamanager: ours or the host's.
        name: name of the target.

    Returns:
        'train', 'query' and 'gallery' → digest.
    """
    test = datamanager.test_dataset[name]
    return {
        'train': training_digest(datamanager),
        **{kind: _list_digest(test[kind]) for kind in ('query', 'gallery')},
    }


def training_digest(datamanager: Any) -> str:
    """Return 'train' of :func:`data_digests`; '' if no training data was read."""
    dataset = datamanager.train_loader.dataset
    # clips, the host's images, or an empty list
    tracklets = getattr(dataset, 'tracklets', None) or getattr(dataset, 'train', ())
    return _list_digest(tracklets) if tracklets else ''


def _list_digest(tracklets: Iterable[tuple[Any, ...]]) -> str:
    return _digest('\n'.join(map(_tracklet_in_words, tracklets)))


def _tracklet_in_words(tracklet: tuple[Any, ...]) -> str:
    paths, pid, camid, *_ = tracklet
    paths = [paths] if isinstance(paths, str) else paths  # image data
    ends = [(os.path.basename(path), _size(path)) for path in (paths[0], paths[-1])]
    return repr((int(pid), int(camid), len(paths), ends))


def _size(path: str) -> int | None:
    try:
        return os.stat(path).st_size
    except OSError:
        return None


def _plain(config: Mapping[str, Any]) -> str:
    return json.dumps(config, sort_keys=True, default=str)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode('utf-8', 'backslashreplace')).hexdigest()[:DIGITS]
