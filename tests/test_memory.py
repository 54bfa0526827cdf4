"""Memories against the loop references: forward, gradients, running statistics, row order."""

import math

import pytest
import references.stmn as references
import torch

from stmn_plugin.models import SpatialMemory, TemporalAverage, TemporalMemory, TemporalMLP

TOLERANCE = {torch.float64: 1e-6, torch.float32: 1e-4}
DTYPES = tuple(TOLERANCE)
T, D, H, W, M = 3, 5, 3, 2, 4  # frames, channels, map, spatial items
B, L, N = 3, 4, 3  # clips, frames of a clip, temporal items


def spatial_memory(dtype=torch.float64, scale=None, seed=0):
    """A memory whose BN does something, also in eval mode."""
    torch.manual_seed(seed)
    module = SpatialMemory(D, M, scale)
    with torch.no_grad():
        module.bn.weight.uniform_(0.5, 2)
        module.bn.bias.normal_()
        module.bn.running_mean.normal_()
        module.bn.running_var.uniform_(0.5, 2)
    return module.to(dtype)


def spatial_inputs(dtype=torch.float64, seed=1):
    generator = torch.Generator().manual_seed(seed)
    features = torch.rand(T, D, H, W, generator=generator).to(dtype).requires_grad_()
    queries = torch.randn(T, D, H, W, generator=generator).to(dtype).requires_grad_()
    return features, queries


def copies(module, *inputs):
    """float64 leaves of inputs and parameters, for the reference."""

    def leaf(tensor):
        return tensor.detach().double().clone().requires_grad_()

    return [leaf(x) for x in inputs], {name: leaf(p) for name, p in module.named_parameters()}


def reference_of_spatial(module, features, queries, parameters):
    bn = {
        'weight': parameters['bn.weight'],
        'bias': parameters['bn.bias'],
        'mean': module.bn.running_mean.double().clone(),
        'var': module.bn.running_var.double().clone(),
        'eps': module.bn.eps,
    }
    return references.spatial_memory(
        features,
        queries,
        parameters['keys'],
        parameters['values'],
        bn,
        module.scale,
        module.training,
    )


def weighted(tensors, seed=5):
    """A scalar in which every element of every output has its own weight."""
    generator = torch.Generator().manual_seed(seed)
    total = 0
    for tensor in tensors:
        weights = torch.randn(tensor.shape, generator=generator, dtype=torch.float64)
        total = total + (tensor * weights.to(tensor.dtype)).sum()
    return total


def assert_same_gradients(actual, expected, tolerance):
    assert len(actual) == len(expected)
    for ours, theirs in zip(actual, expected, strict=True):
        assert references.relative_error(ours, theirs) <= tolerance


# --- spatial memory, Eq. 1-3 ---


@pytest.mark.parametrize('training', [True, False], ids=['train', 'eval'])
@pytest.mark.parametrize('scale', [None, 1.0], ids=['auto', 'one'])
@pytest.mark.parametrize('dtype', DTYPES, ids=str)
def test_spatial_memory_equals_equations_1_to_3_with_gradients(dtype, scale, training):
    module = spatial_memory(dtype, scale).train(training)
    inputs = spatial_inputs(dtype)
    leaves, parameters = copies(module, *inputs)
    expected = reference_of_spatial(module, *leaves, parameters)
    out = module(*inputs)

    assert out.output.shape == (T, D) and out.probs.shape == (T * H * W, M)
    assert out.output.dtype == out.probs.dtype == dtype
    assert references.relative_error(out.output, expected['pooled']) <= TOLERANCE[dtype]
    assert references.relative_error(out.probs, expected['probs']) <= TOLERANCE[dtype]
    ours = torch.autograd.grad(weighted(out), [*inputs, *module.parameters()])
    theirs = torch.autograd.grad(
        weighted([expected['pooled'], expected['probs']]), [*leaves, *parameters.values()]
    )
    assert_same_gradients(ours, theirs, TOLERANCE[dtype])


