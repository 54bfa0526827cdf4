"""TCLNet against loops and against the numbers known of it."""

import numpy as np
import pytest
import references.tclnet as slow_tclnet
import torch
import torch.nn.functional as F
import torchvision
from references.stmn import every_8th, relative_error
from test_every_model import narrow_resnet, scattered
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from stmn_plugin.config import load_config
from stmn_plugin.config.kwargs import plan_kwargs
from stmn_plugin.data.frame_samplers import FRAME_SAMPLERS, ClipPlan
from stmn_plugin.errors import InputError
from stmn_plugin.losses.identification import cosine_triplet_loss
from stmn_plugin.losses.recipe import Recipe
from stmn_plugin.models.saliency import (
    SaliencyBoosting,
    SaliencyErasing,
    boost_weights,
    box_mean,
    erased_rows,
    kept_weights,
)
from stmn_plugin.models.systems.tclnet import TCLNet, TCLNetConfig

CLASSES = 3
MODES = pytest.mark.parametrize('training', [True, False], ids=['train', 'eval'])


@pytest.fixture
def narrow(monkeypatch):
    """Networks of few channels, two blocks a stage; conv4 gives an eighth of a frame."""
    monkeypatch.setattr(torchvision.models, 'get_model', narrow_resnet)

    def build(fresh=False, **settings):
        torch.manual_seed(0)
        model = TCLNet(CLASSES, 4, TCLNetConfig(**settings), pretrained=False).double()
        return model.eval() if fresh else drawn(model).eval()

    return build


def drawn(module):
    """Every batch norm away from its start, shifts too."""
    for norm in scattered(module).modules():
        if isinstance(norm, nn.BatchNorm1d):
            nn.init.normal_(norm.bias, std=0.3)
    return module


def normal(*shape, seed=2):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def clips_of(batch, length, height=32, width=16, seed=2):
    return normal(batch, length, 3, height, width, seed=seed)


def assert_same_gradients(ours, wanted, inputs, seed=5):
    assert relative_error(ours, wanted) <= 1e-9
    weights = normal(*ours.shape, seed=seed)
    gradients = torch.autograd.grad((ours * weights).sum(), inputs, allow_unused=True)
    slow = torch.autograd.grad((wanted * weights).sum(), inputs, allow_unused=True)
    size = max(gradient.abs().max() for gradient in slow if gradient is not None)
    for gradient, expected in zip(gradients, slow, strict=True):
        assert (gradient is None) == (expected is None)
        if gradient is not None:
            assert (gradient - expected).abs().max() <= 1e-9 * size


def assert_same(one, other):
    assert (one - other).abs().max() <= 1e-10 * other.abs().max()


# --- boosting ---


def test_box_mean_by_hand():
    maps = torch.tensor([[1.0, 2], [3, 4]]).view(1, 1, 2, 2)
    assert box_mean(maps).flatten().tolist() == [0.25, 0.75, 1, 2.5]


def identity_boosting(dim):
    boosting = SaliencyBoosting(dim).double().eval()
    boosting.norm.eps = 0.0
    nn.init.eye_(boosting.linear.weight), nn.init.ones_(boosting.norm.weight)
    return boosting


def test_boosting_by_hand():
    frames = torch.tensor([[1.0, 0], [1, 0], [0, 1]], dtype=torch.float64).view(1, 3, 2, 1, 1)
    added = (identity_boosting(2)(frames) - frames).flatten(2)[0]
    wanted = [0.9933071, 0.0066929, 0.9933071, 0.0066929, 1, 0]
    assert added.flatten().tolist() == pytest.approx(wanted, abs=1e-7)
    pair = normal(1, 2, 2, 1, 1)
    assert_same(identity_boosting(2)(pair) - pair, pair.flip(1))


@MODES
def test_boosting_and_its_gradients_equal_loops(training):
    torch.manual_seed(1)
    boosting = drawn(SaliencyBoosting(3).double()).train(training)
    maps = normal(2, 3, 3, 3, 2).requires_grad_()
    wanted = slow_tclnet.boosted(boosting, maps)
    assert_same_gradients(boosting(maps), wanted, [maps, *boosting.parameters()])


