"""The whole model: its size, its variants, its contracts, and its forward put together in loops."""

import copy

import pytest
import references.stmn as references
import torch
import torchreid
from torch.utils.flop_counter import FlopCounterMode

from stmn_plugin.errors import InputError
from stmn_plugin.losses import Recipe
from stmn_plugin.models import STMN, STMNOutput
from stmn_plugin.models.explanations import check_explained
from stmn_plugin.training.objective import ClipObjective

CLASSES, L, M, N = 3, 2, 3, 2
VARIANTS = [
    (spatial, temporal)
    for spatial in ('memory', 'none')
    for temporal in ('memory', 'mlp', 'average')
]


def small_model(spatial_mode='memory', temporal_mode='memory', seed=0, **changes):
    torch.manual_seed(seed)
    config = STMN.Config(
        backbone='resnet18',
        spatial_mode=spatial_mode,
        spatial_items=M,
        temporal_mode=temporal_mode,
        temporal_items=N,
        **changes,
    )
    return STMN(CLASSES, L, config, pretrained=False)


def total_loss(model, outputs, pids, **recipe):
    return sum(model.losses(outputs, torch.tensor(pids), Recipe(**recipe)).values())


def wake(model):
    """Give every BN of ours weights and statistics that show."""
    torch.manual_seed(7)
    with torch.no_grad():
        for bn in (
            model.bnneck_clip,
            model.bnneck_frame,
            getattr(model.spatial_memory, 'bn', None),
        ):
            if bn is not None:
                bn.weight.uniform_(0.5, 2)
                bn.running_mean.normal_()
                bn.running_var.uniform_(0.5, 2)
        if model.spatial_memory is not None:
            model.spatial_memory.bn.bias.normal_()
    return model


def clips(num_clips=2, seq_len=L, dtype=torch.float32, size=(48, 32)):
    """Noise; 48x32 pixels give 3x2 positions."""
    generator = torch.Generator().manual_seed(1)
    return torch.randn(num_clips, seq_len, 3, *size, generator=generator, dtype=dtype)


# --- size ---


def conv_bn_parameters(inputs, outputs, kernel):
    return inputs * outputs * kernel * kernel + 2 * outputs


def resnet50_stage_parameters(inputs, width, blocks):
    """Bottlenecks of 1x1, 3x3, 1x1 convolutions; a projection in the first."""
    total, outputs = conv_bn_parameters(inputs, 4 * width, 1), 4 * width
    for block in range(blocks):
        total += conv_bn_parameters(outputs if block else inputs, width, 1)
        total += conv_bn_parameters(width, width, 3)
        total += conv_bn_parameters(width, outputs, 1)
    return total


def expected_parameters(spatial, temporal, m=10, n=5, length=6, d=2048):
    stages = [(64, 64, 3), (256, 128, 4), (512, 256, 6)]
    total = conv_bn_parameters(3, 64, 7) + sum(resnet50_stage_parameters(*s) for s in stages)
    heads = 1 + (spatial == 'memory') + (temporal != 'average')
    total += heads * resnet50_stage_parameters(1024, 512, 3)
    if spatial == 'memory':
        total += 2 * m * d + 2 * d  # keys, values; BN
    if temporal != 'average':
        total += 4 * d * (d + d) + 2 * 4 * d  # LSTM, two biases
        total += n * d + n * length  # keys and values, or the two layers
    return total + 2 * d  # the weights of two BNNecks, no biases


def resnet50_model(spatial='memory', temporal='memory'):
    with torch.device('meta'):
        config = STMN.Config(spatial_mode=spatial, temporal_mode=temporal)
        return STMN(625, 6, config, pretrained=False)


@pytest.mark.parametrize(('spatial', 'temporal'), VARIANTS)
def test_the_r50_model_has_exactly_the_parameters_of_its_parts(spatial, temporal):
    model = resnet50_model(spatial, temporal)
    classifiers = 0
    others = 0
    for name, parameter in model.named_parameters():
        if name.startswith('classifier_'):
            classifiers += parameter.numel()
        else:
            others += parameter.numel()
    assert others == expected_parameters(spatial, temporal)
    assert classifiers == 2 * 625 * 2048


def test_the_r50_model_has_87_1_million_parameters_at_test_time():
    assert round(expected_parameters('memory', 'memory') / 1e6, 1) == 87.1


def conv_macs(inputs, outputs, kernel, positions):
    return inputs * outputs * kernel * kernel * positions


