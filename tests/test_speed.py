"""Faster, and the same numbers: every switch against the plain computation."""

import contextlib
import copy
import io

import pytest
import torch
import torchreid

from stmn_plugin.cli import train
from stmn_plugin.config import load_config
from stmn_plugin.errors import InputError
from stmn_plugin.host.parts import CONTIGUOUS_ONLY, build_optimizer
from stmn_plugin.host.runner import prepare
from stmn_plugin.models import STMN, Encoder, VideoModel
from stmn_plugin.models.folding import FoldedEncoder, conv_norm_pairs
from stmn_plugin.training import speed
from stmn_plugin.training.checkpoint import load_checkpoint, load_resumable, save_checkpoint
from stmn_plugin.training.resumable import resume

SIZE = (64, 32)


def small_stmn(dtype=torch.float32, seed=0, **options):
    torch.manual_seed(seed)
    model = STMN(4, 2, STMN.Config(backbone='resnet18', **options), pretrained=False).to(dtype)
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if tensor.dim() == 1 and tensor.is_floating_point() and 'lstm' not in name:
                tensor.copy_(0.5 + torch.rand_like(tensor))
    return model


def clips(dtype=torch.float32, count=4, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, 2, 3, *SIZE, generator=generator).to(dtype)


def test_channels_last_is_for_2d_convolutions_and_takes_3d_ones():
    both = torch.nn.ModuleList([torch.nn.Conv2d(3, 8, 3), torch.nn.Conv3d(3, 8, 3)])
    flat, deep = both[0].weight, both[1].weight
    values = flat.detach().clone()
    speed.use_channels_last(both)
    assert both[0].weight is flat and torch.equal(flat, values)
    assert flat.stride() == (27, 1, 9, 3) and deep.is_contiguous()


def gradients(model, batch):
    """Of every parameter, for a loss that uses every output."""
    model.zero_grad()
    out = model(batch)
    loss = sum(x.square().mean() for x in out if x is not None)
    loss.backward()
    return {name: p.grad for name, p in model.named_parameters()}


# --- activations computed again ---


@pytest.mark.slow
@pytest.mark.parametrize('backbone', ['resnet18', pytest.param('resnet50', marks=pytest.mark.slow)])
def test_checkpointed_activations_give_the_same_gradients_and_statistics_bit_by_bit(backbone):
    torch.manual_seed(0)
    plain = STMN(4, 2, STMN.Config(backbone=backbone), pretrained=False).train()
    saving = copy.deepcopy(plain)
    saving.encoder.checkpoint_activations = True
    for seed in range(2):
        expected, found = (gradients(model, clips(seed=seed)) for model in (plain, saving))
        for name, gradient in expected.items():
            assert torch.equal(gradient, found[name]), name
    for name, value in plain.state_dict().items():  # running statistics, counters
        assert torch.equal(value, saving.state_dict()[name]), name
    assert plain.encoder.trunk[1].num_batches_tracked == 2


def test_checkpointed_activations_are_not_kept():
    model = small_stmn().train()
    kept = {}
    for saving in (False, True):
        model.encoder.checkpoint_activations = saving
        sizes = []
        hooks = torch.autograd.graph.saved_tensors_hooks(
            lambda x, sizes=sizes: sizes.append(x.numel()) or x, lambda x: x
        )
        with hooks:
            model(clips())
        kept[saving] = sum(sizes)
    assert kept[True] < 0.5 * kept[False]


# --- batch norms in the convolutions ---


@pytest.mark.slow
@torch.no_grad()
@pytest.mark.parametrize('backbone', ['resnet18', 'resnet50'])
def test_a_folded_encoder_gives_the_same_maps(backbone):
    torch.manual_seed(0)
    encoder = Encoder(backbone, pretrained=False).double()
    one = FoldedEncoder(encoder)
    folded = one.folded
    for step in range(2):
        for tensor in encoder.state_dict().values():
            if tensor.dim() == 1:
                tensor.uniform_(0.5, 1.5)
        one.refold()
        frames = clips(torch.float64, seed=step).flatten(0, 1)
        for expected, found in zip(encoder.eval()(frames), folded(frames), strict=True):
            torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)
    assert not folded.training
    norms = (torch.nn.modules.batchnorm._BatchNorm,)
    assert not any(isinstance(module, norms) for module in folded.modules())
    assert any(isinstance(module, norms) for module in encoder.modules())


