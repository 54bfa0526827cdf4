"""Remove the folders of this machine from what pages and figures show: they are shared."""

import os
from typing import Any


def without_folders(value: Any) -> Any:
    """Plain values, in which a path that leads out of the working folder is its last part only.

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
