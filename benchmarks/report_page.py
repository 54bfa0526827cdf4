"""Time the page of a run with as many queries as MARS until it shows its first query.

    python benchmarks/report_page.py

Draws 1,980 queries with 10 found tracklets each, out of 9,330 with the pictures in a folder, and
out of as many as fit into the page by default, and opens both pages in headless Chromium (Debian
packages chromium, chromium-driver; pip: selenium). "queries" is the time from the start of loading
until the list is shown and the film strip of the first query is decoded, "next" that from a key
press until the strip of the next query is decoded. Medians; only the disk is warm.
"""

import argparse
import os
import statistics
import sys
import tempfile
import time

import numpy as np
from PIL import Image
from tabulate import tabulate

from stmn_plugin.cli.command_line import FROM_ONE
from stmn_plugin.looking.report import Browser, Overview, write_report
from stmn_plugin.looking.report.film_strips import StripSize, film_strip
from stmn_plugin.looking.report.html_file import EMBED_LIMIT

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), '..', 'tests'))
from chromium import chromium, show  # noqa: E402

NUM_QUERY, NUM_GALLERY, TOP_K, SEQ_LEN, ITEMS = 1980, 9330, 10, 6, 10
SIZE = StripSize(96, 48)
DIFFERENT = 40  # pictures; the others are copies
DECODED = """
const done = arguments[0];
const image = document.querySelector('#detail img');
image.decode().then(() => done(performance.now()));
"""
NEXT = """
const done = arguments[0];
const start = performance.now();
document.dispatchEvent(new KeyboardEvent('keydown', { key: 'j', bubbles: true }));
document.querySelector('#detail img').decode().then(() => done(performance.now() - start));
"""


def draw_strips(folder, rng):
    """Draw pictures of noise as smooth as photographs."""
    strips = []
    for _ in range(DIFFERENT):
        paths = []
        for frame in range(SEQ_LEN):
            path = os.path.join(folder, f'{frame}.png')
            noise = Image.fromarray(rng.integers(0, 256, (16, 8, 3)).astype(np.uint8))
            noise.resize((128, 256), Image.Resampling.BICUBIC).save(path)
            paths.append(path)
        strips.append(film_strip(paths, np.arange(SEQ_LEN), SIZE))
    return strips


def draw_browser(rng, num_gallery):
    """Return random data as ``report.collect`` gives for a run on MARS."""
    total = NUM_QUERY + num_gallery
    attention = rng.dirichlet(np.full(SEQ_LEN, 20), total).round(4)
    lengths = rng.integers(SEQ_LEN, 300, total)
    tracklets = [
        {
            'pid': pid,
            'camid': camid,
            'length': length,
            'frames': np.linspace(1, length, SEQ_LEN).astype(int).tolist(),
            'path': f'{pid:04d}/{pid:04d}C{camid + 1}T0001F001.jpg',
            'attention': share,
        }
        for pid, camid, length, share in zip(
            rng.integers(0, 1501, total).tolist(),
            rng.integers(0, 6, total).tolist(),
            lengths.tolist(),
            attention.tolist(),
            strict=True,
        )
    ]
    queries = [
        {
            'row': row,
            'tracklet': row,
            'ap': round(float(rng.random()), 4),
            'firstRank': 1 + int(found[0, 1] == 0),
            'found': [
                [NUM_QUERY + int(tracklet), round(0.2 + 0.01 * place, 5), int(is_match)]
                for place, (tracklet, is_match) in enumerate(found)
            ],
            'first': None,
        }
        for row in range(NUM_QUERY)
        for found in [
            np.stack([rng.choice(num_gallery, TOP_K, False), rng.integers(0, 2, TOP_K)], axis=1)
        ]
    ]
    spatial = [
        {
            'mean': 0.1,
            'frames': [[int(t), 2, 3, 4, 0.9] for t in rng.choice(total, 10, False)],
        }
        for _ in range(ITEMS)
    ]
    data = {
        'folder': 'mars/bbox_test',
        'datasets': [{'name': 'mars', 'numQueries': NUM_QUERY, 'queries': queries}],
        'tracklets': tracklets,
        'memory': {'spatial': {'grid': [16, 8], 'items': spatial}, 'temporal': None},
    }
    return Browser(data, [], [])


def measure(path, repeats):
    """Return medians in milliseconds, each sample in a fresh Chromium."""
    loaded, queries, following = [], [], []
    for _ in range(repeats):
        with chromium() as driver:
            show(driver, path, 'tab=queries')
            queries.append(driver.execute_async_script(DECODED))
            timing = "return performance.getEntriesByType('navigation')[0].loadEventEnd"
            loaded.append(driver.execute_script(timing))
            time.sleep(0.5)
            following += [driver.execute_async_script(NEXT) for _ in range(5)]
    return map(statistics.median, (loaded, queries, following))


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--repeats', type=FROM_ONE, default=3)
    parser.add_argument('--output', help='folder for the pages')
    args = parser.parse_args()
    rng, rows = np.random.default_rng(0), []
    with tempfile.TemporaryDirectory() as temporary:
        output = args.output or temporary
        few = draw_strips(temporary, rng)
        overview = Overview('drawn', {'queries': NUM_QUERY}, [], [], '')
        fit = int(EMBED_LIMIT / (statistics.mean(map(len, few)) * 4 / 3)) - NUM_QUERY - DIFFERENT
        for name, num_gallery in (('folder', NUM_GALLERY), ('inside', fit)):
            browser = draw_browser(rng, num_gallery)
            strips = [few[i % DIFFERENT] for i in range(len(browser.data['tracklets']))]
            path = os.path.join(output, f'{name}.html')
            written = write_report(path, overview, browser, strips, SIZE)
            assert bool(written.folder) == (name == 'folder')
            loaded, queries, following = measure(path, args.repeats)
            rows.append(
                {
                    'pictures': name,
                    'tracklets': len(strips),
                    'page MB': f'{written.size / 1e6:.1f}',
                    'loaded s': f'{loaded / 1e3:.2f}',
                    'queries s': f'{queries / 1e3:.2f}',
                    'next s': f'{following / 1e3:.3f}',
                }
            )
    print(tabulate(rows, headers='keys', disable_numparse=True))


if __name__ == '__main__':
    main()
