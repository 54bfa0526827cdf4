"""Part-Aligned: bilinear pooling, count sketch, pose network, all triplets, sizes and costs."""

import math

import numpy as np
import pytest
import references.part_aligned as references
import torch
import torchvision
from references.stmn import relative_error
from torch.utils.flop_counter import FlopCounterMode

from stmn_plugin.config import load_config
from stmn_plugin.errors import InputError
from stmn_plugin.losses import all_triplets_loss
from stmn_plugin.losses.recipe import Recipe
from stmn_plugin.models import pose_maps
from stmn_plugin.models.bilinear import CountSketch, bilinear
from stmn_plugin.models.pose_maps import MAPS, PoseMaps, gives_maps, pose_input
from stmn_plugin.models.systems.part_aligned import PartAligned, Projection, pooled

IDS, T, CA, CP, K, D = 625, 3, 7, 5, 6, 16
SMALL = {
    'backbone': 'resnet18', 'appearance_dim': 8, 'part_dim': 4, 'sketch_dim': 16,
    'part_width': 0.0625,
}  # fmt: skip


def random(*shape, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def published(**keys):
    """With ResNet-50 and 625 identities, without memory."""
    with torch.device('meta'):
        return PartAligned(IDS, 6, PartAligned.Config(**keys), pretrained=False)


def small(seed=0, **keys):
    torch.manual_seed(seed)
    config = PartAligned.Config(**{**SMALL, **keys})
    return PartAligned(4, 3, config, pretrained=False).double().eval()


def count(*modules):
    return sum(one.numel() for module in modules for one in module.parameters())


def flops(run):
    with FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops() / 1e9


@pytest.fixture
def sketch():
    return CountSketch(CA, CP, D, seed=3).double()


@pytest.fixture
def hashes(sketch):
    return sketch.h1, sketch.s1, sketch.h2, sketch.s2


# --- sizes and costs ---


def test_parameters_are_those_of_the_released_network():
    model = published()
    layers = model.pose.layers

    def stage(start, mark):
        names = [name for name in layers if name.startswith(start) and mark in name]
        return count(*(layers[name] for name in names))

    assert count(*(layers[name] for name in pose_maps.VGG)) == 5_865_536
    assert count(layers['conv4_3_CPM'], layers['conv4_4_CPM']) == 1_474_944
    assert stage('conv5_', 'CPM') == 1_046_841 and stage('Mconv', 'stage2') == 8_784_825
    assert count(model.parts) == 213_248
    assert count(model.pose, model.parts) == 17_385_394
    assert count(model.appearance) == 1_049_088 and count(model.encoder) == 23_508_032
    assert count(model.sketch) == 0
    assert count(model.encoder, model.appearance, model.pose, model.parts) == 41_942_514
    assert count(model) == 41_942_514 + 512 + 512 * IDS


def test_hashes_are_saved():
    model = small()
    assert {f'sketch.{name}' for name in ('h1', 's1', 'h2', 's2')} <= model.state_dict().keys()
    other = small(hash_seed=2)
    assert not torch.equal(other.sketch.h1, model.sketch.h1)
    other.load_state_dict(model.state_dict())
    frames = random(2, 3, 64, 32)
    with torch.no_grad():
        assert torch.equal(other(frames), model(frames))


@pytest.mark.slow
@pytest.mark.parametrize('part_input, gflops, part', [('half', 95.3, 7.51), ('full', 229.4, 29.86)])
def test_cost_of_a_clip(part_input, gflops, part):
    """The published sum leaves out the product of the two maps, 0.017 GFLOPs a frame."""
    model = published(part_input=part_input).eval()
    with torch.device('meta'):
        clips = torch.empty(1, 6, 3, 256, 128)
        frames = torch.empty(1, 3, *((128, 64) if part_input == 'half' else (256, 128)))
        stacked = torch.empty(1, 185, 16, 8)
    pooling = 6 * 2 * 512 * 128 * 128 / 1e9
    assert flops(lambda: model(clips)) - pooling == pytest.approx(gflops, abs=0.1)
    of_parts = flops(lambda: model.pose(frames)) + flops(lambda: model.parts(stacked))
    assert of_parts == pytest.approx(part, abs=0.01)


def test_shapes():
    model = published().eval()
    with torch.device('meta'):
        frames = torch.empty(2, 3, 256, 128)
        assert model.encode_frames(frames).shape == (2, 512)
        found = model._frame_parts(frames)
    assert found.maps.shape == (2, 2048, 16, 8)
    assert found.appearance.shape == (2, 512, 128) and found.parts.shape == (2, 128, 128)


# --- bilinear pooling and its sketch ---


def test_sketch_equals_its_references(sketch, hashes):
    a, p = random(T, CA, K).requires_grad_(), random(T, CP, K, seed=2).requires_grad_()
    found = sketch(bilinear(a, p))
    expected = torch.stack(
        [
            references.sketch(references.products(*frame), *hashes, D)
            for frame in zip(a, p, strict=True)
        ]
    )
    assert relative_error(found, expected) <= 1e-9
    weights = random(T, D, seed=3)
    for ours, theirs in zip(
        torch.autograd.grad((found * weights).sum(), [a, p]),
        torch.autograd.grad((expected * weights).sum(), [a, p]),
        strict=True,
    ):
        assert relative_error(ours, theirs) <= 1e-9
    for frame, c in zip(zip(a.detach(), p.detach(), strict=True), found, strict=True):
        assert relative_error(references.sketch_by_fourier(*frame, *hashes, D), c) <= 1e-10


def test_one_entry_has_its_place(sketch, hashes):
    h1, s1, h2, s2 = hashes
    for i in range(CA):
        for j in range(CP):
            a, p = torch.zeros(1, CA, 1), torch.zeros(1, CP, 1)
            a[0, i], p[0, j] = 1, 1
            c = sketch(bilinear(a.double(), p.double()))[0]
            assert c.nonzero().flatten().tolist() == [(h1[i] + h2[j]) % D]
            assert c.sum() == s1[i] * s2[j]


def test_sketch_is_bilinear(sketch):
    a, p, q = random(T, CA, K), random(T, CP, K, seed=2), random(T, CP, K, seed=3)
    c = sketch(bilinear(a, p))
    assert relative_error(sketch(bilinear(2 * a, p)), 2 * c) <= 1e-12
    both = sketch(bilinear(a, p + q))
    assert relative_error(both, c + sketch(bilinear(a, q))) <= 1e-12
    f = torch.nn.functional.normalize
    assert relative_error(f(sketch(bilinear(3 * a, 0.5 * p))), f(c)) <= 1e-12
    # and its adjoint
    x = random(T, D, seed=4)
    inner = (sketch.spread(x) * bilinear(a, p)).sum()
    assert relative_error(inner, (x * c).sum()) <= 1e-12


def test_positions_have_no_order_but_the_same_in_both(sketch):
    a, p, order = random(T, CA, K), random(T, CP, K, seed=2), torch.tensor([4, 2, 0, 5, 1, 3])
    c = sketch(bilinear(a, p))
    assert relative_error(sketch(bilinear(a[..., order], p[..., order])), c) <= 1e-12
    assert relative_error(sketch(bilinear(a[..., order], p)), c) > 0.01
    flipped = [maps.view(T, -1, 3, 2).flip(3).flatten(2) for maps in (a, p)]
    assert relative_error(sketch(bilinear(*flipped)), c) <= 1e-12


def test_inner_products_compare_like_parts():
    a1, a2 = random(2, CA, K)
    p1, p2 = random(2, CP, K, seed=2)
    expected = sum(
        (a1[:, k] @ a2[:, other]) * (p1[:, k] @ p2[:, other])
        for k in range(K)
        for other in range(K)
    )
    m1, m2 = bilinear(torch.stack([a1, a2]), torch.stack([p1, p2]))
    assert relative_error((m1 * m2).sum(), expected) <= 1e-10


def test_sketches_keep_inner_products_on_average():
    m1, m2 = bilinear(random(2, 32, 20), random(2, 16, 20, seed=2).abs())
    m2 = m1 + 0.5 * m2
    found = []
    for seed in range(200):
        c1, c2 = CountSketch(32, 16, 512, seed=10 * seed).double()(torch.stack([m1, m2]))
        found.append((c1 @ c2).item())
    size = (m1.norm() * m2.norm()).item()
    assert abs(np.mean(found) - (m1 * m2).sum().item()) <= 0.02 * size
    assert 0.01 < np.std(found) / size < 0.1


def test_equal_parts_everywhere_are_average_pooling(sketch):
    a, p = random(2, CA, K), random(1, CP, 1, seed=2).expand(2, CP, K)
    other = a.roll(2, dims=2) + 0.3 * (a - a.roll(1, dims=2))  # the same sum over positions
    assert relative_error(sketch(bilinear(other, p)), sketch(bilinear(a, p))) <= 1e-12


def test_hashes_come_from_their_seed_alone():
    before = np.random.get_state()[1].copy(), torch.get_rng_state()
    sketches = [CountSketch(512, 128, 512) for _ in range(2)]
    assert (np.random.get_state()[1] == before[0]).all()
    assert torch.equal(torch.get_rng_state(), before[1])
    first, second = (one.state_dict() for one in sketches)
    assert all(torch.equal(first[name], second[name]) for name in first)
    for name, seed, high in (('h1', 1, 512), ('s1', 3, 2), ('h2', 5, 512), ('s2', 7, 2)):
        numbers = np.random.RandomState(seed).randint(high, size=512 if '1' in name else 128)
        expected = 2 * numbers - 1 if 's' in name else numbers
        assert first[name].tolist() == expected.tolist()


# --- clips ---


def test_clip_of_frames():
    sketches = random(4, D).requires_grad_()
    f = torch.nn.functional.normalize(sketches, dim=1)
    expected = references.clip_feature(sketches)
    found = pooled(f.unsqueeze(0))[0]
    assert relative_error(found, expected) <= 1e-9
    weights = random(D, seed=2)
    ours, theirs = (torch.autograd.grad((x @ weights), sketches)[0] for x in (found, expected))
    assert relative_error(ours, theirs) <= 1e-9
    assert found.norm() <= 1
    same = pooled(f[:1].expand(5, -1).unsqueeze(0))[0]
    assert relative_error(same, f[0]) <= 1e-12 and same.norm().item() == pytest.approx(1)
    mixed = f[[2, 0, 3, 1]].unsqueeze(0)
    assert relative_error(pooled(mixed)[0], found) <= 1e-12
    largest = torch.stack([max(f[:, n]) for n in range(D)])
    assert relative_error(pooled(mixed, 'max')[0], largest / largest.norm()) <= 1e-12


@pytest.mark.slow
@torch.no_grad()
def test_the_whole_is_its_parts():
    for keys in ({}, {'part_input': 'full', 'pooling': 'max'}):
        model = small(**keys)
        clips = random(2, 3, 3, 64, 32)
        assert model.weighs_frames == (not keys)
        frames = clips.flatten(0, 1)
        maps = model.encoder(frames).frame_features
        halves = frames.view(6, 3, 32, 2, 16, 2).mean(dim=(3, 5))
        stacked = model.pose(halves if not keys else frames)
        if keys:
            stacked = stacked.view(6, -1, 4, 2, 2, 2).amax(dim=(3, 5))
        vectors = []
        for a, p in zip(model.appearance(maps), model.parts(stacked), strict=True):
            matrix = references.products(a.flatten(1), p.flatten(1))
            of = model.sketch
            c = references.sketch(matrix, of.h1, of.s1, of.h2, of.s2, 16)
            vectors.append(c / c.norm())
        vectors = torch.stack(vectors)
        assert relative_error(model.encode_frames(frames), vectors) <= 1e-9
        expected = pooled(vectors.unflatten(0, (2, 3)), model.config.pooling)
        assert relative_error(model(clips), expected) <= 1e-9
        explained = model.explain(clips)
        assert relative_error(explained['clip_feature'], expected) <= 1e-9
        shares, norms = explained['position_shares'], explained['part_norms']
        assert (shares.sum(dim=(2, 3)) - 1).abs().max() < 1e-9
        a, p = model.appearance(maps)[1], model.parts(stacked)[1]  # the second frame of clip 0
        pieces = [
            references.sketch(
                references.products(a[:, i, j, None], p[:, i, j, None]),
                of.h1, of.s1, of.h2, of.s2, 16,
            )
            for i in range(4) for j in range(2)
        ]  # fmt: skip
        whole = sum(pieces)
        expected = torch.stack([piece @ whole / (whole @ whole) for piece in pieces])
        assert relative_error(shares[0, 1].flatten(), expected) <= 1e-9
        assert relative_error(norms[0, 1], p.square().sum(dim=0).sqrt()) <= 1e-12


def test_streams_are_signed_and_normalised():
    model = small().train()
    for stream, channels in ((model.appearance, 512), (model.parts, model.pose.channels)):
        maps = stream(random(4, channels, 4, 2).abs())
        assert (maps < 0).any() and not list(stream.norm.parameters())
        assert maps.mean(dim=(0, 2, 3)).abs().max() < 1e-9
        assert (maps.var(dim=(0, 2, 3), unbiased=False) - 1).abs().max() < 1e-3


def test_start_of_the_streams():
    torch.manual_seed(0)
    for channels, outputs, kernel in ((60, 40, 1), (20, 30, 3)):
        projection = Projection(channels, outputs, kernel)
        conv, norm = projection.conv, projection.norm
        bound = (6 / ((channels + outputs) * kernel**2)) ** 0.5  # Xavier uniform
        assert 0.98 * bound < conv.weight.abs().max() <= bound and not conv.bias.any()
        assert conv.weight.std().item() == pytest.approx(bound / 3**0.5, rel=0.04)
        assert conv.padding == (kernel // 2, kernel // 2) and norm.eps == 1e-5
    model = published()
    assert model.appearance.conv.kernel_size == (1, 1)
    assert model.parts.conv.kernel_size == (3, 3)
    config = PartAligned.Config()
    assert (config.appearance_dim, config.part_dim, config.sketch_dim) == (512, 128, 512)
    assert (config.hash_seed, config.part_input, config.part_width) == (1, 'half', 1)
    assert (config.pooling, config.metric_loss, config.margin) == ('mean', 'batch_hard', 0.2)
    assert config.vgg_weights == config.pose_weights == ''


def test_half_precision_is_of_the_convolutions_alone():
    model = small().float().train()
    seen = []
    for layer in (model.appearance.norm, model.parts.norm, model.sketch, model.classifier):
        layer.register_forward_hook(lambda _, given, out: seen.extend([given[0].dtype, out.dtype]))
    with torch.autocast('cpu', torch.bfloat16):
        outputs = model(random(2, 2, 3, 64, 32).float())
    assert seen == 8 * [torch.float32] and outputs.feature.dtype == torch.float32


def test_a_black_frame_without_contrast_has_a_descriptor():
    assert torch.nn.functional.normalize(torch.zeros(1, 4), dim=1).isfinite().all()
    with torch.no_grad():
        assert small()(torch.zeros(2, 3, 3, 64, 32, dtype=torch.float64)).isfinite().all()


# --- pose network ---


@torch.no_grad()
def test_pose_network_layer_by_layer():
    """Against its layers called one after the other by their published names."""
    torch.manual_seed(0)
    pose = PoseMaps(0.0625).double()
    frames = random(2, 3, 20, 12)  # rounded up when pooled
    layers = {name: layer for name, layer in pose.layers.items()}
    assert all(layer.bias is not None for layer in layers.values()) and len(layers) == 36
    for layer in layers.values():
        layer.bias += random(len(layer.bias), seed=len(layer.bias))

    def relu(name, maps):
        return layers[name](maps).clamp(min=0)

    def pool(maps):
        return torch.nn.functional.max_pool2d(maps, 2, 2, ceil_mode=True)

    maps = pool(relu('conv1_2', relu('conv1_1', frames)))
    maps = pool(relu('conv2_2', relu('conv2_1', maps)))
    for name in ('conv3_1', 'conv3_2', 'conv3_3', 'conv3_4'):
        maps = relu(name, maps)
    maps = pool(maps)
    for name in ('conv4_1', 'conv4_2', 'conv4_3_CPM', 'conv4_4_CPM'):
        maps = relu(name, maps)
    trunk, branches = maps, []
    for branch in ('L1', 'L2'):
        maps = trunk
        for number in (1, 2, 3, 4):
            maps = relu(f'conv5_{number}_CPM_{branch}', maps)
        branches.append(layers[f'conv5_5_CPM_{branch}'](maps))
    stage, branches = torch.cat([*branches, trunk], dim=1), []
    for branch in ('L1', 'L2'):
        maps = stage
        for number in (1, 2, 3, 4, 5, 6):
            maps = relu(f'Mconv{number}_stage2_{branch}', maps)
        branches.append(layers[f'Mconv7_stage2_{branch}'](maps))
    expected = torch.cat([*branches, trunk], dim=1)
    assert [maps.shape[1] for maps in branches] == [38, 19] == list(MAPS.values())
    assert expected.shape == (2, 38 + 19 + 8, 3, 2)
    assert relative_error(pose(frames), expected) <= 1e-12
    given = PoseMaps(0.0625, takes_pose_input=True).double()
    given.load_state_dict(pose.state_dict())
    assert relative_error(given(frames), pose(pose_input(frames))) <= 1e-12


def test_start_of_the_pose_network():
    torch.manual_seed(0)
    for name, layer in PoseMaps(0.25).layers.items():
        size = layer.kernel_size[0] ** 2
        expected = 0.01 if gives_maps(name) else math.sqrt(2 / (layer.out_channels * size))
        assert layer.weight.std().item() == pytest.approx(expected, rel=0.15), name
        assert not layer.bias.any()


def test_colours_of_the_pose_model():
    colour = torch.tensor([0.2, 0.4, 1.0], dtype=torch.float64)  # red, green, blue
    mean, std = torch.tensor([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]], dtype=torch.float64)
    frames = ((colour - mean) / std).view(1, 3, 1, 1)
    expected = [255 / 256 - 0.5, 102 / 256 - 0.5, 51 / 256 - 0.5]
    assert pose_input(frames).flatten().tolist() == pytest.approx(expected)


@pytest.fixture
def narrow(monkeypatch):
    """Files of weights fit a narrow network, too."""
    monkeypatch.setattr(pose_maps, 'VGG', {n: (4, k) for n, (_, k) in pose_maps.VGG.items()})
    narrow_trunk = dict.fromkeys(pose_maps.TRUNK, 4)
    monkeypatch.setattr(pose_maps, 'TRUNK', narrow_trunk)
    stages = {n: tuple((4, k) for _, k in layers) for n, layers in pose_maps.STAGES.items()}
    monkeypatch.setattr(pose_maps, 'STAGES', stages)


def test_a_pose_model_needs_the_frames_it_can_undo(tmp_path):
    path = tmp_path / 'pose.pth'
    path.touch()
    words = ['data.type', 'video', 'model.name', 'part_aligned', 'data.norm_mean', '[0.5,0.5,0.5]']
    load_config(opts=words)
    words += ['part_aligned.pose_weights', str(path)]
    with pytest.raises(InputError, match=r'^data.norm_mean must be .*0\.485.* got \[0\.5'):
        load_config(opts=words)
    load_config(opts=[*words, 'data.norm_mean', '[0.485,0.456,0.406]'])


def test_weights_of_a_pose_model(narrow, tmp_path, messages):
    torch.manual_seed(0)
    pose, other, path = PoseMaps(), PoseMaps(), str(tmp_path / 'pose.pth')
    state = {name: torch.randn_like(tensor) for name, tensor in pose.layers.state_dict().items()}
    later = {'Mconv1_stage3_L1.weight': torch.zeros(4, 4, 7, 7)}
    torch.save({**state, **later}, path)
    other.load_pose_model(path, 'part_aligned')
    assert all(torch.equal(state[name], one) for name, one in other.layers.state_dict().items())
    assert 'starts from the pose model' in messages()
    state.pop('conv4_4_CPM.bias')
    torch.save(state, path)
    with pytest.raises(InputError, match=r'^part_aligned.pose_weights: .* first conv4_4_CPM.bias'):
        other.load_pose_model(path, 'part_aligned')
    with pytest.raises(InputError, match=r'^part_aligned.pose_weights: no file'):
        other.load_pose_model(str(tmp_path / 'none.pth'), 'part_aligned')


def test_weights_of_vgg(narrow, tmp_path, messages, monkeypatch):
    torch.manual_seed(0)
    pose, path = PoseMaps(), str(tmp_path / 'vgg.pth')
    before = {name: tensor.clone() for name, tensor in pose.layers.state_dict().items()}
    state = {'classifier.0.weight': torch.zeros(3, 3), 'features.34.weight': torch.zeros(2)}
    for name, (_, number) in pose_maps.VGG.items():
        for kind in ('weight', 'bias'):
            state[f'features.{number}.{kind}'] = torch.randn_like(before[f'{name}.{kind}'])
    torch.save(state, path)
    pose.load_vgg(path, 'part_aligned')
    assert 'from ImageNet (VGG-19), not from poses' in messages()
    for name, tensor in pose.layers.state_dict().items():
        layer, kind = name.split('.')
        loaded = layer in pose_maps.VGG
        expected = state[f'features.{pose_maps.VGG[layer][1]}.{kind}'] if loaded else before[name]
        assert torch.equal(tensor, expected), name
    del state['features.5.weight']
    torch.save(state, path)
    with pytest.raises(InputError, match=r'^part_aligned.vgg_weights: .* first conv2_1.weight'):
        pose.load_vgg(path, 'part_aligned')

    def refuse(*_, **__):
        raise OSError('no route to host')

    names = torchvision.models.WeightsEnum.get_state_dict.__globals__
    monkeypatch.setitem(names, 'load_state_dict_from_url', refuse)
    with pytest.raises(InputError, match='of vgg19.*no route.*part_aligned.vgg_weights PATH'):
        pose.load_vgg('', 'part_aligned')


def test_layers_of_vgg_are_torchvisions():
    with torch.device('meta'):
        features, pose = torchvision.models.vgg19().features, PoseMaps()
    for name, (_, number) in pose_maps.VGG.items():
        assert features[number].weight.shape == pose.layers[name].weight.shape


def test_what_the_part_stream_starts_from(monkeypatch):
    """Narrow ones take no file."""
    started = []
    for kind in ('vgg', 'pose_model'):
        monkeypatch.setattr(
            PoseMaps,
            f'load_{kind}',
            lambda _, path, section, kind=kind: started.append((kind, path)),
        )
    monkeypatch.setattr('stmn_plugin.models.encoder.load_backbone_weights', lambda *_: None)
    kept = {**SMALL, 'part_width': 1.0}
    with torch.device('meta'):
        for keys in ({}, {'vgg_weights': 'a'}, {'pose_weights': 'b'}, {'vgg_weights': 'random'}):
            model = PartAligned(2, 3, PartAligned.Config(**kept, **keys))
            assert model.pose.takes_pose_input == ('pose_weights' in keys)
        assert started == [('vgg', ''), ('vgg', 'a'), ('pose_model', 'b')]
        PartAligned(2, 3, PartAligned.Config(**SMALL, vgg_weights='random'))
        for keys in ({}, {'vgg_weights': 'random', 'pose_weights': 'b'}):
            with pytest.raises(InputError, match=r'^part_aligned.part_width 0.0625: '):
                PartAligned(2, 3, PartAligned.Config(**SMALL, **keys))


# --- all triplets ---


def test_all_triplets_by_hand():
    half, up = math.sqrt(0.1) / 2, 0.59161
    features = torch.tensor(
        [[half, 0, 0], [-half, 0, 0], [0, half, up], [0, -half, up]], dtype=torch.float64
    ).requires_grad_()
    pids = torch.tensor([5, 5, 2, 2])
    squares = torch.cdist(features, features).square()
    assert squares[0, 1].item() == pytest.approx(0.1)
    assert squares[:2, 2:].flatten().tolist() == pytest.approx([0.4] * 4, abs=1e-5)
    loss = all_triplets_loss(features, pids, 0.2)
    loss.backward()
    assert loss.item() == 0 and not features.grad.any()
    assert all_triplets_loss(features, pids, 0.4).item() == pytest.approx(0.1, abs=1e-5)
    assert all_triplets_loss(features, torch.zeros(4), 0.2).item() == 0  # no negative
    with pytest.raises(ValueError, match=r'pids of shape \(B,\), got \(4, 3\) and \(3,\)'):
        all_triplets_loss(features, pids[:3])


@pytest.mark.parametrize('margin', [0.2, 1.0])
def test_all_triplets_equal_their_reference(margin):
    features = (0.3 * random(7, 4)).requires_grad_()
    pids = torch.tensor([0, 1, 0, 2, 1, 0, 2])
    found = all_triplets_loss(features, pids, margin)
    expected = references.all_triplets(features, pids, margin)
    assert found > 0 and relative_error(found, expected) <= 1e-9
    ours, theirs = (torch.autograd.grad(loss, features)[0] for loss in (found, expected))
    assert relative_error(ours, theirs) <= 1e-9
    # a tracklet drawn twice has a finite gradient
    twice = features.detach()[[0, 0, 1, 2]].requires_grad_()
    all_triplets_loss(twice, torch.tensor([0, 0, 1, 1]), margin).backward()
    assert twice.grad.isfinite().all()


@pytest.mark.slow
def test_losses_are_those_of_the_clip():
    clips, pids = random(4, 2, 3, 32, 16), torch.tensor([0, 0, 1, 1])
    recipe = Recipe(triplet_weight=3.0)
    outputs = {}
    for kind in ('batch_hard', 'all_triplets'):
        model = small(metric_loss=kind, margin=0.7).train()
        outputs[kind] = model.losses(model(clips), pids, recipe)
        feature = model(clips).feature
        logits = model.classifier(model.bnneck(feature))
        wanted = recipe.cross_entropy(logits, pids)
        assert relative_error(outputs[kind]['cross_entropy'], wanted) <= 1e-9
    assert outputs['batch_hard'].keys() == {'cross_entropy', 'triplet'}
    found = outputs['all_triplets']['triplet']
    assert relative_error(found, 3 * references.all_triplets(feature, pids, 0.7)) <= 1e-9
    assert relative_error(outputs['batch_hard']['triplet'], recipe.triplet(feature, pids)) <= 1e-9


@pytest.mark.slow
def test_every_weight_has_a_gradient_or_no_effect():
    model = small().train()
    outputs = model(random(4, 2, 3, 32, 16))
    terms = model.losses(outputs, torch.tensor([0, 0, 1, 1]), Recipe())
    sum(terms.values()).backward()
    still = {name for name, one in model.named_parameters() if one.grad.abs().max() < 1e-12}
    assert still == {'appearance.conv.bias', 'parts.conv.bias'}  # a batch norm removes them


def test_configs():
    cfg = load_config('as_published/part_aligned_mars')
    assert (cfg.part_aligned.metric_loss, cfg.part_aligned.margin) == ('all_triplets', 0.2)
    assert (cfg.loss.triplet.weight_t, cfg.loss.triplet.weight_x) == (1, 0)
    assert load_config('equal_terms/part_aligned_mars').part_aligned.metric_loss == 'batch_hard'


def test_the_published_schedule_is_one_of_steps():
    """75,000 steps, the rate falls every 20,000; an epoch of ours is a pass over 625 identities."""
    cfg = load_config('as_published/part_aligned_mars')
    steps = IDS // (cfg.train.batch_size // cfg.sampler.num_instances)
    assert cfg.train.max_epoch * steps == 75_000
    wanted = [20_000, 40_000, 60_000]
    assert [steps * epoch for epoch in cfg.train.stepsize] == pytest.approx(wanted, abs=steps)