@pytest.mark.parametrize('training', [True, False], ids=['train', 'eval'])
@pytest.mark.parametrize('dtype', DTYPES, ids=str)
def test_refine_equals_equation_3_at_every_position_with_gradients(dtype, training):
    module = spatial_memory(dtype).train(training)
    inputs = spatial_inputs(dtype)
    leaves, parameters = copies(module, *inputs)
    expected = reference_of_spatial(module, *leaves, parameters)['refined']
    refined = module.refine(*inputs)

    assert refined.shape == (T, D, H, W)
    assert references.relative_error(refined, expected) <= TOLERANCE[dtype]
    ours = torch.autograd.grad(weighted([refined]), [*inputs, *module.parameters()])
    theirs = torch.autograd.grad(weighted([expected]), [*leaves, *parameters.values()])
    assert_same_gradients(ours, theirs, TOLERANCE[dtype])


@pytest.mark.parametrize('training', [True, False], ids=['train', 'eval'])
def test_the_pooled_shortcut_is_the_gap_of_the_full_maps_with_gradients(training):
    short, full = spatial_memory().train(training), spatial_memory().train(training)
    inputs = spatial_inputs()
    output = short(*inputs).output
    pooled = full.refine(*inputs).mean(dim=(2, 3))

    assert references.relative_error(output, pooled) <= 1e-10
    ours = torch.autograd.grad(weighted([output]), [*inputs, *short.parameters()])
    theirs = torch.autograd.grad(weighted([pooled]), [*inputs, *full.parameters()])
    assert_same_gradients(ours, theirs, 1e-10)
    assert references.relative_error(short.bn.running_mean, full.bn.running_mean) <= 1e-10
    assert references.relative_error(short.bn.running_var, full.bn.running_var) <= 1e-10
    assert short.bn.num_batches_tracked == full.bn.num_batches_tracked == int(training)


@pytest.mark.parametrize('dtype', DTYPES, ids=str)
def test_running_statistics_after_two_steps_equal_the_reference(dtype):
    module = spatial_memory(dtype).train()
    for step in range(2):
        inputs = spatial_inputs(dtype, seed=step)
        leaves, parameters = copies(module, *inputs)
        expected = reference_of_spatial(module, *leaves, parameters)
        module(*inputs)
        for name in ('running_mean', 'running_var'):
            actual = getattr(module.bn, name)
            assert references.relative_error(actual, expected[name]) <= TOLERANCE[dtype]
    assert module.bn.num_batches_tracked == 2


def test_eval_mode_leaves_the_running_statistics_alone():
    module = spatial_memory().eval()
    before = {name: buffer.clone() for name, buffer in module.named_buffers()}
    module(*spatial_inputs())
    module.refine(*spatial_inputs())
    assert len(before) == 3
    for name, buffer in module.named_buffers():
        assert torch.equal(buffer, before[name]), name


@pytest.mark.parametrize('training', [True, False], ids=['train', 'eval'])
def test_a_new_spatial_memory_changes_nothing_and_can_learn(training):
    torch.manual_seed(0)
    module = SpatialMemory(D, M).double().train(training)
    features, queries = spatial_inputs()
    output = module(features, queries).output
    assert torch.equal(module.bn.weight, torch.zeros(D)) and torch.equal(
        module.bn.bias, torch.zeros(D)
    )
    assert torch.equal(module.refine(features, queries), features)
    assert references.relative_error(output, references.gap(features)) <= 1e-12
    by_name = dict(module.named_parameters())
    gradients = dict(
        zip(by_name, torch.autograd.grad(weighted([output]), by_name.values()), strict=True)
    )
    assert (gradients['bn.weight'].abs() > 1e-6).all()
    assert not gradients['keys'].any() and not gradients['values'].any()


def test_probs_are_frame_major_then_row_by_row():
    module = spatial_memory()
    features, queries = spatial_inputs()
    probs = module(features, queries).probs
    for t in range(T):
        for h in range(H):
            for w in range(W):
                row = references.scaled_cosine_softmax(
                    queries[t, :, h, w], module.keys, module.scale
                )
                place = (t * H + h) * W + w
                assert references.relative_error(probs[place], torch.stack(row)) <= 1e-12


