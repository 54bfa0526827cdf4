"""Weights of other programs load where they are the same network; other files are called theirs."""

import io
import pickle
import re
import warnings
import zipfile

import numpy as np
import pytest
import torch
from torch import nn

from stmn_plugin.errors import InputError
from stmn_plugin.models import STMN
from stmn_plugin.training.checkpoint import load_weights


class Net(nn.Module):
    """Two levels of names, a batch norm and a classifier."""

    def __init__(self, num_classes=3):
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(2, 4), nn.BatchNorm1d(4))
        self.head = nn.Linear(4, 2)
        self.classifier = nn.Linear(2, num_classes)


@pytest.fixture(scope='module')
def state():
    torch.manual_seed(1)
    net = Net()
    net.encoder[1].num_batches_tracked += 7
    return {key: value.clone() for key, value in net.state_dict().items()}


def prefixed(prefix):
    return lambda state: {f'{prefix}{key}': value for key, value in state.items()}


SAME = {
    'plain': lambda s: s,
    'state_dict': lambda s: {'state_dict': s, 'epoch': 3},
    'model': lambda s: {'model': s, 'args': [1]},
    'net': lambda s: {'net': s, 'acc': 0.5},
    'nested': lambda s: {'model': {'state_dict': prefixed('module.')(s)}},
    'module is a dictionary': lambda s: {'module': s, 'dp_world_size': 2},
    'model is a name': lambda s: {'model': 'resnet50', 'weights': s},
    'DDP': prefixed('module.'),
    'compiled': prefixed('_orig_mod.'),
    'both': prefixed('module._orig_mod.'),
    'both, the other way': prefixed('_orig_mod.module.'),
    'DDP twice': prefixed('module.module.'),
    'Lightning': lambda s: {'state_dict': prefixed('model.')(s), 'pytorch-lightning_version': '2'},
    'a part is compiled': lambda s: {
        key.replace('encoder.', 'encoder._orig_mod.'): value for key, value in s.items()
    },
    'without counters': lambda s: {k: v for k, v in s.items() if 'num_batches' not in k},
    'float64': lambda s: {k: v.double() if v.is_floating_point() else v for k, v in s.items()},
    'parameters': lambda s: {
        k: nn.Parameter(v) if v.is_floating_point() else v for k, v in s.items()
    },
}


@pytest.mark.parametrize('title', SAME)
def test_the_same_network_loads_however_it_was_saved(title, state, tmp_path):
    torch.save(SAME[title](state), tmp_path / 'weights')
    net = Net()
    load_weights(net, str(tmp_path / 'weights'))
    for key, value in net.state_dict().items():
        if 'num_batches' not in key or 'without' not in title:
            assert torch.equal(value, state[key]), key


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_halves_become_the_models_type(dtype, state, tmp_path):
    torch.save({key: value.to(dtype) for key, value in state.items()}, tmp_path / 'half')
    net = Net()
    load_weights(net, str(tmp_path / 'half'))
    for key, value in net.state_dict().items():
        assert value.dtype == state[key].dtype
        if value.is_floating_point():
            assert torch.equal(value, state[key].to(dtype).float())


def test_a_wrapped_model_takes_plain_weights(state, tmp_path):
    torch.save(state, tmp_path / 'weights')
    wrapped = nn.Module()
    wrapped.module = Net()
    load_weights(wrapped, str(tmp_path / 'weights'))
    assert torch.equal(wrapped.module.head.weight, state['head.weight'])


def test_names_that_only_look_wrapped_are_kept_apart(tmp_path):
    net = nn.Module()
    net.module, net.weight = nn.Linear(2, 2, bias=False), nn.Parameter(torch.zeros(2, 2))
    torch.save({'module.weight': torch.ones(2, 2), 'weight': torch.zeros(2, 2)}, tmp_path / 'w')
    load_weights(net, str(tmp_path / 'w'))
    assert (net.module.weight == 1).all() and (net.weight == 0).all()


def nan_in(key):
    def change(state):
        broken = state[key].clone()
        broken.view(-1)[0] = float('nan')
        return {**state, key: broken}

    return change


OTHERS = {
    'a list': (lambda s: {'state_dict': [1]}, 'state_dict of .* is a list'),
    'none': (lambda s: {'state_dict': None}, 'NoneType'),
    'a number': (lambda s: 3, 'is a int'),
    'a tensor': (lambda s: torch.zeros(3), 'is a Tensor'),
    'numbered': (lambda s: dict(enumerate(s.values())), "'0' is of type int"),
    'a number among them': (lambda s: {**s, 'epoch': 3}, "'epoch' is of type int"),
    'nothing': (lambda s: {}, 'another architecture'),
    'empty state': (lambda s: {'model': {}}, 'another architecture'),
    'twice': (lambda s: {**s, 'module.head.bias': s['head.bias'] + 1}, 'head.bias twice'),
    'one is missing': (lambda s: {k: v for k, v in s.items() if k != 'head.bias'}, 'head.bias'),
    'one too many': (lambda s: {**s, 'neck.bias': torch.zeros(1)}, 'neck.bias'),
    'two prefixes': (
        lambda s: {f'{"a" if i % 2 else "b"}.{k}': s[k] for i, k in enumerate(s)},
        'another architecture',
    ),
    'NaN': (nan_in('head.weight'), 'not finite, first head.weight'),
    'NaN in a buffer': (nan_in('encoder.1.running_var'), 'first encoder.1.running_var'),
    'too large': (lambda s: {**s, 'head.bias': s['head.bias'].double() + 1e300}, 'not finite'),
    'whole numbers': (lambda s: {**s, 'head.bias': torch.zeros(2, dtype=torch.int8)}, 'head.bias'),
    'complex': (lambda s: {**s, 'head.bias': torch.zeros(2, dtype=torch.cfloat)}, 'head.bias'),
    'flags': (lambda s: {**s, 'head.bias': torch.zeros(2, dtype=torch.bool)}, 'head.bias'),
    'sparse': (lambda s: {**s, 'head.bias': torch.zeros(2).to_sparse()}, 'head.bias'),
    'without data': (lambda s: {**s, 'head.bias': torch.zeros(2, device='meta')}, 'head.bias'),
    'of a size that no memory has': (
        lambda s: {**s, 'head.bias': torch.zeros(()).expand(10**15)},
        'head.bias',
    ),
}


