"""GLTR: dilated convolutions, attention between frames, sizes and costs."""

import copy
import math

import pytest
import references.gltr as references
import torch
from references.stmn import relative_error
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from stmn_plugin.config import load_config
from stmn_plugin.errors import InputError
from stmn_plugin.losses.recipe import Recipe
from stmn_plugin.models.non_local import NonLocal, attention
from stmn_plugin.models.systems.gltr import (
    GLTR,
    DilatedTemporalPyramid,
    dilated_convolution,
)

IDS = 625
TO_FOUR, TO_SIX = [1, 2, 3, 4], [1, 2, 3, 4, 5, 6]
SMALL = {'backbone': 'resnet18', 'frame_dim': 6}


def ramp(numbers, taps, dilation):
    """The convolution of one number a frame → a list."""
    x = torch.tensor([[numbers]], dtype=torch.float64)
    taps = torch.tensor([[taps]], dtype=torch.float64)
    return dilated_convolution(x, taps, dilation).flatten().tolist()


def scattered(module, seed=0):
    """Every weight and statistic away from its start, in float64."""
    generator = torch.Generator().manual_seed(seed)
    module = module.double()
    for tensor in (*module.parameters(), *module.buffers()):
        if tensor.is_floating_point():
            tensor.data = 0.3 + 0.5 * torch.rand(
                tensor.shape, generator=generator, dtype=torch.float64
            ) * torch.where(torch.rand(tensor.shape, generator=generator) < 0.5, -1, 1)
    for norm in module.modules():
        if isinstance(norm, nn.BatchNorm1d):
            norm.running_var.abs_()
    return module


