"""COSAM: its module against loops, what it leaves alone, sizes, cost and errors."""

import copy

import pytest
import references.cosam as references
import torch
from torch.utils.flop_counter import FlopCounterMode

from stmn_plugin import load_model
from stmn_plugin.config import flatten, load_config
from stmn_plugin.config.shipped import config_names
from stmn_plugin.errors import InputError
from stmn_plugin.losses.recipe import Recipe
from stmn_plugin.models import ModelSpec, build_video_model
from stmn_plugin.models.explanations import check_explained
from stmn_plugin.models.systems.cosam import COSAM, CoSegmentation, correlations, standardise

B, L, C, R, H, W = 2, 3, 4, 3, 2, 2
CLASSES = 5


def module_of(seed=0, channels=C, reduced=R, seq_len=L, size=(H, W), **variant):
    """A module in float64 whose batch norms are away from their start."""
    torch.manual_seed(seed)
    module = CoSegmentation(channels, reduced, seq_len, size, **variant).double()
    for part in module.modules():
        if isinstance(part, torch.nn.BatchNorm2d):
            for tensor in (part.weight, part.bias, part.running_var):
                tensor.data = 0.5 + torch.rand_like(tensor)
            part.running_mean.data = -torch.rand_like(part.running_mean)  # few zeros after a ReLU
    return module


def maps_of(seed=1, clips=B, seq_len=L, channels=C, size=(H, W)):
    """Not negative, as maps behind a ReLU are."""
    generator = torch.Generator().manual_seed(seed)
    shape = clips, seq_len, channels, *size
    return torch.rand(shape, generator=generator, dtype=torch.float64)


def model_of(seq_len=L, size=(64, 32), **config):
    torch.manual_seed(0)
    config = COSAM.Config(backbone='resnet18', **config)
    return COSAM(CLASSES, seq_len, config, pretrained=False, frame_size=size)


def clips_of(clips=B, seq_len=L, size=(64, 32), seed=2):
    return torch.randn(clips, seq_len, 3, *size, generator=torch.Generator().manual_seed(seed))


def close(one, other, tolerance=1e-9):
    torch.testing.assert_close(one, other, rtol=tolerance, atol=tolerance)


# --- the module against loops ---


@pytest.mark.parametrize('training', [True, False])
@pytest.mark.parametrize(('mask_layers', 'gate_adds'), [(2, True), (1, False)])
def test_the_module_equals_loops(training, mask_layers, gate_adds):
    module = module_of(mask_layers=mask_layers, gate_adds=gate_adds).train(training)
    maps = maps_of().requires_grad_()
    parameters = list(module.parameters())
    generator = torch.Generator().manual_seed(3)
    expected = references.co_segmentation(module, maps, training, mask_layers == 2, gate_adds)
    actual = module(maps)
    weights = [torch.randn(x.shape, generator=generator, dtype=x.dtype) for x in expected]
    for one, other in zip(actual, expected, strict=True):
        close(one, other)
    gradients = [
        torch.autograd.grad(sum((w * x).sum() for w, x in zip(weights, out, strict=True)), wanted)
        for out in (actual, expected)
        for wanted in [[maps, *parameters]]
    ]
    for one, other in zip(*gradients, strict=True):
        close(one, other)
    of_maps, of_reduce = gradients[0][:2]  # the second of the correlations alone
    assert of_maps.abs().max() > 0.01 and of_reduce.abs().max() > 1e-3


def test_last_layers_of_zero_keep_three_quarters():
    module, maps = module_of(), maps_of()
    for layer in (module.mask, module.gate[2]):
        torch.nn.init.zeros_(layer.weight)
        torch.nn.init.zeros_(layer.bias)
    out = module(maps)
    assert (out.masks == 0.5).all() and (out.gates == 0.5).all()
    assert torch.equal(out.maps, 0.75 * maps)


# --- correlations ---


def test_correlations_by_hand():
    descriptors = torch.tensor([[1.0, 3], [3, 1], [1, 3]], dtype=torch.float64)
    found = correlations(standardise(descriptors).view(1, 3, 1, 2)).flatten(2)[0]
    close(found[0], torch.tensor([-0.4999293, 0.4999293]).double(), 1e-7)
    close(found[1], torch.tensor([-0.4999293, -0.4999293]).double(), 1e-7)


