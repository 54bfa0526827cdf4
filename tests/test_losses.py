"""Loss terms against the loop references, numerical gradients, and the properties they promise."""

import math
from typing import NamedTuple

import pytest
import references.stmn as references
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from stmn_plugin.losses import (
    BatchHardTripletLoss,
    MemorySpreadLoss,
    Recipe,
    batch_hard_triplet_loss,
    memory_spread_loss,
)
from stmn_plugin.models import STMN, STMNOutput

TOLERANCE = {torch.float64: 1e-6, torch.float32: 1e-4}
DTYPES = tuple(TOLERANCE)
PIDS = torch.tensor([7, 3, 7, 3, 7, 9])  # 9 has one sample


def random(*shape, dtype=torch.float64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype).requires_grad_()


def double(tensor):
    return tensor.detach().double().clone().requires_grad_()


# --- memory spread, Eq. 9 ---


@pytest.mark.parametrize('reduction', ['sum', 'mean'])
@pytest.mark.parametrize('margin', [0.0, 0.3, 0.7, 1.0])
@pytest.mark.parametrize('dtype', DTYPES, ids=str)
def test_spread_loss_equals_equation_9_with_gradients(dtype, margin, reduction):
    logits = random(11, 4, dtype=dtype) * torch.tensor([0.2, 0.5, 2.0, 0.5], dtype=dtype)
    probs = logits.softmax(dim=1)
    ranges = probs.max(dim=0).values - probs.min(dim=0).values
    assert ranges.min() < 0.3 < ranges.max()
    leaf = double(probs)
    expected = references.memory_spread(leaf, margin, reduction)
    ours = memory_spread_loss(probs, margin, reduction)
    assert ours.shape == ()
    assert references.relative_error(ours, expected) <= TOLERANCE[dtype]
    if margin:
        (gradient,) = torch.autograd.grad(ours, [probs])
        (expected_gradient,) = torch.autograd.grad(expected, [leaf])
        assert references.relative_error(gradient, expected_gradient) <= TOLERANCE[dtype]
        assert gradient.any()
    else:
        assert ours == 0


@pytest.mark.parametrize('reduction', ['sum', 'mean'])
def test_spread_loss_has_the_numerical_gradient(reduction):
    probs = random(7, 3).softmax(dim=1).detach().requires_grad_()
    assert memory_spread_loss(probs, 0.9).item() > 0
    assert torch.autograd.gradcheck(lambda a: memory_spread_loss(a, 0.9, reduction), (probs,))


steps = st.integers(0, 64)  # 64ths: sums and differences are exact


@settings(max_examples=150, deadline=None)
@given(
    rows=st.integers(1, 4).flatmap(
        lambda items: st.lists(
            st.lists(steps, min_size=items, max_size=items), min_size=1, max_size=6
        )
    ),
    margin=steps,
)
def test_spread_loss_is_zero_exactly_when_every_item_ranges_over_the_margin(rows, margin):
    probs = torch.tensor(rows, dtype=torch.float64) / 64
    loss = memory_spread_loss(probs, margin / 64).item()
    short = [max(0, margin - (max(column) - min(column))) for column in zip(*rows, strict=True)]
    assert (loss == 0) == (max(short) == 0)
    assert loss == sum(short) / 64
    mean = memory_spread_loss(probs, margin / 64, 'mean').item()
    assert mean == pytest.approx(loss / len(short), rel=1e-12)


def test_one_access_costs_the_whole_margin_of_every_item():
    assert memory_spread_loss(torch.tensor([[0.2, 0.3, 0.5]]), 0.3).item() == pytest.approx(0.9)


def test_the_gradient_pulls_the_smallest_down_and_the_largest_up_and_nothing_else():
    probs = torch.tensor([[0.5], [0.4], [0.6], [0.45]], requires_grad=True)
    memory_spread_loss(probs, 0.3).backward()
    assert probs.grad.flatten().tolist() == [0, 1, -1, 0]


def test_equal_probabilities_give_finite_gradients_of_one_access_each():
    probs = torch.full((5, 3), 1 / 3, requires_grad=True)
    loss = memory_spread_loss(probs, 0.3)
    loss.backward()
    assert loss.item() == pytest.approx(0.9)
    assert probs.grad.isfinite().all()
    assert (probs.grad.abs().sum(dim=0) <= 2).all()


