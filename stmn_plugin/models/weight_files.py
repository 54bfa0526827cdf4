"""A file of weights, whoever wrote it → tensors by name, running nothing, or what it is instead."""

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
import torch
from torch import Tensor

from stmn_plugin.errors import InputError
from stmn_plugin.input_files import open_regular

from .safetensors_file import read_safetensors

ZIP = b'PK\x03\x04'  # how files of torch.save begin
OLD_TORCH = b'\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19'  # and what older ones hold near their beginning
# how files begin that are taken for weights → what they are
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
MAX_DEPTH = 4  # of dictionaries in dictionaries
# keys under which programs keep the weights, in the order in which they are looked for
CONTAINERS = (
    'state_dict', 'model_state_dict', 'model_state', 'model', 'net', 'network', 'weights', 'params',
    'module',
)  # fmt: skip


def read_weight_file(path: str, lazily: bool = False) -> Any:
    """What ``torch.save`` has written into a file, of tensors and plain values only.

    Args:
        path: of the file.
        lazily: leave the tensors on the disk where the format can, and unchecked: for a look at
            the values beside them.

    Raises:
        InputError: missing, damaged, or something else; says what.
    """
    if _is_safetensors(path):
        tensors, beside = read_safetensors(path)
        return {'state_dict': tensors, **_plain_values(beside)}
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
        # not in its words, which advise to run what the file contains
        found = re.search(r'GLOBAL ([\w.]+)', str(error))
        reason = (
            f'holds not only weights but {found[1]}, which would have to be run: save state_dict()'
            if found
            else f'is damaged: torch cannot read it ({type(error).__name__})'
        )
        raise InputError(f'{path} {reason}') from error


def _is_safetensors(path: str) -> bool:
    """Whether a file begins as that format does: the length of a JSON object, then the object."""
    start = b''
    with contextlib.suppress(OSError), open_regular(path) as file:  # what it is comes later
        start = file.read(9)
    return start[8:] == b'{' and int.from_bytes(start[:8], 'little') < 2**32


def _plain_values(texts: Mapping[str, str]) -> dict[str, Any]:
    """What the header of a file of ours holds as JSON, by name; other texts are left out."""
    values = {}
    for key, text in texts.items():
        with contextlib.suppress(ValueError):
            values[key] = json.loads(text)
    return values


def _kind(path: str) -> tuple[str, bool]:
    """What a file is that torch did not write, or ''; and whether it is a zip archive."""
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
    """InputError unless a zip archive is torch's and every byte is what was written.

    Torch itself does not look at the checksums.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            names = {name.rpartition('/')[2] for name in archive.namelist()}
            broken = archive.testzip() if sums else None
    except Exception as error:  # zipfile, too, raises many types on damaged bytes
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
    """The weights in what :func:`read_weight_file` gave, also where they lie under a known key.

    Raises:
        InputError: there are none, or something among them is no tensor with a name.
    """
    place = path
    for _ in range(MAX_DEPTH):
        if not isinstance(content, Mapping):
            break
        # a tensor called so is one of the weights
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
    """Names of the tensors that hold a NaN or an infinite number."""
    finite = {
        name: torch.isfinite(tensor).all()
        for name, tensor in tensors.items()
        if tensor.is_floating_point() or tensor.is_complex()
    }
    broken = []
    for device in {answer.device for answer in finite.values()}:  # a GPU is waited for once
        names = [name for name, answer in finite.items() if answer.device == device]
        answers = torch.stack([finite[name] for name in names]).tolist()
        broken += [name for name, answer in zip(names, answers, strict=True) if not answer]
    return broken
