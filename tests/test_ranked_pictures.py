"""Pictures of ranked results: one folder or sheet a query, whatever tracklets are called."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from stmn_plugin.evaluation.protocols import TrackletFeatures
from stmn_plugin.evaluation.ranked_pictures import distinct_names, draw_ranked_lists

SIZE = (16, 32)


def save(path, grey):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new('RGB', SIZE, (grey,) * 3).save(path, 'PNG')
    return str(path)


def case(tmp_path, video=True):
    """Three queries and four tracklets; all frames have the same base names."""
    people = ['a\nb', 'ä', 'x' * 240, 'a b']
    pids, camids = np.array([1, 2, 1]), np.array([0, 0, 1])
    gallery_pids, gallery_camids = np.array([1, 2, 1, -1]), np.array([1, 1, 0, 0])

    def tracklets(split, pids, camids):
        for place, (pid, camid) in enumerate(zip(pids.tolist(), camids.tolist(), strict=True)):
            folder = tmp_path / split / str(place) / people[place]
            paths = [save(folder / f'{n}.png', 10 * place + n) for n in range(2 if video else 1)]
            yield (tuple(paths) if video else paths[0]), pid, camid, 0

    queries = list(tracklets('query', pids, camids))
    gallery = list(tracklets('gallery', gallery_pids, gallery_camids))
    distances = torch.tensor([[3.0, 2.0, 1.0, 0.0], [1.0, 2.0, 3.0, 0.0], [0.0, 1.0, 2.0, 0.5]])

    def features(pids, camids):
        return TrackletFeatures(torch.zeros(len(pids), 1), pids, camids)

    given = features(pids, camids), features(gallery_pids, gallery_camids), (queries, gallery)

    def draw(k=10):
        chunks = iter(distances.split(2))
        draw_ranked_lists(chunks, *given, str(tmp_path / 'drawn'), k, SIZE)
        return sorted((tmp_path / 'drawn').iterdir())

    return draw, queries, gallery


def test_a_query_of_video_has_a_folder_of_its_own(tmp_path):
    draw, queries, gallery = case(tmp_path)
    folders = draw()
    assert len(folders) == 3
    assert [folder.name[:16] for folder in folders] == [
        'person1_camera0_',
        'person1_camera1_',
        'person2_camera0_',
    ]
    found = {folder.name[:15]: sorted(os.listdir(folder)) for folder in folders}
    # junk, and the query's person from its camera, take no place
    assert found == {
        'person1_camera0': ['gallery_top001_FALSE', 'gallery_top002_TRUE', 'query_top000'],
        'person1_camera1': ['gallery_top001_FALSE', 'gallery_top002_TRUE', 'query_top000'],
        'person2_camera0': [
            'gallery_top001_FALSE',
            'gallery_top002_TRUE',
            'gallery_top003_FALSE',
            'query_top000',
        ],
    }
    for folder, tracklet in ((folders[0], queries[0]), (folders[2], queries[1])):
        for path in tracklet[0]:
            copy = folder / 'query_top000' / os.path.basename(path)
            assert copy.read_bytes() == Path(path).read_bytes()
    copied = (folders[0] / 'gallery_top001_FALSE' / '1.png').read_bytes()
    assert copied == Path(gallery[1][0][1]).read_bytes()


def test_an_earlier_folder_is_replaced_and_what_is_not_ours_stays(tmp_path):
    draw, *_ = case(tmp_path)
    before = draw(k=3)
    mine = tmp_path / 'drawn' / 'notes'
    mine.mkdir()
    (mine / 'text').write_text('mine')
    after = draw(k=1)
    assert after == sorted([*before, mine]) and (mine / 'text').read_text() == 'mine'
    assert sorted(os.listdir(after[-1] if after[-1] != mine else after[-2])) == [
        'gallery_top001_FALSE',
        'query_top000',
    ]


def test_a_query_of_images_has_a_sheet_of_its_own(tmp_path):
    draw, *_ = case(tmp_path, video=False)
    sheets = draw(k=2)
    assert len(sheets) == 3 and all(sheet.suffix == '.jpg' for sheet in sheets)
    with Image.open(sheets[0]) as sheet:
        assert sheet.height == SIZE[1] and sheet.width == 3 * (SIZE[0] + 10)
        borders = [sheet.getpixel((place * (SIZE[0] + 10) + 1, 1)) for place in range(3)]
    black, red, green = borders
    assert max(black) < 60 and red[0] > 150 > red[1] and green[1] > 150 > green[0]


@pytest.mark.parametrize(
    'titles',
    [
        ['a/b', 'a\\b', 'a b', 'A_B', 'a_b-2'],
        ['..', '.', '', '/', '\0', '\n'],
        ['x' * 300, 'y' + 'x' * 300],
        ['ä', 'ö', '\udcff', '你'],
        ['CON', 'a.png', 'a.png', 'a.PNG'],
    ],
)
def test_names_are_safe_and_distinct(titles, tmp_path):
    names = distinct_names(titles)
    assert len({name.casefold() for name in names}) == len(titles)
    for name in names:
        assert name.isascii() and name.isprintable() and len(name) < 200
        assert not {*'/\\:*?"<>| '} & set(name) and not name.startswith('.')
        (tmp_path / name).mkdir()
