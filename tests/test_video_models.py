"""An architecture is one file: two toys, defined here, go through all that the plugin offers.

``--import`` of this very file registers them for a command that runs by itself.
"""

import json
import subprocess
import sys
from dataclasses import dataclass
from typing import NamedTuple

import pytest
import torch
from torch import Tensor, nn

from stmn_plugin.config.rules import Number, Whole
from stmn_plugin.config.settings import setting
from stmn_plugin.losses.recipe import Recipe
from stmn_plugin.models.base import VideoModel, register_video_model
from stmn_plugin.models.encoder import Encoder, EncoderConfig
from stmn_plugin.models.heads import BNNeck, bias_free_classifier

TOYS = {}


def toy(name):
    def keep(model):
        TOYS[name] = model
        return model

    return keep


class ClipwiseOutput(NamedTuple):
    feature: Tensor  # (B, D)
    logits: Tensor  # (B, num_classes)


@toy('toy_clipwise')
class ToyClipwise(VideoModel):
    """Frames meet in the trunk: a convolution over three frames."""

    @dataclass(frozen=True)
    class Config:
        channels: int = setting(8, Whole(1, 64), 'channels of the trunk')
        drop: float = setting(0.0, Number(0, 1, below=True), 'dropout of the feature')

    def __init__(self, num_classes, seq_len, config, pretrained=True):
        super().__init__(num_classes, seq_len, config, pretrained)
        dim = config.channels
        self.trunk = nn.Sequential(
            nn.Conv3d(3, dim, 3, stride=(1, 4, 4), padding=1), nn.BatchNorm3d(dim), nn.ReLU()
        )
        self.drop = nn.Dropout(config.drop)
        self.bnneck = BNNeck(dim)
        self.classifier = bias_free_classifier(dim, num_classes)

    def forward(self, clips):
        maps = self.trunk(self.as_clips(clips).transpose(1, 2))  # (B, D, L, h, w)
        feature = self.drop(maps.mean(dim=(2, 3, 4)))
        neck = self.bnneck(feature)
        return ClipwiseOutput(feature, self.classifier(neck)) if self.training else neck

    def losses(self, outputs, pids, recipe: Recipe):
        return {
            'identity': recipe.cross_entropy(outputs.logits, pids),
            'triplet': recipe.triplet(outputs.feature, pids),
        }

    def backbone(self):
        return self.trunk


class VectorsOutput(NamedTuple):
    feature: Tensor
    class_logits: Tensor
    attention: Tensor  # (B, L)


@toy('toy_vectors')
class ToyVectors(VideoModel):
    """Vectors of frames, weighted by a learned attention, and a centre for every identity."""

    frame_once = True
    takes_any_length = True

    @dataclass(frozen=True)
    class Config(EncoderConfig):
        centre_weight: float = setting(0.01, Number(0, 10), 'of the loss to the centres')

    def __init__(self, num_classes, seq_len, config, pretrained=True):
        super().__init__(num_classes, seq_len, config, pretrained)
        self.encoder = Encoder(
            config.backbone,
            spatial=False,
            temporal=False,
            pretrained=pretrained,
            weights=config.backbone_weights,
            sha256=config.backbone_sha256,
            section='toy_vectors',
        )
        dim = self.encoder.dim
        self.attend = nn.Sequential(nn.BatchNorm1d(dim), nn.Linear(dim, 1))
        self.bnneck = BNNeck(dim)
        self.classifier = bias_free_classifier(dim, num_classes)
        self.centres = nn.Parameter(torch.zeros(num_classes, dim))  # of the loss alone

    def forward(self, clips):
        clips = self.as_clips(clips)
        vectors = self.encode_frames(clips.flatten(0, 1)).unflatten(0, clips.shape[:2])
        if not self.training:
            return self.embed(vectors)
        attention = self.attention(vectors)
        feature = self.pool(vectors, attention)
        return VectorsOutput(feature, self.classifier(self.bnneck(feature)), attention)

    def attention(self, vectors):
        scores = self.attend(vectors.flatten(0, 1)).unflatten(0, vectors.shape[:2])
        return scores.squeeze(2).softmax(dim=1)

    def pool(self, vectors, attention):
        return (attention.unsqueeze(2) * vectors).sum(dim=1)

    def losses(self, outputs, pids, recipe: Recipe):
        away = (outputs.feature - self.centres[pids]).square().sum(dim=1).mean()
        return {
            'identity': recipe.cross_entropy(outputs.class_logits, pids),
            'triplet': recipe.triplet(outputs.feature, pids),
            'centre': self.config.centre_weight * away,
        }

    def logits(self, outputs):
        return outputs.class_logits

    def backbone(self):
        return self.encoder

    def encode_frames(self, frames):
        return self.encoder(frames).frame_features.mean(dim=(2, 3))

    def embed(self, vectors):
        return self.bnneck(self.pool(vectors, self.attention(vectors)))

    def explain(self, clips):
        vectors = self.encode_frames(clips.flatten(0, 1)).unflatten(0, clips.shape[:2])
        return {'attention': self.attention(vectors)}


