"""On a GPU the same numbers, without a wait in the step: ``pytest -m gpu``; here also on the CPU.

Every test takes ``device``: its CPU half shows that it can fail, its GPU half (marker ``gpu``) is
skipped without one. References are computed in float64 on the CPU.
"""

import contextlib
import copy
import io
import math
from types import SimpleNamespace

import numpy as np
import pytest
import test_reranking
import torch
import torch.distributed as dist
import torchvision
from processes import reserved_port
from references import stmn as references
from test_every_model import NARROW, narrow_resnet
from torch import nn
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    FakeTensor,
    FakeTensorMode,
)
from torch.torch_version import TorchVersion

from stmn_plugin import distributed, load_model
from stmn_plugin.cli import export, train
from stmn_plugin.config import load_config
from stmn_plugin.data.frame_samplers import ClipPlan
from stmn_plugin.errors import InputError
from stmn_plugin.evaluation.embedder import Embedder
from stmn_plugin.evaluation.ranking import evaluate_ranking, rank_features
from stmn_plugin.evaluation.reranking import rerank
from stmn_plugin.evaluation.search import top_k
from stmn_plugin.host.runner import prepare
from stmn_plugin.losses import batch_hard_triplet_loss
from stmn_plugin.models import VIDEO_MODELS
from stmn_plugin.models.sync_batch_norm import SyncBatchNorm
from stmn_plugin.plugins import load_plugins
from stmn_plugin.training import batches as batches_module
from stmn_plugin.training.checkpoint import load_checkpoint
from stmn_plugin.training.speed import same_shapes, tf32

load_plugins()
slow = pytest.mark.slow
CUDA = pytest.param('cuda', marks=pytest.mark.gpu)
SLOW_CPU = pytest.mark.parametrize('device', [pytest.param('cpu', marks=slow), CUDA])
GPU_ONLY = pytest.mark.parametrize('device', [CUDA])


def marked(names, fast):
    """Parameters of which a few stand for all in the fast tests."""
    return [pytest.param(name, marks=[] if name in fast else slow) for name in sorted(names)]


@pytest.fixture(params=['cpu', CUDA])
def device(request):
    """'cpu', and with the marker ``gpu`` also 'cuda'."""
    return request.param


@pytest.fixture(autouse=True)
def gpu_is_there(request):
    """GPU halves are skipped without one; each starts with the memory of the last given back."""
    if request.node.get_closest_marker('gpu'):
        if not torch.cuda.is_available():
            pytest.skip('no GPU')
        torch.cuda.empty_cache()


@pytest.fixture(autouse=True)
def narrow(request, monkeypatch):
    """On the CPU the networks have few channels."""
    if not request.node.get_closest_marker('gpu'):
        monkeypatch.setattr(torchvision.models, 'get_model', narrow_resnet)


@pytest.fixture
def make_engine(repository, mars_root, small_run):
    """An engine on the miniature MARS, about to take its first step."""

    def make(device, *words, clips=8):
        config = str(repository / 'configs' / 'stmn_mars.yaml')
        more = [
            'use_gpu',
            device == 'cuda',
            'train.batch_size',
            clips,
            'train.lr',
            0.1,
            'loss.triplet.weight_t',
            0,
            *words,
        ]
        with contextlib.redirect_stdout(io.StringIO()):
            cfg = load_config(config, [*small_run, *map(str, more)], {'data.root': mars_root})
            engine = prepare(cfg)
        engine.trainer.num_batches = len(engine.train_loader)
        engine.set_model_mode('train')
        engine.trainer.progress = SimpleNamespace(step_done=lambda index, norm: None)
        return engine

    return make


def on_cpu(tensors):
    """Name → tensor in float64 on the CPU, of parameters, buffers or gradients."""
    return {name: tensor.detach().cpu().double() for name, tensor in tensors}


def gradients_of(model):
    return on_cpu((name, p.grad) for name, p in model.named_parameters() if p.grad is not None)


