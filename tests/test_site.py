"""The site of the documents holds every page; `make docs` builds it strictly."""

import re
from pathlib import Path

REPOSITORY = Path(__file__).parent.parent


def test_every_page_is_in_the_navigation_of_the_site():
    listed = re.findall(
        r'^ +- ([\w./-]+\.md)$', (REPOSITORY / 'mkdocs.yml').read_text(), re.MULTILINE
    )
    pages = [p.relative_to(REPOSITORY / 'docs') for p in (REPOSITORY / 'docs').rglob('*.md')]
    assert sorted(listed) == sorted(page.as_posix() for page in pages), 'add the page to mkdocs.yml'