@pytest.mark.parametrize('shape', [(3,), (2, 3, 4), (0, 3)], ids=str)
def test_spread_loss_quotes_a_wrong_shape(shape):
    with pytest.raises(ValueError) as caught:
        memory_spread_loss(torch.zeros(shape))
    assert str(shape) in str(caught.value)


def test_spread_loss_quotes_an_unknown_reduction():
    with pytest.raises(ValueError, match="'max'"):
        memory_spread_loss(torch.ones(2, 2), reduction='max')
    with pytest.raises(ValueError, match="'max'"):
        MemorySpreadLoss(reduction='max')


def test_the_loss_modules_keep_their_settings():
    probs = random(9, 4).softmax(dim=1)
    module = MemorySpreadLoss(margin=0.8, reduction='mean')
    assert module(probs).item() == memory_spread_loss(probs, 0.8, 'mean').item()
    assert MemorySpreadLoss()(probs).item() == memory_spread_loss(probs, 0.3, 'sum').item()
    features = random(6, 4)
    assert (
        BatchHardTripletLoss(0.4)(features, PIDS).item()
        == batch_hard_triplet_loss(features, PIDS, 0.4).item()
    )
    assert (
        BatchHardTripletLoss()(features, PIDS).item()
        == batch_hard_triplet_loss(features, PIDS).item()
    )


# --- batch-hard triplet, Sec. 3.3 ---


@pytest.mark.parametrize('margin', [None, 0.3, 2.0], ids=['soft', 'hinge', 'wide'])
@pytest.mark.parametrize('dtype', DTYPES, ids=str)
def test_triplet_loss_equals_the_reference_with_gradients(dtype, margin):
    features = random(6, 5, dtype=dtype)
    leaf = double(features)
    expected = references.batch_hard_triplet(leaf, PIDS, margin)
    ours = batch_hard_triplet_loss(features, PIDS, margin)
    assert ours.shape == () and expected > 0
    assert references.relative_error(ours, expected) <= TOLERANCE[dtype]
    (gradient,) = torch.autograd.grad(ours, [features])
    (expected_gradient,) = torch.autograd.grad(expected, [leaf])
    assert references.relative_error(gradient, expected_gradient) <= TOLERANCE[dtype]


@pytest.mark.parametrize('margin', [None, 0.5], ids=['soft', 'hinge'])
def test_triplet_loss_has_the_numerical_gradient(margin):
    features = random(6, 3, seed=4)
    assert torch.autograd.gradcheck(lambda x: batch_hard_triplet_loss(x, PIDS, margin), (features,))


def test_triplet_loss_of_four_points_on_a_line_worked_by_hand():
    features = torch.tensor([[0.0], [1.0], [3.0], [7.0]], dtype=torch.float64)
    pids = torch.tensor([0, 0, 1, 1])
    # hardest positive, nearest negative: (1, 3), (1, 2), (4, 2), (4, 6)
    hinge = batch_hard_triplet_loss(features, pids, 0.5)
    assert hinge.item() == pytest.approx((0 + 0 + 2.5 + 0) / 4)
    soft = batch_hard_triplet_loss(features, pids)
    differences = torch.tensor([-2.0, -1, 2, -2], dtype=torch.float64)
    assert soft.item() == pytest.approx((1 + differences.exp()).log().mean().item(), rel=1e-12)


@pytest.mark.parametrize('margin', [None, 0.3], ids=['soft', 'hinge'])
@pytest.mark.parametrize('dtype', DTYPES, ids=str)
def test_a_tracklet_drawn_twice_gives_finite_gradients(dtype, margin):
    base = random(3, 4, dtype=dtype)
    features = base[[0, 0, 1, 1, 2, 0]]
    pids = torch.tensor([5, 5, 5, 5, 8, 8])  # the last duplicates a sample of another identity
    loss = batch_hard_triplet_loss(features, pids, margin)
    (gradient,) = torch.autograd.grad(loss, [base])
    assert gradient.isfinite().all() and gradient.abs().max() < 10 and gradient.any()
    everything = torch.ones(4, 3, dtype=dtype, requires_grad=True)
    batch_hard_triplet_loss(everything, torch.tensor([0, 0, 1, 1]), margin).backward()
    assert everything.grad.isfinite().all()


