"""Remove this machine's folders from pages, figures and models, which may be shared."""

import os
from typing import Any


def without_folders(value: Any) -> Any:
    """Replace every path outside the working folder by its last part, in plain values.

    >>> without_folders({'data': {'root': '/home/anna/reid-data', 'save_dir': 'log/stmn'}})
    {'data': {'root': '.../reid-data', 'save_dir': 'log/stmn'}}
    """
    if isinstance(value, dict):
        return {key: without_folders(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [without_folders(one) for one in value]
    if not isinstance(value, str):
        return value
    path = os.path.normpath(os.path.expanduser(value)) if value else value
    leads_out = os.path.isabs(path) or path.split(os.sep)[0] == os.pardir
    return f'.../{os.path.basename(path)}' if leads_out else value
