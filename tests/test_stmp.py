"""STMP: its unit and its module against loops, what they keep, sizes, cost and losses."""

import copy

import pytest
import references.stmp as references
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from stmn_plugin import load_model
from stmn_plugin.config import flatten, load_config
from stmn_plugin.config.shipped import config_names
from stmn_plugin.errors import InputError
from stmn_plugin.losses.recipe import Recipe
from stmn_plugin.models import ModelSpec, build_video_model
from stmn_plugin.models.explanations import check_explained
from stmn_plugin.models.systems.stmp import (
    STMP,
    HiddenClassifier,
    IntegrationModule,
    RefiningUnit,
    STMPOutput,
    part_vectors,
)

B, L, C, H, W = 2, 3, 3, 3, 2
CLASSES = 5


def scattered(module):
    """In float64, batch norms away from their start."""
    module.double()
    for part in module.modules():
        if isinstance(part, nn.modules.batchnorm._BatchNorm):
            for tensor in (part.weight, part.bias, part.running_var):
                tensor.data = 0.5 + torch.rand_like(tensor)
            part.running_mean.data = -torch.rand_like(part.running_mean)
    return module


def unit_of(seed=0, channels=C, size=(H, W), reduced=4, hidden=3):
    """Gates well away from 1/2."""
    torch.manual_seed(seed)
    unit = scattered(RefiningUnit(channels, size, reduced, hidden))
    for layer in (unit.spatial[0], unit.spatial[2], unit.channel):
        layer.weight.data *= 3
    return unit


def module_of(seed=0, channels=C, dim=2):
    torch.manual_seed(seed)
    return scattered(IntegrationModule(channels, dim))


def maps_of(seed=1, clips=B, seq_len=L, channels=C, size=(H, W)):
    """Not negative, as maps behind a ReLU are."""
    generator = torch.Generator().manual_seed(seed)
    shape = clips, seq_len, channels, *size
    return torch.rand(shape, generator=generator, dtype=torch.float64)


def integrate(module, maps):
    return module(maps.transpose(1, 2)).mean(dim=(2, 3, 4))


def model_of(size=(64, 32), **config):
    torch.manual_seed(0)
    config = STMP.Config(backbone='resnet18', **config)
    return STMP(CLASSES, L, config, pretrained=False, frame_size=size)


def clips_of(clips=B, seq_len=L, size=(64, 32), seed=2):
    return torch.randn(clips, seq_len, 3, *size, generator=torch.Generator().manual_seed(seed))


def close(one, other, tolerance=1e-9):
    torch.testing.assert_close(one, other, rtol=tolerance, atol=tolerance)


def assert_same_gradients(actual, expected, wanted):
    """Of a random sum of two results that are equal."""
    close(actual, expected)
    weights = torch.randn(actual.shape, generator=torch.Generator().manual_seed(3)).double()
    one, other = (torch.autograd.grad((weights * x).sum(), wanted) for x in (actual, expected))
    for a, b in zip(one, other, strict=True):
        close(a, b)
        assert b.abs().max() > 1e-6


# --- against loops ---


@pytest.mark.parametrize('training', [True, False])
def test_the_unit_equals_loops(training):
    unit, maps = unit_of().train(training), maps_of().requires_grad_()
    expected = references.refined(unit, maps, training)
    assert_same_gradients(unit(maps), expected, [maps, *unit.parameters()])


@pytest.mark.parametrize('training', [True, False])
def test_the_integration_equals_loops(training):
    module = module_of().train(training)
    maps = maps_of(seq_len=2, channels=2, size=(2, 2)).requires_grad_()
    module[0].weight.data = module[0].weight.data[:, :2]
    expected = references.integrated(module, maps, training)
    assert_same_gradients(integrate(module, maps), expected, [maps, *module.parameters()])


def test_parts_equal_loops():
    maps = maps_of().requires_grad_()
    assert_same_gradients(part_vectors(maps), references.part_vectors(maps), [maps])


