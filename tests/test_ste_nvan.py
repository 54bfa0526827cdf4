"""NVAN and STE-NVAN against loops and against the numbers known of them."""

import copy

import pytest
import references.ste_nvan as slow_nvan
import torch
import torchvision
from references.stmn import relative_error
from test_every_model import narrow_resnet, scattered
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from stmn_plugin.errors import InputError
from stmn_plugin.losses.recipe import Recipe
from stmn_plugin.models.non_local import NonLocal
from stmn_plugin.models.systems.ste_nvan import (
    NVAN,
    STENVAN,
    NVANConfig,
    STENVANConfig,
    attend_in_stripes,
    pair_maximum,
    spread,
    tokens_of,
)

CLASSES = 3
BOTH = pytest.mark.parametrize('kind', [NVAN, STENVAN], ids=['nvan', 'ste_nvan'])


@pytest.fixture
def narrow(monkeypatch):
    """Networks of few channels, two blocks a stage; maps of conv3 and conv4 are a quarter and an
    eighth of a frame."""
    monkeypatch.setattr(torchvision.models, 'get_model', narrow_resnet)

    def build(kind, seed=0, **settings):
        torch.manual_seed(seed)
        model = kind(CLASSES, 8, kind.Config(**settings), pretrained=False).double()
        return scattered(model).eval()

    return build


def clips_of(*shape, seed=2):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, 3, 32, 16, generator=generator, dtype=torch.float64)


def drawn_block(dim, training=False):
    torch.manual_seed(1)
    block = scattered(NonLocal(dim).double()).train(training)
    nn.init.normal_(block.bn.bias)
    return block


def one_channel_block():
    """theta, phi, g, out and BN are the identity."""
    block = NonLocal(1, 1).double().eval()
    block.bn.eps = 0.0
    for layer in (block.theta, block.phi, block.g, block.out):
        nn.init.ones_(layer.weight), nn.init.zeros_(layer.bias)
    nn.init.ones_(block.bn.weight)
    return block


# --- attention between stripes or positions ---


@pytest.mark.parametrize('training', [True, False], ids=['train', 'eval'])
@pytest.mark.parametrize(('stripes', 'window'), [(2, 2), (4, 2), (2, 4), (0, 4), (0, 2)], ids=str)
def test_attention_and_its_gradients_equal_loops(stripes, window, training):
    block = drawn_block(2, training)
    maps = torch.randn(2, 4, 2, 4, 2, dtype=torch.float64, requires_grad=True)
    weights = torch.randn_like(maps)
    ours = attend_in_stripes(block, maps, stripes, window)
    wanted = slow_nvan.attend(block, maps, stripes, window)
    assert relative_error(ours, wanted) <= 1e-9
    inputs = [maps, *block.parameters()]
    gradients = torch.autograd.grad((ours * weights).sum(), inputs)
    slow = torch.autograd.grad((wanted * weights).sum(), inputs)
    size = max(gradient.abs().max() for gradient in slow)
    for gradient, expected in zip(gradients, slow, strict=True):
        assert (gradient - expected).abs().max() <= 1e-9 * size


def test_stripes_by_hand():
    maps = torch.tensor([[0.0, 0, 1, 1], [2, 2, 3, 3]], dtype=torch.float64).view(1, 2, 1, 4, 1)
    ours = attend_in_stripes(one_channel_block(), maps, 2, 2).flatten(1)
    wanted = [1.5, 1.5, 3.4926527, 3.4926527, 4.8448247, 4.8448247, 5.9476289, 5.9476289]
    assert ours[0].tolist() == pytest.approx(wanted, abs=1e-7)


def test_tokens_are_in_the_order_of_frames_and_rows():
    maps = torch.arange(48.0).view(1, 4, 1, 4, 3)
    assert tokens_of(maps, 2, 2).shape == (2, 4, 1)
    assert tokens_of(maps, 2, 2).flatten().tolist() == [2.5 + 6 * n for n in range(8)]
    assert tokens_of(maps, 0, 4).flatten().tolist() == list(range(48))
    assert torch.equal(spread(tokens_of(maps, 0, 4), maps, 0), maps)
    bands = spread(tokens_of(maps, 2, 2), maps, 2).expand_as(maps)
    assert bands[0, 1, 0, :, 2].tolist() == [14.5, 14.5, 20.5, 20.5]


