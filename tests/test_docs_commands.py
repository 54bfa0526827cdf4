"""Every command and example of the documents runs as written, on miniatures."""

import functools
import itertools
import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torchvision
from documents import OF_TODAY, REPOSITORY, fences, name_of, nothing_stays, run_document
from miniatures import save_frame
from narrow_networks import NARROW_NETWORKS
from PIL import Image
from references.released_network import ReleasedNetwork
from test_every_model import narrow_resnet

from stmn_plugin.cameras.synthetic_footage import make_footage
from stmn_plugin.datasets.synthetic import PRESETS
from stmn_plugin.host.registration import model_registry

WITH_COMMANDS = [
    name_of(one)
    for one in OF_TODAY
    if {'bash', 'python'} & {language for language, _ in fences(one.read_text(encoding='utf-8'))}
]
CROPS = (*(f'crops/{name}' for name in ('anna', 'ben', 'c', 'd', 'e')), 'suspect', 'anna', 'ben')
BEFORE = {  # pages that continue where another ended
    'docs/train.md': 'docs/quick-start.md',
    'docs/test.md': 'docs/train.md',
    'docs/use-a-model.md': 'docs/train.md',
    'docs/export.md': 'docs/train.md',
    'docs/look.md': 'docs/train.md',
    'docs/compare.md': 'docs/train.md',
    'docs/interruptions.md': 'docs/train.md',
    'docs/cameras-tracklets.md': 'docs/train.md',
    'docs/cameras-index.md': 'docs/cameras-tracklets.md',
    'docs/cameras-search.md': 'docs/cameras-tracklets.md',
}


def get_model(name, **_):
    """In place of torchvision's: a step of every model takes a moment."""
    return NARROW_NETWORKS[name]() if name in NARROW_NETWORKS else narrow_resnet(name)


@pytest.fixture(scope='module')
def home(tmp_path_factory, miniature_roots):
    """What a reader has before the first page: datasets, crops, recordings, files of others."""
    home = tmp_path_factory.mktemp('home')
    for name in ('configs', 'studies'):
        (home / name).symlink_to(REPOSITORY / name)
    shutil.copytree(REPOSITORY / 'docs', home / 'docs')  # a command writes into a page
    (home / 'data').mkdir()
    for root in miniature_roots.values():
        for folder in Path(root).iterdir():
            (home / 'data' / folder.name).symlink_to(folder)
    for name in ('data/own', 'my-data'):
        (home / name).symlink_to(miniature_roots['tracklets'])
    for person, camera, frame in itertools.product(range(8), range(3), range(2)):
        save_frame(home / f'data/corridor/{person:04}/c{camera}/{frame}.jpg', person, camera, frame)
    for person, name in enumerate(CROPS):
        for frame in range(1, 5):
            save_frame(home / name / f'{frame:04}.jpg', person, 0, frame)
    make_recordings(home)
    (home / 'queries.csv').write_text('query,tracklet\nhe,gallery/unknown/lobby/lobby-17\n')
    (home / 'rows.yaml').write_text('No memory: {stmn.spatial_mode: none}\n')
    theirs = ReleasedNetwork(narrow_resnet('resnet50'), 6, 4, 5, 3)
    torch.save(theirs.state_dict(), home / 'ckpt_best.pth')
    return home


def make_recordings(home):
    """Videos of cameras with MOT files, and one as images with the labels of Ultralytics."""
    spec = replace(PRESETS['cameras'], test_ids=6, cameras=4)
    made = make_footage(home / 'footage', spec, strangers=0)
    for one, name, track in zip(
        made, ('lobby', 'yard', 'gate1', 'gate2'), (17, 7, 1, 1), strict=True
    ):
        one.video.rename(home / f'{name}.mp4')
        rows = [line.split(',') for line in one.tracks.read_text().splitlines()]
        rows = [','.join([row[0], {'1': str(track)}.get(row[1], row[1]), *row[2:]]) for row in rows]
        (home / f'{name}.txt').write_text('\n'.join(rows))
    labels = home / 'runs' / 'track' / 'labels'
    labels.mkdir(parents=True)
    (home / 'img1').mkdir()
    for frame in range(1, 13):
        Image.new('RGB', (192, 144), (frame, 90, 90)).save(home / 'img1' / f'{frame:06}.jpg')
        (labels / f'{frame:06}.txt').write_text('0 0.5 0.5 0.4 0.8 3\n')


@pytest.fixture(scope='module')
def ran(home, tmp_path_factory):
    """Name of a document → the folder in which its blocks have run, the names of its Python."""

    @functools.cache
    def run(name):
        before = run(BEFORE[name])[0] if name in BEFORE else home
        folder = tmp_path_factory.mktemp('reader') / 'folder'
        shutil.copytree(before, folder, symlinks=True)
        with pytest.MonkeyPatch.context() as patch, nothing_stays():
            patch.setattr(torchvision.models, 'get_model', get_model)
            for name_of_model in ('resnet18', 'resnet50'):
                patch.setitem(model_registry(), name_of_model, model_registry()['osnet_x0_25'])
            patch.chdir(folder)
            return folder, run_document(REPOSITORY / name)

    return run


@pytest.mark.slow
@pytest.mark.parametrize('name', WITH_COMMANDS)
def test_the_blocks_of_a_page_run(name, ran):
    ran(name)


@pytest.mark.slow
def test_the_recipe_of_the_paper_writes_its_results_and_its_page(ran):
    log = ran('README.md')[0] / 'log'
    [run] = json.loads((log / 'stmn_mars/metrics.json').read_text())['evaluations']
    [test] = json.loads((log / 'stmn_mars_test/metrics.json').read_text())['evaluations']
    assert run['frames'] == 'rrs' and test['frames'] == 'all'
    assert '<html' in (log / 'stmn_mars/report.html').read_text()


@pytest.mark.slow
def test_the_recipe_of_own_data_finds_the_nearest(ran):
    _, names = ran('README.md')
    # cosine distances by hand, in float64; equal ones may be in any order
    unit = torch.nn.functional.normalize(names['features'].double(), dim=1)
    by_hand = (1 - unit @ unit.T).sort(dim=1).values[:, :5]
    assert len(unit) == len(names['tracklets']) >= 5
    assert torch.allclose(names['distances'].double(), by_hand, atol=1e-5)
    assert names['places'][:, 0].tolist() == list(range(len(unit)))


def test_the_recipes_are_short():
    text = (REPOSITORY / 'README.md').read_text(encoding='utf-8')
    recipes = fences(text[text.index('## Three recipes') : text.index('## Documentation')])
    assert len(recipes) == 3
    for _, block in recipes:
        assert len([line for line in block.splitlines() if line.strip()]) <= 8, block
