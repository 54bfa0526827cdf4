"""QAN: weights and mean against loops, sizes, what a quality changes and what it does not."""

import math

import numpy as np
import pytest
import references.qan as references
import torch
from torch.utils.flop_counter import FlopCounterMode

from stmn_plugin.config import load_config
from stmn_plugin.losses import Recipe
from stmn_plugin.models.explanations import check_explained
from stmn_plugin.models.systems.qan import (
    QAN,
    QANConfig,
    QualityUnit,
    quality_weights,
    weighted_mean,
)

LN3 = math.log(3)
CLASSES, L = 5, 4
PIDS = torch.tensor([0, 0, 3, 4])


def tensor(*rows):
    return torch.tensor(rows, dtype=torch.float64)


def drawn(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def network(**config):
    torch.manual_seed(0)
    return QAN(CLASSES, L, QANConfig(backbone='resnet18', **config), pretrained=False)


def clips(count=4, length=L):
    return drawn(count, length, 3, 64, 32, seed=1).float()


def total(model, outputs, pids=PIDS):
    return sum(model.losses(outputs, pids, Recipe()).values())


# --- the pooling alone ---


def test_weights_are_sigmoids_over_their_sum():
    frames = tensor([[1, 0], [0, 1]])
    for scores, expected in [
        ([0, LN3], [0.4, 0.6]),
        ([LN3, 2 * LN3], [0.75 / 1.65, 0.9 / 1.65]),  # a constant more: other weights
    ]:
        weights = quality_weights(tensor(scores))
        torch.testing.assert_close(weights, tensor(expected), rtol=0, atol=1e-15)
        torch.testing.assert_close(weighted_mean(frames, weights), weights, rtol=0, atol=1e-15)
    softmax = quality_weights(tensor([0, LN3]), 'softmax')
    torch.testing.assert_close(softmax, tensor([0.25, 0.75]), rtol=0, atol=1e-15)


@pytest.mark.parametrize('score', [-1000.0, -40.0, 0.0, 3.0, 1000.0])
def test_equal_scores_are_the_plain_mean(score):
    frames = drawn(2, 5, 3)
    weights = quality_weights(torch.full((2, 5), score, dtype=torch.float64))
    torch.testing.assert_close(weighted_mean(frames, weights), frames.mean(dim=1))


def test_one_good_frame_is_the_clip_and_a_single_frame_always():
    frames = drawn(1, 3, 4)
    clip = weighted_mean(frames, quality_weights(tensor([40, -40, -40])))
    torch.testing.assert_close(clip, frames[:, 0], rtol=0, atol=1e-15)
    for score in (-500.0, 0.3, 500.0):
        weights = quality_weights(tensor([score]))
        assert weights.item() == 1 and torch.equal(weighted_mean(frames[:, :1], weights), clip)


def test_gradients_of_scores_and_frames():
    scores = tensor([0, LN3]).requires_grad_()
    frames = tensor([[1, 0], [0, 1]]).requires_grad_()
    upstream = tensor([1, 0])
    weights = quality_weights(scores)
    (weighted_mean(frames, weights) * upstream).sum().backward()
    torch.testing.assert_close(scores.grad, tensor([0.12, -0.06]), rtol=0, atol=1e-12)
    expected = weights.detach().unsqueeze(2) * upstream.unsqueeze(1)
    torch.testing.assert_close(frames.grad, expected, rtol=0, atol=1e-12)
    assert torch.autograd.gradcheck(
        lambda z, f: weighted_mean(f, quality_weights(z)), (scores, frames), atol=1e-6
    )


@pytest.mark.parametrize('kind', ['l1', 'softmax'])
def test_the_pooling_equals_loops_forward_and_backward(kind):
    upstream, found = drawn(3, 5), []
    for of in ('ours', 'loops'):
        scores, frames = drawn(3, 4, seed=1), drawn(3, 4, 5, seed=2)
        scores.requires_grad_(), frames.requires_grad_()
        if of == 'ours':
            weights = quality_weights(scores, kind)
            feature = weighted_mean(frames, weights)
        else:
            rows = references.pooled(scores, frames, kind == 'softmax')
            weights, feature = (torch.stack([torch.stack(row) for row in one]) for one in rows)
        (feature * upstream).sum().backward()
        found.append((weights, feature, scores.grad, frames.grad))
    torch.testing.assert_close(*found, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize('training', [True, False])
def test_the_quality_unit_equals_loops_forward_and_backward(training):
    unit = QualityUnit(3, 4).double().train(training)
    for parameter in unit.parameters():
        torch.nn.init.normal_(parameter)
    unit.bn.running_mean.copy_(drawn(4)), unit.bn.running_var.copy_(drawn(4).exp())
    maps = drawn(2, 3, 5, 4).requires_grad_()
    leaves = [maps, *unit.parameters()]
    statistics = None if training else (unit.bn.running_mean, unit.bn.running_var)
    expected = torch.stack(
        references.quality(
            maps, unit.conv.weight, *unit.bn.parameters(), statistics, unit.linear.weight[0],
            unit.linear.bias[0],
        )
    )  # fmt: skip
    scores = unit(maps)
    torch.testing.assert_close(scores, expected, rtol=1e-9, atol=1e-12)
    upstream = drawn(2)
    gradients = [torch.autograd.grad((one * upstream).sum(), leaves) for one in (scores, expected)]
    torch.testing.assert_close(*gradients, rtol=1e-9, atol=1e-11)


@torch.no_grad()
def test_more_quality_layers_equal_loops():
    """Each is a convolution, its norm and ReLU; the first alone has stride 2."""
    unit = QualityUnit(3, 4, layers=3).double().eval()
    assert QualityUnit(3, 4).state_dict().keys() < unit.state_dict().keys()
    for parameter in unit.parameters():
        torch.nn.init.normal_(parameter)
    maps = drawn(2, 3, 5, 4)
    before, stride = maps, 2
    for conv, norm in ((unit.conv, unit.bn), unit.more[:2], unit.more[3:5]):
        padded = torch.nn.functional.pad(before, (1, 1, 1, 1))
        rows, columns = (math.ceil(size / stride) for size in before.shape[2:])
        after = torch.zeros(2, 4, rows, columns, dtype=torch.float64)
        for t, c, i, j in np.ndindex(*after.shape):
            y, x = stride * i, stride * j
            window = padded[t, :, y : y + 3, x : x + 3]
            normal = (conv.weight[c] * window).sum() / (1 + norm.eps) ** 0.5
            after[t, c, i, j] = max(normal * norm.weight[c] + norm.bias[c], 0)
        before, stride = after, 1
    expected = before.mean(dim=(2, 3)) @ unit.linear.weight[0] + unit.linear.bias
    torch.testing.assert_close(unit(maps), expected, rtol=1e-9, atol=1e-12)


# --- the network ---


@pytest.mark.parametrize(
    ('quality_map', 'parameters', 'gflops'),
    [('conv4', 2_360_065, 49.55), ('conv3', 1_180_417, 48.64 + 1.81)],
)
def test_size_and_cost_with_a_resnet50(quality_map, parameters, gflops):
    with torch.device('meta'):
        model = QAN(625, 6, QANConfig(quality_map=quality_map), pretrained=False)
        outputs = model(torch.empty(2, 6, 3, 256, 128))
        model.eval()
        with FlopCounterMode(display=False) as counter:
            features = model(torch.empty(1, 6, 3, 256, 128))
    size = {
        name: sum(one.numel() for one in getattr(model, name).parameters())
        for name in ('encoder', 'quality')
    }
    assert size == {'encoder': 23_508_032, 'quality': parameters}
    assert counter.get_total_flops() / 1e9 == pytest.approx(gflops, abs=0.01)
    assert features.shape == (1, 2048) == (1, model.feature_dim)
    assert [tuple(one.shape) for one in outputs] == [(2, 2048), (2, 625), (2, 6, 625)]


def test_features_in_eval_mode_are_the_weighted_mean_of_frames():
    model = network().eval()
    images = clips()
    with torch.no_grad():
        vectors = model.encode_frames(images.flatten(0, 1)).unflatten(0, images.shape[:2])
        assert vectors.shape == (4, L, 512 + 1)
        middle = model.encoder.trunk(images.flatten(0, 1))
        frames = model.encoder(images.flatten(0, 1)).frame_features.mean(dim=(2, 3))
        torch.testing.assert_close(vectors[..., :-1].flatten(0, 1), frames)
        torch.testing.assert_close(vectors[..., -1].flatten(), model.quality(middle))
        rows = references.pooled(vectors[..., -1].double(), vectors[..., :-1].double())
        feature = torch.tensor(rows[1])
        expected = feature / math.sqrt(1 + model.bnneck_clip.eps)  # running statistics at the start
        torch.testing.assert_close(model.embed(vectors).double(), expected, rtol=1e-5, atol=1e-6)
        assert torch.equal(model(images), model.embed(vectors))
        assert model(images[:, :2]).shape == (4, 512)
        still = images[:, :1].expand(-1, L, -1, -1, -1)
        torch.testing.assert_close(model(images[:, 0]), model(still))


def test_the_quality_is_read_from_the_stage_that_the_key_names():
    model = network(quality_map='conv3', quality_channels=7).eval()
    seen = []
    model.quality.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].shape))
    with torch.no_grad():
        model(clips(1, 1))
    assert seen == [(1, 128, 8, 4)]
    assert model.quality.conv.weight.shape == (7, 128, 3, 3)


