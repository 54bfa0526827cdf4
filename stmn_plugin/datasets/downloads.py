"""What the host would fetch by itself → fetched if asked for and by https, or refused in one line.

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
        url: where it is.
        path: the file that it becomes.
        folder: of the dataset, not there or empty.
        allowed: ``data.download``.
        fetch: the host's function that does it, called with url, path and options.

    Raises:
        InputError: nobody has asked for it, or the link is not https; the folder is gone then, as
            the host takes an empty one for a dataset the next time.
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
    """``torch.utils.model_zoo.load_url`` that takes https only and runs no code of the file.

    Raises:
        InputError: the link is not https.
    """
    if not url.startswith('https://'):
        raise InputError(
            f'model.pretrained: torchreid would fetch weights over plain http ({url}): '
            'set model.pretrained False'
        )
    return torch.hub.load_state_dict_from_url(url, **{'weights_only': True, **options})
