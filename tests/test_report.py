"""The page as a file: curves in their places, pictures whole, nothing that could run or call."""

import base64
import hashlib
import json
import os
import re
import sys
import urllib.parse
from html.parser import HTMLParser

import pytest

from stmn_plugin.cli import report
from stmn_plugin.errors import InputError
from stmn_plugin.looking.report import Browser, Overview, html_file, write_report
from stmn_plugin.looking.report.film_strips import StripSize
from stmn_plugin.looking.report.page import HEIGHT, draw_panel, training_panels, values_by_epoch

EVIL = '</script><img src=x onerror=alert(1)>"\'&'
SIZE = StripSize(96, 48)
STRIPS = [b'first picture', b'second picture', b'first picture']  # the page does not look into them


class Page(HTMLParser):
    """Tags with their attributes, and the text within each script and style."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.texts, self._open = [], [], None
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self._open = tag if tag in ('script', 'style') else None

    def handle_data(self, data):
        if self._open:
            self.texts.append((self._open, dict(self.tags[-1][1]), data))

    def handle_endtag(self, tag):
        self._open = None

    def json(self, name):
        (text,) = [text for _, attributes, text in self.texts if attributes.get('id') == name]
        return json.loads(text)


def evaluation(**values):
    shown = {
        'epoch': 3,
        'dataset': 'mars',
        'protocol': 'official',
        'reranked': False,
        'frames': 'rrs',
        'flip': False,
        'dist_metric': 'cosine',
        'normalize_feature': False,
        'num_query': 2,
        'num_query_with_match': 1,
        'num_gallery': 1,
        'rank-1': 0.5,
        'mAP': 0.25,
        'mINP': 0.125,
    }
    return {**shown, **values}


def contents(name='mars'):
    overview = Overview(
        name, {'arch': name}, [evaluation(dataset=name, epoch=None)], [], f'key: {name}'
    )
    tracklet = {
        'pid': 1,
        'camid': 0,
        'length': 9,
        'frames': [1, 9],
        'path': name,
        'attention': None,
    }
    query = {'row': 0, 'tracklet': 0, 'ap': None, 'firstRank': 0, 'found': [], 'first': None}
    data = {
        'folder': name,
        'datasets': [{'name': name, 'numQueries': 1, 'queries': [query]}],
        'tracklets': [tracklet] * len(STRIPS),
        'memory': None,
    }
    return overview, Browser(data, [evaluation(dataset=name)], [])


def write(path, name='mars', strips=STRIPS, **options):
    return write_report(str(path), *contents(name), strips, SIZE, **options)


def read_pictures(folder, pictures):
    return [(folder / (pictures['start'] + end)).read_bytes() for end in pictures['ends']]


def test_pictures_are_in_the_page_or_in_a_folder_next_to_it(tmp_path):
    path = tmp_path / 'r.html'
    assert write(path).folder == ''
    assert os.listdir(tmp_path) == ['r.html']
    pictures = Page(path.read_text()).json('pictures')
    assert pictures['start'] == 'data:image/webp;base64,'
    assert [base64.b64decode(x) for x in pictures['ends']] == STRIPS

    written = write(path, embed=False)
    assert written.size == path.stat().st_size
    pictures = Page(path.read_text()).json('pictures')
    assert read_pictures(tmp_path, pictures) == STRIPS
    assert written.folder == str(tmp_path / 'r_files')
    assert len(os.listdir(tmp_path / 'r_files')) == 2  # equal ones once


@pytest.mark.skipif(sys.platform != 'linux', reason='no such names here')
@pytest.mark.parametrize('embed', [True, False])
def test_a_folder_whose_name_is_no_utf8_has_a_page(embed, tmp_path):
    name = os.fsdecode(b's\xff')
    written = write(tmp_path / f'{name}.html', name, embed=embed)
    text = (tmp_path / f'{name}.html').read_text()
    assert written.size == os.path.getsize(written.path) and 's\\udcff' in text
    if not embed:
        pictures = Page(text).json('pictures')
        folder = os.fsencode(tmp_path) + b'/' + urllib.parse.unquote_to_bytes(pictures['start'])
        assert sorted(os.listdir(folder)) == sorted({end.encode() for end in pictures['ends']})


def test_an_old_picture_that_cannot_be_removed_is_left(tmp_path, monkeypatch):
    write(tmp_path / 'r.html', embed=False)

    def refuse(path):
        raise PermissionError(13, 'Permission denied', path)

    monkeypatch.setattr(os, 'unlink', refuse)
    assert write(tmp_path / 'r.html', embed=True).folder == ''


def test_many_pictures_go_into_the_folder_unless_told_otherwise(tmp_path, monkeypatch):
    monkeypatch.setattr(html_file, 'EMBED_LIMIT', sum(map(len, STRIPS)) * 4 / 3)
    assert write(tmp_path / 'r.html').folder
    assert not write(tmp_path / 'r.html', strips=STRIPS[:2]).folder
    assert not write(tmp_path / 'r.html', embed=True).folder


def test_a_new_page_takes_the_pictures_of_the_old_one_away_and_nothing_else(tmp_path):
    path, folder = tmp_path / 'r.html', tmp_path / 'r_files'
    write(path, embed=False)
    old = set(os.listdir(folder))
    mine = ['0123456789abcdef0123.webp', 'mine.webp']  # a name as ours has them
    for name in mine:
        (folder / name).write_bytes(b'not ours')
    write(path, strips=[b'third', STRIPS[1], b'third'], embed=False)
    now = set(os.listdir(folder))
    assert len(now) == 4 and set(mine) < now and len(now & old) == 1
    write(path, embed=True)
    assert sorted(os.listdir(folder)) == mine


def test_a_damaged_picture_of_an_older_page_is_written_again(tmp_path):
    path, folder = tmp_path / 'r.html', tmp_path / 'r_files'
    write(path, embed=False)
    for name in os.listdir(folder):
        (folder / name).write_bytes(b'half')
    write(path, embed=False)
    assert read_pictures(tmp_path, Page(path.read_text()).json('pictures')) == STRIPS


def test_a_page_that_fails_leaves_the_old_one_whole(tmp_path, monkeypatch):
    path = tmp_path / 'r.html'
    write(path, embed=False)
    before = path.read_text()

    def full(*_, **__):
        raise OSError(28, 'No space left on device')

    monkeypatch.setattr('os.fsync', full)
    with pytest.raises(InputError, match='No space left'):
        write(path, strips=[b'a', b'b', b'c'], embed=False)
    assert path.read_text() == before
    pictures = Page(before).json('pictures')
    assert read_pictures(tmp_path, pictures) == STRIPS
    assert not [name for name in os.listdir(tmp_path) if '.tmp-' in name]


@pytest.mark.parametrize('embed', [True, False])
def test_names_from_outside_stay_text_and_nothing_points_elsewhere(embed, tmp_path):
    path = tmp_path / 'r.html'
    write(path, EVIL, embed=embed)
    text = path.read_text()
    page, plain = Page(text), Page((write(path, 'mars', embed=embed), path.read_text())[1])
    assert [tag for tag, _ in page.tags] == [tag for tag, _ in plain.tags]  # no tag more
    assert page.json('data')['tracklets'][0]['path'] == EVIL
    for tag, attributes in page.tags:
        assert not [name for name in attributes if name.startswith('on') or name == 'style']
        for name in ('src', 'href', 'action', 'srcset'):
            assert attributes.get(name, '#').startswith(('#', 'data:')), (tag, attributes)
    assert not re.search(r'https?:|@import|url\(', text)


def test_the_policy_lets_this_script_and_style_run_and_nothing_load(tmp_path):
    path = tmp_path / 'r.html'
    write(path)
    page = Page(path.read_text())
    (policy,) = [a['content'] for _, a in page.tags if 'http-equiv' in a]
    rules = dict(rule.split(' ', 1) for rule in policy.split('; '))
    assert rules['default-src'] == "'none'" and rules['img-src'] == 'data:'
    own = [(tag, text) for tag, attributes, text in page.texts if 'type' not in attributes]
    assert sorted(tag for tag, _ in own) == ['script', 'style']
    for tag, text in own:
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert rules[f'{tag}-src'] == f"'sha256-{digest}'"


LINES = [
    {
        'epoch': epoch,
        'losses': {'loss': 4.0 / epoch, 'spread_spatial': 0.5, 'acc': 10.0 * epoch},
        'lr': 1e-3,
        'evaluations': [evaluation(epoch=epoch)] if epoch == 4 else [],
    }
    for epoch in (1, 2, 4)
]


def test_curves_hold_the_numbers_of_the_log_and_their_places_are_linear():
    panels = {panel.title: panel for panel in training_panels(LINES)}
    assert list(panels) == [
        'Evaluation, %',
        'Loss',
        'Training accuracy, %',
        'Terms of the loss',
        'Learning rate',
    ]
    values = {c.name: c.values for panel in panels.values() for c in panel.curves}
    assert values == {
        'mAP': {4: 25.0},
        'rank-1': {4: 50.0},
        'loss': {1: 4.0, 2: 2.0, 4: 1.0},
        'acc': {1: 10.0, 2: 20.0, 4: 40.0},
        'spread spatial': {1: 0.5, 2: 0.5, 4: 0.5},
        'lr': {1: 1e-3, 2: 1e-3, 4: 1e-3},
    }
    (curve,) = panels['Loss'].curves
    (x1, y1, tip), (x2, y2, _), (x4, y4, _) = curve.points
    assert tip == 'loss, epoch 1: 4'
    assert (x4 - x1) == pytest.approx(3 * (x2 - x1), abs=0.3)
    assert (y4 - y1) == pytest.approx(1.5 * (y2 - y1), abs=0.3)
    ticks = {text: y for y, text in panels['Loss'].y_ticks}
    assert ticks['4'] == y1 and ticks['2'] == y2 and ticks['0'] > y4


def test_curves_of_one_epoch_and_of_zeros_have_axes():
    (point,) = draw_panel('Loss', {'loss': {1: 0.0}}).curves[0].points
    panel = draw_panel('Loss', {'loss': {1: 0.0}})
    assert len(panel.y_ticks) > 1 and panel.x_ticks[0][0] == point[0]


@pytest.mark.parametrize(
    'values', [{1: -1.0, 2: -3.0}, {1: 2.0, 2: -3.0}, {1: 0.0}, {1: 1e-300}, {1: -1e-300}]
)
def test_every_point_is_inside_its_panel(values):
    """A loss of the user's own may be negative."""
    panel = draw_panel('Loss', {'loss': values})
    ticks = {float(text): y for y, text in panel.y_ticks}
    (low, at_low), *_, (high, at_high) = sorted(ticks.items())
    assert low <= min(0, *values.values()) and high >= max(values.values()) and 0 in ticks
    for (_, y, _), value in zip(panel.curves[0].points, values.values(), strict=True):
        assert 0 <= at_high <= y <= at_low <= HEIGHT
        assert (y - at_low) * (high - low) == pytest.approx(
            (value - low) * (at_high - at_low), abs=0.1 * (high - low)
        )


