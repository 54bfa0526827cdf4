"""The ``synthetic`` dataset: made on first use, then read like MARS."""

import dataclasses
import os
from typing import Any

from .host_datasets import Mars
from .synthetic import PRESETS, ensure


class Synthetic(Mars):
    """Procedural multi-camera pedestrians (see ``stmn_plugin/datasets/synthetic``) in MARS layout.

    Args:
        root: data root; the data lies in ``<root>/synthetic/<fingerprint>/mars``.
        preset: one of PRESETS.
        seed: another seed, other people.
        **kwargs: the host's.

    Raises:
        InputError: the folder cannot be written.
    """

    def __init__(self, root: str = '', preset: str = 'default', seed: int = 0, **kwargs: Any):
        root = os.path.abspath(os.path.expanduser(root))
        spec = dataclasses.replace(PRESETS[preset], seed=seed)
        super().__init__(root=str(ensure(root, spec)), **kwargs)
