"""Exported networks give what the model gives, at shapes they were not traced with."""

import ctypes
import hashlib
import json
import math
import re
import runpy
import subprocess
import sys

import numpy as np
import onnx
import pytest
import torch
import torchvision
from PIL import Image
from test_every_model import narrow_resnet, scattered

from stmn_plugin import load_model
from stmn_plugin.cameras import exporting
from stmn_plugin.cameras.export_formats import FORMATS
from stmn_plugin.cameras.quantising import find_crops
from stmn_plugin.cli import export
from stmn_plugin.config import load_config
from stmn_plugin.config.sections import flatten
from stmn_plugin.data.frame_samplers import ClipPlan
from stmn_plugin.errors import InputError
from stmn_plugin.evaluation import Embedder, evaluate_ranking
from stmn_plugin.models import ModelSpec, build_video_model
from stmn_plugin.models.base import VideoModel
from stmn_plugin.training.checkpoint import save_checkpoint


@pytest.fixture(autouse=True)
def narrow(monkeypatch):
    monkeypatch.setattr(torchvision.models, 'get_model', narrow_resnet)


@pytest.fixture
def checkpoint(tmp_path):
    """Saves a narrow network; further words are of the config."""

    def save(name, *words):
        size = ['data.type', 'video', 'data.height', '64', 'data.width', '32', 'video.seq_len', '4']
        config = flatten(load_config('', ['model.name', name, *size, *words]))
        torch.manual_seed(0)
        model = build_video_model(ModelSpec.from_config(config), 4, pretrained=False)
        state = {'state_dict': scattered(model).state_dict(), 'epoch': 1, 'config': config}
        return save_checkpoint({**state, 'rank1': 0.0}, str(tmp_path / 'model'), 1)

    return save


def save_crops(folder, sizes):
    """A crop of each size (width, height), PNG."""
    rng = np.random.default_rng(3)
    folder.mkdir()
    for number, size in enumerate(sizes):
        coarse = rng.integers(0, 256, (6 + number, 4, 3), dtype=np.uint8)
        image = Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC)
        image.save(folder / f'{number}.png')
    return folder


def share(found, expected):
    """The largest difference as a share of the largest number."""
    assert found.shape == expected.shape
    return float(np.abs(found - expected).max() / np.abs(expected).max())


@pytest.mark.slow
@pytest.mark.parametrize('name, chunks', [('stmn', 'balanced'), ('cosam', 'ceil')])
def test_the_sample_gives_the_feature_of_the_embedder(
    name, chunks, checkpoint, tmp_path, repository, capsys
):
    words = 'video.sample_method', 'rrs', 'video.rrs_chunks', chunks
    path, folder = checkpoint(name, *words), tmp_path / 'exported'
    export.main([path, '--format', 'onnx', '--output', str(folder)])
    manifest = json.loads((folder / 'manifest.json').read_text())
    files = ['frames.onnx', 'clips.onnx'] if name == 'stmn' else ['clips.onnx']
    assert [part['file'] for part in manifest['parts']] == files
    assert capsys.readouterr().out.count('Wrote') == len(files)
    assert {entry.name for entry in folder.iterdir()} == {*files, 'manifest.json'}
    for part in manifest['parts']:
        assert part['input']['shape'][0] is None
        digest = hashlib.sha256((folder / part['file']).read_bytes()).hexdigest()
        assert part['sha256'] == {part['file']: digest}
    if name == 'stmn':
        assert manifest['parts'][0]['input']['shape'] == [None, 3, None, None]
        types = [node.op_type for node in onnx.load(folder / 'frames.onnx').graph.node]
        # that of the spatial memory is behind no convolution
        assert types.count('BatchNormalization') <= 1 and types.count('Conv') > 20
    plan = ClipPlan(4, rrs_chunks=chunks)
    as_they_are = save_crops(tmp_path / 'of the size', [(32, 64)] * 7)
    resized = save_crops(tmp_path / 'others', [(40 + number, 90) for number in range(7)])
    # resizing rounds to bytes, and not every rounding is Pillow's
    for crops, allowed in ((as_they_are, 1e-5), (resized, 1e-3)):
        sample = repository / 'examples' / 'onnx_features.py'
        words = [sys.executable, sample, folder, crops, tmp_path / 'feature.npy']
        subprocess.run(words, check=True, timeout=60)
        [expected] = Embedder(load_model(path), plan)([sorted(crops.iterdir())]).features.numpy()
        assert share(np.load(tmp_path / 'feature.npy'), expected) < allowed


