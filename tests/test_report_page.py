"""The page of a run in a browser: clicked, typed into, and what it shows read and compared."""

import json
import re

import conftest
import miniatures
import numpy as np
import pytest
import references.stmn as references
from chromium import MISSING, chromium, is_missing, requests, set_window, show
from test_report import SIZE, STRIPS, contents

from stmn_plugin.cli import report
from stmn_plugin.cli.train import main
from stmn_plugin.evaluation.distances import pairwise_distances
from stmn_plugin.looking.opened_run import config_of_run, open_run, view_clips
from stmn_plugin.looking.report import write_report

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(is_missing(), reason=MISSING),
]
EVIL = '<img src=x onerror=alert(1)>'
# a folder in a folder makes the end tag that a file name cannot hold
EVIL_CAMERA = '"&\'</script><script>alert(2)</script>'


def train(root, folder, name, words=()):
    config = conftest.REPOSITORY / 'configs' / 'stmn_mars.yaml'
    flags = ['--config-file', str(config), '--root', str(root), '-s', name, '-t', name]
    words = [*conftest.small_run_words(folder), 'test.eval_freq', '1', *words]
    main([*flags, *words])


@pytest.fixture(scope='module')
def mars_run(tmp_path_factory, mars_root):
    folder = tmp_path_factory.mktemp('mars_run') / 'run <b>1'
    train(mars_root, folder, 'mars', words=['train.max_epoch', '2'])
    report.main(['--run', str(folder)])
    return folder


@pytest.fixture(scope='module')
def browser():
    with chromium() as driver:
        yield driver


@pytest.fixture
def page(browser, mars_run):
    """Open the page of the run at an address; afterwards no error, no request, no dialogue."""
    requests(browser)

    def at(address='', path=mars_run / 'report.html', width=1400, scheme='light'):
        set_window(browser, width, 900, scheme)
        show(browser, path, address)
        return browser

    yield at
    assert [entry for entry in browser.get_log('browser') if entry['level'] == 'SEVERE'] == []
    outside = [url for url in requests(browser) if not url.startswith(('file:', 'data:', 'about:'))]
    assert outside == []


@pytest.fixture(scope='module')
def truth(mars_run):
    """Distances and labels by hand, from the run that the folder holds."""
    run = open_run(config_of_run(str(mars_run)))
    query, gallery = (run.embedder(x) for x in run.targets['mars'][:2])
    features = np.concatenate([gallery.features, query.features])  # 'official' adds the queries
    distances = pairwise_distances(query.features, query.features.new_tensor(features), 'cosine')
    labels = (
        query.pids.tolist(),
        [*gallery.pids.tolist(), *query.pids.tolist()],
        query.camids.tolist(),
        [*gallery.camids.tolist(), *query.camids.tolist()],
    )
    return run, distances.tolist(), labels


def ranked(truth, q):
    """Rows of the gallery that count for a query, nearest first, and which are right."""
    _, distances, (query_pids, gallery_pids, query_camids, gallery_camids) = truth
    order = [
        g
        for g in references.stable_order(distances[q])
        if gallery_pids[g] != -1
        and (gallery_pids[g], gallery_camids[g]) != (query_pids[q], query_camids[q])
    ]
    return order, [gallery_pids[g] == query_pids[q] for g in order]


def texts(driver, selector):
    return driver.execute_script(
        'return [...document.querySelectorAll(arguments[0])].map((x) => x.innerText)', selector
    )


def one(driver, selector):
    return driver.find_element('css selector', selector)


def press(driver, *keys):
    for key in keys:
        one(driver, 'body').send_keys(key)


def rows_of_list(driver):
    return [int(re.match(r'\S\s+#(\d+)', text)[1]) for text in texts(driver, '.row')]


def selected(driver):
    return int(re.search(r'#(\d+)', one(driver, '#detail h2').text)[1])


def choose(driver, name, value):
    one(driver, f'#{name} option[value="{value}"]').click()


def no_sideways_scroll(driver):
    return driver.execute_script('return document.documentElement.scrollWidth <= innerWidth')


def test_results_and_curves_are_those_of_the_run(page, mars_run):
    driver = page()
    evaluations = json.loads((mars_run / 'metrics.json').read_text())['evaluations']
    best = max(evaluations, key=lambda e: e['mAP'])
    scores = dict(zip(texts(driver, '.scores dt'), texts(driver, '.scores dd'), strict=True))
    assert scores == {k: f'{100 * best[k]:.1f}' for k in ('rank-1', 'mAP', 'mINP')}
    table = [text.split('\t') for text in texts(driver, '#evaluations tbody tr')]
    assert [(row[0], row[7], row[11]) for row in table] == [
        (str(e['epoch']), f'{100 * e["rank-1"]:.1f}', f'{100 * e["mAP"]:.1f}') for e in evaluations
    ]
    assert driver.title == one(driver, 'h1').text == 'run <b>1'
    tips = driver.execute_script(
        "return [...document.querySelectorAll('.target title')].map((x) => x.textContent)"
    )
    lines = [json.loads(x) for x in (mars_run / 'metrics.jsonl').read_text().splitlines()]
    for line in lines:
        assert f'loss, epoch {line["epoch"]}: {line["losses"]["loss"]:.4g}' in tips
        assert f'mAP, epoch {line["epoch"]}: {100 * line["evaluations"][0]["mAP"]:.4g}' in tips


