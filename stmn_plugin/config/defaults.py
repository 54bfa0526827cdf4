"""Defaults of all settings: the yacs tree of them, and recorded configs completed with them."""

from collections.abc import Mapping
from typing import Any

from yacs.config import CfgNode

from stmn_plugin.plugins import load_plugins

from .rules import AUTO
from .sections import flatten, known_settings

__all__ = ['AUTO', 'flatten', 'get_default_config', 'recorded_settings']


def get_default_config() -> CfgNode:
    """Return the host's defaults, ours, and those of every registered architecture."""
    load_plugins()
    cfg = CfgNode()
    for key, one in known_settings():
        *path, leaf = key.split('.')
        node = cfg
        for name in path:
            node = node.setdefault(name, CfgNode())
        node[leaf] = one.default
    cfg.register_deprecated_key('test.visactmap')  # in the host's older YAML files; does nothing
    return cfg


def recorded_settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """Add keys of later versions at their defaults to a config (full key → value).

    One is not: the first version always trained image models frame by frame.
    """
    settings = {**flatten(get_default_config()), **config}
    has_section = any(key.startswith(f'{settings["model.name"]}.') for key in settings)
    if settings['data.type'] == 'video' and 'video.image_models' not in config and not has_section:
        settings['video.image_models'] = 'frames'
    return settings
