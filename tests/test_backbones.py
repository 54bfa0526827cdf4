"""The families of encoders against torchvision's own networks, split by hand."""

import copy
from fnmatch import fnmatch

import pytest
import references.stmn as references
import torch
import torchvision
from narrow_networks import NARROW_NETWORKS, narrow_network
from test_every_model import CLASSES, NAMES, NARROW, scattered
from torch import nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from stmn_plugin.config import load_config
from stmn_plugin.config.sections import flatten
from stmn_plugin.errors import InputError
from stmn_plugin.losses.recipe import Recipe
from stmn_plugin.models import BACKBONES, STMN, Encoder, ModelSpec, build_video_model
from stmn_plugin.models.backbones import FAMILY_OF
from stmn_plugin.models.folding import FoldedEncoder
from stmn_plugin.models.map_shapes import shapes_through
from stmn_plugin.training.speed import InferenceModel

every_family = pytest.mark.parametrize('name', NARROW_NETWORKS)
slow = pytest.mark.slow
SIZE = (64, 32)
NORMS = (nn.modules.batchnorm._BatchNorm, nn.LayerNorm)


@pytest.fixture
def networks(monkeypatch):
    """The networks that encoders were built of."""
    built = []

    def get_model(name, **options):
        torch.manual_seed(0)
        network = narrow_network(name, **options)
        built.append(copy.deepcopy(network))
        return network

    monkeypatch.setattr(torchvision.models, 'get_model', get_model)
    return built


@torch.no_grad()
def scatter(module, seed=0):
    """Every normalisation away from its start."""
    generator = torch.Generator().manual_seed(seed)
    for layer in module.modules():
        if isinstance(layer, NORMS):
            for tensor in (*layer.parameters(), *layer.buffers()):
                if tensor.is_floating_point():
                    tensor.copy_(0.5 + torch.rand(tensor.shape, generator=generator))
    return module


def scattered_encoder(name, **heads):
    """In float64, all heads alike."""
    encoder = scatter(Encoder(name, pretrained=False, **heads)).double()
    for head in (encoder.spatial_head, encoder.temporal_head):
        if head is not None:
            head.load_state_dict(encoder.frame_head.state_dict())
    return encoder


def frames_of(count=2, size=SIZE, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, 3, *size, generator=generator, dtype=torch.float64)


def by_hand(name, network, frames):
    """torchvision's last maps at stride 1, and what its last activation is given."""
    if name.startswith('resnext'):
        block = network.layer4[0]
        block.conv2.stride = block.downsample[0].stride = (1, 1)
        maps = network.maxpool(network.relu(network.bn1(network.conv1(frames))))
        for stage in (network.layer1, network.layer2, network.layer3):
            maps = stage(maps)
        first, second = network.layer4
        maps = first(maps)
        inner = F.relu(second.bn2(second.conv2(F.relu(second.bn1(second.conv1(maps))))))
        before = second.bn3(second.conv3(inner)) + maps
        return F.relu(before), before
    if name.startswith('regnet'):
        block = network.trunk_output.block4[0]
        block.f.b[0].stride = block.proj[0].stride = (1, 1)
        maps = network.trunk_output[:3](network.stem(frames))
        maps = network.trunk_output.block4[0](maps)
        before = maps + network.trunk_output.block4[1].f(maps)
        return F.relu(before), before
    if name.startswith('mobilenet'):
        network.features[14].conv[1][0].stride = (1, 1)
        conv, norm, _ = network.features[18]
        before = norm(conv(network.features[:18](frames)))
        return before.clamp(0, 6), before
    if name.startswith('efficientnet'):
        network.features[6][0].block[1][0].stride = (1, 1)
        conv, norm, _ = network.features[8]
        before = norm(conv(network.features[:8](frames)))
        return before / (1 + (-before).exp()), before
    norm, conv = network.features[6]
    maps = F.pad(norm(network.features[:6](frames)), (0, 1, 0, 1))
    maps = network.features[7](F.conv2d(maps, conv.weight, conv.bias))
    return maps, maps


def test_each_family_has_a_narrow_network():
    assert {FAMILY_OF[name] for name in NARROW_NETWORKS} == set(FAMILY_OF.values())


