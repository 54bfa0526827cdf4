"""Every registered architecture keeps the protocol, and goes through all that the plugin offers."""

import copy
import json
import math
import re
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image
from torch import nn
from torchvision.models.resnet import BasicBlock

from stmn_plugin.cameras.exporting import export_model
from stmn_plugin.config import load_config
from stmn_plugin.config.rules import WEIGHT, Flag, OneOf, Text
from stmn_plugin.config.sections import flatten
from stmn_plugin.config.settings import settings_of
from stmn_plugin.config.table import with_table
from stmn_plugin.data.clips import IMAGENET_MEAN, IMAGENET_STD, Normalize
from stmn_plugin.data.frame_samplers import ClipPlan
from stmn_plugin.evaluation.embedder import Embedder
from stmn_plugin.evaluation.fingerprint import structure_digest
from stmn_plugin.losses.recipe import Recipe
from stmn_plugin.models import VIDEO_MODELS, ModelSpec, build_video_model
from stmn_plugin.models.encoder import Encoder
from stmn_plugin.models.explanations import check_explained
from stmn_plugin.models.non_local import NonLocal
from stmn_plugin.plugins import load_plugins
from stmn_plugin.training.speed import InferenceModel, autocast

load_plugins()
NAMES = sorted(VIDEO_MODELS)
CLASSES, L, HEIGHT, WIDTH = 4, 4, 64, 32
# what makes a network narrow that has more than a ResNet
NARROW = {'part_aligned': 'part_aligned.part_width 0.0625'}
slow = pytest.mark.slow
every_model = pytest.mark.parametrize('name', NAMES)


def narrow_resnet(name):
    """What the encoder takes of a ResNet: few channels, two blocks a stage, maps of 8x4."""

    def stage(channels, out, stride):
        down = nn.Sequential(nn.Conv2d(channels, out, 1, stride, bias=False), nn.BatchNorm2d(out))
        return nn.Sequential(BasicBlock(channels, out, stride, down), BasicBlock(out, out))

    return SimpleNamespace(
        conv1=nn.Conv2d(3, 4, 3, 2, 1, bias=False),
        bn1=nn.BatchNorm2d(4),
        relu=nn.ReLU(inplace=True),
        maxpool=nn.Identity(),
        layer1=nn.Sequential(BasicBlock(4, 4), BasicBlock(4, 4)),
        layer2=stage(4, 8, 2),
        layer3=stage(8, 16, 2),
        layer4=stage(16, 32, 2),
        fc=nn.Linear(32, 1),
    )


@pytest.fixture(autouse=True)
def narrow(monkeypatch):
    monkeypatch.setattr(torchvision.models, 'get_model', narrow_resnet)


@pytest.fixture
def build():
    """Makes a narrow network of a name, in float64, in training mode."""

    def make(name, seq_len=L, more=()):
        words = f'model.name {name} data.type video data.height {HEIGHT} data.width {WIDTH} '
        words += f'video.seq_len {seq_len} {NARROW.get(name, "")}'
        spec = ModelSpec.from_config(flatten(load_config('', [*words.split(), *more])))
        torch.manual_seed(0)
        model = build_video_model(spec, CLASSES, pretrained=False)
        model.spec = spec
        return model.double().train()

    return make


def scattered(model):
    """Scales of batch norms and statistics away from 0 and 1, which would hide what is behind."""
    generator = torch.Generator().manual_seed(1)

    def uniform(tensor, low, high):
        if tensor is not None:
            tensor.data = low + (high - low) * torch.rand(
                tensor.shape, generator=generator, dtype=tensor.dtype
            )

    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            uniform(module.weight, 0.5, 1.5)
            uniform(module.running_mean, -0.1, 0.1)
            uniform(module.running_var, 0.5, 1.5)
    return model


