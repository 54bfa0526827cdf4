"""Read a YAML file with the text and line numbers of every value.

YAML's own reading of a value (1e-4 is text, 010 is 8, off is False) is ignored: the rule of a key
reads the text. So nothing is constructed, and a file can neither run code nor grow.
"""

from typing import Any, NamedTuple

import yaml

from stmn_plugin.errors import InputError
from stmn_plugin.input_files import open_regular

LARGEST = 256 * 1024  # bytes
MOST_NODES = 20_000  # including repetitions by aliases
DEEPEST = 10
_TAG = 'tag:yaml.org,2002:'
_KINDS = ('null', 'bool', 'int', 'float', 'str', 'timestamp', 'value', 'merge', 'seq', 'map')


class YamlValue(NamedTuple):
    """The value of a key, as text, with its lines."""

    value: Any  # str, list, dict, None: text, a list of such, an empty mapping, null
    line: int


def read_tree(file: str) -> dict[str, Any]:
    """Read a YAML file as nested dictionaries: name → YamlValue or a non-empty dictionary.

    Raises:
        InputError: names the file, and the line of what is no config.
    """
    text = _read_text(file)
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except RecursionError as error:
        raise InputError(f'{file} is nested deeper than any config') from error
    except yaml.reader.ReaderError as error:
        line = text.count('\n', 0, error.position) + 1
        raise InputError(f'{file}:{line}: no YAML: {error.reason}') from error
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        reason = ' '.join(filter(None, (error.context, error.problem)))
        raise InputError(f'{file}:{mark.line + 1}: no YAML: {reason}') from error
    if not isinstance(root, yaml.MappingNode):
        raise InputError(f'{file} holds no config (expected keys such as model, data, train)')
    tree = _Reader(file).read(root)
    return tree if isinstance(tree, dict) else {}


def flatten_tree(tree: dict[str, Any], file: str, prefix: str = '') -> dict[str, YamlValue]:
    """Flatten a tree: {'train': {'lr': YamlValue}} → {'train.lr': YamlValue}.

    Raises:
        InputError: a key stands there nested and once more with dots.
    """
    flat: dict[str, YamlValue] = {}
    for name, value in tree.items():
        key = f'{prefix}{name}'
        below = flatten_tree(value, file, f'{key}.') if isinstance(value, dict) else {key: value}
        for full, written in below.items():
            if full in flat:
                raise _twice(file, full, flat[full].line, written.line)
            flat[full] = written
    return flat


class _Reader:
    """Converts the nodes of a file to dictionaries and YamlValue."""

    def __init__(self, file: str):
        self.file = file
        self.nodes = 0

    def read(self, node: yaml.Node, depth: int = 0) -> Any:
        line = node.start_mark.line + 1
        self.nodes += 1
        if depth > DEEPEST or self.nodes > MOST_NODES:
            raise InputError(f'{self.file}:{line}: nested deeper or larger than any config')
        if node.tag.removeprefix(_TAG) not in _KINDS:
            raise InputError(f'{self.file}:{line}: the tag {node.tag!r} has no place in a config')
        if isinstance(node, yaml.MappingNode):
            return self._read_mapping(node, depth) or YamlValue({}, line)
        if isinstance(node, yaml.SequenceNode):
            items = [self.read(one, depth + 1) for one in node.value]
            return YamlValue([i.value if isinstance(i, YamlValue) else i for i in items], line)
        return YamlValue(None if node.tag == _TAG + 'null' else node.value, line)

    def _read_mapping(self, node: yaml.MappingNode, depth: int) -> dict[str, Any]:
        own: dict[str, Any] = {}
        merged: list[yaml.Node] = []
        lines: dict[str, int] = {}
        for key, value in node.value:
            line = key.start_mark.line + 1
            if not isinstance(key, yaml.ScalarNode):
                raise InputError(f'{self.file}:{line}: a key is a word')
            if key.value in lines:
                raise _twice(self.file, key.value, lines[key.value], line)
            lines[key.value] = line
            if key.tag == _TAG + 'merge':
                merged = value.value if isinstance(value, yaml.SequenceNode) else [value]
            else:
                own[key.value] = self.read(value, depth + 1)
        for other in merged:  # YAML's rule: own keys first, then the merged ones in their order
            values = self.read(other, depth + 1)
            if isinstance(values, YamlValue) and values.value != {}:
                raise InputError(f'{self.file}:{values.line}: << takes a mapping')
            own = {**(values if isinstance(values, dict) else {}), **own}
        return own


def _read_text(file: str) -> str:
    try:
        with open_regular(file) as stream:
            content: bytes = stream.read(LARGEST + 1)
    except OSError as error:
        raise InputError(f'cannot read config file {file}: {error.strerror}') from error
    if len(content) > LARGEST:
        raise InputError(f'{file} is larger than any config ({LARGEST // 1024} KiB)')
    wide = content[:2] in (b'\xff\xfe', b'\xfe\xff')
    try:
        return content.decode('utf-16' if wide else 'utf-8-sig')
    except UnicodeDecodeError as error:
        line = content.count(b'\n', 0, error.start) + 1
        raise InputError(f'{file}:{line}: no YAML: not UTF-8 ({error.reason})') from error


def _twice(file: str, key: str, *lines: int) -> InputError:
    first, second = sorted(lines)  # a merged mapping may precede the one it is merged into
    return InputError(f'{file}:{second}: {key!r} stands there twice, first on line {first}')