def exact_step(engine, batches):
    """Loss terms of the first batch and the mean gradients of all, in float64."""
    model = copy.deepcopy(engine.model).double().train()
    terms, total = [], {}
    for batch in batches:
        model.zero_grad()
        images = engine.prepare(batch['img'], batch['augmentation']).double()
        losses = model.losses(model(images), batch['pid'], engine.trainer.objective.recipe)
        sum(losses.values()).backward()
        terms.append({name: value.item() for name, value in losses.items()})
        for name, gradient in gradients_of(model).items():
            total[name] = total.get(name, 0) + gradient / len(batches)
    return terms[0], total


def relative_error(found, exact):
    """Of two dictionaries of tensors, as one vector each."""
    assert found.keys() == exact.keys()
    one, other = (torch.cat([x[name].flatten() for name in exact]) for x in (found, exact))
    return float((one - other).norm() / other.norm())


# --- a step ---

# what is switched on → most error of the gradients, relative to their norm
SWITCHES = {
    'fp32': ([], 1e-3),
    'tf32': (['train.tf32', True], 5e-2),
    'bf16': (['train.amp', 'bf16'], 0.4),
    'fp16': (['train.amp', 'fp16'], 0.3),
    'contiguous, not fused': (['train.channels_last', False, 'train.fused', False], 1e-3),
    'checkpointing': (['train.checkpoint_activations', True], 1e-3),
    'accumulation': (['train.accumulate', 2], 1e-3),
    'accumulation in fp16': (['train.accumulate', 2, 'train.amp', 'fp16'], 0.3),
}
COMPILED = {
    'compile': (['train.compile', True], 1e-3),
    'compile in bf16': (['train.compile', True, 'train.amp', 'bf16'], 0.4),
}


def check_a_step(make_engine, device, words, tolerance):
    plain = make_engine('cpu')
    engine = make_engine(device, *words)
    engine.model.load_state_dict(plain.model.state_dict())
    group = engine.trainer.settings.accumulate
    loader = iter(plain.train_loader)
    batches = [next(loader) for _ in range(group)]
    terms, exact = exact_step(plain, batches)
    if engine.trainer.precision.amp == 'fp16':  # one at which no gradient overflows
        engine.trainer.precision.scaler = torch.amp.GradScaler(device, init_scale=2.0**12)
    before = on_cpu(engine.model.named_parameters())
    with tf32('train.tf32' in words), same_shapes():
        found = [engine.forward_backward(batch) for batch in batches][0]
        engine.trainer.check_steps()
    for name, value in terms.items():
        assert found[name] == pytest.approx(value, rel=0.1 * tolerance, abs=0.01 * tolerance), name
    gradients = gradients_of(engine.model)
    assert relative_error(gradients, exact) < tolerance
    # the optimizer moved the weights by those gradients, not by what the scaler made of them
    (settings,) = engine.optimizer.param_groups
    rate, decay = settings['lr'], settings['weight_decay']
    for name, weight in on_cpu(engine.model.named_parameters()).items():
        gradient = gradients.get(name, torch.zeros(()))
        expected = before[name] - rate * (gradient + decay * before[name])
        torch.testing.assert_close(weight, expected, rtol=1e-5, atol=1e-6, msg=name)
    assert {p.device.type for p in engine.model.parameters()} == {device}
    return relative_error(gradients, exact)


@pytest.fixture
def smooth(monkeypatch):
    """Without kinks: where rounding moves a map across that of ReLU, gradients jump."""
    monkeypatch.setattr(nn.ReLU, 'forward', lambda self, maps: nn.functional.silu(maps))


@pytest.mark.slow
@pytest.mark.parametrize('name', marked(SWITCHES, {'fp32', 'bf16', 'accumulation in fp16'}))
def test_a_step_is_the_exact_one_within_its_precision(name, device, make_engine, smooth):
    error = check_a_step(make_engine, device, *SWITCHES[name])
    if name in ('bf16', 'fp16') or (name == 'tf32' and device == 'cuda'):
        assert error > 1e-5  # otherwise it was not switched on


@GPU_ONLY  # on the CPU test_speed.py does that
@pytest.mark.parametrize('name', COMPILED)
def test_a_compiled_step_is_the_exact_one(name, device, make_engine, smooth, messages):
    check_a_step(make_engine, device, *COMPILED[name])
    assert 'not compiled' not in messages()
    torch._dynamo.reset()


