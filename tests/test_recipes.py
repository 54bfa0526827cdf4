"""The recipes of the README run as written: on a miniature of MARS, a small network, one epoch."""

import json
import shlex
import shutil
from pathlib import Path

import pytest
import torch
from test_readme import blocks, parts_of

from stmn_plugin.cli import report, train

REPOSITORY = Path(__file__).parent.parent
SMALL = """
    model.pretrained False stmn.backbone resnet18 data.height 32 data.width 16 data.workers 0
    video.seq_len 2 train.optim sgd sgd.momentum 0.0 train.max_epoch 1 train.batch_size 8
    sampler.num_instances 2
"""


@pytest.fixture(scope='module')
def recipes():
    """Language of a recipe → the texts of its blocks, in the README's order."""
    text = (REPOSITORY / 'README.md').read_text(encoding='utf-8')
    text = text[text.index('## Three recipes') : text.index('## Documentation')]
    found = {language: blocks(text, language) for language in ('bash', 'python')}
    for block in sum(found.values(), []):
        assert len([line for line in block.splitlines() if line.strip()]) <= 8, block
    return found


@pytest.fixture(scope='module')
def folder(tmp_path_factory, recipes, mars_root):
    """Where the first recipe has run."""
    folder = tmp_path_factory.mktemp('recipes')
    (folder / 'configs').symlink_to(REPOSITORY / 'configs')
    lines = recipes['bash'][0].replace('\\\n', ' ').splitlines()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for line in lines:
            name, words = parts_of(shlex.split(line, comments=True))
            words = [word.replace('/data', mars_root) for word in words]
            if name == 'train':
                train.main([*words, *SMALL.split()])
            else:
                report.main(words)
    return folder


@pytest.mark.slow
def test_the_paper_on_mars(folder):
    [run] = json.loads((folder / 'log/stmn_mars/metrics.json').read_text())['evaluations']
    [test] = json.loads((folder / 'log/stmn_mars_test/metrics.json').read_text())['evaluations']
    assert run['frames'] == 'rrs' and test['frames'] == 'all'
    assert '<html' in (folder / 'log/stmn_mars/report.html').read_text()


@pytest.mark.slow
def test_own_data_from_python(folder, recipes, mars_root, monkeypatch):
    monkeypatch.chdir(folder)
    frames = sorted(Path(mars_root).rglob('bbox_test/**/*.jpg'))
    for number in range(6):
        (folder / 'crops' / f'person-{number}').mkdir(parents=True)
        for frame in frames[3 * number : 3 * number + 3]:
            shutil.copy(frame, folder / 'crops' / f'person-{number}')
    [example] = recipes['python']
    names = {}
    exec(example, names)
    assert names['features'].shape[0] == 6 and names['features'].isfinite().all()
    assert names['distances'].shape == (6, 5)
    # cosine distances by hand, in float64; equal ones may be in any order
    unit = torch.nn.functional.normalize(names['features'].double(), dim=1)
    by_hand = (1 - unit @ unit.T).sort(dim=1).values[:, :5]
    assert torch.allclose(names['distances'].double(), by_hand, atol=1e-5)
    assert names['places'][:, 0].tolist() == list(range(6))