@torch.no_grad()
def test_the_batch_norm_of_the_unit_counts_every_step():
    """Also the first, in which both differences are 0 and the gate changes nothing."""
    unit, maps = unit_of().train(), maps_of()
    mean, var = unit.norm.running_mean.clone(), unit.norm.running_var.clone()
    refined = unit(maps)
    for t in range(L):
        state, before = (refined[:, t - 1], maps[:, t - 1]) if t else (maps[:, 0], maps[:, 0])
        both = torch.cat([state - maps[:, t], maps[:, t] - before], dim=1)
        rows = torch.einsum('rc,bchw->rbhw', unit.reduce.weight[:, :, 0, 0], both).flatten(1)
        mean = 0.9 * mean + 0.1 * rows.mean(dim=1)
        var = 0.9 * var + 0.1 * rows.var(dim=1)
    close(unit.norm.running_mean, mean)
    close(unit.norm.running_var, var)
    assert unit.norm.num_batches_tracked == L


# --- what the unit keeps ---


def test_equal_frames_and_the_first_frame_stay_as_they_are():
    unit, maps = unit_of(), maps_of()
    for training in (True, False):
        unit.train(training)
        still = maps[:, :1].expand(-1, L, -1, -1, -1)
        assert torch.equal(unit(still), still)
        assert torch.equal(unit(maps)[:, 0], maps[:, 0])


def test_a_refined_value_lies_between_those_of_its_place_so_far():
    maps = maps_of(seq_len=5)
    refined = unit_of().eval()(maps)
    low, high = maps.cummin(dim=1).values, maps.cummax(dim=1).values
    assert (refined >= low - 1e-12).all() and (refined <= high + 1e-12).all()
    inside = (refined > low + 1e-6) & (refined < high - 1e-6)
    assert inside[:, 1:].float().mean() > 0.5


def test_a_frame_changes_nothing_before_it():
    unit, maps = unit_of().eval(), maps_of(seq_len=4)
    other = maps.clone()
    other[:, 2] = maps_of(seed=7)[:, 0]
    one, changed = unit(maps), unit(other)
    close(changed[:, :2], one[:, :2], 1e-12)
    assert (changed[:, 2:] - one[:, 2:]).abs().amax(dim=(2, 3, 4)).min() > 1e-6


def test_gates_of_zero_halve():
    maps = torch.tensor([1.0, 3, 7]).double().view(1, 3, 1, 1, 1)
    unit = unit_of(channels=1, size=(1, 1)).eval()
    for layer in (unit.spatial[2], unit.channel):
        nn.init.zeros_(layer.weight)
    close(unit(maps).flatten(), torch.tensor([1, 2, 4.5]).double())


@pytest.mark.parametrize('part', ['channel', 'spatial'])
def test_a_gate_of_zero_makes_the_other_one_nothing(part):
    unit = unit_of().eval()
    nn.init.zeros_(unit.channel.weight if part == 'channel' else unit.spatial[2].weight)
    for _, gate in unit.steps(maps_of()):
        assert (gate == 0.5).all()


def test_a_gate_is_of_a_position_times_a_channel():
    unit = unit_of().eval()
    _, (_, gate), _ = unit.steps(maps_of())
    scores = torch.logit(gate).flatten(2)  # (B, C, K)
    assert (scores.std(dim=1) > 1e-4).all() and (scores.std(dim=2) > 1e-4).all()
    assert (torch.linalg.svdvals(scores)[:, 1:] < 1e-9).all()  # an outer product


def test_the_order_of_frames_matters_to_the_unit():
    unit, module, maps = unit_of().eval(), module_of().eval(), maps_of()
    forth, back = unit(maps), unit(maps.flip(1))
    assert (forth - back.flip(1)).abs().max() > 1e-3
    assert (integrate(module, forth) - integrate(module, back)).abs().max() > 1e-4
    mirrored = copy.deepcopy(module)
    mirrored[3].weight.data = module[3].weight.data.flip(2)
    close(integrate(mirrored, maps.flip(1)), integrate(module, maps), 1e-12)
    assert (integrate(module, maps.flip(1)) - integrate(module, maps)).abs().max() > 1e-6


# --- size and cost ---


