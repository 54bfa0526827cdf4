"""What is checked before training: what a model can take, the device; bugs stay what they are."""

import re
from typing import NamedTuple

import pytest
import torch
import torch.nn.functional as F
from processes import on_processes
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from stmn_plugin import device, distributed
from stmn_plugin.cli import train
from stmn_plugin.config import load_config
from stmn_plugin.errors import InputError
from stmn_plugin.host.parts import build_model, build_optimizer
from stmn_plugin.host.registration import model_registry
from stmn_plugin.models import STMN
from stmn_plugin.models.facts import check_batch, flop_counter, model_facts


def config(*words, arch='mine'):
    start = ['model.name', arch, 'loss.name', 'softmax', 'model.pretrained', 'False']
    start += ['data.type', 'video', 'data.height', '64', 'data.width', '32', 'video.seq_len', '4']
    return load_config('', [*start, *map(str, words)])


class Frames(nn.Module):
    """Takes frames from 32x32 on."""

    def __init__(self, norm=None):
        super().__init__()
        self.layer = nn.Sequential(nn.Conv2d(3, 4, 32), norm or nn.Identity())

    def forward(self, frames):
        return self.layer(frames).mean(dim=(2, 3))


class Broken(Frames):
    def forward(self, frames):
        return super().forward(frames) @ torch.zeros(7, 5)


class Clips(Frames):
    def forward(self, clips):
        count, length, *size = clips.shape
        return super().forward(clips.reshape(-1, *size)).view(count, length, -1).mean(dim=1)


class Pair(NamedTuple):
    feature: torch.Tensor
    other: torch.Tensor


class Several(Frames):
    def forward(self, frames):
        return Pair(super().forward(frames), frames)


def test_frames_that_are_too_small_are_named_with_torchs_reason():
    assert model_facts(config(), Frames())['feature_dim'] == 4
    with pytest.raises(InputError, match='data.height.*mine cannot take frames of 16x32.*Kernel'):
        model_facts(config('data.height', 16), Frames())


def test_a_bug_of_a_model_stays_one():
    with pytest.raises(RuntimeError, match='mat1 and mat2') as caught:
        model_facts(config(), Broken())
    assert not isinstance(caught.value, InputError)


def test_a_model_that_takes_clips_is_called_so():
    with pytest.raises(InputError, match='model.name mine takes clips'):
        model_facts(config(), Clips())


def test_a_model_without_one_feature_is_called_so():
    with pytest.raises(InputError, match=r'model.name mine.*\(B, D\), not Pair'):
        model_facts(config(), Several())


def of_two_processes(model, *words):
    with pytest.raises(InputError) as caught:
        check_batch(config(*words), model)
    return str(caught.value)


@pytest.mark.parametrize(
    'norm, refused', [(None, False), (nn.BatchNorm2d(4), False), (nn.BatchNorm2d(4), True)]
)
def test_a_batch_of_one_through_a_batch_norm_is_refused(norm, refused):
    """Of 32x32 frames the layer makes one value a channel, of 64x32 more."""
    words = ['train.batch_size', 1, 'video.seq_len', 1, 'data.height', 32 if refused else 64]
    model, cfg = Frames(norm), config(*words)
    model_facts(cfg, model)
    images = torch.zeros(1, 3, cfg.data.height, 32)
    if not refused:
        check_batch(cfg, model)
        model.train()(images)
        return
    with pytest.raises(InputError, match='train.batch_size 1, video.seq_len 1: .* mine take two'):
        check_batch(cfg, model)
    with pytest.raises(ValueError, match='more than 1 value'):  # what it is refused for
        model.train()(images)
    check_batch(config(*words, 'video.seq_len', 2), model.eval())
    words[1] = 2
    check_batch(config(*words), model)
    for message in on_processes(of_two_processes, model, *words):  # a frame in each of them
        assert 'train.batch_size 2' in message and '2 processes' in message
    assert distributed.world_size() == 1


def test_a_batch_of_one_clip_is_refused_for_stmn():
    words = ['loss.name', 'stmn', 'loss.triplet.weight_t', 0, 'loss.triplet.weight_x', 1]
    words += ['sampler.train_sampler', 'RandomSampler', 'train.batch_size']
    model = STMN(3, 1, STMN.Config(backbone='resnet18'), pretrained=False).eval()
    check_batch(config(*words, 2, 'video.seq_len', 1, arch='stmn'), model)
    with pytest.raises(InputError, match='train.batch_size 1.*stmn take two clips'):
        check_batch(config(*words, 1, 'video.seq_len', 1, arch='stmn'), model)


@pytest.mark.parametrize('error', [KeyError('layer5'), OSError('no such file'), TypeError('None')])
def test_a_bug_in_the_making_of_a_model_stays_one(error, monkeypatch):
    def broken(num_classes, pretrained, **kwargs):
        raise error

    monkeypatch.setitem(model_registry(), 'mine', broken)
    for pretrained in (True, False):
        with pytest.raises(type(error)) as caught:
            build_model(config('model.pretrained', pretrained), 3)
        assert caught.value is error


def test_weights_that_cannot_be_had_are_called_so(monkeypatch):
    def make(num_classes, pretrained, **kwargs):
        if pretrained:
            raise RuntimeError('invalid hash value (expected "a", got "b")\nand more')
        return Frames()

    monkeypatch.setitem(model_registry(), 'mine', make)
    with pytest.raises(InputError, match='mine.*invalid hash.*"b".*: set model.pretrained False$'):
        build_model(config('model.pretrained', True), 3)


