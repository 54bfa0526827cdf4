"""Weights of frames that are known: loops for the rest, and the run's own ranking."""

import miniatures
import numpy as np
import pytest
import torch

from stmn_plugin.config import load_config
from stmn_plugin.datasets.synthetic import PRESETS, ensure, load_truth
from stmn_plugin.errors import InputError
from stmn_plugin.host import runner
from stmn_plugin.looking.explained_run import open_on_target
from stmn_plugin.looking.frame_weights import (
    EQUAL,
    OWN,
    WEIGHTINGS,
    embed_weighted,
    frame_weights,
    rank_weighted,
    read_clip_frames,
)
from stmn_plugin.looking.measures.ceilings import share_of_ceiling, verdict
from stmn_plugin.looking.measures.measure import Estimate
from stmn_plugin.models import STMN, VideoModel

L = 4


class Colours(VideoModel):
    """The colours of a frame's quarters, weighed by how bright the frame is."""

    frame_once = True

    def encode_frames(self, frames):
        return torch.nn.functional.adaptive_avg_pool2d(frames, 2).flatten(1)

    def embed(self, vectors):
        attention = torch.softmax(3 * vectors.mean(dim=2), dim=1)
        return torch.einsum('bl,blv->bv', attention, vectors)

    def forward(self, clips):
        clips = self.as_clips(clips)
        return self.embed(self.encode_frames(clips.flatten(0, 1)).unflatten(0, clips.shape[:2]))


class Whole(Colours):
    frame_once = False


@pytest.fixture(scope='module')
def synthetic_root(tmp_path_factory):
    root = tmp_path_factory.mktemp('synthetic')
    ensure(root, PRESETS['tiny'], workers=1)
    return root


@pytest.fixture
def open_toy(repository, small_run, monkeypatch):
    def open_(root, toy=Colours, config='stmn_synthetic.yaml'):
        monkeypatch.setattr(runner, 'build_model', lambda cfg, count: toy(count, L, None))
        words = ['data.root', str(root), 'test.evaluate', 'True', *small_run]
        words += ['synthetic.preset', 'tiny'] if 'synthetic' in config else []
        return open_on_target(load_config(str(repository / 'configs' / config), words), 'toy')

    return open_


def test_weights_by_hand():
    visibility = np.array([[0.5, 1.0, 0.0], [0.0, 0.0, 0.0], [0.2, 0.9, 0.9]], np.float32)
    expected = {
        'equal': [[1 / 3] * 3] * 3,
        'visibility': [[1 / 3, 2 / 3, 0], [1 / 3] * 3, [0.1, 0.45, 0.45]],
        'visibility^2': [[0.2, 0.8, 0], [1 / 3] * 3, [0.04 / 1.66, 0.81 / 1.66, 0.81 / 1.66]],
        'visibility^4': [[1 / 17, 16 / 17, 0], [1 / 3] * 3, None],
        'most visible': [[0, 1, 0], [1, 0, 0], [0, 1, 0]],
    }
    assert {OWN, *expected} == {*WEIGHTINGS}
    for name, rows in expected.items():
        found = frame_weights(visibility, name)
        assert found.sum(dim=1).tolist() == pytest.approx([1, 1, 1])
        for row, own in zip(rows, found.tolist(), strict=True):
            assert row is None or own == pytest.approx(row, abs=1e-6), name


