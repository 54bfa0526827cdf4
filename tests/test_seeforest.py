"""SeeForest: attention and sweeps against loops and by hand, sizes, pairs of a batch."""

import math

import pytest
import references.seeforest as references
import torch
from torch.utils.flop_counter import FlopCounterMode

from stmn_plugin.losses import Recipe
from stmn_plugin.models.explanations import check_explained
from stmn_plugin.models.systems.seeforest import SeeForest, SeeForestConfig, TemporalAttentionModel
from stmn_plugin.models.systems.seeforest_pairs import (
    DIRECTIONS,
    PairClassifier,
    hardest_pairs,
    pair_loss,
    sweep,
)

CLASSES, L = 5, 4
PIDS = torch.tensor([0, 0, 3, 4])
SMALL = {
    'attention_channels': 6,
    'hidden_channels': 8,
    'reduced_channels': 5,
    'sweep_channels': 3,
}


def drawn(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def network(**config):
    torch.manual_seed(0)
    config = SeeForestConfig(backbone='resnet18', **{**SMALL, **config})
    return SeeForest(CLASSES, L, config, pretrained=False)


def clips(count=4, length=L):
    return drawn(count, length, 3, 48, 32, seed=1).float()


def attention(dim=5, channels=3, hidden=4):
    torch.manual_seed(0)
    module = TemporalAttentionModel(dim, channels, hidden).double()
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter)
    return module


# --- temporal attention ---


def test_attention_equals_loops_forward_and_backward():
    module, vectors = attention(), drawn(2, 3, 5).requires_grad_()
    leaves = [vectors, *module.parameters()]
    found = module(vectors, 4)
    cell = module.cell
    rows = [
        references.temporal_attention(
            one,
            module.of_frame.weight,
            module.of_state.weight,
            module.of_state.bias,
            module.energy.weight[0],
            (cell.weight_ih, cell.weight_hh, cell.bias_ih, cell.bias_hh),
            steps=4,
        )
        for one in vectors
    ]
    expected = [torch.stack([torch.stack(row[part]) for row in rows]) for part in (0, 1)]
    torch.testing.assert_close(list(found), expected, rtol=1e-9, atol=1e-12)
    upstream = drawn(2, 4, 4, seed=1), drawn(2, 4, 3, seed=2)
    gradients = [
        torch.autograd.grad(sum((a * b).sum() for a, b in zip(one, upstream, strict=True)), leaves)
        for one in (found, expected)
    ]
    torch.testing.assert_close(*gradients, rtol=1e-9, atol=1e-11)


def test_two_steps_by_hand():
    module = attention(1, 1, 1)
    for parameter in module.parameters():
        torch.nn.init.zeros_(parameter)
    with torch.no_grad():
        module.cell.weight_ih[2] = 1  # the candidate
    ones = torch.ones(1, 2, 1, dtype=torch.float64)
    states = module(ones, 2).states.flatten().tolist()
    assert states == pytest.approx([0.181700, 0.258118], abs=5e-7)
    assert sum(states) / 2 == pytest.approx(0.219909, abs=5e-7)
    c = math.tanh(1) / 2
    assert c == pytest.approx(0.380797, abs=5e-7) and states[0] == pytest.approx(math.tanh(c) / 2)


def test_attention_sums_to_one_and_follows_the_frames():
    module, vectors = attention(), drawn(2, 6, 5)
    found = module(vectors, 6)
    assert found.attention.shape == (2, 6, 6) and (found.attention >= 0).all()
    assert found.states.abs().max() < 1
    torch.testing.assert_close(found.attention.sum(dim=2), torch.ones(2, 6).double())
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    permuted = module(vectors[:, order], 6)
    torch.testing.assert_close(permuted.states, found.states, rtol=0, atol=1e-12)
    torch.testing.assert_close(permuted.attention, found.attention[..., order], rtol=0, atol=1e-12)
    assert found.attention.std() > 0.01  # or it would prove little


def test_attention_is_even_over_equal_frames_and_without_v():
    module, vectors = attention(), drawn(2, 6, 5)
    even = torch.full((2, 6, 6), 1 / 6, dtype=torch.float64)
    same = vectors[:, :1].expand(-1, 6, -1)
    torch.testing.assert_close(module(same, 6).attention, even)
    torch.nn.init.zeros_(module.energy.weight)
    found = module(vectors, 6)
    torch.testing.assert_close(found.attention, even)
    mean = vectors.mean(dim=1, keepdim=True)  # what every step reads
    torch.testing.assert_close(found.states, module(mean, 6).states)