def clips_of(count, seq_len=L, seed=2):
    """Clips (count, L, 3, H, W) and identities, two clips of each."""
    generator = torch.Generator().manual_seed(seed)
    pids = torch.arange(CLASSES).repeat_interleave(2)[:count]
    shape = count, seq_len, 3, HEIGHT, WIDTH
    clips = torch.randn(shape, generator=generator, dtype=torch.float64)
    return clips + pids.view(-1, 1, 1, 1, 1) / 4, pids


def another(value, rule):
    """As text a value that a key takes other than its own."""
    if isinstance(rule, Flag):
        return str(not value)
    if isinstance(rule, OneOf):
        return next(choice for choice in rule.choices if choice != value)
    return '0.25'


@pytest.mark.slow
@every_model
def test_weights_of_losses_change_no_vector(name, build):
    """Stored vectors outlive a change of the keys that say so, and these change none."""
    clips, _ = clips_of(2)

    def vectors(model):
        with torch.no_grad():
            frames = model.encode_frames(clips[0]) if model.frame_once else clips
            return frames, model(clips)

    base = scattered(build(name)).eval()
    own = {one.name: one for one in settings_of(VIDEO_MODELS[name].Config)}
    assert not [key for key, one in own.items() if one.rule == WEIGHT and one.in_vectors]
    for key, one in own.items():
        if one.in_vectors or isinstance(one.rule, Text):  # files of weights
            continue
        value = another(one.default, one.rule)
        assert str(one.default) != value
        other = build(name, more=(f'{name}.{key}', value)).eval()
        other.load_state_dict(base.state_dict())
        assert structure_digest(other) == structure_digest(base), key
        for mine, its in zip(vectors(base), vectors(other), strict=True):
            assert torch.equal(mine, its), key
    for part, module in base.named_children():
        if part.startswith('classifier'):  # not of the structure that vectors depend on
            for tensor in module.parameters():
                tensor.data.fill_(math.nan)
    assert all(tensor.isfinite().all() for tensor in vectors(base))


def close(one, other, tolerance=1e-9):
    torch.testing.assert_close(one, other, rtol=tolerance, atol=tolerance)


@pytest.mark.slow
@every_model
def test_a_feature_is_that_of_its_clip_alone(name, build):
    model = scattered(build(name)).eval()
    clips, _ = clips_of(3)
    with torch.no_grad():
        features = model(clips)
        assert features.dim() == 2 and len(features) == 3 and features.isfinite().all()
        assert features.std() > 0
        close(model(clips[1:2]), features[1:2])
        # images are still clips
        still = clips[:, 0]
        close(model(still), model(still.unsqueeze(1).expand(-1, L, -1, -1, -1)))
        finished = model.finish(features)
        assert len(finished) == 3 and finished.isfinite().all()


@every_model
def test_other_shapes_are_refused(name, build):
    model = build(name).eval()
    with pytest.raises(ValueError, match='expected clips of'):
        model(torch.zeros(2, L, 1, HEIGHT, WIDTH, dtype=torch.float64))
    if not model.takes_any_length:
        with pytest.raises(ValueError, match=r'expected clips of \d+ frames \(video.seq_len\)'):
            model(torch.zeros(2, L + 1, 3, HEIGHT, WIDTH, dtype=torch.float64))


@every_model
def test_clips_of_another_length(name, build):
    model = scattered(build(name)).eval()
    if not model.takes_any_length:
        pytest.skip('its weights are of a length')
    with torch.no_grad():
        for seq_len in (1, 3, 7):
            assert model(clips_of(2, seq_len)[0]).isfinite().all()


@pytest.mark.slow
@every_model
def test_what_training_gives_grows_with_the_batch(name, build):
    model = build(name)
    clips, pids = clips_of(8)
    whole, half = model(clips), model(clips[:4])
    assert whole._fields == half._fields
    for field, one, other in zip(whole._fields, whole, half, strict=True):
        assert (one is None) == (other is None), field
        assert one is None or len(one) == 2 * len(other), field
    losses = model.losses(whole, pids, Recipe())
    assert losses and all(value.dim() == 0 and value.isfinite() for value in losses.values())
    assert model.logits(whole).shape == (8, CLASSES)