def test_correlations_are_of_shape_not_of_size_and_symmetric():
    generator = torch.Generator().manual_seed(4)
    descriptors = torch.randn(1, L, H * W, 8, generator=generator, dtype=torch.float64)
    found = correlations(standardise(descriptors))  # (1, L, L-1, K, K)
    other = descriptors.clone()
    other[0, 1, 2] = 3 * other[0, 1, 2] + 7
    close(correlations(standardise(other)), found, 2e-4)  # up to the 1e-4
    assert found.abs().max() <= 7 / 8
    for t in range(L):
        for s in range(L):
            if s != t:
                one = found[0, t, s - (s > t)]  # [k', k]
                close(one, found[0, s, t - (t > s)].T, 1e-12)
    same = correlations(standardise(descriptors[:, :1].expand(-1, 2, -1, -1)))[0, 0, 0]
    assert same.diagonal().max() <= 7 / 8 and same.diagonal().min() > 0.87


def test_a_constant_descriptor_correlates_with_nothing():
    descriptors = torch.randn(1, 2, 3, 4, dtype=torch.float64)
    descriptors[0, 0, 1] = 0
    descriptors.requires_grad_()
    found = correlations(standardise(descriptors))
    assert (found[0, 0, 0, :, 1] == 0).all() and (found[0, 1, 0, 1] == 0).all()
    found.square().sum().backward()
    assert descriptors.grad.isfinite().all()


# --- what the module changes, and what it leaves alone ---


def test_equal_frames_get_equal_masks():
    module = module_of().eval()
    frames = maps_of(seq_len=1).expand(-1, L, -1, -1, -1)
    out = module(frames)
    close(out.masks, out.masks[:, :1].expand(-1, L, -1, -1), 1e-12)
    close(out.maps, out.maps[:, :1].expand(-1, L, -1, -1, -1), 1e-12)


def test_masks_and_gates_are_between_0_and_1():
    module, maps = module_of(), 5 * maps_of()
    maps[0, 1, 2] = 0
    out = module(maps)
    for part in (out.masks, out.gates):
        assert part.min() > 0 and part.max() < 1
    inside = maps > 0
    assert (out.maps[inside] > 0).all() and (out.maps < 2 * maps)[inside].all()
    assert (out.maps[~inside] == 0).all()


def test_the_gate_is_one_a_clip_and_of_that_clip_alone():
    module, maps = module_of().eval(), maps_of()
    out = module(maps)
    ratios = out.maps / (maps * out.masks.unsqueeze(2)) - 1  # (B, L, C, H, W)
    close(ratios, out.gates[:, None, :, None, None].expand_as(ratios))
    other = maps.clone()
    other[1] = maps_of(seed=9)[0]
    close(module(other).gates[0], out.gates[0], 1e-12)
    assert (module(other).gates[1] - out.gates[1]).abs().max() > 1e-6


def test_an_occluder_of_zeros_is_finite():
    module, maps = module_of(), maps_of()
    maps[:, 0, :, 0] = 0
    module.reduce[1].bias.data.fill_(-9)  # everything below zero: all descriptors are zero
    maps.requires_grad_()
    out = module(maps)
    out.maps.square().sum().backward()
    assert out.maps.isfinite().all() and maps.grad.isfinite().all()
    assert all(p.grad is None or p.grad.isfinite().all() for p in module.parameters())


def test_a_mask_sees_its_own_frame_through_its_own_position():
    module, maps = module_of(reduced=16).eval(), maps_of(clips=1)
    masks = module.masks(maps)[0]
    other = maps.clone()
    other[0, 1, :, 0, 0] = maps_of(seed=8)[0, 1, :, 0, 0]
    changed = (module.masks(other)[0] - masks).abs()  # (L, H, W)
    own = changed[1].flatten()
    assert own[0] > 1e-9 and own[1:].max() <= 1e-12
    assert changed[[0, 2]].min() > 1e-9


def test_the_order_of_frames_matters():
    module, maps = module_of().eval(), maps_of()
    turned = module(maps.flip(1)).maps.flip(1)
    assert (turned - module(maps).maps).abs().max() > 1e-6


