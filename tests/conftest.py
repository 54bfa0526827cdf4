"""Data that several test files use, made once per session."""

import io
import os
import random
import shutil
from pathlib import Path

import hypothesis
import miniatures
import numpy as np
import postgres
import pytest
import torch

from stmn_plugin.datasets.index_cache import NO_CACHE

REPOSITORY = Path(__file__).parent.parent
hypothesis.settings.load_profile('ci')  # the same examples every time, however long they take
os.environ[NO_CACHE] = '1'  # lists that are read slowly are kept among the user's own
torch.set_num_threads(1)  # the tensors are small: more threads only wait for each other
os.environ['COLUMNS'] = '100'  # of every console here and in child processes; pytest-xdist sets 80


def pytest_addoption(parser):
    parser.addoption(
        '--whole-demo', action='store_true', help="train the model of the README's third recipe"
    )
    parser.addoption('--kills', type=int, default=8, help='times a writer of an index is killed')


def pytest_configure(config):
    """Only ``-m gpu`` sees a GPU: every other run is the same on all machines."""
    if config.option.markexpr != 'gpu':
        os.environ['CUDA_VISIBLE_DEVICES'] = ''
    # At its first backward pass autograd settles whether forks may differentiate: not if it sees a
    # GPU, and torch.compile registers a fake one where there is none. So this pass comes before.
    torch.zeros(1, requires_grad=True).backward()


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup():
    """Numbers drawn without a seed do not depend on the tests before."""
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)


def pytest_collection_finish(session):
    """Tests of every model are made of the registry: a toy in it would be one of them."""
    from stmn_plugin.models.base import VIDEO_MODELS

    toys = [name for name, model in VIDEO_MODELS.items() if model.__module__.startswith('test_')]
    assert not toys, f'{", ".join(toys)}: use toy_models.registered in a fixture'


@pytest.fixture(scope='session')
def repository():
    return REPOSITORY


@pytest.fixture(scope='session')
def mars_root(tmp_path_factory):
    """A folder with a faithful miniature of MARS."""
    return str(miniatures.make_mars(tmp_path_factory.mktemp('mars')))


@pytest.fixture(scope='session')
def miniature_roots(tmp_path_factory, mars_root):
    """Name of a dataset → a folder with its miniature."""
    return {
        'mars': mars_root,
        'dukemtmcvidreid': str(miniatures.make_dukev(tmp_path_factory.mktemp('dukev'))),
        'lsvid': str(miniatures.make_lsvid(tmp_path_factory.mktemp('lsvid'))),
        'tracklets': str(miniatures.make_tracklets(tmp_path_factory.mktemp('tracklets'))),
    }


@pytest.fixture(scope='session')
def canonical_host(tmp_path_factory):
    """A folder with torchreid in its canonical layout (1.4.0: ``torchreid.*``).

    PyPI's package holds the same files under ``torchreid.reid``, which differ in their import lines
    only; putting those back gives the canonical package.
    """
    import torchreid

    folder = tmp_path_factory.mktemp('canonical')
    package = folder / 'torchreid'
    installed = Path(torchreid.__file__).parent
    ours = installed / 'reid'
    shutil.copytree(ours if ours.is_dir() else installed, package)
    for file in package.rglob('*.py'):
        text = file.read_text(encoding='utf-8')
        file.write_text(text.replace('torchreid.reid', 'torchreid'), encoding='utf-8')
    return folder


@pytest.fixture(scope='session')
def postgres_url():
    """A PostgreSQL server of this session; tests that want it are skipped without its wheel."""
    with postgres.server() as url:
        yield url


@pytest.fixture
def small_run(tmp_path):
    """KEY VALUE words that make any run on a miniature take about a second."""
    return small_run_words(tmp_path / 'run')


def small_run_words(folder):
    """The words of ``small_run`` for any run folder."""
    words = (
        'model.pretrained False stmn.backbone resnet18 data.type video '
        'data.height 64 data.width 32 data.workers 0 '
        'train.optim sgd sgd.momentum 0.0 '  # keeps checkpoints small
        'train.max_epoch 1 train.print_freq 1 train.batch_size 8 '
        'sampler.num_instances 2 video.seq_len 4'
    )
    return [*words.split(), 'data.save_dir', str(folder)]


@pytest.fixture
def messages():
    """A function: what the package has logged since its last call, as commands show it."""
    from stmn_plugin.console import Console
    from stmn_plugin.log import shown_on

    stream = io.StringIO()

    def read():
        text = stream.getvalue()
        stream.seek(0), stream.truncate()
        return text

    with shown_on(Console(stream, 'messages')):
        yield read