@pytest.mark.parametrize(
    ('spatial', 'temporal'), [('memory', 'memory'), ('none', 'mlp'), ('none', 'average')]
)
def test_given_weights_take_the_place_of_the_attention_of_every_variant(spatial, temporal):
    torch.manual_seed(0)
    config = STMN.Config(backbone='resnet18', spatial_mode=spatial, temporal_mode=temporal)
    model = STMN(2, L, config, pretrained=False).eval()
    vectors = torch.rand(2, L, 512 if temporal == 'average' else 1024)
    weights = torch.softmax(3 * torch.randn(2, L), dim=1)
    found = embed_weighted(model, vectors, weights)
    for clip in range(2):
        mean = sum(weights[clip, i] * vectors[clip, i, :512] for i in range(L))
        expected = model.bnneck_clip(mean[None])[0]
        torch.testing.assert_close(found[clip], expected, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(found, model.embed(vectors), rtol=1e-3, atol=1e-3)


def test_the_own_weighting_is_the_runs_own_test(open_toy, synthetic_root):
    run = open_toy(synthetic_root)
    clips = read_clip_frames(run)
    scores = rank_weighted(run, clips)
    assert {*scores} == {*WEIGHTINGS}
    own = run.opened.evaluator().evaluate(run.target).ranking.mean_ap
    assert np.nanmean(scores[OWN].aps) == pytest.approx(own, abs=1e-6)
    assert np.nanmean(scores[EQUAL].aps) != pytest.approx(own, abs=1e-4)


def test_a_weighting_ranks_by_the_weighted_frames(open_toy, synthetic_root):
    """Cosine distances and average precision in loops, the visibility from the truth's own list."""
    run = open_toy(synthetic_root)
    clips = read_clip_frames(run)
    truth = load_truth(ensure(synthetic_root, PRESETS['tiny']))
    tracklets, plan = run.tracklets.all, run.opened.plan
    features = []
    for row, (paths, *_) in enumerate(tracklets):
        frames = [paths[index] for index in plan.clip(len(paths), 0)]
        seen = [float(truth.visibility[truth.names.index(p.split('/')[-1])]) for p in frames]
        place = clips.tracklets.tolist().index(row)
        assert clips.visibility[place] == pytest.approx(seen)
        squares = [value**2 for value in seen] if any(seen) else [1] * L
        vectors = clips.vectors[place].double()
        features.append(sum(s * v for s, v in zip(squares, vectors, strict=True)) / sum(squares))
    precisions = []
    for query in run.tracklets.query:
        _, pid, camera, _ = tracklets[query]
        found = []
        searched = [*run.tracklets.gallery, *run.tracklets.query]  # the official protocol
        for number, row in enumerate(searched):
            _, own_pid, own_camera, _ = tracklets[row]
            if own_pid == -1 or (own_pid, own_camera) == (pid, camera):
                continue
            cosine = torch.cosine_similarity(features[query], features[row], dim=0)
            found.append((-float(cosine), number, own_pid == pid))
        hits = [rank for rank, (*_, match) in enumerate(sorted(found), 1) if match]
        precisions.append(np.mean([n / rank for n, rank in enumerate(hits, 1)]))
    scores = rank_weighted(run, clips, ['visibility^2'])['visibility^2']
    assert scores.aps == pytest.approx(precisions, abs=1e-4)


def test_what_has_no_oracle_says_so(open_toy, synthetic_root, tmp_path):
    with pytest.raises(InputError, match='mars: visibility is known for synthetic data only'):
        read_clip_frames(open_toy(miniatures.make_mars(tmp_path), config='stmn_mars.yaml'))
    with pytest.raises(InputError, match='it has no vectors of single frames'):
        read_clip_frames(open_toy(synthetic_root, Whole))


# --- the share of a ceiling ---


def precisions(gain, seeds=3, queries=60, noise=0.1, seed=0):
    """Baseline, and a row that is better by ``gain`` a seed."""
    rng = np.random.default_rng(seed)
    baseline = rng.uniform(0.1, 0.5, (seeds, queries))
    gains = np.broadcast_to(np.reshape(gain, (-1, 1)), baseline.shape)
    return baseline, baseline + gains + rng.normal(0, noise, baseline.shape)


def test_the_share_is_a_ratio_of_means_over_matched_queries():
    baseline, row = precisions(0.05)
    _, oracle = precisions(0.2, seed=1)
    row[:, 7] = baseline[:, 7] = oracle[:, 7] = np.nan  # a query without a match
    measure = share_of_ceiling(row, baseline, oracle, np.repeat(np.arange(20), 3))
    kept = [q for q in range(60) if q != 7]
    gained = np.mean([row[s, q] - baseline[s, q] for s in range(3) for q in kept])
    possible = np.mean([oracle[s, q] - baseline[s, q] for s in range(3) for q in kept])
    values = {name: one.value for name, one in measure.values.items()}
    assert values['difference'] == pytest.approx(gained)
    assert values['ceiling'] == pytest.approx(possible)
    assert values['share'] == pytest.approx(gained / possible)
    for seed in range(3):
        own = np.mean([row[seed, q] - baseline[seed, q] for q in kept])
        assert values[f'difference_{seed + 1}'] == pytest.approx(own)
    assert measure.counts == {'seeds': 3, 'queries': 59}


@pytest.mark.parametrize(
    ('gain', 'noise', 'helps', 'word'),
    [
        ([0.05, 0.05, 0.05], 0.05, True, 'It helps'),
        ([0.2, 0.2, -0.02], 0.02, None, 'Undecided'),  # not in every seed
        ([0.02, 0.02, 0.02], 0.5, None, 'Undecided'),  # the interval holds 0
        ([-0.05, -0.05, -0.05], 0.05, False, 'It harms'),
        ([0.005, -0.005, 0.0], 0.005, False, 'It does not help'),
    ],
)
def test_verdicts_are_those_that_were_written_before(gain, noise, helps, word):
    baseline, row = precisions(gain, noise=noise)
    measure = share_of_ceiling(row, baseline, baseline + 0.3, np.repeat(np.arange(20), 3))
    assert measure.does_its_job is helps and measure.verdict.startswith(word), measure.verdict


def test_a_small_share_that_is_surely_a_gain_helps():
    tiny = Estimate(0.004, 0.001, 0.007)
    assert verdict(tiny, Estimate(0.02, 0.005, 0.04), [0.004, 0.003])[1] is True
    assert verdict(tiny, Estimate(0.02, 0.005, 0.04), [0.004, -0.003])[1] is False


def test_arrays_that_do_not_fit_are_quoted():
    baseline, row = precisions(0.1)
    with pytest.raises(ValueError, match=r'\(3, 60\).*\(59,\)'):
        share_of_ceiling(row, baseline, row, np.arange(59))