@pytest.mark.parametrize('backbone', ['resnet18', 'resnet50'])
def test_every_batch_norm_of_every_backbone_stands_behind_its_convolution(backbone):
    with torch.device('meta'):
        encoder = Encoder(backbone, pretrained=False)
    pairs = conv_norm_pairs(encoder.eval())
    modules = dict(encoder.named_modules())
    assert len(pairs) == sum(isinstance(m, torch.nn.BatchNorm2d) for m in modules.values())
    assert len({conv for conv, _ in pairs}) == len(pairs)
    for conv, norm in pairs:
        expected = {'bn1': 'conv1', 'bn2': 'conv2', 'bn3': 'conv3', '1': '0'}
        folder, _, name = norm.rpartition('.')
        assert conv == (f'{folder}.' if folder else '') + expected[name]
        assert modules[conv].out_channels == modules[norm].num_features


# --- precision ---


@pytest.mark.slow
@torch.no_grad()
@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
def test_in_mixed_precision_the_encoder_alone_is_rounded(dtype):
    model = small_stmn().train()
    batch = clips()
    full = copy.deepcopy(model)(batch)
    other = copy.deepcopy(model)
    with torch.autocast('cpu', dtype):
        out = other(batch)
        maps = model.encoder(batch.flatten(0, 1))
    assert maps.frame_features.dtype == maps.spatial_queries.dtype == dtype
    # what comes after is the float32 computation on the rounded maps
    pooled = maps.frame_features.double().mean(dim=(2, 3))
    refined, probs = model.spatial_memory(maps.frame_features.float(), maps.spatial_queries.float())
    assert torch.equal(out.spatial_probs, probs)
    queries = maps.temporal_queries.float().view(4, 2, -1)
    clip = model.temporal_memory(queries, refined.view(4, 2, -1))
    torch.testing.assert_close(out.clip_feature, clip.output)
    assert (pooled - maps.frame_features.float().mean(dim=(2, 3))).abs().max() < 1e-5
    for name, ours, exact in zip(out._fields, out, full, strict=True):
        assert ours.dtype == torch.float32, name
        error = (ours - exact).norm() / exact.norm()
        assert error < 0.1, (name, error)
    for own, plain in zip(other.buffers(), model.buffers(), strict=True):
        assert own.dtype == plain.dtype


@torch.no_grad()
def test_testing_in_bf16_gives_float32_vectors_near_the_exact_ones():
    model = small_stmn().eval()
    frames = clips().flatten(0, 1)
    exact = model.encode_frames(frames)
    for amp, tolerance in (('off', 1e-5), ('bf16', 0.1)):
        vectors = speed.InferenceModel(model, 'cpu', amp).encode_frames(frames)
        assert vectors.dtype == torch.float32
        error = (vectors - exact).norm() / exact.norm()
        assert error < tolerance and (amp == 'off' or error > 0)


def test_tf32_is_a_switch_of_the_block():
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    for enabled, precision in ((True, 'high'), (False, 'highest')):
        with speed.tf32(enabled):
            assert torch.get_float32_matmul_precision() == precision
            assert torch.backends.cudnn.allow_tf32 == enabled
        assert before == (
            torch.get_float32_matmul_precision(),
            torch.backends.cudnn.allow_tf32,
        )


def test_cudnn_tries_its_algorithms_unless_runs_must_repeat():
    cudnn = torch.backends.cudnn
    with speed.same_shapes():
        assert cudnn.benchmark
    with torch.backends.cudnn.flags(deterministic=True, benchmark=False), speed.same_shapes():
        assert not cudnn.benchmark
    assert not cudnn.benchmark


def test_a_gpu_without_bf16_is_named(monkeypatch):
    monkeypatch.setattr(torch.cuda, 'is_bf16_supported', lambda: False)
    with pytest.raises(InputError, match='train.amp bf16'):
        speed.check_amp('bf16', 'train.amp', use_gpu=True)
    speed.check_amp('bf16', 'train.amp', use_gpu=False)
    speed.check_amp('fp16', 'train.amp', use_gpu=True)


