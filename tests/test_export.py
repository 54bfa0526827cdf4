"""Weights of a checkpoint as a safetensors file: read back by the format's own description."""

import json
import math
import re

import numpy as np
import pytest
import torch

from stmn_plugin import __version__
from stmn_plugin.cli import export
from stmn_plugin.errors import InputError
from stmn_plugin.models.weight_files import write_safetensors
from stmn_plugin.training.checkpoint import load_checkpoint, save_checkpoint

NUMPY = {'F64': '<f8', 'F32': '<f4', 'F16': '<f2', 'BF16': '<u2', 'I64': '<i8', 'I32': '<i4'}
NUMPY |= {'I16': '<i2', 'I8': 'i1', 'U8': 'u1', 'BOOL': '?'}


def read_safetensors(path):
    """Metadata, and name → (dtype, array); every byte belongs to one tensor."""
    data = path.read_bytes()
    length = int.from_bytes(data[:8], 'little')
    header = json.loads(data[8 : 8 + length])
    body = data[8 + length :]
    metadata = header.pop('__metadata__')
    found, spans = {}, []
    for name, entry in header.items():
        start, end = entry['data_offsets']
        spans.append((start, end))
        array = np.frombuffer(body[start:end], NUMPY[entry['dtype']]).reshape(entry['shape'])
        assert (8 + length + start) % array.itemsize == 0
        found[name] = entry['dtype'], array
    ends = [0, *(end for _, end in sorted(spans))]
    assert [start for start, _ in sorted(spans)] == ends[:-1] and ends[-1] == len(body)
    return metadata, found


@pytest.fixture
def checkpoint(tmp_path):
    """A checkpoint of a training with Adam."""
    model = torch.nn.Sequential(torch.nn.Conv2d(64, 256, 3), torch.nn.BatchNorm2d(256))
    model = model.to(memory_format=torch.channels_last)
    optimizer = torch.optim.Adam(model.parameters())
    model(torch.randn(2, 64, 4, 4)).square().sum().backward()
    optimizer.step()
    state = {
        'state_dict': model.state_dict(),
        'epoch': 3,
        'rank1': 0.5,
        'optimizer': optimizer.state_dict(),
        'facts': {'parameters': 148_480},
        'config': {'model.name': 'stmn', 'data.height': 64},
    }
    return save_checkpoint(state, str(tmp_path / 'model'), 3)


def test_a_third_of_a_checkpoint_holds_its_weights(checkpoint, tmp_path, capsys):
    path = tmp_path / 'weights.safetensors'
    export.main(['--weights', str(path), checkpoint])
    size, before = path.stat().st_size, (tmp_path / 'model' / 'model.pth.tar-3').stat().st_size
    assert 0.32 < size / before < 0.35
    own, whole = (
        f'{n / 1e3:.0f} kB' if n < 999_500 else f'{n / 1e6:.1f} MB' for n in (size, before)
    )
    said = f'Wrote {path}, {own}, {size / before:.0%} of {checkpoint} ({whole})'
    assert capsys.readouterr().out == f'{said}\n'
    metadata, found = read_safetensors(path)
    weights = load_checkpoint(checkpoint)['state_dict']
    assert found.keys() == weights.keys()
    for name, (_, array) in found.items():
        assert torch.equal(torch.from_numpy(array.copy()), weights[name]), name
    assert metadata['format'] == 'pt' and metadata['stmn_plugin'] == __version__
    assert json.loads(metadata['config']) == {'model.name': 'stmn', 'data.height': 64}
    assert json.loads(metadata['epoch']) == 3


def test_every_type_and_shape(tmp_path):
    values = torch.tensor([[1.5, 0.0, -2.0], [3.0, 4.0, 5.0]])
    types = (torch.float64, torch.float32, torch.float16, torch.int64, torch.int32, torch.int16)
    tensors = {str(kind): values.to(kind) for kind in (*types, torch.int8, torch.bool)}
    tensors |= {'u8': values.abs().to(torch.uint8), 'turned': values.T, 'number': torch.tensor(7)}
    tensors |= {'half': values.bfloat16(), 'none': torch.zeros(0, 3)}
    path = tmp_path / 'all.safetensors'
    assert write_safetensors(str(path), tensors) == path.stat().st_size
    metadata, found = read_safetensors(path)
    assert metadata == {'format': 'pt'} and found.keys() == tensors.keys()
    dtype, half = found.pop('half')
    assert dtype == 'BF16'  # the upper half of a float32
    assert np.array_equal((half.astype(np.uint32) << 16).view(np.float32), values.numpy())
    for name, (_, array) in found.items():
        assert array.shape == tuple(tensors[name].shape)
        assert np.array_equal(array, tensors[name].numpy()), name
    assert sum(math.prod(t.shape) for t in tensors.values()) == 6 * 11 + 1
    with pytest.raises(InputError, match='all.safetensors: .*complex128'):
        write_safetensors(str(path), {'x': torch.zeros(1, dtype=torch.complex128)})


def test_what_cannot_be_exported_is_one_line(checkpoint, tmp_path, capsys):
    out = str(tmp_path / 'out.safetensors')
    cases = [
        ([checkpoint, out], 'does not end with .safetensors'),  # the wrong way round
        ([out, out], f'no file {re.escape(out)}'),
        ([str(tmp_path / 'no' / 'out.safetensors'), checkpoint], 'No such file'),
    ]
    before = load_checkpoint(checkpoint)['epoch']
    for words, said in cases:
        with pytest.raises(SystemExit) as ended:
            export.main(['--weights', *words])
        error = capsys.readouterr().err
        assert ended.value.code == 2 and re.search(said, error) and error.count('\n') == 1, error
    assert load_checkpoint(checkpoint)['epoch'] == before
    assert [path.name for path in tmp_path.iterdir()] == ['model']
    with pytest.raises(SystemExit):
        export.main(['--weights', out])
    assert 'expected 2 arguments' in capsys.readouterr().err