HOST_LOSS = {'frames': 'triplet', 'softmax': 'softmax'}
ENGINES = ['stmn', 'resnet18 frames', 'resnet18 softmax']


def words_of(name):
    """Of an architecture, or of an image model trained frame by frame with a loss of the host's."""
    arch, _, way = name.partition(' ')
    words = ['model.name', arch, 'loss.triplet.weight_t', 1, *NARROW.get(arch, '').split()]
    if way:
        words += ['video.image_models', 'frames', 'loss.name', HOST_LOSS[way]]
    return words


def check_an_epoch(make_engine, device, name, amp):
    engine = make_engine(device, *words_of(name), 'train.amp', amp)
    engine.max_epoch, engine.epoch = 1, 0
    before = on_cpu(engine.model.named_parameters())
    engine.train()
    log = engine.trainer.log
    assert log.steps + log.skipped_steps == log.batches == len(engine.train_loader) > 1
    assert log.skipped_steps == 0 or amp == 'fp16'
    after = on_cpu(engine.model.named_parameters())
    assert all(weight.isfinite().all() for weight in after.values())
    assert log.steps == 0 or relative_error(after, before) > 0
    assert math.isfinite(engine.test())


@pytest.mark.parametrize('name', marked(ENGINES, {'stmn'}))
def test_an_epoch_of_every_engine(name, device, make_engine):
    check_an_epoch(make_engine, device, name, 'bf16')


# --- nothing waits ---

SYNCHRONISING = {'csa'}  # its OIM counts the clips of an identity


class OnFakeGPU:
    """A model whose tensors have a shape, a type and the device 'cuda', and no values.

    Operations on two devices fail, and so does reading a value, which on a GPU is a wait.
    """

    def __init__(self, model):
        self.mode = FakeTensorMode(allow_non_fake_inputs=True)
        self.known = {}
        for module in model.modules():
            for table in (module._parameters, module._buffers):
                table.update({name: self.moved(x) for name, x in table.items() if x is not None})

    def moved(self, tensor):
        if tensor not in self.known:
            meta = tensor.detach().to('meta')
            fake = FakeTensor(self.mode, meta, torch.device('cuda:0'))
            is_weight = isinstance(tensor, nn.Parameter)
            self.known[tensor] = nn.Parameter(fake, tensor.requires_grad) if is_weight else fake
        return self.known[tensor]


class NotWaitedFor:
    """Stands for :class:`PendingScalars`: its tensors must be on the device and are not read."""

    def __init__(self, tensors):
        assert {tensor.device.type for tensor in tensors.values()} == {'cuda'}
        self.names = list(tensors)

    def numbers(self):
        return dict.fromkeys(self.names, 0.0)


def fakes_a_gpu():
    """Whether torch makes a fake tensor on a GPU that is not there; 2.8 asks the driver first."""
    try:
        with FakeTensorMode():
            torch.zeros(1).to('cuda')
    except (AssertionError, RuntimeError):  # without CUDA, without a driver
        assert TorchVersion(torch.__version__) < '2.14'
        return False
    return True


@pytest.mark.skipif(not fakes_a_gpu(), reason='this torch asks a driver before a fake tensor')
@pytest.mark.parametrize('name', marked(VIDEO_MODELS, {'stmn', 'csa'}))
def test_the_way_to_the_loss_stays_on_the_gpu_and_reads_nothing(name, make_engine, monkeypatch):
    """From the batch to the loss, on a GPU that is not there."""
    engine = make_engine('cpu', *words_of(name))
    trainer = engine.trainer
    trainer.precision.device_type = engine.prepare.device_type = 'cuda'
    monkeypatch.setattr('stmn_plugin.training.trainer.PendingScalars', NotWaitedFor)
    batch = next(iter(engine.train_loader))
    reads = contextlib.nullcontext()
    if name in SYNCHRONISING:
        reads = pytest.raises(DataDependentOutputException)
    # fake LSTMs ask no cuDNN
    with OnFakeGPU(engine.model).mode, torch.backends.cudnn.flags(enabled=False), reads:
        loss = trainer.loss_of(batch)
        assert {value.device.type for value in loss.terms.values()} == {'cuda'}
        assert math.prod(loss.total.shape) == 1


