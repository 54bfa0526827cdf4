"""M3D: its layers against loops, sizes and costs, what its start is and that it does not last."""

import copy

import pytest
import references.m3d as references
import torch
import torchvision
from test_encoder import own_conv5, randomise
from test_every_model import narrow_resnet
from torch.utils.flop_counter import FlopCounterMode

from stmn_plugin.losses import Recipe
from stmn_plugin.models.explanations import check_explained
from stmn_plugin.models.m3d_layers import (
    Branches,
    M3DLayer,
    ResidualAttention,
    attention_factor,
    mean_of_groups,
)
from stmn_plugin.models.systems.m3d import M3D, M3DConfig

CLASSES, L = 3, 8
PIDS = torch.tensor([0, 0, 1, 2])


def drawn(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def scatter(module, seed=1):
    """Every weight and statistic away from where it starts."""
    generator = torch.Generator().manual_seed(seed)
    for tensor in (*module.parameters(), *module.buffers()):
        if tensor.is_floating_point():
            tensor.data = 0.2 + torch.rand(tensor.shape, generator=generator, dtype=torch.float64)
    for name, parameter in module.named_parameters():
        if parameter.dim() > 1 and 'norms' not in name:
            parameter.data = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
    return module.double()


@pytest.fixture
def narrow(monkeypatch):
    """Encoders of a few channels."""
    monkeypatch.setattr(torchvision.models, 'get_model', narrow_resnet)


def network(length=L, **config):
    torch.manual_seed(0)
    config = {'backbone': 'resnet18', 'two_stream': False, **config}
    return M3D(CLASSES, length, M3DConfig(**config), pretrained=False)


def clips(count=1, length=L, seed=1):
    """Frames that differ from each other, as those of a walk do."""
    return 0.5 * drawn(count, length, 3, 32, 16, seed=seed) + drawn(count, length, 3, 1, 1, seed=2)


def vector(model, x):
    """The 128 numbers of the temporal stream, before anything else."""
    return model.heads['temporal'](model.temporal_maps(x)[0])[0]


def steps(model, count=1, lr=0.1, seed=3):
    optimizer = torch.optim.SGD(model.parameters(), lr=lr)
    for step in range(count):
        optimizer.zero_grad()
        outputs = model.train()(clips(4, model.seq_len, seed + step))
        sum(model.losses(outputs, PIDS, Recipe()).values()).backward()
        optimizer.step()
    return model.eval()


def size(module):
    return sum(parameter.numel() for parameter in module.parameters())


def equal(one, other, tolerance=1e-9):
    torch.testing.assert_close(one, other, rtol=tolerance, atol=tolerance)


def assert_same_gradients(ours, theirs, parameters):
    """Of a sum with changing weights, for all that both were made of."""
    weights = drawn(*ours.shape, seed=9)
    mine = torch.autograd.grad((ours * weights).sum(), parameters)
    other = torch.autograd.grad((theirs * weights).sum(), parameters)
    for one, another in zip(mine, other, strict=True):
        equal(one, another)


# --- the layers alone ---


@pytest.mark.parametrize('frames', [1, 2, 3, 4, 5, 8])
@pytest.mark.parametrize('group', [1, 2, 3])
def test_groups_of_frames_are_averaged_over_those_that_exist(frames, group):
    x = drawn(2, 3, frames, 2, 1)
    equal(mean_of_groups(x, group), references.mean_of_groups(x, group), 1e-15)
    whole = mean_of_groups(x[:, :, :1], group)
    assert torch.equal(whole, x[:, :, :1])


def ones(stride, dilation=None):
    """One channel, kernels (1, 1, 1), BN the identity; one branch or all three."""
    layer = M3DLayer(1, 3, stride).double().eval()
    for conv, norm in zip(layer.convs, layer.norms, strict=True):
        conv.weight.data.fill_(1)
        norm.weight.data.fill_(1)
        norm.eps = 0.0
    if dilation is not None:
        return layer.norms[dilation - 1], layer.convs[dilation - 1]
    return layer


@pytest.mark.parametrize(
    ('stride', 'rows', 'whole'),
    [
        (
            1,
            [
                (3, 6, 9, 12, 15, 18, 21, 15),
                (4, 6, 9, 12, 15, 18, 12, 14),
                (5, 7, 9, 12, 15, 9, 11, 13),
            ],
            (13, 21, 30, 40, 50, 51, 51, 50),
        ),
        (2, [(3, 9, 15, 21), (4, 9, 15, 12), (5, 9, 15, 11)], (13.5, 30.5, 50.5, 51.5)),
    ],
)
def test_dilated_sums_by_hand(stride, rows, whole):
    x = torch.arange(1.0, 9, dtype=torch.float64).view(1, 1, 8, 1, 1)
    for i, row in enumerate(rows, start=1):
        norm, conv = ones(stride, i)
        assert norm(conv(x)).flatten().tolist() == list(row)
    assert ones(stride)(x).flatten().tolist() == list(whole)
    if stride == 2:
        assert mean_of_groups(x, 2).flatten().tolist() == [1.5, 3.5, 5.5, 7.5]
    assert mean_of_groups(x[:, :, :3], 2).flatten().tolist() == [1.5, 3]


@pytest.mark.parametrize(('frames', 'left'), [(8, 4), (6, 3), (4, 2), (3, 2), (2, 1), (1, 1)])
def test_half_of_the_frames_are_left_rounded_up(frames, left):
    assert M3DLayer(2, 3, 2)(torch.randn(2, 2, frames, 2, 1)).shape == (2, 2, left, 2, 1)


@pytest.mark.parametrize('training', [True, False])
@pytest.mark.parametrize(
    ('frames', 'stride', 'released'), [(4, 1, False), (5, 2, False), (4, 2, True)]
)
def test_an_m3d_layer_against_loops(frames, stride, released, training):
    layer = scatter(M3DLayer(2, 2, stride, released)).train(training)
    x = drawn(2, 2, frames, 2, 1).requires_grad_()
    statistics = None
    if not training:
        statistics = [(norm.running_mean, norm.running_var) for norm in layer.norms]
    expected = references.m3d_layer(
        x,
        [conv.weight[..., 0, 0] for conv in layer.convs],
        [(norm.weight, norm.bias) for norm in layer.norms],
        stride,
        released,
        statistics,
    )
    y = layer(x)
    equal(y, expected)
    assert_same_gradients(y, expected, [x, *layer.parameters()])


def test_residual_attention_against_loops():
    layer = scatter(ResidualAttention(32, 3)).train()
    x = drawn(3, 32, 3, 2, 2).abs().requires_grad_()
    spatial, channel, time = (
        (branch[0].weight, (branch[2].weight, branch[2].bias), branch[3].weight)
        for branch in (layer.spatial, layer.channel, layer.time)
    )
    y = x * attention_factor(layer(x))
    expected = references.residual_attention(x, spatial, channel, time)
    equal(y, expected)
    assert (y - x).abs().max() > 0.1
    assert_same_gradients(y, expected, [x, *layer.parameters()])


def test_the_mask_is_a_sigmoid_of_a_product():
    branches = Branches(drawn(2, 1, 3, 2), drawn(2, 4, seed=1), drawn(2, 5, seed=2))
    factor = attention_factor(branches)
    z = torch.einsum('bhw,bc,bt->bcthw', branches.spatial[:, 0], branches.channel, branches.time)
    equal(factor, 0.5 + 1 / (1 + (-z).exp()), 1e-14)
    assert 0.5 <= factor.min() < 0.9 and 1.1 < factor.max() <= 1.5


def test_at_the_start_attention_is_the_identity_and_open():
    x = drawn(4, 16, 3, 4, 2).abs()
    for seed in range(8):  # in every start, whatever is drawn
        torch.manual_seed(seed)
        layer = ResidualAttention(16, 3).double()
        factor = attention_factor(layer(x))
        assert torch.equal(x * factor, x)
        (factor * drawn(*factor.shape)).sum().backward()
        assert layer.spatial[3].weight.grad.abs().min() > 0


def test_at_the_start_an_m3d_layer_is_the_mean_of_groups():
    x = drawn(2, 3, 5, 2, 2)
    for released in (False, True):
        for stride in (1, 2):
            layer = M3DLayer(3, 2, stride, released).double()
            assert torch.equal(layer(x), mean_of_groups(x, stride))


# --- sizes and cost ---


@pytest.mark.slow
def test_parameters_and_operations():
    with torch.device('meta'):
        model = M3D(625, 8, M3DConfig(two_stream=False, head='released'), pretrained=False)
        both = M3D(625, 8, M3DConfig(head='released'), pretrained=False)
        ours = M3D(625, 6, M3DConfig(), pretrained=False)
    assert [size(layer) for layer in model.layers] == [37_248, 37_248, 148_224, 394_240, 787_456]
    assert [size(layer) for layer in model.attentions] == [10_819, 37_523, 140_443]
    assert size(model.layers) == 1_404_416 and size(model.attentions) == 188_785
    head = model.heads['temporal']
    assert [size(part) for part in (head.embedding, head.neck, head.classifier)] == [
        262_272,
        256,
        80_625,
    ]
    assert size(model) == 25_444_386
    assert size(both) == 49_295_571
    assert size(both) - size(model) == 23_851_185  # the stream of single frames
    assert size(ours) == 49_293_913

    def gflops(model, length):
        with FlopCounterMode(display=False) as counter, torch.no_grad(), torch.device('meta'):
            model.eval()(torch.empty(1, length, 3, 256, 128))
        return counter.get_total_flops() / 1e9

    for length, expected in ((6, 26.18), (8, 32.07), (16, 64.14)):
        with torch.device('meta'):
            plain = M3D(2, length, M3DConfig(two_stream=False, attention=False), pretrained=False)
        assert gflops(plain, length) == pytest.approx(expected, abs=0.01)
    assert gflops(ours, 6) == pytest.approx(26.18 + 6 * 8.107, abs=0.02)
    first = model.encoders['temporal'].conv5[0]
    first.conv2.stride = first.downsample[0].stride = (2, 2)  # as published
    assert gflops(model, 8) == pytest.approx(28.31, abs=0.01)


# --- the network ---


@pytest.mark.slow
@torch.no_grad()
@pytest.mark.parametrize('backbone', ['resnet18', 'resnet50'])
def test_at_the_start_identical_frames_are_one_frame_of_a_resnet(backbone):
    model = network(backbone=backbone).double().eval()
    encoder = randomise(model.encoders['temporal'])
    frame = drawn(1, 3, 64, 32)
    maps, branches = model.temporal_maps(frame[:, None].expand(-1, 8, -1, -1, -1))
    assert maps.shape[2] == 1 and len(branches) == 3
    assert [tuple(one.time.shape) for one in branches] == [(1, 8), (1, 4), (1, 2)]
    resnet = torchvision.models.get_model(backbone).double().eval()
    for layer, ours in zip(
        ('conv1', 'bn1', 'relu', 'maxpool', 'layer1', 'layer2', 'layer3'),
        encoder.trunk,
        strict=True,
    ):
        getattr(resnet, layer).load_state_dict(ours.state_dict())
        frame = getattr(resnet, layer)(frame)
    conv5 = own_conv5(backbone, resnet.layer4)
    conv5.load_state_dict(encoder.frame_head.state_dict())
    equal(maps[:, :, 0], conv5(frame), 1e-12)


ORDERS = {
    'pair': [1, 0, 2, 3, 4, 5, 6, 7],
    'pairs': [2, 3, 0, 1, 4, 5, 6, 7],
    'reversed': [7, 6, 5, 4, 3, 2, 1, 0],
}


@pytest.mark.usefixtures('narrow')
@pytest.mark.parametrize('released', [False, True])
def test_order_within_groups_counts_only_once_the_layers_train(released):
    model = network(released_start=released).double().eval()
    with torch.no_grad():
        x = clips()
        start = vector(model, x)
        for order in ORDERS.values():
            equal(vector(model, x[:, order]), start, 1e-12)
        other = vector(model, x[:, [4, 1, 2, 3, 0, 5, 6, 7]])  # frames of different pairs
        assert (other - start).abs().max() > 1e-4 * start.abs().max()
    fresh = copy.deepcopy(dict(model.named_parameters()))
    steps(model)
    with torch.no_grad():
        trained = vector(model, x)
        change = (vector(model, x[:, ORDERS['reversed']]) - trained).abs().max()
        if released:
            assert change < 1e-9 * trained.abs().max()
        else:
            assert change > 1e-5 * trained.abs().max()
    still = [n for n, p in model.named_parameters() if torch.equal(p, fresh[n])]
    if released:  # 12 branches and 3 attentions, for good
        steps(model)
        assert len(still) == 72 and all(n.startswith(('layers', 'attentions')) for n in still)
        assert not any(p.grad.any() for n, p in model.named_parameters() if n in still)
    else:
        assert not any(n.startswith('layers') and 'norms' in n for n in still)


@pytest.mark.usefixtures('narrow')
def test_no_branch_is_dead():
    model = network().double().train()
    outputs = model(clips(4))
    sum(model.losses(outputs, PIDS, Recipe()).values()).backward()
    for layer in model.layers:
        assert all(norm.weight.grad.abs().min() > 0 for norm in layer.norms)
    assert all(layer.spatial[3].weight.grad.abs().min() > 0 for layer in model.attentions)
    # what lies behind these moves one step later: tests/test_every_model.py


def scattered_norms(model):
    """BNs away from their start, which hides what is behind."""
    generator = torch.Generator().manual_seed(5)
    for module in model.modules():
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
            for tensor in (module.weight, module.running_var):
                tensor.data.copy_(0.5 + torch.rand(tensor.shape, generator=generator))
    return model.double().eval()


@pytest.mark.usefixtures('narrow')
@pytest.mark.parametrize(('length', 'released'), [(5, False), (4, True)])
def test_the_temporal_stream_and_its_gradients_equal_frames_one_by_one(length, released):
    model = scattered_norms(network(length, released_start=released))
    for part in (model.layers, model.attentions):
        for parameter in part.parameters():
            if parameter.dim() > 1:  # the released start is zero
                torch.nn.init.normal_(parameter, std=parameter[0].numel() ** -0.5)
                if part is model.attentions:  # no ReLU is closed
                    parameter.data.abs_()
    model.encoders['temporal'].trunk[3] = torch.nn.MaxPool2d(2)  # the narrow one has none
    x = clips(2, length).requires_grad_()
    maps, branches = model.temporal_maps(x)
    expected = references.temporal_maps(model, x)
    equal(maps, expected)
    parts = [*model.encoders['temporal'].parameters(), *model.layers.parameters()]
    assert_same_gradients(maps, expected, [x, *parts, *model.attentions.parameters()])
    with torch.no_grad():
        shown = model.explain(x)['residual_attention']
        equal(shown, attention_factor(branches[0]).mean(dim=1))
        assert shown.std() > 0.01


def test_the_start():
    torch.manual_seed(0)
    layer = M3DLayer(64, 2)
    for conv in layer.convs:  # He, of 3 frames times 64 channels
        assert conv.weight.std().item() == pytest.approx((2 / 192) ** 0.5, rel=0.05)
    attention = ResidualAttention(256, 32)
    for branch in (attention.channel, attention.time):
        for linear in (branch[0], branch[3]):
            rms = linear.weight.square().mean().sqrt().item()
            assert rms == pytest.approx((2 / linear.in_features) ** 0.5, rel=0.05)
    rms = attention.spatial[0].weight.square().mean().sqrt().item()
    assert rms == pytest.approx((2 / (9 * 256)) ** 0.5, rel=0.05)


@pytest.mark.usefixtures('narrow')
@torch.no_grad()
@pytest.mark.parametrize('length', [1, 2, 6, 8, 16])
def test_every_length(length):
    model = scattered_norms(network(length))
    x = clips(2, length)
    vectors = vector(model, x)
    assert vectors.shape == (2, 128)
    equal(vector(model, x[1:]), vectors[1:])  # a clip is alone
    plain = scattered_norms(network(attention=False))
    assert plain.takes_any_length and not model.takes_any_length
    assert vector(plain, x).shape == (2, 128)
    if length != L:
        with pytest.raises(ValueError, match=rf'expected clips of {length} frames'):
            model(clips(2, L))


def test_residual_attention_refuses_another_number_of_frames():
    with pytest.raises(ValueError, match=r'shape \(B, C, 4, H, W\), got \(1, 32, 3, 2, 2\)'):
        ResidualAttention(32, 4)(torch.zeros(1, 32, 3, 2, 2))


@pytest.mark.usefixtures('narrow')
@pytest.mark.parametrize('head', ['bnneck', 'released'])
def test_two_streams_and_their_losses(head):
    model = network(2, two_stream=True, head=head).double()
    x = clips(4, 2)
    outputs = model(x)
    losses = model.losses(outputs, PIDS, Recipe())
    assert set(losses) == {'cross_entropy_temporal', 'cross_entropy_spatial', 'triplet'}
    recipe = Recipe()
    equal(losses['cross_entropy_temporal'], recipe.cross_entropy(outputs.temporal_logits, PIDS))
    equal(losses['cross_entropy_spatial'], recipe.cross_entropy(outputs.spatial_logits, PIDS))
    equal(losses['triplet'], recipe.triplet(outputs.feature, PIDS))
    equal(model.logits(outputs), outputs.temporal_logits)
    for own in model.heads.values():
        if head == 'released':
            assert own.neck[2].p == 0.5
            own.neck[2].p = 0.0  # of the dropout
    outputs = model(x)
    maps = {'temporal': model.temporal_maps(x)[0], 'spatial': model.spatial_maps(x)}
    unit = []
    for name, logits in (
        ('temporal', outputs.temporal_logits), ('spatial', outputs.spatial_logits)
    ):  # fmt: skip
        own = model.heads[name]
        given = maps[name].mean(dim=(2, 3, 4)) @ own.embedding.weight.T + own.embedding.bias
        unit.append(given / given.norm(dim=1, keepdim=True))
        neck = (given - given.mean(dim=0)) / (given.var(dim=0, unbiased=False) + 1e-5).sqrt()
        rows = neck.clamp(min=0) if head == 'released' else neck
        bias = own.classifier.bias if head == 'released' else 0
        equal(logits, rows @ own.classifier.weight.T + bias)
    equal(outputs.feature, torch.cat(unit, dim=1))
    model.eval()
    with torch.no_grad():
        features = model(x)
        assert features.shape == (4, model.feature_dim) == (4, 256)
        streams = features.unflatten(1, (2, 128))
        equal(streams.norm(dim=2), torch.ones(4, 2, dtype=torch.float64))
        temporal = vector(model, x)
        equal(streams[:, 0], temporal / temporal.norm(dim=1, keepdim=True))
        frames = model.encoders['spatial'](x.flatten(0, 1)).frame_features.mean(dim=(2, 3))
        each = model.heads['spatial'].embedding(frames).unflatten(0, (4, 2))
        spatial = each.mean(dim=1)  # of frames' vectors: the embedding is linear
        equal(streams[:, 1], spatial / spatial.norm(dim=1, keepdim=True))
        means = features.mean(dim=0).view(2, 128)
        finished = model.finish(features.mean(dim=0, keepdim=True)).view(2, 128)
        equal(finished, means / means.norm(dim=1, keepdim=True))
        explained = model.explain(x)
        check_explained(explained, 4, 2)
        of_frames = model.spatial_maps(x)  # (B, C, L, H, W)
        equal(explained['frame_norms'], of_frames.square().sum(dim=1).sqrt())
        equal(explained['frame_feature'], of_frames.mean(dim=(2, 3, 4)))
        equal(explained['clip_feature'], features)
        assert set(explained) == {
            'residual_attention',
            'frame_norms',
            'frame_feature',
            'clip_feature',
        }
        assert torch.equal(
            explained['residual_attention'], torch.ones(4, 2, 16, 8, dtype=torch.float64)
        )


@pytest.mark.usefixtures('narrow')
def test_without_a_second_stream_nothing_of_it_is_there():
    model = network(4)
    outputs = model(clips(4, 4).float())
    assert outputs.spatial_logits is None and outputs.feature.shape == (4, 128)
    assert set(model.losses(outputs, PIDS, Recipe())) == {'cross_entropy_temporal', 'triplet'}
    assert not any('spatial' in name for name, _ in model.named_children())
    explained = network(4, attention=False).eval().explain(clips(2, 4).float())
    assert set(explained) == {'clip_feature'}