def test_without_queries_and_keys_all_stripes_of_a_group_get_the_same():
    block = drawn_block(3)
    for layer in (block.theta, block.phi):
        nn.init.zeros_(layer.weight), nn.init.zeros_(layer.bias)
    maps = torch.randn(1, 4, 3, 4, 2, dtype=torch.float64)
    added = attend_in_stripes(block, maps, 2, 2) - maps
    for pair in (slice(0, 2), slice(2, 4)):
        tokens = tokens_of(maps[:, pair], 2, 2)[0]  # (4, 3)
        wanted = block.bn(block.out(block.g(tokens).mean(dim=0, keepdim=True)))
        of_pair = added[0, pair].movedim(1, 3)
        torch.testing.assert_close(of_pair, wanted.expand_as(of_pair), rtol=1e-10, atol=1e-10)


def test_what_is_constant_in_a_stripe_stays_so():
    block = drawn_block(3)
    maps = (
        torch.randn(2, 2, 3, 4, 1, dtype=torch.float64)
        .repeat_interleave(2, 3)
        .expand(2, 2, 3, 8, 5)
    )
    after = attend_in_stripes(block, maps, 4, 2)
    first = after[..., ::2, :1].repeat_interleave(2, 3)
    torch.testing.assert_close(after, first.expand_as(after), rtol=1e-10, atol=1e-10)
    # and so is what is added to any map
    maps = torch.randn(2, 2, 3, 8, 5, dtype=torch.float64)
    added = attend_in_stripes(block, maps, 4, 2) - maps
    first = added[..., ::2, :1].repeat_interleave(2, 3)
    torch.testing.assert_close(added, first.expand_as(added), rtol=1e-10, atol=1e-10)


def test_pairs_are_neighbours():
    frames = torch.tensor([3.0, 1, 4, 5, 9, 2, 6, 8]).view(1, 8, 1, 1, 1)
    assert pair_maximum(frames).flatten().tolist() == [3, 5, 9, 8]
    assert torch.equal(pair_maximum(frames), slow_nvan.pair_maximum(frames))


# --- the whole network ---


@pytest.mark.parametrize(
    ('kind', 'settings', 'stripes', 'halve'),
    [
        (NVAN, {}, 0, False),
        (STENVAN, {}, (4, 2), True),
        (STENVAN, {'stripes': 2}, (2, 2), True),
        (STENVAN, {'halve_frames': False, 'conv3_attention': 1}, (4, 2), False),
        (STENVAN, {'stripes': 0, 'conv4_attention': 1}, 0, True),
    ],
    ids=['nvan', 'ste_nvan', 'two stripes', 'stripes only', 'halves only'],
)
def test_the_network_equals_loops(narrow, kind, settings, stripes, halve):
    model = narrow(kind, **settings)
    clips = clips_of(1, 4)[..., :16, :8]
    maps = slow_nvan.conv5_maps(model, clips, stripes, halve)
    assert relative_error(model.maps(clips).conv5, maps) <= 1e-9
    pooled = torch.stack([maps[:, :, d].mean() for d in range(maps.shape[2])]).unsqueeze(0)
    neck = model.bnneck
    wanted = (pooled - neck.running_mean) / (neck.running_var + neck.eps).sqrt() * neck.weight
    ours = model(clips)
    assert relative_error(ours, wanted) <= 1e-9
    weights = list(model.conv3_attention.parameters()) + [clips.requires_grad_()]
    gradients = torch.autograd.grad(model(clips).square().sum(), weights)
    slow = torch.autograd.grad(
        (model.bnneck(slow_nvan.conv5_maps(model, clips, stripes, halve).mean((1, 3, 4))))
        .square()
        .sum(),
        weights,
    )
    for gradient, expected in zip(gradients, slow, strict=True):
        assert (gradient - expected).abs().max() <= 1e-9 * max(1.0, expected.abs().max())


@pytest.mark.parametrize('training', [True, False], ids=['train', 'eval'])
@BOTH
def test_the_start_is_the_plain_network(narrow, kind, training):
    torch.manual_seed(0)
    model = kind(CLASSES, 8, kind.Config(), pretrained=False).double().train(training)
    for block in [*model.conv3_attention, *model.conv4_attention]:
        for layer in (block.theta, block.phi, block.g, block.out):
            nn.init.normal_(layer.weight), nn.init.normal_(layer.bias)
    encoder = copy.deepcopy(model.encoder)
    clips = clips_of(2, 8)
    maps = encoder.conv3(encoder.conv2(encoder.stem(clips.flatten(0, 1)))).unflatten(0, (2, -1))
    if kind is STENVAN:
        maps = slow_nvan.pair_maximum(maps)
    maps = encoder.conv4(maps.flatten(0, 1)).unflatten(0, (2, -1))
    if kind is STENVAN:
        maps = slow_nvan.pair_maximum(maps)
    maps = encoder.conv5(maps.flatten(0, 1)).unflatten(0, (2, -1))
    assert torch.equal(model.maps(clips).conv5, maps)


