"""The step of the optimizer: what is not finite moves no weight, a limit on the norm, its log."""

import copy
import itertools
import math
from types import SimpleNamespace

import pytest
import torch
from processes import on_processes
from torch import nn

from stmn_plugin import distributed
from stmn_plugin.errors import InputError
from stmn_plugin.host.engine import VideoEngine
from stmn_plugin.training.settings import TrainingSettings
from stmn_plugin.training.speed import with_fused_steps

CLASSES, PIXELS = 3, 2 * 2 * 3
OPTIMIZERS = {
    'sgd': lambda groups: torch.optim.SGD(groups, lr=0.5, momentum=0.9),
    'sgd fused': lambda groups: with_fused_steps(torch.optim.SGD(groups, lr=0.5, momentum=0.9)),
    'adam': lambda groups: torch.optim.Adam(groups, lr=0.01),
    'adam fused': lambda groups: with_fused_steps(torch.optim.Adam(groups, lr=0.01)),
    'rmsprop': lambda groups: torch.optim.RMSprop(groups, lr=0.01),
}


class TwoLayers(nn.Module):
    """Of frames as of no other model; the classifier has a learning rate of its own."""

    def __init__(self):
        super().__init__()
        self.hidden = nn.Linear(PIXELS, 4)
        self.classifier = nn.Linear(4, CLASSES)

    def forward(self, frames):
        return self.classifier(torch.tanh(self.hidden(frames.flatten(1))))


def batches(count=4):
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(count, 6, 1, 3, 2, 2, generator=generator)
    pids = torch.arange(6) % CLASSES
    return [{'img': batch, 'pid': pids} for batch in images]


def make_engine(optimizer='sgd', count=4, **settings):
    """An engine at the start of its first epoch, with a log of what it has put down."""
    torch.manual_seed(1)
    model = TwoLayers()
    groups = [
        {'params': list(model.hidden.parameters())},
        {'params': list(model.classifier.parameters()), 'lr': 0.02},
    ]
    own = [
        {key: value[distributed.shard([1] * 6)] for key, value in batch.items()}
        for batch in batches(count)
    ]
    data = SimpleNamespace(
        train_loader=own, test_loader={}, num_train_pids=CLASSES, data_type='video'
    )
    training = TrainingSettings(**settings)
    options = {'use_gpu': False, 'weight_t': None, 'training': training}
    engine = VideoEngine(data, model, OPTIMIZERS[optimizer](groups), **options)
    engine.epoch, engine.max_epoch = 0, 1
    engine.record.last_checkpoint = 'the/last/one'
    return engine


def weights_of(engine):
    return {name: p.detach().clone() for name, p in engine.model.named_parameters()}


def spoil(engine, name, value, batch):
    """The gradient of one weight of a parameter becomes a value, from one batch on."""
    count = itertools.count()

    def hook(gradient):
        if next(count) >= batch:
            gradient = gradient.clone()
            gradient.view(-1)[0] = value
        return gradient

    engine.model.get_parameter(name).register_hook(hook)


# --- not finite ---


@pytest.mark.parametrize('optimizer', OPTIMIZERS)
@pytest.mark.parametrize(
    'name, value', [('classifier.bias', math.nan), ('hidden.weight', -math.inf)]
)
def test_a_gradient_that_is_not_finite_moves_no_weight_and_is_named(optimizer, name, value):
    engine, alone = make_engine(optimizer), make_engine(optimizer, count=2)
    alone.train()
    spoil(engine, name, value, batch=2)
    with pytest.raises(InputError) as caught:
        engine.train()
    message = str(caught.value)
    assert '1 of 4 parameters' in message and name in message and 'the/last/one' in message
    assert 'epoch 1, batch 3' in message and '\n' not in message
    for key, weight in weights_of(alone).items():  # two steps were made, the third was not
        assert torch.equal(weights_of(engine)[key], weight), key
    assert engine.trainer.log.steps == 2


def test_a_gradient_whose_norm_is_beyond_float32_is_no_step_that_was_left_out():
    engine = make_engine()
    spoil(engine, 'hidden.weight', 1e30, batch=2)
    with pytest.raises(InputError, match='hidden.weight: inf.* batch 3'):
        engine.train()
    assert engine.trainer.log.skipped_steps == 0


def test_one_of_many_batches_of_a_step_spoils_it():
    engine = make_engine(accumulate=3)
    before = weights_of(engine)
    spoil(engine, 'hidden.bias', math.nan, batch=1)
    with pytest.raises(InputError, match='epoch 1, batch 3'):
        engine.train()
    for key, weight in weights_of(engine).items():
        assert torch.equal(weight, before[key]), key


def test_frozen_layers_have_no_gradient_to_check():
    engine = make_engine()
    spoil(engine, 'hidden.weight', math.nan, batch=0)
    engine.train(fixbase_epoch=1, open_layers=['classifier'])
    assert engine.trainer.log.steps == 4
    assert all(torch.isfinite(weight).all() for weight in weights_of(engine).values())


def spoiled_on_the_second():
    engine = make_engine()
    if distributed.rank() == 1:
        spoil(engine, 'hidden.weight', math.nan, batch=1)
    with pytest.raises(InputError) as caught:
        engine.train()
    return str(caught.value), weights_of(engine)


def test_all_processes_stop_for_a_gradient_of_one():
    (message, weights), (other, other_weights) = on_processes(spoiled_on_the_second)
    assert message == other and 'batch 2' in message
    for key, weight in weights.items():
        assert torch.isfinite(weight).all() and torch.equal(weight, other_weights[key])


