"""Load a YAML file, command-line flags and KEY VALUE words as one checked, frozen config."""

import difflib
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from yacs.config import CfgNode

from stmn_plugin.errors import InputError

from .checks import check_config
from .defaults import get_default_config
from .rules import as_written, shown
from .sections import ENCODER_KEYS, RANGES, SECTIONS, SHARED
from .shipped import config_path
from .yaml_file import YamlValue, flatten_tree, read_tree

BASE = '_BASE_'


def load_config(
    file: str = '', opts: Sequence[str] = (), overrides: Mapping[str, Any] | None = None
) -> CfgNode:
    """Merge and check defaults, then a YAML file, then overrides, then KEY VALUE words.

    Args:
        file: YAML file, or the name of a shipped config such as ``stmn_mars``; '' is none.
        opts: KEY VALUE KEY VALUE ..., values as in a YAML file; of a key that comes twice
            the later value counts.
        overrides: full key → value, between file and opts (command-line flags).

    Returns:
        The config, frozen.

    Raises:
        InputError: missing or malformed file, unknown key, impossible value.
    """
    file = config_path(file)
    cfg = get_default_config()
    for one, tree in reversed(list(_files(file)) if file else []):
        for key, written in flatten_tree(tree, one).items():
            _merge(cfg, key, written.value, f'{one}:{written.line}: ')
    if len(opts) % 2:
        raise InputError(f'expected KEY VALUE pairs, got {" ".join(opts)!r}')
    words = zip(opts[::2], opts[1::2], strict=True)
    for key, value in [*(overrides or {}).items(), *words]:
        _merge(cfg, key, as_written(value))
    cfg.data.save_dir = os.path.expanduser(cfg.data.save_dir)
    _share_encoder(cfg)
    check_config(cfg)
    cfg.freeze()
    return cfg


def read_yaml(file: str) -> dict[str, Any]:
    """Read the keys of a YAML file itself as full key → value, without its ``_BASE_``.

    Keys that are not known (any more) have texts as values.

    Raises:
        InputError: missing or malformed file, impossible value.
    """
    return _values(flatten_tree(read_tree(file), file), file)


def read_rows(file: str) -> dict[str, dict[str, Any]]:
    """Read a YAML file of title → keys, nested or with dots, as title → {full key: value}.

    Raises:
        InputError: missing or malformed file, another content, unknown key, impossible value.
    """
    rows = {}
    for title, tree in read_tree(file).items():
        if not isinstance(tree, dict) and tree.value != {}:
            raise InputError(
                f'{file}:{tree.line}: {title!r} must hold keys with values, got {shown(tree.value)}'
            )
        flat = flatten_tree(tree, file) if isinstance(tree, dict) else {}
        for key, written in flat.items():
            check_key(key, f'{file}:{written.line}: ')
        rows[title] = _values(flat, file)
    return rows


def check_key(key: str, origin: str = '') -> None:
    """Raise InputError with the nearest key unless the key is known.

    Args:
        key: full.
        origin: where the key is, to start the message.
    """
    if key in RANGES:
        return
    if inner := [known for known in RANGES if known.startswith(f'{key}.')]:
        raise InputError(f'{origin}{key} is no key but a section, of keys such as {inner[0]}')
    nearest = difflib.get_close_matches(key, RANGES, n=1, cutoff=0)[0]
    message = f'{origin}unknown config key {key!r}; the nearest known key is {nearest!r}'
    section = key.partition('.')[0]
    if section != key and not difflib.get_close_matches(section, SECTIONS, cutoff=0.7):
        message += f' (--import FILE.py adds the section {section!r} of an architecture)'
    raise InputError(message)


def _files(file: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield a YAML file, then its ``_BASE_`` (relative to the file), and so on."""
    seen, origin = set(), ''
    while file:
        tree = read_tree(file)
        if os.path.realpath(file) in seen:
            raise InputError(f'{origin}{BASE} leads back to {file}')
        seen.add(os.path.realpath(file))
        base = tree.pop(BASE, None)
        yield file, tree
        if base is None:
            return
        if not isinstance(getattr(base, 'value', None), str) or not base.value:
            raise InputError(f'{file}: {BASE} takes the name of a file')
        origin = f'{file}:{base.line}: '
        file = os.path.normpath(os.path.join(os.path.dirname(file), base.value))
        if not os.path.exists(file):
            raise InputError(f'{origin}{BASE}: no file {file}')


def _merge(cfg: CfgNode, key: str, written: Any, origin: str = '') -> None:
    """Set one full key, after checking that it exists and takes the value."""
    is_section = key != '' and key in SECTIONS
    if cfg.key_is_deprecated(key) or (is_section and not written):
        return  # a section without keys, as when all of them are commented out
    check_key(key, origin)
    *path, leaf = key.split('.')
    node = cfg
    for name in path:
        node = node[name]
    node[leaf] = _value(key, written, origin)


def _share_encoder(cfg: CfgNode) -> None:
    """Set STMN's encoder for the chosen architecture, unless it names another one."""
    section = cfg.get(cfg.model.name)
    if isinstance(section, CfgNode) and section.get('backbone') == SHARED:
        for key in ENCODER_KEYS:
            section[key] = cfg.stmn[key]


def _values(flat: Mapping[str, YamlValue], file: str) -> dict[str, Any]:
    """Convert full key → YamlValue to full key → value."""
    return {
        key: _value(key, written.value, f'{file}:{written.line}: ')
        if key in RANGES
        else written.value
        for key, written in flat.items()
    }


def _value(key: str, written: Any, origin: str) -> Any:
    value = RANGES[key].read(written)
    if value is None:
        raise InputError(f'{origin}{key} takes {RANGES[key]}, got {shown(written)}')
    return value