RULES = [
    ('rrs, balanced', {}),
    ('rrs, ceil', {'video.rrs_chunks': 'ceil'}),
    ('evenly', {'video.sample_method': 'evenly'}),
    ('consecutive', {'video.sample_method': 'consecutive'}),
    ('every_8th', {'video.sample_method': 'every_8th'}),
    ('random', {'video.sample_method': 'random'}),
]


@pytest.mark.parametrize('rule, changes', RULES)
def test_the_manifest_states_the_rule_of_the_model(rule, changes):
    """As a formula that gives the frames of the model's tests."""
    settings = {'video.sample_method': 'rrs', 'video.rrs_chunks': 'balanced', **changes}
    words = [word for pair in settings.items() for word in pair]
    words += ['test.flip', 'True', 'test.dist_metric', 'cosine', 'test.frames', 'all']
    config = flatten(load_config('', ['model.name', 'stmn', 'data.type', 'video', *words]))
    model = VideoModel(2, 4, None)
    model.spec = ModelSpec.from_config(config)
    said = exporting.description(model)
    assert said['sampling']['rule'] == rule
    assert said['tested_with'] == {
        'frames': 'all',
        'all_clips': 'ceil',
        'clips_per_tracklet': 1,
        'flip': True,
        'dist_metric': 'cosine',
        'normalize_feature': False,
    }
    formula, _, rest = said['sampling']['frames'].partition(' for ')
    assert rest == 'i from 0 to L - 1'
    known = {'floor': math.floor, 'ceil': math.ceil, 'numpy': np, 'sort': np.sort}
    rules = settings['video.sample_method'], 1, settings['video.rrs_chunks']
    for count in (1, 2, 5, 7, 11, 16, 61):
        for length in (1, 4, 6):
            expected = ClipPlan(length, *rules).clip(count, 0).tolist()
            names = {**known, 'F': count, 'L': length}
            code = formula.replace('mod', '%')
            assert [eval(code, {**names, 'i': i}) for i in range(length)] == expected


@pytest.mark.parametrize('kind', ['ceil', 'floor', 'consecutive'])
def test_the_manifest_states_the_clips_of_all_frames(kind):
    words = ['data.type', 'video', 'test.frames', 'all', 'test.all_clips', kind]
    model = VideoModel(2, 4, None)
    model.spec = ModelSpec.from_config(flatten(load_config('', words)))
    stated = exporting.description(model)['sampling']['all']
    formula, _, rest = stated['frames'].partition(' for ')
    assert rest == 'c from 0 to n - 1, i from 0 to L - 1'
    known = {'floor': math.floor, 'ceil': math.ceil}
    for count in range(1, 20):
        for length in (1, 4, 6):
            plan = ClipPlan(length, 'all', all_clips=kind)
            names = {**known, 'F': count, 'L': length}
            names['n'] = eval(stated['clips'], dict(names))
            assert names['n'] == plan.count(count)
            for c in range(names['n']):
                code = formula.replace('mod', '%')
                found = [eval(code, {**names, 'c': c, 'i': i}) for i in range(length)]
                assert found == plan.clip(count, c).tolist()


@pytest.mark.slow
@pytest.mark.parametrize('name', ['stmn', 'eug'])
def test_all_frames_and_mirrors_as_the_manifest_states(name, checkpoint, tmp_path):
    """Clips that repeat frames, means of views and clips, and then what finishes them."""
    test = 'test.frames', 'all', 'test.flip', 'True'
    model = load_model(checkpoint(name, *test))
    manifest = exporting.export_model(model, 'torch', tmp_path / 'exported')
    crops = sorted(save_crops(tmp_path / 'crops', [(32, 64)] * 7).iterdir())
    plan = ClipPlan(4, 'all')
    [expected] = Embedder(model, plan, flip=True)([list(map(str, crops))]).features.numpy()
    runs = {
        part['name']: FORMATS['torch'].open(tmp_path / 'exported' / part['file'])
        for part in manifest['parts']
    }
    pixels = np.stack([np.asarray(Image.open(crop)) for crop in crops])
    frame, number = manifest['frame'], manifest['sampling']['all']['clips']
    normalised = (pixels / 255 - frame['mean']) / frame['std']
    rows = {'1': [range(7)], 'ceil(F / L)': [(0, 2, 4, 6), (1, 3, 5, 5)]}[number]
    features = []
    for view in (normalised, normalised[:, :, ::-1]):
        frames = torch.from_numpy(view.transpose(0, 3, 1, 2).astype(np.float32))
        vectors = runs['frames'](frames)
        features += [runs['clips'](vectors[list(clip)][None]) for clip in rows]
    feature = torch.cat(features).mean(dim=0, keepdim=True)
    if 'finish' in runs:
        feature = runs['finish'](feature)
    assert manifest['tested_with']['flip'] and number == ('1' if name == 'eug' else 'ceil(F / L)')
    assert share(feature[0].detach().numpy(), expected) < 1e-5