def test_an_lstm_of_zeros_gives_nothing_and_one_frame_is_one_step():
    module, vectors = attention(), drawn(2, 1, 5)
    found = module(vectors, 1)
    assert (found.attention == 1).all()
    torch.testing.assert_close(found.states[:, 0], module.cell(vectors[:, 0])[0])
    for parameter in module.cell.parameters():
        torch.nn.init.zeros_(parameter)
    assert not module(drawn(2, 3, 5), 3).states.any()


def test_the_forget_gate_starts_open():
    module = TemporalAttentionModel(5, 3, 4)
    bias = module.cell.bias_ih + module.cell.bias_hh
    assert (bias[4:8] == 1).all() and (bias[:4] != 1).all() and (bias[8:] != 1).all()


# --- sweeps ---

ONE = torch.ones(1, 1, dtype=torch.float64)


@pytest.mark.parametrize('direction', DIRECTIONS)
@pytest.mark.parametrize('size', [(3, 4), (1, 3), (4, 1)])
def test_a_sweep_equals_its_definition_forward_and_backward(direction, size):
    inputs, recurrent = drawn(2, 3, *size), drawn(3, 3, seed=1)
    leaves = inputs.requires_grad_(), recurrent.requires_grad_()
    found = sweep(inputs, recurrent, direction)
    places = [references.sweep(one, recurrent, direction) for one in inputs]
    expected = torch.stack(
        [torch.stack([one[i, j] for i in range(size[0]) for j in range(size[1])], dim=1)
         for one in places]
    ).view(2, 3, *size)  # fmt: skip
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)
    upstream = drawn(2, 3, *size, seed=2)
    gradients = [
        torch.autograd.grad((one * upstream).sum(), leaves, allow_unused=True)
        for one in (found, expected)
    ]
    torch.testing.assert_close(gradients[0][0], gradients[1][0], rtol=1e-9, atol=1e-12)
    if gradients[1][1] is not None:  # no position has a predecessor
        torch.testing.assert_close(gradients[0][1], gradients[1][1], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    ('direction', 'reached'),
    [
        ('right', {(0, 0), (0, 1), (0, 2)}),
        ('left', {(0, 0)}),
        ('down', {(0, 0), (1, 0)}),
        ('up', {(0, 0)}),
        ('down-right', {(0, 0), (1, 1)}),
        ('up-left', {(0, 0)}),
    ],
)
def test_where_a_corner_is_seen(direction, reached):
    corner = torch.zeros(1, 1, 2, 3, dtype=torch.float64)
    corner[..., 0, 0] = 1
    expected = torch.zeros(2, 3, dtype=torch.float64)
    for place in reached:
        expected[place] = 1
    assert torch.equal(sweep(corner, ONE, direction)[0, 0], expected)


def test_a_constant_grows_along_the_sweep():
    ones = torch.ones(1, 1, 2, 3, dtype=torch.float64)
    for factor, row in ((1, [1, 2, 3]), (0.5, [1, 1.5, 1.75])):
        assert sweep(ones, factor * ONE, 'right')[0, 0].tolist() == [row, row]


def test_a_mirrored_map_swaps_right_and_left():
    inputs, recurrent = drawn(2, 3, 4, 5), drawn(3, 3, seed=1)
    mirrored = sweep(inputs.flip(3), recurrent, 'right')
    torch.testing.assert_close(mirrored.flip(3), sweep(inputs, recurrent, 'left'))


def test_what_comes_later_changes_nothing_before():
    inputs, recurrent = drawn(1, 3, 4, 5), drawn(3, 3, seed=1)
    changed = inputs.clone()
    changed[..., 2, 3] += 5
    before, after = (sweep(one, recurrent, 'right') for one in (inputs, changed))
    differs = (before != after).any(dim=1)[0]
    assert differs[2, 3:].all() and differs.sum() == 2


# --- pairs ---


def pair_classifier(directions=DIRECTIONS):
    torch.manual_seed(0)
    module = PairClassifier(6, 4, 2, directions).double()
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter)
    return module


