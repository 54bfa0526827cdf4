"""Published numbers against the text of the pages that they name as their source."""

import re
from pathlib import Path

import pytest

from stmn_plugin.cli import compare
from stmn_plugin.comparing.published import DATASETS, RERUN, TABLE_1, TABLE_2, published_rows
from stmn_plugin.comparing.variants import ablation_variants

QUOTED = Path(__file__).parent / 'data' / 'published_sources.md'
NAMES = {'MARS': 'mars', 'LS-VID': 'lsvid'}


def sections():
    """Name of a source → its lines."""
    _, *parts = re.split(r'^## ', QUOTED.read_text(encoding='utf-8'), flags=re.MULTILINE)
    return {part.splitlines()[0]: part.splitlines()[1:] for part in parts}


def read_paper_table(lines, source):
    """Entries of a table of the STMN paper: tabs or blanks between cells, a dash for no number."""
    entries, frames = set(), 'rrs'
    for line in lines:
        line = re.sub(r'</?[a-z]>|\[\d+\]|^(RRS|All frames)\t|^[①-⑦] ', '', line)
        words = line.replace(r'$\mathcal{L}_S$ ', 'L_S').split()
        numbers = [word for word in words if re.fullmatch(r'-|\(?\d+\.\d\)?', word)]
        if not numbers:
            continue
        method = ' '.join(words[: -len(numbers)])
        numbers += ['-'] * (6 - len(numbers))  # one dash may stand for both of LS-VID
        if method == 'COSAM':  # the first below the line between the two strategies
            frames = 'all'
        for dataset, rank1, mean_ap in zip(DATASETS, numbers[::2], numbers[1::2], strict=True):
            if rank1 != '-':
                bracketed = (rank1[0] == '(', mean_ap[0] == '(')
                assert bracketed in ((True, True), (False, False))
                pair = tuple(float(cell.strip('()')) for cell in (rank1, mean_ap))
                where = RERUN if bracketed[0] else source
                entries.add((method, dataset, frames, *pair, where))
    return entries


def read_psta(lines, source):
    rows = [line.strip('|').split('|') for line in lines if line.startswith('|')]
    rank1, mean_ap = (next(row for row in rows if row[0] == name) for name in ('Rank-1', 'mAP'))
    assert [cell.strip() for cell in rows[0]] == ['Dataset', 'Mars', 'Duke-VID']
    pairs = zip(rank1[1:], mean_ap[1:], strict=True)
    return {
        ('PSTA', dataset, '', float(a), float(b), source)
        for dataset, (a, b) in zip(('mars', 'dukemtmcvidreid'), pairs, strict=True)
    }


def read_sinet(lines, source):
    entries, dataset = set(), None
    for line in lines:
        if line.startswith('#### '):
            dataset = NAMES[line[5:]]
        elif line.startswith('| **SINet**'):
            mean_ap, rank1 = line.split('|')[2].split('/')
            entries.add(('SINet', dataset, '', float(rank1), float(mean_ap), source))
    return entries


def read_noted(lines, source):
    words = [line.split() for line in lines if line.split()[:1] and line.split()[0] in NAMES]
    method = source.split()[0]
    return {(method, NAMES[d], '', float(rank1), float(ap), source) for d, ap, rank1 in words}


READERS = {TABLE_1: read_paper_table, TABLE_2: read_paper_table}
READERS.update({'github.com/WangYQ9': read_psta, 'github.com/baist': read_sinet})


def printed():
    """Every (method, dataset, frames, rank-1, mAP, source) of the quoted pages."""
    entries = set()
    for source, lines in sections().items():
        names = [reader for start, reader in READERS.items() if source.startswith(start)]
        entries |= (names or [read_noted])[0](lines, source)
    return entries


def given():
    entries = set()
    for dataset in DATASETS:
        for row in [*published_rows(dataset), *published_rows(dataset, ablation=True)]:
            assert list(row.scores) == ['rank-1', 'mAP'] and row.source.startswith('published: ')
            numbers = row.scores['rank-1'].mean, row.scores['mAP'].mean
            source = row.source.removeprefix('published: ')
            entries.add((row.method, dataset, row.frames, *numbers, source))
    return entries


def test_published_numbers_are_those_of_their_sources():
    assert given() == printed()
    assert len(given()) == 21 + 39 + 8


def test_the_quoted_tables_are_those_of_the_paper():
    """Where the text of the paper is in a folder next to the checkout."""
    papers = sorted(Path(__file__).parents[2].glob('*/PAPER.md'))
    texts = [path.read_text(encoding='utf-8') for path in papers]
    texts = [text for text in texts if 'Spatial and Temporal Memory Networks' in text]
    if not texts:
        pytest.skip('the text of the paper is not here')
    for source in (TABLE_1, TABLE_2):
        lines = [line for line in sections()[source] if '\t' in line]
        assert len(lines) >= 9 and all(line in texts[0].splitlines() for line in lines)


def test_the_rows_of_table_1_are_our_variants():
    titles = [variant.title for variant in ablation_variants(compare.ABLATION)]
    assert [row.method for row in published_rows('mars', ablation=True)] == titles[:7]
