"""The dataclass of every section; architectures add theirs when they register."""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

from yacs.config import CfgNode

from stmn_plugin.plugins import load_plugins

from . import host_sections as host
from . import our_sections as ours
from .rules import Rule, as_written
from .settings import Setting, settings_of

# a name with a dot is a section within a section, '' holds the keys without one
SECTIONS: dict[str, type] = {
    '': host.General,
    'model': ours.Model,
    'data': ours.Data,
    'market1501': host.Market1501,
    'cuhk03': host.CUHK03,
    'sampler': ours.Sampler,
    'video': ours.Video,
    'train': ours.Train,
    'sgd': host.SGD,
    'rmsprop': host.RMSprop,
    'adam': host.Adam,
    'loss': ours.Loss,
    'loss.softmax': host.Softmax,
    'loss.triplet': host.Triplet,
    'loss.spread': ours.Spread,
    'test': ours.Test,
    'synthetic': ours.Synthetic,
    'one_shot': ours.OneShot,
}

_NO_ARCHITECTURES = frozenset(SECTIONS)
ENCODER_START = ('backbone_weights', 'backbone_sha256')  # keys of every section with an encoder
ENCODER_KEYS = ('backbone', *ENCODER_START)
SHARED = 'shared'  # a backbone that is STMN's


def add_section(name: str, section: type) -> None:
    """Make the fields of an architecture's dataclass keys of every config made from now on.

    Raises:
        TypeError: a field was not made by :func:`.settings.setting`.
        ValueError: the name is a section of another dataclass, or of the host, or no identifier;
            or a default that its own rule does not take.
    """
    known = SECTIONS.get(name)
    if known is not None and known.__qualname__ != section.__qualname__:
        raise ValueError(f'cannot add section {name!r}: the name is taken')
    if not name.isidentifier():
        raise ValueError(f'cannot add section {name!r}: a name is letters, digits and _')
    for one in settings_of(section):
        if one.rule.read(as_written(one.default)) != one.default:
            raise ValueError(f'{name}.{one.name} takes {one.rule}, not its default {one.default!r}')
    SECTIONS[name] = section


def is_video_model(name: str) -> bool:
    """Return whether a ``model.name`` is an architecture for clips, which has its own section."""
    return name in SECTIONS and name not in _NO_ARCHITECTURES


def is_of_another(key: str, arch: str) -> bool:
    """Return whether a full key is of the section of an architecture other than ``arch``.

    A run reads none of these. What an architecture shares with STMN, its encoder, has become its
    own when a config is loaded.
    """
    section = key.partition('.')[0]
    return section != arch and is_video_model(section)


def has_own_losses(values: Mapping[str, Any]) -> bool:
    """Return whether a model has losses that tell persons apart without the section ``loss``.

    The section of such an architecture has ``own_losses``, a ``ClassVar`` or a property.

    Args:
        values: full key → value of a config.
    """
    name = values['model.name']
    return is_video_model(name) and getattr(section_from(values, name), 'own_losses', False)


def kept_at_default(values: Mapping[str, Any]) -> dict[str, str]:
    """Return keys that must have their default, and the key of the model that needs it.

    The section of such an architecture has ``keeps_default``, a ``ClassVar`` or a property.

    Args:
        values: full key → value of a config.
    """
    name = values['model.name']
    section = section_from(values, name) if is_video_model(name) else None
    kept: dict[str, str] = getattr(section, 'keeps_default', {})
    return kept


def general_key(key: str) -> str:
    """Generalise a key: ``*.backbone_weights`` stands for that of any architecture."""
    section, dot, name = key.rpartition('.')
    return f'*.{name}' if dot and name in ENCODER_START and is_video_model(section) else key


def known_settings() -> Iterator[tuple[str, Setting]]:
    """Yield (full key, setting) of every section, those of architectures as far as imported."""
    for name, section in list(SECTIONS.items()):
        for one in settings_of(section):
            yield f'{name}.{one.name}' if name else one.name, one


class _Ranges(Mapping[str, Rule]):
    """Return the settings of all SECTIONS by full key, importing architectures if needed."""

    def __getitem__(self, key: str) -> Rule:
        section, dot, name = key.rpartition('.')
        if dot and not section:  # .use_gpu is no name of use_gpu
            raise KeyError(key)
        if section not in SECTIONS:
            load_plugins()
        fields = {one.name: one for one in dataclasses.fields(SECTIONS[section])}
        rule: Rule = fields[name].metadata['rule']
        return rule

    def __iter__(self) -> Iterator[str]:
        load_plugins()
        return (key for key, _ in known_settings())

    def __len__(self) -> int:
        return sum(1 for _ in self)


RANGES: Mapping[str, Rule] = _Ranges()


def section_from(values: Mapping[str, Any], name: str) -> Any:
    """Build the dataclass instance of a section.

    Args:
        values: full key → value, as checkpoints keep a config; a missing key has its default.
        name: of the section, such as ``stmn`` or ``loss.spread``.
    """
    if name not in SECTIONS:
        load_plugins()
    section = SECTIONS[name]
    keys = {one.name: f'{name}.{one.name}' if name else one.name for one in settings_of(section)}
    return section(**{field: values[key] for field, key in keys.items() if key in values})


def section_of(cfg: CfgNode, name: str) -> Any:
    """Build the dataclass instance of a section of a config tree."""
    return section_from(flatten(cfg), name)


def flatten(tree: Mapping[str, Any], prefix: str = '') -> dict[str, Any]:
    """Flatten a tree: {'train': {'lr': 1}} → {'train.lr': 1}."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, dict):
            flat.update(flatten(value, f'{prefix}{key}.'))
        else:
            flat[f'{prefix}{key}'] = value
    return flat