def resnet50_stage_macs(inputs, width, blocks, positions_in, positions):
    """The first 1x1 of a stage still works on the larger map."""
    total, outputs = conv_macs(inputs, 4 * width, 1, positions), 4 * width
    for block in range(blocks):
        total += conv_macs(
            outputs if block else inputs, width, 1, positions if block else positions_in
        )
        total += conv_macs(width, width, 3, positions)
        total += conv_macs(width, outputs, 1, positions)
    return total


def expected_macs_per_frame(training):
    """Encoder, addressing of 128 positions by 10 keys, one LSTM step, at 256x128."""
    trunk = conv_macs(3, 64, 7, 128 * 64) + sum(
        resnet50_stage_macs(*stage)
        for stage in (
            (64, 64, 3, 64 * 32, 64 * 32),
            (256, 128, 4, 64 * 32, 32 * 16),
            (512, 256, 6, 32 * 16, 16 * 8),
        )
    )
    heads = 3 * resnet50_stage_macs(1024, 512, 3, 16 * 8, 16 * 8)
    if not training:  # the last 1x1 of q^t runs on the pooled map
        heads -= conv_macs(512, 2048, 1, 16 * 8 - 1)
    return trunk + heads + 128 * 10 * 2048 + 4 * 2048 * (2048 + 2048)


@pytest.mark.parametrize(('training', 'gflop'), [(True, 15.83), (False, 15.57)])
def test_the_gflop_of_the_r50_model_for_a_256x128_frame(training, gflop):
    model = resnet50_model().train(training)
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), counter, torch.device('meta'):
        model(torch.empty(2, 6, 3, 256, 128))
    per_frame = counter.get_total_flops() / 12  # a multiply-add counts as two
    assert per_frame == pytest.approx(gflop * 1e9, rel=0.002)
    assert per_frame == pytest.approx(2 * expected_macs_per_frame(training), rel=0.003)


# --- variants of Table 1, outputs ---


@pytest.mark.parametrize(('spatial', 'temporal'), VARIANTS)
def test_every_variant_trains_and_gives_one_feature_per_clip(spatial, temporal):
    model = small_model(spatial, temporal).train()
    out = model(clips(4))
    assert isinstance(out, STMNOutput)
    assert STMNOutput._fields == (
        'clip_feature',
        'frame_feature',
        'clip_logits',
        'frame_logits',
        'spatial_probs',
        'temporal_probs',
        'temporal_attention',
    )
    assert out.clip_feature.shape == out.frame_feature.shape == (4, 512)
    assert out.clip_logits.shape == out.frame_logits.shape == (4, CLASSES)
    if spatial == 'memory':
        assert out.spatial_probs.shape == (4 * L * 3 * 2, M)
        assert out.spatial_probs.sum(dim=1).tolist() == pytest.approx([1] * 48, rel=1e-5)
    else:
        assert out.spatial_probs is None
    if temporal == 'memory':
        assert out.temporal_probs.shape == (4, N)
        assert out.temporal_probs.sum(dim=1).tolist() == pytest.approx([1] * 4, rel=1e-5)
    else:
        assert out.temporal_probs is None
    assert out.temporal_attention.shape == (4, L)
    assert out.temporal_attention.sum(dim=1).tolist() == pytest.approx([1] * 4, rel=1e-5)
    if temporal == 'average':
        assert torch.allclose(out.clip_feature, out.frame_feature, rtol=1e-6, atol=0)

    total_loss(model, out, [0, 0, 1, 2]).backward()
    silent = [name for name, p in model.named_parameters() if p.grad is None]
    assert not silent

    with torch.no_grad():
        feature = model.eval()(clips(3))
    assert isinstance(feature, torch.Tensor) and feature.shape == (3, 512)
    assert model.feature_dim == 512


def test_once_the_bn_of_the_memory_opens_every_parameter_gets_a_gradient():
    model = wake(small_model()).train()
    total_loss(model, model(clips(4)), [0, 0, 1, 2], spread_margin=1.0).backward()
    dead = [name for name, p in model.named_parameters() if not p.grad.any()]
    assert not dead


def gradients(model, loss):
    """Name → gradient; zeros where there is none."""
    names, parameters = zip(*model.named_parameters(), strict=True)
    found = torch.autograd.grad(loss, parameters, retain_graph=True, allow_unused=True)
    return {
        name: torch.zeros_like(p) if gradient is None else gradient
        for name, p, gradient in zip(names, parameters, found, strict=True)
    }