@pytest.mark.parametrize('rule, changes', RULES[:-1])
@pytest.mark.parametrize('count', [1, 5, 11, 25])
def test_the_sample_takes_the_frames_of_the_rule(rule, changes, count, tmp_path, repository):
    """Its first part gets them; frame i is of the grey i."""
    method, chunks = rule.partition(',')[0], changes.get('video.rrs_chunks', 'balanced')
    frame = {'width': 2, 'height': 2, 'mean': [0, 0, 0], 'std': [1, 1, 1]}
    part = {'name': 'frames', 'file': 'x.onnx', 'input': {'name': 'x'}}
    manifest = {'frame': frame, 'clip_length': 4, 'sampling': {'rule': rule}, 'parts': [part]}
    (tmp_path / 'manifest.json').write_text(json.dumps(manifest))
    (tmp_path / 'crops').mkdir()
    for number in range(count):
        Image.new('L', (2, 2), number).save(tmp_path / 'crops' / f'{number}.png')
    (tmp_path / 'crops' / '.DS_Store').touch()
    got = []

    class Session:
        def __init__(self, file, providers):
            assert file == tmp_path / 'x.onnx'

        def run(self, names, inputs):
            got.append(inputs['x'])
            return [inputs['x']]

    sample = runpy.run_path(str(repository / 'examples' / 'onnx_features.py'))['feature']
    sample.__globals__['InferenceSession'] = Session
    sample(tmp_path, tmp_path / 'crops')
    expected = ClipPlan(4, method, rrs_chunks=chunks).clip(count, 0)
    assert np.rint(255 * got[0][:, 0, 0, 0]).tolist() == expected.tolist()


def test_the_sample_is_short_and_needs_three_packages(repository):
    text = (repository / 'examples' / 'onnx_features.py').read_text()
    assert len(text.splitlines()) <= 42
    found = {name.split('.')[0] for name in re.findall(r'^(?:import|from) (\S+)', text, re.M)}
    assert found - sys.stdlib_module_names == {'numpy', 'onnxruntime', 'PIL'}


@pytest.mark.slow
@pytest.mark.parametrize(
    'kind, name', [('torch', 'eug'), ('openvino', 'stmn'), ('openvino', 'resnet18')]
)
def test_other_formats(kind, name, checkpoint, tmp_path):
    """A model with a finish, one with an LSTM and fixed clips, and an image model of the host."""
    model = load_model(checkpoint(name))
    parts = exporting.export_model(model, kind, tmp_path / kind)['parts']
    names = ['frames', 'clips', 'finish'] if name == 'eug' else ['frames', 'clips']
    assert [part['name'] for part in parts] == names
    assert parts[0]['input']['shape'] == [None, 3, None, None]
    assert parts[1]['input']['shape'][:2] == [None, 4 if name == 'stmn' else None]
    frames, clips, *finish = (FORMATS[kind].open(tmp_path / kind / part['file']) for part in parts)
    length = 4 if name == 'stmn' else 3
    batch = torch.randn(2 * length, 3, 64, 32)
    found = clips(frames(batch).unflatten(0, (2, length)))
    for part in finish:
        found = part(found)
    with torch.no_grad():
        expected = model.finish(model(batch.unflatten(0, (2, length))))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize('kind', FORMATS)
