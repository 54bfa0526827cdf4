"""A wheel, installed outside the checkout: its commands, configs and templates."""

import json
import os
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from pathlib import Path
from shutil import copytree, ignore_patterns

import pytest

from stmn_plugin.cli import commands
from stmn_plugin.config.shipped import config_names

REPOSITORY = Path(__file__).parents[1]
SDIST = 'from setuptools.build_meta import build_sdist; build_sdist("dist")'
TINY = """
    synthetic.preset tiny data.workers 0 data.save_dir log/tiny
    train.max_epoch 1 train.batch_size 4 sampler.num_instances 2 video.seq_len 2 model.resume auto
    train.optim sgd sgd.momentum 0.0
"""
pytestmark = pytest.mark.slow


def run(*command, cwd, **variables):
    """Run a command that knows nothing of the checkout → what it prints."""
    known = {name: os.environ[name] for name in os.environ if name != 'PYTHONPATH'}
    done = subprocess.run(
        [str(word) for word in command],
        cwd=cwd,
        env={**known, 'OMP_NUM_THREADS': '1', 'PYTHONSAFEPATH': '1', **variables},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope='module')
def source(tmp_path_factory):
    """A copy of what is packed, so that nothing is built within the checkout."""
    folder = tmp_path_factory.mktemp('source')
    for name in ('stmn_plugin', 'configs'):
        copytree(REPOSITORY / name, folder / name, ignore=ignore_patterns('__pycache__'))
    for name in ('pyproject.toml', 'setup.py', 'README.md', 'LICENSE'):
        (folder / name).write_bytes((REPOSITORY / name).read_bytes())
    return folder


@pytest.fixture(scope='module')
def wheel(source, tmp_path_factory):
    """Built from the source distribution, which must hold all that belongs into it."""
    (source / 'dist').mkdir()
    run(sys.executable, '-c', SDIST, cwd=source)
    [archive] = (source / 'dist').glob('*.tar.gz')
    folder = tmp_path_factory.mktemp('wheel')
    with tarfile.open(archive) as files:
        files.extractall(folder, filter='data')
    options = ('--no-deps', '--no-build-isolation', '--no-index', '--wheel-dir', folder)
    [unpacked] = folder.iterdir()
    run(sys.executable, '-m', 'pip', 'wheel', unpacked, *options, cwd=folder)
    [path] = folder.glob('*.whl')
    return path


@pytest.fixture(scope='module')
def environment(tmp_path_factory):
    """Make a virtual environment that finds the packages of this one, all but ours."""

    def make(name, *install):
        folder = tmp_path_factory.mktemp(name)
        run(sys.executable, '-m', 'venv', '--without-pip', folder, cwd=folder)
        python = folder / 'bin' / 'python'
        [own] = folder.glob('lib/python*/site-packages')
        # the .pth files of that folder, of an editable installation for one, are not followed
        (own / 'others.pth').write_text(sysconfig.get_path('purelib') + '\n')
        pip = (sys.executable, '-m', 'pip', '--python', python, 'install', '--no-deps')
        offline = ('--ignore-installed', '--no-build-isolation', '--no-index')
        run(*pip, *offline, *install, cwd=folder)
        return folder / 'bin'

    return make


@pytest.fixture(scope='module')
def installed(wheel, environment):
    """The folder of the commands of an environment in which the wheel is installed."""
    return environment('installed', wheel)


def test_a_wheel_holds_the_package_its_configs_and_templates(wheel):
    held = set(zipfile.ZipFile(wheel).namelist())
    package = REPOSITORY / 'stmn_plugin'
    wanted = {
        path.relative_to(REPOSITORY).as_posix()
        for path in package.rglob('*')
        if path.is_file() and '__pycache__' not in path.parts
    } | {f'stmn_plugin/configs/{name}.yaml' for name in config_names()}
    metadata = {name for name in held if '.dist-info/' in name}
    assert held - metadata == wanted
    assert any(name.endswith('LICENSE') for name in metadata)


def test_the_demo_runs_from_an_installed_wheel(installed, tmp_path):
    assert 'installed' in run(
        installed / 'python', '-c', 'import stmn_plugin; print(stmn_plugin.__file__)', cwd=tmp_path
    )
    train = (installed / 'stmn-train', '--config', 'stmn_synthetic', *TINY.split())
    assert 'rank-1' in run(*train, cwd=tmp_path)
    assert json.loads((tmp_path / 'log/tiny/metrics.json').read_text())['evaluations']
    assert 'Nothing to train' in run(*train, cwd=tmp_path)  # the newest checkpoint is found
    report = ('-m', 'stmn_plugin', 'report', '--run', 'log/tiny')
    assert 'report.html' in run(installed / 'python', *report, cwd=tmp_path)
    assert '<html' in (tmp_path / 'log/tiny/report.html').read_text()
    export = ('--weights', 'out.safetensors', 'log/tiny/model/model-best.pth.tar')
    assert run(installed / 'stmn-export', *export, cwd=tmp_path).startswith('Wrote out.safetensors')


def test_every_command_of_an_installed_wheel_starts(installed, tmp_path):
    for name in commands.commands():
        said = run(installed / f'stmn-{name}', '--help', cwd=tmp_path)
        assert said.startswith(f'usage: stmn-{name} ')
    words = ('--config', 'stmn_synthetic', '--ablation', '--seeds', '1', '--dry-run')
    plan = run(installed / 'stmn-compare', *words, cwd=tmp_path)
    assert plan.startswith('folder log/compare/stmn_synthetic\n')
    assert plan.count(' new\n') == 10  # the shipped variants


def test_an_editable_installation_finds_the_configs(source, environment, tmp_path):
    folder = environment('editable', '--editable', source)
    code = 'from stmn_plugin.config.shipped import config_path; print(config_path("stmn_mars"))'
    found = run(folder / 'python', '-c', code, cwd=tmp_path)
    assert Path(found.strip()) == source / 'configs' / 'stmn_mars.yaml'
