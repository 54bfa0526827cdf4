"""Tables for a console: what is shared stands above, nothing is wider than 100 columns."""

import pytest

from stmn_plugin.comparing.result_tables import Row, Score, as_text
from stmn_plugin.console_table import console_table

ROWS = [
    {'name': 'one two three', 'cells': 3, 'same': 'x', 'empty': None, 'score': 1.25, 'much': 'a b'},
    {'name': 'four', 'cells': 12, 'same': 'x', 'empty': '', 'score': None, 'much': 'c'},
]


def test_a_condition_is_a_line_above_only_if_all_rows_share_it():
    assert console_table(ROWS, ['same', 'name'], digits=2).splitlines() == [
        'same x',
        '',
        'name           cells  score  much',
        '-------------  -----  -----  ----',
        'one two three      3   1.25  a b',
        'four              12         c',
    ]
    assert console_table(ROWS).splitlines()[0] == 'name           cells  same  score  much'
    assert console_table([]) == ''


def test_what_is_too_wide_is_wrapped_then_left_out_by_name():
    long = [{'name of the row': 'a' * 9, 'text': 'word ' * 12, 'x': 1, 'y': 2}]
    assert console_table(long, width=40).splitlines() == [
        'name of    text                     x  y',
        'the row',
        '---------  -----------------------  -  -',
        'aaaaaaaaa  word word word word      1  2',
        *['           word word word word'] * 2,
    ]
    table = console_table(long, least=['y', 'x'], width=33)
    lines = table.splitlines()
    assert lines[-1] == 'In the files only: y, x.' and max(map(len, lines)) <= 33
    assert table.count('word') == 12  # a text is wrapped, not cut


@pytest.mark.parametrize('columns, widest', [('300', 100), ('80', 80), ('20', 80)])
def test_it_fits_the_terminal_and_100_columns(columns, widest, monkeypatch):
    monkeypatch.setenv('COLUMNS', columns)
    scores = {name: Score(61.25, 11.25) for name in ('rank-1', 'rank-5', 'rank-10', 'mAP', 'mINP')}
    costs = {'parameters': 30_080_084, 'gflops_per_clip': 2.07, 'feature_dim': 512, 'seq_len': 4}
    costs |= {'seconds_per_tracklet': 0.011, 'peak_memory': 1 << 30, 'training_seconds': 301.0}
    given = {'dataset': 'synthetic', 'protocol': 'official + re-ranking', 'distance': 'cosine'}
    rows = [
        Row(method, scores, frames=frames, seeds=(1, 2, 3), seeds_planned=3, **given, **costs)
        for method in ('STMN', 'Part-Aligned of the released code')
        for frames in ('rrs', 'all + flip')
    ]
    rows.append(Row('GLTR', {}, seeds=(3,), error='seed 3: killed by SIGKILL'))
    *lines, last = as_text(rows).splitlines()
    assert last == 'GLTR, seed 3: killed by SIGKILL'
    assert widest - 20 < max(map(len, lines)) <= widest
    text = ' '.join(' '.join(lines).split())
    assert text.count('61.2 ± 11.2') >= 8 and 'synthetic' in lines[0]  # rank-1, mAP