@pytest.mark.slow
@torch.no_grad()
@every_family
def test_maps_and_queries_are_torchvisions(name, networks):
    encoder = scattered_encoder(name).eval()
    network = networks[0].double().eval()
    # the same numbers in both, whose layers come in one order
    ours = [*encoder.trunk.modules(), *encoder.frame_head.modules()]
    ours = [module for module in ours if isinstance(module, NORMS)]
    theirs = [module for module in network.modules() if isinstance(module, NORMS)][: len(ours)]
    for one, other in zip(ours, theirs, strict=True):
        other.load_state_dict(one.state_dict())
    maps = encoder(frames_of())
    features, before = by_hand(name, network, frames_of())
    assert maps.frame_features.shape[2:] == (4, 2)
    assert references.relative_error(maps.frame_features, features) <= 1e-12
    assert references.relative_error(maps.spatial_queries, before) <= 1e-12
    assert references.relative_error(maps.temporal_queries, before.mean(dim=(2, 3))) <= 1e-12
    assert (before < 0).any()


@every_family
def test_a_pooled_query_trains_like_its_map(name, networks):
    """In training batch statistics are of all positions, and nothing runs on the average."""
    maps = scattered_encoder(name)(frames_of(3))
    found, expected = maps.temporal_queries, maps.spatial_queries.mean(dim=(2, 3))
    assert references.relative_error(found, expected) <= 1e-12


@torch.no_grad()
@every_family
def test_what_is_said_of_a_family_is_so(name, networks):
    """Its last activation, and whether a pooled query is shorter."""
    encoder, family = scattered_encoder(name).eval(), FAMILY_OF[name]
    maps = encoder(frames_of())
    activation = getattr(nn, family.activation or 'Identity')()
    assert torch.equal(activation(maps.spatial_queries), maps.frame_features)
    assert torch.equal(maps.spatial_queries, maps.frame_features) == (not family.activation)
    *_, last = encoder.temporal_head
    before = torch.rand(
        2, encoder.channels['conv5'][-2], 4, 2, dtype=torch.float64, generator=torch.Generator()
    )
    assert (family.query(last, before, True).shape[2:] == (1, 1)) == family.shortened


@pytest.mark.slow
@torch.no_grad()
@every_family
def test_channels_and_sizes_are_those_of_the_maps(name, networks):
    encoder = Encoder(name, pretrained=False)
    before = {key: tensor.clone() for key, tensor in encoder.state_dict().items()}
    for size in ((64, 32), (72, 40)):
        maps, shapes = torch.zeros(1, 3, *size), encoder.block_shapes(size)
        for stage in ('stem', 'conv2', 'conv3', 'conv4', 'conv5'):
            for block, shape in zip(getattr(encoder, stage), shapes[stage], strict=True):
                maps = block.eval()(maps)
                assert maps.shape[1:] == shape
            assert encoder.channels[stage] == tuple(shape[0] for shape in shapes[stage])
        assert encoder.map_size(size) == maps.shape[2:]
        encoder.train()
    assert encoder.dim == maps.shape[1]
    for key, tensor in encoder.state_dict().items():
        assert torch.equal(tensor, before[key]), key


STAGES = {  # channels of blocks of conv2 to conv5, as the networks were published
    'resnet50': ((256,) * 3, (512,) * 4, (1024,) * 6, (2048,) * 3),
    'regnet_y_400mf': ((48,), (104,) * 3, (208,) * 6, (440,) * 6),
    'mobilenet_v2': ((24,) * 2, (32,) * 3, (64,) * 4 + (96,) * 3, (160,) * 3 + (320, 1280)),
    'efficientnet_b0': ((24,) * 2, (40,) * 2, (80,) * 3 + (112,) * 3, (192,) * 4 + (320, 1280)),
    'convnext_tiny': ((96,) * 3, (192,) * 3, (384,) * 9, (768,) * 3),
}