@pytest.mark.slow
@every_model
def test_every_loss_trains_the_encoder(name, build):
    model = build(name)
    clips, pids = clips_of(8)
    outputs = model(clips)
    for _ in range(2):  # CSA's table of identities is zero at first
        losses = model.losses(outputs, pids, Recipe())
    encoders = [module for module in model.modules() if isinstance(module, Encoder)]
    weights = [weight for encoder in encoders for weight in encoder.conv4[-1].parameters()]
    for term, loss in losses.items():
        gradients = torch.autograd.grad(loss, weights, retain_graph=True, allow_unused=True)
        assert any(one is not None and one.abs().max() > 0 for one in gradients), term


def shifts_without_effect(model):
    """Names of biases that a batch norm or a softmax over keys takes away again: their gradient is
    rounding alone."""
    names, last = set(), None
    for name, module in model.named_modules():
        if isinstance(module, NonLocal):
            names |= {f'{name}.phi.bias', f'{name}.g.bias'}
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and last is not None:
            names.add(f'{last}.bias')
        before = isinstance(module, (nn.Conv2d, nn.Conv3d, nn.Linear))
        last = name if before and module.bias is not None else None
    return names


@pytest.mark.slow
@every_model
def test_no_parameter_is_dead(name, build):
    model = build(name)
    start = copy.deepcopy(dict(model.named_parameters()))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    without = set()
    for seed in range(4):  # a scale that starts at zero keeps what is behind it for a step
        clips, pids = clips_of(8, seed=seed)
        optimizer.zero_grad()
        sum(model.losses(model(clips), pids, Recipe()).values()).backward()
        without.add(frozenset(n for n, p in model.named_parameters() if p.grad is None))
        optimizer.step()
    assert len(without) == 1  # DDP's graph is static
    frozen = {n for n, p in model.named_parameters() if not p.requires_grad}
    assert without == {frozenset(frozen)}
    still = {n for n, p in model.named_parameters() if torch.equal(p, start[n])}
    assert frozen <= still and still - frozen <= shifts_without_effect(model)


@every_model
def test_clips_are_put_together_from_vectors_of_frames(name, build):
    model = scattered(build(name)).eval()
    if not model.frame_once:
        pytest.skip('it takes whole clips')
    clips, _ = clips_of(2)
    with torch.no_grad():
        vectors = model.encode_frames(clips.flatten(0, 1))
        assert vectors.dim() == 2
        close(model.embed(vectors.unflatten(0, (2, L))), model(clips))