def test_numbers_that_an_optimizer_cannot_take_are_named_and_bugs_are_not(monkeypatch):
    model = Frames()
    with pytest.raises(InputError, match='train.optim sgd: Nesterov'):
        build_optimizer(
            config('train.optim', 'sgd', 'sgd.nesterov', True, 'sgd.momentum', 0), model
        )

    def broken(optimizer):
        raise ValueError('a bug')

    monkeypatch.setattr('stmn_plugin.host.parts.with_fused_steps', broken)
    with pytest.raises(ValueError, match='a bug') as caught:
        build_optimizer(config(), model)
    assert not isinstance(caught.value, InputError)


# --- the device ---


@pytest.mark.slow
def test_a_run_says_what_it_computes_on_and_why(repository, mars_root, small_run, tmp_path, capsys):
    if torch.cuda.is_available():
        pytest.skip('about machines without a GPU')
    file = str(repository / 'configs' / 'stmn_mars.yaml')
    words = ['--config-file', file, '--root', mars_root, *small_run, 'train.max_epoch', '0']
    train.main([*words, 'use_gpu', 'True'])
    out = capsys.readouterr().out
    threads = torch.get_num_threads()
    (line,) = re.findall('Device: .*', out)
    assert line.startswith(f'Device: CPU, {threads} thread') and 'use_gpu True cannot be: ' in line
    (log,) = (tmp_path / 'run').glob('train.log*')
    assert line in log.read_text()
    train.main([*words, 'use_gpu', 'False'])
    assert 'cannot be' not in capsys.readouterr().out


@pytest.mark.parametrize(
    'error, reason',
    [
        (AssertionError('Torch not compiled with CUDA enabled'), 'Torch not compiled with CUDA'),
        (RuntimeError('Found no NVIDIA driver on your system. Please check'), 'Found no NVIDIA'),
        (RuntimeError('No CUDA GPUs are available'), 'No CUDA GPUs are available'),
    ],
)
def test_why_there_is_no_gpu(error, reason, monkeypatch):
    def init():
        raise error

    monkeypatch.setattr(torch.cuda, 'is_available', lambda: False)
    monkeypatch.setattr(torch.cuda, 'init', init)
    line = device.device_line(True)
    assert reason in line and 'Please' not in line
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: True)
    monkeypatch.setattr(torch.cuda, 'get_device_name', lambda: 'NVIDIA H100')
    assert device.device_line(True) == 'Device: NVIDIA H100'
    assert device.device_line(False).startswith('Device: CPU')
    monkeypatch.setattr(device, 'world_size', lambda: 4)
    assert device.device_line(True) == 'Device: 4 x NVIDIA H100'


# --- operations ---


def counted(network, *inputs):
    with torch.no_grad(), flop_counter() as counter:
        network(*inputs)
    return counter.get_total_flops()


@pytest.mark.parametrize('layers', [1, 2])
@pytest.mark.parametrize('both_ways', [False, True])
@pytest.mark.parametrize('kind, gates', [(nn.LSTM, 4), (nn.GRU, 3), (nn.RNN, 1)])
def test_recurrent_layers_are_counted(kind, gates, both_ways, layers):
    """As loops over steps: for each gate a product with the input and one with the state.

    In float32 a CPU has one kernel for a layer of an LSTM, in float64 torch multiplies matrices.
    """
    network = kind(24, 16, layers, batch_first=True, bidirectional=both_ways)
    expected = 0
    for _step in range(3 * 5):  # of three sequences
        for layer in range(layers):
            of_input = 24 if layer == 0 else 16 * (1 + both_ways)
            for _direction in range(1 + both_ways):
                for _gate in range(gates):
                    expected += 2 * 16 * of_input + 2 * 16 * 16
    assert counted(network, torch.zeros(3, 5, 24)) == expected
    assert counted(network.double(), torch.zeros(3, 5, 24, dtype=torch.float64)) == expected


def test_attention_is_counted():
    """2 x 3 heads: 5 queries with 7 keys of 8 numbers, then with 7 values of 6."""
    query, key, value = (torch.zeros(2, 3, *shape) for shape in ((5, 8), (7, 8), (7, 8)))
    expected = 2 * 3 * 5 * 7 * (2 * 8 + 2 * 8)
    assert counted(F.scaled_dot_product_attention, query, key, value) == expected
    assert counted(lambda q, k, v: (q @ k.mT).softmax(dim=-1) @ v, query, key, value) == expected


@pytest.mark.parametrize(
    'arch, recurrent', [('stmn', 4 * 512 * (512 + 512)), ('csa', 4 * 128 * (512 + 128))]
)
def test_the_lstm_of_a_model_is_part_of_its_cost(arch, recurrent):
    """A multiply-add is two; one LSTM runs over the four frames of a clip."""
    cfg = config('stmn.backbone', 'resnet18', arch=arch)
    model = build_model(cfg, 3)
    facts = model_facts(cfg, model)
    plain = FlopCounterMode(display=False)
    vectors = torch.zeros(1, 4, model.encode_frames(torch.zeros(1, 3, 64, 32)).shape[1])
    with torch.no_grad(), plain:
        model.encode_frames(torch.zeros(1, 3, 64, 32))
    rest = FlopCounterMode(display=False)
    with torch.no_grad(), rest:
        model.double().embed(vectors.double())  # float64 has no kernel for a whole LSTM
    total = plain.get_total_flops() + rest.get_total_flops() / 4
    assert facts['gflops_per_frame'] == round(total / 1e9, 4)
    with torch.no_grad(), FlopCounterMode(display=False) as short:
        model.float().embed(vectors)
    assert rest.get_total_flops() - short.get_total_flops() == 2 * 4 * recurrent
