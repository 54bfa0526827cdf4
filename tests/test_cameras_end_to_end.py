"""From videos and MOT files to the right persons: tracklets, a model, an index, a search."""

import csv
import glob
import json
import shutil
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
import toy_models
from documents import blocks, lines_of, recipe_of
from torch import nn
from torch.nn import functional

import stmn_plugin
from stmn_plugin.cameras.manifest import read_manifest
from stmn_plugin.cameras.synthetic_footage import TRUTH, make_footage
from stmn_plugin.cli import embed, make_synthetic, search, train
from stmn_plugin.cli import index as index_command
from stmn_plugin.cli import make_tracklets as command
from stmn_plugin.config import flatten, load_config
from stmn_plugin.datasets.synthetic import PRESETS
from stmn_plugin.datasets.tracklets import find_source, read_own_tracklets
from stmn_plugin.evaluation import Embedder
from stmn_plugin.evaluation.fingerprint import digest_of
from stmn_plugin.evaluation.thresholds import Thresholds, store_thresholds
from stmn_plugin.labels import UNKNOWN
from stmn_plugin.models.base import VideoModel
from stmn_plugin.models.building import ModelSpec, build_video_model

pytest.importorskip('av')
pytestmark = pytest.mark.slow

SPEC = PRESETS['cameras']  # persons 97 to 104
TRAINING = replace(SPEC, train_ids=1, test_ids=20)  # persons 2 to 21
ROWS, COLUMNS, DIM = 8, 4, 10
THRESHOLDS = Thresholds(
    '', 99.0, 99.0, 0.01, 1.0, 0.05, 'cameras', 'evenly', False, 'euclidean', False, 96, 1152, 8
)


