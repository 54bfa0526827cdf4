"""The files of docs/add-a-*.md are executed, and their commands run, as written."""

import itertools
import json
import re
import shlex
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from documents import REPOSITORY, blocks, nothing_stays
from PIL import Image

from stmn_plugin.cli import compare, train
from stmn_plugin.errors import InputError
from stmn_plugin.models.base import VIDEO_MODELS
from stmn_plugin.plugins import load_plugins

pytestmark = pytest.mark.slow
SMALL = """
    synthetic.preset tiny model.pretrained False stmn.backbone resnet18
    data.height 32 data.width 16 data.workers 0 video.seq_len 2
    train.optim sgd sgd.momentum 0.0 train.max_epoch 1 train.batch_size 4 sampler.num_instances 2
"""


@pytest.fixture(autouse=True)
def as_a_reader(monkeypatch, tmp_path):
    """In a folder with the configs; what a page registers is known to no other test."""
    (tmp_path / 'configs').symlink_to(REPOSITORY / 'configs')
    monkeypatch.chdir(tmp_path)
    with nothing_stays():
        yield


@pytest.fixture
def page(tmp_path):
    """Name of a page → its commands, after its file was written into the current folder."""

    def read(name):
        text = (REPOSITORY / 'docs' / name).read_text(encoding='utf-8')
        [file] = re.findall(r'This file, `(\w+\.py)`', text)
        [code] = blocks(text, 'python')
        (tmp_path / file).write_text(code)
        lines = '\n'.join(blocks(text, 'bash')).replace('\\\n', ' ').splitlines()
        commands = [shlex.split(line)[1:] for line in lines]
        assert commands and all(file in words for words in commands)
        return [[word.replace('/data', str(tmp_path)) for word in words] for words in commands]

    return read


def epochs_of(folder):
    """Lines of metrics.jsonl that a run has written, without those of evaluations."""
    lines = (Path('log') / folder / 'metrics.jsonl').read_text().splitlines()
    return [json.loads(line) for line in lines]


def test_a_model(page, capsys):
    (_, *training), (_, *comparing) = page('add-a-model.md')
    train.main([*training, *SMALL.split()])
    metrics = json.loads(Path('log/max_pooling/metrics.json').read_text())
    assert metrics['evaluations'][-1]['num_query'] > 0
    assert {'cross_entropy', 'triplet'} <= set(epochs_of('max_pooling')[0]['losses'])
    assert 'mean_share: 0.3' in Path('log/max_pooling/config.yaml').read_text()

    model = VIDEO_MODELS['max_pooling']
    vectors = torch.tensor([[[1.0, 5.0], [3.0, 3.0]]])  # (1, 2, 2)
    for share, expected in ((0.0, [3.0, 5.0]), (1.0, [2.0, 4.0]), (0.5, [2.5, 4.5])):
        of_share = SimpleNamespace(config=model.Config(mean_share=share))
        assert model.pool(of_share, vectors).tolist() == [expected]

    capsys.readouterr()
    compare.main([*comparing, '--dry-run', '--seeds', '1'])
    assert 'max_pooling' in capsys.readouterr().out


@pytest.fixture
def installed(page, tmp_path, monkeypatch):
    """The module of a package with the model of the page, laid out as an installer does."""
    page('add-a-model.md')
    [metadata] = blocks((REPOSITORY / 'docs/add-a-model.md').read_text(encoding='utf-8'), 'toml')
    site = tmp_path / 'site-packages'
    names = re.search(r'(?m)^\w+ = "(?P<package>\w+)\.(?P<module>\w+)"$', metadata)
    package = site / names['package']
    package.mkdir(parents=True)
    (package / '__init__.py').touch()
    module = package / f'{names["module"]}.py'
    module.write_bytes((tmp_path / 'max_pooling.py').read_bytes())
    info = site / f'{names["package"]}-1.0.dist-info'
    info.mkdir()
    (info / 'METADATA').write_text(
        f'Metadata-Version: 2.1\nName: {names["package"]}\nVersion: 1.0\n'
    )
    entry = metadata.replace('[project.entry-points.', '[').replace('"', '')
    (info / 'entry_points.txt').write_text(entry)
    monkeypatch.syspath_prepend(site)
    yield module
    for name in [name for name in sys.modules if name.partition('.')[0] == names['package']]:
        del sys.modules[name]


def test_a_model_of_an_installed_package_needs_no_flag(installed, capsys):
    load_plugins.__wrapped__()  # as the first command of a process does
    words = '--config stmn_synthetic -a max_pooling max_pooling.mean_share 0.5'
    train.main([*words.split(), *SMALL.split(), 'data.save_dir', 'log/installed'])
    assert json.loads(Path('log/installed/metrics.json').read_text())['arch'] == 'max_pooling'
    capsys.readouterr()
    train.main(['--list-archs', '--video'])
    assert 'max_pooling' in capsys.readouterr().out


def test_a_broken_package_is_one_line(installed):
    installed.write_text('import nowhere_to_be_found\n')
    with pytest.raises(InputError) as caught:
        load_plugins.__wrapped__()
    (line,) = str(caught.value).splitlines()
    assert 'my_architectures = my_package.models' in line and 'nowhere_to_be_found' in line


def test_a_dataset(page, tmp_path):
    [[_, *words]] = page('add-a-dataset.md')
    for person, camera in itertools.product(range(1, 9), range(3)):
        folder = tmp_path / 'corridor' / f'{person:04}' / f'c{camera}'
        folder.mkdir(parents=True)
        for frame in range(3):
            Image.new('RGB', (16, 32), (person * 30, camera * 80, frame)).save(
                folder / f'{frame}.jpg'
            )
    train.main([*words, *SMALL.split()])
    [evaluation] = json.loads(Path('log/corridor/metrics.json').read_text())['evaluations']
    assert evaluation['num_query'] == 4  # people 5 to 8, camera 0
    assert evaluation['num_gallery'] == 8  # their other cameras
    assert epochs_of('corridor')


def test_a_loss(page):
    [[_, *words]] = page('add-a-loss.md')
    train.main([*words, *SMALL.split()])
    losses = epochs_of('stmn_compact')[0]['losses']
    assert losses['compact'] > 0 and 'spread_spatial' in losses

    compactness_loss = sys.modules['stmn_plugin_import_compact'].compactness_loss
    features = torch.tensor([[0.0, 0.0], [2.0, 0.0], [7.0, 1.0]])
    # the mean of the first two is (1, 0), each at distance 1; the third is its own mean
    assert compactness_loss(features, torch.tensor([4, 4, 9])).item() == pytest.approx(2 / 3)