@GPU_ONLY
def test_the_triplet_loss_of_one_identity_is_nan(device):
    """On the CPU it is an error; to raise it would be to wait."""
    features, pids = torch.rand(4, 2, device=device), torch.zeros(4, device=device)
    for margin in (None, 0.3):
        assert batch_hard_triplet_loss(features, pids, margin).isnan()
    assert batch_hard_triplet_loss(features, pids + torch.arange(4, device=device)).isfinite()


@GPU_ONLY
def test_a_step_waits_for_nothing_but_the_losses(device, make_engine):
    engine = make_engine(device, 'loss.triplet.weight_t', 1, 'train.optim', 'adam')
    batch = engine.trainer.batches.finish(next(iter(engine.train_loader)))
    for _ in range(2):  # the first sets up what later ones have
        engine.forward_backward(batch)
    torch.cuda.set_sync_debug_mode('error')
    try:
        engine.forward_backward(batch)
    finally:
        torch.cuda.set_sync_debug_mode('default')
    engine.trainer.check_steps()


class NoStream:
    """Stands for :class:`SideStream` where there is no GPU."""

    def launch(self, prepare, batch):
        return prepare(batch)

    def join_current_stream(self, batch):
        return batch


def test_batches_prepared_during_the_step_are_the_same(device, make_engine, monkeypatch):
    if device == 'cpu':
        monkeypatch.setattr(batches_module, 'SideStream', NoStream)
    engine = make_engine(device, clips=4)
    batches = engine.trainer.batches
    exact = make_engine('cpu', clips=4).trainer.batches
    batches.ahead, exact.ahead = True, False
    expected = [exact.finish(batch.data)['img'] for batch in exact.of_epoch(0)]
    assert len(expected) > 2
    count = 0
    for (_, data, _), images in zip(batches.of_epoch(0), expected, strict=True):
        big = torch.ones(2000, 2000, device=device)
        for _ in range(20 if device == 'cuda' else 0):  # the step is still busy when the next comes
            big = (big @ big).clamp(max=1)
        pieces = [torch.full_like(images, -7.0, device=device) for _ in range(4)]
        found = data['img'] + 0 * big[0, 0]
        del pieces
        torch.testing.assert_close(found.cpu(), images, rtol=1e-5, atol=1e-5)
        assert found.device.type == data['pid'].device.type == device
        count += 1
    assert count == len(expected)


# --- what goes wrong ---


def test_a_gradient_that_is_not_finite_moves_no_weight(device, make_engine):
    engine = make_engine(device, 'train.optim', 'adam')
    engine.max_epoch, engine.epoch = 1, 0
    before = on_cpu(engine.model.named_parameters())
    engine.model.classifier_clip.weight.register_hook(lambda gradient: gradient * math.nan)
    with pytest.raises(InputError, match='classifier_clip.weight: nan.*epoch 1, batch 1'):
        engine.train()
    after = on_cpu(engine.model.named_parameters())
    # on a GPU the steps that were under way left them, too
    assert all(torch.equal(after[name], weight) for name, weight in before.items())


def test_a_batch_of_one_identity_is_named(device, make_engine):
    engine = make_engine(device, 'loss.triplet.weight_t', 1)
    batch = next(iter(engine.train_loader))
    with pytest.raises(InputError, match='are of one identity'):
        engine.forward_backward({**batch, 'pid': torch.zeros_like(batch['pid'])})


def test_too_little_memory_is_one_line_and_training_continues(device, make_engine):
    engine = make_engine(device)
    engine.max_epoch, engine.epoch = 1, 0
    before = on_cpu(engine.model.named_parameters())
    hook = engine.model.encoder.register_forward_hook(
        lambda *_: torch.empty(1 << 48, device=device)
    )
    with pytest.raises(InputError, match='train.batch_size needs more memory than there is') as e:
        engine.train()
    assert '\n' not in str(e.value)
    assert relative_error(on_cpu(engine.model.named_parameters()), before) == 0
    hook.remove()
    engine.trainer.start()
    engine.epoch = 0
    engine.train()
    assert engine.trainer.log.steps == len(engine.train_loader)


