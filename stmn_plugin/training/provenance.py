"""A config and lists of tracklets → digests that say what an evaluation was made from.

Two evaluations of the same weights give the same numbers when these are equal.
"""

import hashlib
import json
import os

from .resuming import is_recipe

DIGITS = 16
# keys of test.* that change no number; every other one does, so a new key cannot be forgotten
FREE_IN_TESTING = {
    'test.evaluate',
    'test.start_eval',
    'test.eval_freq',
    'test.visrank',
    'test.visrank_topk',
    'test.features_dir',
    'test.batch_size',
}


def decides_test(key: str) -> bool:
    """Whether the numbers of given weights depend on a key that is not of the recipe."""
    return key == 'data.bad_frames' or (key.startswith('test.') and key not in FREE_IN_TESTING)


def config_digests(config: dict) -> dict:
    """What weights and numbers depend on in a config.

    Args:
        config (dict): key → plain value.

    Returns:
        dict: 'recipe' and 'test' → digest.
    """
    recipe = {key: value for key, value in config.items() if is_recipe(key, config)}
    test = {key: value for key, value in config.items() if decides_test(key)}
    return {'recipe': _digest(_plain(recipe)), 'test': _digest(_plain(test))}


def data_digests(datamanager, name: str) -> dict:
    """The lists of a target and those that were trained on.

    Cheap, so of each tracklet: person, camera, number of frames, name and size of the first and the
    last one. The folder they lie in does not count.

    Args:
        datamanager: ours or the host's.
        name (str): of the target.

    Returns:
        dict: 'train', 'query' and 'gallery' → digest.
    """
    test = datamanager.test_dataset[name]
    return {
        'train': training_digest(datamanager),
        **{kind: _list_digest(test[kind]) for kind in ('query', 'gallery')},
    }


def training_digest(datamanager) -> str:
    """'train' of :func:`data_digests`."""
    dataset = datamanager.train_loader.dataset
    return _list_digest(dataset.tracklets if hasattr(dataset, 'tracklets') else dataset.train)


def _list_digest(tracklets):
    return _digest('\n'.join(map(_tracklet_in_words, tracklets)))


def _tracklet_in_words(tracklet):
    paths, pid, camid, *_ = tracklet
    paths = [paths] if isinstance(paths, str) else paths  # image data
    ends = [(os.path.basename(path), _size(path)) for path in (paths[0], paths[-1])]
    return repr((int(pid), int(camid), len(paths), ends))


def _size(path):
    try:
        return os.stat(path).st_size
    except OSError:
        return None


def _plain(config):
    return json.dumps(config, sort_keys=True, default=str)


def _digest(text):
    return hashlib.sha256(text.encode('utf-8', 'backslashreplace')).hexdigest()[:DIGITS]
