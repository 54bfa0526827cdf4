"""Figures, measures and the page are offered by the names that a model explains, and no others."""

import shutil
from types import SimpleNamespace

import miniatures
import numpy as np
import pytest
import torch

from stmn_plugin.config import load_config
from stmn_plugin.evaluation.settings import TestOptions
from stmn_plugin.host import runner
from stmn_plugin.looking.explained_run import explain_run, open_on_target
from stmn_plugin.looking.figure_parts import Options
from stmn_plugin.looking.figures import FIGURES
from stmn_plugin.looking.measures.run_measures import MEASURES, measure_run
from stmn_plugin.looking.report import rank_for_page
from stmn_plugin.models import VideoModel
from stmn_plugin.models.explanations import EXPLANATIONS

L = 4


class Brightness(VideoModel):
    """Weighs frames by how bright they are: a clip-wise toy that explains its attention alone."""

    def forward(self, clips):
        clips = self.as_clips(clips)
        return torch.einsum('bl,blc->bc', self.attention(clips), clips.mean(dim=(3, 4)))

    def attention(self, clips):
        return torch.softmax(clips.mean(dim=(2, 3, 4)), dim=1)

    def explain(self, clips):
        return {'attention': self.attention(clips)}

    def backbone(self):
        return self


class Wrong(Brightness):
    def explain(self, clips):
        return {'attention': self.attention(clips)[:, :, None]}


@pytest.fixture
def open_toy(repository, small_run, monkeypatch):
    """A run of a toy model on a folder of data."""

    def open_(toy, root, config='stmn_mars.yaml'):
        monkeypatch.setattr(runner, 'build_model', lambda cfg, count: toy(count, L, None))
        words = ['data.root', str(root), 'test.evaluate', 'True', *small_run]
        words += ['synthetic.preset', 'tiny'] if 'synthetic' in config else []
        cfg = load_config(str(repository / 'configs' / config), words)
        return open_on_target(cfg, 'toy')

    return open_


@pytest.mark.slow
def test_attention_alone_has_its_figures_measures_and_page(open_toy, mars_root):
    opened = open_toy(Brightness, mars_root)
    assert opened.explains == {'attention'}
    missing = {number: figure.missing(opened, None) for number, figure in FIGURES.items()}
    assert [number for number, reason in missing.items() if not reason] == [8, 10]
    assert missing[6] == 'the model has no spatial memory (spatial_probs)'
    run = explain_run(opened)
    for number in (8, 10):
        caption = FIGURES[number].make(run, None, Options()).caption
        assert caption.startswith(f'Figure {number}. ')
    measures = measure_run(run)
    assert measures.keys() == MEASURES.keys()
    assert {name for name, one in measures.items() if one.values} == {'temporal_attention'}
    assert measures['spatial_usage'].verdict == 'The model has no spatial memory (spatial_probs).'
    assert measures['attention_and_visibility'].verdict.startswith('No truth for this dataset')

    browser = rank_for_page(run.opened, TestOptions())
    assert browser.data['memory'] is None
    for tracklet in browser.data['tracklets']:
        assert len(tracklet['attention']) == L
        assert sum(tracklet['attention']) == pytest.approx(1, abs=1e-3)


@pytest.mark.slow
def test_attention_alone_is_measured_against_the_truth(open_toy, tmp_path):
    run = explain_run(open_toy(Brightness, tmp_path, 'stmn_synthetic.yaml'))
    assert run.truth.distractor_share is None
    measured = {name for name, one in measure_run(run).items() if one.values}
    assert measured == {'temporal_attention', 'attention_and_visibility'}
    assert np.isfinite(run.statistics.attention).all()


def test_no_training_set_is_needed(open_toy, tmp_path):
    root = miniatures.make_mars(tmp_path)
    shutil.rmtree(root / 'mars' / 'bbox_train')
    opened = open_toy(Brightness, root)
    assert measure_run(explain_run(opened))['temporal_attention'].values
    assert rank_for_page(opened.opened, TestOptions()).data['tracklets']


def test_a_model_that_explains_in_another_shape_is_told_at_once(open_toy, mars_root):
    with pytest.raises(ValueError, match=r'attention has shape \(1, 4, 1\), not \(1, 4\)'):
        open_toy(Wrong, mars_root)


def run_that_explains(*names, queries=(0,)):
    return SimpleNamespace(explains=frozenset(names), selection=SimpleNamespace(queries=queries))


def test_figures_say_what_is_missing():
    plain, spatial = run_that_explains('frame_norms'), run_that_explains('spatial_probs')
    no_memory = 'no model has a spatial memory (spatial_probs) or temporal memory (temporal_probs)'
    assert FIGURES[5].missing(plain, None) == FIGURES[5].missing(plain, plain) == no_memory
    assert FIGURES[5].missing(plain, spatial) == FIGURES[5].missing(spatial, plain) == ''
    # the other run cannot stand in for what this one lacks
    assert FIGURES[6].missing(plain, spatial) == 'the model has no spatial memory (spatial_probs)'
    assert FIGURES[6].missing(spatial, None) == ''
    assert (
        FIGURES[7].missing(plain, None) == 'the model has no refined feature maps (refined_norms)'
    )
    without_queries = run_that_explains(queries=())
    assert FIGURES[8].missing(without_queries, plain) == 'none of the tracklets is a query'
    assert FIGURES[8].missing(run_that_explains(), None) == ''


def test_every_figure_and_measure_needs_names_that_are_known():
    for one in (*FIGURES.values(), *MEASURES.values()):
        assert {*one.needs, *getattr(one, 'needs_any', ())} <= EXPLANATIONS.keys()