def test_every_query_shows_what_counts_in_order_with_distance_and_verdict(page, truth):
    driver = page('tab=queries')
    queries = rows_of_list(driver)
    assert queries == list(range(len(miniatures.MARS_QUERY_ROWS)))
    _, distances, (query_pids, gallery_pids, query_camids, gallery_camids) = truth
    for q in queries:
        order, right = ranked(truth, q)
        assert selected(driver) == q
        cards = texts(driver, '#detail .found:first-of-type .tracklet .line')
        assert len(cards) == 10
        for place, (card, g, is_right) in enumerate(zip(cards, order, right, strict=False)):
            rank, mark, pid, camid, distance = re.fullmatch(
                r'(\d+) (.)\s+pid (-?\d+)\s+camid (\d+)\s+(\S+)', card
            ).groups()
            assert (int(rank), mark) == (place + 1, '✓' if is_right else '✗')
            assert (int(pid), int(camid)) == (gallery_pids[g], gallery_camids[g])
            assert float(distance) == pytest.approx(distances[q][g], rel=1e-3)
        ranks = [i + 1 for i, flag in enumerate(right) if flag]
        ap = sum((i + 1) / rank for i, rank in enumerate(ranks)) / len(ranks)
        assert one(driver, '#answer').text == f'AP {ap:.3f}, first right one at rank {ranks[0]}'
        beyond = texts(driver, '#detail h2 ~ .found .line, #detail > h2')
        assert bool(beyond) == (ranks[0] > 10)
        assert f'pid {query_pids[q]} · camid {query_camids[q]}' in one(driver, '#detail').text
        press(driver, 'j')


def test_right_and_wrong_differ_in_more_than_colour(page):
    driver = page('tab=queries')
    styles = driver.execute_script("""
        return [...document.querySelectorAll('.found .tracklet')].map((card) => {
          const { borderTopStyle, borderTopColor } = getComputedStyle(card);
          const mark = card.querySelector('.mark');
          return [mark.textContent, mark.ariaLabel, borderTopStyle, borderTopColor];
        })""")
    assert {tuple(style) for style in styles} == {
        ('✓', 'right', 'solid', 'rgb(0, 120, 90)'),
        ('✗', 'wrong', 'dashed', 'rgb(181, 74, 0)'),
    }


def test_strips_show_the_tested_frames_and_bars_the_attention(page, truth):
    driver = page('tab=queries')
    run, *_ = truth
    tracklets = run.targets['mars'].query
    for view in view_clips(run, tracklets[:3]):
        assert texts(driver, '#detail .query .shares span') == [
            f'{round(100 * float(share))}%' for share in view['attention']
        ]
        image = one(driver, '#detail .query img')
        length = len(tracklets[view.tracklet][0])
        shown = ', '.join(str(frame + 1) for frame in view.frames)
        assert image.get_attribute('alt') == f'frames {shown} of {length}'
        size = driver.execute_async_script(
            'const [x, done] = arguments;'
            'x.decode().then(() => done([x.naturalWidth, x.naturalHeight]));',
            image,
        )
        assert size == [48 * len(view.frames), 96]
        press(driver, 'j')


def test_filters_by_mouse_and_keys_and_the_address_keeps_them(page, truth):
    driver = page('tab=queries')
    queries = range(len(miniatures.MARS_QUERY_ROWS))
    wrong = [q for q in queries if not ranked(truth, q)[1][0]]
    camids = truth[2][2]
    assert 0 < len(wrong) < len(queries)
    press(driver, 'f')
    assert rows_of_list(driver) == wrong
    assert one(driver, '#count').text == f'{len(wrong)} of {len(queries)} queries'
    camid = camids[wrong[0]]
    choose(driver, 'cam', camid)
    both = [q for q in wrong if camids[q] == camid]
    assert rows_of_list(driver) == both
    press(driver, 'j')
    chosen, address = selected(driver), driver.current_url.split('#')[1]
    assert address == f'tab=queries&q={both[min(1, len(both) - 1)]}&show=wrong&cam={camid}'
    page(address)
    assert (rows_of_list(driver), selected(driver)) == (both, chosen)
    one(driver, '#reset').click()
    assert rows_of_list(driver) == list(queries)
    choose(driver, 'show', 'right')
    assert rows_of_list(driver) == [q for q in queries if q not in wrong]