def random(*shape, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def published(seq_len=16, **keys):
    """With ResNet-50 and 625 identities, without memory."""
    with torch.device('meta'):
        return GLTR(IDS, seq_len, GLTR.Config(**keys), pretrained=False)


def count(module):
    return sum(parameter.numel() for parameter in module.parameters())


# --- sizes and costs ---


def test_parameters_are_those_of_the_released_network():
    model = published(neck='published')
    assert count(model.encoder) == 23_508_032
    assert count(model.embedding) == 262_272 and count(model.pyramid) == 147_456
    assert count(model.attention) == 526_592
    assert count(model.neck) == 1_024 and count(model.classifier) == 320_625
    assert count(model) == 24_766_001
    assert count(model) - count(model.neck) - count(model.classifier) == 24_444_352
    assert count(published()) == 24_444_352 + 512 + 512 * IDS  # a BNNeck and no bias
    outputs_alone = published(frames_in_stack=False)
    assert outputs_alone.feature_dim == 384 and count(outputs_alone.pyramid) == 147_456


@pytest.mark.parametrize('seq_len, gflops', [(6, 48.65), (16, 129.74)])
def test_cost_of_a_clip(seq_len, gflops):
    model = published(seq_len).eval()
    with torch.device('meta'):
        clips, vectors = torch.empty(1, seq_len, 3, 256, 128), torch.empty(1, seq_len, 128)
    with FlopCounterMode(display=False) as counter:
        assert model(clips).shape == (1, 512)
    assert counter.get_total_flops() / 1e9 == pytest.approx(gflops, abs=0.01)
    with FlopCounterMode(display=False) as counter:
        model.embed(vectors)
    head = {6: 8.1, 16: 21.8}[seq_len]
    assert counter.get_total_flops() / 1e6 == pytest.approx(head, abs=0.05)


def test_start_of_the_weights():
    torch.manual_seed(0)
    model = GLTR(IDS, 6, GLTR.Config(backbone='resnet18', neck='published'), pretrained=False)
    weight, bias = model.embedding.weight, model.embedding.bias
    assert weight.std().item() == pytest.approx(math.sqrt(2 / 128), rel=0.02)
    for taps in model.pyramid.parameters():
        assert taps.std().item() == pytest.approx(0.001, rel=0.02)
    assert model.classifier.weight.std().item() == pytest.approx(0.001, rel=0.02)
    norm = model.attention.bn
    for zeros in (bias, norm.weight, norm.bias, model.classifier.bias):
        assert not zeros.any()
    config = GLTR.Config()
    assert (config.frame_dim, config.dilations, config.neck) == (128, [1, 2, 3], 'bnneck')
    assert config.frames_in_stack


# --- short-term cues ---


@pytest.mark.parametrize(
    'numbers, taps, dilation, expected',
    [
        (TO_FOUR, [1, 1, 1], 1, [3, 6, 9, 7]),
        (TO_FOUR, [1, 1, 1], 2, [4, 6, 4, 6]),
        (TO_FOUR, [1, 1, 1], 3, [5, 2, 3, 5]),
        (TO_FOUR, [1, 1, 1], 4, [1, 2, 3, 4]),
        (TO_FOUR, [1, 10, 100], 1, [210, 321, 432, 43]),  # past, present, future
        (TO_FOUR, [1, 10, 100], 2, [310, 420, 31, 42]),
        (TO_FOUR, [1, 10, 100], 3, [410, 20, 30, 41]),
        (TO_SIX, [1, 1, 1], 1, [3, 6, 9, 12, 15, 11]),
        (TO_SIX, [1, 1, 1], 2, [4, 6, 9, 12, 8, 10]),
        (TO_SIX, [1, 1, 1], 3, [5, 7, 9, 5, 7, 9]),
        (TO_SIX, [1, 1, 1], 4, [6, 8, 3, 4, 6, 8]),
        ([7], [1, 10, 100], 1, [70]),  # a clip of one frame meets the middle tap alone
        ([7], [1, 10, 100], 3, [70]),
    ],
)
def test_convolution_by_hand(numbers, taps, dilation, expected):
    assert ramp(numbers, taps, dilation) == pytest.approx(expected, abs=1e-9)


def test_means_over_the_frames_by_hand():
    for dilation, mean in ((1, 28 / 3), (3, 7)):
        assert sum(ramp(TO_SIX, [1, 1, 1], dilation)) / 6 == pytest.approx(mean, abs=1e-9)


@pytest.mark.parametrize('with_frames', [True, False])
@pytest.mark.parametrize('seq_len', [1, 2, 5])
def test_stack_equals_its_reference(seq_len, with_frames):
    pyramid = scattered(DilatedTemporalPyramid(3, (1, 2, 4), with_frames))
    taps = list(pyramid.parameters())
    x = random(2, seq_len, 3).requires_grad_()
    found = pyramid(x)
    expected = torch.stack([references.stacked(clip, taps, (1, 2, 4), with_frames) for clip in x])
    assert found.shape == (2, seq_len, pyramid.channels)
    assert relative_error(found, expected) <= 1e-9
    weights = random(*found.shape, seed=2)
    for ours, theirs in zip(
        torch.autograd.grad((found * weights).sum(), [x, *taps]),
        torch.autograd.grad((expected * weights).sum(), [x, *taps]),
        strict=True,
    ):
        assert relative_error(ours, theirs) <= 1e-9


def test_identical_frames_differ_near_the_ends_alone():
    """There zeros stand for the frames that are missing."""
    dilations, seq_len = (1, 2, 3), 9
    pyramid = scattered(DilatedTemporalPyramid(4, dilations))
    stacked = pyramid(random(1, 1, 4).expand(-1, seq_len, -1))[0]  # (L, C)
    first = stacked[:, :4]
    assert torch.equal(first, first[:1].expand_as(first))
    for number, dilation in enumerate(dilations, start=1):
        branch = stacked[:, 4 * number : 4 * number + 4]
        equal = (branch - branch[seq_len // 2]).abs().amax(dim=1) < 1e-12
        assert equal.tolist() == [dilation <= t < seq_len - dilation for t in range(seq_len)]


# --- attention between frames ---


def attend(block, clips):
    """F (B, L, C) → F'."""
    return clips + block.residual(clips)


def reference_of(block, clips, training):
    weights = {
        name: (getattr(block, name).weight, getattr(block, name).bias)
        for name in ('theta', 'phi', 'g', 'out')
    }
    norm = block.bn
    statistics = {
        'weight': norm.weight, 'bias': norm.bias,
        'mean': norm.running_mean.clone(), 'var': norm.running_var.clone(),
    }  # fmt: skip
    return references.self_attention(clips, weights, statistics, training)


@pytest.mark.parametrize('training', [True, False], ids=['train', 'eval'])
def test_attention_equals_its_reference(training):
    block = scattered(NonLocal(6)).train(training)
    clips = random(2, 4, 6).requires_grad_()
    expected, rows = reference_of(block, clips, training)
    found = attend(block, clips)
    assert relative_error(found, expected) <= 1e-9
    assert relative_error(attention(block.theta(clips), block.phi(clips)), rows) <= 1e-9
    inputs, weights = [clips, *block.parameters()], random(2, 4, 6, seed=3)
    # in training three biases have no gradient: the softmax, or the batch norm, removes them
    without = ('phi.bias', 'g.bias', 'out.bias') if training else ('phi.bias',)
    for name, ours, theirs in zip(
        ['', *dict(block.named_parameters())],
        torch.autograd.grad((found * weights).sum(), inputs),
        torch.autograd.grad((expected * weights).sum(), inputs),
        strict=True,
    ):
        if name in without:
            assert ours.abs().max() < 1e-12 and theirs.abs().max() < 1e-12
        else:
            assert ours.abs().max() > 1e-6 and relative_error(ours, theirs) <= 1e-9, name


@pytest.mark.parametrize('training', [True, False], ids=['train', 'eval'])
def test_attention_starts_as_the_identity_and_learns(training):
    torch.manual_seed(0)
    block = GLTR(4, 5, GLTR.Config(**SMALL), pretrained=False).attention.double().train(training)
    clips = random(3, 5, 24)
    output = attend(block, clips)
    assert torch.equal(output, clips)
    (output * random(3, 5, 24, seed=2)).sum().backward()
    assert (block.bn.weight.grad != 0).all() and (block.bn.bias.grad != 0).all()


@torch.no_grad()
def test_attention_takes_frames_in_any_order():
    block = scattered(NonLocal(6)).eval()
    clips, order = random(2, 5, 6), torch.tensor([3, 0, 4, 1, 2])
    straight, mixed = attend(block, clips), attend(block, clips[:, order])
    assert relative_error(mixed, straight[:, order]) <= 1e-9
    rows = attention(block.theta(clips), block.phi(clips))
    assert (rows.sum(dim=2) - 1).abs().max() <= 1e-12


@torch.no_grad()
def test_without_queries_every_frame_counts_the_same():
    block = scattered(NonLocal(6)).eval()
    nn.init.zeros_(block.theta.weight), nn.init.zeros_(block.theta.bias)
    clips = random(2, 5, 6)
    assert (attention(block.theta(clips), block.phi(clips)) - 1 / 5).abs().max() <= 1e-12
    change = block.residual(clips)
    assert (change - change[:, :1]).abs().max() <= 1e-12


@torch.no_grad()
def test_attention_by_hand():
    """Queries and keys are the first channel, values the second; the output goes into the first."""
    clips = torch.tensor([[[0, 4], [math.log(2), 1]]], dtype=torch.float64)  # (1, L, C)
    rows = torch.tensor([[[0.5, 0.5], [0.382145, 0.617855]]], dtype=torch.float64)
    first, second = clips[..., :1], clips[..., 1:]
    assert (attention(first, first) - rows).abs().max() < 1e-6
    block = NonLocal(2).double().eval()
    assert block.theta.weight.shape == (1, 2)  # inner width 1
    state = {name: torch.zeros_like(tensor) for name, tensor in block.state_dict().items()}
    state['theta.weight'][0, 0] = state['phi.weight'][0, 0] = 1
    state['g.weight'][0, 1] = state['out.weight'][0, 0] = 1
    state['bn.weight'] += 1
    state['bn.running_var'] += 1 - block.bn.eps
    block.load_state_dict(state)
    output = attend(block, clips)
    assert output[0, :, 0].tolist() == pytest.approx([2.5, 2.839583], abs=1e-6)
    assert torch.equal(output[..., 1:], second)


# --- the whole ---


@pytest.fixture(scope='module')
def model():
    """On a ResNet-18, its head away from its start."""
    torch.manual_seed(0)
    model = GLTR(4, 5, GLTR.Config(**SMALL), pretrained=False).double()
    for part in (model.pyramid, model.attention):
        scattered(part)
    return model.eval()


@torch.no_grad()
def test_feature_equals_its_reference(model):
    vectors = random(2, 5, 6)
    taps, dilations = list(model.pyramid.parameters()), (1, 2, 3)
    stacked = torch.stack([references.stacked(clip, taps, dilations) for clip in vectors])
    attended, _ = reference_of(model.attention, stacked, training=False)
    feature = references.mean_over_frames(attended)
    assert feature.shape == (2, 24)
    assert relative_error(model.embed(vectors), model.neck(feature)) <= 1e-9


@torch.no_grad()
def test_frames_have_an_order_that_reversed_kernels_reverse(model):
    vectors = random(2, 5, 6)
    straight = model.embed(vectors)
    assert relative_error(model.embed(vectors.flip(1)), straight) > 1e-3
    other = copy.deepcopy(model)
    for taps in other.pyramid.parameters():
        taps.data = taps.flip(2)
    assert relative_error(other.embed(vectors.flip(1)), straight) <= 1e-9


@torch.no_grad()
def test_clips_of_a_batch_do_not_meet(model):
    vectors = random(3, 5, 6)
    together = model.embed(vectors)
    for clip, feature in zip(vectors, together, strict=True):
        assert relative_error(model.embed(clip.unsqueeze(0))[0], feature) <= 1e-9
    for seq_len in (1, 2, 7, 40):
        assert model.embed(random(2, seq_len, 6)).shape == (2, 24)


def test_an_untrained_clip_is_the_mean_of_its_frames():
    torch.manual_seed(0)
    model = GLTR(4, 5, GLTR.Config(**SMALL), pretrained=False).double().eval()
    vectors = random(2, 5, 6)
    feature = model.clip_feature(vectors)
    assert torch.allclose(feature[:, :6], vectors.mean(dim=1))
    assert feature[:, 6:].abs().max() < 0.02


@pytest.mark.slow
def test_losses_and_explanation(model):
    pids = torch.tensor([0, 0, 1, 1])
    clips = random(4, 3, 3, 32, 16)
    training = copy.deepcopy(model).train()
    outputs = training(clips)
    losses = training.losses(outputs, pids, Recipe())
    assert losses.keys() == {'cross_entropy', 'triplet'}
    assert losses['cross_entropy'] == Recipe().cross_entropy(outputs.logits, pids)
    assert losses['triplet'] == Recipe().triplet(outputs.feature, pids)
    logits = nn.functional.linear(
        nn.functional.batch_norm(outputs.feature, None, None, training=True),
        training.classifier.weight,
    )
    assert relative_error(outputs.logits, logits) <= 1e-9  # the triplet's feature, normalised
    explained = model.explain(clips)
    with torch.no_grad():
        vectors = model.encode_frames(clips.flatten(0, 1)).unflatten(0, (4, 3))
        stacked = model.pyramid(vectors)
        rows = attention(model.attention.theta(stacked), model.attention.phi(stacked))
        assert relative_error(explained['frame_attention'], rows) < 1e-9
        assert relative_error(explained['clip_feature'], model(clips)) < 1e-9


@pytest.mark.slow
def test_every_weight_moves_or_changes_nothing():
    """With the scale away from zero: only biases that a norm or softmax removes stand still."""
    torch.manual_seed(0)
    model = GLTR(4, 5, GLTR.Config(**SMALL), pretrained=False).double().train()
    nn.init.ones_(model.attention.bn.weight)
    outputs = model(random(4, 3, 3, 32, 16))
    terms = model.losses(outputs, torch.tensor([0, 0, 1, 1]), Recipe())
    sum(terms.values()).backward()
    still = {name for name, one in model.named_parameters() if one.grad.abs().max() < 1e-10}
    # the shift of the batch norm moves all clips alike, which the next one removes
    assert still == {f'attention.{name}.bias' for name in ('phi', 'g', 'out', 'bn')}


def test_half_precision_is_of_the_encoder_alone(model):
    training = copy.deepcopy(model).float().train()
    seen = []
    for layer in (training.embedding, training.attention.theta, training.attention.out):
        layer.register_forward_hook(lambda _, given, out: seen.append(out.dtype))
    with torch.autocast('cpu', torch.bfloat16):
        outputs = training(random(4, 3, 3, 32, 16).float())
    assert seen == 3 * [torch.float32]
    assert outputs.feature.dtype == outputs.logits.dtype == torch.float32


def test_published_neck():
    torch.manual_seed(0)
    config = GLTR.Config(**SMALL, neck='published')
    model = GLTR(4, 5, config, pretrained=False).double().eval()
    vectors = random(2, 5, 6)
    assert torch.equal(model.embed(vectors), model.clip_feature(vectors))
    norm, relu, dropout = model.neck
    assert isinstance(norm, nn.BatchNorm1d) and isinstance(relu, nn.ReLU) and dropout.p == 0.5
    clips = random(4, 3, 3, 32, 16)
    torch.manual_seed(3)
    outputs = model.train()(clips)
    torch.manual_seed(3)
    assert torch.equal(outputs.logits, model.classifier(model.neck(outputs.feature)))


def test_configs():
    cfg = load_config('equal_terms/gltr_mars')
    assert (cfg.model.name, cfg.video.seq_len, cfg.loss.name) == ('gltr', 6, 'stmn')
    cfg = load_config('as_published/gltr_mars')
    assert (cfg.model.name, cfg.video.seq_len, cfg.gltr.neck) == ('gltr', 16, 'published')
    cfg = load_config('equal_terms/gltr_mars', opts=['gltr.dilations', '1,2,4'])
    assert cfg.gltr.dilations == [1, 2, 4]
    for value in ('[]', '[0]', '[1, 1]'):
        with pytest.raises(InputError, match='gltr.dilations takes a list of 1 or more'):
            load_config('equal_terms/gltr_mars', opts=['gltr.dilations', value])
