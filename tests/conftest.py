"""Data that several test files use, made once per session."""

import sys
from pathlib import Path

import miniatures
import pytest

REPOSITORY = Path(__file__).parent.parent
sys.path.insert(0, str(REPOSITORY / 'tools'))  # tools are scripts, not a package


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


@pytest.fixture
def small_run(tmp_path):
    """KEY VALUE words that make any run on a miniature take about a second."""
    return (
        'model.pretrained False stmn.backbone resnet18 data.type video data.height 64 data.width 32 '
        'data.workers 0 train.max_epoch 1 train.print_freq 1 train.batch_size 8 '
        f'sampler.num_instances 2 video.seq_len 4 data.save_dir {tmp_path / "run"}'
    ).split()