@pytest.mark.slow
@pytest.mark.parametrize(
    ('spatial', 'temporal'), [('memory', 'memory'), ('memory', 'mlp'), ('none', 'memory')]
)
def test_the_spread_loss_is_kept_from_the_trunk_and_nothing_else_changes(spatial, temporal):
    """Against its gradient with reach all, set to zero in the trunk."""
    found = {}
    for reach in ('all', 'heads'):
        model = wake(small_model(spatial, temporal)).double().train()
        recipe = Recipe(spread_margin=1.0, spread_reach=reach)
        objective = ClipObjective(model, recipe)
        out = model(clips(4, dtype=torch.float64))
        loss = objective(out, torch.tensor([0, 0, 1, 2]))
        spread = loss.terms['spread_spatial'] + loss.terms['spread_temporal']
        losses = loss.total, spread, loss.total - spread
        state = {name: value.clone() for name, value in model.state_dict().items()}
        found[reach] = loss.terms, state, *(gradients(model, one) for one in losses)
    terms, state, total, spread, rest = found['all']
    for name, value in found['heads'][0].items():
        torch.testing.assert_close(value, terms[name])
    for name, value in found['heads'][1].items():  # BN has counted the batch once
        torch.testing.assert_close(value, state[name], msg=name)
    reached = 0
    for name, gradient in found['heads'][2].items():
        in_trunk = name.startswith('encoder.trunk')
        expected = rest[name] if in_trunk else total[name]
        torch.testing.assert_close(gradient, expected, rtol=1e-7, atol=1e-10, msg=name)
        assert not (in_trunk and found['heads'][3][name].any())
        reached += bool(in_trunk and spread[name].any())
    assert reached > 10  # where it is not kept


def test_without_the_spread_loss_nothing_is_computed_twice():
    model = small_model()
    ClipObjective(model, Recipe(spread_weight=0.0, spread_reach='heads'))
    assert model.spread_reach == 'all'


def test_the_attention_scale_reaches_the_temporal_memory_and_makes_its_attention_sharper():
    clips = torch.rand(2, L, 3, 64, 32)
    spread = []
    for scale in (1.0, 5.0):
        model = small_model('none', 'memory', attention_scale=scale).train()
        assert model.temporal_memory.attention_scale == scale
        spread.append(model(clips).temporal_attention.log().std(dim=1))
    torch.testing.assert_close(spread[1], 5 * spread[0])  # logits of one and the same memory


def test_a_value_range_of_0_starts_from_average_pooling_and_trains_the_values_first():
    clips = torch.rand(2, L, 3, 64, 32)
    torch.manual_seed(0)
    usual = small_model('none', 'memory').temporal_memory.values.detach()
    torch.manual_seed(0)
    tripled = small_model('none', 'memory', temporal_value_range=3.0).temporal_memory.values
    torch.testing.assert_close(tripled.detach(), 3 * usual, rtol=0, atol=0)
    assert 0 <= usual.min() and usual.max() < 1

    model = small_model('none', 'memory', temporal_value_range=0.0).train()
    outputs = model(clips)
    torch.testing.assert_close(outputs.temporal_attention, torch.full((2, L), 1 / L))
    torch.testing.assert_close(outputs.clip_feature, outputs.frame_feature)
    outputs.clip_feature.square().sum().backward()
    memory = model.temporal_memory
    assert memory.values.grad.any() and not memory.keys.grad.any()


@pytest.mark.slow
def test_the_parameters_of_the_memories():
    for variant in VARIANTS:
        model = small_model(*variant)
        named = {id(p): name for name, p in model.named_parameters()}
        found = [named[id(p)] for p in model.memory_parameters()]
        assert found == [name for name in named.values() if '_memory.' in name]
        assert bool(found) == (variant != ('none', 'average'))


@pytest.mark.parametrize('seq_len', [1, 5])
def test_the_average_takes_clips_of_any_length(seq_len):
    model = small_model('none', 'average').eval()
    assert model(clips(1, seq_len)).shape == (1, 512)


@pytest.mark.slow
@pytest.mark.parametrize(('spatial', 'temporal'), VARIANTS)
def test_a_batch_of_images_is_a_batch_of_still_clips(spatial, temporal):
    model = wake(small_model(spatial, temporal)).double().eval()
    images = clips(3, 1, torch.float64)[:, 0]
    with torch.no_grad():
        still = model(images)
        expected = model(images.unsqueeze(1).repeat(1, L, 1, 1, 1))
    assert still.shape == (3, 512)
    assert references.relative_error(still, expected) <= 1e-12


