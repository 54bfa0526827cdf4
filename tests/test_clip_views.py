"""An opened run: its views, against the model's own features and loops."""

from pathlib import Path

import numpy as np
import pytest
import torch

from stmn_plugin.config import load_config
from stmn_plugin.data.frame_samplers import ClipPlan
from stmn_plugin.datasets.synthetic import PRESETS, generate
from stmn_plugin.datasets.synthetic.truth import load_truth
from stmn_plugin.errors import InputError
from stmn_plugin.looking.clip_statistics import reduce_clips
from stmn_plugin.looking.clip_truth import clip_truth, find_truth
from stmn_plugin.looking.opened_run import (
    ClipView,
    config_of_file,
    config_of_run,
    open_run,
    view_clips,
)

L, H, W, M, N, D = 4, 4, 2, 10, 5, 512  # of the miniatures' models


@pytest.fixture
def open_with(repository, mars_root, small_run):
    """An untrained run on the miniature MARS whose refinement shows."""

    def open_(*words):
        config = str(repository / 'configs' / 'stmn_mars.yaml')
        words = ['data.root', mars_root, 'test.evaluate', 'True', *small_run, *words]
        run = open_run(load_config(config, words))
        memory = getattr(run.model, 'spatial_memory', None)
        if memory is not None:
            torch.manual_seed(1)
            with torch.no_grad():
                memory.bn.weight.uniform_(0.5, 2)
                memory.bn.bias.normal_()
                memory.bn.running_mean.normal_()
        return run

    return open_


def softmax(x):
    return np.exp(x) / np.exp(x).sum()


@pytest.mark.slow
def test_views_are_what_the_model_does(open_with):
    run = open_with()
    tracklets = run.targets['mars'].query
    views = list(view_clips(run, tracklets))
    assert [view.tracklet for view in views] == list(range(len(tracklets)))
    features = run.embedder(tracklets).features.numpy()
    assert np.stack([view['clip_feature'] for view in views]) == pytest.approx(features, abs=1e-5)

    model, view = run.model, views[3]
    plan = run.plan
    assert view.frames.tolist() == plan.clip(len(tracklets[3][0]), 0).tolist()
    ((clips, _),) = run.clips(tracklets[3:4])
    with torch.no_grad():
        maps = model.encoder(clips[0])
    original, queries = (
        m.double().numpy() for m in (maps.frame_features, maps.spatial_queries)
    )  # (L, D, H, W)
    memory = model.spatial_memory
    keys, values = (x.detach().double().numpy() for x in (memory.keys, memory.values))
    weight, bias, mean, var = (
        x.detach().double().numpy()
        for x in (memory.bn.weight, memory.bn.bias, memory.bn.running_mean, memory.bn.running_var)
    )
    refined = np.empty_like(original)
    for frame, row, column in np.ndindex(L, H, W):
        query = queries[frame, :, row, column]
        cosines = [q @ query / np.linalg.norm(q) / np.linalg.norm(query) for q in keys]
        probs = softmax(memory.scale * np.array(cosines))
        assert view['spatial_probs'][frame, row, column] == pytest.approx(probs, abs=1e-5)
        read = (probs @ values - mean) / np.sqrt(var + memory.bn.eps) * weight + bias
        before = original[frame, :, row, column]
        refined[frame, :, row, column] = before - read
        place = frame, row, column
        assert view['frame_norms'][place] == pytest.approx(np.linalg.norm(before), rel=1e-4)
        assert view['refined_norms'][place] == pytest.approx(
            np.linalg.norm(before - read), rel=1e-4
        )
        assert view['change_norms'][place] == pytest.approx(np.linalg.norm(read), rel=1e-4)
    assert view['frame_feature'] == pytest.approx(original.mean(axis=(0, 2, 3)), abs=1e-5)
    assert view['refined_feature'] == pytest.approx(refined.mean(axis=(0, 2, 3)), abs=1e-4)
    stored = model.temporal_memory.values.detach().double().numpy()
    assert view['temporal_probs'].shape == (N,) and view['temporal_probs'].sum() == pytest.approx(1)
    assert view['attention'] == pytest.approx(softmax(view['temporal_probs'] @ stored), abs=1e-6)


