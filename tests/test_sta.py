"""STA: its equations against loops, its numbers by hand, its size and cost."""

import math

import pytest
import references.sta as references
import references.stmn as common
import torch
from torch.utils.flop_counter import FlopCounterMode

from stmn_plugin.losses.recipe import Recipe
from stmn_plugin.models.systems.sta import (
    STA,
    STAOutput,
    bands,
    energy_maps,
    fuse,
    map_distance,
    part_features,
    part_scores,
    part_shares,
    random_pairs,
)

B, L, D, P, CLASSES = 2, 3, 3, 2, 5
KINDS = pytest.mark.parametrize('kind', ['energy', 'norm'])
close = {'rtol': 1e-9, 'atol': 1e-9}


def random_maps(*shape, seed=0):
    """Not negative, as after a ReLU, and in places zero."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64).clamp(min=-0.5) + 0.5


def pooled(maps, parts=P, kind='energy'):
    """Maps (B, L, D, H, W) → S (B, L, P), u (B, 2*D)."""
    scores = part_scores(part_shares(energy_maps(maps, kind), parts))
    return scores, fuse(part_features(maps, parts), scores)


def tiny(**settings):
    torch.manual_seed(0)
    config = STA.Config(backbone='resnet18', **{'embedding': 16, **settings})
    return STA(CLASSES, L, config, pretrained=False).double()


def clips_of(count, seq_len=L):
    generator = torch.Generator().manual_seed(1)
    return torch.randn(count, seq_len, 3, 64, 32, generator=generator, dtype=torch.float64)


# --- equations ---


@KINDS
def test_scores_and_fusion_equal_the_loops_with_gradients(kind):
    maps = random_maps(B, L, D, 4, 2)
    maps[0, 0, :, 1, 1] = 0  # nothing left by the ReLU at one position
    ours = maps.clone().requires_grad_()
    theirs = (maps + 1e-30 * (maps == 0)).requires_grad_()  # a root that can be differentiated
    scores, fused = pooled(ours, kind=kind)
    expected = [references.clip_feature(clip, P, kind) for clip in theirs]
    torch.testing.assert_close(scores, torch.stack([one for one, _ in expected]), **close)
    torch.testing.assert_close(fused, torch.stack([one for _, one in expected]), **close)
    weights = random_maps(B, 2 * D, seed=3)
    (gradient,) = torch.autograd.grad((fused * weights).sum(), [ours])
    wanted = sum((one * weight).sum() for (_, one), weight in zip(expected, weights, strict=True))
    (expected_gradient,) = torch.autograd.grad(wanted, [theirs])
    somewhere = maps.sum(dim=2, keepdim=True) > 0
    torch.testing.assert_close(gradient * somewhere, expected_gradient * somewhere, **close)
    assert gradient.isfinite().all()


@KINDS
def test_the_distance_of_maps_equals_the_loops_with_gradients(kind):
    one, other = (random_maps(D, 4, 2, seed=seed).requires_grad_() for seed in (1, 2))
    ours = map_distance(energy_maps(one, kind), energy_maps(other, kind))
    theirs = references.map_distance(*(references.spread_of_frame(x, kind) for x in (one, other)))
    assert ours.item() == pytest.approx(theirs.item(), abs=1e-9)
    pairs = zip(*(torch.autograd.grad(x, [one, other]) for x in (ours, theirs)), strict=True)
    for gradient, expected in pairs:
        torch.testing.assert_close(gradient, expected, **close)


@pytest.mark.parametrize('training', [True, False], ids=['train', 'eval'])
def test_a_clip_of_vectors_becomes_the_feature_of_the_loops(training):
    model = tiny(parts=P, embedding=5).train(training)
    model.reduce = torch.nn.Linear(2 * D, 5, bias=False).double()
    for tensor in (model.bn.weight, model.bn.bias, model.bn.running_mean):
        torch.nn.init.uniform_(tensor, 0.1, 2)
    maps = random_maps(4, L, D, 4, 2)
    vectors = model._vectors(maps.flatten(0, 1)).unflatten(0, (4, L))
    fused = torch.stack([references.clip_feature(clip, P)[1] for clip in maps])
    expected = references.head(fused, model.reduce.weight, model.bn, training)
    torch.testing.assert_close(model.embed(vectors), expected, **close)


# --- numbers by hand ---


@pytest.mark.parametrize(
    ('kind', 'first', 'summed', 'distance'),
    [
        ('energy', (1 / 4, 3 / 4), 1.375, 1 / math.sqrt(3)),
        ('norm', (0.366025404, 0.633974596), 1.316987298, 0.517638090),
    ],
)
def test_two_frames_of_four_positions(kind, first, summed, distance):
    maps = torch.ones(1, 2, 1, 4, 1, dtype=torch.float64)
    maps[0, 1, 0, 0, 0] = 3
    spread = energy_maps(maps, kind)
    if kind == 'energy':
        assert (12 * spread[0, 1]).flatten().tolist() == pytest.approx([9, 1, 1, 1], abs=1e-9)
    scores, fused = pooled(maps, parts=4, kind=kind)
    low, high = first
    assert scores[0].flatten().tolist() == pytest.approx(
        [low, *[high] * 3, high, *[low] * 3], abs=1e-9
    )
    assert scores[0].argmax(dim=0).tolist() == [1, 0, 0, 0]
    assert fused[0].tolist() == pytest.approx([1.5, summed], abs=1e-9)
    assert map_distance(*spread[0]).item() == pytest.approx(distance, abs=1e-9)


# --- properties ---


@KINDS
def test_maps_and_scores_sum_to_one_and_are_not_negative(kind):
    maps = random_maps(B, L, D, 8, 4)
    spread = energy_maps(maps, kind)
    power = 1 if kind == 'energy' else 2
    torch.testing.assert_close((spread**power).sum(dim=(2, 3)), torch.ones(B, L).double(), **close)
    scores, _ = pooled(maps, 4, kind)
    torch.testing.assert_close(scores.sum(dim=1), torch.ones(B, 4).double(), **close)
    assert spread.min() >= 0 and scores.min() >= 0


@pytest.mark.parametrize('seq_len', [1, 4])
def test_of_equal_frames_the_feature_is_their_average_twice(seq_len):
    frame = random_maps(B, 1, D, 8, 4)
    scores, fused = pooled(frame.expand(-1, seq_len, -1, -1, -1), 4)
    torch.testing.assert_close(scores, torch.full_like(scores, 1 / seq_len), **close)
    average = frame[:, 0].mean(dim=(2, 3))
    torch.testing.assert_close(fused, torch.cat([average, average], dim=1), **close)


def test_order_of_frames_mirrors_and_headstands_change_nothing():
    maps = random_maps(B, 5, D, 8, 4)
    scores, fused = pooled(maps, 4)
    order = torch.tensor([3, 0, 4, 1, 2])
    permuted, same = pooled(maps[:, order], 4)
    torch.testing.assert_close(permuted, scores[:, order], **close)
    torch.testing.assert_close(same, fused, **close)
    torch.testing.assert_close(pooled(maps.flip(4), 4)[1], fused, **close)
    headstand, same = pooled(maps.flip(3), 4)
    torch.testing.assert_close(headstand, scores.flip(2), **close)
    torch.testing.assert_close(same, fused, **close)


@KINDS
def test_a_dim_frame_weighs_as_much_as_a_bright_one(kind):
    maps = random_maps(B, L, D, 8, 4)
    dimmed = maps.clone()
    dimmed[:, 1] *= 0.2
    (scores, fused), (after, other) = (pooled(x, 4, kind) for x in (maps, dimmed))
    torch.testing.assert_close(after, scores, **close)
    assert (other - fused).abs().max() > 0.01


@KINDS
def test_a_black_frame_has_no_weight_and_a_black_clip_no_feature(kind):
    maps = random_maps(B, L, D, 4, 2)
    maps[0, 1] = 0
    maps[1] = 0
    maps.requires_grad_()
    scores, fused = pooled(maps, kind=kind)
    assert (scores[0, 1] == 0).all() and (scores[1] == 0).all() and (fused[1] == 0).all()
    torch.testing.assert_close(scores[0].sum(dim=0), torch.ones(P).double(), **close)
    distance = map_distance(*energy_maps(maps, kind)[:, :2].unbind(1))
    (gradient,) = torch.autograd.grad(fused.sum() + distance.sum(), [maps])
    assert gradient.isfinite().all()


def test_of_equal_scores_the_first_frame_is_the_best():
    features = torch.arange(3.0).view(1, 3, 1, 1) + 1
    assert fuse(features, torch.full((1, 3, 1), 1 / 3))[0].tolist() == pytest.approx([1, 2])


def test_rows_of_bands():
    assert [(band.start, band.stop) for band in bands(16, 4)] == [(0, 4), (4, 8), (8, 12), (12, 16)]
    # as an adaptive average does where parts do not divide the height
    for height in (1, 3, 6, 7):
        maps = random_maps(2, D, height, 3)
        expected = torch.nn.functional.adaptive_avg_pool2d(maps, (4, 1)).squeeze(3).mT
        torch.testing.assert_close(part_features(maps, 4), expected, **close)


def test_the_best_frame_alone_gets_the_gradient_of_the_first_half():
    maps = random_maps(1, 4, D, 8, 4).requires_grad_()
    scores, fused = pooled(maps, 4)
    (of_best,) = torch.autograd.grad(fused[0, :D].sum(), [maps], retain_graph=True)
    best = scores[0].argmax(dim=0).tolist()
    for frame in range(4):
        for part, rows in enumerate(bands(8, 4)):
            assert of_best[0, frame, :, rows].any() == (best[part] == frame)
    (of_sum,) = torch.autograd.grad(fused[0, D:].sum(), [maps])
    assert all(of_sum[0, frame].any() for frame in range(4))


@KINDS
def test_the_distance_of_maps_is_a_distance(kind):
    maps = random_maps(2, D, 8, 4).requires_grad_()
    one, other = energy_maps(maps, kind)
    assert map_distance(one, other) == map_distance(other, one) > 0.01
    # 1e-12 under the root
    assert map_distance(one, one).item() == pytest.approx(1e-6, rel=1e-6)
    (gradient,) = torch.autograd.grad(map_distance(one, one * 1.0), [maps])
    assert not gradient.any()
    points = torch.zeros(2, D, 8, 4, dtype=torch.float64)
    points[0, 0, 1, 1], points[1, 2, 5, 0] = 3, 0.1
    furthest = map_distance(*energy_maps(points, kind)).item()
    assert furthest == pytest.approx(math.sqrt(2), abs=1e-9)
    assert map_distance(one, other).item() < furthest


def test_pairs_are_two_frames_of_each_clip_and_all_come():
    spread = torch.arange(200 * 4).view(200, 4, 1, 1)
    torch.manual_seed(0)
    one, other = (x.flatten() for x in random_pairs(spread))
    assert (one // 4 == torch.arange(200)).all() and (other // 4 == torch.arange(200)).all()
    pairs = set(zip((one % 4).tolist(), (other % 4).tolist(), strict=True))
    assert pairs == {(i, j) for i in range(4) for j in range(4) if i != j}
    one, other = random_pairs(spread[:, :1])
    assert torch.equal(one, other) and torch.equal(one, spread[:, 0])


# --- the model ---


def test_every_clip_length_is_taken_and_the_attention_has_no_weights():
    model = tiny().eval()
    with torch.no_grad():
        for seq_len in (1, 2, 5):
            assert model(clips_of(2, seq_len)).shape == (2, 16)
        vectors = model.encode_frames(clips_of(1)[0])
    assert vectors.shape == (L, 4 * 512 + 4)
    others = {name for name, _ in model.named_parameters() if not name.startswith('encoder.')}
    assert others == {
        'reduce.weight',
        'bn.weight',
        'bn.bias',
        'classifier.weight',
        'classifier.bias',
    }


def test_the_feature_is_not_negative_and_trained_by_three_terms():
    model = tiny(reg_weight=0.5).train()
    outputs = model(clips_of(4))
    assert isinstance(outputs, STAOutput) and outputs.feature.min() == 0
    expected = torch.nn.functional.linear(
        outputs.feature, model.classifier.weight, model.classifier.bias
    )
    torch.testing.assert_close(outputs.logits, expected, **close)
    pids = torch.tensor([0, 0, 3, 3])
    losses = model.losses(outputs, pids, Recipe(cross_entropy_weight=0.7, triplet_weight=1.5))
    wanted = {
        'cross_entropy': 0.7 * common.cross_entropy(outputs.logits, pids),
        'triplet': 1.5 * common.batch_hard_triplet(outputs.feature, pids),
        'inter_frame': 0.5 * outputs.map_distance.mean(),
    }
    assert losses.keys() == wanted.keys()
    for name, loss in losses.items():
        assert loss.item() == pytest.approx(wanted[name].item(), abs=1e-9), name


@pytest.mark.slow
def test_pairs_are_drawn_from_torchs_generator_and_in_training_alone():
    model = tiny(embedding=4, map='norm').train()
    model.encoder.eval()
    clips = clips_of(4)
    with torch.no_grad():
        distances = []
        for seed in (1, 1, 2):
            torch.manual_seed(seed)
            distances.append(model(clips).map_distance)
        maps = model.encoder(clips.flatten(0, 1)).frame_features
        spread = energy_maps(maps, 'norm').unflatten(0, (4, L))
        possible = [map_distance(spread[:, i], spread[:, j]) for i, j in ((0, 1), (0, 2), (1, 2))]
        assert torch.equal(*distances[:2]) and not torch.equal(*distances[1:])
        nearest = (torch.stack(possible) - distances[0]).abs().amin(dim=0)
        torch.testing.assert_close(nearest, torch.zeros_like(nearest), **close)
        state = torch.get_rng_state()
        model.eval()(clips)
        assert torch.equal(state, torch.get_rng_state())


@KINDS
def test_the_kind_of_map_and_the_parts_are_keys(kind):
    model = tiny(map=kind, parts=2).eval()
    clips = clips_of(2)
    with torch.no_grad():
        maps = model.encoder(clips.flatten(0, 1)).frame_features.unflatten(0, (2, L))
        scores, fused = pooled(maps, 2, kind)
        expected = model.bn(fused @ model.reduce.weight.T).relu()
        torch.testing.assert_close(model(clips), expected, **close)
    explained = model.explain(clips)
    torch.testing.assert_close(explained['part_attention'], scores, **close)
    torch.testing.assert_close(explained['energy_maps'], energy_maps(maps, kind), **close)
    torch.testing.assert_close(explained['attention'].sum(dim=1), torch.ones(2).double(), **close)
    torch.testing.assert_close(explained['clip_feature'], expected, **close)


def test_energies_do_not_overflow_in_half_precision():
    model = tiny().float().eval()
    vectors = model._vectors(1000 * torch.ones(1, 512, 4, 2).half().float())
    assert vectors.isfinite().all()
    with torch.no_grad(), torch.autocast('cpu', torch.bfloat16):
        assert model.encode_frames(clips_of(1)[0].float()).dtype == torch.float32


def test_the_start_and_the_defaults():
    model = tiny(embedding=64).float()
    assert model.reduce.weight.std().item() == pytest.approx(0.01, rel=0.02)
    assert model.classifier.weight.std().item() == pytest.approx(0.01, rel=0.2)
    assert not model.classifier.bias.any() and not model.bn.bias.any()
    assert (model.bn.weight == 1).all()
    config = STA.Config()
    assert (config.parts, config.map, config.embedding, config.reg_weight) == (
        4, 'energy', 1024, 0.1,
    )  # fmt: skip


# --- size and cost ---


@pytest.mark.parametrize(('seq_len', 'gflop'), [(4, 32.43), (6, 48.65)])
def test_size_and_cost_with_resnet50(seq_len, gflop):
    with torch.device('meta'):
        model = STA(625, seq_len, STA.Config(), pretrained=False).eval()
        clips = torch.empty(1, seq_len, 3, 256, 128)
    sizes = {}
    for name, parameter in model.named_parameters():
        part = name.split('.')[0]
        sizes[part] = sizes.get(part, 0) + parameter.numel()
    assert sizes['encoder'] == 23_508_032
    assert sizes['reduce'] + sizes['bn'] == 4_196_352
    assert sizes['classifier'] == 640_625
    assert sum(sizes.values()) == 28_345_009
    with FlopCounterMode(display=False) as counter:
        assert model(clips).shape == (1, 1024)
    assert counter.get_total_flops() / 1e9 == pytest.approx(gflop, abs=0.01)
    assert model.encode_frames(clips[0]).shape == (seq_len, 8_196)
