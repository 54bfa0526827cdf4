"""Names and files → variants: the rows of a table, each a change of the common config."""

import os
import re
from typing import NamedTuple

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
    '1_baseline': 'Baseline',
    '2_sm_no_spread': '+ SM (w/o L_S)',
    '3_sm': '+ SM',
    '4_tm_no_spread': '+ TM (w/o L_S)',
    '5_tm': '+ TM',
    '6_sm_tm_no_spread': '+ SM + TM (w/o L_S)',
    '7_sm_tm': '+ SM + TM',
    'mlp': '+ SM + MLP of N',
    'mlp_512': '+ SM + MLP of 512',
    'scale_1': '+ SM + TM, scale 1 (Eq. 1 to the letter)',
}


class Variant(NamedTuple):
    """One row of a table: what differs from the common config."""

    title: str
    name: str  # starts the names of its folders
    changes: dict  # key → value


def arch_variants(names):
    """Architectures of the factory, each once."""
    return [Variant(name, name, {'model.name': name}) for name in dict.fromkeys(names)]


def ablation_variants(folder):
    """The YAML files of a folder as deltas, in the order and with the names of Table 1.

    Whatever else the common config says, they are deltas to the full model.

    Raises:
        InputError: a file is missing.
    """
    variants = []
    for stem, title in TABLE_1.items():
        changes = read_yaml(os.path.join(folder, f'{stem}.yaml'))
        changes = {k: v for k, v in changes.items() if k not in (BASE, 'data.save_dir')}
        changes = {**FULL_MODEL, **changes}
        variants.append(Variant(title, f'ablation-{stem}', changes))
    return variants


def named_variants(file):
    """Rows of one's own: a YAML file of title → {key: value}, or of nested sections as a config.

    Raises:
        InputError: no such file, another content, an unknown key, an impossible value, or two
            titles that name one folder.
    """
    titles = {}  # name of its folders → title
    variants = []
    for title, changes in read_rows(file).items():
        name = re.sub(r'\W+', '-', title.lower()).strip('-')
        if not name or name in titles:
            other = f' and {titles[name]!r}' if name else ''
            raise InputError(f'{file}: {title!r}{other} cannot name folders of their own')
        titles[name] = title
        variants.append(Variant(printable(title), name, changes))
    return variants