def test_positions_and_channels_of_the_query_map_are_not_mixed():
    """The authors' final upload reshapes (T, D, H, W) to rows of D without a permute."""
    module = spatial_memory()
    features, queries = spatial_inputs()
    mixed = queries.reshape(-1, H, W, D).permute(0, 3, 1, 2)  # rows of a reshape, put in place
    ours, theirs = module(features, queries), module(features, mixed)
    authors_rows = queries.reshape(-1, D)
    authors = [
        torch.stack(references.scaled_cosine_softmax(row, module.keys, module.scale))
        for row in authors_rows
    ]
    assert references.relative_error(theirs.probs, torch.stack(authors)) <= 1e-12
    assert references.relative_error(ours.probs, torch.stack(authors)) > 0.1
    assert references.relative_error(ours.output, theirs.output) > 1e-3


def test_transposed_maps_transpose_the_probs_and_keep_the_output():
    module = spatial_memory()
    features, queries = spatial_inputs()
    plain = module(features, queries)
    turned = module(features.transpose(2, 3), queries.transpose(2, 3))
    rows = plain.probs.view(T, H, W, M).transpose(1, 2).reshape(-1, M)
    assert references.relative_error(turned.probs, rows) <= 1e-12
    assert references.relative_error(turned.output, plain.output) <= 1e-12


@pytest.mark.parametrize('training', [True, False], ids=['train', 'eval'])
def test_channels_last_maps_give_the_same(training):
    inputs = spatial_inputs()
    plain = spatial_memory().train(training)(*inputs)
    other = spatial_memory().train(training)(
        *(x.contiguous(memory_format=torch.channels_last) for x in inputs)
    )
    assert references.relative_error(other.output, plain.output) <= 1e-12
    assert references.relative_error(other.probs, plain.probs) <= 1e-12


@pytest.mark.parametrize('factor', [1e-3, 7.0, 1e4])
def test_only_the_direction_of_queries_and_keys_counts(factor):
    module = spatial_memory()
    features, queries = spatial_inputs()
    plain = module(features, queries).probs
    assert references.relative_error(module(features, factor * queries).probs, plain) <= 1e-12
    with torch.no_grad():
        module.keys.mul_(torch.tensor([[1.0], [factor], [1.0], [factor]]))
    assert references.relative_error(module(features, queries).probs, plain) <= 1e-12


def test_a_query_of_zeros_matches_all_items_alike_with_finite_gradients():
    module = spatial_memory().train()
    features, queries = spatial_inputs()
    with torch.no_grad():
        queries[1, :, 2, 1] = 0
    out = module(features, queries)
    place = (1 * H + 2) * W + 1
    assert references.relative_error(out.probs[place], torch.full((M,), 1 / M)) <= 1e-12
    for gradient in torch.autograd.grad(weighted(out), [features, queries, *module.parameters()]):
        assert gradient.isfinite().all()


def test_the_scale_is_sqrt_of_dim_over_items_unless_a_number_is_given():
    assert SpatialMemory(2048, 10).scale == pytest.approx(14.310835)
    assert TemporalMemory(2048, 5, 6).scale == pytest.approx(20.238577)
    assert SpatialMemory(48, 3).scale == 4.0
    for module in (SpatialMemory(D, M, scale=1.0), TemporalMemory(D, N, L, scale=1.0)):
        assert module.scale == 1.0 and isinstance(module.scale, float)
    assert SpatialMemory(D, M, scale=3).scale == 3.0


def test_with_scale_one_a_perfect_match_reaches_0_232_against_0_085():
    """The reason for the default scale, as memory.py states it: the margin is out of reach."""
    module = SpatialMemory(10, 10, scale=1.0).double()
    with torch.no_grad():
        module.keys.copy_(torch.eye(10))
    queries = torch.eye(10, dtype=torch.float64)[:, :, None, None]
    probs = module(torch.zeros(10, 10, 1, 1, dtype=torch.float64), queries).probs
    for n in range(10):
        assert probs[n, n].item() == pytest.approx(math.e / (math.e + 9), rel=1e-12)
        assert f'{probs[n, n]:.3f}' == '0.232'
        assert f'{probs[n, n - 1]:.3f}' == '0.085'
    assert (probs.max(dim=0).values - probs.min(dim=0).values).max() < 0.15 < 0.3


