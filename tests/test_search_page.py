"""The page of a search: what it says, that names stay text, and what its script does."""

import datetime
import io
import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest
from chromium import MISSING, chromium, is_missing, requests, set_window, show
from PIL import Image

from stmn_plugin.looking.report.film_strips import StripSize
from stmn_plugin.looking.report.search_page import (
    SearchFacts,
    ShownAnswer,
    ShownTracklet,
    timeline,
    write_search_page,
)

EVIL = '"><img src=x onerror=alert(1)></script><script>alert(2)</script>&amp;'
CET = datetime.timezone(datetime.timedelta(hours=1))
EIGHT = datetime.datetime(2026, 3, 1, 8, tzinfo=CET)
SIZE = StripSize(8, 4)
FACTS = SearchFacts('Two persons', 'of 7 tracklets', 'Likely: nearer than 0.2.', {'model': 'stmn'})


def webp(colour, frames=4):
    content = io.BytesIO()
    picture = Image.new('RGB', (frames * SIZE.width, SIZE.height), colour)
    picture.save(content, 'webp')
    return content.getvalue()


STRIPS = [webp(colour) for colour in ('red', 'green', 'blue')]


def tracklet(camera, minutes, **changes):
    start = None if minutes is None else EIGHT + datetime.timedelta(minutes=minutes)
    end = start and start + datetime.timedelta(seconds=30)
    names = f'gallery/unknown/{camera}/x-3', camera, changes.pop('person', 'unknown'), 'x.mp4', '3'
    values = {'frames': (1, 4, 7, 9), 'strip': 1, **changes}
    return ShownTracklet(*names, start, end, 9, **values)


ANN = {'verdict': 'likely', 'person': 'Ann', 'attention': (0.1, 0.2, 0.3, 0.4)}
ANSWERS = [
    ShownAnswer(
        'who',
        [tracklet('lobby', 0, strip=0, person='Ann')],
        [
            tracklet('gate', 20, rank=1, distance=0.125, **ANN),
            tracklet('yard', 5, rank=2, distance=0.25, verdict='unsure', strip=2),
            tracklet('gate', None, rank=3, distance=0.5, verdict='unlikely', strip=None),
            tracklet('gate', 10, rank=4, distance=0.75, verdict='unlikely', reranked=0.6),
        ],
    ),
    ShownAnswer(EVIL, [tracklet(EVIL, 3)], []),
]