def test_weights_are_as_the_key_says():
    scores = tensor([0, LN3])
    for kind in ('l1', 'softmax'):
        found = network(quality_weights=kind).weights(scores)
        assert torch.equal(found, quality_weights(scores, kind))


@pytest.mark.slow
def test_clips_do_not_meet_and_frames_have_no_order():
    model = network().double().eval()
    torch.nn.init.normal_(model.quality.linear.weight, std=3)
    images = clips(3).double()
    order, others = torch.tensor([2, 0, 3, 1]), torch.tensor([2, 0, 1])
    with torch.no_grad():
        features = model(images)
        weights = model.explain(images)['attention']
        assert weights.max() > 1.2 / L  # the qualities differ
        torch.testing.assert_close(model(images[:, order]), features, rtol=0, atol=1e-12)
        found = model.explain(images[:, order])['attention']
        torch.testing.assert_close(found, weights[:, order], rtol=0, atol=1e-12)
        torch.testing.assert_close(model(images[others]), features[others], rtol=0, atol=1e-12)
        changed = images.clone()
        changed[1] += 1
        found = model(changed)
        torch.testing.assert_close(found[0], features[0], rtol=0, atol=1e-12)
        assert (found[1] - features[1]).abs().max() > 1e-6


def test_training_starts_as_average_pooling():
    model = network().train()
    images, recipe = clips(), Recipe()
    outputs = model(images)
    with torch.no_grad():
        weights = model.explain(images)['attention']  # of the batch's statistics, as in training
        assert (weights - 1 / L).abs().max() < 0.02
        torch.nn.init.zeros_(model.quality.linear.weight)
        average = model.losses(model(images), PIDS, recipe)
    for name, loss in model.losses(outputs, PIDS, recipe).items():
        assert loss.item() == pytest.approx(average[name].item(), rel=0.03)