def test_near_features_keep_their_digits_in_float32():
    """The matrix-product shortcut |a|^2 + |b|^2 - 2ab would give 0 or noise here."""
    features = 100 + torch.tensor([[0.0], [1e-3], [3e-3], [7e-3]]).repeat(1, 3)
    pids = torch.tensor([0, 0, 1, 1])
    expected = references.batch_hard_triplet(features.double(), pids, 0.0)
    ours = batch_hard_triplet_loss(features, pids, 0.0)
    assert references.relative_error(ours, expected) <= 1e-4


def test_large_distances_do_not_overflow_the_soft_margin():
    features = torch.tensor([[0.0], [1e4], [1.0], [2.0]], requires_grad=True)
    loss = batch_hard_triplet_loss(features, torch.tensor([0, 0, 1, 1]))
    loss.backward()
    assert loss.isfinite() and features.grad.isfinite().all()
    softplus = [9999, math.log(1 + math.exp(2)), math.log(2), math.log(1 + math.exp(-1))]
    assert loss.item() == pytest.approx(sum(softplus) / 4, rel=1e-6)


def test_triplet_loss_needs_two_identities():
    with pytest.raises(ValueError, match='two identities'):
        batch_hard_triplet_loss(torch.zeros(4, 2), torch.zeros(4, dtype=torch.long))


@pytest.mark.parametrize('shapes', [((4, 2), (3,)), ((4,), (4,)), ((4, 2), (4, 1))], ids=str)
def test_triplet_loss_quotes_shapes_that_do_not_fit(shapes):
    features, pids = torch.zeros(shapes[0]), torch.zeros(shapes[1], dtype=torch.long)
    with pytest.raises(ValueError) as caught:
        batch_hard_triplet_loss(features, pids)
    assert str(shapes[0]) in str(caught.value) and str(shapes[1]) in str(caught.value)


# --- the terms of STMN, Eq. 8 with deep supervision ---


class Toy(NamedTuple):
    """The inputs of the losses, all leaves."""

    clip_feature: torch.Tensor
    frame_feature: torch.Tensor
    clip_logits: torch.Tensor
    frame_logits: torch.Tensor
    spatial_probs: torch.Tensor
    temporal_probs: torch.Tensor


TOY_PIDS = torch.tensor([0, 1, 0, 1, 2])


def toy(dtype=torch.float64):
    def probs(*shape, seed):
        return random(*shape, dtype=dtype, seed=seed).softmax(dim=1).detach().requires_grad_()

    return Toy(
        random(5, 4, dtype=dtype, seed=1),
        random(5, 4, dtype=dtype, seed=2),
        random(5, 3, dtype=dtype, seed=3),
        random(5, 3, dtype=dtype, seed=4),
        probs(12, 3, seed=5),
        probs(5, 2, seed=6),
    )


def output_of(inputs):
    return STMNOutput(*inputs, temporal_attention=None)


def terms_of(output, pids=TOY_PIDS, **recipe):
    """The terms by name; they depend on no weight of the model."""
    return STMN.losses(None, output, pids, Recipe(**recipe))


def reference_terms(inputs, weights, smoothing, margin, reduction):
    identification, triplet, spread = weights
    return [
        identification * references.cross_entropy(inputs.clip_logits, TOY_PIDS, smoothing),
        identification * references.cross_entropy(inputs.frame_logits, TOY_PIDS, smoothing),
        triplet * references.batch_hard_triplet(inputs.clip_feature, TOY_PIDS),
        triplet * references.batch_hard_triplet(inputs.frame_feature, TOY_PIDS),
        spread * references.memory_spread(inputs.spatial_probs, margin, reduction),
        spread * references.memory_spread(inputs.temporal_probs, margin, reduction),
    ]