# --- whole runs ---


@SLOW_CPU
@pytest.mark.parametrize('amp', ['off', 'fp16'])
def test_a_run_resumes_bit_by_bit(amp, device, repository, mars_root, small_run, tmp_path):
    config = str(repository / 'configs' / 'stmn_mars.yaml')
    words = [*small_run, 'use_gpu', device == 'cuda', 'train.amp', amp, 'train.optim', 'adam']
    words += ['train.deterministic', True, 'train.save_freq', 1, 'train.max_epoch', 2]

    def run(*more):
        train.main(['--config-file', config, '--root', mars_root, *map(str, [*words, *more])])

    run()
    first, straight = (tmp_path / 'run' / 'model' / f'model.pth.tar-{n}' for n in (1, 2))
    run('model.resume', first, 'data.save_dir', tmp_path / 'again')
    one, other = (
        load_checkpoint(str(path))
        for path in (straight, tmp_path / 'again' / 'model' / 'model.pth.tar-2')
    )
    assert relative_error(on_cpu(load_checkpoint(str(first))['state_dict'].items()),
                          on_cpu(one['state_dict'].items())) > 0  # fmt: skip
    for name, tensor in one['state_dict'].items():
        assert torch.equal(tensor, other['state_dict'][name]), name
    for index, moments in one['optimizer']['state'].items():
        for key, tensor in moments.items():
            assert torch.equal(tensor, other['optimizer']['state'][index][key]), (index, key)
    assert one.get('scaler') == other.get('scaler') and (one.get('scaler') is None) == (
        amp == 'off'
    )


def test_weights_trained_there_give_the_same_features_here(device, make_engine, tmp_path):
    engine = make_engine(device, 'train.amp', 'bf16')
    engine.max_epoch, engine.epoch = 1, 0
    engine.train()
    engine.save_model(0, 0.0, str(tmp_path))
    (checkpoint,) = tmp_path.rglob('model.pth.tar-1')
    path = str(tmp_path / 'weights.safetensors')
    export.export_weights(path, str(checkpoint))
    there, here = load_model(path, device), load_model(path).double()
    clips = torch.rand(3, 4, 3, 64, 32)
    with torch.no_grad():
        found, exact = there(clips.to(device)).cpu().double(), here(clips.double())
    assert found.std() > 0 and (found - exact).norm() / exact.norm() < 1e-3


# --- testing ---

TESTING = {
    'plain': ({'fold_bn': False}, 1e-3),
    'folded': ({}, 1e-3),
    'bf16': ({'amp': 'bf16'}, 0.1),
    'fp16': ({'amp': 'fp16'}, 0.1),
}


def check_features(make_engine, device, options, tolerance):
    engine = make_engine(device)
    exact_model = copy.deepcopy(engine.model).cpu().double().eval()
    data = engine.datamanager.test_dataset['mars']['query']
    size = {'height': 64, 'width': 32}
    plan = ClipPlan(4, 'all')
    found = Embedder(engine.model, plan, device, **options, **size)(data).features
    wide = Embedder(exact_model, plan, 'cpu', fold_bn=False, **size)
    prepare = wide.prepare
    wide.prepare = lambda images: prepare(images).double()
    exact = wide(data).features
    error = float((found.double() - exact).norm() / exact.norm())
    assert error < tolerance
    return error


@pytest.mark.parametrize('name', marked(TESTING, {'folded', 'bf16'}))
def test_features_are_the_exact_ones_within_their_precision(name, device, make_engine):
    error = check_features(make_engine, device, *TESTING[name])
    assert error > 1e-4 or name not in ('bf16', 'fp16')


@GPU_ONLY
def test_compiled_features_are_the_exact_ones(device, make_engine, messages):
    check_features(make_engine, device, {'compiled': True}, 1e-3)
    assert 'not compiled' not in messages()
    torch._dynamo.reset()


def whole_numbers(count, seed):
    """Features whose distances float32 holds exactly on any device."""
    generator = np.random.default_rng(seed)
    return torch.from_numpy(generator.integers(-3, 4, (count, 16)).astype(np.float32))