# --- size and cost ---


@pytest.mark.slow
def test_parameters_and_cost_of_a_resnet50():
    sizes = {}
    for seq_len in (4, 6, 8):
        with torch.device('meta'):
            config = COSAM.Config(neck='none')
            model = COSAM(625, seq_len, config, pretrained=False, frame_size=(256, 128)).eval()
        sizes[seq_len] = {
            part: sum(p.numel() for p in child.parameters())
            for part, child in model.named_children()
        }
        if seq_len != 8:
            with FlopCounterMode(display=False) as counter:
                feature = model(torch.empty(1, seq_len, 3, 256, 128, device='meta'))
            assert feature.shape == (1, 2048)
            expected = {4: 16.75, 6: 25.25}[seq_len]
            assert counter.get_total_flops() / 2e9 == pytest.approx(expected, abs=0.05)
    assert sizes[4]['cosam_conv4'] == 813_313 and sizes[4]['cosam_conv5'] == 1_600_769
    assert sizes[4].pop('classifier') == 1_280_625
    assert sum(sizes[4].values()) == 25_922_114
    for seq_len, total in ((6, 25_954_882), (8, 25_987_650)):
        sizes[seq_len].pop('classifier')
        assert sum(sizes[seq_len].values()) == total
    with torch.device('meta'):
        module = CoSegmentation(1024, 256, 4, (16, 8))
    parts = {name: sum(p.numel() for p in x.parameters()) for name, x in module.named_children()}
    assert parts.pop('reduce') == 262_912 and parts.pop('gate') == 525_568
    assert sum(parts.values()) == 24_833


def test_narrow_maps_are_reduced_to_64_channels_unless_said():
    model = model_of()
    assert model.cosam_conv4.reduce[0].weight.shape[:2] == (64, 256)
    assert model.cosam_conv5.reduce[0].weight.shape[:2] == (256, 512)
    assert model.cosam_conv4.summarise[0].weight.shape[1] == (L - 1) * 4 * 2
    assert model_of(reduced=16).cosam_conv5.reduce[0].weight.shape[0] == 16


# --- the model ---


@pytest.mark.parametrize('neck', ['bnneck', 'none'])
def test_outputs_of_the_model(neck):
    model, clips = model_of(neck=neck), clips_of()
    out = model(clips)
    assert out.feature.shape == (B, 512) and out.logits.shape == (B, CLASSES)
    assert (model.classifier.bias is None) == (neck == 'bnneck')
    pids = torch.tensor([0, 1])
    losses = model.losses(out, pids, Recipe())
    assert losses.keys() == {'cross_entropy', 'triplet'}
    close(losses['triplet'], Recipe().triplet(out.feature, pids))
    rows = model.neck(out.feature)
    assert torch.equal(rows, out.feature) == (neck == 'none')
    logits = torch.nn.functional.linear(rows, model.classifier.weight, model.classifier.bias)
    close(out.logits, logits, 1e-5)
    close(losses['cross_entropy'], Recipe().cross_entropy(logits, pids), 1e-5)
    model.eval()
    feature, explained = model(clips), model.explain(clips)
    assert feature.shape == (B, 512)
    check_explained(explained, B, L)
    close(explained['clip_feature'], feature, 1e-5)
    if neck == 'none':
        close(explained['refined_feature'], feature, 1e-5)
    assert explained['masks_conv4'].shape == explained['masks_conv5'].shape == (B, L, 4, 2)
    assert explained['gates_conv4'].shape == (B, 256)


@pytest.mark.slow
def test_the_feature_is_the_mean_of_what_the_second_module_gives():
    model, clips = model_of(neck='none').double().eval(), clips_of().double()
    encoder = model.encoder
    maps = encoder.conv4(encoder.conv3(encoder.conv2(encoder.stem(clips.flatten(0, 1)))))
    conv4 = model.cosam_conv4(maps.unflatten(0, (B, L)))
    given = encoder.conv5(conv4.maps.flatten(0, 1)).unflatten(0, (B, L))
    last = model.cosam_conv5(given)
    close(model(clips), last.maps.mean(dim=(1, 3, 4)))
    explained = model.explain(clips)
    for stage, found in (('conv4', conv4), ('conv5', last)):
        close(explained[f'masks_{stage}'], found.masks)
        close(explained[f'gates_{stage}'], found.gates)
    for name, x in (('frame', given), ('refined', last.maps), ('change', last.maps - given)):
        close(explained[f'{name}_norms'], x.square().sum(dim=2).sqrt())
        if name != 'change':
            close(explained[f'{name}_feature'], x.mean(dim=(1, 3, 4)))