@pytest.mark.parametrize('name', STAGES)
def test_a_stage_is_the_blocks_of_one_size(name):
    # torchvision counts a RegNet's widths with tensors, which must have numbers
    with torch.device('cpu' if name.startswith('regnet') else 'meta'):
        encoder = Encoder(name, spatial=False, temporal=False, pretrained=False)
    shapes = encoder.block_shapes((256, 128))
    for number, channels, stride in zip((2, 3, 4, 5), STAGES[name], (4, 8, 16, 16), strict=True):
        found = shapes[f'conv{number}']
        assert found == [(size, 256 // stride, 128 // stride) for size in channels], number
    dropped = [m.p for m in encoder.modules() if hasattr(m, 'p')]
    assert not any(dropped)  # no stochastic depth


def test_looking_at_shapes_leaves_modes_alone():
    blocks = [nn.BatchNorm2d(3).eval(), nn.Sequential(nn.Dropout())]
    assert shapes_through(blocks, (3, 4, 2)) == [(3, 4, 2)] * 2
    assert [m.training for block in blocks for m in block.modules()] == [False, True, True]


# --- weights of other programs ---


def flat_names(state):
    """Under the names of MobileNetV2's first implementation: layers of a block, activations too,
    numbered one after the other."""
    renamed = {}
    for key, tensor in state.items():
        parts = key.split('.')
        if len(parts) > 3 and parts[2] == 'conv':
            inner = [int(part) for part in parts[3:-1]]
            groups = 1 if parts[1] == '1' else 2  # of convolution, norm, activation
            last = 3 * groups + inner[0] - groups
            parts[3:-1] = [str(3 * inner[0] + inner[1] if len(inner) == 2 else last)]
        renamed['.'.join(parts)] = tensor
    return renamed


@pytest.mark.parametrize(('prefix', 'classes'), [('', False), ('module.', True)])
def test_weights_of_the_first_mobilenet_are_taken(prefix, classes, networks, tmp_path):
    torch.manual_seed(3)
    network = scatter(NARROW_NETWORKS['mobilenet_v2']())
    state = network.state_dict()
    flat = flat_names(state)
    assert {'features.1.conv.4.bias', 'features.2.conv.7.bias'} < flat.keys() - state.keys()
    kept = {prefix + k: v for k, v in flat.items() if classes or not k.startswith('classifier')}
    torch.save(kept, tmp_path / 'weights.pt')
    encoder = Encoder('mobilenet_v2', weights=str(tmp_path / 'weights.pt'))
    found = list(encoder.trunk.state_dict().values()) + list(encoder.conv5.state_dict().values())
    for tensor, expected in zip(found, network.features.state_dict().values(), strict=True):
        assert torch.equal(tensor, expected)


@pytest.mark.parametrize('name', ['mobilenet_v2', 'convnext_tiny'])
def test_the_encoder_of_a_checkpoint_is_where_another_starts(name, networks, tmp_path):
    trained = scattered_encoder(name)
    with torch.no_grad():  # no copies of each other any more
        for parameter in trained.spatial_head.parameters():
            parameter.add_(1)
    state = {f'encoder.{key}': tensor for key, tensor in trained.float().state_dict().items()}
    torch.save({'state_dict': state}, tmp_path / 'model.pth.tar-3')
    found = Encoder(name, weights=str(tmp_path / 'model.pth.tar-3')).state_dict()
    own = trained.state_dict()
    for key in own:
        expected = own[key.replace('spatial_head', 'frame_head')]
        assert torch.equal(found[key], expected), key


@every_family
def test_the_stem_of_the_released_code_is_that_of_a_resnet(name, networks):
    if name.startswith('resn'):
        stem = Encoder(name, pretrained=False, stem_relu=False).stem
        assert not any(isinstance(layer, nn.ReLU) for layer in stem)
        return
    with pytest.raises(InputError, match=f'stmn.stem_relu False: the stem of {name} has no ReLU'):
        Encoder(name, pretrained=False, stem_relu=False)


def test_weights_of_another_network_are_refused(networks, tmp_path):
    torch.save(NARROW_NETWORKS['efficientnet_b0']().state_dict(), tmp_path / 'weights.pt')
    with pytest.raises(InputError, match=r'stmn.backbone_weights: .* does not fit mobilenet_v2'):
        Encoder('mobilenet_v2', weights=str(tmp_path / 'weights.pt'))


# --- batch norms in the convolutions ---


@pytest.mark.slow
@torch.no_grad()
@every_family
def test_a_folded_encoder_gives_the_same_maps(name, networks):
    encoder = Encoder(name, pretrained=False).double()
    one = FoldedEncoder(encoder)
    for seed in range(2):
        scatter(encoder, seed)
        for parameter in encoder.parameters():
            parameter.add_(0.01 * torch.randn_like(parameter))
        one.refold()
        expected, found = encoder.eval()(frames_of()), one.folded(frames_of())
        for theirs, ours in zip(expected[:3], found[:3], strict=True):
            assert references.relative_error(ours, theirs) <= 1e-10
    left = [m for m in one.folded.modules() if isinstance(m, nn.BatchNorm2d)]
    assert not left and bool(one.pairs) == (name != 'convnext_tiny')


class Pathological(nn.Module):
    """Batch norms of which each has a reason not to be part of a convolution."""

    def __init__(self):
        super().__init__()
        self.conv, self.shared, self.biased, self.standardised = (
            nn.Conv2d(3, 3, 3, padding=1, bias=bias) for bias in (False, False, True, False)
        )
        self.plain, self.lonely, self.twice, self.after, self.of_weight = (
            nn.BatchNorm2d(3) for _ in range(5)
        )

    def forward(self, x):
        x = self.plain(self.conv(x))
        x = self.lonely(x.relu())  # of no convolution
        y = self.shared(x)
        x = self.twice(y) + y  # not it alone
        x = self.after(self.biased(x).relu_())  # not the convolution's output any more
        weight = self.standardised.weight
        return self.of_weight(F.conv2d(x, weight - weight.mean(), padding=1))  # another weight


@torch.no_grad()
def test_a_batch_norm_that_is_not_alone_behind_a_convolution_stays():
    torch.manual_seed(0)
    network = scatter(Pathological()).double()
    one = FoldedEncoder(network)
    assert one.pairs == [('conv', 'plain')]
    found, expected = one.folded(frames_of()), network.eval()(frames_of())
    assert references.relative_error(found, expected) <= 1e-12


# --- the switches of training ---


@pytest.mark.parametrize('name', ['mobilenet_v2', 'convnext_tiny'])
def test_checkpointed_activations_give_the_same_step(name, networks):
    results = []
    for saving in (False, True):
        encoder = scattered_encoder(name)
        encoder.checkpoint_activations = saving
        maps = encoder(frames_of(2))
        sum(x.square().mean() for x in maps).backward()
        gradients = [parameter.grad for parameter in encoder.parameters()]
        results.append([*gradients, *encoder.buffers(), *maps])
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-12)


@slow
@pytest.mark.parametrize('name', ['mobilenet_v2', 'convnext_tiny'])
def test_a_compiled_encoder_is_one_graph(name, networks):
    encoder = scattered_encoder(name, spatial=False)
    compiled = torch.compile(copy.deepcopy(encoder), backend='eager', fullgraph=True)
    maps, expected = compiled(frames_of()), encoder(frames_of())
    assert torch.equal(maps.frame_features, expected.frame_features)
    assert torch.equal(maps.temporal_queries, expected.temporal_queries)


# --- every architecture ---


def model_of(arch, name, height=64):
    words = f'model.name {arch} data.type video data.height {height} data.width 32 '
    words += f'video.seq_len 4 stmn.backbone {name} {NARROW.get(arch, "")}'
    config = flatten(load_config('', words.split()))
    torch.manual_seed(0)
    model = build_video_model(ModelSpec.from_config(config), CLASSES, pretrained=False)
    return scattered(model.double()).train()


def clips_of(count, height=64):
    """(count, 4, 3, height, 32) and identities, two clips of each."""
    return frames_of(4 * count, (height, 32)).unflatten(0, (count, 4)), torch.arange(count) // 2


def pairs_of_architecture_and_encoder():
    """Every architecture on the encoder that is least like a ResNet, and STMN on all."""
    for arch in NAMES:
        for name in NARROW_NETWORKS if arch in ('stmn', 'm3d') else ('mobilenet_v2',):
            quick = arch == 'stmn' or (arch, name) == ('m3d', 'mobilenet_v2')
            yield pytest.param(arch, name, marks=() if quick else slow)


@pytest.mark.slow
@pytest.mark.parametrize(('arch', 'name'), list(pairs_of_architecture_and_encoder()))
def test_every_architecture_takes_every_encoder(arch, name, networks):
    """But for M3D, which says why not; the documents say the same."""
    if arch == 'm3d' and not name.startswith('resn'):
        with pytest.raises(InputError, match=f'm3d.backbone {name}: .* takes resnet18, .*'):
            model_of(arch, name)
        return
    height = 128 if arch == 'mgh' else 64  # it cuts maps into eight parts
    model, (clips, pids) = model_of(arch, name, height), clips_of(4, height)
    losses = model.losses(model(clips), pids, Recipe())
    sum(losses.values()).backward()
    encoders = [module for module in model.modules() if isinstance(module, Encoder)]
    assert encoders and all(encoder.name == name for encoder in encoders)
    reached = [p.grad for encoder in encoders for p in encoder.frame_head.parameters()]
    assert reached and all(gradient.isfinite().all() for gradient in reached)
    model.eval()
    with torch.no_grad():
        folded, plain = (InferenceModel(model, 'cpu', fold=fold) for fold in (True, False))
        expected = plain.encode_clips(clips[:2])
        torch.testing.assert_close(folded.encode_clips(clips[:2]), expected, rtol=1e-9, atol=1e-9)


@slow
@torch.no_grad()
@pytest.mark.parametrize('name', ['mobilenet_v2', 'convnext_tiny'])
def test_an_exported_stmn_gives_the_same(name, networks):
    model, clips = model_of('stmn', name).eval(), clips_of(2)[0]
    program = torch.export.export(model, (clips,), strict=False).module()
    torch.testing.assert_close(program(clips), model(clips), rtol=1e-9, atol=1e-9)


# --- the document ---


def table_of(repository, heading):
    """Lines of the first table below a heading of docs/encoders.md, as lists of cells."""
    text = (repository / 'docs' / 'encoders.md').read_text(encoding='utf-8')
    lines = text.split(f'## {heading}')[1].split('\n## ')[0].splitlines()
    rows = [line.strip('| ').split(' | ') for line in lines if line.startswith('| ')]
    return rows[1:]


def test_the_document_says_what_works_with_which(repository):
    rows = table_of(repository, 'Compatibility')
    families = {}
    assert rows.pop()[0] == '`timm:NAME`'  # see test_timm_networks.py
    for names, activation, query, folded in rows:
        known = [n for n in BACKBONES for one in names.split(', ') if fnmatch(n, one.strip('`'))]
        families |= {name: (activation, query, folded) for name in known}
    assert families.keys() == set(BACKBONES)
    for name, (activation, query, folded) in families.items():
        family = FAMILY_OF[name]
        assert activation == (family.activation or 'nothing')
        assert query == ('shortened' if family.shortened else 'whole')
        assert folded == ('none: it has none' if name.startswith('convnext') else 'all')


def costs():
    quick = ('resnet18', 'mobilenet_v2')
    return [pytest.param(name, marks=() if name in quick else slow) for name in BACKBONES]


def test_every_network_has_its_costs_in_the_document(repository):
    rows = table_of(repository, 'What a network costs')
    assert [row[0].strip('`') for row in rows] == list(BACKBONES)


@pytest.mark.slow
@torch.no_grad()
@pytest.mark.parametrize('name', costs())
def test_the_costs_in_the_document(name, repository):
    config = STMN.Config(backbone=name)
    # torchvision counts a RegNet's widths with tensors, which must have numbers
    with torch.device('cpu' if name.startswith('regnet') else 'meta'):
        model = STMN(625, 6, config, pretrained=False).to('meta').eval()
    size = sum(p.numel() for key, p in model.named_parameters() if 'classifier' not in key)
    with FlopCounterMode(display=False) as of_frame:
        vectors = model.encode_frames(torch.empty(1, 3, 256, 128, device='meta'))
    with FlopCounterMode(display=False) as of_clip:
        model.embed(vectors.unsqueeze(1).expand(-1, 6, -1))
    gflops = (of_frame.get_total_flops() + of_clip.get_total_flops() / 6) / 1e9
    found = [f'`{name}`', f'{model.encoder.dim:,}', f'{size / 1e6:.1f}', f'{gflops:.2f}']
    assert found in table_of(repository, 'What a network costs')
    assert model.encoder.map_size((256, 128)) == (16, 8)