@pytest.mark.slow
def test_parameters_and_cost_of_a_resnet50():
    def count(module):
        return sum(p.numel() for p in module.parameters())

    with torch.device('meta'):
        model = STMP(625, 6, STMP.Config(), pretrained=False, frame_size=(256, 128)).eval()
        small = RefiningUnit(2048, (8, 8)), IntegrationModule(2048)
        costs = {}
        for seq_len in (6, 8):
            with FlopCounterMode(display=False) as counter:
                feature = model(torch.empty(1, seq_len, 3, 256, 128))
            assert feature.shape == (1, 256)
            with FlopCounterMode(display=False) as alone:
                model.integrate(model.rru(torch.empty(1, seq_len, 2048, 16, 8)))
            costs[seq_len] = counter.get_total_flops() / 1e9, alone.get_total_flops() / 1e9
        model.train()
        assert model(torch.empty(2, 6, 3, 256, 128)).parts.shape == (2, 2048, 16)
    rru = model.rru
    assert count(rru.reduce) + count(rru.norm) == 1_049_088
    assert count(rru.spatial) == 32_768 and count(rru.channel) == 524_288
    assert count(model.stim) == 2_294_784
    assert count(rru) + count(model.stim) == 3_900_928
    assert sum(map(count, small)) == 3_884_544
    assert count(model.classifier) == 453_233
    assert costs[6] == pytest.approx((53.78, 5.14), abs=0.01)
    assert costs[8][1] == pytest.approx(6.85, abs=0.01)


# --- the model ---


def test_the_triplet_by_hand():
    outputs = STMPOutput(
        feature=torch.tensor([[0.0], [1], [3], [5]]),
        logits=torch.zeros(4, 2),
        parts=torch.tensor([0.0, 1, 3, 5]).view(4, 1, 1).expand(-1, -1, 16),
    )
    pids = torch.tensor([0, 0, 1, 1])
    losses = model_of(part_weight=3).losses(outputs, pids, Recipe(triplet_margin=0.4))
    assert losses['triplet'].item() == pytest.approx(0.1)
    assert losses['triplet_parts'].item() == pytest.approx(0.3)
    assert losses['cross_entropy'].item() == pytest.approx(0.693147, abs=1e-6)


def test_the_losses_are_those_of_the_recipe_and_of_parts():
    model = model_of(dropout=0.0)
    out = model(clips_of(4))
    assert out.feature.shape == (4, 256) and out.logits.shape == (4, CLASSES)
    assert out.parts.shape == (4, 512, 4)
    pids = torch.tensor([0, 0, 1, 1])
    recipe = Recipe(triplet_weight=0.5)  # soft margin
    losses = model.losses(out, pids, recipe)
    assert losses.keys() == {'cross_entropy', 'triplet', 'triplet_parts'}
    close(losses['triplet'], recipe.triplet(out.feature, pids))
    rows = [references.triplet(out.parts[:, :, i], pids, 0.4) for i in range(4)]
    close(losses['triplet_parts'], 0.5 * sum(rows) / 4, 1e-5)
    nothing = model.losses(out, pids, Recipe(triplet_weight=0))
    assert nothing['triplet'] == nothing['triplet_parts'] == 0


@pytest.mark.slow
def test_the_model_is_its_parts_in_turn():
    model, clips = model_of().double().eval(), clips_of().double()
    maps = model.encoder(clips.flatten(0, 1)).frame_features.unflatten(0, (B, L))
    close(model(clips), integrate(model.stim, model.rru(maps)))
    assert model(clips[:, :1]).shape == model(clips_of(seq_len=7).double()).shape == (B, 256)


@pytest.mark.slow
def test_what_training_gives_is_of_the_refined_maps():
    model, clips = model_of(dropout=0.0).double().train(), clips_of().double()
    out = model(clips)
    maps = model.encoder(clips.flatten(0, 1)).frame_features.unflatten(0, (B, L))
    refined = model.rru(maps)
    close(out.feature, integrate(model.stim, refined))
    close(out.logits, model.classifier(out.feature))
    close(out.parts, references.part_vectors(refined))
    (gradient,) = torch.autograd.grad(out.parts.square().sum(), model.rru.channel.weight)
    assert gradient.abs().max() > 0  # the gates learn from the parts, too


def test_defaults_are_those_of_the_released_code():
    config = STMP.Config()
    assert (config.part_weight, config.part_margin, config.dropout) == (1.0, 0.4, 0.5)


