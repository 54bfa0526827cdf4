"""Figures from made-up arrays: what stands in them, nothing cut off, the same bytes every time."""

from pathlib import Path
from types import SimpleNamespace
from xml.etree import ElementTree

import matplotlib
import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.text import Text
from PIL import Image

from stmn_plugin.datasets.host_datasets import find_duke, read_duke
from stmn_plugin.errors import InputError
from stmn_plugin.looking.clip_statistics import highest
from stmn_plugin.looking.figure_parts import (
    HEIGHT,
    WIDTH,
    Options,
    shown_items,
    thumbnail,
    tracklet_title,
)
from stmn_plugin.looking.figures import (
    attention_strips,
    item_frames,
    item_strips,
    probability_maps,
    refinement_maps,
    retrieval,
)
from stmn_plugin.looking.figures.probability_maps import at_place
from stmn_plugin.looking.figures.sheet import (
    COLUMN,
    PAGE,
    TEXT,
    Sheet,
    save_figure,
    text_width,
    wrap,
)
from stmn_plugin.looking.opened_run import ClipView
from stmn_plugin.looking.tracklet_selection import (
    find_tracklet,
    select_tracklets,
    unite_splits,
)

LONG = 'with spread loss: ' + 'the-name-of-a-run-' * 6
CAPTION = 'Figure 0. What is drawn and from what, in words that go on for a while. ' * 4


def pixels(seed=0):
    return np.random.default_rng(seed).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)


def probs(*shape):
    values = np.random.default_rng(1).random(shape)
    return values / values.sum(axis=-1, keepdims=True)


def strip(length, runs=1, known=True):
    attentions = [probs(length)] * runs
    visibility = np.linspace(0, 1, length) if known else None
    return attention_strips.Strip([pixels()] * length, attentions, visibility)


def figure_5(runs=2, name='run', spatial=True):
    maps = [
        probability_maps.ProbabilityMaps(
            f'{name} {i}', probs(10, 10) if spatial else None, probs(10, 5)
        )
        for i in range(runs)
    ]
    return probability_maps.draw(maps, CAPTION)


def figure_6(items=10, frames=5):
    top = [item_frames.TopFrame(pixels(), (3, 1), 0.98)] * frames
    return item_frames.draw([(n + 1, top) for n in range(items)], (4, 2), CAPTION)


def figure_7(length=6, masks=True):
    maps = np.random.default_rng(0).normal(size=(length, 16, 8))
    masks = np.random.default_rng(1).random((length, 32, 16)) if masks else None
    clip = refinement_maps.RefinedClip('0001C1T0001', [pixels()] * length, maps, masks)
    return refinement_maps.draw([clip] * 4, 2.0, CAPTION)


def figure_8(found=10):
    lists = [
        (n, [retrieval.FoundTracklet(pixels(), i % 2 == 0) for i in range(found)]) for n in 'ab'
    ]
    return retrieval.draw([retrieval.Search('0001C1T0001', pixels(), lists)] * 2, CAPTION)


def figure_9(length=6, items=5):
    strips = [([pixels()] * length, 0.5)] * 3
    return item_strips.draw(
        [item_strips.Item(n + 1, probs(length), strips) for n in range(items)], CAPTION
    )


def figure_10(length=6, runs=2, known=True, name='run'):
    strips = [(name, strip(length, runs, known)) for name in ('in order', 'reversed')]
    rows = [attention_strips.AttentionRow('0001C1T0001', strips)] * 3
    return attention_strips.draw(rows, [f'{name} {i}' for i in range(runs)], CAPTION)


DRAWN = {
    '5': figure_5,
    '5, one run': lambda: figure_5(1),
    '5, long names': lambda: figure_5(2, LONG),
    '5, one run, a long name, one memory': lambda: figure_5(1, LONG, False),
    '6': figure_6,
    '6, one item, one frame': lambda: figure_6(1, 1),
    '7': figure_7,
    '7, no truth, L=4': lambda: figure_7(4, False),
    '8': figure_8,
    '8, a small gallery': lambda: figure_8(3),
    '9': figure_9,
    '9, L=4': lambda: figure_9(4),
    '9, L=10': lambda: figure_9(10, 2),
    '10': figure_10,
    '10, L=4, one run, no truth': lambda: figure_10(4, 1, False),
    '10, L=10': lambda: figure_10(10),
    '10, long names': lambda: figure_10(name=LONG),
}


@pytest.fixture(params=DRAWN, scope='module')
def figure(request):
    return DRAWN[request.param]()