@pytest.mark.parametrize(
    ('kind', 'config', 'gmacs'),
    [
        (NVAN, NVANConfig(), 63.57),
        (NVAN, NVANConfig(conv3_attention=0, conv4_attention=0), 32.43),
        (STENVAN, STENVANConfig(), 17.67),
        (STENVAN, STENVANConfig(halve_frames=False), 33.43),
        (STENVAN, STENVANConfig(stripes=0), 42.63),
    ],
    ids=['nvan', 'mean', 'ste_nvan', 'stripes only', 'halves only'],
)
def test_size_and_cost(kind, config, gmacs):
    with torch.device('meta'):
        model = kind(625, 8, config, pretrained=False).eval()
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            assert model(torch.empty(1, 8, 3, 256, 128)).shape == (1, 2048)
    assert counter.get_total_flops() / 2e9 == pytest.approx(gmacs, abs=0.1 if gmacs < 20 else 0.01)
    blocks = [*model.conv3_attention.parameters(), *model.conv4_attention.parameters()]
    own = sum(weight.numel() for weight in blocks)
    assert own == (7_358_464 if config.conv3_attention else 0)
    size = sum(weight.numel() for weight in model.parameters()) - model.classifier.weight.numel()
    assert size == 23_508_032 + own + 2_048  # the BNNeck's shift is no parameter