def test_every_format_finishes_means_over_clips(kind, checkpoint, tmp_path):
    """The halves of TCLNet have length 1 again after the mean."""
    model = load_model(checkpoint('tclnet'))
    [_, part] = exporting.parts_of(model)
    entry = exporting.export_part(part, model, kind, tmp_path)
    assert (entry['name'], entry['input']['shape'][0]) == ('finish', None)
    finish = FORMATS[kind].open(tmp_path / entry['file'])
    for rows in (1, 4, 7):  # none is the traced one
        means = torch.randn(rows, entry['output']['size']) * 3
        halves = np.split(means.double().numpy(), 2, axis=1)
        expected = np.hstack([x / np.linalg.norm(x, axis=1, keepdims=True) for x in halves])
        assert share(finish(means).numpy(), expected) < 1e-5


class SignalStack(ctypes.Structure):
    _fields_ = [('start', ctypes.c_void_p), ('flags', ctypes.c_int), ('size', ctypes.c_size_t)]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != 'linux', reason='stack_t as on Linux')
def test_models_of_openvino_leave_the_stack_for_signals_alone(checkpoint, tmp_path):
    """In whichever order they are closed."""

    def stack():
        found = SignalStack()
        assert ctypes.CDLL(None).sigaltstack(None, ctypes.byref(found)) == 0
        return found.start, found.flags, found.size

    before = stack()
    [frames, clips] = exporting.export_model(
        load_model(checkpoint('stmn')), 'openvino', tmp_path / 'exported'
    )['parts']
    assert stack() == before
    files = [tmp_path / 'exported' / part['file'] for part in (frames, frames, clips)]
    runs = [FORMATS['openvino'].open(file) for file in files]
    assert runs[0](torch.randn(2, 3, 64, 32)).shape == runs[1](torch.randn(2, 3, 64, 32)).shape
    assert stack() == before
    while runs:
        del runs[0]  # the oldest first
        assert stack() == before


@pytest.fixture
def written_without_tracing(monkeypatch):
    """Sets the function of the file that the format torch writes, as a separate format."""

    def compute(run):
        fake = FORMATS['torch']._replace(
            write=lambda program, folder, part, *_: [(folder / part).write_text('x') and part],
            open=lambda path: run,
        )
        monkeypatch.setitem(FORMATS, 'torch', fake)
        monkeypatch.setattr(exporting, 'traced', lambda *_: None)

    return compute


@pytest.mark.parametrize(
    'wrong, said',
    [
        (lambda found: 1.001 * found, 'differs from the model by .*e-0[34], 1e-04 allowed'),
        (lambda found: found[:, :-1], 'differs from the model by inf'),
        # of the last batch alone
        (
            lambda found: found * (float('nan') if len(found) == 2 else 1),
            'differs from the model by inf',
        ),
        (lambda found: found.unflatten(0, (3, -1)), 'unflatten.*3'),
    ],
)
def test_a_file_that_differs_is_an_error_and_leaves_nothing(
    wrong, said, checkpoint, tmp_path, written_without_tracing
):
    model = load_model(checkpoint('stmn'))
    written_without_tracing(lambda batch: wrong(model.encode_frames(batch)))
    with pytest.raises(InputError, match=f'--format torch: stmn, part frames: {said}'):
        exporting.export_model(model, 'torch', tmp_path / 'out')
    assert [entry.name for entry in tmp_path.iterdir()] == ['model']


def test_a_fault_of_the_model_itself_goes_through(checkpoint, tmp_path, monkeypatch):
    model = load_model(checkpoint('stmn'))
    monkeypatch.setattr(exporting, 'difference', lambda *_: 1 / 0)
    monkeypatch.setattr(exporting, 'traced', lambda *_: None)
    run = torch.nn.Identity()
    fake = FORMATS['torch']._replace(write=lambda *_: ['frames'], open=lambda path: run)
    monkeypatch.setitem(FORMATS, 'torch', fake)
    with pytest.raises(ZeroDivisionError):
        exporting.export_model(model, 'torch', tmp_path / 'out')
    assert [entry.name for entry in tmp_path.iterdir()] == ['model']


def test_what_cannot_be_written_is_one_line(checkpoint, tmp_path, capsys):
    path = checkpoint('stmn')
    (tmp_path / 'full').mkdir()
    (tmp_path / 'full' / 'file').touch()
    cases = [
        ([path, '--format', 'torch', '--output', str(tmp_path / 'full')], 'already exists'),
        ([path, '--format', 'torch'], 'give CHECKPOINT'),
        ([path, '--format', 'torch', '--output', 'x', '--int8', 'y'], '--int8 goes with'),
        (
            [path, '--format', 'onnx', '--output', 'x', '--labelled', 'y'],
            '--labelled goes with --int8',
        ),
        (
            [path, '--format', 'onnx', '--output', 'x', '--int8', str(tmp_path / 'full')],
            'no image in it',
        ),
        ([path, '--weights', 'a', 'b'], 'another CHECKPOINT is one too many'),
        ([str(tmp_path / 'no'), '--format', 'torch', '--output', 'x'], 'no'),
    ]
    for words, said in cases:
        with pytest.raises(SystemExit) as ended:
            export.main(words)
        assert ended.value.code == 2 and said in capsys.readouterr().err