def test_weights_of_other_frames():
    maps = normal(2, 3, 4, 2, 2)
    weights = boost_weights(maps)  # (2, 3, 3, 4)
    torch.testing.assert_close(weights.sum(dim=(2, 3)), torch.ones(2, 3, dtype=torch.float64))
    for t in range(3):
        assert weights[:, t, t].abs().max() == 0 and weights[:, t].amin(dim=2).sum() > 0
    slow = slow_tclnet.boost_weights(list(maps[0]))
    for (s, i, j), weight in slow[1].items():
        assert weights[0, 1, s, 2 * i + j].item() == pytest.approx(weight.item(), rel=1e-10)
    scaled = maps.clone()
    scaled[:, 2] *= 3.0
    torch.testing.assert_close(boost_weights(scaled), weights, rtol=1e-10, atol=1e-10)
    boosting = identity_boosting(4)
    assert not torch.allclose(boosting(scaled)[:, :2], boosting(maps)[:, :2])
    order = [2, 0, 1]
    assert_same(boosting(maps[:, order]), boosting(maps)[:, order])


# --- erasing ---


@pytest.mark.parametrize(
    ('rows', 'erased'),
    [
        ({4: 1.0, 5: 3.0, 6: 1.0}, [4, 5, 6]),
        ({13: -1.0, 14: 1.0, 15: 5.0}, [14, 15]),
        ({i: 1.0 for i in range(16)}, [0, 1, 2]),
        ({i: -1.0 for i in range(16)}, [0, 1]),
        ({2: 1.0, 10: 1.0}, [0, 1, 2]),  # the topmost of equals: middle 1
    ],
)
def test_erased_rows_by_hand(rows, erased):
    means = [rows.get(i, 0.0) for i in range(16)]
    correlation = torch.tensor(means).view(1, 16, 1).expand(1, 16, 8)
    assert erased_rows(correlation)[0].nonzero().flatten().tolist() == erased
    assert slow_tclnet.erased_rows(means) == erased


def test_weights_are_over_what_is_kept():
    erased = torch.tensor([[False, True, True, True, False], [True, True, False, False, False]])
    even = kept_weights(torch.full((2, 5, 3), 0.7), erased)
    torch.testing.assert_close(even[0, 0], torch.full((3,), 1 / 6))
    torch.testing.assert_close(even[1, 3], torch.full((3,), 1 / 9))
    weights = kept_weights(normal(2, 5, 3), erased)
    assert weights[erased].abs().max() == 0 and weights[~erased].min() > 0
    torch.testing.assert_close(weights.sum(dim=(1, 2)), torch.ones(2, dtype=torch.float64))


def erasing_of(training=False):
    torch.manual_seed(1)
    return drawn(SaliencyErasing(3, 4).double()).train(training)


@MODES
def test_erasing_and_its_gradients_equal_loops(training):
    erasing = erasing_of(training)
    first, second = normal(3, 3, 5, 2).requires_grad_(), normal(3, 3, 5, 2, seed=3).requires_grad_()
    found = normal(3, 4, 5, 2, seed=4).requires_grad_()
    inputs = [first, second, found, *erasing.parameters()]
    wanted = slow_tclnet.for_learner_1(erasing, list(first))
    assert_same_gradients(erasing.first(first), wanted, inputs)
    wanted, rows = slow_tclnet.for_learner_2(erasing, list(second), list(found))
    ours = erasing.second(second, found)
    assert [x.nonzero().flatten().tolist() for x in ours.rows] == rows
    assert_same_gradients(ours.maps, wanted, inputs)


def test_erased_positions_hold_the_enhancement_alone():
    erasing = erasing_of()
    second, found = normal(2, 3, 6, 2), normal(2, 4, 6, 2, seed=3)
    ours = erasing.second(second, found)
    weights = kept_weights(ours.correlation, ours.rows)
    kept = (weights.unsqueeze(1) * second).sum(dim=(2, 3))
    added = erasing.norm(erasing.linear(kept))
    for n in range(2):
        for row in range(6):
            wanted = added[n, :, None] + (0 if ours.rows[n, row] else second[n, :, row])
            torch.testing.assert_close(ours.maps[n, :, row], wanted.expand(3, 2))


# --- the network ---