if __name__ != 'test_video_models':  # by --import
    for name, model in TOYS.items():
        register_video_model(name)(model)

slow = pytest.mark.slow
IDENTITIES = 7
WORDS = {
    'toy_clipwise': ['toy_clipwise.channels', '12'],
    'toy_vectors': ['toy_vectors.backbone', 'resnet18'],
}


@pytest.fixture(autouse=True)
def registered():
    import toy_models  # not known to a command that imports this file

    with toy_models.registered(**TOYS):
        yield


@pytest.fixture
def yaml(tmp_path, repository):
    """Write the one YAML of a toy → its path."""

    def write(name):
        path = tmp_path / f'{name}.yaml'
        path.write_text(
            f'_BASE_: {repository / "configs" / "stmn_mars.yaml"}\nmodel: {{name: {name}}}\n'
        )
        return path

    return write


def command(module, *words):
    """Run a command in this process → exit code."""
    try:
        module.main([str(word) for word in words])
    except SystemExit as stop:
        return stop.code or 0
    return 0


def train_words(name, yaml, mars_root, small_run):
    return ['--config-file', yaml(name), '--root', mars_root, *small_run, *WORDS[name]]


@pytest.mark.slow
@pytest.mark.parametrize('name', ['toy_clipwise', pytest.param('toy_vectors', marks=slow)])
def test_a_toy_is_trained_tested_resumed_reported_and_exported(
    name, yaml, mars_root, small_run, tmp_path, capsys
):
    from stmn_plugin.cli import cost_curve, export, report, train

    run = tmp_path / 'run'
    words = train_words(name, yaml, mars_root, small_run)
    assert command(train, *words, 'train.max_epoch', 2) == 0
    metrics = json.loads((run / 'metrics.json').read_text())
    assert metrics['arch'] == name and metrics['evaluations'][0]['frames'] == 'rrs'
    lines = [json.loads(line) for line in (run / 'metrics.jsonl').read_text().splitlines()]
    own = {
        'toy_clipwise': {'identity', 'triplet'},
        'toy_vectors': {'identity', 'triplet', 'centre'},
    }
    assert own[name] <= set(lines[-1]['losses'])

    # one epoch, then the other: the same weights bit by bit
    parts = tmp_path / 'parts'
    both = [*words, 'data.save_dir', parts]
    assert command(train, *both, 'train.max_epoch', 1) == 0
    assert command(train, *both, 'train.max_epoch', 2, 'model.resume', 'auto') == 0
    checkpoint = run / 'model' / 'model.pth.tar-2'
    states = [
        torch.load(folder / 'model' / 'model.pth.tar-2', weights_only=True)['state_dict']
        for folder in (run, parts)
    ]
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])

    # all frames, from the checkpoint alone and by hand
    test = ['test.evaluate', True, 'test.frames', 'all', 'model.load_weights', checkpoint]
    assert command(train, *words, 'data.save_dir', tmp_path / 'all', *test) == 0
    metrics = json.loads((tmp_path / 'all' / 'metrics.json').read_text())
    assert metrics['evaluations'][-1]['frames'].startswith('all')
    capsys.readouterr()
    kept = ['test.features_dir', tmp_path / 'kept']
    code = command(train, *words, 'data.save_dir', tmp_path / 'kept-run', *test, *kept)
    if TOYS[name].frame_once:
        assert code == 0
        loaded = ['model.load_weights', checkpoint, 'data.save_dir', tmp_path / 'cost']
        assert command(cost_curve, *words, '--clips', 1, 'all', *loaded) == 0
    else:
        assert code == 2
        error = capsys.readouterr().err.splitlines()[-1]
        assert error.startswith('error: test.features_dir: ') and 'clips' in error

    from stmn_plugin import load_model

    # by itself, and as a file of weights only
    weights = tmp_path / 'weights.safetensors'
    assert command(export, '--weights', weights, checkpoint) == 0
    clips = torch.randn(2, 4, 3, 64, 32, generator=torch.Generator().manual_seed(0))
    features = [load_model(str(path))(clips) for path in (checkpoint, weights)]
    assert torch.equal(*features) and features[0].shape[0] == 2
    assert features[0].isfinite().all()

    # the page, and the figures of what it explains
    assert command(report, '--run', run) == 0
    assert (run / 'report.html').stat().st_size > 10_000
    assert 'attention' in (run / 'report.html').read_text() or not TOYS[name].frame_once