@pytest.mark.slow
def test_clips_of_a_batch_do_not_see_each_other_at_test_time():
    model = wake(small_model()).double().eval()
    batch = clips(3, dtype=torch.float64)
    with torch.no_grad():
        together = model(batch)
        alone = torch.cat([model(clip) for clip in batch.split(1)])
    assert references.relative_error(together, alone) <= 1e-10


@pytest.mark.parametrize('shape', [(3, 64, 32), (1, 1, L, 3, 64, 32), (2, 512)], ids=str)
def test_another_number_of_dimensions_is_quoted(shape):
    with pytest.raises(ValueError) as caught:
        small_model().eval()(torch.zeros(shape))
    assert str(shape) in str(caught.value) and '(B, L, 3, H, W)' in str(caught.value)


@pytest.mark.parametrize('temporal', ['memory', 'mlp'])
def test_clips_of_another_length_than_the_models_are_quoted(temporal):
    with pytest.raises(ValueError, match=rf'{L} frames \(video.seq_len\), got {L + 1}'):
        small_model('none', temporal).eval()(clips(1, L + 1))


@pytest.mark.parametrize('key', ['spatial_mode', 'temporal_mode'])
def test_an_unknown_mode_is_quoted_with_its_key(key):
    with pytest.raises(InputError, match=rf'stmn\.{key} takes one of memory, .*, got memroy'):
        small_model(**{key: 'memroy'})


def test_the_similarity_scale_reaches_both_memories():
    auto = small_model()
    assert auto.spatial_memory.scale == pytest.approx((512 / M) ** 0.5)
    assert auto.temporal_memory.scale == pytest.approx((512 / N) ** 0.5)
    literal = small_model(similarity_scale=1.0)
    assert literal.spatial_memory.scale == literal.temporal_memory.scale == 1.0


def test_where_the_scale_of_the_refinement_starts():
    plain, refined = small_model(), small_model(spatial_bn_scale=0.5)
    assert (plain.spatial_memory.bn.weight == 0).all()
    assert (refined.spatial_memory.bn.weight == 0.5).all()
    maps = torch.rand(2, 512, 2, 2), torch.randn(2, 512, 2, 2)
    average = maps[0].mean(dim=(2, 3))
    torch.testing.assert_close(plain.eval().spatial_memory(*maps).output, average)
    assert (refined.eval().spatial_memory(*maps).output - average).abs().max() > 0.1


# --- other ways to run it ---