@torch.no_grad()
def test_the_start(narrow):
    model = narrow(fresh=True)
    maps = normal(2, 4, 8, 4, 2)
    assert torch.equal(model.boosting(maps), maps)
    first, second = normal(3, 16, 8, 4), normal(3, 16, 8, 4, seed=3)
    assert torch.equal(model.erasing.first(first), first)
    erased = model.erasing.second(second, normal(3, 32, 8, 4))
    changed = (erased.maps != second).any(dim=3).any(dim=1)  # (3, 8)
    assert torch.equal(changed, erased.rows)
    assert all(count in (2, 3) for count in changed.sum(dim=1).tolist())
    assert erased.maps.masked_select(erased.rows[:, None, :, None]).abs().max() == 0


@MODES
def test_the_network_and_its_gradients_equal_loops(narrow, training):
    model = narrow().train(training)
    clips = clips_of(2, 4, 32, 8).requires_grad_()
    if training:  # statistics stay as they are for the second pass
        ours = model(clips)
        features = torch.stack([ours.feature_1, ours.feature_2])
    else:
        features = model(clips).unflatten(1, (2, -1)).transpose(0, 1)
    wanted = torch.stack(slow_tclnet.features(model, clips))
    inputs = [clips] + [p for n, p in model.named_parameters() if not n.startswith('classifier')]
    assert_same_gradients(features, wanted, inputs)


def test_size_and_cost():
    with torch.device('meta'):
        model = TCLNet(625, 4, TCLNetConfig(), pretrained=False).eval()
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            assert model(torch.empty(1, 4, 3, 256, 128)).shape == (1, 4096)
        output = model.train()(torch.empty(2, 4, 3, 256, 128))
    assert [tuple(x.shape) for x in output] == [(2, 2048)] * 2 + [(2, 625)] * 2
    assert counter.get_total_flops() / 2e9 == pytest.approx(16.23, abs=0.05)

    def size(*modules):
        return sum(p.numel() for module in modules for p in module.parameters())

    encoder, erasing = model.encoder, model.erasing
    assert size(model) - size(model.classifiers) == 31_391_296
    assert size(model.classifiers) == 2 * 1_280_625 and size(model.norms) == 8_192
    assert size(model.boosting) == 263_680 and size(erasing.project) == 2_097_152
    assert size(erasing.linear, erasing.norm) == 1_051_648
    assert size(encoder.conv5) == 10_502_144
    assert [size(learner) for learner in model.learners] == [4_462_592] * 2
    assert size(encoder.conv3, model.boosting) == 1_483_264 and size(encoder.conv4) == 7_098_368


def test_learners_start_from_one_block(narrow):
    one, other = narrow(fresh=True).learners
    for (name, weight), (_, copied) in zip(
        one.state_dict().items(), other.state_dict().items(), strict=True
    ):
        assert torch.equal(weight, copied) and weight.data_ptr() != copied.data_ptr(), name


def test_statistics_of_learners_are_those_of_the_encoder_or_fresh(monkeypatch):
    def pretrained(name):
        resnet = narrow_resnet(name)
        for module in resnet.layer4.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.fill_(0.25), module.running_var.fill_(2.0)
        return resnet

    monkeypatch.setattr(torchvision.models, 'get_model', pretrained)
    for restart, mean, var in ((False, 0.25, 2.0), (True, 0.0, 1.0)):
        model = TCLNet(CLASSES, 4, TCLNetConfig(restart_statistics=restart), pretrained=False)
        for learner in model.learners:
            assert (learner.bn2.running_mean == mean).all()
            assert (learner.bn2.running_var == var).all()
        assert (model.encoder.conv5[0].bn2.running_var == 2.0).all()


def test_what_has_a_gradient(narrow):
    model, clips = narrow(fresh=True).train(), clips_of(4, 4)
    boosting, erasing = model.boosting, model.erasing
    model(clips).feature_2.square().sum().backward()
    assert all(p.grad is None for p in model.learners[0].parameters())
    for weight in (boosting.linear.weight, erasing.linear.weight, erasing.project.weight):
        assert weight.grad is None or weight.grad.abs().max() == 0
    output = model(clips)
    pids = torch.tensor([0, 0, 1, 1])
    model.zero_grad()
    sum(model.losses(output, pids, Recipe()).values()).backward()
    for weight in (boosting.linear.weight, erasing.linear.weight, erasing.project.weight):
        assert weight.grad.abs().max() == 0
    for norm in (boosting.norm, erasing.norm):
        assert norm.weight.grad.abs().min() > 0

    # x0 and learner 1 stay out of the second learner's way once E speaks, too
    erasing = erasing_of()
    found = normal(2, 4, 5, 2).requires_grad_()
    second = normal(2, 3, 5, 2, seed=3).requires_grad_()
    erasing.second(second, found).maps.square().sum().backward()
    assert found.grad is None and second.grad.abs().max() > 0
    assert erasing.project.weight.grad.abs().max() > 0


