"""Read files of weights of any program without executing their content; write safetensors files."""

import codecs
import contextlib
import json
import os
import re
import warnings
import zipfile
from collections.abc import Mapping
from typing import Any

import numpy as np
import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from stmn_plugin.errors import InputError
from stmn_plugin.input_files import open_regular
from stmn_plugin.whole_files import whole_file

ZIP = b'PK\x03\x04'  # the first bytes of files of torch.save
OLD_TORCH = b'\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19'  # bytes near the start of older ones
# first bytes of files that users mistake for weights → what the files are
KINDS = {
    b'version https://git-lfs': 'a git-lfs pointer, "git lfs pull" fetches the file itself',
    b'/annex/objects/': 'a git-annex pointer, "git annex get" fetches the file itself',
    b'\x89HDF\r\n\x1a\n': 'an HDF5 file',
    b'\x93NUMPY': 'a NumPy array',
    b'\x1f\x8b': 'a gzip archive, unpack it first',
    b'BZh': 'a bzip2 archive, unpack it first',
    b'\xfd7zXZ\x00': 'an xz archive, unpack it first',
    b'7z\xbc\xaf\x27\x1c': 'a 7z archive, unpack it first',
    b'Rar!': 'a rar archive, unpack it first',
    b'\x28\xb5\x2f\xfd': 'a zstd archive, unpack it first',
}
MAX_DEPTH = 4  # of nested dictionaries
# keys under which programs store the weights, in order of preference
CONTAINERS = (
    'state_dict', 'model_state_dict', 'model_state', 'model', 'net', 'network', 'weights', 'params',
    'module',
)  # fmt: skip


def read_weight_file(path: str, lazily: bool = False) -> Any:
    """Read the content of a file of weights that holds only tensors and plain values.

    Args:
        path: path of the file.
        lazily: map the tensors from the disk if the format allows it, without checking their
            bytes; for callers that need only the other values.

    Raises:
        InputError: the file is missing, damaged, or of another kind, which the message names.
    """
    if _is_safetensors(path):
        tensors, metadata = read_safetensors(path)
        return {'state_dict': tensors, **_plain_values(metadata)}
    kind, is_zip = _kind(path)
    if kind:
        raise InputError(f'{path} holds no weights: it is {kind}')
    if is_zip:
        _check_archive(path, sums=not lazily)
    allow_numpy_scalars()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')  # torch's advice on formats
            return torch.load(path, map_location='cpu', weights_only=True, mmap=lazily and is_zip)
    except Exception as error:  # torch raises many types on a damaged or unsafe file
        # its message is replaced, because it advises to execute the file's content
        found = re.search(r'GLOBAL ([\w.]+)', str(error))
        reason = (
            f'holds not only weights but {found[1]}, which would have to be run: save state_dict()'
            if found
            else f'is damaged: torch cannot read it ({type(error).__name__})'
        )
        raise InputError(f'{path} {reason}') from error


def _is_safetensors(path: str) -> bool:
    """Return whether a file begins as the format does: the length of a JSON object, the object."""
    start = b''
    with contextlib.suppress(OSError), open_regular(path) as file:  # reported by _kind
        start = file.read(9)
    return start[8:] == b'{' and int.from_bytes(start[:8], 'little') < 2**32


def _plain_values(texts: Mapping[str, str]) -> dict[str, Any]:
    """Parse the JSON values in the header of a file of ours, by name; omit other texts."""
    values = {}
    for key, text in texts.items():
        with contextlib.suppress(ValueError):
            values[key] = json.loads(text)
    return values


def _kind(path: str) -> tuple[str, bool]:
    """Return the kind of a file not written by torch, or '', and whether it is a zip archive."""
    try:
        if os.path.isdir(path):
            return 'a folder', False
        with open_regular(path) as file:
            start = file.read(512)
    except FileNotFoundError as error:
        raise InputError(f'no file {path}') from error
    except OSError as error:
        raise InputError(f'cannot read {path}: {error.strerror}') from error
    if start.startswith(ZIP):
        return '', True
    if OLD_TORCH in start[:32]:
        return '', False
    if not start:
        return 'empty', False
    text = start.removeprefix(b'\xef\xbb\xbf').lstrip()
    if text.startswith(b'<'):
        return 'a web page (HTML or XML), the download went wrong', False
    known = [what for beginning, what in KINDS.items() if text.startswith(beginning)]
    if known:
        return known[0], False
    if start[257:262] == b'ustar':
        return 'a tar archive, unpack it first', False
    if start[:1] == b'\x80':
        return 'a pickle that torch.save did not write', False
    is_text = all(byte >= 32 or byte in b'\t\n\r\f' for byte in start)
    return 'a text file' if is_text else 'damaged, or of a format unknown here', False