# --- optimizer ---


@pytest.mark.parametrize('name', ['adam', 'amsgrad', 'sgd', 'rmsprop', 'radam'])
def test_fused_steps_are_the_same_steps(name):
    torch.manual_seed(0)
    plain = torch.nn.Sequential(
        torch.nn.Conv2d(3, 4, 3), torch.nn.Flatten(), torch.nn.Linear(16, 2)
    )
    fused = copy.deepcopy(plain).to(memory_format=torch.channels_last)
    options = {'optim': name, 'lr': 0.01, 'weight_decay': 1e-3, 'staged_lr': True}
    options.update(new_layers=['2'], base_lr_mult=0.5)
    one = torchreid.optim.build_optimizer(plain, **options)
    other = speed.with_fused_steps(torchreid.optim.build_optimizer(fused, **options))
    assert [g['lr'] for g in other.param_groups] == [g['lr'] for g in one.param_groups]
    assert bool(other.param_groups[0].get('fused')) == (name in ('adam', 'amsgrad', 'sgd'))
    for step in range(3):
        batch = torch.randn(5, 3, 4, 4, generator=torch.Generator().manual_seed(step))
        for model, optimizer in ((plain, one), (fused, other)):
            optimizer.zero_grad()
            model(batch).square().mean().backward()
            optimizer.step()
    for a, b in zip(plain.parameters(), fused.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize('dampening', [0.0, 0.5])
@pytest.mark.parametrize('nesterov', [False, True])
@pytest.mark.parametrize('name', ['adam', 'sgd'])
def test_fused_steps_of_weights_that_train_later_are_the_same(name, nesterov, dampening):
    """As after train.fixbase_epoch: the first layer has a gradient from the third step on."""
    if nesterov and dampening:
        pytest.skip('torch has none')
    torch.manual_seed(0)
    plain = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.ReLU(), torch.nn.Linear(4, 2))
    fused = copy.deepcopy(plain)
    options = {'optim': name, 'lr': 0.1, 'weight_decay': 1e-3, 'momentum': 0.9}
    options |= {'sgd_nesterov': nesterov, 'sgd_dampening': dampening}
    one = torchreid.optim.build_optimizer(plain, **options)
    other = speed.with_fused_steps(torchreid.optim.build_optimizer(fused, **options))
    assert bool(other.param_groups[0].get('fused')) == (name == 'adam' or not dampening)
    for step in range(5):
        batch = torch.randn(5, 3, generator=torch.Generator().manual_seed(step))
        for model, optimizer in ((plain, one), (fused, other)):
            model[0].requires_grad_(step >= 2)
            optimizer.zero_grad()
            model(batch).square().mean().backward()
            optimizer.step()
    for a, b in zip(plain.parameters(), fused.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


def test_a_first_step_that_is_skipped_leaves_no_momentum():
    """Of memory that torch has not written: a scale that overflows skips the first steps."""
    weight = torch.nn.Parameter(torch.ones(3))
    optimizer = speed.with_fused_steps(torch.optim.SGD([weight], lr=0.1, momentum=0.9))
    optimizer.grad_scale, optimizer.found_inf = None, torch.ones(())
    weight.grad = torch.full((3,), torch.inf)
    optimizer.step()
    assert optimizer.state[weight]['momentum_buffer'].tolist() == [0] * 3 and (weight == 1).all()
    optimizer.found_inf = torch.zeros(())
    weight.grad = torch.ones(3)
    optimizer.step()
    torch.testing.assert_close(weight.detach(), torch.full((3,), 0.9))


class Remembering(VideoModel):
    """Two layers, the second a memory."""

    def __init__(self):
        super().__init__(2, 1, None)
        torch.manual_seed(0)
        self.trunk, self.memory = torch.nn.Linear(3, 4), torch.nn.Linear(4, 2)

    def forward(self, batch):
        return self.memory(self.trunk(batch).tanh())

    def memory_parameters(self):
        return self.memory.parameters()


@pytest.mark.parametrize('staged', [False, True])
def test_memories_learn_at_a_rate_of_their_own(staged, messages):
    words = 'train.optim sgd sgd.momentum 0 train.lr 0.01 train.weight_decay 0 train.stepsize 1'
    words += f' train.staged_lr {staged} train.new_layers trunk train.base_lr_mult 0.5'
    model = Remembering().double()
    cfg = load_config('', [*words.split(), 'train.memory_lr_mult', '20'])
    optimizer, scheduler = build_optimizer(cfg, model)
    assert optimizer.param_groups[-1]['lr'] == 0.01  # the rate that is logged: not the memory's
    for decay in (1, 0.1):
        before = {key: value.detach().clone() for key, value in model.named_parameters()}
        optimizer.zero_grad()
        model(torch.eye(3).double()).square().sum().backward()
        optimizer.step()
        scheduler.step()
        for key, now in model.named_parameters():
            rate = 0.01 * decay * (20 * (0.5 if staged else 1) if 'memory' in key else 1)
            torch.testing.assert_close(now, before[key] - rate * now.grad)
    assert not messages()


def test_a_model_without_memories_says_so_and_trains_as_before(messages):
    model = conv_net()
    words = ['train.memory_lr_mult', '20', 'train.lr', '0.01']
    optimizer, _ = build_optimizer(load_config('', words), model)
    assert [group['lr'] for group in optimizer.param_groups] == [0.01]
    assert 'train.memory_lr_mult 20: the model has no memories' in messages()


def conv_net():
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Conv2d(3, 5, 3, bias=False), torch.nn.BatchNorm2d(5))