@pytest.mark.parametrize('optimizer', ['sgd', 'adam fused'])
def test_in_fp16_a_scale_that_is_too_high_costs_steps_and_nothing_else(optimizer, messages):
    engine = make_engine(optimizer, amp='fp16')
    scaler = engine.trainer.precision.scaler
    highest = 2.0**14

    def overflow(gradient):
        return gradient * (math.inf if scaler.get_scale() > highest else 1)

    engine.model.hidden.weight.register_hook(overflow)
    before = weights_of(engine)
    engine.train()
    engine.trainer.progress.log_epoch()
    assert ', 2 steps skipped; ' in messages()
    assert scaler.get_scale() == highest
    assert (engine.trainer.log.steps, engine.trainer.log.skipped_steps) == (2, 2)
    for key, weight in weights_of(engine).items():
        assert torch.isfinite(weight).all() and not torch.equal(weight, before[key])
    assert 0 < engine.trainer.log.mean_norm < 10  # of the loss, not of what it was scaled to


def test_an_epoch_without_a_step_has_no_norm_of_its_gradients(messages):
    engine = make_engine(count=2, amp='fp16')
    spoil(engine, 'hidden.weight', math.inf, batch=0)
    engine.train()
    engine.trainer.progress.log_epoch()
    out = messages()
    assert '; no step, 2 steps skipped; ' in out and 'gradient norm' not in out


def test_in_fp16_what_stays_when_the_scale_is_gone_ends_the_run():
    engine = make_engine(count=20, amp='fp16')
    spoil(engine, 'hidden.weight', math.nan, batch=0)
    before = weights_of(engine)
    with pytest.raises(InputError, match='hidden.weight: nan.*batch 17'):  # 2^16 halved 16 times
        engine.train()
    for key, weight in weights_of(engine).items():
        assert torch.equal(weight, before[key]), key


# --- the limit ---


def reference_steps(limit, group, count=4):
    """SGD with momentum in float64 loops: weights after an epoch, the norm of every step."""
    engine = make_engine()
    model = copy.deepcopy(engine.model).double()
    rates = {name: 0.02 if 'classifier' in name else 0.5 for name in weights_of(engine)}
    moments, norms, todo = dict.fromkeys(rates, 0.0), [], batches(count)
    while todo:
        step, todo = todo[:group], todo[group:]
        gradient = dict.fromkeys(rates, 0.0)
        for batch in step:
            model.zero_grad()
            scores = model(batch['img'].flatten(0, 1).double())
            engine.trainer.objective.cross_entropy(scores, batch['pid']).backward()
            for name, p in model.named_parameters():
                gradient[name] = gradient[name] + p.grad / len(step)
        square = sum(x * x for g in gradient.values() for x in g.flatten().tolist())
        norms.append(square**0.5)
        factor = limit / norms[-1] if 0 < limit < norms[-1] else 1
        with torch.no_grad():
            for name, p in model.named_parameters():
                moments[name] = 0.9 * moments[name] + factor * gradient[name]
                p -= rates[name] * moments[name]
    return dict(model.named_parameters()), norms


@pytest.mark.parametrize('group', [1, 3])
@pytest.mark.parametrize('limit', [0.0, 0.05, 1e6])
@pytest.mark.parametrize('optimizer', ['sgd', 'sgd fused'])
def test_the_norm_of_a_step_is_limited(optimizer, limit, group):
    engine = make_engine(optimizer, clip_grad_norm=limit, accumulate=group)
    engine.train()
    expected, norms = reference_steps(limit, group)
    assert limit != 0.05 or min(norms) > limit  # or it would prove nothing
    for name, weight in weights_of(engine).items():
        torch.testing.assert_close(weight.double(), expected[name], rtol=1e-4, atol=1e-6)
    line = engine.trainer.log.as_line([])
    found = line['gradient_norm']
    assert found['mean'] == pytest.approx(sum(norms) / len(norms), rel=1e-4)
    assert found['max'] == pytest.approx(max(norms), rel=1e-4)
    assert (engine.trainer.log.steps, line['skipped_steps']) == (len(norms), 0)


def test_in_fp16_the_limit_is_one_of_the_gradients_of_the_loss_itself():
    """Whose scale is 65536; in fp16 the numbers are rounded."""
    engine = make_engine('sgd', amp='fp16', clip_grad_norm=0.05)
    engine.train()
    expected, norms = reference_steps(0.05, 1)
    for name, weight in weights_of(engine).items():
        torch.testing.assert_close(weight.double(), expected[name], rtol=2e-2, atol=2e-3)
    assert engine.trainer.log.largest_norm == pytest.approx(max(norms), rel=1e-2)


def limited(group):
    engine = make_engine('sgd', clip_grad_norm=0.05, accumulate=group)
    engine.train()
    return weights_of(engine), engine.trainer.log.as_line([])['gradient_norm']


@pytest.mark.parametrize('group', [1, 3])
def test_many_processes_have_one_norm(group):
    weights, norm = limited(group)
    for other_weights, other_norm in on_processes(limited, group):
        assert other_norm == pytest.approx(norm, rel=1e-5)
        torch.testing.assert_close(other_weights, weights, rtol=1e-5, atol=1e-6)


def test_without_a_limit_the_steps_are_those_of_the_bare_optimizer_bit_by_bit():
    engine, bare = make_engine('adam fused'), make_engine('adam fused')
    engine.train()
    for batch in batches():
        bare.optimizer.zero_grad()
        scores = bare.model(batch['img'].flatten(0, 1))
        bare.trainer.objective.cross_entropy(scores, batch['pid']).backward()
        bare.optimizer.step()
    for key, weight in weights_of(bare).items():
        assert torch.equal(weights_of(engine)[key], weight), key