@pytest.mark.slow
def test_every_text_is_readable_and_inside_and_the_caption_is_there(figure):
    renderer = FigureCanvasAgg(figure).get_renderer()
    figure.draw(renderer)
    width, height = figure.get_size_inches() * figure.dpi
    texts = [text for text in figure.findobj(Text) if text.get_text() and text.get_visible()]
    assert ' '.join(CAPTION.split()) in [' '.join(text.get_text().split()) for text in texts]
    for text in texts:
        assert text.get_fontsize() >= TEXT
        box = text.get_window_extent(renderer)
        inside = box.x0 >= -1 and box.y0 >= -1 and box.x1 <= width + 1 and box.y1 <= height + 1
        assert inside, (text.get_text(), box, (width, height))
    assert figure.get_size_inches()[0] <= PAGE and figure.get_size_inches()[1] < 9.5


def test_no_two_panels_overlap(figure):
    boxes = [axes.get_position() for axes in figure.axes]
    for i, one in enumerate(boxes):
        for other in boxes[i + 1 :]:
            apart_x = one.x1 <= other.x0 + 1e-9 or other.x1 <= one.x0 + 1e-9
            apart_y = one.y1 <= other.y0 + 1e-9 or other.y1 <= one.y0 + 1e-9
            assert apart_x or apart_y


@pytest.mark.slow
def test_the_numbers_of_panels():
    assert len(figure_5(1).axes) == 2 + 1 and len(figure_5(2).axes) == 4 + 1  # and the colour bar
    assert len(figure_6(3, 2).axes) == 6
    assert len(figure_7(2).axes) == 4 * 2 * 2 + 1
    assert len(figure_8(3).axes) == 2 * (1 + 2 * 3)
    assert len(figure_9(2, 2).axes) == 2 * (3 * 2 + 1)
    assert len(figure_10(2).axes) == 3 * 2 * (2 + 1)


@pytest.mark.slow
def test_one_run_fits_a_column_and_two_a_page():
    assert figure_5(1).get_size_inches()[0] == COLUMN
    assert figure_5(2).get_size_inches()[0] == PAGE


def test_the_map_holds_the_probabilities_as_they_are():
    figure = figure_5(1)
    (mesh,) = figure.axes[0].collections
    assert np.array_equal(mesh.get_array().reshape(10, 10), probs(10, 10))
    assert figure.axes[0].yaxis_inverted()  # the first query on top
    assert mesh.get_clim() == (0, 1)


@pytest.mark.parametrize(
    ('spatial', 'temporal', 'wanted'),
    [
        (
            1,
            1,
            'spatial queries of random positions in random frames of the gallery, temporal '
            'queries of the clips that those lie in',
        ),
        (1, 0, 'spatial queries of random positions in random frames of the gallery'),
        (0, 1, 'temporal queries of random clips of the gallery'),
    ],
)
def test_the_caption_names_the_memories_that_are_drawn(spatial, temporal, wanted):
    one = np.ones((2, 3))
    maps = probability_maps.ProbabilityMaps('', one if spatial else None, one if temporal else None)
    assert probability_maps._queries_in_words([maps]) == wanted


def test_the_box_marks_the_position():
    axes = figure_6(1, 1).axes[0]
    for box in axes.patches:  # row 3, column 1 of 4 x 2 in a picture of 128 x 64
        assert (box.get_x(), box.get_y()) == (1 * 32 - 0.5, 3 * 32 - 0.5)
        assert (box.get_width(), box.get_height()) == (32, 32)


def test_right_and_wrong_differ_by_symbol_too():
    texts = [text.get_text() for text in figure_8().texts]
    assert texts.count('✓') == texts.count('✗') == 2 * 2 * 5


def test_bars_are_the_attention():
    axes = figure_10(4, 2).axes[4]  # after four pictures
    assert [bar.get_height() for bar in axes.patches] == pytest.approx([*probs(4)] * 2)


@pytest.mark.slow
@pytest.mark.parametrize('kind', ['png', 'svg'])
def test_files_are_whole_and_the_same_every_time(kind, tmp_path):
    bytes_of = []
    for folder in ('a', 'b'):
        (path,) = save_figure(figure_7(2), str(tmp_path / folder), 'figure-7', [kind])
        assert path == str(tmp_path / folder / f'figure-7.{kind}')
        with open(path, 'rb') as file:
            bytes_of.append(file.read())
    assert bytes_of[0] == bytes_of[1]
    if kind == 'png':
        with Image.open(path) as image:
            image.load()
            assert image.width == round(PAGE * 300)
    else:
        tree = ElementTree.fromstring(bytes_of[0])
        texts = [''.join(node.itertext()) for node in tree.iter() if node.tag.endswith('}text')]
        assert '0001C1T0001' in texts  # text stays text


