"""Rank-1 and mAP that papers report, by dataset, to print with what is measured.

Numbers in percent. ``rrs`` and ``all`` are the two strategies of the STMN paper, Sec. 4.3; where a
source says neither, ``frames`` is empty. Every row names the page its numbers are from, and whether
they could not be checked against it; what these pages print is kept in
``tests/data/published_sources.md``.
"""

import re
from typing import TypeAlias

from .result_tables import Row, Score

DATASETS = ('mars', 'dukemtmcvidreid', 'lsvid')
TABLE_1 = 'STMN paper (ICCV 2021), Table 1'
TABLE_2 = 'STMN paper (ICCV 2021), Table 2'
RERUN = f'{TABLE_2}, in brackets: run by its authors'
PSTA = 'github.com/WangYQ9/VideoReID_PSTA, README, Result'  # Papers with Code: mAP 97.4 on DukeV
SINET = 'github.com/baist/SINet, README, column Paper'
TF_CLIP = 'TF-CLIP paper (AAAI 2024, arXiv:2312.09627), not checked against it'
CLIMB_REID = 'CLIMB-ReID paper (AAAI 2025, pages 9589-9597), not checked against it'
Pair: TypeAlias = tuple[float, float] | None  # rank-1, mAP
# method, frames, a pair for each of DATASETS, source
Entry: TypeAlias = tuple[str, str, Pair, Pair, Pair, str]
ABLATION: tuple[Entry, ...] = (
    ('Baseline', 'rrs', (87.3, 79.1), (95.0, 92.7), (71.6, 55.9), TABLE_1),
    ('+ SM (w/o L_S)', 'rrs', (88.7, 81.6), (95.4, 93.6), (78.8, 64.7), TABLE_1),
    ('+ SM', 'rrs', (89.3, 82.5), (96.2, 94.2), (79.6, 65.8), TABLE_1),
    ('+ TM (w/o L_S)', 'rrs', (88.5, 81.9), (95.2, 93.3), (77.8, 63.0), TABLE_1),
    ('+ TM', 'rrs', (89.5, 82.0), (95.4, 93.7), (78.9, 64.4), TABLE_1),
    ('+ SM + TM (w/o L_S)', 'rrs', (89.1, 81.9), (95.6, 93.9), (79.9, 65.4), TABLE_1),
    ('+ SM + TM', 'rrs', (89.9, 83.7), (96.7, 94.6), (80.6, 66.6), TABLE_1),
)
STATE_OF_THE_ART: tuple[Entry, ...] = (
    ('EUG', 'rrs', (62.7, 42.5), (72.8, 63.2), None, TABLE_2),
    ('SeeForest', 'rrs', (70.6, 50.7), None, None, TABLE_2),
    ('QAN', 'rrs', (73.7, 51.7), None, None, TABLE_2),
    ('DRSA', 'rrs', (82.3, 65.8), None, None, TABLE_2),
    ('CSA', 'rrs', (86.3, 76.1), None, None, TABLE_2),
    ('STE-NVAN', 'rrs', (88.9, 81.2), (95.2, 93.5), None, TABLE_2),
    ('STE-NVAN', 'rrs', None, None, (72.1, 56.6), RERUN),
    ('TCLNet', 'rrs', (88.5, 80.9), (95.0, 92.8), (75.0, 60.2), RERUN),
    ('MGH', 'rrs', (89.2, 83.4), (95.3, 93.4), (75.3, 58.9), RERUN),
    ('STMN', 'rrs', (89.9, 83.7), (96.7, 94.6), (80.6, 66.6), TABLE_2),
    ('COSAM', 'all', (83.7, 77.2), (94.4, 94.0), None, TABLE_2),
    ('STMP', 'all', (84.4, 72.7), None, (56.8, 39.1), TABLE_2),
    ('M3D', 'all', (84.4, 74.1), None, (57.7, 40.1), TABLE_2),
    ('Part-Aligned', 'all', (84.7, 75.9), None, None, TABLE_2),
    ('STA', 'all', (86.3, 80.8), (96.0, 95.0), None, TABLE_2),
    ('GLTR', 'all', (87.0, 78.5), (96.3, 93.7), (63.1, 44.3), TABLE_2),
    ('TCLNet', 'all', (89.1, 83.4), (96.7, 95.6), (81.0, 67.2), RERUN),
    ('MGH', 'all', (89.4, 85.3), (95.0, 94.6), (79.6, 61.8), RERUN),
    ('STMN', 'all', (90.5, 84.5), (97.0, 95.9), (82.1, 69.2), TABLE_2),
    ('PSTA', '', (91.5, 85.8), (98.3, 97.7), None, PSTA),
    ('SINet', '', (91.0, 86.2), None, (87.4, 79.6), SINET),
    ('TF-CLIP', '', (93.0, 89.4), None, (90.4, 83.8), TF_CLIP),
    ('CLIMB-ReID', '', (93.3, 89.7), None, (91.3, 85.0), CLIMB_REID),
)


def published_scores(method: str, dataset: str, frames: str) -> str:
    """'rank-1 / mAP' that Table 2 prints for a method under one strategy; '' for nothing.

    All frames are one strategy, however they are divided into clips. Several clips by RRS are
    neither of the two.

    >>> published_scores('STE-NVAN', 'lsvid', 'rrs')
    '72.1 / 56.6 *'
    >>> published_scores('STA', 'mars', 'all (floor) + flip')
    '86.3 / 80.8'

    Args:
        method: as the table names it.
        dataset: any; papers report on DATASETS.
        frames: as tables name them (:attr:`.result_tables.Row.frames`).
    """
    strategy = re.fullmatch(r'(rrs|all)( \(\w+\))?( \+ flip)?(, \w+)?', frames)
    if dataset not in DATASETS or not strategy:
        return ''
    number = DATASETS.index(dataset)
    for name, listed_under, *pairs, source in STATE_OF_THE_ART:
        pair = pairs[number]
        if (name, listed_under) == (method, strategy[1]) and pair:
            return f'{pair[0]} / {pair[1]}' + (' *' if source == RERUN else '')
    return ''


def published_rows(dataset: str, ablation: bool = False) -> list[Row]:
    """Return the rows of Table 2 and of later methods, or of Table 1.

    Args:
        dataset: one of DATASETS.
        ablation: the variants of STMN instead of other methods.

    Returns:
        Marked as published.
    """
    number, rows = DATASETS.index(dataset), []
    for method, frames, *pairs, source in ABLATION if ablation else STATE_OF_THE_ART:
        if pair := pairs[number]:
            scores = dict(
                zip(('rank-1', 'mAP'), (Score(value, None) for value in pair), strict=True)
            )
            source = f'published: {source}'
            rows.append(Row(method, scores, dataset=dataset, frames=frames, source=source))
    return rows