def refusal(path):
    """One line that names the file, without a warning and without torch's advice."""
    net = Net()
    before = {key: value.clone() for key, value in net.state_dict().items()}
    with warnings.catch_warnings(), pytest.raises(InputError) as caught:
        warnings.simplefilter('error')
        load_weights(net, str(path))
    message = str(caught.value)
    assert str(path) in message and '\n' not in message and 'weights_only' not in message
    for key, value in net.state_dict().items():
        assert torch.equal(value, before[key])  # all or nothing
    return message


@pytest.mark.parametrize('title', OTHERS)
def test_what_is_not_the_same_network_is_named(title, state, tmp_path):
    content, words = OTHERS[title]
    torch.save(content(state), tmp_path / 'weights')
    assert re.search(words, refusal(tmp_path / 'weights'))


def archive(**members):
    file = io.BytesIO()
    with zipfile.ZipFile(file, 'w') as target:
        for name, content in members.items():
            target.writestr(name, content)
    return file.getvalue()


def in_memory(save, *content):
    file = io.BytesIO()
    save(*content, file) if save is torch.save else save(file, *content)
    return file.getvalue()


FILES = {
    'empty': (b'', 'empty'),
    'html': (b'<!DOCTYPE html><title>Google Drive - Quota exceeded</title>', 'web page'),
    'html after blanks': (b'\xef\xbb\xbf\r\n  <html>', 'web page'),
    'lfs': (b'version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12\n', 'git-lfs'),
    'annex': (b'/annex/objects/SHA256E-s12--4d7a.pth\n', 'git-annex'),
    'json': (b'{"error": "not found"}', 'text file'),
    'zip': (archive(readme='x'), 'zip archive'),
    'npz': (in_memory(np.savez, np.zeros(3)), 'zip archive'),
    'npy': (in_memory(np.save, np.zeros(3)), 'NumPy'),
    'safetensors': ((20).to_bytes(8, 'little') + b'{"w":{"dtype":"F32"', 'safetensors'),
    'hdf5': (b'\x89HDF\r\n\x1a\n' + bytes(99), 'HDF5'),
    'gzip': (b'\x1f\x8b' + bytes(99), 'gzip'),
    'pickle': (pickle.dumps({'state_dict': {}}), 'pickle that torch.save did not write'),
    'objects': (in_memory(torch.save, Net()), 'not only weights but test_weight_files.Net'),
    'noise': (bytes(range(1, 256)), 'damaged, or of a format unknown'),
    'cut': (in_memory(torch.save, {'w': torch.zeros(9999)})[:5000], 'is damaged'),
    'script': (archive(**{'a/data.pkl': b'', 'a/constants.pkl': b''}), 'TorchScript'),
    'broken pickle': (archive(**{'a/data.pkl': b'\x80\x02}', 'a/version': b'3'}), 'is damaged'),
}


@pytest.mark.parametrize('title', FILES)
def test_other_files_are_called_what_they_are(title, tmp_path):
    content, words = FILES[title]
    (tmp_path / 'weights').write_bytes(content)
    assert words in refusal(tmp_path / 'weights')


def test_a_folder_and_a_missing_file(tmp_path):
    assert 'a folder' in refusal(tmp_path)
    assert 'no file' in refusal(tmp_path / 'missing')


def test_a_flipped_bit_of_a_weight_is_found(state, tmp_path):
    torch.save(state, tmp_path / 'weights')
    data = bytearray((tmp_path / 'weights').read_bytes())
    data[data.index(state['head.weight'].numpy().tobytes()[:8])] ^= 1
    (tmp_path / 'weights').write_bytes(data)
    assert 'wrong checksum' in refusal(tmp_path / 'weights')


def test_the_old_format_of_torch_loads(state, tmp_path):
    torch.save(state, tmp_path / 'old', _use_new_zipfile_serialization=False)
    net = Net()
    load_weights(net, str(tmp_path / 'old'))
    assert torch.equal(net.head.weight, state['head.weight'])
    data = (tmp_path / 'old').read_bytes()
    (tmp_path / 'old').write_bytes(data[: len(data) // 2])
    assert 'is damaged' in refusal(tmp_path / 'old')


@pytest.mark.slow
def test_weights_that_know_no_length_of_clips_load_at_another(tmp_path):
    def net(seq_len, mode):
        config = STMN.Config(backbone='resnet18', temporal_mode=mode)
        return STMN(3, seq_len, config, pretrained=False)

    facts = {'seq_len': 4}
    for mode in ('average', 'mlp', 'memory'):
        path = str(tmp_path / mode)
        torch.save({'state_dict': net(4, mode).state_dict(), 'facts': facts}, path)
        if mode == 'average':
            load_weights(net(6, mode), path)
            continue
        with pytest.raises(InputError, match='video.seq_len 4, the config says 6'):
            load_weights(net(6, mode), path)
