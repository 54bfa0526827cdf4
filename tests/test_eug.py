"""EUG's network: the mean over frames, the head of training alone, what is frozen, its size."""

import math

import pytest
import torch
import torchreid
import torchvision
from references import eug as reference
from torch.utils.flop_counter import FlopCounterMode

from stmn_plugin.losses.recipe import Recipe
from stmn_plugin.models.systems.eug import EUG, EmbeddingHead, EUGConfig

CLASSES, L = 5, 3
SIZE = 32, 16


@pytest.fixture
def build():
    def make(**keys):
        torch.manual_seed(0)
        keys = {'backbone': 'resnet18', 'embedding_dim': 6, **keys}
        return EUG(CLASSES, L, EUGConfig(**keys), pretrained=False)

    return make


@pytest.fixture
def clips():
    return torch.randn(4, L, 3, *SIZE, generator=torch.Generator().manual_seed(1))


def count(parameters):
    return sum(parameter.numel() for parameter in parameters)


def frozen_stages(model):
    return [model.encoder.stem, model.encoder.conv2, model.encoder.conv3]


def test_the_size_and_cost_of_resnet_50():
    with torch.device('meta'):
        model = EUG(625, 6, EUGConfig(), pretrained=False)
        head = count(model.classifier.parameters())
        assert head == 2_098_176 + 2_048 + 640_625 == 2_740_849
        assert count(model.parameters()) - head == 23_508_032
        frozen = sum(count(stage.parameters()) for stage in frozen_stages(model))
        assert frozen == 1_444_928 and 23_508_032 - frozen == 22_063_104
        model.eval()
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            feature = model(torch.zeros(1, 6, 3, 256, 128))
    assert feature.shape == (1, 2048)
    assert counter.get_total_flops() / 1e9 == pytest.approx(48.64, abs=0.005)


def steps(model, clips, number=2):
    """As the host begins an epoch, then a few steps of SGD."""
    torchreid.utils.open_all_layers(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.5, weight_decay=5e-4)
    for _ in range(number):
        optimizer.zero_grad()
        outputs = model(clips)
        sum(model.losses(outputs, torch.arange(4), Recipe()).values()).backward()
        optimizer.step()


def test_frozen_layers_keep_their_start_and_everything_else_moves(build, clips):
    model = build()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    steps(model, clips)
    frozen = tuple(f'encoder.trunk.{number}.' for number in range(6))
    after = model.state_dict()
    same = {name for name in before if torch.equal(before[name], after[name])}
    assert same == {name for name in before if name.startswith(frozen)}
    assert any('num_batches' in name for name in same)
    assert any('downsample.1.running_mean' in name for name in same)


def test_without_freezing_everything_moves(build, clips):
    model = build(freeze=False)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    steps(model, clips)
    after = model.state_dict()
    assert not [name for name in before if torch.equal(before[name], after[name])]


def test_the_24_batch_norms_of_frozen_layers_never_train():
    with torch.device('meta'):
        model = EUG(2, L, EUGConfig(), pretrained=False)
    for _ in range(2):
        model.eval()
        model.train()
        modes = [
            module.training
            for stage in frozen_stages(model)
            for module in stage.modules()
            if isinstance(module, torch.nn.BatchNorm2d)
        ]
        assert len(modes) == 24 and not any(modes)
        assert all(module.training for module in model.encoder.conv4.modules())
        assert model.classifier.norm.training


def test_frozen_layers_compute_what_they_do_in_testing(build, clips):
    """With conv4 and conv5 in eval mode, too, training has the features of testing."""
    model = build()
    frames = clips.flatten(0, 1)
    model.encoder.conv4.eval(), model.encoder.conv5.eval()
    trained = model.frame_vectors(frames)
    assert trained.requires_grad
    torch.testing.assert_close(trained, model.eval().frame_vectors(frames))


def test_a_clip_is_the_mean_of_its_frames(build, clips):
    model = build().eval()
    feature = model(clips)
    vectors = model.encode_frames(clips.flatten(0, 1)).unflatten(0, clips.shape[:2])
    assert torch.equal(feature, model.embed(vectors))
    torch.testing.assert_close(feature, reference.mean_over_frames(vectors))
    torch.testing.assert_close(feature, model(clips[:, [2, 0, 1]]))
    still = model(clips[:, :1].expand(-1, L, -1, -1, -1))
    torch.testing.assert_close(still, vectors[:, 0])
    torch.testing.assert_close(still, model(clips[:, 0]))  # images are still clips
    lengths = model.finish(feature).norm(dim=1)
    torch.testing.assert_close(lengths, torch.ones(4))
    torch.testing.assert_close(model.finish(3 * feature), model.finish(feature))
    assert model(clips[:, :2]).shape == feature.shape  # any length