def test_crops_to_calibrate_are_in_natural_order_and_not_hidden(tmp_path):
    own = ['a/2.JPG', 'a/10.jpg', 'b/1.png']
    for name in [*own, '.cache/1.jpg', 'a/._2.JPG', 'a/notes.txt']:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert find_crops(tmp_path) == [tmp_path / name for name in own]


@pytest.mark.slow
def test_int8_says_what_it_costs(checkpoint, tmp_path, capsys):
    path, crops = checkpoint('eug'), save_crops(tmp_path / 'crops', [(32, 64)] * 40)
    for number, crop in enumerate(sorted(crops.iterdir())[:16]):
        split, pid, camera = 'query' if number % 4 == 0 else 'gallery', number // 4, number % 2
        place = tmp_path / 'own' / split / str(pid) / str(camera) / str(number)
        place.mkdir(parents=True)
        (place / '0.png').write_bytes(crop.read_bytes())
    words = [path, '--format', 'onnx', '--int8', str(crops), '--labelled', str(tmp_path / 'own')]
    export.main([*words, '--output', str(tmp_path / 'int8')])
    said = capsys.readouterr().out
    manifest = json.loads((tmp_path / 'int8' / 'manifest.json').read_text())
    frames = manifest['parts'][0]
    data = (tmp_path / 'int8' / 'frames.onnx').read_bytes()
    assert frames['sha256'] == {'frames.onnx': hashlib.sha256(data).hexdigest()}
    tensors = {each.name: each for each in onnx.load_from_string(data).graph.initializer}
    scales = [each for name, each in tensors.items() if name.endswith('_scale') and each.dims]
    kinds = {each.data_type for each in tensors.values()}
    assert onnx.TensorProto.INT8 in kinds and max(each.dims[0] for each in scales) == 32
    # the second half of the crops, by hand
    model, run = load_model(path), FORMATS['onnx'].open(tmp_path / 'int8' / 'frames.onnx')
    pixels = np.stack([np.asarray(Image.open(crop)) for crop in sorted(crops.iterdir())])
    mean, std = np.float32(model.spec.norm_mean), np.float32(model.spec.norm_std)
    rows = [i * 40 // 32 for i in range(16, 32)]
    batch = torch.from_numpy(((pixels[rows] / np.float32(255) - mean) / std).transpose(0, 3, 1, 2))
    with torch.no_grad():
        one, other = model.encode_frames(batch).double(), run(batch).double()
    cosines = (one * other).sum(1) / (one.square().sum(1) * other.square().sum(1)).sqrt()
    assert frames['int8']['outputs'] == 16
    assert abs(frames['int8']['mean_cosine'] - cosines.mean()) < 1e-5
    assert abs(frames['int8']['least_cosine'] - cosines.min()) < 1e-5
    assert 0.9 < cosines.min() < 0.999999
    # mAP of both by their own features
    for name, key in ((None, 'model'), (run, 'int8')):
        tested = load_model(path)
        if name is not None:
            tested.encode_frames = run
        splits = {}
        for split in ('query', 'gallery'):
            places = sorted((tmp_path / 'own' / split).glob('*/*/*'))
            tracklets = [
                ([str(p / '0.png')], int(p.parts[-3]), int(p.parts[-2]), 0) for p in places
            ]
            splits[split] = Embedder(tested)(tracklets).features, tracklets
        distances = torch.cdist(splits['query'][0], splits['gallery'][0]).numpy()
        labels = [np.array([t[i] for t in splits[s][1]]) for i in (1, 2) for s in splits]
        assert abs(evaluate_ranking(distances, *labels).mean_ap - manifest['mAP'][key]) < 1e-6
    assert re.search(r'In int8: cosine to float32 [01]\.\d{4} in the mean', said) and re.search(
        r'mAP .*%, in int8 .* points', said
    )