def test_ranking_on_the_device_is_that_of_the_loops(device):
    query, gallery = whole_numbers(20, 1), whole_numbers(90, 2)
    rng = np.random.default_rng(3)
    labels = rng.integers(0, 6, 20), rng.integers(-1, 6, 90), rng.integers(0, 3, 20)
    labels = (*labels, rng.integers(0, 3, 90))
    distances = ((query.double()[:, None] - gallery.double()) ** 2).sum(2)  # (Q, G), many are equal
    expected = references.rank_queries(distances.numpy(), *labels, 'rectangle')
    there = query.to(device), gallery.to(device)
    for found in (
        evaluate_ranking(distances.to(device), *labels),
        rank_features(*there, *labels, dist_metric='euclidean'),
    ):
        np.testing.assert_allclose(found.cmc, expected[0], rtol=0, atol=1e-12)
        assert found[1:] == pytest.approx(expected[1:], abs=1e-12)
    order = torch.argsort(distances, dim=1, stable=True)[:, :7]
    found = top_k(*there, 7, 'euclidean')
    assert torch.equal(found.indices.cpu(), order)
    assert torch.equal(found.distances.cpu().double(), distances.gather(1, order))


@pytest.mark.parametrize('metric', ['cosine', 'euclidean'])
def test_reranking_on_the_device_is_that_of_the_papers_sets(metric, device):
    features = test_reranking.clusters(60)
    expected = test_reranking.slow_rerank(features[:12], features[12:], metric, 8, 3, 0.3)
    rows = rerank(features[:12].to(device), features[12:].to(device), metric, 8, 3, 0.3)
    found = torch.cat(list(rows)).double().numpy()
    np.testing.assert_allclose(found, np.asarray(expected), rtol=0, atol=1e-4)


# --- one process of a group ---


def test_the_operations_of_a_group_with_one_process(device, make_engine):
    """With NCCL on a GPU; a run on one process makes no group, so they are called here."""
    backend = 'cpu:gloo,cuda:nccl' if device == 'cuda' else 'gloo'
    engine, plain = make_engine(device), make_engine(device)
    batch = next(iter(engine.train_loader))
    with reserved_port() as port:
        address = f'tcp://127.0.0.1:{port}'
        dist.init_process_group(backend, init_method=address, world_size=1, rank=0)
    try:
        rows = torch.randn(3, 2, device=device, requires_grad=True)
        gathered = distributed._Gather.apply(rows)
        (gathered.square().sum() + distributed._Total.apply(rows).sum()).backward()
        assert torch.equal(gathered, rows)
        torch.testing.assert_close(rows.grad, 2 * rows.detach() + 1)
        norm, own = nn.BatchNorm2d(3).to(device), SyncBatchNorm(3).to(device)
        maps = torch.randn(4, 3, 2, 2, device=device)
        torch.testing.assert_close(own(maps), norm(maps), rtol=1e-5, atol=1e-5)
        values = [torch.tensor(5)]  # of the CPU, in a group that also has a GPU's
        dist.broadcast_object_list(values)
        dist.all_reduce(values[0], dist.ReduceOp.MAX)
        assert int(values[0]) == 5
        options = engine.trainer.objective.ddp_options
        engine.trainer.replica.replica = nn.parallel.DistributedDataParallel(
            engine.model, **options
        )
        found, expected = engine.forward_backward(batch), plain.forward_backward(batch)
    finally:
        engine.trainer.replica.replica = None
        dist.destroy_process_group()
    assert found == pytest.approx(expected, rel=1e-4)
    assert relative_error(gradients_of(engine.model), gradients_of(plain.model)) < 0.05


# --- every system, last as they are many ---


@GPU_ONLY
@pytest.mark.parametrize('amp', ['off', 'fp16'])
@pytest.mark.parametrize('name', [*ENGINES[1:], *sorted(VIDEO_MODELS)])
def test_an_epoch_of_every_system(name, amp, device, make_engine):
    """On the CPU ``test_every_model.py`` does that."""
    check_an_epoch(make_engine, device, name, amp)