@pytest.mark.parametrize('directions', [DIRECTIONS, ('up', 'right')])
def test_logits_of_pairs_equal_loops_forward_and_backward(directions):
    module, maps = pair_classifier(directions), drawn(3, 6, 3, 2).requires_grad_()
    first, second = torch.tensor([0, 1, 2, 0]), torch.tensor([1, 2, 0, 0])
    weights = dict(module.named_parameters())
    described = module.describe(maps)
    expected = references.convolved(
        maps,
        weights['reduce.weight'][:, :, 0, 0],
        weights['reduce_bn.weight'],
        weights['reduce_bn.bias'],
    )
    torch.testing.assert_close(described, expected, rtol=1e-9, atol=1e-12)
    logits = module(described[first], described[second])
    expected = references.pair_logits(expected[first], expected[second], weights, directions)
    torch.testing.assert_close(logits, expected, rtol=1e-9, atol=1e-11)
    upstream, leaves = drawn(4, 2, seed=1), [maps, *weights.values()]
    gradients = [torch.autograd.grad((one * upstream).sum(), leaves) for one in (logits, expected)]
    torch.testing.assert_close(*gradients, rtol=1e-8, atol=1e-9)


def test_a_pair_has_no_order_and_a_clip_with_itself_is_any():
    module, maps = pair_classifier().eval(), drawn(3, 4, 3, 2).relu()
    others = maps.roll(1, dims=0)
    assert torch.equal(module(maps, others), module(others, maps))
    itself = module(maps, maps)
    assert torch.equal(itself, itself[:1].expand(3, -1))


def test_hardest_pairs_of_a_batch():
    features = torch.tensor([[0.0], [1.0], [5.0], [3.5], [7.0], [20.0]])
    positives, negatives = hardest_pairs(features, torch.tensor([0, 0, 0, 1, 1, 2]))
    assert positives.others.tolist() == [2, 2, 0, 4, 3, 5]
    assert positives.exist.tolist() == [True] * 5 + [False]
    assert negatives.others.tolist() == [3, 3, 3, 2, 2, 4] and negatives.exist.all()
    _, negatives = hardest_pairs(features, torch.zeros(6))
    assert not negatives.exist.any()


@pytest.mark.parametrize('pids', [[0, 0, 1, 1, 2], [0, 1, 2, 3, 4], [0, 0, 0, 0, 0], [0]])
def test_the_loss_of_pairs_equals_loops(pids):
    module = pair_classifier().eval()  # each pair by itself
    count = len(pids)
    maps, features = drawn(count, 4, 3, 2).relu().requires_grad_(), drawn(count, 8, seed=1)
    features.requires_grad_()

    def logits_of(*pair):
        return module(*(maps[i : i + 1] for i in pair))[0]

    found = pair_loss(module, features, maps, torch.tensor(pids))
    expected = references.pair_loss(features, pids, logits_of)
    if count == 1:
        assert found.item() == expected == 0
        return
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=0)
    gradients = [torch.autograd.grad(one, maps, retain_graph=True)[0] for one in (found, expected)]
    torch.testing.assert_close(*gradients, rtol=1e-9, atol=1e-12)
    assert torch.autograd.grad(found, features, allow_unused=True)[0] is None


def test_the_start_of_the_classifier_of_pairs():
    torch.manual_seed(0)
    module = PairClassifier(8, 16, 32)
    assert module.inputs.weight.std().item() == pytest.approx(0.01, rel=0.05)
    assert not module.inputs.bias.any()
    assert torch.equal(module.recurrent, torch.eye(32).mul(0.5).expand(6, -1, -1))


def test_pairs_of_a_batch_share_the_statistics_of_their_norm():
    module = pair_classifier().train()
    pids = torch.tensor([0, 0, 1, 1])
    maps, features = drawn(4, 4, 3, 2).relu(), drawn(4, 8, seed=1)
    found = pair_loss(module, features, maps, pids)
    nearest = torch.cdist(features, features)
    others = [1, 0, 3, 2]
    others += [min((j for j in range(4) if pids[j] != pids[i]), key=lambda j: nearest[i, j])
               for i in range(4)]  # fmt: skip
    logits = module(maps[[*range(4), *range(4)]], maps[others])
    same = torch.tensor([1] * 4 + [0] * 4)
    torch.testing.assert_close(found, torch.nn.functional.cross_entropy(logits, same))
    assert module.fuse_bn.num_batches_tracked == 2  # one call each


# --- the network ---


def test_the_defaults():
    config = SeeForestConfig()
    assert (config.attention_channels, config.hidden_channels) == (256, 512)
    assert (config.attention_steps, config.clip_feature) == ('frames', 'mean')
    assert (config.reduced_channels, config.sweep_channels, config.pair_weight) == (256, 128, 1)
    assert set(config.directions) == {'right', 'left', 'down', 'up', 'down-right', 'up-left'}