# number of frames of a tracklet → clips of an all-frames test, L = 4
CLIPS = {
    'ceil': {1: ['0000'], 3: ['0122'], 4: ['0123'], 5: ['0244', '1133'], 6: ['0244', '1355']},
    'consecutive': {
        1: ['0000'], 3: ['0120'], 4: ['0123'], 5: ['0123', '4444'], 6: ['0123', '4545'],
    },
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize('kind', CLIPS)
@every_model
def test_short_and_uneven_tracklets_are_the_mean_of_their_clips(name, kind, build, tmp_path):
    model = scattered(build(name)).float().eval()
    pixels = np.random.default_rng(0).integers(0, 256, (6, HEIGHT, WIDTH, 3), dtype=np.uint8)
    paths = [str(tmp_path / f'{number}.png') for number in range(6)]
    for path, frame in zip(paths, pixels, strict=True):
        Image.fromarray(frame).save(path)
    frames = Normalize(IMAGENET_MEAN, IMAGENET_STD)(torch.from_numpy(pixels).permute(0, 3, 1, 2))
    means = []
    with torch.no_grad():
        for count, clips in CLIPS[kind].items():
            if model.weighs_frames:  # every frame once
                clips = [''.join(map(str, range(count)))]
            rows = [[int(index) for index in clip] for clip in clips]
            means.append(sum(model(frames[row][None]) for row in rows) / len(rows))
        expected = model.finish(torch.cat(means))
    embed = Embedder(model, ClipPlan(L, 'all', all_clips=kind), batch_size=3)
    found = embed([paths[:count] for count in CLIPS[kind]]).features
    close(found, expected, 1e-4)


@every_model
def test_what_it_explains(name, build):
    model = scattered(build(name)).eval()
    clips, _ = clips_of(2)
    explained = model.explain(clips)
    check_explained(explained, 2, L)
    for key, tensor in explained.items():
        assert len(tensor) == 2 and not tensor.requires_grad and tensor.isfinite().all(), key
    if model.frame_once and 'frame_norms' in explained:
        frames = clips.flatten(0, 1)
        maps = model.maps(frames) if name == 'mgh' else model.encoder(frames).frame_features
        maps = maps.unflatten(0, (2, L))
        close(explained['frame_norms'], maps.square().sum(dim=2).sqrt())
        close(explained['frame_feature'], maps.mean(dim=(1, 3, 4)))


@pytest.mark.slow
@every_model
def test_folded_batch_norms_give_the_same(name, build):
    model = scattered(build(name)).eval()
    clips, _ = clips_of(2)
    with torch.no_grad():
        folded, plain = (InferenceModel(model, 'cpu', fold=fold) for fold in (True, False))
        assert folded.folded.places, 'no encoder'
        close(folded.encode_clips(clips), plain.encode_clips(clips))
        if model.frame_once:
            frames = clips.flatten(0, 1)
            close(folded.encode_frames(frames), plain.encode_frames(frames))


@pytest.mark.slow
@every_model
def test_half_precision_is_of_the_encoder_alone(name, build):
    model = scattered(build(name)).float()
    clips, pids = clips_of(8)
    with autocast('cpu', 'bf16'):
        outputs = model(clips.float())
    rows = [None if x is None else x.float() if x.is_floating_point() else x for x in outputs]
    losses = model.losses(type(outputs)(*rows), pids, Recipe())
    for field, one in zip(
        outputs._fields, outputs, strict=True
    ):  # but maps, which losses make wide
        narrow = one is not None and one.is_floating_point() and one.dtype != torch.float32
        assert not narrow or one.dim() == 4, field
    total = sum(losses.values())
    assert total.isfinite()
    total.backward()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)
    model.eval()
    with torch.no_grad():
        plain = model(clips.float())
        with autocast('cpu', 'bf16'):
            half = model(clips.float())
    assert half.dtype == torch.float32
    cosine = torch.cosine_similarity(half - half.mean(0), plain - plain.mean(0))
    assert (cosine > 0.5).all(), cosine
    if model.frame_once:
        with torch.no_grad():
            vectors = model.encode_frames(clips.flatten(0, 1).float()).unflatten(0, (8, L))
            plain = after_encoding(model, vectors)
            with autocast('cpu', 'bf16'):
                half = after_encoding(model, vectors)
        assert all(torch.equal(*both) for both in zip(plain, half, strict=True))


def after_encoding(model, vectors):
    """Features of clips, and scores of pairs if the model has them, from vectors of frames."""
    if model.score_pairs is None:
        return [model.embed(vectors)]
    pairs = model.pair_features(vectors)
    return [model.embed(vectors), model.score_pairs(pairs, pairs)]


@pytest.mark.slow
@every_model
def test_weights_are_saved_whole(name, build):
    model = scattered(build(name)).eval()
    other = build(name).eval()
    other.load_state_dict(model.state_dict())
    with torch.no_grad():
        clips, _ = clips_of(2)
        assert torch.equal(model(clips), other(clips))


@slow
@every_model
def test_two_processes_train_like_one(name, build):
    from test_distributed_training import L, assert_like_one_process

    model = scattered(build(name, L))
    for module in model.modules():  # each process has a generator of its own
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    batches = [dict(zip(('img', 'pid'), clips_of(8, L, seed), strict=True)) for seed in (5, 6)]
    assert_like_one_process(2, model, batches, 'sgd', sync_bn=True)