def train_steps(model, optimizer, steps):
    for step in steps:
        batch = torch.randn(4, 3, 6, 6, generator=torch.Generator().manual_seed(step))
        optimizer.zero_grad()
        model(batch).pow(4).mean().backward()
        optimizer.step()


@pytest.mark.parametrize('fused', [True, False])
def test_moments_follow_their_weights_into_another_memory_layout(fused, tmp_path):
    """Fused steps walk through both as they lie in memory, and torch does not look."""
    straight = conv_net()
    optimizer = torchreid.optim.build_optimizer(straight, optim='adam', lr=0.01)
    train_steps(straight, optimizer, range(3))
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 9)
    state = {'state_dict': straight.state_dict(), 'epoch': 1}
    state.update(optimizer=optimizer.state_dict(), scheduler=scheduler.state_dict())
    path = save_checkpoint(state, str(tmp_path), 1)
    train_steps(straight, optimizer, range(3, 6))

    resumed = conv_net().to(memory_format=torch.channels_last)
    optimizer = torchreid.optim.build_optimizer(resumed, optim='adam', lr=0.01)
    if fused:
        optimizer = speed.with_fused_steps(optimizer)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 9)
    resume(load_resumable(path), path, resumed, optimizer, scheduler)
    assert bool(optimizer.param_groups[0]['fused']) == fused
    train_steps(resumed, optimizer, range(3, 6))
    for expected, found in zip(straight.parameters(), resumed.parameters(), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)


# --- compilation ---


@pytest.mark.slow
def test_what_cannot_be_compiled_runs_as_it_is_and_says_so(monkeypatch, messages):
    def broken(*_, **__):
        raise RuntimeError('no C++ compiler\nfound')

    monkeypatch.setattr('torch._inductor.compile_fx.compile_fx', broken)
    model = small_stmn().eval()
    names = list(model.state_dict())
    frames = clips(count=1).flatten(0, 1)
    with torch.no_grad():
        expected = model.encode_frames(frames)
        speed.compile_in_place(model)
        torch.testing.assert_close(model.encode_frames(frames), expected)
    out = messages()
    assert out.count('train.compile: not compiled') == 1 and 'no C++ compiler found' in out
    assert list(model.state_dict()) == names
    torch._dynamo.reset()


