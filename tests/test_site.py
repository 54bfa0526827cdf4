"""The documents, the site and the project files agree and are complete."""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from chromium import MISSING, chromium, is_missing, set_window

REPOSITORY = Path(__file__).parent.parent


def read(name):
    return (REPOSITORY / name).read_text(encoding='utf-8')


def test_every_page_is_in_the_navigation_of_the_site():
    listed = re.findall(
        r'^ +- ([\w./-]+\.md)$', (REPOSITORY / 'mkdocs.yml').read_text(), re.MULTILINE
    )
    pages = [p.relative_to(REPOSITORY / 'docs') for p in (REPOSITORY / 'docs').rglob('*.md')]
    assert sorted(listed) == sorted(page.as_posix() for page in pages), 'add the page to mkdocs.yml'


def test_the_pages_of_the_systems_have_one_form():
    pages = [path for path in (REPOSITORY / 'docs' / 'systems').glob('*.md') if path.stem.islower()]
    assert len(pages) == 15
    for path in pages:
        text = path.read_text(encoding='utf-8')
        headings = re.findall(r'^## (.*)', text, re.MULTILINE)
        assert headings == ['Sources', 'Notes', 'Cost', 'Keys'], path.name
        assert text.index('```mermaid') < text.index('## Sources'), path.name


def test_every_dependency_is_explained():
    tomllib = pytest.importorskip('tomllib')
    project = tomllib.loads((REPOSITORY / 'pyproject.toml').read_text(encoding='utf-8'))['project']
    extras = project['optional-dependencies'].values()
    needed = {re.match(r'[\w.-]+', one)[0] for one in sum(extras, project['dependencies'])}
    text = (REPOSITORY / 'docs' / 'installation.md').read_text(encoding='utf-8')
    table = text[text.index('## Dependencies') :]
    missing = [name for name in needed - {'stmn_plugin'} if not re.search(rf'\b{name}\b', table)]
    assert len(needed) > 25 and not missing


def steps_of(workflow):
    for name, job in workflow['jobs'].items():
        for step in job['steps']:
            if 'run' in step:
                for target in job['strategy']['matrix'].get('target', ['']):
                    yield name, step['run'].replace('${{ matrix.target }}', target)


def test_workflows_and_ci_call_the_targets_of_the_makefile():
    targets = re.findall(r'^([\w-]+):', (REPOSITORY / 'Makefile').read_text(), re.MULTILINE)
    called = {}
    for path in (REPOSITORY / '.github' / 'workflows').glob('*.yml'):
        for _, run in steps_of(yaml.safe_load(path.read_text())):
            called.setdefault('workflows', set()).update(re.findall(r'make ([\w-]+)', run))
    called['.ci/run'] = set(
        re.findall(r'^make ([\w-]+)', (REPOSITORY / '.ci/run').read_text(), re.M)
    )
    assert called['.ci/run'] == {'lint', 'types', 'docs', 'test'}
    assert called['workflows'] == called['.ci/run'] | {'wheel', 'test-cameras-demo'} <= set(targets)


def test_the_container_runs_the_steps_of_the_documents():
    """Its commands, a plain pip install and ``python -m stmn_plugin``, are those for Windows."""
    steps = re.findall(r'^(RUN|ENTRYPOINT) (.*)$', read('Dockerfile'), re.MULTILINE)
    (run, install), (entry, words) = steps
    assert (run, entry) == ('RUN', 'ENTRYPOINT')
    install = install.replace('--no-cache-dir ', '')
    command = ' '.join(json.loads(words))
    for name in ('README.md', 'docs/installation.md', 'docs/quick-start.md'):
        assert install in read(name) and f'{command} demo' in read(name), name


def test_the_lowest_versions_are_those_of_the_package():
    """What ``make test-lowest`` installs: the pins that its sed makes of pyproject.toml."""
    [recipe] = re.findall(r"\$\$\((sed -nE '.*?') pyproject.toml\)", read('Makefile'))
    done = subprocess.run(
        [*shlex.split(recipe.replace('$$', '$')), 'pyproject.toml'],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=True,
    )
    tomllib = pytest.importorskip('tomllib')
    needed = tomllib.loads(read('pyproject.toml'))['project']['dependencies']
    stated = dict(one.split('>=') for one in needed if '>=' in one)
    assert done.stdout.split() == [
        f'{name}=={stated[name]}.*' for name in ('torch', 'torchvision', 'numpy')
    ]


def test_the_version_is_written_once():
    from stmn_plugin import __version__

    newest = re.search(r'^## ([\d.]+)', read('CHANGELOG.md'), re.MULTILINE)[1]
    assert newest == __version__
    for name in ('pyproject.toml', 'CITATION.cff', 'README.md', 'mkdocs.yml'):
        assert __version__ not in read(name).replace(f'torchreid {__version__}', ''), name


WIDER_THAN_THEIR_BOX = """
    const parts = document.querySelectorAll('article pre > code, article .md-typeset__scrollwrap')
    return [...parts].filter(part => part.scrollWidth > part.clientWidth + 1)
        .map(part => part.innerText.slice(0, 60))
"""


@pytest.mark.slow
@pytest.mark.skipif(is_missing(), reason=MISSING)
def test_pages_of_the_site_fit_their_window(tmp_path):
    """On a laptop nothing is cut; on a phone wide blocks scroll, and the page does not."""
    pytest.importorskip('mkdocs')
    subprocess.run(
        [sys.executable, '-m', 'mkdocs', 'build', '--strict', '--quiet', '--site-dir', tmp_path],
        cwd=REPOSITORY,
        env={**os.environ, 'NO_MKDOCS_2_WARNING': '1'},
        check=True,
    )
    pages = sorted(tmp_path.rglob('index.html'))
    assert len(pages) > 50
    with chromium() as driver:
        for width in (1280, 390):
            set_window(driver, width, 900)
            for page in pages:
                driver.get(page.as_uri())
                where = f'{page.relative_to(tmp_path)} at {width} pixels'
                assert driver.execute_script('return document.body.scrollWidth') <= width, where
                if width == 1280:
                    assert not driver.execute_script(WIDER_THAN_THEIR_BOX), where