def test_they_are_listed_with_a_line_each(capsys):
    from stmn_plugin.cli import train

    assert command(train, '--list-archs', '--video') == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == NAMES
    for line in lines:
        assert len(line) <= 110 and re.search(r': .*\(\w.*\d{4}\)\.$', line), line
    assert command(train, '--video') == 2
    assert '--video goes with --list-archs' in capsys.readouterr().err


@every_model
def test_a_page_of_the_docs_is_about_it(name, repository):
    if name == 'stmn':
        pytest.skip('the other pages are about it')
    page, cells = indexed(repository)[name]
    assert cells[2] == ('yes' if VIDEO_MODELS[name].frame_once else 'no')
    text = (repository / 'docs' / 'systems' / page).read_text(encoding='utf-8')
    assert with_table(text, page) == text, 'python -m stmn_plugin.config.table'
    section = page.removesuffix('.md')
    assert f'| `{section}.backbone` | `shared` |' in text


def indexed(repository):
    """Name → (its page, the other cells of its line in the index of the docs)."""
    index = (repository / 'docs' / 'systems' / 'README.md').read_text(encoding='utf-8')
    found = {}
    for line in index.splitlines():
        names, *cells = line.strip('| ').split(' | ')
        found |= {name: (page, cells) for name, page in re.findall(r'\[`(\w+)`\]\((.*?)\)', names)}
    return found


@slow
@pytest.mark.parametrize('kind', ['torch', 'onnx'])
@every_model
def test_what_is_open_in_its_export(name, kind, build, repository, tmp_path):
    """As the table of the docs says, with shapes that it was not traced with."""
    model = scattered(build(name)).float()
    manifest = export_model(model, kind, tmp_path / name)
    shapes = [part['input']['shape'] for part in manifest['parts']]
    assert all(shape[0] is None for shape in shapes)
    first, last = shapes[0], shapes[1 if model.frame_once else 0]
    found = {
        'parts': ', '.join(part['name'] for part in manifest['parts']),
        'length': 'any' if last[1] is None else 'L',
        'size': 'any' if first[-1] is None else 'of training',
    }
    if (kind, name) == ('onnx', 'part_aligned'):  # the exception that the docs name
        assert found['size'] == 'of training'
        found['size'] = 'any'
    text = (repository / 'docs' / 'export.md').read_text(encoding='utf-8')
    [row] = re.findall(rf'^\| `{name}` \| (.*) \|$', text, re.M)
    assert row.split(' | ') == list(found.values())


@pytest.mark.slow
@every_model
def test_its_configs_make_it(name, repository):
    for folder in ('equal_terms', 'as_published'):
        file = repository / 'configs' / folder / f'{name}_mars.yaml'
        if name == 'stmn' or (name, folder) == ('eug', 'equal_terms'):
            continue
        assert file.read_text(encoding='utf-8').startswith('#'), file
        cfg = load_config(str(file))
        assert cfg.model.name == name and cfg.data.sources == ['mars']
        spec = ModelSpec.from_config({**flatten(cfg), 'data.height': HEIGHT, 'data.width': WIDTH})
        build_video_model(spec, CLASSES, pretrained=False)


def command(module, *words):
    """Run a command in this process → exit code."""
    try:
        module.main([str(word) for word in words])
    except SystemExit as stop:
        return stop.code or 0
    return 0