def test_without_a_log_there_are_no_panels():
    assert training_panels([]) == [] and values_by_epoch([]) == ([], [])


def test_a_collapsed_model_is_marked_in_the_table_and_the_curves(tmp_path):
    doubt = {'collapsed': True, 'doubt': 'All features are <equal>.'}
    lines = [
        {'epoch': epoch, 'evaluations': [evaluation(epoch=epoch, **(doubt if epoch < 6 else {}))]}
        for epoch in range(1, 8)
    ]
    panels = training_panels(lines)
    assert [c.name for c in panels[0].curves] == [
        f'{name}, collapsed (epoch 1, 2, 3 and 2 more)' for name in ('mAP', 'rank-1')
    ]
    overview, browser = contents()
    marked = overview._replace(evaluations=[lines[0]['evaluations'][0], evaluation()])
    for shown, expected in ((marked, 1), (overview, 0)):
        path = tmp_path / 'r.html'
        write_report(str(path), shown, browser, STRIPS, SIZE)
        text = path.read_text()
        assert text.count('<td title="All features are &lt;equal&gt;.">collapsed</td>') == expected
        assert text.count('<th scope="col">doubt</th>') == expected


def test_an_evaluation_is_shown_with_all_its_conditions_and_ranks(tmp_path):
    tested = [
        {'rank-3': 0.75, 'amp': 'bf16', 'normalize_feature': True, 'flip': True},
        {'rank-10': 0.875, 'dist_metric': 'euclidean', 'reranked': True},
    ]
    overview, browser = contents()
    overview = overview._replace(evaluations=[evaluation(**values) for values in tested])
    write_report(str(tmp_path / 'r.html'), overview, browser, STRIPS, SIZE)
    table = (tmp_path / 'r.html').read_text().partition('<table id="evaluations">')[2]
    head, *rows = [
        re.findall(r'<t[hd][^>]*>(.*?)</t[hd]>', row) for row in re.split('</tr>', table)[:3]
    ]
    assert head[7:] == ['rank-1', 'rank-3', 'rank-10', 'mAP', 'mINP']
    assert [row[2:5] + row[7:10] for row in rows] == [
        ['official', 'rrs + flip, bf16', 'cosine, normalised', '50.0', '75.0', '–'],
        ['official + re-ranking', 'rrs', 'euclidean', '50.0', '–', '87.5'],
    ]