class ColoursOfCells(VideoModel):
    """Mean colours of cells in the middle of a frame, and a linear map that :func:`fit` finds."""

    frame_once = True
    takes_any_length = True

    @dataclass(frozen=True)
    class Config:
        pass

    def __init__(self, num_classes, seq_len, config, pretrained=True):
        super().__init__(num_classes, seq_len, config, pretrained)
        self.project = nn.Linear(3 * ROWS * COLUMNS, DIM, bias=False)
        self.classifier = nn.Linear(DIM, num_classes)

    def encode_frames(self, frames):
        width = frames.shape[3]
        middle = frames[..., width // 4 : 3 * width // 4]
        return functional.adaptive_avg_pool2d(middle, (ROWS, COLUMNS)).flatten(1)

    def embed(self, vectors):
        return self.project(vectors.mean(dim=1))

    def forward(self, clips):
        clips = self.as_clips(clips)
        return self.embed(self.encode_frames(clips.flatten(0, 1)).unflatten(0, clips.shape[:2]))

    def losses(self, outputs, pids, recipe):
        raise NotImplementedError  # its training has a closed form

    def backbone(self):
        return nn.Identity()


def fit(vectors, names):
    """Linear discriminant analysis: the map (DIM, V) for vectors (N, V) of persons ``names``."""
    groups = [vectors[[one == name for one in names]] for name in sorted(set(names))]
    within = sum(np.cov(group.T, bias=True) for group in groups) / len(groups)
    values, axes = np.linalg.eigh(within + 1e-2 * np.eye(len(within)))
    white = axes / np.sqrt(values)
    between = np.cov(np.array([group.mean(axis=0) for group in groups]).T)
    _, directions = np.linalg.eigh(white.T @ between @ white)
    return (white @ directions[:, -DIM:]).T


def make_tree(output, made, *more):
    """Run the command for every camera."""
    for camera, video, tracks in made:
        words = [video, '--tracks', tracks, '--format', 'mot', '--first-frame', 1]
        words += ['--camera', camera, '--output', output, '--min-frames', 8, *more]
        command.main([str(word) for word in words])
    return output


def crops_of(tree, entry):
    return [str(path) for path in sorted((tree / entry.tracklet).iterdir())]


@pytest.fixture(scope='module')
def footage(tmp_path_factory):
    folder = tmp_path_factory.mktemp('footage')
    return folder, make_footage(folder, SPEC)


@pytest.fixture(scope='module')
def tree(footage, tmp_path_factory):
    output = tmp_path_factory.mktemp('tree')
    return make_tree(output, footage[1], '--start', '2026-03-01T08:00:00+01:00')


@pytest.fixture(scope='module')
def truth(footage):
    with open(footage[0] / TRUTH) as file:
        return {(row['video'], row['track']): row['person'] for row in csv.DictReader(file)}


@pytest.fixture(scope='module', autouse=True)
def registered():
    with toy_models.registered(colours_of_cells=ColoursOfCells):
        yield


@pytest.fixture(scope='module')
def checkpoint(tmp_path_factory):
    """Trained on other persons, whose tracklets are made in the same way."""
    folder = tmp_path_factory.mktemp('training')
    made = make_footage(folder, TRAINING, strangers=0)
    labels = ['--persons', folder / TRUTH, '--split', 'train', '--max-frames', 6]
    tree = make_tree(folder / 'tree', made, *labels)
    words = 'model.name colours_of_cells data.height 64 data.width 32 data.type video'
    config = flatten(load_config('', words.split()))
    network = build_video_model(ModelSpec.from_config(config), 2, pretrained=False)
    entries = read_manifest(tree)
    project, network.project = network.project, nn.Identity()
    embedder = Embedder(network, height=64, width=32)
    vectors = embedder([crops_of(tree, entry) for entry in entries]).features
    weight = fit(vectors.double().numpy(), [entry.person for entry in entries])
    network.project = project
    network.project.weight.data = torch.tensor(weight, dtype=torch.float32)
    path = folder / 'model.pth.tar-1'
    torch.save({'state_dict': network.state_dict(), 'epoch': 1, 'config': config}, path)
    return path


@pytest.fixture(scope='module')
def model(checkpoint):
    return stmn_plugin.load_model(checkpoint)


def test_every_passage_becomes_a_tracklet_of_its_frames(footage, tree, truth):
    entries = read_manifest(tree)
    assert len(entries) == SPEC.cameras * (SPEC.test_ids + 2)
    assert len(truth) == SPEC.cameras * SPEC.test_ids
    assert {entry.camera for entry in entries} == {'camera1', 'camera2', 'camera3'}
    for entry in entries:
        crops = sorted((tree / entry.tracklet).iterdir())
        assert [int(path.stem) for path in crops] == list(entry.frames)
        assert np.diff(entry.frames).tolist() == [1] * 23 and entry.person == 'unknown'
        assert np.allclose(entry.times, np.array(entry.frames) / 10)
        assert entry.start.startswith('2026-03-01T08:00:')


def test_the_right_persons_are_nearest_at_other_cameras(tree, truth, model):
    entries = read_manifest(tree)
    names = [truth.get((entry.source, entry.track), '') for entry in entries]
    cameras = np.array([entry.camera for entry in entries])
    features = Embedder(model)([crops_of(tree, entry) for entry in entries]).features
    distances = torch.cdist(features, features).numpy()
    right = []  # whether each of the nearest is the person, of every tracklet that has a name
    for i in (i for i, name in enumerate(names) if name):
        others = np.flatnonzero(cameras != cameras[i])
        nearest = others[np.argsort(distances[i, others])][: SPEC.cameras - 1]
        right.append([names[j] == names[i] for j in nearest])
    assert np.shape(right) == (SPEC.cameras * SPEC.test_ids, SPEC.cameras - 1)
    assert np.all(right, axis=0)[0] and np.mean(right) > 0.9, right


def test_persons_that_are_known_make_a_labelled_test(footage, tmp_path):
    """With names given the tree is a query and a gallery that can be scored."""
    folder, made = footage
    labels = ['--persons', folder / TRUTH, '--max-frames', 4]
    make_tree(tmp_path, made[:1], *labels, '--split', 'query')
    make_tree(tmp_path, made[1:], *labels)
    (_, query, gallery), _ = read_own_tracklets(find_source(str(tmp_path)))
    assert sorted(pid for _, pid, *_ in query if pid != UNKNOWN) == list(range(SPEC.test_ids))
    assert sorted(pid for _, pid, *_ in gallery if pid != UNKNOWN) == sorted(
        [*range(SPEC.test_ids)] * 2
    )
    assert {len(paths) for paths, *_ in [*query, *gallery]} == {4}


@pytest.fixture(scope='module')
def index(checkpoint, tree, tmp_path_factory):
    path = tmp_path_factory.mktemp('index') / 'people.db'
    embed.main([str(checkpoint), str(tree), '--index', str(path)])
    return path


def searched(tmp_path, *words):
    """The answers that the command writes."""
    search.main([str(word) for word in (*words, '--json', tmp_path / 'answers.json')])
    return json.loads((tmp_path / 'answers.json').read_text())['answers']


def test_a_search_names_the_right_persons_at_other_cameras(index, tree, truth, tmp_path):
    """A batch of all persons of camera1, by the files that a user has."""
    asked = [entry for entry in read_manifest(tree) if entry.camera == 'camera1']
    known = {entry.tracklet: truth.get((entry.source, entry.track)) for entry in asked}
    rows = [f'{person},{tracklet}' for tracklet, person in known.items() if person]
    (tmp_path / 'queries.csv').write_text('\n'.join(['query,tracklet', *rows]))
    words = ['--index', index, '--queries', tmp_path / 'queries.csv', '--not-camera', 'camera1']
    answers = searched(tmp_path, *words, '--top', 2, '--html', tmp_path / 'answers.html')
    assert len(answers) == SPEC.test_ids
    right = [
        [truth.get((one['source'], one['track'])) == answer['query'] for one in answer['results']]
        for answer in answers
    ]
    assert np.shape(right) == (SPEC.test_ids, 2) and np.all(right, axis=0)[0], right
    assert np.mean(right) > 0.8
    page = (tmp_path / 'answers.html').read_text()
    assert page.count('<li id="q') == 2 * SPEC.test_ids and 'missing or damaged' not in page
    early = searched(tmp_path, *words, '--to', '2026-03-01T07:00:00Z')  # begun when it starts
    assert {one['start'][:19] for answer in early for one in answer['results']} <= {
        '2026-03-01T07:00:00'
    }


def test_a_track_of_a_video_finds_its_own_tracklet_first(
    index, checkpoint, footage, tree, tmp_path
):
    _, (made, *_) = footage
    entry = next(entry for entry in read_manifest(tree) if entry.camera == made.camera)
    words = [checkpoint, '--index', index, '--video', made.video, '--tracks', made.tracks]
    words += ['--format', 'mot', '--first-frame', 1, '--track', entry.track, '--top', 1]
    ((answer,), (by_crops,)) = (
        searched(tmp_path, *words),
        searched(tmp_path, '--index', index, '--crops', tree / entry.tracklet, '--top', 1),
    )
    assert answer['results'][0]['tracklet'] == entry.tracklet
    assert answer['results'][0]['distance'] < 0.01 < by_crops['results'][0]['distance']
    assert by_crops['tracklets'][0]['tracklet'] == entry.tracklet  # known by its folder


COMMANDS = {
    'make_synthetic': make_synthetic,
    'main': train,
    'make_tracklets': command,
    'embed': embed,
    'index': index_command,
    'search': search,
}


def run_line(words):
    """Run ``python tools/NAME.py ...`` here, as a shell would."""
    assert words[0].endswith('python') and words[1].startswith('tools/'), words
    spread = [sorted(glob.glob(word)) if '*' in word else [word] for word in words[2:]]
    COMMANDS[words[1].removeprefix('tools/').removesuffix('.py')].main(sum(spread, []))


@pytest.fixture
def make_demo(request, repository, footage, checkpoint):
    """What ``make cameras-demo`` does; with ``--whole-demo`` its model, else one fitted above."""

    def make(folder):
        drawing, training, testing = recipe_of('cameras-demo')
        model = folder / 'log' / 'cameras_demo' / 'model' / 'model-best.pth.tar'
        if request.config.getoption('whole_demo'):
            for line in (drawing, training, testing):
                run_line(line)
            return
        args = make_synthetic.parse_args(drawing[2:])
        assert (args.preset, args.footage.name) == ('cameras', 'cameras_demo')
        cfg = load_config(*[train.parse_args(training[2:]).config_file])
        assert cfg.synthetic.preset == 'cameras'
        assert model.parents[1] == folder / cfg.data.save_dir
        shutil.copytree(footage[0], folder / 'cameras_demo')
        model.parent.mkdir(parents=True)
        shutil.copy(checkpoint, model)
        args = train.parse_args(testing[2:])
        cfg = load_config(args.config_file, args.opts)
        assert cfg.test.verification and folder / cfg.model.load_weights == model
        digest = digest_of(stmn_plugin.load_model(model))
        store_thresholds(model.parent, replace(THRESHOLDS, weights=digest))

    return make


def test_the_third_recipe_of_the_readme_puts_the_right_persons_on_top(
    make_demo, repository, tmp_path, monkeypatch, truth
):
    """Its commands as they are written, in a folder that has nothing but the configs."""
    text = (repository / 'README.md').read_text(encoding='utf-8')
    [block] = [one for one in blocks(text, 'bash') if one.startswith('make cameras-demo\n')]
    assert block.count('\n') <= 8
    (tmp_path / 'configs').symlink_to(repository / 'configs')
    monkeypatch.chdir(tmp_path)
    first, *others, last = [line.words for line in lines_of(block)]
    assert first == ['make', 'cameras-demo']
    make_demo(tmp_path)
    for words in others:
        run_line(words)
    run_line([*last, '--json', 'answers.json'])
    [answer] = json.loads((tmp_path / 'answers.json').read_text())['answers']
    [asked] = answer['tracklets']
    person = truth['camera1.mp4', asked['tracklet'].rpartition('-')[2]]
    found = [truth.get((one['source'], one['track'])) for one in answer['results']]
    assert found[:2] == [person, person] and person not in found[2:]
    verdicts = [one['verdict'] for one in answer['results']]
    assert verdicts[:2] == ['likely', 'likely'] and set(verdicts[2:]) == {'unlikely'}
    assert all(one['start'].startswith('2026-03-01T08:0') for one in answer['results'])
    page = (tmp_path / last[last.index('--html') + 1]).read_text()
    assert page.count('<li id="q') == len(found) and 'missing or damaged' not in page