def _check_archive(path: str, sums: bool) -> None:
    """Raise InputError unless a zip archive is torch's and, with ``sums``, its checksums match.

    torch itself does not verify the checksums.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            names = {name.rpartition('/')[2] for name in archive.namelist()}
            broken = archive.testzip() if sums else None
    except Exception as error:  # zipfile also raises many types on damaged bytes
        reason = ' '.join(str(error).split()) or type(error).__name__
        raise InputError(f'{path} is damaged: {reason}') from error
    if 'data.pkl' not in names:
        raise InputError(f'{path} holds no weights: it is a zip archive without a data.pkl')
    if 'constants.pkl' in names:
        raise InputError(f'{path} holds no weights: it is a TorchScript program')
    if broken:
        raise InputError(f'{path} is damaged: wrong checksum of {broken}')


def allow_numpy_scalars() -> None:
    """Let torch's safe loader read the one numpy scalar, ``rank1``, of the host's checkpoints."""
    core: Any = np._core if int(np.__version__.split('.')[0]) >= 2 else np.core  # type: ignore[attr-defined]
    dtypes = [type(np.dtype(kind)) for kind in (np.float32, np.float64)]
    torch.serialization.add_safe_globals(
        [core.multiarray.scalar, np.dtype, *dtypes, codecs.encode]  # the last by numpy 1 only
    )


def named_tensors(content: Any, path: str) -> dict[str, Tensor]:
    """Return the weights in the content of a file, also if they are nested under a known key.

    Args:
        content: content of :func:`read_weight_file`.
        path: path of the file, for errors.

    Raises:
        InputError: the content has no weights, or something else than named tensors among them.
    """
    place = path
    for _ in range(MAX_DEPTH):
        if not isinstance(content, Mapping):
            break
        # a tensor with such a name is a weight itself
        keys = [k for k in CONTAINERS if k in content and not isinstance(content[k], Tensor)]
        if not keys:
            break
        key = next((k for k in keys if isinstance(content[k], Mapping)), keys[0])
        content, place = content[key], f'{key} of {place}'
    if not isinstance(content, Mapping):
        raise InputError(f'{place} is a {type(content).__name__}, no dictionary of named tensors')
    for key, value in content.items():
        if not isinstance(key, str) or not isinstance(value, Tensor):
            odd = value if isinstance(key, str) else key
            raise InputError(
                f'{place} is no dictionary of named tensors: {str(key)[:80]!r} is of type '
                f'{type(odd).__name__}'
            )
    return dict(content)


def not_finite(tensors: Mapping[str, Tensor]) -> list[str]:
    """Return the names of the tensors that hold a NaN or an infinite number."""
    finite = {
        name: torch.isfinite(tensor).all()
        for name, tensor in tensors.items()
        if tensor.is_floating_point() or tensor.is_complex()
    }
    broken = []
    for device in {answer.device for answer in finite.values()}:  # one synchronisation per GPU
        names = [name for name, answer in finite.items() if answer.device == device]
        answers = torch.stack([finite[name] for name in names]).tolist()
        broken += [name for name, answer in zip(names, answers, strict=True) if not answer]
    return broken


def write_safetensors(
    path: str, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None
) -> int:
    """Write tensors to a safetensors file, complete or not at all, and return its size in bytes.

    Args:
        path: path of the file.
        tensors: name → dense tensor of any shape.
        metadata: texts for the header.

    Raises:
        InputError: a tensor of a type that the format lacks, or ``path`` cannot be written.
    """
    # copies, because the format has no strides and no shared tensors
    rows = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    try:
        content = safetensors.torch.save(rows, {'format': 'pt', **(metadata or {})})
    except (KeyError, ValueError, SafetensorError) as error:
        raise InputError(f'{path}: safetensors cannot hold it: {error}') from error
    with whole_file(path) as file:
        file.write(content)
    return len(content)


def read_safetensors(path: str) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read the tensors by name and the texts of the header of a safetensors file.

    Args:
        path: a regular file that begins as the format does.

    Raises:
        InputError: the file is damaged.
    """
    try:
        with safe_open(path, framework='pt') as file:
            metadata = dict(file.metadata() or {})
            return {name: file.get_tensor(name) for name in file.keys()}, metadata  # noqa: SIM118
    except SafetensorError as error:
        reason = ' '.join(str(error).split())[:200]
        raise InputError(f'{path} is damaged: no safetensors file ({reason})') from error