@pytest.mark.slow
def test_size_and_cost_with_a_resnet50():
    with torch.device('meta'):
        model = SeeForest(625, 6, SeeForestConfig(), pretrained=False)
        outputs = model(torch.empty(2, 6, 3, 256, 128))
        model.eval()
        with FlopCounterMode(display=False) as test:
            features = model(torch.empty(1, 6, 3, 256, 128))
        with FlopCounterMode(display=False) as attention:
            model.embed(torch.empty(1, 6, 2048))
        pairs = model.classifier_pairs
        with FlopCounterMode(display=False) as describing:
            maps = pairs.describe(torch.empty(1, 2048, 16, 8))
        with FlopCounterMode(display=False) as comparing:
            logits = pairs(maps, maps)
    size = {
        name: sum(one.numel() for one in part.parameters()) for name, part in model.named_children()
    }
    assert size['encoder'] == 23_508_032 and size['attention'] == 5_902_848
    assert size['encoder'] + size['attention'] == 29_410_880
    assert size['classifier_pairs'] == 919_298
    lstm = sum(one.numel() for one in model.attention.cell.parameters())
    assert lstm == 5_246_976
    counters = test, attention, describing, comparing
    gflops = [counter.get_total_flops() / 1e9 for counter in counters]
    assert gflops == pytest.approx([48.71, 0.071, 0.134, 0.101], rel=0.03)
    assert gflops[0] == pytest.approx(48.71, abs=0.01)
    assert features.shape == (1, 512) == (1, model.feature_dim) and logits.shape == (1, 2)
    assert [tuple(one.shape) for one in outputs] == [(2, 512), (2, 625), (2, 256, 16, 8)]


@pytest.mark.slow
def test_features_in_eval_mode_are_those_of_the_frames_vectors():
    model, images = network().double().eval(), clips(2).double()
    order = torch.tensor([2, 0, 3, 1])
    with torch.no_grad():
        vectors = model.encode_frames(images.flatten(0, 1)).unflatten(0, images.shape[:2])
        frames = model.encoder(images.flatten(0, 1)).frame_features.mean(dim=(2, 3))
        torch.testing.assert_close(vectors.flatten(0, 1), frames)
        expected = model.attention(vectors, L).states.mean(dim=1)
        expected = expected / math.sqrt(1 + model.bnneck.eps)  # running statistics at the start
        features = model(images)
        torch.testing.assert_close(features, expected, rtol=0, atol=1e-12)
        assert torch.equal(model.embed(vectors), features)
        torch.testing.assert_close(model(images[:, order]), features, rtol=0, atol=1e-12)
        assert model(images[:, :2]).shape == (2, 8)
        still = images[:, :1].expand(-1, L, -1, -1, -1)
        torch.testing.assert_close(model(images[:, 0]), model(still), rtol=0, atol=1e-12)


@pytest.mark.slow
def test_maps_of_pairs_are_weighted_by_the_attention():
    model, images = network().double().train(), clips(2).double()
    torch.nn.init.normal_(model.attention.energy.weight, std=5)
    maps = model.encoder(images.flatten(0, 1)).frame_features.unflatten(0, images.shape[:2])
    attended = model.attention(maps.mean(dim=(3, 4)), L)
    weights = attended.attention.mean(dim=1)  # (B, L)
    assert weights.std() > 0.01
    of_clips = sum(weights[:, i, None, None, None] * maps[:, i] for i in range(L))
    outputs = model(images)
    torch.testing.assert_close(outputs.maps, model.classifier_pairs.describe(of_clips))
    torch.testing.assert_close(outputs.feature, attended.states.mean(dim=1))
    logits = model.classifier(model.bnneck(outputs.feature))
    torch.testing.assert_close(outputs.logits, logits)
    outputs.maps.sum().backward()
    assert model.attention.energy.weight.grad.abs().max() > 0  # pairs train the attention


def test_keys_choose_steps_and_state():
    vectors = drawn(2, 3, 512)
    for steps, kind in (('frames', 'mean'), (2, 'mean'), (5, 'last')):
        model = network(attention_steps=steps, clip_feature=kind).double()
        attended = model.attend(vectors)
        count = 3 if steps == 'frames' else steps
        assert attended.states.shape == (2, count, 8) and attended.attention.shape == (2, count, 3)
        expected = {'mean': sum(attended.states[:, i] for i in range(count)) / count,
                    'last': attended.states[:, count - 1]}  # fmt: skip
        torch.testing.assert_close(model.feature_of(attended), expected[kind])
    model = network(directions=['up', 'left'])
    assert model.classifier_pairs.recurrent.shape == (2, 3, 3)


