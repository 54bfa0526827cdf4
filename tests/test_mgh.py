"""MGH: neighbours and graph layers against loops, sizes, what order and repetition change."""

import pytest
import references.mgh as references
import torch
import torchvision
from references.non_local import batch_norm
from test_encoder import own_conv5, randomise
from test_every_model import narrow_resnet, scattered
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from stmn_plugin.errors import InputError
from stmn_plugin.losses import Recipe
from stmn_plugin.models.explanations import check_explained
from stmn_plugin.models.systems.mgh import (
    MGH,
    GraphLayer,
    MGHConfig,
    band_means,
    nearest_nodes,
    nodes_of,
)

PIDS = torch.tensor([0, 0, 1, 1])
NODES = torch.tensor([[[1, 0], [0.9, 0.1], [0, 1], [0.1, 0.9]]], dtype=torch.float64)


def drawn(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.fixture
def network(monkeypatch):
    """A narrow network in float64 whose batch norms are away from their start."""
    monkeypatch.setattr(torchvision.models, 'get_model', narrow_resnet)
    torch.manual_seed(0)
    return scattered(MGH(3, 8, MGHConfig(width=16), pretrained=False).double()).eval()


def bands(count=2, length=8, dim=32):
    return drawn(count, length, 8 * dim).abs()


def size(module):
    return sum(parameter.numel() for parameter in module.parameters())


def equal(one, other, tolerance=1e-10):
    torch.testing.assert_close(one, other, rtol=tolerance, atol=tolerance)


def assert_same_gradients(ours, expected, inputs):
    """Two results are equal, and the gradients of a drawn sum of either."""
    equal(ours, expected, 1e-9)
    weights = drawn(*ours.shape, seed=5)
    for one, other in zip(
        torch.autograd.grad((ours * weights).sum(), inputs),
        torch.autograd.grad((expected * weights).sum(), inputs),
        strict=True,
    ):
        equal(one, other, 1e-9)


def lists(chosen):
    return [row.nonzero().flatten().tolist() for row in chosen[0]]


def test_neighbours_by_hand():
    assert lists(nearest_nodes(NODES, 2)) == [[1, 3], [0, 3], [1, 3], [1, 2]]
    assert lists(nearest_nodes(NODES, 2, 1, 0)) == [[1], [0], [3], [2]]
    assert lists(nearest_nodes(NODES[:, :2], 2)) == [[1], [0]]  # all there are
    assert lists(nearest_nodes(NODES, 2, 3, 0)) == [[1], [0], [3], [2]]
    assert lists(nearest_nodes(NODES[:, :1], 1)) == [[]]


def test_a_layer_by_hand():
    layer = GraphLayer(2, 2).double().eval()
    layer.bn.eps = 0.0
    for linear in (layer.own, layer.others):
        linear.weight.data.copy_(torch.eye(2))
        linear.bias.data.zero_()
    rows = layer(NODES, nearest_nodes(NODES, 2))[0]
    expected = [
        [0.8164966, 0, 0.4082483, 0.4082483],
        [0.7818701, 0.0868745, 0.4778095, 0.3909350],
        [0, 0.8164966, 0.4082483, 0.4082483],
    ]
    equal(rows[:3], torch.tensor(expected, dtype=torch.float64), 1e-7)


@pytest.mark.parametrize(('parts', 'frames'), [(2, 8), (1, 2), (4, 3)])
def test_a_layer_against_loops(parts, frames):
    torch.manual_seed(1)
    layer = scattered(GraphLayer(3, 2).double()).train()
    nodes = drawn(2, frames * parts, 3).requires_grad_()
    chosen = nearest_nodes(nodes, parts)
    for clip, rows in zip(nodes, chosen, strict=True):
        found = references.neighbours(clip, parts)
        assert lists(rows[None]) == [sorted(one) for one in found]
    assert_same_gradients(
        layer(nodes, chosen),
        references.graph_layer(layer, nodes, parts),
        [nodes, *layer.parameters()],
    )
    unit = layer.unit_rows(nodes, chosen)
    positive = unit.clamp(min=0).norm(dim=2)
    equal(unit.norm(dim=2), torch.ones_like(positive))
    assert ((positive > 1 - 1e-12) == (unit >= 0).all(dim=2)).all()


@pytest.mark.usefixtures('network')
@pytest.mark.parametrize(
    ('neighbours', 'window', 'graphs', 'training'),
    [(2, 3, 2, True), (3, 1, 2, False), (1, 0, 3, True)],
)
def test_the_feature_against_loops(neighbours, window, graphs, training):
    """Each layer finds its own neighbours; maps may be negative where no ReLU ends the encoder."""
    config = MGHConfig(width=2, neighbours=neighbours, window=window, graphs=graphs)
    model = scattered(MGH(3, 8, config, pretrained=False).double()).train(training)
    nn.init.uniform_(model.bnneck.bias)
    vectors = (drawn(2, window + 2, model.parts[-1] * 32) + 0.5).requires_grad_()
    expected = references.features(model, vectors.unflatten(2, (-1, 32)))
    inputs = [vectors, *model.bn_global.parameters(), *model.graphs.parameters()]
    assert_same_gradients(model.joined(vectors), expected, inputs)
    if not training:
        z = torch.stack(batch_norm(model.bnneck, list(expected)))
        equal(model.embed(vectors), z, 1e-9)


def test_the_start():
    layer = GraphLayer(60, 40)
    bound = (2 * 6 / (60 + 40)) ** 0.5  # Xavier uniform, gain sqrt 2
    for linear in (layer.own, layer.others):
        assert 0.98 * bound < linear.weight.abs().max() <= bound
        assert linear.weight.std().item() == pytest.approx(bound / 3**0.5, rel=0.05)
        assert 0.8 * 60**-0.5 < linear.bias.abs().max() <= 60**-0.5
    model = MGH(50, 2, MGHConfig(backbone='resnet18', width=40), pretrained=False)
    for classifier in model.classifiers:
        assert classifier.weight.std().item() == pytest.approx(0.001, rel=0.1)
        assert (classifier.bias == 0).all()
    for norm in (model.bn_global, model.bnneck, model.graphs[0].layers[1].bn):
        assert (norm.weight == 1).all() and (norm.bias == 0).all() and norm.eps == 1e-5
    config = MGHConfig()
    assert (config.neighbours, config.window, config.width) == (2, 3, 512)
    assert (config.graphs, config.non_local) == (3, True)


def test_half_precision_is_of_the_encoder_alone(network):
    assert band_means(torch.ones(1, 4, 8, 2, dtype=torch.bfloat16)).dtype == torch.float32
    network.float().train()
    seen = []
    for module in (network.graphs[0].layers[0].own, network.classifiers[3]):
        module.register_forward_hook(lambda _, given, out: seen.append(out.dtype))
    with torch.autocast('cpu', torch.bfloat16):
        outputs = network(drawn(4, 2, 3, 64, 32).float())
    assert seen == 2 * [torch.float32] and outputs.feature.dtype == torch.float32


def test_the_window():
    layer = GraphLayer(3, 2).double().eval()
    nodes = drawn(1, 16, 3)
    other = nodes.clone()
    other[:, 14:] = nodes[:, 8:10] * 2  # frame 7 becomes what frame 4 is nearest to
    before, after = (layer(x, nearest_nodes(x, 2))[0] for x in (nodes, other))
    assert torch.equal(before[:8], after[:8])
    assert not torch.allclose(before[8:10], after[8:10])


def test_parameters_operations_and_shapes():
    with torch.device('meta'):
        model = MGH(625, 8, MGHConfig(), pretrained=False).eval()
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            assert model(torch.empty(1, 8, 3, 256, 128)).shape == (1, 5120)
    assert counter.get_total_flops() / 2e9 == pytest.approx(44.2, abs=0.2)
    assert [size(block) for block in model.non_local] == [526_592] * 2 + [2_101_760] * 3
    assert size(model.encoder) == 23_508_032
    assert size(model.non_local) == 7_358_464
    for graph in model.graphs:
        assert [size(layer) for layer in graph.layers] == [2_100_224, 1_051_648]
    assert size(model.graphs) == 9_455_616
    assert size(model.bn_global) == 4_096 and size(model.bnneck) == 10_240
    assert size(model.classifiers) == 3_202_500
    assert size(model) == 40_336_448 + 3_202_500
    assert model.sizes == [2048, 1024, 1024, 1024]


@pytest.mark.slow
@torch.no_grad()
def test_the_backbone_starts_as_a_resnet():
    model = MGH(3, 2, MGHConfig(backbone='resnet50'), pretrained=False).double().eval()
    encoder = randomise(model.encoder)
    frames = drawn(1, 3, 64, 32)
    order = []
    for name, stage in (('3', encoder.conv3), ('4', encoder.conv4), ('n', model.non_local)):
        for block in stage:
            block.register_forward_hook(lambda *_, name=name: order.append(name))
    maps = model.maps(frames)
    assert ''.join(order) == '33n33n44n44n44n'  # after every second block
    resnet = torchvision.models.get_model('resnet50').double().eval()
    conv5 = own_conv5('resnet50', resnet.layer4)
    conv5.load_state_dict(encoder.frame_head.state_dict())
    assert torch.equal(maps, conv5(encoder.trunk(frames)))


@torch.no_grad()
def test_order_and_repetition(network):
    vectors = bands()
    z = network.embed(vectors)
    equal(network.embed(vectors.flip(1)), z)
    shuffled = [3, 0, 5, 1, 7, 2, 6, 4]
    assert (network.embed(vectors[:, shuffled]) - z).abs().max() > 1e-4
    equal(network.embed(vectors[:, [2, 0, 3, 1]]), network.embed(vectors[:, :4]))
    equal(network.embed(vectors[1:]), z[1:])
    still = {n: network.embed(vectors[:, :1].expand(-1, n, -1)) for n in (1, 2, 3, 4, 8)}
    equal(still[3], still[4])
    equal(still[3], still[8])
    for short in (1, 2):
        assert (still[short] - still[3]).abs().max() > 1e-6


@torch.no_grad()
def test_parts_and_scale(network):
    maps = drawn(3, 4, 16, 8).abs()
    means = band_means(maps)[None]  # (1, 3, 8, 4)
    whole = maps.mean(dim=(2, 3))
    for parts in (2, 4, 8):
        equal(nodes_of(means, parts).unflatten(1, (3, parts)).mean(dim=2)[0], whole)
    equal(nodes_of(means, 2)[0, 1], maps[0, :, 8:].mean(dim=(1, 2)))
    with pytest.raises(InputError, match='128'):
        band_means(maps[:, :, :12])
    network.bn_global = nn.Identity()
    vectors = bands()
    f, scaled = network.joined(vectors), network.joined(3 * vectors)
    equal(f[:, :32].norm(dim=1), torch.ones(2, dtype=torch.float64))
    equal(scaled[:, :32], f[:, :32])
    assert (scaled - f)[:, 32:].abs().max() > 1e-6
    for graph in network.graphs:
        for linear in (graph.layers[0].own, graph.layers[0].others):
            linear.bias.zero_()
    equal(network.joined(3 * vectors), network.joined(vectors))


def test_losses_and_slices(network):
    clips = drawn(4, 2, 3, 64, 32)
    outputs = network.train()(clips)
    assert outputs.feature.shape == (4, 32 + 3 * 32) and outputs.graph_logits.shape == (4, 3, 3)
    recipe = Recipe()
    losses = network.losses(outputs, PIDS, recipe)
    summed = recipe.cross_entropy(outputs.logits, PIDS)
    for logits in outputs.graph_logits.unbind(1):
        summed = summed + recipe.cross_entropy(logits, PIDS)
    equal(sum(v for k, v in losses.items() if k != 'triplet'), summed)
    equal(losses['triplet'], recipe.triplet(outputs.feature, PIDS))
    z = nn.functional.batch_norm(
        outputs.feature, None, None, network.bnneck.weight, network.bnneck.bias, True
    )
    equal(outputs.graph_logits[:, 1], network.classifiers[2](z[:, 64:96]))
    smooth = Recipe(label_smoothing=0.1)
    logits = torch.tensor([[2.0, 0, 0]], dtype=torch.float64)
    assert smooth.cross_entropy(logits, PIDS[:1]).item() == pytest.approx(0.3728781, abs=1e-7)
    hinge = Recipe(triplet_margin=0.3)
    features = torch.tensor([[0.0], [1], [3], [7]], dtype=torch.float64)
    assert hinge.triplet(features, PIDS).item() == pytest.approx(0.575, abs=1e-6)
    explained = network.eval().explain(clips)
    check_explained(explained, 4, 2)
    nodes = network.encode_frames(clips.flatten(0, 1)).view(4, 16, 32)  # of 8 parts
    chosen = network.graphs[2].neighbours(nodes)
    assert torch.equal(explained['graph_neighbours'], chosen.double())
    equal(explained['clip_feature'], network(clips))


@torch.no_grad()
def test_fewer_graphs_for_small_frames(network):
    """Of half as many bands the graphs of 2 and 4 parts are the same, and that of 8 is missing."""
    coarse = MGH(3, 8, MGHConfig(width=16, graphs=2), pretrained=False).double().eval()
    own = coarse.state_dict()
    given = network.state_dict()
    coarse.load_state_dict({key: given[key][: len(value)] if value.dim() else given[key]
                            for key, value in own.items()})  # fmt: skip
    assert [graph.parts for graph in coarse.graphs] == [2, 4]
    assert coarse.feature_dim == 32 + 2 * 32
    vectors = bands()  # (2, 8, 8*32)
    halves = vectors.unflatten(2, (4, 2, -1)).mean(dim=3).flatten(2)
    equal(coarse.embed(halves), network.embed(vectors)[:, : coarse.feature_dim])
    frames = drawn(2, 3, 64, 32)
    assert coarse.encode_frames(frames).shape == (2, 4 * 32)
    assert coarse.train()(frames).graph_logits.shape == (2, 2, 3)
    with pytest.raises(InputError, match='mgh.graphs'):
        network.encode_frames(frames[:, :, :32])
