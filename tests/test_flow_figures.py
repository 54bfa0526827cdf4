"""Figures of the systems: their shapes are those of the models' tensors, boxes stand apart."""

import importlib.util
import re
from itertools import combinations
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from stmn_plugin.comparing.table2 import SYSTEMS
from stmn_plugin.config import flatten, load_config
from stmn_plugin.models import ModelSpec, build_video_model

mkdocs = pytest.importorskip('mkdocs.exceptions')
REPOSITORY = Path(__file__).parent.parent
LETTERS = {'B': 3, 'L': 8, 'G': 5}


def module():
    spec = importlib.util.spec_from_file_location(
        'flow_figures', REPOSITORY / '.ci' / 'flow_figures.py'
    )
    found = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(found)
    return found


flow_figures = module()
is_shape = flow_figures.SHAPE.fullmatch


def block_of(name):
    text = (REPOSITORY / 'docs' / 'systems' / f'{name}.md').read_text(encoding='utf-8')
    [block] = re.findall(r'^```mermaid\n(.*?)^```$', text, re.DOTALL | re.MULTILINE)
    return block


class Shapes(TorchDispatchMode):
    """Notes the shape of every tensor that an operation gives."""

    def __init__(self):
        super().__init__()
        self.seen = set()

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        result = operation(*args, **(kwargs or {}))
        self.seen |= {tuple(one.shape) for one in tree_leaves(result) if torch.is_tensor(one)}
        return result


def shape(text):
    return tuple(eval(one.replace('·', '*'), LETTERS) for one in text.strip('()').split(','))


@pytest.mark.slow
@pytest.mark.parametrize('name', SYSTEMS)
def test_shapes_in_a_figure_are_those_of_tensors_and_the_last_is_the_result(name):
    words = 'model.name', name, 'video.seq_len', str(LETTERS['L'])
    cfg = load_config('configs/stmn_mars.yaml', [*words, 'part_aligned.vgg_weights', 'random'])
    with torch.device('meta'), torch.no_grad(), Shapes() as shapes:
        model = build_video_model(ModelSpec.from_config(flatten(cfg)), 4, pretrained=False).eval()
        shapes.seen.clear()  # of weights
        probe, gallery = (torch.empty(LETTERS[n], LETTERS['L'], 3, 256, 128) for n in 'BG')
        result = model(probe)
        if name == 'csa':  # its result is a score of pairs
            vectors = (
                model.encode_frames(clips.flatten(0, 1)).unflatten(0, clips.shape[:2])
                for clips in (probe, gallery)
            )
            result = model.score_pairs(*map(model.pair_features, vectors))
    boxes = flow_figures.parse(block_of(name)).boxes
    claimed = [shape(line) for box in boxes.values() for line in box if is_shape(line)]
    assert len(claimed) >= len(boxes) >= 4
    assert set(claimed) <= shapes.seen
    assert claimed[-1] == result.shape


@pytest.mark.parametrize('name', SYSTEMS)
def test_boxes_of_a_figure_stand_apart_within_it_and_arrows_go_down(name):
    figure = flow_figures.parse(block_of(name))
    places, gaps = flow_figures.layout(figure)
    svg = flow_figures.draw(block_of(name))
    width, height = map(float, re.search(r'viewBox="0 0 (\S+) (\S+)"', svg).groups())
    assert width < 720, 'wider than the column of a page: its letters would shrink'
    for box in places.values():
        assert box.x - box.width / 2 > 0 and box.x + box.width / 2 < width
        assert box.y > 0 and box.y + box.height < height
    stops = [*places.values(), *(gap for way in gaps.values() for gap in way)]
    for one, other in combinations(stops, 2):
        beside = abs(one.x - other.x) > (one.width + other.width) / 2
        assert beside or one.y + one.height < other.y or other.y + other.height < one.y
    for start, end in figure.arrows:
        assert places[start].y + places[start].height < places[end].y
    assert svg.count('<rect') == len(figure.boxes) and svg.count('<path') == len(figure.arrows)


@pytest.mark.parametrize(
    ('text', 'error'),
    [
        ('graph LR\n', "starts with 'flowchart TD', got 'graph LR'"),
        ('flowchart TD\n a["one"]\n', "boxes and arrows, .*got 'a"),
        ('flowchart TD\n a["one"] -.-> b["two"]\n', 'boxes and arrows'),
        ('flowchart TD\n a["one"] --> b\n', 'no text for b'),
        ('flowchart TD\n a["one"] --> b["two"]\n b --> a\n', 'in a circle'),
    ],
)
def test_a_block_that_is_not_understood_is_named_with_its_page(text, error):
    page = SimpleNamespace(file=SimpleNamespace(src_uri='systems/qan.md'))
    with pytest.raises(mkdocs.PluginError, match=rf'^systems/qan\.md: .*{error}'):
        flow_figures.on_page_markdown(f'```mermaid\n{text}```\n', page=page)


def test_a_page_gets_its_figure_in_place_of_the_block():
    block = 'flowchart TD\n  a["<i> & (x)<br>(B, L)"] --> b["two"]\n'
    html = flow_figures.on_page_markdown(f'before\n\n```mermaid\n{block}```\n\nafter', page=None)
    assert html.startswith('before\n\n<div><svg') and html.endswith('</svg></div>\n\nafter')
    assert '>&lt;i&gt; &amp; (x)</text>' in html
    assert re.findall(r'font-size="12">([^<]+)', html) == ['(B, L)']
