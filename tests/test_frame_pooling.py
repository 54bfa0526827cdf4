"""Image models of the host on clips: what is trained, what is tested, and what is refused."""

import copy

import pytest
import references.stmn as references
import torch
import torchreid
from torch import nn

from stmn_plugin.config import flatten, load_config
from stmn_plugin.errors import InputError
from stmn_plugin.host.registration import model_registry
from stmn_plugin.losses import Recipe
from stmn_plugin.models import STMN, FrameByFrame, FramePooling, ModelSpec, build_video_model
from stmn_plugin.models.frame_pooling import ImageModelConfig

B, L, CLASSES = 4, 3, 5
PIDS = torch.tensor([0, 0, 1, 4])


@pytest.fixture
def model():
    torch.manual_seed(0)
    return FramePooling(CLASSES, L, ImageModelConfig('resnet18', 64, 32), pretrained=False)


def clips(dtype=torch.float32):
    return torch.randn(B, L, 3, 64, 32, generator=torch.Generator().manual_seed(1), dtype=dtype)


@pytest.mark.slow
def test_features_in_eval_mode_are_the_hosts_averaged_and_normalised(model):
    model = model.double().eval()
    nn.init.uniform_(model.bnneck.weight, 0.5, 2)
    model.bnneck.running_mean.normal_()
    host = torchreid.models.build_model('resnet18', 1, pretrained=False).double().eval()
    host.load_state_dict(model.image_model.state_dict())
    with torch.no_grad():
        frames = torch.stack([host(clip) for clip in clips(torch.float64)])  # (B, L, D)
        mean = sum(frames[:, i] for i in range(L)) / L
        neck = model.bnneck
        expected = references.bnneck_eval(
            mean, neck.weight, neck.running_mean, neck.running_var, neck.eps
        )
        assert references.relative_error(model(clips(torch.float64)), expected) <= 1e-10
        vectors = model.encode_frames(clips(torch.float64).flatten(0, 1)).view(B, L, -1)
        assert references.relative_error(model.embed(vectors), expected) <= 1e-10
        assert references.relative_error(vectors, frames) <= 1e-10
        images = clips(torch.float64)[:, 0]
        still = model(images.unsqueeze(1).repeat(1, L, 1, 1, 1))
        assert references.relative_error(model(images), still) <= 1e-10
        assert model(clips(torch.float64)[:, :2]).shape == (B, 512) == (B, model.feature_dim)


@pytest.mark.slow
def test_in_training_the_layers_train_and_the_losses_are_the_recipes_on_the_clip(model):
    model = model.double().train()
    host = copy.deepcopy(model.image_model).train()
    outputs = model(clips(torch.float64))
    # what the host's model computes before its classifier, with batch statistics
    features = host.global_avgpool(host.featuremaps(clips(torch.float64).flatten(0, 1)))
    mean = features.flatten(1).view(B, L, -1).mean(dim=1)
    assert references.relative_error(outputs.feature, mean) <= 1e-10
    for (name, ours), theirs in zip(model.image_model.named_buffers(), host.buffers(), strict=True):
        assert torch.equal(ours, theirs), name  # running statistics
    neck = model.bnneck
    logits = references.linear(
        references.bnneck_training(mean, neck.weight, neck.eps), model.classifier.weight
    )
    assert references.relative_error(outputs.logits, logits) <= 1e-8
    assert model.logits(outputs) is outputs.logits
    losses = model.losses(outputs, PIDS, Recipe(cross_entropy_weight=0.7, triplet_weight=1.5))
    expected = {
        'cross_entropy': 0.7 * references.cross_entropy(logits, PIDS, 0.0),
        'triplet': 1.5 * references.batch_hard_triplet(mean, PIDS),
    }
    assert losses.keys() == expected.keys()
    for name, loss in losses.items():
        assert references.relative_error(loss, expected[name]) <= 1e-8, name
    sum(losses.values()).backward()
    still = {name for name, p in model.named_parameters() if p.grad is None}
    assert still == {'image_model.classifier.weight', 'image_model.classifier.bias'}


def test_layers_that_the_host_freezes_stay_frozen_and_the_rest_trains(model):
    torchreid.utils.open_specified_layers(model, ['bnneck', 'classifier'])
    before = copy.deepcopy(model.state_dict())
    sum(model.losses(model(clips()), PIDS, Recipe()).values()).backward()
    trained = {name for name, p in model.named_parameters() if p.grad is not None}
    assert trained == {'bnneck.weight', 'classifier.weight'}
    changed = {k for k, value in model.state_dict().items() if not torch.equal(value, before[k])}
    assert {name.split('.')[0] for name in changed} == {'bnneck'}  # statistics


def test_the_name_decides_what_is_built():
    words = 'data.type video model.pretrained False data.height 64 data.width 32 video.seq_len 2'

    def build(*more):
        spec = ModelSpec.from_config(flatten(load_config('', [*words.split(), *more])))
        return build_video_model(spec, CLASSES, pretrained=False)

    stmn = build('model.name', 'stmn', 'stmn.backbone', 'resnet18', 'loss.name', 'stmn')
    assert type(stmn) is STMN and (stmn.num_classes, stmn.seq_len) == (CLASSES, 2)
    pooled = build('model.name', 'resnet18')
    assert type(pooled) is FramePooling and pooled.classifier.weight.shape == (CLASSES, 512)
    assert pooled.image_model.classifier.weight.shape == (1, 512)
    frames = build('model.name', 'resnet18', 'video.image_models', 'frames')
    assert type(frames) is FrameByFrame and frames.network.loss == 'softmax'
    triplet = build(
        'model.name', 'resnet18', 'video.image_models', 'frames', 'loss.name', 'triplet',
        'video.pooling_method', 'max', 'sampler.train_sampler', 'RandomIdentitySampler',
    )  # fmt: skip
    assert triplet.network.loss == 'triplet' and triplet.pooling == 'max'
    with pytest.raises(InputError, match="model.name: 'psta' is no architecture here.*--import"):
        build('model.name', 'psta')


@pytest.mark.parametrize('pooling', ['avg', 'max'])
def test_what_is_trained_frame_by_frame_is_tested_pooled(pooling):
    torch.manual_seed(0)
    host = torchreid.models.build_model('resnet18', CLASSES, pretrained=False)
    model = FrameByFrame(host, L, pooling).eval()
    assert model.weighs_frames == (pooling == 'avg')
    with torch.no_grad():
        frames = torch.stack([host(clip) for clip in clips()])
        expected = {'avg': frames.mean(dim=1), 'max': frames.max(dim=1).values}[pooling]
        torch.testing.assert_close(model(clips()), expected)
        torch.testing.assert_close(model(clips()[:, 0]), frames[:, 0])
    with pytest.raises(RuntimeError, match='frame by frame'):
        model.train()(clips())


class Clips(nn.Module):
    def __init__(self, **arguments):
        super().__init__()

    def forward(self, clips):
        count, length, *_ = clips.shape
        return clips.reshape(count, length, 3, -1).mean(dim=3).mean(dim=1)


def test_models_that_take_no_frames_or_other_ones_are_refused_in_one_line(monkeypatch):
    with pytest.raises(InputError, match='data.height.*hacnn cannot take frames of 16x16'):
        FramePooling(CLASSES, L, ImageModelConfig('hacnn', 16, 16), pretrained=False)
    monkeypatch.setitem(model_registry(), 'mine', Clips)
    with pytest.raises(InputError, match='mine takes clips.*register_video_model'):
        FramePooling(CLASSES, L, ImageModelConfig('mine', 64, 32), pretrained=False)