def test_the_head_is_no_part_of_the_feature(build, clips):
    model = build().eval()
    before = model(clips)
    with torch.no_grad():
        for parameter in model.classifier.parameters():
            parameter.zero_()
    assert torch.equal(model(clips), before)


def test_the_head_equals_the_loops_forward_and_backward():
    torch.manual_seed(0)
    head = EmbeddingHead(7, 5, 4, dropout=0.0).double()
    with torch.no_grad():
        head.norm.weight.uniform_(0.5, 2), head.norm.bias.uniform_(-1, 1)
        head.classifier.weight.normal_(), head.classifier.bias.normal_()
    vectors = torch.randn(6, 3, 7, dtype=torch.float64, requires_grad=True)
    weights = dict(head.named_parameters())
    inputs = [vectors, *weights.values()]
    towards = torch.randn(6, 4, dtype=torch.float64)
    results = []
    for logits in (
        head(vectors.mean(dim=1)),
        reference.head_logits(reference.mean_over_frames(vectors), weights),
    ):
        results.append((logits, *torch.autograd.grad((logits * towards).sum(), inputs)))
    for ours, slow in zip(*results, strict=True):
        torch.testing.assert_close(ours, slow, rtol=1e-9, atol=1e-9)


def test_the_start_of_the_head():
    torch.manual_seed(0)
    head = EmbeddingHead(2048, 1024, 625, dropout=0.5)
    assert head.embedding.weight.std().item() == pytest.approx(math.sqrt(2 / 1024), rel=0.01)
    assert head.classifier.weight.std().item() == pytest.approx(0.001, rel=0.01)
    assert not head.embedding.bias.any() and not head.classifier.bias.any()
    config = EUGConfig()
    assert (config.freeze, config.embedding_dim, config.dropout) == (True, 1024, 0.5)


def test_dropout_is_on_both_sides_of_the_embedding():
    head = EmbeddingHead(2000, 3000, 2, dropout=0.5)
    torch.nn.init.constant_(head.embedding.weight, 1 / 1000)
    torch.nn.init.constant_(head.classifier.weight, 1 / 1500)
    head.norm.eval()
    torch.manual_seed(0)
    seen = []
    head.embedding.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    head.classifier.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    head(torch.ones(1, 2000))
    for dropped in seen:
        assert (dropped == 0).float().mean().item() == pytest.approx(0.5, abs=0.05)
    assert head.eval()(torch.ones(1, 2000))[0, 0].item() == pytest.approx(4, rel=1e-3)


def test_losses_are_those_of_the_recipe(build, clips):
    model, pids = build(dropout=0.0), torch.tensor([0, 0, 1, 1])
    outputs = model(clips)
    losses = model.losses(outputs, pids, Recipe(triplet_weight=0.0))
    expected = torch.nn.functional.cross_entropy(outputs.logits, pids)
    assert torch.equal(losses['cross_entropy'], expected) and losses['triplet'] == 0
    assert model.losses(outputs, pids, Recipe())['triplet'] > 0
    assert torch.equal(model.logits(outputs), outputs.logits)


def test_a_single_clip_is_refused_since_the_head_normalises_a_batch(build):
    from stmn_plugin.config import load_config
    from stmn_plugin.errors import InputError
    from stmn_plugin.models.facts import check_batch

    text = 'model.name eug data.type video data.height 32 data.width 16 video.seq_len 3'
    words = text.split()
    model = build()
    check_batch(load_config(opts=[*words, 'train.batch_size', '2']), model)
    with pytest.raises(InputError, match=r'train\.batch_size 1: the batch norms of eug take two'):
        check_batch(load_config(opts=[*words, 'train.batch_size', '1']), model)


def test_two_processes_train_like_one(monkeypatch):
    from test_distributed_training import CLASSES, CLIPS, L, assert_like_one_process, narrow_resnet

    monkeypatch.setattr(torchvision.models, 'get_model', narrow_resnet)
    torch.manual_seed(3)
    config = EUGConfig(embedding_dim=6, dropout=0.0)
    model = EUG(CLASSES, L, config, pretrained=False).double()
    pids = torch.arange(CLASSES).repeat_interleave(CLIPS // CLASSES)
    clips = torch.randn(3, CLIPS, L, 3, 8, 6, dtype=torch.float64) + pids.view(-1, 1, 1, 1, 1) / 4
    batches = [{'img': batch, 'pid': pids} for batch in clips]
    assert_like_one_process(3, model, batches, 'sgd', sync_bn=True)