def test_with_the_auto_scale_the_margin_is_within_reach():
    module = SpatialMemory(2048, 10).double()
    with torch.no_grad():
        module.keys.copy_(torch.eye(10, 2048))
    queries = torch.eye(10, 2048, dtype=torch.float64)[:, :, None, None]
    probs = module(torch.zeros(10, 2048, 1, 1, dtype=torch.float64), queries).probs
    assert (probs.max(dim=0).values - probs.min(dim=0).values).min() > 0.99


def test_parameters_of_both_memories_have_the_fixed_names_shapes_and_start():
    torch.manual_seed(0)
    spatial, temporal = SpatialMemory(300, 20), TemporalMemory(300, 20, 100)
    assert spatial.keys.shape == spatial.values.shape == temporal.keys.shape == (20, 300)
    assert temporal.values.shape == (20, 100)
    for normal in (spatial.keys, spatial.values, temporal.keys):  # N(0, 1), 6000 draws
        assert abs(normal.mean().item()) < 0.065 and abs(normal.std().item() - 1) < 0.05
        assert normal.abs().max() > 2.5
    assert temporal.values.min() >= 0 and temporal.values.max() <= 1  # U(0, 1), 2000 draws
    assert abs(temporal.values.mean().item() - 0.5) < 0.035
    assert abs(temporal.values.std().item() - 12**-0.5) < 0.02
    assert {name for name, _ in spatial.named_parameters()} == {
        'keys',
        'values',
        'bn.weight',
        'bn.bias',
    }
    assert spatial.keys.requires_grad and temporal.values.requires_grad


@pytest.mark.parametrize('method', ['forward', 'refine'])
@pytest.mark.parametrize(
    'shapes',
    [((2, D, 3, 2), (2, D, 2, 3)), ((2, D, 6), (2, D, 6)), ((2, D, 3, 2), (1, D, 3, 2))],
    ids=str,
)
def test_spatial_memory_quotes_shapes_that_do_not_fit(method, shapes):
    module = spatial_memory()
    first, second = (torch.zeros(shape, dtype=torch.float64) for shape in shapes)
    with pytest.raises(ValueError) as caught:
        getattr(module, method)(first, second)
    assert str(shapes[0]) in str(caught.value) and str(shapes[1]) in str(caught.value)


# --- temporal memory, Eq. 4-7, and what may stand in its place ---


def temporal_inputs(dtype=torch.float64, seed=2):
    generator = torch.Generator().manual_seed(seed)
    queries = torch.randn(B, L, D, generator=generator).to(dtype).requires_grad_()
    vectors = torch.randn(B, L, D, generator=generator).to(dtype).requires_grad_()
    return queries, vectors


def lstm_of(parameters):
    return [
        parameters[f'lstm.{name}_l0'] for name in ('weight_ih', 'weight_hh', 'bias_ih', 'bias_hh')
    ]


@pytest.mark.parametrize(
    ('scale', 'attention_scale'),
    [(None, 1.0), (1.0, 1.0), (None, 5.0)],
    ids=['auto', 'one', 'attention scale 5'],
)
@pytest.mark.parametrize('dtype', DTYPES, ids=str)
def test_temporal_memory_equals_equations_4_to_7_with_gradients(dtype, scale, attention_scale):
    torch.manual_seed(3)
    module = TemporalMemory(D, N, L, scale, attention_scale=attention_scale).to(dtype)
    inputs = temporal_inputs(dtype)
    leaves, parameters = copies(module, *inputs)
    expected = references.temporal_memory(
        *leaves,
        parameters['keys'],
        parameters['values'],
        lstm_of(parameters),
        module.scale,
        attention_scale,
    )
    out = module(*inputs)

    assert (
        out.output.shape == (B, D) and out.probs.shape == (B, N) and out.attention.shape == (B, L)
    )
    for name in ('output', 'probs', 'attention'):
        assert references.relative_error(getattr(out, name), expected[name]) <= TOLERANCE[dtype]
    ours = torch.autograd.grad(weighted(out), [*inputs, *module.parameters()])
    theirs = torch.autograd.grad(
        weighted([expected['output'], expected['probs'], expected['attention']]),
        [*leaves, *parameters.values()],
    )
    assert_same_gradients(ours, theirs, TOLERANCE[dtype])


