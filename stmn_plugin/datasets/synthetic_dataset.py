"""The ``synthetic`` dataset, generated on first use and read like MARS."""

import os
from typing import Any

from .host_datasets import Mars
from .synthetic import ensure_preset


class SyntheticDataset(Mars):
    """Procedural multi-camera pedestrians (see ``stmn_plugin/datasets/synthetic``) in MARS layout.

    Args:
        root: data root; the data lies in ``<root>/synthetic/<fingerprint>/mars``.
        preset: one of PRESETS.
        seed: another seed, other people and other scenes.
        paint_out: with the known distractors in one colour, see ``synthetic/painted.py``; the data
            then lies in ``<root>/synthetic/<fingerprint>-painted/mars``.
        **kwargs: the host's.

    Raises:
        InputError: the folder cannot be written.
    """

    def __init__(
        self,
        root: str = '',
        preset: str = 'default',
        seed: int = 0,
        paint_out: bool = False,
        **kwargs: Any,
    ):
        root = os.path.abspath(os.path.expanduser(root))
        made = ensure_preset(root, preset, seed, paint_out)
        super().__init__(root=str(made), **kwargs)
