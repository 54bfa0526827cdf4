"""YAML file, command-line flags and KEY VALUE words → one checked, frozen config."""

import ast
import difflib
import os

import torch
import yaml

from stmn_plugin.errors import InputError

from .checks import check_config
from .defaults import flatten, get_default_config

BASE = '_BASE_'
# keys that take another type than their default's
ALSO_ACCEPTS = {'stmn.similarity_scale': (float, int)}


def load_config(file='', opts=(), overrides=None):
    """Defaults, then a YAML file, then overrides, then KEY VALUE words, checked.

    Args:
        file (str): YAML file; '' is none.
        opts (list): KEY VALUE KEY VALUE ..., values as YAML/Python literals.
        overrides (dict, optional): full key → value, between file and opts (command-line flags).

    Returns:
        CfgNode: frozen.

    Raises:
        InputError: missing or malformed file, unknown key, wrong type, impossible value.
    """
    cfg = get_default_config()
    if file:
        _merge_file(cfg, file)
    for key, value in (overrides or {}).items():
        _merge(cfg, key, value)
    if len(opts) % 2:
        raise InputError(f'expected KEY VALUE pairs, got {" ".join(opts)!r}')
    for key, word in zip(opts[::2], opts[1::2], strict=True):
        _merge(cfg, key, _decode(word))
    cfg.data.save_dir = os.path.expanduser(cfg.data.save_dir)
    cfg.use_gpu = cfg.use_gpu and torch.cuda.is_available()  # of a run on another machine
    check_config(cfg)
    cfg.freeze()
    return cfg


def _merge_file(cfg, file, children=()):
    """A YAML file on top of the one it names as ``_BASE_`` (relative to itself), if it does."""
    values = read_yaml(file)
    base = values.pop(BASE, None)
    if base is not None:
        if file in children:
            raise InputError(f'{file}: {BASE} leads back to the file itself')
        base = os.path.normpath(os.path.join(os.path.dirname(file), str(base)))
        _merge_file(cfg, base, (*children, file))
    for key, value in values.items():
        _merge(cfg, key, value, f'{file}: ')


def read_yaml(file):
    """What a YAML file itself says, as full key → value: ``_BASE_`` is not followed.

    Raises:
        InputError: missing or malformed file.
    """
    return flatten(read_tree(file))


def read_tree(file):
    """A YAML file as nested dictionaries.

    Raises:
        InputError: missing or malformed file.
    """
    try:
        with open(file, encoding='utf-8') as stream:
            tree = yaml.safe_load(stream)
    except OSError as error:
        raise InputError(f'cannot read config file {file}: {error.strerror}') from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f'{file} is no YAML file: {" ".join(str(error).split())}') from error
    if not isinstance(tree, dict):
        raise InputError(f'{file} holds no config (expected keys such as model, data, train)')
    return tree


def _merge(cfg, key, value, origin=''):
    """Set one full key, after checking that it exists and that the type fits."""
    if cfg.key_is_deprecated(key):
        return
    known = flatten(cfg)
    if key not in known:
        nearest = difflib.get_close_matches(key, known, n=1, cutoff=0)[0]
        raise InputError(
            f'{origin}unknown config key {key!r}; the nearest known key is {nearest!r}'
        )
    given = value
    if value is False and known[key] == 'off':
        value = 'off'  # YAML reads a bare off as False
    if isinstance(value, str) and not isinstance(known[key], str):
        value = _decode(value)  # YAML reads 1e-4 as text
    value = _coerced(value, known[key], ALSO_ACCEPTS.get(key, ()))
    if value is None:
        raise InputError(
            f'{origin}{key} takes a {type(known[key]).__name__} such as {known[key]!r}, '
            f'got {given!r}'
        )
    *path, leaf = key.split('.')
    node = cfg
    for name in path:
        node = node[name]
    node[leaf] = value


def _coerced(value, default, others):
    """The value in the type of the default, or None if it does not fit."""
    if isinstance(value, bool) != isinstance(default, bool):
        return None
    if isinstance(value, (type(default), *others)):
        return value
    if isinstance(default, float) and isinstance(value, int):
        return float(value)
    if isinstance(default, list):
        return list(value) if isinstance(value, (list, tuple)) else [value]
    return None


def _decode(word):
    """A word of the command line as a Python literal; text where it is none."""
    try:
        return ast.literal_eval(word)
    except (ValueError, SyntaxError):
        return word


def split_words(words):
    """Words of a flag that takes many → (words, KEY VALUE words); a word with a dot is a key.

    ``-t mars data.type video`` gives all three words to the flag.
    """
    end = next((i for i, word in enumerate(words) if '.' in word), len(words))
    return words[:end], words[end:]