@pytest.mark.slow
def test_any_plan_has_views(open_with):
    run = open_with('test.batch_size', '3')
    tracklets = run.targets['mars'].gallery[:6]
    views = list(view_clips(run, tracklets, ClipPlan(L, 'all')))
    for row, (paths, *_) in enumerate(tracklets):
        frames = [view.frames for view in views if view.tracklet == row]
        assert len(frames) == -(-len(paths) // L)
        assert set(np.concatenate(frames).tolist()) == set(range(len(paths)))


def test_views_hold_the_names_that_the_model_explains(open_with):
    run = open_with('stmn.spatial_mode', 'none', 'stmn.temporal_mode', 'average')
    tracklets = run.targets['mars'].query[:2]
    assert run.explains == {'frame_norms', 'frame_feature', 'clip_feature'}
    for view in view_clips(run, tracklets):
        assert view.explained.keys() == run.explains
        assert 'frame_norms' in view and 'spatial_probs' not in view
    run = open_with('stmn.temporal_mode', 'mlp')
    (view,) = view_clips(run, tracklets[:1])
    assert 'temporal_probs' not in view and view['attention'].sum() == pytest.approx(1)


def test_a_model_of_the_host_explains_nothing(open_with):
    run = open_with('model.name', 'resnet18')
    assert run.explains == set()
    (view,) = view_clips(run, run.targets['mars'].query[:1])
    assert view.explained == {}


def test_a_folder_that_holds_no_run_is_named(tmp_path):
    with pytest.raises(InputError, match=f'{tmp_path} holds no trained run: no config'):
        config_of_run(str(tmp_path))
    (tmp_path / 'config.yaml').write_text('train:\n  max_epoch: 3\n')
    with pytest.raises(InputError, match='no weights .*model-best.pth.tar'):
        config_of_run(str(tmp_path))


def test_the_config_of_a_run_tests_its_best_weights(tmp_path):
    (tmp_path / 'config.yaml').write_text(
        'model:\n  pretrained: true\n  resume: auto\ndata:\n  root: there\n'
    )
    best = tmp_path / 'model' / 'model-best.pth.tar'
    best.parent.mkdir()
    best.touch()
    cfg = config_of_run(str(tmp_path), ['data.root', 'here'])
    assert cfg.model.load_weights == str(best) and cfg.test.evaluate
    assert (cfg.model.pretrained, cfg.model.resume, cfg.data.root) == (False, '', 'here')
    other = tmp_path / 'other.pth'
    other.touch()
    assert config_of_run(str(tmp_path), checkpoint=str(other)).model.load_weights == str(other)


def test_a_run_without_a_best_epoch_shows_its_last(tmp_path):
    (tmp_path / 'config.yaml').write_text('test:\n  best: none\n')
    (tmp_path / 'model').mkdir()
    for epoch in (2, 10):
        (tmp_path / 'model' / f'model.pth.tar-{epoch}').touch()
    last = str(tmp_path / 'model' / 'model.pth.tar-10')
    assert config_of_run(str(tmp_path)).model.load_weights == last
    (tmp_path / 'config.yaml').write_text('test:\n  best: mAP\n')
    with pytest.raises(InputError, match='no weights .*model-best.pth.tar'):
        config_of_run(str(tmp_path))


def test_a_config_file_tests_the_weights_it_is_told_and_resumes_nothing(tmp_path):
    file = str(tmp_path / 'config.yaml')
    Path(file).write_text('model:\n  pretrained: true\n  resume: auto\n')
    weights = tmp_path / 'x.pth'
    weights.touch()
    cfg = config_of_file(file, ['model.load_weights', str(weights)])
    assert (cfg.model.load_weights, cfg.model.resume) == (str(weights), '') and cfg.test.evaluate
    assert not cfg.model.pretrained and config_of_file(file).model.pretrained
    with pytest.raises(InputError, match='model.resume auto: '):
        config_of_file(file, ['model.resume', 'auto'])


def test_a_run_is_opened_in_its_own_precision(open_with, monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, 'allow_tf32', True)
    before = torch.get_float32_matmul_precision()
    try:
        open_with('train.tf32', 'False')
        assert not torch.backends.cudnn.allow_tf32
        open_with('train.tf32', 'True')
        assert torch.backends.cudnn.allow_tf32 and torch.get_float32_matmul_precision() == 'high'
    finally:
        torch.set_float32_matmul_precision(before)


# --- statistics ----------------------------------------------------------------------------------
def made_up_views(tracklets, seed=0):
    rng = np.random.default_rng(seed)
    for tracklet in tracklets:
        probs = rng.random((3, 2, 2, 4)) + 1e-3
        explained = {
            'attention': np.full(3, 1 / 3),
            'temporal_probs': np.array([0.25, 0.75]),
            'spatial_probs': (probs / probs.sum(axis=-1, keepdims=True)).astype(np.float32),
            'frame_norms': rng.random((3, 2, 2)).astype(np.float32),
            'refined_norms': rng.random((3, 2, 2)).astype(np.float32),
            'change_norms': rng.random((3, 2, 2)).astype(np.float32),
            'frame_feature': rng.random(6).astype(np.float32),
            'refined_feature': rng.random(6).astype(np.float32),
        }
        yield ClipView(tracklet, rng.integers(0, 50, 3), explained)


def test_statistics_are_what_loops_over_all_views_find():
    order = [0, 1, 1, 1, 2]  # the second tracklet has three clips
    views = list(made_up_views(order))
    found = reduce_clips(iter(views), 3, keep={1}, keep_changes=True)
    assert found.clip_tracklets.tolist() == order
    assert found.kept.keys() == {1} and found.kept[1] is views[1]
    for tracklet in range(3):
        own = [view for view in views if view.tracklet == tracklet]
        mean = sum(view['refined_feature'] for view in own) / len(own)
        assert found.refined_feature[tracklet] == pytest.approx(mean)
        for item in range(4):
            best = max(
                (view['spatial_probs'][(*place, item)], (view.frames[place[0]], *place[1:]))
                for view in own
                for place in np.ndindex(3, 2, 2)
            )
            assert found.spatial.best_probs[tracklet, item] == best[0]
            assert tuple(found.spatial.best_places[tracklet, item]) == best[1]
    for clip, view in enumerate(views):
        rows = view['spatial_probs'].reshape(-1, 4).astype(np.float64)
        outer = sum(np.outer(row, row) for row in rows) / len(rows)
        assert found.spatial.second_moments[clip] == pytest.approx(outer)
        entropies = [-sum(p * np.log(p) for p in row) for row in rows]
        assert found.spatial.entropies[clip] == pytest.approx(np.mean(entropies))
        assert found.change_energy[clip] == pytest.approx((view['change_norms'] ** 2).mean())
        assert (
            found.changes.norm_changes[clip] == view['refined_norms'] - view['frame_norms']
        ).all()


def test_an_item_that_nothing_addresses_has_its_place_in_a_frame_of_the_clip():
    """A softmax underflows to 0; clips need not hold frame 0."""
    (view,) = made_up_views([0])
    view['spatial_probs'][:] = [0, 1, 0, 0]
    found = reduce_clips([ClipView(0, np.array([7, 8, 9]), view.explained)], 1)
    assert found.spatial.best_probs.tolist() == [[0, 1, 0, 0]]
    assert found.spatial.best_places.tolist() == [[[7, 0, 0]] * 4]


def test_statistics_refuse_features_that_are_not_finite():
    views = list(made_up_views([0, 1]))
    views[1]['frame_norms'][0] = np.nan
    with pytest.raises(InputError, match='NaN'):
        reduce_clips(views, 2)


# --- truth ---------------------------------------------------------------------------------------
def test_the_truth_of_clips_is_that_of_their_frames(tmp_path):
    folder = generate(tmp_path / 'data', PRESETS['tiny'], workers=1)
    truth = load_truth(folder)
    names = [name for name in truth.tracklets if name.startswith('0005')][:2]
    spans = [truth.tracklets[name] for name in names]
    tracklets = [
        ([str(folder / 'mars' / 'bbox_test' / '0005' / n) for n in truth.names[span]], 5, 0, 0)
        for span in spans
    ]
    clips, frames = [0, 1, 1], np.array([[0, 2], [5, 1], [1, 1]])
    found = clip_truth(find_truth(tracklets), tracklets, clips, frames, (4, 2))
    masks = truth.masks()
    for clip, tracklet in enumerate(clips):
        for place, frame in enumerate(frames[clip]):
            row = spans[tracklet].start + frame
            assert found.visibility[clip, place] == truth.visibility[row]
            blocks = masks[row].reshape(4, 4, 2, 4).mean(axis=(1, 3))  # 16x8 cells on 4x2
            assert found.distractor_share[clip, place] == pytest.approx(blocks)
    with pytest.raises(InputError, match='does not know the frame other.jpg'):
        clip_truth(truth, [(['other.jpg'], 5, 0, 0)], [0], [[0]], (4, 2))


def test_other_datasets_have_no_truth(mars_root):
    path = f'{mars_root}/mars/bbox_test/0002/0002C1T0001F001.jpg'
    assert find_truth([([path], 2, 0, 0)]) is None
    assert find_truth([(['frame.jpg'], 2, 0, 0)]) is None and find_truth([]) is None