@pytest.mark.parametrize(
    ('seq_len', 'size'),
    [(L + 1, (H, W)), (L, (1, H * W)), (2, (H, (L - 1) * W))],
    ids=['length', 'another size', 'as many correlations'],
)
def test_the_module_refuses_another_length_or_size(seq_len, size):
    wanted = rf'maps of shape \(B, {L}, C, {H}, {W}\), got \({B}, {seq_len}, '
    with pytest.raises(ValueError, match=wanted):
        module_of()(maps_of(seq_len=seq_len, size=size))


@pytest.mark.slow
def test_another_length_or_size_is_refused(tmp_path):
    model = model_of().eval()
    with pytest.raises(ValueError, match=r'clips of 3 frames \(video.seq_len\), got 4'):
        model(clips_of(seq_len=4))
    with pytest.raises(ValueError, match=r'frames of 64x32 pixels .* got 32x64'):
        model(clips_of(size=(32, 64)))
    with pytest.raises(InputError, match='video.seq_len: cosam takes clips of two frames or more'):
        model_of(seq_len=1)
    words = 'model.name cosam data.type video data.height 64 data.width 32 stmn.backbone resnet18'
    config = flatten(load_config('', [*words.split(), 'video.seq_len', '3']))
    path = tmp_path / 'model.pth.tar-1'
    torch.save({'state_dict': model.state_dict(), 'config': config, 'epoch': 1}, path)
    clips = clips_of()
    assert torch.equal(load_model(path)(clips), model(clips))
    other = {**config, 'video.seq_len': 5}
    torch.save({'state_dict': model.state_dict(), 'config': other, 'epoch': 1}, path)
    with pytest.raises(InputError, match=r'trained with \(video.seq_len - 1\).* = 16, .* says 32'):
        load_model(path)


def test_every_parameter_moves_but_shifts_before_a_norm():
    module = module_of().train()
    start = copy.deepcopy(dict(module.named_parameters()))
    optimizer = torch.optim.SGD(module.parameters(), lr=1)
    module(maps_of()).maps.square().sum().backward()
    optimizer.step()
    moved = {n for n, p in module.named_parameters() if (p - start[n]).abs().max() > 1e-9}
    assert start.keys() - moved == {'reduce.0.bias', 'summarise.0.bias'}  # BN takes them away


def test_half_precision_reaches_the_encoder_alone():
    model, seen = model_of().eval(), []
    for module in (model.cosam_conv4, model.cosam_conv5):
        for layer in (module.reduce, module.mask, module.gate):
            layer.register_forward_hook(
                lambda _, given, out: seen.extend([given[0].dtype, out.dtype])
            )
    with torch.autocast('cpu', torch.bfloat16):
        assert model(clips_of()).dtype == torch.float32
    assert seen == 12 * [torch.float32]


def test_the_published_losses_by_hand():
    recipe = Recipe(label_smoothing=0.1, triplet_margin=0.3)
    logits = torch.tensor([[2.0, 0, 0]])
    assert recipe.cross_entropy(logits, torch.tensor([0])).item() == pytest.approx(0.3728781)
    features = torch.tensor([[0.0], [1], [3], [7]])
    assert recipe.triplet(features, torch.tensor([0, 0, 1, 1])).item() == pytest.approx(0.575)


@pytest.mark.parametrize('folder', ['equal_terms', 'as_published'])
def test_configs_build(folder):
    assert f'{folder}/cosam_mars' in config_names()
    cfg = load_config(f'{folder}/cosam_mars')
    with torch.device('meta'):
        model = build_video_model(ModelSpec.from_config(flatten(cfg)), 625, pretrained=False)
    published = folder == 'as_published'
    assert isinstance(model, COSAM) and model.seq_len == (4 if published else 6)
    assert (model.classifier.bias is not None) == published
