"""DRSA: its equations against loops, its numbers by hand, its size and cost, a toy."""

import math

import pytest
import references.csa as csa
import references.drsa as references
import references.stmn as common
import torch
import torch.nn.functional as F
import torchvision
from test_every_model import narrow_resnet
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from stmn_plugin.config import load_config
from stmn_plugin.errors import InputError
from stmn_plugin.losses.diversity import diversity_loss, diversity_penalty, overlaps
from stmn_plugin.losses.recipe import Recipe
from stmn_plugin.models.systems.drsa import (
    DRSA,
    SpatialAttention,
    TemporalAttention,
    gated_features,
    used_positions,
    weighted_parts,
)
from stmn_plugin.training.objective import ClipObjective

B, L, D, S, E, CLASSES = 2, 3, 5, 3, 4, 5
close = {'rtol': 1e-9, 'atol': 1e-9}


def random(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def scattered(module, seed=0):
    """A module in float64 with weights that leave nothing near zero."""
    module = module.double()
    for number, parameter in enumerate(module.parameters()):
        parameter.data = random(*parameter.shape, seed=seed + number)
    return module


@pytest.fixture
def tiny(monkeypatch):
    """Makes a narrow model in float64; frames of 64x32 give maps (32, 8, 4)."""
    monkeypatch.setattr(torchvision.models, 'get_model', narrow_resnet)

    def make(**settings):
        torch.manual_seed(0)
        sizes = {'models': S, 'hidden_size': 8, 'embedding': E, 'temporal_size': 6}
        return DRSA(CLASSES, L, DRSA.Config(**{**sizes, **settings}), pretrained=False).double()

    return make


def clips_of(count, seq_len=L):
    generator = torch.Generator().manual_seed(1)
    return torch.randn(count, seq_len, 3, 64, 32, generator=generator, dtype=torch.float64)


def layers_of(attention, number_of_models):
    """(W1, b1, w2, b2) of each model of an attention with layers of their own."""
    first, _, last = attention.layers
    hidden = first.weight.flatten(1).unflatten(0, (number_of_models, -1))
    biases = first.bias.unflatten(0, (number_of_models, -1))
    rows = last.weight.flatten(1)
    return list(zip(hidden, biases, rows, last.bias, strict=True))


# --- equations ---


def test_maps_parts_and_penalty_equal_the_loops_with_gradients():
    spatial = scattered(SpatialAttention(D, S, 4))
    project = scattered(nn.Linear(D, E), seed=9)
    maps = random(2, D, 3, 2, seed=5).requires_grad_()
    log_maps = spatial(maps)
    gated = gated_features(log_maps, maps.flatten(2))
    parts = F.normalize(project(gated), dim=2)
    probs, expected_parts, penalties = [], [], []
    for frame in maps:
        positions = frame.flatten(1).T  # (K, D)
        of_frame = [
            common.softmax(references.responses(positions, *layers))
            for layers in layers_of(spatial, S)
        ]
        probs.append(torch.stack([torch.stack(row) for row in of_frame]))
        expected_parts.append(
            torch.stack(
                [
                    references.part_of_frame(positions, row, project.weight, project.bias)
                    for row in of_frame
                ]
            )
        )
        penalties.append(references.penalty(probs[-1]))
    torch.testing.assert_close(log_maps.exp(), torch.stack(probs), **close)
    torch.testing.assert_close(parts, torch.stack(expected_parts), **close)
    ours = diversity_penalty(log_maps)
    torch.testing.assert_close(ours, torch.stack(penalties), **close)
    weights = random(2, S, E, seed=6)
    leaves = [maps, *spatial.parameters(), *project.parameters()]
    gradients = torch.autograd.grad((parts * weights).sum() + ours.sum(), leaves)
    total = (torch.stack(expected_parts) * weights).sum() + sum(penalties)
    for gradient, expected in zip(gradients, torch.autograd.grad(total, leaves), strict=True):
        torch.testing.assert_close(gradient, expected, **close)


def test_weights_of_frames_and_the_feature_equal_the_loops_with_gradients():
    temporal = scattered(TemporalAttention(S, E, 4))
    parts = random(B, L, S, E, seed=5).requires_grad_()
    weights = temporal(parts)
    feature = weighted_parts(weights, parts)
    layers = layers_of(temporal, S)
    expected = [references.clip_feature(clip, layers) for clip in parts]
    torch.testing.assert_close(weights, torch.stack([t for t, _ in expected]), **close)
    torch.testing.assert_close(feature, torch.stack([f for _, f in expected]), **close)
    factors = random(*feature.shape, seed=6)
    leaves = [parts, *temporal.parameters()]
    gradients = torch.autograd.grad((feature * factors).sum(), leaves)
    total = (torch.stack([f for _, f in expected]) * factors).sum()
    for gradient, wanted in zip(gradients, torch.autograd.grad(total, leaves), strict=True):
        torch.testing.assert_close(gradient, wanted, **close)


def test_the_network_puts_them_together(tiny):
    model = tiny()
    scattered(model.spatial), scattered(model.temporal, 3), scattered(model.project, 7)
    clips = clips_of(4)
    maps = model.encoder(clips.flatten(0, 1)).frame_features.detach()
    log_maps = model.spatial(maps)
    gated = gated_features(log_maps, maps.flatten(2))
    parts = F.normalize(model.project(gated), dim=2).unflatten(0, (4, L))
    weights = model.temporal(parts)
    feature = weighted_parts(weights, parts)
    outputs = model(clips)
    torch.testing.assert_close(outputs.feature, feature, **close)
    logits = model.bnneck(feature) @ model.classifier.weight.T
    torch.testing.assert_close(outputs.logits, logits, **close)
    penalties = diversity_penalty(log_maps).unflatten(0, (4, L))
    torch.testing.assert_close(outputs.penalties, penalties, **close)
    used = [[references.positions_used(one.tolist()) for one in row] for row in log_maps.exp()]
    used = torch.tensor(used, dtype=torch.float64).mean(dim=1).view(4, L)
    torch.testing.assert_close(outputs.positions, used, **close)
    assert not outputs.positions.requires_grad
    model.eval()
    clips = clips_of(2)
    with torch.no_grad():
        vectors = model.encode_frames(clips.flatten(0, 1))
        assert vectors.shape == (2 * L, S * E)
        log_maps = model.spatial(model.encoder(clips.flatten(0, 1)).frame_features)
        explained = model.explain(clips)
        weights = explained['part_attention']
        parts = vectors.view(2, L, S, E)
        expected = model.bnneck(weighted_parts(weights, parts))
        torch.testing.assert_close(model(clips), expected, **close)
    torch.testing.assert_close(weights, model.temporal(parts), **close)
    torch.testing.assert_close(explained['attention'], weights.mean(dim=2), **close)
    torch.testing.assert_close(explained['clip_feature'], expected, **close)
    torch.testing.assert_close(
        explained['part_maps'].flatten(3), log_maps.exp().unflatten(0, (2, L)), **close
    )
    assert explained['part_maps'].shape == (2, L, S, 8, 4)


def test_a_last_layer_has_length_one_and_is_tested(tiny):
    """As the sheet recalls the paper: concat, linear, length 1."""
    model = tiny(last_layer=7)
    scattered(model.last)
    clips = clips_of(4)

    def by_loops():
        parts = model.encode_frames(clips.flatten(0, 1)).view(4, L, S, E)
        features = []
        for row in weighted_parts(model.temporal(parts), parts):
            layer = zip(model.last.weight, model.last.bias, strict=True)
            out = torch.stack([common.dot(weight, row) + bias for weight, bias in layer])
            features.append(out / common.length(out))
        return torch.stack(features)

    outputs, expected = model.train()(clips), by_loops()
    assert outputs.feature.shape == (4, 7) == (4, model.feature_dim)
    torch.testing.assert_close(outputs.feature, expected, **close)
    found, wanted = (
        torch.autograd.grad((one * random(4, 7, seed=9)).sum(), list(model.last.parameters()))
        for one in (outputs.feature, expected)
    )
    torch.testing.assert_close(found, wanted, **close)
    model.eval()
    torch.testing.assert_close(model(clips), model.bnneck(by_loops()), **close)
    assert tiny().last is None and tiny().feature_dim == S * E


# --- penalty ---


def logs(*maps):
    """log a of maps given as lists; of probability 0 it is that of 1e-300."""
    return torch.tensor(maps, dtype=torch.float64).clamp(min=1e-300).log()


@pytest.mark.parametrize(
    ('maps', 'expected', 'share'),
    [
        ([[0.1, 0.2, 0.7]] * 6, 30, 1),
        (torch.eye(6).tolist(), 0, 0),
        ([[0.5, 0.5, 0, 0], [0, 0.5, 0.5, 0]], 0.5, 0.25),
        ([[0.3, 0.7]], 0, None),
    ],
    ids=['equal', 'disjoint', 'half', 'one'],
)
def test_penalties_by_hand(maps, expected, share):
    penalty = diversity_penalty(logs(*maps)).item()
    assert penalty == pytest.approx(expected, abs=1e-9)
    assert references.penalty(torch.tensor(maps).double()).item() == pytest.approx(
        expected, abs=1e-9
    )
    if share is not None:
        assert penalty / (len(maps) * (len(maps) - 1)) == pytest.approx(share, abs=1e-9)


def test_an_overlap_is_one_minus_the_squared_hellinger_distance():
    overlap = overlaps(logs([0.5, 0.5, 0, 0], [0, 0.5, 0.5, 0]))
    assert overlap[0, 1].item() == pytest.approx(0.5, abs=1e-12)
    assert math.sqrt(1 - overlap[0, 1].item()) == pytest.approx(0.7071, abs=1e-4)
    maps = random(4, 6).log_softmax(dim=1)
    overlap = overlaps(maps)
    for i in range(4):
        assert overlap[i, i].item() == pytest.approx(1, abs=1e-12)
        for j in range(4):
            distance = references.squared_hellinger(maps[i].exp(), maps[j].exp()).item()
            assert overlap[i, j].item() == pytest.approx(1 - distance, abs=1e-12)


def test_the_penalty_is_bounded_and_does_not_know_the_order_of_maps_or_positions():
    for seed, size in enumerate([0, 1, 5, 30]):
        log_maps = (size * random(7, S, 10, seed=seed)).log_softmax(dim=2)
        penalties = diversity_penalty(log_maps)
        shares = penalties / (S * (S - 1))
        assert (shares >= 0).all() and (shares <= 1 + 1e-12).all()
        expected = torch.stack([references.penalty(maps.exp()) for maps in log_maps])
        torch.testing.assert_close(penalties, expected, rtol=0, atol=1e-12)
        for other in (log_maps[:, [2, 0, 1]], log_maps[:, :, torch.randperm(10)]):
            torch.testing.assert_close(diversity_penalty(other), penalties, **close)


def test_the_kinds_of_penalty():
    penalties = diversity_penalty(logs(*[[0.5, 0.5]] * 6)).expand(2, 3)
    assert diversity_loss(penalties).item() == pytest.approx(30, abs=1e-9)
    per_frame = diversity_loss(penalties, 'frame_norm').item()
    assert per_frame == pytest.approx(math.sqrt(30.00001), abs=1e-9)
    assert per_frame == pytest.approx(5.47723, abs=1e-5)
    whole = diversity_loss(penalties, 'batch_norm').item()
    assert whole == pytest.approx(math.sqrt(180.00001), abs=1e-9)
    with pytest.raises(ValueError, match="'mean'"):
        diversity_loss(penalties, 'mean')


def test_gradients_of_sharp_and_of_equal_maps_are_finite_and_zero():
    sharp = torch.tensor([[200.0, 0, 0], [0, 200.0, 0]])
    equal = torch.tensor([[1.0, 0, 2], [1.0, 0, 2]])
    for logits in (sharp, sharp.double(), equal.double()):
        logits.requires_grad_()
        diversity_penalty(logits.log_softmax(dim=1)).backward()
        assert logits.grad.isfinite().all() and logits.grad.abs().max() < 1e-15


def test_models_that_start_equal_stay_equal_and_ours_do_not_start_so():
    torch.manual_seed(0)
    spatial = SpatialAttention(D, 2, 8).double()
    first, _, last = spatial.layers
    maps = random(3, D, 4, 2).relu()
    weights = last.weight.detach()
    assert not torch.equal(weights[0], weights[1])
    (gradient,) = torch.autograd.grad(diversity_penalty(spatial(maps)).sum(), [last.weight])
    assert gradient.abs().max() > 1e-6
    with torch.no_grad():
        first.weight[8:], last.weight[1] = first.weight[:8], last.weight[0]
    (gradient,) = torch.autograd.grad(diversity_penalty(spatial(maps)).sum(), [last.weight])
    assert gradient.abs().max() < 1e-12


def test_positions_that_a_map_uses():
    maps = torch.tensor([[1.0, 0, 0, 0], [0.5, 0.5, 0, 0], [0.25] * 4])
    used = used_positions(maps.clamp(min=1e-30).log())
    assert used.tolist() == pytest.approx([1, 2, 4], abs=1e-5)


# --- properties ---


def test_maps_sum_to_one_over_positions_and_weights_over_frames():
    log_maps = scattered(SpatialAttention(D, S, 4))(random(B * L, D, 4, 2))
    assert log_maps.shape == (B * L, S, 8)
    ones = torch.ones(B * L, S, dtype=torch.float64)
    torch.testing.assert_close(log_maps.exp().sum(dim=2), ones, **close)
    weights = scattered(TemporalAttention(S, E, 4))(random(B, L, S, E))
    torch.testing.assert_close(weights.sum(dim=1), torch.ones(B, S, dtype=torch.float64), **close)
    assert weights.std() > 0.01


def test_without_responses_everything_is_an_average(tiny):
    model = tiny()
    nn.init.zeros_(model.spatial.layers[2].weight)
    nn.init.zeros_(model.temporal.layers[2].weight)
    clips = clips_of(4)
    maps = model.encoder(clips.flatten(0, 1)).frame_features.detach()
    gated = gated_features(model.spatial(maps), maps.flatten(2))
    average = maps.mean(dim=(2, 3))
    torch.testing.assert_close(gated, average.unsqueeze(1).expand(-1, S, -1), **close)
    unit = F.normalize(model.project(average), dim=1).unflatten(0, (4, L)).mean(dim=1)
    torch.testing.assert_close(model(clips).feature, unit.repeat(1, S), **close)


def test_order_of_frames_changes_nothing():
    temporal = scattered(TemporalAttention(S, E, 4))
    parts = random(B, 5, S, E)
    order = torch.tensor([3, 0, 4, 1, 2])
    one, other = (weighted_parts(temporal(x), x) for x in (parts, parts[:, order]))
    torch.testing.assert_close(one, other, rtol=0, atol=1e-12)


def test_of_equal_frames_each_counts_alike_and_the_feature_is_their_parts():
    parts = random(B, 1, S, E).expand(-1, L, -1, -1)
    weights = scattered(TemporalAttention(S, E, 4))(parts)
    torch.testing.assert_close(weights, torch.full_like(weights, 1 / L), **close)
    torch.testing.assert_close(weighted_parts(weights, parts), parts[:, 0].flatten(1), **close)


def test_a_map_at_one_position_takes_its_features():
    maps = random(1, D, 4)
    log_maps = logs(*torch.eye(4).tolist()).unsqueeze(0)
    torch.testing.assert_close(gated_features(log_maps, maps), maps.mT, **close)


def permuted(attention, order):
    """An attention whose models are those of another in another order."""
    first, _, last = attention.layers
    for layer in (first, last):
        for name, tensor in layer.named_parameters():
            groups = tensor.data.unflatten(0, (S, -1))[order]
            getattr(layer, name).data = groups.flatten(0, 1)
    return attention


def test_order_of_models_is_order_of_blocks_and_places_do_not_count():
    order = [2, 0, 1]
    spatial, temporal = scattered(SpatialAttention(D, S, 4)), scattered(TemporalAttention(S, E, 4))
    project = scattered(nn.Linear(D, E))
    maps = random(B * L, D, 4, 2)

    def feature(maps):
        log_maps = spatial(maps)
        parts = F.normalize(project(gated_features(log_maps, maps.flatten(2))), dim=2)
        parts = parts.unflatten(0, (B, L))
        return weighted_parts(temporal(parts), parts), diversity_penalty(log_maps)

    before, penalties = feature(maps)
    places = maps.flatten(2)[:, :, torch.randperm(8)].unflatten(2, (4, 2))
    for one, other in zip(feature(places), (before, penalties), strict=True):
        torch.testing.assert_close(one, other, **close)
    permuted(spatial, order), permuted(temporal, order)
    after, _ = feature(maps)
    torch.testing.assert_close(after, before.unflatten(1, (S, E))[:, order].flatten(1), **close)


def test_parts_have_length_one_and_a_part_of_zeros_stays_zero(tiny):
    model = tiny().train()
    _, _, parts = model._frame_parts(clips_of(1)[0])
    torch.testing.assert_close(parts.norm(dim=2), torch.ones(L, S).double(), **close)
    feature = model(clips_of(4)).feature
    assert (feature.unflatten(1, (S, E)).norm(dim=2) <= 1 + 1e-12).all()
    assert (feature.norm(dim=1) <= math.sqrt(S) + 1e-12).all()
    with torch.no_grad():
        model.project.weight.zero_()
    assert not model(clips_of(4)).feature.any()


# --- losses ---


@pytest.mark.parametrize('kind', ['squared', 'frame_norm'])
def test_three_terms_are_trained_and_two_numbers_watched(kind, tiny):
    model = tiny(diversity_weight=0.5, diversity=kind).train()
    outputs = model(clips_of(4))
    pids = torch.tensor([0, 0, 3, 3])
    recipe = Recipe(cross_entropy_weight=0.7, triplet_weight=1.5)
    loss = ClipObjective(model, recipe)(outputs, pids)
    penalties = outputs.penalties
    diversity = penalties if kind == 'squared' else (penalties + 1e-5).sqrt()
    wanted = {
        'cross_entropy': 0.7 * common.cross_entropy(outputs.logits, pids),
        'triplet': 1.5 * common.batch_hard_triplet(outputs.feature, pids),
        'diversity': 0.5 * diversity.mean(),
    }
    wanted['loss'] = sum(wanted.values())
    wanted['overlap'] = penalties.mean() / (S * (S - 1))
    wanted['positions'] = outputs.positions.mean()
    assert loss.terms.keys() == {*wanted, 'acc'}
    for name, value in wanted.items():
        assert loss.terms[name].item() == pytest.approx(value.item(), abs=1e-9), name
    assert loss.total.item() == pytest.approx(wanted['loss'].item(), abs=1e-9)
    assert 0 <= loss.terms['overlap'] <= 1 <= loss.terms['positions'] <= 32


@pytest.mark.parametrize('last_layer', [0, 7])
def test_oim_is_on_the_feature_at_length_one(last_layer, tiny):
    model = tiny(oim=True, oim_weight=0.5, oim_scale=10.0, oim_momentum=0.2, last_layer=last_layer)
    table = F.normalize(random(CLASSES, model.feature_dim, seed=4), dim=1)
    model.train().classifier_oim.weight = table.clone()
    outputs, pids = model(clips_of(4)), torch.tensor([0, 0, 3, 3])
    terms = model.losses(outputs, pids, Recipe(cross_entropy_weight=0, triplet_weight=0))
    assert terms.keys() == {'cross_entropy', 'triplet', 'diversity', 'oim'}
    unit = torch.stack([row / common.length(row) for row in outputs.feature])
    expected = 0.5 * csa.oim(unit, pids, table, 10.0)
    torch.testing.assert_close(terms['oim'], expected, **close)
    moved = csa.moved_table(table, unit.detach(), pids, 0.2)
    torch.testing.assert_close(model.classifier_oim.weight, moved, **close)
    (gradient,) = torch.autograd.grad(terms['oim'], model.project.weight)
    assert gradient.abs().max() > 0
    assert tiny().classifier_oim is None


def test_as_published_oim_alone_tells_persons_apart():
    cfg = load_config('as_published/drsa_mars')
    assert (cfg.drsa.last_layer, cfg.drsa.oim) == (128, True)
    assert cfg.loss.triplet.weight_x == cfg.loss.triplet.weight_t == 0
    freeze = ['train.fixbase_epoch', '200', 'train.open_layers', '[spatial, last]']
    load_config('as_published/drsa_mars', freeze)  # needs no classifier that is trained
    with pytest.raises(InputError, match='weight_x are both 0: nothing to train'):
        load_config('as_published/drsa_mars', ['drsa.oim', 'False'])


def test_the_start_and_the_defaults():
    def close_to(layer, std):
        assert layer.weight.std().item() == pytest.approx(std, rel=0.1) and not layer.bias.any()

    torch.manual_seed(0)
    first, _, last = SpatialAttention(32, 4, 64).layers
    close_to(first, (2 / 256) ** 0.5)  # He, of the outputs
    close_to(last, 0.02)
    first, norm, _, last, _ = SpatialAttention(32, 20, 64, shared=True).layers
    assert first.weight.std().item() == pytest.approx((2 / 64) ** 0.5, rel=0.05)
    assert last.weight.std().item() == pytest.approx((2 / 20) ** 0.5, rel=0.05)
    assert (norm.weight == 1).all() and not norm.bias.any()
    first, _, last = TemporalAttention(4, 8, 64).layers
    close_to(last, 0.01)
    assert 0.9 * 8**-0.5 < first.weight.abs().max() <= 8**-0.5  # torch's default
    model = DRSA(CLASSES, L, DRSA.Config(backbone='resnet18', embedding=8), pretrained=False)
    close_to(model.project, 0.01)
    config = DRSA.Config()
    assert (config.models, config.hidden, config.hidden_size) == (6, 'own', 256)
    assert (config.embedding, config.temporal_size) == (128, 64)
    assert (config.diversity, config.diversity_weight) == ('squared', 1.0)
    assert (config.last_layer, config.oim) == (0, False)
    assert (config.oim_weight, config.oim_scale, config.oim_momentum) == (1.0, 30.0, 0.5)
    model = DRSA(CLASSES, L, DRSA.Config(backbone='resnet18', last_layer=64), pretrained=False)
    close_to(model.last, 0.01)


def test_half_precision_is_of_the_convolutions_alone(tiny):
    model = tiny().float().train()
    seen = []
    for layer in (model.project, model.temporal, model.classifier):
        layer.register_forward_hook(lambda _, given, out: seen.append(out.dtype))
    with torch.autocast('cpu', torch.bfloat16):
        outputs = model(clips_of(2).float())
    assert seen == 3 * [torch.float32]
    assert {one.dtype for one in outputs} == {torch.float32}


def test_maps_overlap_at_the_start():
    torch.manual_seed(0)
    maps = torch.randn(8, 2048, 16, 8)
    for name, features in {
        'sparse': maps.clamp(min=0) * (maps > 0.5),
        'dense': maps.abs() * 1.25,
    }.items():
        with torch.no_grad():
            share = diversity_penalty(SpatialAttention(2048, 6, 256)(features)).mean().item() / 30
        assert 0.8 <= share <= 1, (name, share)


@pytest.mark.slow
@pytest.mark.parametrize('weight', [0.0, 1.0])
def test_the_penalty_keeps_maps_apart(weight):
    """Persons of four parts in their places, a third of the frames without one of them."""
    torch.manual_seed(0)
    people, channels, places = 8, 32, (8, 4)
    looks = torch.randn(people, 4, channels)
    spatial = SpatialAttention(channels, 4, 16)
    project = nn.Linear(channels, 16)
    temporal = TemporalAttention(4, 16, 8)
    classifier = nn.Linear(64, people)
    modules = nn.ModuleList([spatial, project, temporal, classifier])
    optimizer = torch.optim.Adam(modules.parameters(), lr=3e-3)
    shares = []
    for _ in range(120):
        pids = torch.arange(people).repeat(2)
        maps = looks[pids].mT.repeat_interleave(8, dim=2).unflatten(2, places)  # (B, 32, 8, 4)
        maps = maps.unsqueeze(1).repeat(1, 4, 1, 1, 1)
        maps = (maps + 0.5 * torch.randn_like(maps)).relu().flatten(0, 1)
        maps[torch.rand(len(maps)) < 0.3, :, :2] = 0
        log_maps = spatial(maps)
        parts = F.normalize(project(gated_features(log_maps, maps.flatten(2))), dim=2)
        parts = parts.unflatten(0, (-1, 4))
        logits = classifier(weighted_parts(temporal(parts), parts))
        penalty = diversity_penalty(log_maps).mean()
        shares.append(penalty.item() / 12)
        optimizer.zero_grad()
        (F.cross_entropy(logits, pids) + weight * penalty).backward()
        optimizer.step()
    assert shares[0] > 0.8
    assert shares[-1] < 0.5 if weight else shares[-1] > 0.8


# --- size and cost ---


def sizes_of(model):
    sizes = {}
    for name, parameter in model.named_parameters():
        part = '.'.join(name.split('.')[:3]) if 'layers' in name else name.split('.')[0]
        sizes[part] = sizes.get(part, 0) + parameter.numel()
    return sizes


@pytest.mark.parametrize(
    ('models', 'first', 'last', 'hidden', 'response', 'whole'),
    [
        (6, 3_147_264, 1_542, 49_536, 390, 3_461_004),
        (3, 1_573_632, 771, 24_768, 195, 1_861_638),
    ],
)
def test_size_with_resnet50(models, first, last, hidden, response, whole):
    with torch.device('meta'):
        model = DRSA(625, 6, DRSA.Config(models=models), pretrained=False).eval()
        clips = torch.empty(2, 6, 3, 256, 128)
    sizes = sizes_of(model)
    own = {
        'spatial.layers.0': first,
        'spatial.layers.2': last,
        'project': 262_272,
        'temporal.layers.0': hidden,
        'temporal.layers.2': response,
    }
    assert {name: sizes[name] for name in own} == own and sum(own.values()) == whole
    assert sizes['encoder'] == 23_508_032
    assert sizes['encoder'] + whole == {6: 26_969_036, 3: 25_369_670}[models]
    assert sizes['bnneck'] == 128 * models and sizes['classifier'] == 625 * 128 * models
    maps, log_maps, _ = model._frame_parts(clips.flatten(0, 1))
    assert maps.shape == (12, 2048, 16, 8) and log_maps.shape == (12, models, 128)
    assert model(clips).shape == (2, 128 * models)


def test_cost_with_resnet50():
    with torch.device('meta'):
        model = DRSA(625, 6, DRSA.Config(), pretrained=False).eval()
        clips = torch.empty(1, 6, 3, 256, 128)
    with FlopCounterMode(display=False) as counter:
        model(clips)
    whole = counter.get_total_flops() / 1e9
    with FlopCounterMode(display=False) as counter:
        model.encoder(clips[0])
    assert whole == pytest.approx(53.51, abs=0.01)
    assert whole - counter.get_total_flops() / 1e9 == pytest.approx(4.873, abs=0.001)


@pytest.mark.parametrize(('models', 'size'), [(3, 393_670), (6, 393_868)])
def test_the_hidden_layer_of_the_released_code(models, size):
    with torch.device('meta'):
        spatial = SpatialAttention(2048, models, 64, shared=True)
        project = nn.Linear(2048, 128)
    assert sum(p.numel() for m in (spatial, project) for p in m.parameters()) == size


def test_a_shared_hidden_layer_trains(tiny):
    model = tiny(hidden='shared').train()
    assert len(model.spatial.layers) == 5
    outputs = model(clips_of(4))
    sum(model.losses(outputs, torch.tensor([0, 0, 1, 1]), Recipe()).values()).backward()
    assert all(p.grad.isfinite().all() for p in model.parameters())
