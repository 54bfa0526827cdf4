"""Download files for the host only with permission and by https, otherwise raise an error.

The host downloads a dataset that it does not find, most of them over plain http, where anybody on
the way can replace them; some of its ImageNet weights, too, and torch runs code that such a file
holds unless it is told not to.
"""

import contextlib
import os
from collections.abc import Callable
from typing import Any

import torch

from stmn_plugin.errors import InputError


def fetch_dataset(
    url: str, path: str, folder: str, *, allowed: bool, fetch: Callable[..., Any], **options: Any
) -> Any:
    """Fetch the archive of a dataset.

    Args:
        url: link to the archive.
        path: file to write.
        folder: folder of the dataset, missing or empty.
        allowed: ``data.download``.
        fetch: the host's function that downloads, called with url, path and options.
        **options: further arguments of ``fetch``.

    Raises:
        InputError: downloads are not allowed, or the link is not https. The folder is removed then,
            because the host would mistake an empty one for a dataset.
    """
    reason = '' if url.startswith('https://') else 'only https is taken'
    if not allowed:
        reason = 'data.download True lets it' if not reason else 'fetch it by yourself'
    if reason:
        with contextlib.suppress(OSError):
            os.rmdir(folder)
        raise InputError(
            f'data.root: no dataset in {folder}; torchreid would fetch {url} ({reason})'
        )
    os.makedirs(os.path.dirname(path), exist_ok=True)
    return fetch(url, path, **options)


def fetch_weights(url: str, **options: Any) -> dict[str, Any]:
    """Load weights as ``torch.utils.model_zoo.load_url``, by https and without running their code.

    Raises:
        InputError: the link is not https.
    """
    if not url.startswith('https://'):
        raise InputError(
            f'model.pretrained: torchreid would fetch weights over plain http ({url}): '
            'set model.pretrained False'
        )
    return torch.hub.load_state_dict_from_url(url, **{'weights_only': True, **options})