@pytest.mark.slow
@pytest.mark.parametrize('name', TOYS)
@pytest.mark.parametrize(
    'keys',
    ['train.amp bf16', 'train.accumulate 2', 'test.flip True', 'loss.name softmax'],
)
def test_a_toy_takes_every_switch(name, keys, yaml, mars_root, small_run):
    from stmn_plugin.cli import train

    assert command(train, *train_words(name, yaml, mars_root, small_run), *keys.split()) == 0


@pytest.mark.slow
def test_activation_checkpoints_are_of_encoders(yaml, mars_root, small_run, capsys):
    from stmn_plugin.cli import train

    keys = ['train.checkpoint_activations', True]
    words = {name: train_words(name, yaml, mars_root, small_run) for name in TOYS}
    assert command(train, *words['toy_vectors'], *keys) == 0
    capsys.readouterr()
    assert command(train, *words['toy_clipwise'], *keys, 'train.overwrite', True) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith('error: train.checkpoint_activations: toy_clipwise')


@pytest.mark.parametrize('name', TOYS)
def test_two_processes_train_a_toy_like_one(name, monkeypatch):
    import torchvision
    from test_distributed_training import CLASSES, CLIPS, L, assert_like_one_process, narrow_resnet

    monkeypatch.setattr(torchvision.models, 'get_model', narrow_resnet)
    torch.manual_seed(3)
    kind = TOYS[name]
    model = kind(CLASSES, L, kind.Config(), pretrained=False).double()
    pids = torch.arange(CLASSES).repeat_interleave(CLIPS // CLASSES)
    clips = torch.randn(3, CLIPS, L, 3, 8, 6, dtype=torch.float64) + pids.view(-1, 1, 1, 1, 1) / 4
    batches = [{'img': batch, 'pid': pids} for batch in clips]
    assert_like_one_process(3, model, batches, 'sgd', sync_bn=True)


def test_a_clips_operations_counted_by_hand():
    from stmn_plugin.config import load_config
    from stmn_plugin.models.facts import model_facts

    kind, words = ToyClipwise, 'model.name toy_clipwise data.type video video.seq_len 6'
    cfg = load_config('', [*words.split(), 'data.height', '64', 'data.width', '32'])
    facts = model_facts(cfg, kind(IDENTITIES, 6, kind.Config(channels=5), pretrained=False))
    # a 3x3x3 convolution of 3 channels at every fourth place of 6 frames; a multiply-add is two
    operations = 2 * 5 * (6 * 16 * 8) * (3 * 27)
    assert facts['gflops_per_frame'] == round(operations / 6 / 1e9, 4) > 0
    assert facts['parameters'] == (5 * 81 + 5) + 2 * 5 + 5  # convolution, norm, scale of the BNNeck
    assert facts['feature_dim'] == 5 and facts['seq_len'] == 6


def test_what_follows_the_frames_is_counted_once_a_clip():
    from torch.utils.flop_counter import FlopCounterMode

    from stmn_plugin.config import load_config
    from stmn_plugin.models.facts import model_facts
    from stmn_plugin.models.systems.gltr import GLTR, GLTRConfig

    words = 'data.type video model.name gltr gltr.backbone resnet18 video.seq_len 6'
    cfg = load_config('', [*words.split(), 'data.height', '64', 'data.width', '32'])
    model = GLTR(IDENTITIES, 6, GLTRConfig(backbone='resnet18'), pretrained=False)
    facts = model_facts(cfg, model)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(torch.zeros(1, 6, 3, 64, 32))  # every frame, and the head, 8 MFLOP, once
    assert 6 * facts['gflops_per_frame'] == pytest.approx(counter.get_total_flops() / 1e9, abs=6e-4)


def batch_refused_on_each(kind, *words):
    from stmn_plugin.config import load_config
    from stmn_plugin.errors import InputError
    from stmn_plugin.models.facts import check_batch

    cfg = load_config('', [*words, 'data.height', '64', 'data.width', '32'])
    model = kind(IDENTITIES, cfg.video.seq_len, kind.Config(), pretrained=False)
    try:
        check_batch(cfg, model)
    except InputError as error:
        return str(error)
    return ''


def test_batch_norms_outside_the_backbone_see_the_clips_of_all_processes():
    """A BNNeck sees one value of each clip."""
    from processes import on_processes

    words = ['model.name', 'toy_clipwise', 'data.type', 'video', 'train.batch_size']
    on_one = batch_refused_on_each(
        ToyClipwise, *words, '1', 'sampler.train_sampler', 'RandomSampler'
    )
    assert on_one == 'train.batch_size 1: the batch norms of toy_clipwise take two clips or more'
    assert on_processes(batch_refused_on_each, ToyClipwise, *words, '2') == ['', '']


@slow
def test_a_compiled_trunk_of_clips_trains_alike(messages):
    import copy

    from stmn_plugin.training.speed import compile_in_place

    torch.manual_seed(0)
    plain = ToyClipwise(4, 4, ToyClipwise.Config(), pretrained=False).double().train()
    compiled = copy.deepcopy(plain)
    compile_in_place(compiled)
    clips, pids = torch.randn(4, 4, 3, 32, 16, dtype=torch.float64), torch.arange(4) // 2
    for model in (plain, compiled):
        sum(model.losses(model(clips), pids, Recipe()).values()).backward()
    assert 'not compiled' not in messages()
    for (name, one), other in zip(plain.named_parameters(), compiled.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad, rtol=1e-8, atol=1e-10, msg=name)
    torch._dynamo.reset()


def test_weights_to_start_from_are_those_of_any_architecture():
    from stmn_plugin.config.defaults import get_default_config
    from stmn_plugin.config.sections import flatten
    from stmn_plugin.evaluation.fingerprint import is_free
    from stmn_plugin.training.provenance import run_digest
    from stmn_plugin.training.resuming import changed_keys

    config = flatten(get_default_config())
    for name in ('stmn', 'toy_vectors'):
        key = f'{name}.backbone_weights'
        own = {**config, 'model.name': name}
        changed = {**own, key: 'another.pth'}
        assert changed_keys(own, changed) == {} and is_free(key)
        assert run_digest(changed) != run_digest(own)


@slow
def test_a_file_is_imported_by_a_command(yaml, mars_root, small_run, repository, tmp_path):
    words = [
        *(sys.executable, '-m', 'stmn_plugin', 'train', '--import', __file__),
        *map(str, train_words('toy_clipwise', yaml, mars_root, small_run)),
    ]
    done = subprocess.run(words, cwd=repository, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert ' mAP ' in done.stdout
    words = [word for word in words if word not in ('--import', __file__, *WORDS['toy_clipwise'])]
    words += ['data.save_dir', str(tmp_path / 'other')]
    done = subprocess.run(words, cwd=repository, capture_output=True, text=True)
    assert done.returncode == 2 and '--import' in done.stderr
