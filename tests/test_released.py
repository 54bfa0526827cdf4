"""What the authors' released code computes, by config: against loops, and against the paper."""

import pytest
import references.released as references
import torch
from references.stmn import relative_error

from stmn_plugin.losses import Recipe
from stmn_plugin.models import STMN, SpatialMemory, TemporalMemory

T, M, N = 3, 4, 3
B, L = 2, 3
EXACT = 1e-9
# D, H, W: channels of a group at all positions; a channel over two rows; more positions than D
SHAPES = [(6, 3, 1), (8, 2, 2), (5, 3, 2), (4, 3, 4)]


def spatial(shape, addressing, normalisation, training):
    torch.manual_seed(0)
    memory = SpatialMemory(
        shape[0], M, 1.7, addressing=addressing, key_normalisation=normalisation
    ).double()
    with torch.no_grad():
        memory.bn.weight.uniform_(0.5, 2)
        memory.bn.bias.normal_()
        memory.bn.running_mean.normal_()
        memory.bn.running_var.uniform_(0.5, 2)
    features = torch.rand(T, *shape, dtype=torch.float64).requires_grad_()
    queries = torch.randn(T, *shape, dtype=torch.float64).requires_grad_()
    return memory.train(training), features, queries


def used_keys(keys, normalisation):
    if normalisation == 'channel':
        return references.channel_keys(keys)
    return torch.stack([key / references.length(key) for key in keys])


def expected_of(memory, features, queries, normalisation):
    bn = memory.bn
    start = {'weight': bn.weight, 'bias': bn.bias, 'eps': bn.eps}
    start |= {'mean': bn.running_mean.clone(), 'var': bn.running_var.clone()}
    keys = used_keys(memory.keys, normalisation)
    return references.group_memory(
        features, queries, keys, memory.values, start, memory.scale, memory.training
    )


def gradients(tensors, inputs):
    total = 0
    for seed, tensor in enumerate(tensors):
        generator = torch.Generator().manual_seed(seed)
        total = total + (tensor * torch.randn(tensor.shape, generator=generator)).sum()
    return torch.autograd.grad(total, inputs)


@pytest.mark.parametrize('training', [True, False], ids=['train', 'eval'])
@pytest.mark.parametrize('normalisation', ['item', 'channel'])
@pytest.mark.parametrize('shape', SHAPES, ids=str)
def test_groups_equal_rows_written_by_loops_with_gradients(shape, normalisation, training):
    memory, *maps = spatial(shape, 'group', normalisation, training)
    expected = expected_of(memory, *maps, normalisation)
    out = memory(*maps)
    assert relative_error(out.output, expected['pooled']) <= EXACT
    assert relative_error(out.probs, expected['probs']) <= EXACT
    inputs = [*maps, *memory.parameters()]
    ours = gradients(out, inputs)
    theirs = gradients([expected['pooled'], expected['probs']], inputs)
    for one, other in zip(ours, theirs, strict=True):
        assert relative_error(one, other) <= EXACT
    assert relative_error(memory.bn.running_mean, expected['running_mean']) <= EXACT
    assert relative_error(memory.bn.running_var, expected['running_var']) <= EXACT


@torch.no_grad()
@pytest.mark.parametrize('training', [True, False], ids=['train', 'eval'])
@pytest.mark.parametrize('shape', SHAPES, ids=str)
def test_maps_refined_by_groups_equal_the_loops(shape, training):
    memory, *maps = spatial(shape, 'group', 'channel', training)
    expected = expected_of(memory, *maps, 'channel')
    assert relative_error(memory.refine(*maps), expected['refined']) <= EXACT