@pytest.mark.parametrize(
    ('weights', 'smoothing', 'margin', 'reduction'),
    [((1.0, 1.0, 1.0), 0.0, 0.9, 'sum'), ((0.7, 1.9, 0.4), 0.1, 0.8, 'mean')],
    ids=['paper', 'other'],
)
@pytest.mark.parametrize('dtype', DTYPES, ids=str)
def test_every_loss_term_and_the_total_equal_the_reference_with_gradients(
    dtype, weights, smoothing, margin, reduction
):
    inputs = toy(dtype)
    leaves = Toy(*map(double, inputs))
    terms = terms_of(
        output_of(inputs),
        cross_entropy_weight=weights[0],
        triplet_weight=weights[1],
        label_smoothing=smoothing,
        spread_weight=weights[2],
        spread_margin=margin,
        spread_reduction=reduction,
    )
    expected = reference_terms(leaves, weights, smoothing, margin, reduction)
    assert tuple(terms) == (
        'cross_entropy_clip',
        'cross_entropy_frame',
        'triplet_clip',
        'triplet_frame',
        'spread_spatial',
        'spread_temporal',
    )
    total = sum(terms.values())
    for actual, term in zip(terms.values(), expected, strict=True):
        assert term > 0
        assert references.relative_error(actual, term) <= TOLERANCE[dtype]
    assert references.relative_error(total, sum(expected)) <= TOLERANCE[dtype]
    ours = torch.autograd.grad(total, list(inputs))
    theirs = torch.autograd.grad(sum(expected), list(leaves))
    for gradient, expected_gradient in zip(ours, theirs, strict=True):
        assert references.relative_error(gradient, expected_gradient) <= TOLERANCE[dtype]


def test_the_sum_of_the_terms_has_the_numerical_gradient():
    def total(*inputs):
        return sum(terms_of(output_of(inputs), spread_margin=0.9).values())

    assert torch.autograd.gradcheck(total, tuple(toy()))


def test_the_defaults_of_the_recipe_are_the_papers():
    inputs = toy()
    terms = terms_of(output_of(inputs))
    expected = reference_terms(inputs, (1, 1, 1), 0.0, 0.3, 'mean')
    for actual, term in zip(terms.values(), expected, strict=True):
        assert references.relative_error(actual, term) <= 1e-12


def test_a_term_that_the_model_or_the_settings_leave_out_is_zero_and_the_rest_stays():
    inputs = toy()
    full = terms_of(output_of(inputs), spread_margin=0.9)
    no_memory = output_of(inputs)._replace(spatial_probs=None, temporal_probs=None)
    for terms in (
        terms_of(no_memory, spread_margin=0.9),
        terms_of(output_of(inputs), spread_margin=0.9, spread_weight=0),
    ):
        assert terms['spread_spatial'] == 0 and terms['spread_temporal'] == 0
        for name in list(full)[:4]:
            assert terms[name] == full[name] > 0
    only_spatial = terms_of(output_of(inputs)._replace(temporal_probs=None), spread_margin=0.9)
    assert only_spatial['spread_temporal'] == 0
    assert only_spatial['spread_spatial'] == full['spread_spatial'] > 0


def test_a_cross_entropy_of_weight_0_leaves_classifiers_a_gradient_of_zeros():
    inputs = toy()
    terms = terms_of(output_of(inputs), cross_entropy_weight=0)
    assert terms['cross_entropy_clip'] == terms['cross_entropy_frame'] == 0
    gradients = torch.autograd.grad(
        sum(terms.values()), [inputs.clip_logits, inputs.frame_logits, inputs.clip_feature]
    )
    assert [bool(gradient.any()) for gradient in gradients] == [False, False, True]


def test_a_margin_makes_the_triplet_terms_hinges():
    inputs = toy()
    terms = terms_of(output_of(inputs), triplet_margin=0.4, triplet_weight=2.0)
    expected = 2 * references.batch_hard_triplet(inputs.clip_feature, TOY_PIDS, 0.4)
    assert references.relative_error(terms['triplet_clip'], expected) <= 1e-12


def test_without_the_triplet_a_batch_of_one_identity_is_fine():
    inputs, pids = toy(), torch.zeros(5, dtype=torch.long)
    terms = terms_of(output_of(inputs), pids, triplet_weight=0)
    assert terms['triplet_clip'] == 0 and terms['triplet_frame'] == 0
    assert terms['cross_entropy_clip'] > 0
    with pytest.raises(ValueError, match='two identities'):
        terms_of(output_of(inputs), pids)
