"""The code map of the README names every module, and imports point up it."""

import ast
import re
from pathlib import Path

import pytest

import stmn_plugin

PACKAGE = Path(stmn_plugin.__file__).parent


def rows_of_the_map(repository):
    """Files of the package, a set for each row in order."""
    text = (repository / 'README.md').read_text()
    table = text[text.index('## Code map') : text.index('## Design')]
    rows = []
    for line in table.splitlines():
        names, folder, files = re.findall(r'`([^`]+)`', line.split(' | ')[0]), '', set()
        if not line.startswith('| `'):
            continue
        for name in names:
            found = list(PACKAGE.glob(folder + name)) or list(PACKAGE.glob(name))
            for path in found:
                files |= set(path.rglob('*.py')) if path.is_dir() else {path}
            if '/' in name.rstrip('/'):  # the names after it stand in the same folder
                folder = name[: name.rindex('/', 0, -1) + 1]
        rows.append(files)
    return rows


def imported(path):
    """Modules of the package that a file imports when it is itself imported."""
    package = ('stmn_plugin', *path.relative_to(PACKAGE).parts[:-1])
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.ImportFrom):
            parts = package[: len(package) - node.level + 1] if node.level else ()
            module = [*parts, *(node.module or '').split('.')]
            targets = [[*module, alias.name] for alias in node.names]
        elif isinstance(node, ast.Import):
            targets = [alias.name.split('.') for alias in node.names]
        else:
            continue
        for target in targets:
            names = [name for name in target if name]
            if names[0] != 'stmn_plugin':
                continue
            base = PACKAGE.joinpath(*names[1:])
            for file in (base.with_suffix('.py'), base.parent.with_suffix('.py')):
                if file.is_file() and len(names) > 1:
                    yield file
                    break


@pytest.fixture(scope='module')
def row_of(repository):
    return {file: row for row, files in enumerate(rows_of_the_map(repository)) for file in files}


def test_every_module_is_in_the_map_once(repository, row_of):
    modules = {path for path in PACKAGE.rglob('*.py') if path.name != '__init__.py'}
    missing = {str(path.relative_to(PACKAGE)) for path in modules - set(row_of)}
    assert not missing
    rows = rows_of_the_map(repository)
    assert all(rows[:-1]) and sum(map(len, rows)) == len(row_of)


def test_imports_point_up_the_map(row_of):
    down, number = [], 0
    for path, row in row_of.items():
        for other in imported(path):
            number += 1
            if row_of.get(other, 0) > row:
                down.append(f'{path.relative_to(PACKAGE)} → {other.relative_to(PACKAGE)}')
    assert number > 200 and not down