@pytest.mark.slow
def test_a_compiled_model_trains_and_tests_alike(capsys):
    torch.manual_seed(0)
    plain = STMN(4, 2, STMN.Config(backbone='resnet18'), pretrained=False).double().train()
    compiled = copy.deepcopy(plain)
    speed.compile_in_place(compiled)
    batch = clips(torch.float64)  # in float32 the first BNs turn rounding into per cents
    expected, found = gradients(plain, batch), gradients(compiled, batch)
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-6, atol=1e-9, msg=name)
    assert 'not compiled' not in capsys.readouterr().out
    for (name, a), b in zip(plain.named_buffers(), compiled.buffers(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9, msg=name)
    torch._dynamo.reset()


# --- the step, in whole runs ---


@pytest.fixture
def engine(repository, mars_root, small_run):
    """An engine on the miniature MARS, about to take its first step."""

    def make(*words):
        config = str(repository / 'configs' / 'stmn_mars.yaml')
        with contextlib.redirect_stdout(io.StringIO()):
            engine = prepare(load_config(config, [*small_run, *words], {'data.root': mars_root}))
        engine.trainer.num_batches = len(engine.train_loader)
        engine.set_model_mode('train')
        return engine

    return make


def weights_of(engine):
    return {key: value.clone() for key, value in engine.model.state_dict().items()}


@pytest.mark.slow
@pytest.mark.parametrize('loss', ['triplet', 'softmax'])
def test_our_step_of_an_image_model_is_the_hosts(loss, engine):
    words = ['model.name', 'osnet_x0_25', 'loss.name', loss, 'train.fused', 'False']
    words += ['video.image_models', 'frames']
    words += ['loss.triplet.weight_t', '0.7', 'train.channels_last', 'False']
    words += ['loss.softmax.label_smooth', 'True']
    ours, hosts = engine(*words), engine(*words)
    batch = next(iter(ours.train_loader))
    terms = ours.forward_backward(batch)
    weights = {'weight_t': 0.7, 'weight_x': 1.0} if loss == 'triplet' else {}
    kind = getattr(torchreid.engine, f'Video{loss.title()}Engine')
    theirs = kind(
        hosts.datamanager, hosts.model, hosts.optimizer, use_gpu=False, label_smooth=True, **weights
    )
    finished = {**batch, 'img': hosts.prepare(batch['img'], batch.get('augmentation'))}
    expected = theirs.forward_backward(finished)
    assert terms == pytest.approx(expected, rel=1e-6)
    for key, value in weights_of(hosts).items():
        assert torch.equal(weights_of(ours)[key], value), key


@pytest.mark.slow
@pytest.mark.parametrize('accumulate, groups', [(1, [1, 1, 1]), (2, [2, 1]), (3, [3]), (9, [3])])
def test_batches_that_make_a_step(accumulate, groups, engine):
    """Against gradients of the single batches, averaged by hand; SGD without momentum.

    In float64: over three steps rounding grows.
    """
    run = engine('train.accumulate', str(accumulate), 'stmn.temporal_mode', 'average')
    run.model.double()
    prepare, trainer = run.prepare, run.trainer
    trainer.batches.prepare = lambda *clips: prepare(*clips).double()
    trainer.num_batches = 3
    batches = [next(iter(run.train_loader)) for _ in range(3)]
    reference = copy.deepcopy(run.model)
    rate, decay = run.optimizer.param_groups[0]['lr'], run.optimizer.param_groups[0]['weight_decay']
    done = 0
    for group in groups:
        total = {}
        for batch in batches[done : done + group]:
            reference.zero_grad()
            images = trainer.batches.finish(batch)['img']
            losses = reference.losses(reference(images), batch['pid'], trainer.objective.recipe)
            sum(losses.values()).backward()
            for name, p in reference.named_parameters():
                total[name] = total.get(name, 0) + p.grad / group
        with torch.no_grad():
            for name, p in reference.named_parameters():
                p -= rate * (total[name] + decay * p)
        for index in range(done, done + group):
            before = weights_of(run)
            trainer.batch_idx = index
            run.forward_backward(batches[index])
            stepped = not torch.equal(
                before['classifier_clip.weight'], run.model.classifier_clip.weight
            )
            assert stepped == (index == done + group - 1)
        done += group
    for name, p in reference.named_parameters():
        torch.testing.assert_close(
            dict(run.model.named_parameters())[name], p, rtol=1e-9, atol=1e-11
        )


@pytest.fixture
def run(repository, mars_root, small_run, capsys):
    """Run tools/main.py in this process → exit code, stdout, stderr."""

    def call(*words):
        config = str(repository / 'configs' / 'stmn_mars.yaml')
        code = 0
        try:
            keys = [*small_run, 'train.save_freq', '1', *map(str, words)]
            train.main(['--config-file', config, '--root', mars_root, *keys])
        except SystemExit as stop:
            code = stop.code
        return (code, *capsys.readouterr())

    return call


@pytest.mark.slow
@pytest.mark.parametrize('arch, amp', [('stmn', 'bf16'), ('osnet_x0_25', 'fp16')])
def test_a_run_in_mixed_precision_resumes_exactly(arch, amp, run, tmp_path):
    words = ['model.name', arch, 'train.amp', amp, 'test.amp', amp, 'train.optim', 'adam']
    folder = tmp_path / 'run' / 'model'
    assert run(*words, 'train.max_epoch', 2)[0] == 0
    straight = load_checkpoint(str(folder / 'model.pth.tar-2'))
    assert ('scaler' in straight) == (amp == 'fp16')
    again = ['model.resume', folder / 'model.pth.tar-1', 'data.save_dir', tmp_path / 'again']
    assert run(*words, 'train.max_epoch', 2, *again)[0] == 0
    resumed = load_checkpoint(str(tmp_path / 'again' / 'model' / 'model.pth.tar-2'))
    for key, value in straight['state_dict'].items():
        assert torch.equal(value, resumed['state_dict'][key]), key
    assert straight.get('scaler') == resumed.get('scaler')
    code, _, err = run('model.resume', folder / 'model.pth.tar-1', 'model.name', arch)
    assert code == 2 and f"train.amp was '{amp}', is 'off'" in err


@pytest.mark.slow
def test_switches_of_order_change_no_result_beyond_rounding(run, tmp_path):
    plain = ['train.channels_last', False, 'train.fused', False, 'test.fold_bn', False]
    losses = {}
    for name, words in {
        'plain': plain,
        'default': [],
        'saving': ['train.checkpoint_activations', True],
    }.items():
        code, out, _ = run(*words, 'train.max_epoch', 1, 'data.save_dir', tmp_path / name)
        assert code == 0
        (line,) = (line for line in out.splitlines() if line.startswith('Epoch 1/1'))
        losses[name] = [float(part.split()[-1]) for part in line.split(';')[0].split(',')]
    assert losses['default'] == pytest.approx(losses['plain'], rel=1e-3, abs=1e-3)
    assert losses['saving'] == pytest.approx(losses['default'], rel=1e-3, abs=1e-3)


def test_switches_that_cannot_work_are_refused(run, tmp_path, repository):
    for words, part in (
        (['train.amp', 'bf61'], "train.amp takes one of off, bf16, fp16, got 'bf61'"),
        (['train.accumulate', 0], 'train.accumulate takes a whole number from 1 '),
        (
            ['train.compile', True, 'train.checkpoint_activations', True],
            'train.compile and train.checkpoint_activations exclude each other',
        ),
        (
            ['train.checkpoint_activations', True, 'model.name', 'osnet_x0_25'],
            'train.checkpoint_activations: osnet_x0_25 cannot',
        ),
    ):
        code, _, err = run(*words)
        assert code == 2 and part in err and len(err.strip().splitlines()) == 1


def test_off_in_a_yaml_file_is_off(tmp_path):
    file = tmp_path / 'a.yaml'
    file.write_text('train: {amp: off}\ntest: {amp: bf16}\n')
    config = load_config(str(file))
    assert config.train.amp == 'off' and config.test.amp == 'bf16'
    file.write_text('train: {amp: on}\n')
    with pytest.raises(InputError, match=r'a.yaml:1: train.amp takes one of off, .*got .on.'):
        load_config(str(file))


@pytest.mark.slow
@pytest.mark.parametrize('arch', CONTIGUOUS_ONLY)
def test_architectures_that_need_contiguous_maps_do(arch):
    """If the host mends one, it can leave the list."""
    torch.manual_seed(0)
    with contextlib.redirect_stdout(io.StringIO()):
        model = torchreid.models.build_model(arch, 4, loss='triplet', pretrained=False)

    def step():
        out = model.train()(torch.randn(2, 3, 256, 128))
        features = out[1] if isinstance(out[1], torch.Tensor) else out[1][0]
        features.square().mean().backward()

    step()
    model.to(memory_format=torch.channels_last)
    with pytest.raises(RuntimeError, match='view'):
        step()