@torch.no_grad()
def test_which_orders_of_frames_are_the_same(narrow):
    model, clips = narrow(), clips_of(2, 4)
    feature = model(clips)
    assert feature.shape == (2, 64)
    assert_same(model(clips[:, [2, 3, 0, 1]]), feature)
    assert (model(clips[:, [1, 0, 2, 3]]) - feature).abs().max() > 1e-3
    still = clips[:, :1]
    features = [model(still.expand(-1, n, -1, -1, -1)) for n in (2, 4, 6, 1)]
    for other in features[1:]:
        assert_same(other, features[0])
    assert_same(model(still[:, 0]), features[0])


@torch.no_grad()
def test_all_pairs_count_and_an_odd_frame_is_a_pair(narrow):
    model, clips = narrow(), clips_of(2, 6)
    feature = model(clips)
    for frame in (4, 5):
        changed = clips.clone()
        changed[:, frame] += 1
        assert (model(changed) - feature).abs().max() > 1e-3
    assert torch.equal(model(clips[:, :5]), model(clips[:, [0, 1, 2, 3, 4, 4]]))
    four = clips[:, :4]
    twice = torch.cat([four, four], dim=1)
    assert (model(twice) - model(four)).abs().max() > 1e-6
    nn.init.zeros_(model.boosting.norm.weight), nn.init.zeros_(model.boosting.norm.bias)
    assert_same(model(twice), model(four))


@torch.no_grad()
def test_a_clip_alone_and_a_tracklet(narrow):
    model, clips = narrow(), clips_of(3, 4)
    features = model(clips)
    assert_same(model(clips[1:2]), features[1:2])
    finished = model.finish(features)
    ones = torch.ones(3, dtype=torch.float64)
    torch.testing.assert_close(finished.norm(dim=1), 2**0.5 * ones)
    torch.testing.assert_close(finished[:, 32:].norm(dim=1), ones)
    torch.testing.assert_close(finished[:, :32], F.normalize(features[:, :32], dim=1))


def test_losses(narrow):
    features = torch.tensor([[1.0, 0], [0.6, 0.8], [0, 1], [-1, 0]], dtype=torch.float64)
    pids = torch.tensor([0, 0, 1, 1])
    assert cosine_triplet_loss(features, pids, 0.4).item() == pytest.approx(0.45, abs=1e-12)
    assert cosine_triplet_loss(3 * features, pids, 0.4).item() == pytest.approx(0.45, abs=1e-12)
    with pytest.raises(ValueError, match='two identities'):
        cosine_triplet_loss(features, torch.zeros(4), 0.4)
    with pytest.raises(ValueError, match='expected features'):
        cosine_triplet_loss(features, pids[:3], 0.4)

    recipe = Recipe(triplet_weight=0.5)
    model = narrow().train()
    output = model(clips_of(4, 4))
    losses = model.losses(output, pids, recipe)
    assert set(losses) == {'cross_entropy_1', 'cross_entropy_2', 'triplet_1', 'triplet_2'}
    for n, feature in enumerate(output[:2]):
        logits = F.linear(feature, model.classifiers[n].weight, model.classifiers[n].bias)
        wanted = F.cross_entropy(logits, pids)
        torch.testing.assert_close(losses[f'cross_entropy_{n + 1}'], wanted)
        torch.testing.assert_close(losses[f'triplet_{n + 1}'], recipe.triplet(feature, pids))
    torch.testing.assert_close(model.logits(output), (output.logits_1 + output.logits_2) / 2)
    model = narrow(triplet='cosine', cosine_margin=0.3).train()
    for weight in (0.5, 0.0):
        losses = model.losses(output, pids, Recipe(triplet_weight=weight))
        for n, feature in enumerate(output[:2]):
            wanted = weight * cosine_triplet_loss(feature, pids, 0.3)
            torch.testing.assert_close(losses[f'triplet_{n + 1}'], wanted)