@torch.no_grad()
def test_rows_of_256x128_frames_are_16_channels_at_128_positions():
    memory = SpatialMemory(2048, 2, 1.0, addressing='group').double().eval()
    memory.keys.zero_()
    memory.keys[0, 5 * 128 + 77] = 1  # the sixth channel of a group, position 77
    memory.keys[1, 0] = -1
    memory.values.copy_(torch.eye(2, 2048))
    memory.bn.weight.fill_(1)
    queries = torch.full((1, 2048, 16, 8), 1e-9, dtype=torch.float64)
    queries[0, 3 * 16 + 5, 9, 5] = 1  # position 9*8+5 = 77
    probs = memory(torch.zeros_like(queries), queries).probs
    assert probs.shape == (128, 2)
    assert probs[:, 0].argmax() == 3 and probs[3, 0] > 0.7
    assert probs[0].tolist() == pytest.approx(probs[127].tolist())
    taken = -memory.refine(torch.zeros_like(queries), queries)[0]  # value 0 is 1 at number 0
    assert relative_error(taken[::16, 0, 0] * (1 + memory.bn.eps) ** 0.5, probs[:, 0]) <= EXACT
    assert taken[::16, 0, 0].argmax() == 3 and not taken[1:16, 0, 0].any()


@torch.no_grad()
def test_the_layout_in_memory_does_not_change_groups():
    memory, *maps = spatial((8, 2, 2), 'group', 'channel', False)
    turned = [x.contiguous(memory_format=torch.channels_last) for x in maps]
    assert torch.equal(memory(*turned).probs, memory(*maps).probs)


@torch.no_grad()
def test_only_where_k_divides_d_the_read_out_is_pooled_first(monkeypatch):
    largest = {}

    def watched(self, other):
        product = torch.matmul(self, other)
        largest[shape] = max(largest.get(shape, 0), product.shape[-1])
        return product

    for shape in ((8, 2, 2), (5, 3, 2)):
        memory, *maps = spatial(shape, 'group', 'item', False)
        with monkeypatch.context() as patch:
            patch.setattr(torch.Tensor, '__matmul__', watched)
            memory(*maps)
    assert largest == {(8, 2, 2): 2, (5, 3, 2): 5}  # D/K numbers a row, and all D


@pytest.mark.parametrize('normalisation', ['item', 'channel'])
def test_the_temporal_memory_equals_the_loops_with_gradients(normalisation):
    torch.manual_seed(1)
    memory = TemporalMemory(5, N, L, 1.3, normalisation).double()
    inputs = [torch.randn(B, L, 5, dtype=torch.float64, requires_grad=True) for _ in range(2)]
    lstm = [memory.get_parameter(f'lstm.{name}_l0') for name in LSTM]
    keys = used_keys(memory.keys, normalisation)
    expected = references.temporal_memory(*inputs, keys, memory.values, lstm, memory.scale)
    out = memory(*inputs)
    inputs += memory.parameters()
    ours = gradients([out.output, out.probs], inputs)
    theirs = gradients([expected['output'], expected['probs']], inputs)
    for one, other in zip([out.output, *ours], [expected['output'], *theirs], strict=True):
        assert relative_error(one, other) <= EXACT


LSTM = ('weight_ih', 'weight_hh', 'bias_ih', 'bias_hh')


def test_channels_of_keys_act_as_the_scale_that_the_default_takes():
    """Random keys (items, D): a channel has length sqrt(items), a key sqrt(D)."""
    torch.manual_seed(2)
    released = SpatialMemory(2048, 10, 1.0, key_normalisation='channel')
    lengths = torch.nn.functional.normalize(released.keys, dim=0).norm(dim=1)
    assert lengths.mean().item() == pytest.approx(SpatialMemory(2048, 10).scale, rel=0.01)


def test_unknown_words_are_quoted():
    for options in ({'addressing': 'row'}, {'key_normalisation': 'none'}):
        with pytest.raises(ValueError, match=f'{next(iter(options))} must be one of'):
            SpatialMemory(4, 2, **options)
    with pytest.raises(ValueError, match="got 'none'"):
        TemporalMemory(4, 2, 3, key_normalisation='none')


# --- the network ---


def small_model(**changes):
    torch.manual_seed(3)
    config = STMN.Config(backbone='resnet18', spatial_items=M, temporal_items=N, **changes)
    return STMN(5, L, config, pretrained=False).double()


