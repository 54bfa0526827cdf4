"""Weights → a file in the safetensors format, which every framework reads without running it.

Eight bytes with the length of a JSON header, the header, then the bytes of the tensors without
gaps; see https://github.com/huggingface/safetensors, "Format".
"""

import json
import math
from collections.abc import Mapping

import torch
from torch import Tensor

from stmn_plugin.errors import InputError
from stmn_plugin.whole_files import whole_file

ALIGNMENT = 8  # bytes, of the first tensor
DTYPES = {
    torch.float64: 'F64',
    torch.float32: 'F32',
    torch.float16: 'F16',
    torch.bfloat16: 'BF16',
    torch.int64: 'I64',
    torch.int32: 'I32',
    torch.int16: 'I16',
    torch.int8: 'I8',
    torch.uint8: 'U8',
    torch.bool: 'BOOL',
}


def write_safetensors(
    path: str, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None
) -> int:
    """Write tensors; the file appears when it is whole. Returns its size in bytes.

    Args:
        path: of the file.
        tensors: name → dense tensor of any shape.
        metadata: texts that the header holds beside the tensors.

    Raises:
        InputError: a tensor of a type that the format does not have, or ``path`` cannot be written.
    """
    header: dict[str, object] = {'__metadata__': {'format': 'pt', **(metadata or {})}}
    # wide types first: each tensor then begins at a multiple of its element's size
    names = sorted(tensors, key=lambda name: (-tensors[name].element_size(), name))
    end = 0
    for name in names:
        tensor = tensors[name]
        if tensor.dtype not in DTYPES:
            raise InputError(
                f'{path}: {name} is of {tensor.dtype}, which safetensors does not have'
            )
        start, end = end, end + math.prod(tensor.shape) * tensor.element_size()
        header[name] = {
            'dtype': DTYPES[tensor.dtype],
            'shape': list(tensor.shape),
            'data_offsets': [start, end],
        }
    text = json.dumps(header, separators=(',', ':')).encode()
    text += b' ' * (-len(text) % ALIGNMENT)
    with whole_file(path) as file:
        file.write(len(text).to_bytes(8, 'little'))
        file.write(text)
        for name in names:
            flat = tensors[name].detach().cpu().contiguous().reshape(-1)
            file.write(flat.view(torch.uint8).numpy().tobytes())
    return 8 + len(text) + end


def read_safetensors(path: str) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors by name and the texts beside them, of a regular file that begins like the format.

    Raises:
        InputError: damaged.
    """
    with open(path, 'rb') as file:
        size = int.from_bytes(file.read(8), 'little')
        text, content = file.read(size), bytearray(file.read())
    try:
        header = json.loads(text)
        metadata = header.pop('__metadata__', {})
        tensors = {name: _tensor(content, **entry) for name, entry in header.items()}
    # of a header that is no JSON, or JSON of something else
    except (ValueError, KeyError, TypeError, AttributeError, RuntimeError) as error:
        reason = ' '.join(str(error).split())[:200]
        raise InputError(f'{path} is damaged: no safetensors file ({reason})') from error
    return tensors, {str(key): str(value) for key, value in metadata.items()}


def _tensor(content: bytearray, dtype: str, shape: list[int], data_offsets: list[int]) -> Tensor:
    (kind,) = (kind for kind, name in DTYPES.items() if name == dtype)
    start, end = data_offsets
    if not 0 <= start <= end <= len(content):
        raise ValueError(f'it ends before byte {end} of its data')
    part = content[start:end]
    flat = torch.frombuffer(part, dtype=kind) if part else torch.empty(0, dtype=kind)
    return flat.reshape(shape)
