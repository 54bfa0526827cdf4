"""Weights → a file in the safetensors format and back, whole or not at all."""

from collections.abc import Mapping

import safetensors.torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from stmn_plugin.errors import InputError
from stmn_plugin.whole_files import whole_file


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
    # copies: the format has no strides, and no two names for one tensor
    rows = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    try:
        content = safetensors.torch.save(rows, {'format': 'pt', **(metadata or {})})
    except (KeyError, ValueError, SafetensorError) as error:
        raise InputError(f'{path}: safetensors cannot hold it: {error}') from error
    with whole_file(path) as file:
        file.write(content)
    return len(content)


def read_safetensors(path: str) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors by name and the texts beside them, of a regular file that begins like the format.

    Raises:
        InputError: damaged.
    """
    try:
        with safe_open(path, framework='pt') as file:
            metadata = dict(file.metadata() or {})
            return {name: file.get_tensor(name) for name in file.keys()}, metadata  # noqa: SIM118
    except SafetensorError as error:
        reason = ' '.join(str(error).split())[:200]
        raise InputError(f'{path} is damaged: no safetensors file ({reason})') from error