def test_shapes_and_where_the_blocks_stand():
    with torch.device('meta'):
        model = STENVAN(625, 8, STENVANConfig(), pretrained=False).eval()
        seen = []

        def hook(name):
            def note(layer, given, result):
                seen.append((name, tuple(given[0].shape), tuple(result.shape)))

            return note

        encoder = model.encoder
        layers = {f'conv{n}.{i}': b for n in (3, 4) for i, b in enumerate(encoder.trunk[n + 2])}
        layers |= {'stem': encoder.stem[3], 'conv2': encoder.conv2[-1], 'conv5': encoder.conv5[-1]}
        for name, layer in layers.items():
            layer.register_forward_hook(hook(name))
        for stage in ('conv3_attention', 'conv4_attention'):
            for block in getattr(model, stage):
                block.theta.register_forward_hook(hook('attention'))
        maps = model.maps(torch.empty(1, 8, 3, 256, 128)).conv5
        model.train()
        output = model(torch.empty(2, 8, 3, 256, 128))
    assert maps.shape == (1, 2, 2048, 16, 8)
    assert output.feature.shape == (2, 2048) and output.logits.shape == (2, 625)
    seen = seen[: len(seen) // 2]
    order = 'stem conv2 conv3.0 conv3.1 conv3.2 attention conv3.3 attention conv4.0 conv4.1 '
    order += 'conv4.2 conv4.3 attention conv4.4 attention conv4.5 attention conv5'
    assert [name for name, *_ in seen] == order.split()
    shapes = {name: (given, result) for name, given, result in seen}
    assert shapes['stem'][1] == (8, 64, 64, 32) and shapes['conv2'][1] == (8, 256, 64, 32)
    assert shapes['conv3.3'][1] == (8, 512, 32, 16)
    assert shapes['conv4.0'][0] == (4, 512, 32, 16) and shapes['conv4.5'][1] == (4, 1024, 16, 8)
    assert shapes['conv5'][1] == (2, 2048, 16, 8)
    tokens = [given for name, given, _ in seen if name == 'attention']
    assert tokens == [(4, 32, 512)] * 2 + [(2, 32, 1024)] * 3


def test_both_have_the_same_weights(narrow):
    one, other = narrow(NVAN), narrow(STENVAN, seed=1)
    states = one.state_dict(), other.state_dict()
    assert [(k, v.shape) for k, v in states[0].items()] == [
        (k, v.shape) for k, v in states[1].items()
    ]
    other.load_state_dict(states[0])
    one.load_state_dict(states[1])


def assert_same(one, other, tolerance=1e-10):
    assert (one - other).abs().max() <= tolerance * other.abs().max()


@torch.no_grad()
def test_which_orders_of_frames_are_the_same(narrow):
    model, clips = narrow(STENVAN), clips_of(2, 8)
    feature = model(clips)
    for order in (
        [1, 0, 2, 3, 4, 5, 6, 7],
        [2, 3, 0, 1, 4, 5, 6, 7],
        [0, 1, 2, 3, 6, 7, 4, 5],
        [4, 5, 6, 7, 0, 1, 2, 3],
    ):
        assert_same(model(clips[:, order]), feature)
    assert (model(clips[:, [0, 2, 1, 3, 4, 5, 6, 7]]) - feature).abs().max() > 1e-3
    model = narrow(NVAN)
    order = torch.randperm(8, generator=torch.Generator().manual_seed(0))
    assert_same(model(clips[:, order]), model(clips))


@BOTH
@torch.no_grad()
def test_equal_frames_give_the_same_however_many(narrow, kind):
    model, frame = narrow(kind), clips_of(2)
    features = [model(frame.unsqueeze(1).expand(-1, n, -1, -1, -1)) for n in (8, 4, 1)]
    assert_same(features[0], features[1])
    assert_same(features[2], features[1])
    assert_same(model(frame), features[1])


@torch.no_grad()
def test_short_clips_repeat_their_last_frame(narrow):
    model, clips = narrow(STENVAN), clips_of(2, 6)
    longer = torch.cat([clips, clips[:, 5:], clips[:, 5:]], dim=1)
    assert torch.equal(model(clips), model(longer))
    assert not torch.equal(model(clips), model(clips[:, :4]))
    model = narrow(NVAN)  # takes them as they are
    assert model.maps(clips).conv5.shape[1] == 6


@BOTH
@torch.no_grad()
def test_a_clip_alone(narrow, kind):
    model, clips = narrow(kind), clips_of(3, 4)
    assert_same(model(clips[1:2]), model(clips)[1:2])


def test_a_height_that_cannot_be_cut(narrow):
    frames = torch.zeros(1, 4, 3, 240, 16, dtype=torch.float64)
    with pytest.raises(InputError, match=r'data.height 240: the 60 rows .* 16 stripes \(ste_nvan'):
        narrow(STENVAN)(frames)
    with torch.no_grad():
        assert narrow(STENVAN, stripes=15)(frames).isfinite().all()
        assert narrow(NVAN)(frames).isfinite().all()


def test_no_more_stripes_than_rows_and_no_more_blocks_than_a_stage_has(narrow):
    model = narrow(STENVAN, conv3_attention=1)
    assert len(model.conv3_attention) == 1 and len(model.conv4_attention) == 2
    with torch.no_grad():  # 8 rows at conv3, 4 at conv4
        assert_same(narrow(STENVAN, stripes=256)(clips_of(1, 4)), narrow(STENVAN)(clips_of(1, 4)))


def test_losses_are_those_of_the_recipe(narrow):
    features = torch.tensor([[0.0], [1], [3], [7]], dtype=torch.float64)
    pids = torch.tensor([0, 0, 1, 1])
    assert Recipe().triplet(features, pids).item() == pytest.approx(0.6735114, abs=1e-7)
    model = narrow(STENVAN).train()
    output = model(clips_of(4, 4))
    losses = model.losses(output, pids, Recipe())
    assert set(losses) == {'cross_entropy', 'triplet'}
    torch.testing.assert_close(losses['triplet'], Recipe().triplet(output.feature, pids))
    wanted = nn.functional.cross_entropy(model.classifier(model.bnneck(output.feature)), pids)
    torch.testing.assert_close(losses['cross_entropy'], wanted)
    mean = model.maps(clips_of(4, 4)).conv5.mean(dim=(1, 3, 4))
    torch.testing.assert_close(output.feature, mean)


@BOTH
def test_what_is_attended_to(narrow, kind):
    model, clips = narrow(kind), clips_of(2, 6)
    explained = model.explain(clips)
    received, norms = explained['attention_received'], explained['frame_norms']
    assert received.shape == norms.shape == (2, 6, 4, 2)
    torch.testing.assert_close(explained['clip_feature'], model(clips))
    maps = model.maps(clips)
    window = 2 if kind is STENVAN else 6
    block = model.conv4_attention[-1]
    tokens = tokens_of(maps.attending, 4 if kind is STENVAN else 0, window)[0]  # first group
    logits = block.theta(tokens) @ block.phi(tokens).T
    wanted = logits.exp() / logits.exp().sum(dim=1, keepdim=True)
    wanted = wanted.sum(dim=0)  # what the n tokens give, n of it in all
    if kind is STENVAN:  # a map for every two frames; two columns of a row are one token
        assert torch.equal(received[:, 0], received[:, 1])
        assert torch.equal(norms[:, 0], norms[:, 3]) and not torch.equal(norms[:, 3], norms[:, 4])
        torch.testing.assert_close(received[0, 0:4:2, :, 1].flatten(), wanted)
    else:
        torch.testing.assert_close(received[0].flatten(), wanted)
        torch.testing.assert_close(received.mean(dim=(1, 2, 3)), received.new_ones(2))


@pytest.mark.slow
@BOTH
@torch.no_grad()
def test_an_exported_program_takes_any_number_of_clips(narrow, kind):
    model = narrow(kind)
    clips = {0: torch.export.Dim('clips')}
    program = torch.export.export(
        model, (clips_of(2, 4),), dynamic_shapes=(clips,), strict=False
    ).module()
    assert_same(program(clips_of(3, 4)), model(clips_of(3, 4)))
