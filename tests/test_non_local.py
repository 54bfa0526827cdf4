"""The non-local block against loops, with its published numbers."""

import pytest
import references.non_local as slow_block
import torch
from references.stmn import relative_error
from torch import nn

from stmn_plugin.models.non_local import NonLocal, attended_values, attention


def block_of(dim, inner=None, pooled_keys=False, training=False):
    """A block whose every weight and statistic is drawn, float64."""
    torch.manual_seed(0)
    block = NonLocal(dim, inner, pooled_keys).double().train(training)
    with torch.no_grad():
        for tensor in block.state_dict().values():
            if tensor.is_floating_point():
                tensor.uniform_(0.2, 1.2)
        for layer in (block.theta, block.phi, block.g, block.out):
            layer.weight.sub_(0.6)
    return block


def one_channel_block():
    """theta, phi, g, out and BN are the identity on one channel."""
    block = NonLocal(1, 1).double().eval()
    block.bn.eps = 0.0
    with torch.no_grad():
        for layer in (block.theta, block.phi, block.g, block.out):
            nn.init.ones_(layer.weight), nn.init.zeros_(layer.bias)
        block.bn.weight.fill_(1)
    return block


@pytest.mark.parametrize('training', [True, False], ids=['train', 'eval'])
@pytest.mark.parametrize('pooled', [False, True], ids=['all', 'pooled'])
def test_the_residual_and_its_gradients_equal_loops(pooled, training):
    block = block_of(4, 3, pooled, training)
    tokens = torch.randn(2, 6, 4, dtype=torch.float64, requires_grad=True)
    weights = torch.randn(2, 6, 4, dtype=torch.float64)
    positions = (3, 2) if pooled else None
    wanted = slow_block.residual(block, tokens, positions)
    ours = block.residual(tokens, positions or ())
    assert relative_error(ours, wanted) <= 1e-9
    inputs = [tokens, *block.parameters()]
    gradients = torch.autograd.grad((ours * weights).sum(), inputs)
    slow = torch.autograd.grad((wanted * weights).sum(), inputs)
    size = max(gradient.abs().max() for gradient in slow)
    for gradient, expected in zip(gradients, slow, strict=True):
        assert (gradient - expected).abs().max() <= 1e-9 * size


def test_one_channel_by_hand():
    tokens = torch.tensor([[[0.0], [1.0]]], dtype=torch.float64)
    ours = tokens + one_channel_block().residual(tokens)
    assert ours.flatten().tolist() == pytest.approx([0.5, 1.7310586], abs=1e-7)
    weights = attention(tokens, tokens)[0, 1]
    assert weights.tolist() == pytest.approx([0.2689414, 0.7310586], abs=1e-7)


def test_maps_of_one_and_of_several_frames_are_groups_of_all_their_positions():
    block = block_of(4)
    clips = torch.randn(2, 4, 3, 2, 2, dtype=torch.float64)  # (B, C, L, H, W)
    tokens = clips.permute(0, 2, 3, 4, 1).reshape(2, 12, 4)
    wanted = (tokens + block.residual(tokens)).reshape(2, 3, 2, 2, 4).permute(0, 4, 1, 2, 3)
    torch.testing.assert_close(block(clips), wanted)
    torch.testing.assert_close(block(clips.flatten(2, 3)), wanted.flatten(2, 3))


def test_the_start_is_the_identity():
    maps = torch.randn(2, 6, 3, 2)
    for training in (True, False):
        assert torch.equal(NonLocal(6).train(training)(maps), maps)
    block = NonLocal(6, bn_scale=0.5)
    assert not torch.equal(block(maps), maps)


@pytest.mark.parametrize(('dim', 'parameters'), [(512, 526_592), (1024, 2_101_760)])
def test_parameters(dim, parameters):
    with torch.device('meta'):
        block = NonLocal(dim)
    assert sum(weight.numel() for weight in block.parameters()) == parameters
    assert block.theta.out_features == dim // 2


def test_without_queries_and_keys_the_residual_is_that_of_the_mean():
    block = block_of(4)
    for layer in (block.theta, block.phi):
        nn.init.zeros_(layer.weight), nn.init.zeros_(layer.bias)
    tokens = torch.randn(2, 5, 4, dtype=torch.float64)
    wanted = block.bn(block.out(block.g(tokens).mean(dim=1)))
    torch.testing.assert_close(block.residual(tokens), wanted.unsqueeze(1).expand(2, 5, 4))


def test_pooled_keys_drop_an_odd_row():
    block = block_of(4, pooled_keys=True)
    maps = torch.randn(1, 4, 3, 2, dtype=torch.float64)
    changed = maps.clone()
    changed[:, :, 2] += 1
    torch.testing.assert_close(block(maps)[:, :, :2], block(changed)[:, :, :2])
    changed[:, :, 1] += 1
    assert not torch.allclose(block(maps)[:, :, 0], block(changed)[:, :, 0])
    for positions in ((), (1, 6), (2, 2)):
        with pytest.raises(ValueError, match='2x2'):
            block.residual(torch.zeros(1, 6, 4, dtype=torch.float64), positions)


@pytest.mark.parametrize('pooled', [False, True], ids=['all', 'pooled'])
def test_a_constant_map_has_a_constant_residual(pooled):
    block = block_of(4, pooled_keys=pooled)
    maps = torch.randn(1, 4, 1, 1, dtype=torch.float64).expand(1, 4, 3, 2)
    residual = block(maps) - maps
    torch.testing.assert_close(residual, residual[..., :1, :1].expand_as(residual))
    assert residual.abs().min() > 0


def test_autocast_leaves_products_and_softmax_in_float32():
    block = block_of(64).float().eval()
    tokens = torch.randn(2, 8, 64)
    queries, keys, values = (3 * torch.randn(2, 8, 64).bfloat16() for _ in range(3))
    wanted = attended_values(queries.float(), keys.float(), values.float())
    assert wanted.dtype == torch.float32
    with torch.autocast('cpu', torch.bfloat16):
        assert block.residual(tokens).dtype == torch.bfloat16
        seen = []
        block.out.register_forward_pre_hook(lambda layer, given: seen.append(given[0]))
        block.residual(tokens)
    assert seen[0].dtype == torch.float32
    assert torch.equal(attended_values(queries, keys, values), wanted)


def test_at_the_start_the_bn_alone_learns_and_then_all_but_three_biases():
    torch.manual_seed(0)
    block = NonLocal(4).double()
    tokens, weights = (torch.randn(2, 5, 4, dtype=torch.float64) for _ in range(2))

    def sizes():
        block.zero_grad()
        (block.residual(tokens) * weights).sum().backward()
        return {name: p.grad.abs().max().item() for name, p in block.named_parameters()}

    assert {name for name, size in sizes().items() if size > 0} == {'bn.weight', 'bn.bias'}
    nn.init.ones_(block.bn.weight)
    still = {name for name, size in sizes().items() if size < 1e-12}
    assert still == {'phi.bias', 'g.bias', 'out.bias'}