def test_losses_are_the_recipes_on_the_clip_and_cross_entropy_of_pairs():
    model = network(pair_weight=0.5).train()
    outputs = model(clips())
    model.eval()  # statistics of BN stay
    recipe = Recipe(cross_entropy_weight=2.0, triplet_weight=3.0)
    losses = model.losses(outputs, PIDS, recipe)
    assert torch.equal(losses['cross_entropy'], recipe.cross_entropy(outputs.logits, PIDS))
    assert torch.equal(losses['triplet'], recipe.triplet(outputs.feature, PIDS))
    pairs = pair_loss(model.classifier_pairs, outputs.feature, outputs.maps, PIDS)
    assert torch.equal(losses['cross_entropy_pairs'], 0.5 * pairs)
    assert torch.equal(model.logits(outputs), outputs.logits) and len(losses) == 3


def test_every_parameter_moves_in_one_step():
    model = network().train()
    before = {name: one.detach().clone() for name, one in model.named_parameters()}
    optimizer = torch.optim.Adam(model.parameters())
    sum(model.losses(model(clips()), PIDS, Recipe()).values()).backward()
    optimizer.step()
    still = [name for name, one in model.named_parameters() if torch.equal(one, before[name])]
    assert not still


@torch.no_grad()
def test_tests_do_not_run_the_classifier_of_pairs():
    model, images = network().eval(), clips(2)
    features = model(images)
    for parameter in model.classifier_pairs.parameters():
        parameter.fill_(torch.nan)
    assert torch.equal(model(images), features)
    assert all(one.isfinite().all() for one in model.explain(images).values())


def test_attention_is_in_full_precision_under_autocast():
    model = network().train()
    with torch.autocast('cpu', torch.bfloat16):
        outputs = model(clips())
    assert outputs.feature.dtype == outputs.logits.dtype == torch.float32


def test_explained_is_the_attention():
    model, images = network().eval(), clips(2)
    explained = model.explain(images)
    check_explained(explained, 2, L)
    torch.testing.assert_close(explained['step_attention'].mean(dim=1), explained['attention'])
    torch.testing.assert_close(explained['clip_feature'], model(images).detach())


# --- the nearest of a test, ordered anew by the sweeps ---


@pytest.mark.slow
def test_what_is_compared_in_a_test_is_what_was_compared_in_training():
    torch.manual_seed(0)
    model, images = network(srm_top=4, srm_weight=0.5).double(), clips(2).double()
    torch.nn.init.normal_(model.attention.energy.weight, std=5)
    torch.nn.init.normal_(model.classifier_pairs.score.weight)
    model.train()(images)  # statistics that are not those of the start
    plain = network().double()
    plain.load_state_dict(model.state_dict())
    assert (model.rescored, plain.rescored) == (4, 0)
    with torch.no_grad():
        model.eval(), plain.eval()
        vectors = model.encode_frames(images.flatten(0, 1)).unflatten(0, images.shape[:2])
        maps = model.encoder(images.flatten(0, 1)).frame_features.unflatten(0, images.shape[:2])
        height, width = maps.shape[3:]
        assert height != width and vectors.shape == (2, L, 512 + 5 * height * width + 1)
        torch.testing.assert_close(model(images), plain(images))
        torch.testing.assert_close(model(images[:, 0]), plain(images[:, 0]))  # of still clips
        weights = model.explain(images)['attention']
        assert weights.std() > 0.01
        of_clips = sum(weights[:, i, None, None, None] * maps[:, i] for i in range(L))
        described = model.classifier_pairs.describe(of_clips)  # as the forward in training has it
        compared = model.pair_features(vectors)
        torch.testing.assert_close(compared[:, :-1], described.flatten(1))
        found = model.rescore(compared, compared.flip(0))
        logits = plain.classifier_pairs(described, described.flip(0))
        probs = logits.softmax(dim=1)
        torch.testing.assert_close(found, -0.5 * (probs[:, 1] / probs[:, 0]).log())
        assert found.abs().max() > 1e-3
        # a mean over clips keeps the shape of the maps
        mean = compared.mean(dim=0, keepdim=True)
        alike = plain.classifier_pairs(described.mean(dim=0, keepdim=True), described[:1])
        torch.testing.assert_close(
            model.rescore(mean, compared[:1]), 0.5 * (alike[:, 0] - alike[:, 1])
        )