class Texts(HTMLParser):
    """Tags of a page, and its texts but for those of script and style."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.texts = [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_data(self, data):
        if self.cdata_elem is None:
            self.texts.append(data.strip())


@pytest.fixture(scope='module')
def path(tmp_path_factory):
    path = tmp_path_factory.mktemp('page') / 'answers.html'
    write_search_page(str(path), FACTS, ANSWERS, STRIPS, SIZE)
    return path


@pytest.fixture(scope='module')
def page(path):
    return Texts(path.read_text())


def words(page):
    return re.sub(r'\s+', ' ', ' '.join(page.texts))


def test_it_says_what_was_found_in_the_words_of_the_user(page):
    said = words(page)
    assert 'Two persons' in said and 'Likely: nearer than 0.2.' in said
    assert re.search(
        r'1 ✓ likely Ann 0\.125 (?:frame \d: attention \d+% )+gate 2026-03-01 08:20:00 '
        r'\+01:00 – 08:20:30 '
        r'gallery/unknown/gate/x-3 · 9 frames · x\.mp4, track 3',
        said,
    )
    assert '2 ? unsure 0.25 yard' in said and '4 ✗ unlikely 0.75' in said
    assert 'The crops of this tracklet are missing or damaged. gate time unknown' in said
    assert 'unknown' not in said.replace('gallery/unknown', '').replace('time unknown', '')
    assert EVIL in page.texts and 'Nothing was found.' in page.texts
    assert any('re-ranked 0.6' in a.get('title', '') for _, a in page.tags)


def test_names_of_files_never_become_markup(page, path):
    assert [tag for tag, _ in page.tags if tag == 'script'] == ['script']
    assert not any('onerror' in attributes for _, attributes in page.tags)
    assert not any('style' in attributes for _, attributes in page.tags)  # the policy forbids them
    assert EVIL not in path.read_text()
    (policy,) = (a['content'] for tag, a in page.tags if a.get('http-equiv'))
    assert "default-src 'none'" in policy and 'unsafe' not in policy


def test_a_tracklet_without_an_end_has_its_start(tmp_path):
    begun = replace(tracklet('gate', 20, rank=1), end=None)
    answers = [ShownAnswer('who', [tracklet('lobby', 0)], [begun])]
    write_search_page(str(tmp_path / 'a.html'), FACTS, answers, STRIPS, SIZE)
    said = words(Texts((tmp_path / 'a.html').read_text()))
    assert 'gate 2026-03-01 08:20:00 +01:00 gallery' in said


def test_each_result_has_its_own_strip(page):
    sources = [a['src'] for tag, a in page.tags if tag == 'img']
    assert len(sources) == 5 and all(x.startswith('data:image/webp;base64,') for x in sources)
    red, green, blue = sources[0], sources[1], sources[2]
    assert sources == [red, green, blue, green, green] and len({red, green, blue}) == 3


def test_bars_have_the_height_of_the_attention(page):
    heights = [float(a['height']) for tag, a in page.tags if tag == 'rect']
    assert heights == pytest.approx([0.25, 0.5, 0.75, 1])
    assert 'frame 7: attention 30%' in page.texts


def test_the_timeline_has_a_row_a_camera_and_a_mark_a_tracklet():
    found = timeline(1, ANSWERS[0])
    assert found['first'] == '2026-03-01 08:00:00 +01:00'
    assert [row['camera'] for row in found['cameras']] == ['gate', 'lobby', 'yard']
    gate, lobby, yard = (row['marks'] for row in found['cameras'])
    assert [mark['id'] for mark in gate] == ['q1r4', 'q1r1']  # one has no time
    assert (lobby[0]['kind'], lobby[0]['x1'], gate[1]['x2']) == ('query', 0, 1000)
    assert yard[0]['x1'] == pytest.approx(1000 * 300 / 1230, abs=0.01)
    assert timeline(1, ANSWERS[1]) is None
    meeting = [tracklet('gate', minute, rank=minute) for minute in (1, 2, 3)]
    [row] = timeline(1, ShownAnswer('who', [tracklet('gate', 1)], meeting))['cameras']
    # the nearest is drawn over others, and the query over all
    assert [mark['id'] for mark in row['marks']] == ['q1r3', 'q1r2', 'q1r1', 'q1']


@pytest.fixture(scope='module')
def driver():
    if is_missing():
        pytest.skip(MISSING)
    with chromium() as driver:
        yield driver


def ranks(driver):
    return driver.execute_script(
        "return [...document.querySelectorAll('#q1 .found > li')]"
        '.filter((item) => !item.hidden).map((item) => Number(item.dataset.rank))'
    )


@pytest.mark.slow
def test_the_script_sorts_and_filters_and_nothing_leaves_the_page(driver, path):
    requests(driver)
    show(driver, path)
    assert ranks(driver) == [1, 2, 3, 4]

    def choose(name, value):
        selector = f'#q1 [name={name}] option[value="{value}"]'
        driver.find_element('css selector', selector).click()

    choose('order', 'time')
    assert ranks(driver) == [2, 4, 1, 3]
    choose('order', 'rank')
    driver.find_element('css selector', '#q1 [name=unlikely]').click()
    assert ranks(driver) == [1, 2]
    driver.execute_script(  # a mark of a hidden result brings it back
        'document.querySelector(\'.timeline a[href="#q1r4"]\').dispatchEvent('
        "new MouseEvent('click', { bubbles: true }))"
    )
    assert ranks(driver) == [1, 2, 3, 4]
    for width in (390, 1280):
        set_window(driver, width, 800)
        show(driver, path)
        assert driver.execute_script('return document.documentElement.scrollWidth <= innerWidth')
    assert [one for one in driver.get_log('browser') if one['level'] == 'SEVERE'] == []
    assert all(url.startswith(('file:', 'data:', 'about:')) for url in requests(driver))