def test_average_precision_limits_and_orders(page):
    driver = page('tab=queries&sort=ap')

    def aps():
        return [float(text) for text in texts(driver, '.row .ap')]

    everything = aps()
    assert everything == sorted(everything)
    limit = round(np.ceil(20 * everything[2]) / 20, 2)
    page(f'tab=queries&sort=-ap&ap={limit}')
    assert aps() == sorted((ap for ap in everything if ap <= limit), reverse=True)
    one(driver, '#ap').send_keys('\ue010')  # End: the slider goes to 1
    assert len(aps()) == len(everything)
    page('tab=queries&ap=0&show=right')
    assert texts(driver, '#detail') == ['No query passes these filters.']
    press(driver, 'j', 'k')  # nothing to go to, and no error


def test_an_address_of_no_dataset_shows_the_first(page, truth):
    for name in ('length', '7', '-1', 'x', ''):
        driver = page(f'tab=queries&set={name}')
        assert len(rows_of_list(driver)) > 0


def test_keys_move_between_queries_and_parts_of_the_page(page):
    driver = page()
    press(driver, '2', 'j', 'j', 'k', '\ue014')  # right arrow
    assert selected(driver) == 2
    one(driver, '#list').click()
    one(driver, '#list').send_keys('\ue010')  # End
    last = len(miniatures.MARS_QUERY_ROWS) - 1
    assert selected(driver) == last
    active = one(driver, '#list').get_attribute('aria-activedescendant')
    assert one(driver, f'#{active}').get_attribute('aria-selected') == 'true'
    one(driver, '#list').send_keys('\ue013', '\ue013')  # up
    assert selected(driver) == last - 2
    press(driver, '3')
    assert one(driver, '#memory').is_displayed() and not one(driver, '#queries').is_displayed()
    press(driver, '?')
    assert one(driver, '#help').is_displayed()
    press(driver, '\ue00c')  # Escape
    assert not one(driver, '#help').is_displayed()
    one(driver, 'nav a[data-tab=overview]').click()
    assert one(driver, '#overview').is_displayed()
    assert one(driver, 'nav a[aria-current=page]').text == 'Overview'
    address = driver.current_url
    press(driver, 'j', '\ue012', 'k')  # left arrow: no query is in view to move from
    assert driver.current_url == address


def test_dark_mode_follows_the_system_and_the_button(page):
    driver = page(scheme='dark')

    def background():
        return driver.execute_script('return getComputedStyle(document.body).backgroundColor')

    dark = background()
    one(driver, '#theme').click()
    light = background()
    press(driver, 't')
    assert background() == dark != light
    page(scheme='light')
    assert background() == light


def test_as_many_queries_as_mars_has_cost_no_more_than_those_in_view(page, tmp_path):
    overview, browser = contents()
    (query,) = browser.data['datasets'][0]['queries']
    browser.data['datasets'][0]['queries'] = [{**query, 'row': row} for row in range(1980)]
    write_report(str(tmp_path / 'r.html'), overview, browser, STRIPS, SIZE)
    driver = page('tab=queries&q=1200', path=tmp_path / 'r.html')
    assert selected(driver) == 1200 and 1200 in rows_of_list(driver)
    one(driver, '#list').send_keys('\ue010')  # End
    rows = rows_of_list(driver)
    assert rows == list(range(rows[0], 1980)) and 20 < len(rows) < 60
    assert driver.execute_script("return document.querySelectorAll('*').length") < 1000


@pytest.mark.parametrize('tab', ['overview', 'queries', 'memory'])
def test_a_window_of_360_pixels_needs_no_sideways_scroll(page, tab):
    driver = page(f'tab={tab}', width=360)
    assert no_sideways_scroll(driver)
    assert one(driver, f'#{tab}').is_displayed()