def test_a_file_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / 'taken').write_text('a file')
    with pytest.raises(InputError, match='cannot write .*taken'):
        save_figure(figure_5(), str(tmp_path / 'taken'), 'figure-5')


@pytest.mark.slow
def test_drawing_leaves_matplotlib_as_it_was():
    before = dict(matplotlib.rcParams)
    figure_7(4)
    assert dict(matplotlib.rcParams) == before


def test_a_word_that_is_longer_than_a_line_is_broken():
    path = 'a-long-name/' * 20
    lines = wrap(f'Model: {path} (epoch 6)', 2.0)
    assert all(text_width(line) <= 2.0 for line in lines)
    assert ''.join(lines).replace(' ', '') == f'Model:{path}(epoch6)' and len(lines) < 12
    assert wrap('WWW', 0.01) == ['W', 'W', 'W']


def test_captions_are_wrapped_by_width():
    lines = wrap('iiii ' * 40 + 'WWWW ' * 40, 2.0)
    assert ' '.join(lines).split() == ['iiii'] * 40 + ['WWWW'] * 40
    assert len(lines[0]) > 2 * len(lines[-2])
    sheet = Sheet(COLUMN, 1, CAPTION)
    assert sheet.height > 1 + len(wrap(CAPTION, COLUMN)) * 0.12


# --- overlay -------------------------------------------------------------------------------------
def test_no_difference_is_the_grey_picture():
    grey = refinement_maps.overlay(pixels(), np.zeros((4, 2)), 1.0)
    expected = pixels() @ np.array([0.299, 0.587, 0.114])
    assert np.abs(grey - expected[..., None]).max() <= 0.5 + 1e-9


def test_shorter_is_purple_and_longer_is_orange_and_beyond_the_limit_nothing_changes():
    black = np.zeros((8, 4, 3), dtype=np.uint8)
    shorter = refinement_maps.overlay(black, np.full((2, 1), -1.0), 1.0)[0, 0]
    longer = refinement_maps.overlay(black, np.full((2, 1), 1.0), 1.0)[0, 0]
    assert shorter[2] > shorter[0] > shorter[1] and longer[0] > longer[1] > longer[2]
    beyond = refinement_maps.overlay(black, np.full((2, 1), 5.0), 1.0)[0, 0]
    assert (beyond == longer).all()


def test_the_map_is_bilinear():
    white = np.full((4, 4, 3), 255, dtype=np.uint8)
    column = refinement_maps.overlay(white, np.array([[1.0, 0.0]]), 1.0)[0].astype(int)
    # centres of two cells on four pixels: 1, 0.75, 0.25, 0
    each = [refinement_maps.overlay(white, np.array([[v]]), 1.0)[0, 0] for v in (1, 0.75, 0.25, 0)]
    assert np.abs(column - np.array(each)).max() <= 1


# --- what is chosen ------------------------------------------------------------------------------
def tracklet(name, pid=1, camid=0):
    return ([f'root/{pid:04d}/{name}F001.jpg', f'root/{pid:04d}/{name}F002.jpg'], pid, camid, 0)


GALLERY = [tracklet(f'0002C{c}T000{n}', 2, c) for c in range(4) for n in range(4)]
QUERY = [tracklet('0002C5T0001', 2, 5), tracklet('0003C1T0001', 3, 1)]  # the second has no match


def test_a_query_that_the_gallery_holds_is_there_once():
    target = unite_splits(QUERY, [*GALLERY, QUERY[1]])
    assert target.all == [*QUERY, *GALLERY]
    assert target.query.tolist() == [0, 1]
    assert target.gallery.tolist() == [*range(2, 18), 1]