def test_losses_are_the_recipes_on_the_clip_and_cross_entropy_on_every_frame():
    model = network(clip_weight=0.25, frame_weight=0.5).train()
    outputs = model(clips())
    recipe = Recipe(cross_entropy_weight=2.0, triplet_weight=3.0)
    losses = model.losses(outputs, PIDS, recipe)
    frames = sum(
        -outputs.frame_logits[b, i].log_softmax(dim=0)[PIDS[b]] for b in range(4) for i in range(L)
    )
    assert losses['cross_entropy_frame'].item() == pytest.approx(frames.item() / (4 * L), rel=1e-5)
    of_clip = recipe.cross_entropy(outputs.logits, PIDS)
    assert torch.equal(losses['cross_entropy_clip'], 0.25 * of_clip)
    assert torch.equal(losses['triplet'], recipe.triplet(outputs.feature, PIDS))
    assert torch.equal(model.logits(outputs), outputs.logits) and len(losses) == 3


@pytest.mark.slow
def test_a_frame_is_classified_by_its_own_feature_whatever_its_weight():
    model = network().double().train()
    images = clips().double()
    outputs = model(images)
    frames = model.encoder(images.flatten(0, 1)).frame_features.mean(dim=(2, 3))
    logits = model.classifier_frame(model.bnneck_frame(frames)).unflatten(0, (4, L))
    torch.testing.assert_close(outputs.frame_logits, logits)
    torch.testing.assert_close(
        outputs.logits, model.classifier_clip(model.bnneck_clip(outputs.feature))
    )
    last = model.encoder.conv5[-1].conv2.weight
    of_frames = model.losses(outputs, PIDS, Recipe())['cross_entropy_frame']
    gradients = torch.autograd.grad(of_frames, [last, model.quality.conv.weight], allow_unused=True)
    assert gradients[0].abs().max() > 0 and gradients[1] is None
    scores = model.encode_frames(images.flatten(0, 1))[:, -1]
    (gradient,) = torch.autograd.grad(scores.square().sum(), model.encoder.conv4[-1].conv2.weight)
    assert gradient.abs().max() > 0  # qualities train the trunk that they share