@pytest.mark.slow
@pytest.mark.parametrize(
    ('spatial', 'temporal'), [('memory', 'memory'), ('memory', 'average'), ('none', 'mlp')]
)
def test_an_exported_program_takes_other_sizes(spatial, temporal):
    model = wake(small_model(spatial, temporal)).eval()
    dynamic = {0: torch.export.Dim('clips')}
    sizes = [(1, L), (5, L)]
    if temporal == 'average':
        dynamic[1], sizes = torch.export.Dim('frames'), [(1, 1), (3, L + 3)]
    program = torch.export.export(
        model, (clips(2),), dynamic_shapes=(dynamic,), strict=False
    ).module()
    for count, seq_len in sizes:
        batch = clips(count, seq_len)
        with torch.no_grad():
            torch.testing.assert_close(program(batch), model(batch), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_weights_of_half_precision_are_refused_with_what_to_do(dtype):
    model = small_model().to(dtype)
    for mode in (True, False):
        with pytest.raises(ValueError, match=f'STMN are {dtype}.*torch.autocast.*test.amp'):
            model.train(mode)(clips(2).to(dtype))


# --- BNNeck ---


def test_the_bias_of_a_bnneck_is_no_parameter_and_stays_zero():
    model = small_model().train()
    names = {name for name, _ in model.named_parameters() if name.startswith('bnneck')}
    assert names == {'bnneck_clip.weight', 'bnneck_frame.weight'}
    torchreid.utils.open_all_layers(model)  # the host does so at every epoch
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    before = model.bnneck_clip.weight.detach().clone()
    total_loss(model, model(clips(4)), [0, 0, 1, 2]).backward()
    optimizer.step()
    assert not torch.equal(model.bnneck_clip.weight, before)
    for bnneck in (model.bnneck_clip, model.bnneck_frame):
        assert not bnneck.bias.requires_grad
        assert torch.equal(bnneck.bias, torch.zeros(512))
    copied = small_model(seed=1)
    copied.load_state_dict(copy.deepcopy(model.state_dict()))
    assert torch.equal(copied.bnneck_clip.bias, torch.zeros(512))


def test_the_host_opens_every_parameter_and_leaves_the_bias_frozen():
    model = small_model()
    for parameter in model.parameters():
        parameter.requires_grad = False
    torchreid.utils.open_all_layers(model)
    assert model.training
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert not model.bnneck_clip.bias.requires_grad
    assert not model.bnneck_frame.bias.requires_grad


def test_classifiers_have_no_bias():
    model = small_model()
    assert model.classifier_clip.bias is None and model.classifier_frame.bias is None
    assert model.classifier_clip.weight is not model.classifier_frame.weight
    for classifier in (model.classifier_clip, model.classifier_frame):
        assert 0.0009 < classifier.weight.std() < 0.0011


# --- the forward, in loops ---

LOOP_SIZE = (32, 32)  # 2x2 positions


def reference_forward(model, batch):
    """Fig. 2 and Fig. 3 from the encoder's maps on; ``batch`` holds clips of L frames."""
    maps = model.encoder(batch.flatten(0, 1))
    memory = model.spatial_memory
    if memory is None:
        pooled, spatial_probs, running = references.gap(maps.frame_features), None, None
    else:
        bn = {
            'weight': memory.bn.weight,
            'bias': memory.bn.bias,
            'mean': memory.bn.running_mean.clone(),
            'var': memory.bn.running_var.clone(),
            'eps': memory.bn.eps,
        }
        running = references.spatial_memory(
            maps.frame_features,
            maps.spatial_queries,
            memory.keys,
            memory.values,
            bn,
            memory.scale,
            model.training,
        )
        pooled, spatial_probs = running['pooled'], running['probs']
    count, length = batch.shape[:2]
    vectors = torch.stack(
        [torch.stack([pooled[b * length + i] for i in range(length)]) for b in range(count)]
    )
    temporal = model.temporal_memory
    frame_feature = references.temporal_average(vectors)
    if maps.temporal_queries is None:
        result = {'output': frame_feature, 'probs': None}
        result['attention'] = torch.full((count, length), 1 / length, dtype=batch.dtype)
    else:
        queries = references.gap(
            references.query_map(model.encoder, model.encoder.temporal_head, batch.flatten(0, 1))
        ).reshape(count, length, -1)
        lstm = (
            temporal.lstm.weight_ih_l0,
            temporal.lstm.weight_hh_l0,
            temporal.lstm.bias_ih_l0,
            temporal.lstm.bias_hh_l0,
        )
        if hasattr(temporal, 'keys'):
            result = references.temporal_memory(
                queries, vectors, temporal.keys, temporal.values, lstm, temporal.scale
            )
        else:
            layers = [p for name, p in temporal.named_parameters() if 'lstm' not in name]
            result = references.temporal_mlp(queries, vectors, *layers, lstm) | {'probs': None}
    if not model.training:
        neck = model.bnneck_clip
        return references.bnneck_eval(
            result['output'], neck.weight, neck.running_mean, neck.running_var, neck.eps
        ), running
    logits = [
        references.linear(references.bnneck_training(x, neck.weight, neck.eps), layer.weight)
        for x, neck, layer in (
            (result['output'], model.bnneck_clip, model.classifier_clip),
            (frame_feature, model.bnneck_frame, model.classifier_frame),
        )
    ]
    return STMNOutput(
        result['output'],
        frame_feature,
        *logits,
        spatial_probs,
        result['probs'],
        result['attention'],
    ), running


@pytest.mark.slow
@torch.no_grad()
@pytest.mark.parametrize(
    ('spatial', 'temporal'), [('memory', 'memory'), ('none', 'mlp'), ('memory', 'average')]
)
def test_the_forward_at_test_time_equals_the_loops(spatial, temporal):
    model = wake(small_model(spatial, temporal)).double().eval()
    batch = clips(2, dtype=torch.float64, size=LOOP_SIZE)
    expected, _ = reference_forward(model, batch)
    assert references.relative_error(model(batch), expected) <= 1e-6


@pytest.mark.slow
@torch.no_grad()
@pytest.mark.parametrize(('spatial', 'temporal'), [('memory', 'memory'), ('none', 'mlp')])
def test_the_forward_in_training_equals_the_loops(spatial, temporal):
    model = wake(small_model(spatial, temporal)).double().train()
    batch = clips(3, dtype=torch.float64, size=LOOP_SIZE)
    expected, running = reference_forward(copy.deepcopy(model), batch)
    out = model(batch)
    for name, ours, theirs in zip(STMNOutput._fields, out, expected, strict=True):
        if theirs is None:
            assert ours is None, name
        else:
            assert references.relative_error(ours, theirs) <= 1e-6, name
    if running is not None:
        bn = model.spatial_memory.bn
        assert references.relative_error(bn.running_mean, running['running_mean']) <= 1e-6
        assert references.relative_error(bn.running_var, running['running_var']) <= 1e-6


@pytest.mark.slow
@torch.no_grad()
def test_vectors_of_frames_are_what_the_clips_are_made_of():
    """All-frames testing encodes each frame once and puts clips together afterwards."""
    model = wake(small_model()).double().eval()
    frames = clips(1, 2 * L, torch.float64)[0]
    vectors = model.encode_frames(frames)
    assert vectors.shape == (2 * L, 2 * 512)
    interleaved = torch.stack([frames[0::2], frames[1::2]])
    refined, queries = vectors.split(512, dim=1)
    output = model.temporal_memory(
        torch.stack([queries[0::2], queries[1::2]]),
        torch.stack([refined[0::2], refined[1::2]]),
    ).output
    assert references.relative_error(model.bnneck_clip(output), model(interleaved)) <= 1e-10
    embedded = model.embed(torch.stack([vectors[0::2], vectors[1::2]]))
    assert references.relative_error(embedded, model(interleaved)) <= 1e-10


# --- what figures show ---


@pytest.mark.slow
@torch.no_grad()
@pytest.mark.parametrize(('spatial', 'temporal'), VARIANTS)
def test_what_is_explained_fits_the_loops_and_the_feature(spatial, temporal):
    model = wake(small_model(spatial, temporal)).double().eval()
    batch = clips(2, dtype=torch.float64, size=LOOP_SIZE)
    found = model.explain(batch)
    check_explained(found, 2, L)
    assert {'frame_norms', 'frame_feature', 'clip_feature'} <= found.keys()
    assert ('attention' in found) == (temporal != 'average')
    assert ('temporal_probs' in found) == ('temporal_values' in found) == (temporal == 'memory')

    def close(name, expected):
        assert references.relative_error(found[name], expected) <= 1e-6, name

    close('clip_feature', model(batch))
    maps = model.encoder(batch.flatten(0, 1)).frame_features
    refined = maps
    if spatial == 'memory':
        memory = model.spatial_memory
        bn = {'weight': memory.bn.weight, 'bias': memory.bn.bias, 'eps': memory.bn.eps}
        bn |= {'mean': memory.bn.running_mean, 'var': memory.bn.running_var}
        queries = model.encoder(batch.flatten(0, 1)).spatial_queries
        loops = references.spatial_memory(
            maps, queries, memory.keys, memory.values, bn, memory.scale, training=False
        )
        refined = loops['refined']
        close('spatial_probs', loops['probs'].reshape(2, L, 2, 2, M))
        close('spatial_values', torch.stack([memory.values] * 2))
        close('refined_norms', lengths(refined))
        close('change_norms', lengths(refined - maps))
        close('refined_feature', clip_vectors(refined).sum(dim=1) / L)
    else:
        assert not [name for name in found if name.startswith(('spatial', 'refined', 'change'))]
    close('frame_norms', lengths(maps))
    close('frame_feature', clip_vectors(maps).sum(dim=1) / L)
    attention = found.get('attention', torch.full((2, L), 1 / L, dtype=torch.float64))
    assert attention.sum(dim=1).tolist() == pytest.approx([1, 1])
    weighted = torch.einsum('bl,bld->bd', attention, clip_vectors(refined))
    neck = model.bnneck_clip
    statistics = neck.running_mean, neck.running_var, neck.eps
    close('clip_feature', references.bnneck_eval(weighted, neck.weight, *statistics))


def lengths(maps):
    return maps.square().sum(dim=1).sqrt().reshape(2, L, 2, 2)


def clip_vectors(maps):
    return references.gap(maps).reshape(-1, L, maps.shape[1])