def test_a_query_whose_copy_the_gallery_holds_is_there_once(miniature_roots, tmp_path):
    """DukeMTMC-VideoReID has every query in both folders: other paths, the same frames."""
    _, query, gallery = read_duke(find_duke(str(miniature_roots['dukemtmcvidreid'])))[0]
    target = unite_splits(query, gallery)
    assert len(target.all) == len(gallery) and target.query.tolist() == list(range(len(query)))
    names = [[Path(path).name for path in paths] for paths, *_ in target.all]
    for rows, split in ((target.query, query), (target.gallery, gallery)):
        assert [names[row] for row in rows] == [[Path(p).name for p in t[0]] for t in split]
    assert find_tracklet(target.all, '/0001/0007/') == 0  # no second one of this name

    def own(split, content):
        path = tmp_path / split / 'anna' / 'cam1' / 't1' / '1.jpg'
        path.parent.mkdir(parents=True)
        path.write_bytes(content)
        return [((str(path),), 1, 0, 0)]

    # own tracklets may have the names of others in each split
    assert len(unite_splits(own('query', b'one'), own('gallery', b'other')).all) == 2


def test_the_seed_chooses_and_only_queries_with_a_match():
    target = unite_splits(QUERY, GALLERY)
    selection, again = (select_tracklets(target, [], seed=4) for _ in range(2))
    assert selection.shown == again.shown and np.array_equal(selection.places, again.places)
    assert set(selection.probes.tolist()) <= set(range(2, 18)) and len(set(selection.probes)) == 10
    assert selection.queries == [0]
    assert select_tracklets(target, [], seed=5).shown != selection.shown
    assert 'random (seed 4)' in selection.how


def test_names_select_tracklets():
    selection = select_tracklets(
        unite_splits(QUERY, GALLERY), ['0002C1T0002', '0003C1T0001'], seed=0
    )
    assert selection.shown == [2 + 4 + 2, 1] and selection.queries == [1]
    for word, count in (('0002', 17), ('nobody', 0)):
        with pytest.raises(InputError, match=f'--tracklets {word}: .*of one .* not of {count}'):
            find_tracklet(unite_splits(QUERY, GALLERY).all, word)


def test_items_are_all_or_drawn():
    assert shown_items(5, Options()) == shown_items(5, Options(items=7)) == [0, 1, 2, 3, 4]
    drawn = shown_items(20, Options(items=3, seed=1))
    assert drawn == sorted(set(drawn)) and len(drawn) == 3 and max(drawn) < 20


def test_dollars_in_names_are_letters(tmp_path):
    name = 'run a$_$b'
    sheet = Sheet(COLUMN, 1, f'{CAPTION} {name}')
    sheet.text(0.1, 0.1, name)
    axes = sheet.axes(0.5, 0.3, 2, 0.4)
    axes.set(title=name, xlabel=name)
    axes.set_xticks([0], [name])
    (path,) = save_figure(sheet.figure, str(tmp_path), name, ['svg'])
    texts = [''.join(e.itertext()).strip() for e in ElementTree.parse(path).iter()]
    assert texts.count(name) >= 4


def test_highest_by_hand():
    probs_ = np.array([0.1, 0.9, 0.5, 0.9])
    assert highest(probs_, 3, np.arange(4)) == [1, 3, 2]
    assert highest(probs_, 3, np.array([7, 5, 4, 5])) == [1, 2, 0]  # each tracklet once


def test_a_place_is_the_same_share_of_any_grid():
    for shape in ((4, 4, 2), (6, 16, 8)):
        values = np.random.default_rng(0).random((*shape, 3))
        view = ClipView(0, np.arange(shape[0]), {'spatial_probs': values})
        frame, row, column = (
            int(share * n) for share, n in zip((0.5, 0.99, 0), shape, strict=True)
        )
        assert (at_place(view, (0.5, 0.99, 0)) == values[frame, row, column]).all()


def test_titles_can_be_given_back_as_names():
    paths = {
        'root/0033/0033C1T0001F001.jpg': '0033C1T0001',
        'root/gallery/0012/0345/0012C1F0007.jpg': '0012/0345',
        'root/alice/door/first/1.png': 'door/first',
    }
    for path, title in paths.items():
        run = SimpleNamespace(tracklets=SimpleNamespace(all=[([path], 1, 0, 0)]))
        assert tracklet_title(run, 0) == title and title in path


def test_pictures_have_one_size_and_bad_ones_are_grey_when_they_may_be(tmp_path):
    path = str(tmp_path / 'frame.png')
    Image.new('RGB', (30, 70), (200, 10, 10)).save(path)
    assert thumbnail(path).shape == (HEIGHT, WIDTH, 3) and (thumbnail(path)[..., 0] == 200).all()
    with pytest.raises(InputError, match='missing.jpg'):
        thumbnail(str(tmp_path / 'missing.jpg'))
    assert (thumbnail(str(tmp_path / 'missing.jpg'), skip_bad=True) == 127).all()