@pytest.mark.slow
def test_a_frame_may_be_classified_by_an_embedding_of_it():
    model, plain = network(frame_embedding=6).double().train(), network().double().train()
    assert model.classifier_frame.weight.shape == (CLASSES, 6) and model.feature_dim == 512
    images = clips().double()
    outputs = model(images)
    frames = model.encoder(images.flatten(0, 1)).frame_features.mean(dim=(2, 3))
    embedded = frames @ model.classifier_embedding.weight.T
    mean, variance = embedded.mean(dim=0), embedded.var(dim=0, correction=0)
    normal = (embedded - mean) / (variance + 1e-5).sqrt() * model.bnneck_frame.weight
    logits = (normal @ model.classifier_frame.weight.T).unflatten(0, (4, L))
    torch.testing.assert_close(outputs.frame_logits, logits)
    heads = 'bnneck_frame', 'classifier_frame'
    own = {key: one for key, one in plain.state_dict().items() if not key.startswith(heads)}
    model.load_state_dict(own, strict=False)
    with torch.no_grad():  # no part of the feature
        torch.testing.assert_close(model.eval()(images), plain.eval()(images))
    total(model, model.train()(images)).backward()
    assert all(one.grad.any() for one in model.parameters())


def test_the_start_and_the_defaults():
    torch.manual_seed(0)
    unit = QualityUnit(16, 256)
    std = (2 / (9 * 256)) ** 0.5  # He, of the outputs
    assert unit.conv.weight.std().item() == pytest.approx(std, rel=0.02)
    assert unit.linear.weight.std().item() == pytest.approx(0.01, rel=0.15)
    assert unit.linear.bias.item() == 0
    config = QANConfig()
    assert (config.quality_map, config.quality_channels) == ('conv4', 256)
    assert (config.quality_layers, config.frame_embedding) == (1, 0)
    unit = QualityUnit(16, 256, layers=2)
    assert unit.more[0].weight.std().item() == pytest.approx(std, rel=0.02)
    assert (config.quality_weights, config.clip_weight, config.frame_weight) == ('l1', 1, 1)


def test_as_published_frames_alone_are_classified():
    assert load_config('as_published/qan_mars').qan.clip_weight == 0
    model = network(clip_weight=0.0).train()
    outputs = model(clips())
    losses = model.losses(outputs, PIDS, Recipe())
    assert losses['cross_entropy_clip'].item() == 0 < losses['cross_entropy_frame'].item()
    of_frames = sum(outputs.frame_logits[:, i] for i in range(L)) / L
    torch.testing.assert_close(model.logits(outputs), of_frames)  # those of the clip learn nothing
    sum(losses.values()).backward()
    assert not model.classifier_clip.weight.grad.any()  # a gradient nevertheless, as DDP expects
    assert model.quality.conv.weight.grad.any()


@pytest.mark.parametrize('quality_map', ['conv3', 'conv4'])
def test_every_parameter_moves_in_one_step(quality_map):
    model = network(quality_map=quality_map).train()
    before = {name: one.detach().clone() for name, one in model.named_parameters()}
    optimizer = torch.optim.Adam(model.parameters())
    total(model, model(clips())).backward()
    optimizer.step()
    still = [name for name, one in model.named_parameters() if torch.equal(one, before[name])]
    assert not still


def test_the_weights_are_in_full_precision_under_autocast():
    model = network().train()
    with torch.autocast('cpu', torch.bfloat16):
        outputs = model(clips())
    assert {one.dtype for one in outputs} == {torch.float32}


def test_explained_are_quality_and_weight_of_each_frame():
    model = network().eval()
    images = clips(2)
    explained = model.explain(images)
    check_explained(explained, 2, L)
    quality = explained['quality']
    torch.testing.assert_close(explained['attention'], quality / quality.sum(dim=1, keepdim=True))
    torch.testing.assert_close(explained['clip_feature'], model(images).detach())