def test_the_classifier_and_its_start():
    torch.manual_seed(0)
    head = HiddenClassifier(256, 2000, dropout=0.5)
    assert head.hidden.weight.std().item() == pytest.approx((2 / 512) ** 0.5, rel=0.02)
    assert head.classifier.weight.std().item() == pytest.approx(0.001, rel=0.02)
    assert head.norm.weight.mean().item() == pytest.approx(1, abs=0.01)
    assert head.norm.weight.std().item() == pytest.approx(0.02, rel=0.2)
    assert (head.hidden.bias == 0).all() and (head.classifier.bias == 0).all()
    features = torch.randn(6, 256)
    hidden = head.norm(head.hidden(features))
    torch.manual_seed(1)
    found = head(features)
    torch.manual_seed(1)
    kept = (torch.empty_like(hidden).bernoulli_(0.5) * 2) * torch.where(
        hidden > 0, hidden, 0.1 * hidden
    )
    close(found, kept @ head.classifier.weight.T, 1e-5)
    assert model_of(dropout=0.2).classifier.dropout.p == 0.2


def test_what_it_explains():
    model, clips = model_of().eval(), clips_of()
    explained = model.explain(clips)
    check_explained(explained, B, L)
    close(explained['clip_feature'], model(clips), 1e-5)
    with torch.no_grad():
        maps = model.encoder(clips.flatten(0, 1)).frame_features.unflatten(0, (B, L))
        refined, gates = model.rru(maps), [gate for _, gate in model.rru.steps(maps)]
    close(explained['update_gates'], torch.stack(gates, dim=1).mean(dim=2), 1e-5)
    for name, x in (('frame', maps), ('refined', refined), ('change', refined - maps)):
        close(explained[f'{name}_norms'], x.square().sum(dim=2).sqrt(), 1e-5)
        if name != 'change':
            close(explained[f'{name}_feature'], x.mean(dim=(1, 3, 4)), 1e-5)
    assert (explained['change_norms'][:, 0] == 0).all() and explained['change_norms'].max() > 0


@pytest.mark.parametrize('size', [(2 * H, 2 * W), (W, H), (H + 1, W)])
def test_the_unit_refuses_another_size(size):
    # a clip alone broadcast, and several of twice the size passed for more clips
    with pytest.raises(ValueError, match=rf'maps of shape \(B, L, C, {H}, {W}\), got \(1, 3, 3, '):
        unit_of()(maps_of(clips=1, size=size))


@pytest.mark.slow
def test_another_size_is_refused(tmp_path):
    model = model_of().eval()
    with pytest.raises(ValueError, match=r'frames of 64x32 pixels .* got 32x64'):
        model(clips_of(size=(32, 64)))
    words = 'model.name stmp data.type video data.height 64 data.width 32 stmn.backbone resnet18'
    config = flatten(load_config('', words.split()))
    path = tmp_path / 'model.pth.tar-1'
    torch.save({'state_dict': model.state_dict(), 'config': config, 'epoch': 1}, path)
    loaded = load_model(path)
    assert torch.equal(loaded(clips_of()), model(clips_of()))
    assert all(torch.equal(loaded.state_dict()[k], v) for k, v in model.state_dict().items())
    other = {**config, 'data.height': 128}
    torch.save({'state_dict': model.state_dict(), 'config': other, 'epoch': 1}, path)
    with pytest.raises(InputError, match=r'trained with data.height / 16 = 4, the config says 8'):
        load_model(path)


def test_half_precision_reaches_the_encoder_alone(monkeypatch):
    seen, gate = [], RefiningUnit.gate
    monkeypatch.setattr(RefiningUnit, 'gate', lambda self, x: seen.append(x.dtype) or gate(self, x))
    with torch.autocast('cpu', torch.bfloat16):
        feature = model_of().eval()(clips_of())
    assert seen == L * [torch.float32] and feature.dtype == torch.float32


@pytest.mark.parametrize('folder', ['equal_terms', 'as_published'])
def test_configs_build(folder):
    assert f'{folder}/stmp_mars' in config_names()
    cfg = load_config(f'{folder}/stmp_mars')
    with torch.device('meta'):
        model = build_video_model(ModelSpec.from_config(flatten(cfg)), 625, pretrained=False)
    assert isinstance(model, STMP) and model.seq_len == (8 if folder == 'as_published' else 6)
    if folder == 'as_published':
        assert set(cfg.train.new_layers) <= {name for name, _ in model.named_children()}