def test_choices_of_the_config_reach_the_memories():
    model = small_model(addressing='group', key_normalisation='channel', similarity_scale=1.0)
    assert model.spatial_memory.addressing == 'group'
    memories = model.spatial_memory, model.temporal_memory
    assert {memory.key_normalisation for memory in memories} == {'channel'}
    default = small_model()
    assert default.spatial_memory.addressing == 'position'
    memories = default.spatial_memory, default.temporal_memory
    assert {memory.key_normalisation for memory in memories} == {'item'}
    names = default.state_dict().keys()
    assert names == model.state_dict().keys() == small_model(stem_relu=False).state_dict().keys()


@torch.no_grad()
def test_the_stem_without_relu():
    frames = torch.randn(2, 3, 32, 16, dtype=torch.float64)
    encoder = small_model(stem_relu=False).eval().encoder
    conv, norm = encoder.trunk[0], encoder.trunk[1]
    pooled = torch.nn.functional.max_pool2d(norm(conv(frames)), 3, 2, 1)
    assert torch.equal(encoder.stem(frames), pooled) and (pooled < 0).any()
    assert (small_model().eval().encoder.stem(frames) == pooled.clamp(min=0)).all()


@pytest.mark.parametrize('where', ['clip', 'frame'])
def test_where_deep_supervision_is_normalised(where):
    model = small_model(frame_bnneck=where).train()
    with torch.no_grad():
        model.bnneck_frame.weight.uniform_(0.5, 2)
    clips = torch.randn(B, L, 3, 32, 32, dtype=torch.float64)
    frames = model.encoder(clips.flatten(0, 1)).frame_features
    refined = frames.mean(dim=(2, 3)).detach().view(B, L, -1)  # BN scale 0: nothing is taken
    every = references.frame_logits(
        refined, model.bnneck_frame.weight, model.classifier_frame.weight
    )
    logits = model(clips).frame_logits
    assert (relative_error(logits, every) <= EXACT) == (where == 'frame')


@torch.no_grad()
def test_groups_explain_no_positions():
    model = small_model(addressing='group').eval()
    clips = torch.randn(1, L, 3, 32, 32, dtype=torch.float64)
    found = model.explain(clips)
    assert not {'spatial_probs', 'spatial_values'} & found.keys()
    assert {'change_norms', 'refined_feature', 'temporal_probs'} <= found.keys()
    assert relative_error(found['clip_feature'], model(clips)) <= EXACT


# --- the spread loss of parts of a batch ---


@pytest.mark.parametrize('reduction', ['mean', 'sum'])
@pytest.mark.parametrize('rows', [1, 4], ids=['temporal', 'spatial'])
@pytest.mark.parametrize('clips', [2, 3, 7, 8])
def test_the_spread_of_parts_equals_the_loops_with_gradients(clips, rows, reduction):
    torch.manual_seed(4)
    logits = 3 * torch.randn(clips * rows, 4, dtype=torch.float64)
    probs = logits.softmax(dim=1).requires_grad_()
    recipe = Recipe(
        spread_weight=0.5, spread_margin=0.9, spread_reduction=reduction, spread_replicas=3
    )
    ours = recipe.spread(probs, clips)
    theirs = 0.5 * references.spread_of_parts(probs, clips, 0.9, reduction, 3)
    assert relative_error(ours, theirs) <= EXACT and ours > 0
    one, other = (torch.autograd.grad(loss, probs)[0] for loss in (ours, theirs))
    assert relative_error(one, other) <= EXACT
    whole = Recipe(spread_weight=0.5, spread_margin=0.9, spread_reduction=reduction)
    assert relative_error(whole.spread(probs, clips), theirs) > 1e-3


def test_one_part_is_the_whole_batch_bit_for_bit():
    probs = torch.randn(24, 4).softmax(dim=1)
    assert torch.equal(Recipe().spread(probs, 4), Recipe().spread(probs))
