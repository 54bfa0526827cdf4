"""Rows of a table as data: a title, a name for folders and what differs from the common config."""

import os
import re
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from stmn_plugin.config import BASE, read_rows, read_yaml
from stmn_plugin.errors import InputError, printable

FULL_MODEL = {  # row 7
    'model.name': 'stmn',
    'stmn.spatial_mode': 'memory',
    'stmn.temporal_mode': 'memory',
    'stmn.similarity_scale': 'auto',
    'loss.name': 'stmn',
    'loss.spread.weight': 1.0,
}
TABLE_1 = {  # file of configs/ablation → name in the paper
    '1_baseline.yaml': 'Baseline',
    '2_sm_no_spread.yaml': '+ SM (w/o L_S)',
    '3_sm.yaml': '+ SM',
    '4_tm_no_spread.yaml': '+ TM (w/o L_S)',
    '5_tm.yaml': '+ TM',
    '6_sm_tm_no_spread.yaml': '+ SM + TM (w/o L_S)',
    '7_sm_tm.yaml': '+ SM + TM',
    'mlp.yaml': '+ SM + MLP of N',
    'mlp_512.yaml': '+ SM + MLP of 512',
    'scale_1.yaml': '+ SM + TM, scale 1 (Eq. 1 to the letter)',
}


class Variant(NamedTuple):
    """One row of a table."""

    title: str
    name: str  # starts the names of its run folders
    changes: dict[str, Any]  # full key → value


def arch_variants(names: Iterable[str]) -> list[Variant]:
    """Return architectures (``model.name``) as rows, each once."""
    return [Variant(name, name, {'model.name': name}) for name in dict.fromkeys(names)]


def config_variants(files: Mapping[str, str]) -> list[Variant]:
    """Return config files as rows: the keys of each file itself, without those of ``_BASE_``.

    Args:
        files: path → title.

    Raises:
        InputError: a file is missing or malformed.
    """
    variants = []
    for file, title in files.items():
        own = {k: v for k, v in read_yaml(file).items() if k not in (BASE, 'data.save_dir')}
        variants.append(Variant(title, os.path.splitext(os.path.basename(file))[0], own))
    return variants


def ablation_variants(folder: str) -> list[Variant]:
    """Return the rows of Table 1 and Sec. 4.2, each a change of the full model.

    Args:
        folder: of the YAML files.

    Raises:
        InputError: a file is missing or malformed.
    """
    files = {os.path.join(folder, file): title for file, title in TABLE_1.items()}
    return [
        Variant(title, f'ablation-{name}', {**FULL_MODEL, **changes})
        for title, name, changes in config_variants(files)
    ]


def named_variants(file: str) -> list[Variant]:
    """Read rows from a YAML file of title → {key: value}, or of nested sections as a config.

    Raises:
        InputError: no such file, another content, an unknown key, an impossible value, or two
            titles that name one folder.
    """
    titles: dict[str, str] = {}  # name of its folders → title
    variants = []
    for title, changes in read_rows(file).items():
        name = re.sub(r'\W+', '-', title.lower()).strip('-')
        if not name or name in titles:
            other = f' and {titles[name]!r}' if name else ''
            raise InputError(f'{file}: {title!r}{other} cannot name folders of their own')
        titles[name] = title
        variants.append(Variant(printable(title), name, changes))
    return variants