def test_two_datasets_have_curves_of_their_own():
    line = {'epoch': 1, 'evaluations': [evaluation(), evaluation(dataset='lsvid', mAP=0.75)]}
    (panel,) = training_panels([line])
    names, rows = values_by_epoch([panel])
    assert names == ['mars mAP', 'mars rank-1', 'lsvid mAP', 'lsvid rank-1']
    assert rows == [(1, [25.0, 50.0, 75.0, 50.0])]


@pytest.mark.parametrize(
    ('words', 'said'),
    [
        (['--top-k', '3'], '--run FOLDER or --config-file FILE'),
        (['--run', 'a', '--config-file', 'b'], '--run FOLDER or --config-file FILE'),
        (['--run', '/nowhere/run'], 'no config /nowhere/run/config.yaml'),
        (
            ['--run', 'a', '--top-k', '0'],
            "--top-k: takes a whole number from 1 to 1,000,000, got '0'",
        ),
        (['--run', 'a', '--max-queries', '-1'], '--max-queries: takes'),
        (['--config-file', 'configs/stmn_synthetic.yaml'], 'model.load_weights'),
    ],
)
def test_a_wrong_command_is_one_line_and_exit_code_2(words, said, capsys, monkeypatch, repository):
    monkeypatch.chdir(repository)
    with pytest.raises(SystemExit) as stop:
        report.main(words)
    assert stop.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert said in line