def test_the_start_of_the_weights():
    torch.manual_seed(0)
    model = TCLNet(200, 4, TCLNetConfig(backbone='resnet18'), pretrained=False)
    boosting, erasing = model.boosting, model.erasing
    for linear in (boosting.linear, erasing.linear, erasing.project):  # 128, 256, 512 → 256
        expected = (2 / linear.out_features) ** 0.5
        assert linear.weight.std().item() == pytest.approx(expected, rel=0.03)
    for norm in (boosting.norm, erasing.norm):
        assert not norm.weight.any()
    for norm, classifier in zip(model.norms, model.classifiers, strict=True):
        assert norm.weight.mean().item() == pytest.approx(1, abs=0.005)
        assert norm.weight.std().item() == pytest.approx(0.02, rel=0.15)
        assert classifier.weight.std().item() == pytest.approx(0.001, rel=0.03)
    layers = (boosting.linear, erasing.linear, boosting.norm, erasing.norm)
    for layer in (*layers, *model.norms, *model.classifiers):
        assert not layer.bias.any()
    config = TCLNetConfig()
    assert (config.triplet, config.cosine_margin, config.restart_statistics) == (
        'recipe', 0.4, False,
    )  # fmt: skip


def test_as_published_frames_of_a_training_clip_are_8_apart():
    """Those of a test are adjacent: the last clip goes round its own."""
    cfg = load_config('as_published/tclnet_mars')
    sample = FRAME_SAMPLERS[cfg.video.sample_method]
    clips = [sample(40, cfg.video.seq_len, np.random.default_rng(s)).tolist() for s in range(20)]
    assert all(one in every_8th(40, 4) for one in clips) and len(set(map(tuple, clips))) > 5
    plan = ClipPlan(**plan_kwargs(cfg))
    assert [plan.clip(6, index).tolist() for index in range(plan.count(6))] == [
        [0, 1, 2, 3],
        [4, 5, 4, 5],
    ]


def test_half_precision_is_of_the_encoder_alone(narrow):
    model = narrow().float().train()
    seen = []
    of_boosting = [model.boosting.linear, model.boosting.norm]
    of_erasing = [model.erasing.project, model.erasing.linear, model.erasing.norm]
    for layer in (*of_boosting, *of_erasing, *model.norms, *model.classifiers):
        layer.register_forward_hook(lambda _, given, out: seen.extend([given[0].dtype, out.dtype]))
    with torch.autocast('cpu', torch.bfloat16):
        model(clips_of(2, 4).float())
    assert set(seen) == {torch.float32} and len(seen) == 2 * (2 + 5 + 4)


@torch.no_grad()
def test_low_frames_are_refused(narrow):
    with pytest.raises(InputError, match=r'data.height 24: tclnet erases three rows .* have 3;'):
        narrow()(clips_of(1, 2, 24))
    assert narrow()(clips_of(1, 2, 25)).isfinite().all()  # 4 rows


def test_what_was_erased(narrow):
    model, clips = narrow(), clips_of(2, 5)
    explained = model.explain(clips)
    erased, found = explained['erased'], explained['found_before']
    assert erased.shape == found.shape == explained['frame_norms'].shape == (2, 5, 4, 2)
    assert erased[:, ::2].abs().max() == 0 and found[:, ::2].abs().max() == 0
    rows = [slow_tclnet.erased_rows(f.mean(dim=1).tolist()) for f in found[:, 1::2].flatten(0, 1)]
    ours = erased[:, 1::2].flatten(0, 1)[..., 0]
    assert [x.nonzero().flatten().tolist() for x in ours] == rows
    assert torch.equal(erased[..., 0], erased[..., 1])
    torch.testing.assert_close(explained['clip_feature'], model(clips))
    learned = model.learn(clips[:, [0, 1, 2, 3, 4, 4]])
    norms = [maps.square().sum(dim=1).sqrt() for maps in learned[:2]]  # pairs of clip 0, of clip 1
    ours = explained['frame_norms']
    torch.testing.assert_close(ours[:, ::2].flatten(0, 1), norms[0])
    torch.testing.assert_close(ours[1, 1::2], norms[1][3:5])
    torch.testing.assert_close(found[0, 1], learned.erased.correlation[0])


@pytest.mark.slow
@torch.no_grad()
def test_an_exported_program_takes_any_number_of_clips(narrow):
    model = narrow()
    clips = {0: torch.export.Dim('clips')}
    program = torch.export.export(
        model, (clips_of(2, 4),), dynamic_shapes=(clips,), strict=False
    ).module()
    assert_same(program(clips_of(3, 4)), model(clips_of(3, 4)))
