"""Imports point up the list of rooms in docs/design.md, and no file imports in a circle."""

import ast
import re
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import stmn_plugin

PACKAGE = Path(stmn_plugin.__file__).parent
MODULES = {
    tuple(path.relative_to(PACKAGE).with_suffix('').parts): path
    for path in PACKAGE.rglob('*.py')
    if path.name != '__init__.py'
}


@pytest.fixture(scope='module')
def rooms(repository):
    """Names of the rooms in the document's order; '' is the root of the package."""
    text = (repository / 'docs' / 'design.md').read_text(encoding='utf-8')
    table = text[text.index('## Rooms') : text.index('## Decisions')]
    names = re.findall(r'^\| `([^`]+)/`', table, re.MULTILINE)
    return [name.removeprefix('stmn_plugin') for name in names]


def imported(module):
    """Modules of the package that a file imports when it is itself imported."""
    package = ('stmn_plugin', *module[:-1])
    for node in ast.parse(MODULES[module].read_text()).body:
        if isinstance(node, ast.ImportFrom):
            parts = package[: len(package) - node.level + 1] if node.level else ()
            stem = (*parts, *(node.module.split('.') if node.module else ()))
            targets = [(*stem, alias.name) for alias in node.names]
        elif isinstance(node, ast.Import):
            targets = [tuple(alias.name.split('.')) for alias in node.names]
        else:
            continue
        for first, *rest in targets:
            if first != 'stmn_plugin':
                continue
            for name in (tuple(rest), tuple(rest[:-1])):
                if name in MODULES:
                    yield name
                    break


def room_of(module):
    if module == ('__main__',):  # starts the commands
        return 'cli'
    return module[0] if len(module) > 1 else ''


def test_the_document_lists_every_room_once(rooms):
    assert sorted(rooms) == sorted({room_of(module) for module in MODULES})


def test_a_room_opens_with_a_few_sentences(rooms):
    for room in rooms:
        text = ast.get_docstring(ast.parse((PACKAGE / room / '__init__.py').read_text()))
        assert text and len(text) > 60, room


def test_imports_point_up_the_rooms(rooms):
    pairs = [(one, other) for one in MODULES for other in imported(one)]
    down = [
        f'{"/".join(one)} → {"/".join(other)}'
        for one, other in pairs
        if rooms.index(room_of(other)) > rooms.index(room_of(one))
    ]
    assert len(pairs) > 200 and not down


def test_no_imports_in_a_circle():
    graph = {module: set(imported(module)) for module in MODULES}
    try:
        list(TopologicalSorter(graph).static_order())
    except CycleError as error:
        pytest.fail(f'imports in a circle: {error.args[1]}')
