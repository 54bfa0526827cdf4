"""Published numbers against the tables as their papers print them, typed in a second time."""

import compare

from stmn_plugin.analysis.published import DATASETS, published_rows
from stmn_plugin.analysis.variants import ablation_variants

# method; rank-1 and mAP on MARS, DukeMTMC-VideoReID, LS-VID; brackets: run by the authors of STMN
TABLES = {
    ('Table 1', 'rrs'): """
        Baseline               87.3 79.1  95.0 92.7  71.6 55.9
        + SM (w/o L_S)         88.7 81.6  95.4 93.6  78.8 64.7
        + SM                   89.3 82.5  96.2 94.2  79.6 65.8
        + TM (w/o L_S)         88.5 81.9  95.2 93.3  77.8 63.0
        + TM                   89.5 82.0  95.4 93.7  78.9 64.4
        + SM + TM (w/o L_S)    89.1 81.9  95.6 93.9  79.9 65.4
        + SM + TM              89.9 83.7  96.7 94.6  80.6 66.6""",
    ('Table 2', 'rrs'): """
        EUG           62.7 42.5      72.8 63.2      - -
        SeeForest     70.6 50.7      - -            - -
        QAN           73.7 51.7      - -            - -
        DRSA          82.3 65.8      - -            - -
        CSA           86.3 76.1      - -            - -
        STE-NVAN      88.9 81.2      95.2 93.5      (72.1) (56.6)
        TCLNet        (88.5) (80.9)  (95.0) (92.8)  (75.0) (60.2)
        MGH           (89.2) (83.4)  (95.3) (93.4)  (75.3) (58.9)
        STMN          89.9 83.7      96.7 94.6      80.6 66.6""",
    ('Table 2', 'all'): """
        COSAM         83.7 77.2      94.4 94.0      - -
        STMP          84.4 72.7      - -            56.8 39.1
        M3D           84.4 74.1      - -            57.7 40.1
        Part-Aligned  84.7 75.9      - -            - -
        STA           86.3 80.8      96.0 95.0      - -
        GLTR          87.0 78.5      96.3 93.7      63.1 44.3
        TCLNet        (89.1) (83.4)  (96.7) (95.6)  (81.0) (67.2)
        MGH           (89.4) (85.3)  (95.0) (94.6)  (79.6) (61.8)
        STMN          90.5 84.5      97.0 95.9      82.1 69.2""",
    ('its authors', ''): """
        PSTA          91.5 85.8      98.3 97.7      - -
        SINet         91.0 86.2      - -            87.4 79.6
        TF-CLIP       93.0 89.4      - -            90.4 83.8
        CLIMB-ReID    93.3 89.7      - -            91.3 85.0""",
}


def printed(dataset, tables):
    """(table, method, frames, numbers, run by the authors of STMN) of a dataset's two columns."""
    rows = set()
    for (table, frames), text in tables.items():
        for line in text.strip().splitlines():
            *method, a, b, c, d, e, f = line.split()
            pair = dict(zip(DATASETS, ((a, b), (c, d), (e, f)), strict=True))[dataset]
            if pair != ('-', '-'):
                numbers = tuple(float(number.strip('()')) for number in pair)
                rows.add((table, ' '.join(method), frames, numbers, pair[0].startswith('(')))
    return rows


def given(dataset, ablation):
    rows = set()
    for row in published_rows(dataset, ablation):
        source = row.source.removeprefix('published: ')
        table = source.removeprefix('STMN paper, ').split(',')[0]
        numbers = row.scores['rank-1'].mean, row.scores['mAP'].mean
        assert list(row.scores) == ['rank-1', 'mAP'] and row.source != source
        rows.add((table, row.method, row.frames, numbers, source.endswith('run by its authors')))
    return rows


def test_published_numbers_are_those_of_the_papers():
    for dataset in DATASETS:
        for ablation in (True, False):
            tables = {k: text for k, text in TABLES.items() if (k[0] == 'Table 1') is ablation}
            assert given(dataset, ablation) == printed(dataset, tables)
    assert len(printed('mars', TABLES)) == 7 + 9 + 9 + 4


def test_the_rows_of_table_1_are_our_variants():
    titles = [variant.title for variant in ablation_variants(compare.ABLATION)]
    assert [row.method for row in published_rows('mars', ablation=True)] == titles[:7]
