"""Build the yacs tree of all sections with their defaults."""

from yacs.config import CfgNode

from stmn_plugin.plugins import load_plugins

from .ranges import AUTO
from .sections import flatten, known_settings

__all__ = ['AUTO', 'flatten', 'get_default_config']


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
