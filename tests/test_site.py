"""The documents are complete: every page in the navigation, every dependency explained."""

import re
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parent.parent


def test_every_page_is_in_the_navigation_of_the_site():
    listed = re.findall(
        r'^ +- ([\w./-]+\.md)$', (REPOSITORY / 'mkdocs.yml').read_text(), re.MULTILINE
    )
    pages = [p.relative_to(REPOSITORY / 'docs') for p in (REPOSITORY / 'docs').rglob('*.md')]
    assert sorted(listed) == sorted(page.as_posix() for page in pages), 'add the page to mkdocs.yml'


def test_every_dependency_is_explained():
    tomllib = pytest.importorskip('tomllib')
    project = tomllib.loads((REPOSITORY / 'pyproject.toml').read_text(encoding='utf-8'))['project']
    extras = project['optional-dependencies'].values()
    needed = {re.match(r'[\w.-]+', one)[0] for one in sum(extras, project['dependencies'])}
    text = (REPOSITORY / 'docs' / 'installation.md').read_text(encoding='utf-8')
    table = text[text.index('## Dependencies') :]
    missing = [name for name in needed - {'stmn_plugin'} if not re.search(rf'\b{name}\b', table)]
    assert len(needed) > 25 and not missing