@slow
@every_model
def test_the_commands(name, mars_root, small_run, repository, tmp_path, capsys):
    from stmn_plugin.cli import export, report, train

    run = tmp_path / 'run'
    config = ['--config-file', repository / 'configs' / 'stmn_mars.yaml', '-a', name]
    words = [*config, '--root', mars_root, *small_run, *NARROW.get(name, '').split()]
    assert command(train, *words, 'train.max_epoch', 2) == 0
    metrics = json.loads((run / 'metrics.json').read_text())
    assert metrics['arch'] == name and metrics['evaluations'][0]['frames'] == 'rrs'
    # one epoch, then the other: the same weights bit by bit
    parts = [*words, 'data.save_dir', tmp_path / 'parts']
    assert command(train, *parts, 'train.max_epoch', 1) == 0
    assert command(train, *parts, 'train.max_epoch', 2, 'model.resume', 'auto') == 0
    checkpoint = run / 'model' / 'model.pth.tar-2'
    states = [
        torch.load(folder / 'model' / 'model.pth.tar-2', weights_only=True)['state_dict']
        for folder in (run, tmp_path / 'parts')
    ]
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])
    # all frames, from kept vectors where there are some
    test = ['test.evaluate', True, 'test.frames', 'all', 'model.load_weights', checkpoint]
    words += ['data.save_dir', tmp_path / 'all', *test]
    if VIDEO_MODELS[name].frame_once:
        words += ['test.features_dir', tmp_path / 'kept']
    assert command(train, *words) == 0
    metrics = json.loads((tmp_path / 'all' / 'metrics.json').read_text())
    assert metrics['evaluations'][-1]['frames'].startswith('all')
    assert 0 < metrics['evaluations'][-1]['mAP'] <= 1
    assert command(report, '--run', run) == 0
    assert (run / 'report.html').stat().st_size > 10_000
    from stmn_plugin import load_model

    weights = tmp_path / 'weights.safetensors'
    assert command(export, '--weights', weights, checkpoint) == 0
    clips = clips_of(2)[0].float()
    features = [load_model(str(path))(clips) for path in (checkpoint, weights)]
    assert torch.equal(*features) and features[0].isfinite().all()


@slow
@pytest.mark.parametrize('data', ['dukemtmcvidreid', 'lsvid'])
@every_model
def test_other_datasets_and_switches(name, data, miniature_roots, small_run, repository):
    from stmn_plugin.cli import train

    switches = {
        'dukemtmcvidreid': 'train.amp bf16 test.amp bf16 test.flip True',
        'lsvid': 'train.accumulate 2 train.checkpoint_activations True test.frames all',
    }
    words = ['--config-file', repository / 'configs' / 'stmn_mars.yaml', '-a', name]
    words += ['--root', miniature_roots[data], '-s', data, '-t', data, *small_run]
    words += NARROW.get(name, '').split()
    assert command(train, *words, *switches[data].split()) == 0


@slow
@every_model
def test_compilation_reaches_every_block_of_the_encoder(name, build, monkeypatch):
    from stmn_plugin.training import speed

    done = []  # how many convolutions each call of compiled code had

    def counted(graph, inputs):
        calls = [node for node in graph.graph.nodes if node.op == 'call_function']
        convolutions = sum('conv2d' in str(node.target) for node in calls)
        return lambda *args: done.append(convolutions) or graph.forward(*args)

    monkeypatch.setattr(speed, '_inductor_or_eager', counted)
    torch._dynamo.reset()
    plain, model = (scattered(build(name)) for _ in range(2))
    for module in (*plain.modules(), *model.modules()):
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    speed.compile_in_place(model)
    wanted = []  # of each block that runs; M3D takes the first of a stage apart

    def note(block, *_):
        wanted.append(sum(isinstance(x, nn.Conv2d) for x in block.modules()))

    for encoder in plain.modules():
        if isinstance(encoder, Encoder):
            for stage in (encoder.conv2, encoder.conv3, encoder.conv4, encoder.conv5):
                for block in stage:
                    block.register_forward_hook(note)
    clips, _ = clips_of(4)
    outputs = []
    for each in (plain, model):
        torch.manual_seed(3)  # STA draws frames
        outputs.append(each(clips))
    for one, other in zip(*outputs, strict=True):
        assert one is other is None or torch.allclose(one, other, 1e-9, 1e-9)
    assert sum(done) >= sum(wanted) > 0
    done.clear()
    wanted.clear()
    with torch.no_grad():
        tested = InferenceModel(model.eval(), 'cpu', compiled=True)
        close(tested.encode_clips(clips), plain.eval()(clips))
    assert sum(done) >= sum(wanted) > 0
    assert model.state_dict().keys() == plain.state_dict().keys()
    torch._dynamo.reset()