@pytest.mark.parametrize('hidden', [N, 9])
@pytest.mark.parametrize('dtype', DTYPES, ids=str)
def test_temporal_mlp_equals_the_two_layers_of_section_4_2_with_gradients(dtype, hidden):
    torch.manual_seed(4)
    module = TemporalMLP(D, hidden, L).to(dtype)
    inputs = temporal_inputs(dtype)
    leaves, parameters = copies(module, *inputs)
    two_layers = [p for name, p in parameters.items() if not name.startswith('lstm.')]
    assert [tuple(p.shape) for p in two_layers] == [(hidden, D), (L, hidden)]  # no biases
    expected = references.temporal_mlp(*leaves, *two_layers, lstm_of(parameters))
    out = module(*inputs)

    assert out.probs is None
    assert references.relative_error(out.output, expected['output']) <= TOLERANCE[dtype]
    assert references.relative_error(out.attention, expected['attention']) <= TOLERANCE[dtype]
    ours = torch.autograd.grad(
        weighted([out.output, out.attention]), [*inputs, *module.parameters()]
    )
    theirs = torch.autograd.grad(
        weighted([expected['output'], expected['attention']]), [*leaves, *parameters.values()]
    )
    assert_same_gradients(ours, theirs, TOLERANCE[dtype])


@pytest.mark.parametrize('dtype', DTYPES, ids=str)
def test_temporal_average_is_the_mean_over_frames_with_gradients(dtype):
    _, vectors = temporal_inputs(dtype)
    (leaf,), _ = copies(torch.nn.Identity(), vectors)
    out, expected = TemporalAverage()(None, vectors), references.temporal_average(leaf)
    assert references.relative_error(out.output, expected) <= TOLERANCE[dtype]
    assert out.probs is None
    assert torch.equal(out.attention, torch.full((B, L), 1 / L, dtype=dtype))
    ours = torch.autograd.grad(weighted([out.output]), [vectors])
    theirs = torch.autograd.grad(weighted([expected]), [leaf])
    assert_same_gradients(ours, theirs, TOLERANCE[dtype])
    assert not list(TemporalAverage().parameters())


def test_the_mlp_has_as_many_parameters_as_the_memory_with_the_same_items():
    def count(module):
        return sum(p.numel() for p in module.parameters())

    assert count(TemporalMLP(D, N, L)) == count(TemporalMemory(D, N, L))
    lstm = 4 * (D * D + D * D + D + D)
    assert count(TemporalMLP(D, N, L)) == lstm + D * N + N * L


def test_the_temporal_memory_sees_the_order_of_the_frames():
    torch.manual_seed(3)
    module = TemporalMemory(D, N, L).double()
    queries, vectors = temporal_inputs()
    forwards, backwards = module(queries, vectors), module(queries.flip(1), vectors)
    assert references.relative_error(backwards.probs, forwards.probs) > 1e-3


@pytest.mark.parametrize('make', [TemporalMemory, TemporalMLP], ids=lambda c: c.__name__)
def test_stored_attentions_refuse_clips_of_another_length(make):
    vectors = torch.zeros(B, L + 1, D)
    with pytest.raises(ValueError, match=rf'clips of {L} frames \(video.seq_len\), got {L + 1}'):
        make(D, N, L)(vectors, vectors)


@pytest.mark.parametrize('make', [TemporalMemory, TemporalMLP], ids=lambda c: c.__name__)
def test_temporal_shapes_that_differ_are_quoted(make):
    with pytest.raises(ValueError) as caught:
        make(D, N, L)(torch.zeros(B, L, D + 1), torch.zeros(B, L, D))
    assert str((B, L, D + 1)) in str(caught.value) and str((B, L, D)) in str(caught.value)