def test_memory_items_show_the_frames_and_clips_that_address_them_most(page, truth):
    driver = page('tab=memory')
    run, *_ = truth
    data = json.loads(one(driver, '#data').get_attribute('textContent'))
    tracklets = [t for split in run.targets['mars'][:2] for t in split]
    paths = {path: row for row, (frames, *_) in enumerate(tracklets) for path in frames}
    views = list(view_clips(run, tracklets))
    shown = []  # rows of the tracklets of the page
    for t in data['tracklets']:
        shown += [row for path, row in paths.items() if path.endswith(f'/{t["path"]}')]
    assert data['folder'] == 'data.root/mars/bbox_test' and len(set(shown)) == len(
        data['tracklets']
    )
    M, N = (len(x.keys) for x in (run.model.spatial_memory, run.model.temporal_memory))
    articles = texts(driver, '#memory article')
    assert len(articles) == M + N
    for m in range(M):
        best = sorted(
            (float(views[row]['spatial_probs'][..., m].max()) for row in shown), reverse=True
        )
        numbers = articles[m].split('\n')[2:]
        assert [float(n) for n in numbers] == [pytest.approx(b, abs=6e-3) for b in best[:10]]
    stored = run.model.temporal_memory.values.detach()
    for n in range(N):
        bars = texts(driver, f'#memory .items:last-child article:nth-child({n + 1}) .stored span')
        shares = [f'{round(100 * float(x))}%' for x in references.softmax(list(stored[n]))]
        assert bars[-len(shares) :] == shares
        top = max(float(views[row]['temporal_probs'][n]) for row in shown)
        assert f'{top:.3f}' in articles[M + n]
    # the marked cell is the one with the probability
    tracklet, place, row, column, probability = data['memory']['spatial']['items'][0]['frames'][0]
    probs = views[shown[tracklet]]['spatial_probs']
    assert probs[place, row, column, 0] == pytest.approx(probability, abs=1e-4)
    style = one(driver, '#memory .cell').get_attribute('style')
    height, width = probs.shape[1:3]
    assert f'left: {100 * column / width:g}%' in style and f'top: {100 * row / height:g}%' in style


def test_names_of_people_and_cameras_are_text(page, tmp_path):
    root = miniatures.make_tracklets(tmp_path / 'data')
    miniatures.make_mars(root)
    rows = [
        (split, pid, camera, tracklet, f'tracklets/{split}/{pid}/{camera}/{tracklet}/{frame}')
        for split, pid, camera, tracklet, frames in miniatures.TRACKLETS
        for frame in frames
    ]
    for split, camera in (('query', 'cam2'), ('gallery', EVIL_CAMERA)):
        for frame in range(3):
            path = f'tracklets/{split}/{EVIL}/{camera}/{frame}.jpg'
            miniatures.save_frame(root / path, 40, 3, frame)
            rows.append((split, EVIL, camera, 't1', path))
    miniatures.write_csv(root / 'tracklets.csv', rows)
    train(root, tmp_path / 'run', 'tracklets')
    path = tmp_path / 'a b#.html'
    words = ['--folder', '--output', str(path), 'data.targets', "['tracklets', 'mars']"]
    report.main(['--run', str(tmp_path / 'run'), *words])
    driver, names = page('tab=queries', path=path), []
    for _ in range(4):
        names += texts(driver, '#detail .path')
        press(driver, 'j')
    assert f'tracklets/query/{EVIL}/cam2/0.jpg' in names
    assert f'tracklets/gallery/{EVIL}/{EVIL_CAMERA}/0.jpg · 3 frames' in names
    assert 'Files lie below data.root.' in one(driver, '#detail > .note').text
    loaded = driver.execute_async_script("""
        const images = [...document.querySelectorAll('#detail img')];
        Promise.all(images.map((x) => x.decode())).then(() => arguments[0](images.length));
    """)
    assert loaded == 1 + len(texts(driver, '#detail .tracklet')) > 3  # from the folder
    choose(driver, 'set', 1)
    assert len(rows_of_list(driver)) == len(miniatures.MARS_QUERY_ROWS)
    press(driver, '1')
    assert texts(driver, '.card h2') == ['tracklets', 'mars', 'Model']


def test_image_models_and_samples_of_queries_have_a_page_too(page, mars_root, tmp_path):
    folder = tmp_path / 'run'
    train(mars_root, folder, 'mars', words=['model.name', 'resnet18'])
    words = ['test.frames', 'all', 'test.flip', 'True', 'test.protocol', 'torchreid']
    words += ['model.load_weights', str(folder / 'model' / 'model-best.pth.tar')]
    flags = ['--config-file', str(folder / 'config.yaml'), '--max-queries', '4', '--top-k', '3']
    report.main([*flags, *words])
    text = (folder / 'report.html').read_text()
    assert str(tmp_path) not in text and mars_root not in text  # where it was made
    driver = page('tab=queries', path=folder / 'report.html')
    assert rows_of_list(driver) == [0, 3, 7, 10]
    assert one(driver, '#count').text == '4 of 4 queries, a sample of 11'
    assert len(texts(driver, '#detail .found:first-of-type .tracklet')) == 3
    assert texts(driver, '.bars') == [] and texts(driver, 'nav a') == ['Overview', 'Queries']
    # of both queries of person 4 the only matches are queries, which this protocol does not search
    press(driver, '1')
    assert 'Protocol torchreid, frames all + flip' in one(driver, '.card').text
    assert 'model-best is the epoch with the best result on' in texts(driver, '.card')[-1]
    driver = page('tab=queries&show=none', path=folder / 'report.html')
    assert 'no tracklet of this person' in one(driver, '#detail').text
