"""Scores of pairs of clips: what is kept of a tracklet, and how rows of distances come of it."""

import contextlib
import io

import numpy as np
import pytest
import torch
from torch import nn

import stmn_plugin
from stmn_plugin.data import VideoDataManager
from stmn_plugin.data.frame_samplers import ClipPlan
from stmn_plugin.data.tracklets import Target
from stmn_plugin.errors import InputError
from stmn_plugin.evaluation.distances import pairwise_distances
from stmn_plugin.evaluation.embedder import Embedder
from stmn_plugin.evaluation.evaluator import Evaluator, Searched
from stmn_plugin.evaluation.feature_store import FeatureFolder
from stmn_plugin.evaluation.features import (
    ClipFeatures,
    TrackletClips,
    TrackletFeatures,
    join_tracklets,
    kept_clips,
    mean_over_clips,
)
from stmn_plugin.evaluation.pair_scores import joined_rows, rescored_rows
from stmn_plugin.evaluation.settings import TestOptions, TestSettings
from stmn_plugin.models.base import VideoModel

L, HEIGHT, WIDTH, V = 4, 32, 16, 3


class Directed(VideoModel):
    """How near the last frame of a query's clip is to the first frame of the other clip."""

    frame_once = True
    takes_any_length = True

    def __init__(self):
        super().__init__(2, L, None)
        torch.manual_seed(0)
        self.layer = nn.Linear(3 * HEIGHT * WIDTH, V)
        self.pairs = 0

    def forward(self, clips):
        return self.embed(self.encode_frames(clips.flatten(0, 1)).unflatten(0, clips.shape[:2]))

    def backbone(self):
        return self.layer

    def encode_frames(self, frames):
        return self.layer(frames.flatten(1)).tanh()

    def embed(self, vectors):
        return vectors.mean(dim=1)

    def pair_features(self, vectors):
        return torch.cat([vectors[:, 0], vectors[:, -1]], dim=1)  # (B, 2 * V)

    def score_pairs(self, query, gallery):
        self.pairs = max(self.pairs, len(query) * len(gallery))
        return -(query[:, None, V:] - gallery[None, :, :V]).abs().sum(dim=2)

    def join_scores(self, scores):
        assert scores.dim() == 4
        return scores.flatten(2).amax(dim=2) + scores[:, :, 0].mean(dim=2)


class WholeClips(Directed):
    frame_once = False

    def forward(self, clips):
        vectors = self.encode_frames(clips.flatten(0, 1)).unflatten(0, clips.shape[:2])
        return super().pair_features(vectors)


def some_clips(counts, seed):
    generator = torch.Generator().manual_seed(seed)
    return TrackletClips(torch.randn(sum(counts), 2 * V, generator=generator), np.array(counts))


def parts(clips):
    """What is kept of each tracklet."""
    return clips.features.split(clips.counts.tolist())


def slow_row(query, gallery, model):
    """Distances of one tracklet's clips to those of others, clip by clip."""
    row = []
    for theirs in gallery:
        scores = torch.tensor(
            [[float(-(a[V:] - b[:V]).abs().sum()) for b in theirs] for a in query]
        )
        row.append(-float(scores.max() + scores[0].mean()))
    return row


@pytest.mark.parametrize('limit', [1, 24 * 5, 24 * 40, 1 << 20])
@pytest.mark.parametrize(
    'counts', [([2, 1, 1, 3, 7, 1], [3, 1, 1, 9, 2, 2, 3, 1]), ([1] * 5, [1] * 6)], ids=str
)
def test_clips_are_scored_in_chunks_and_joined(counts, limit, monkeypatch):
    monkeypatch.setattr('stmn_plugin.evaluation.pair_scores.QUERIES_AT_ONCE', 4)
    model, query, gallery = Directed(), some_clips(counts[0], 1), some_clips(counts[1], 2)
    chunks = list(joined_rows(query, gallery, model.score_pairs, model.join_scores, limit=limit))
    assert [len(rows) for rows in chunks] == [4, len(counts[0]) - 4]
    expected = [slow_row(one, parts(gallery), model) for one in parts(query)]
    torch.testing.assert_close(torch.cat(chunks), torch.tensor(expected))
    assert model.pairs <= max(limit // 24, 1)  # of 6 numbers of 4 bytes


def test_what_is_compared_of_clips_is_kept_in_the_order_of_tracklets():
    clips = kept_clips(
        [
            ClipFeatures(None, None, torch.tensor(own), torch.tensor(stands), torch.tensor(pairs))
            for own, stands, pairs in (
                ([1, 0, 0], [False, True, False], [[1.0], [2.0], [3.0]]),
                ([2, 0, 1, 2], [True, False, False, True], [[4.0], [5.0], [6.0], [7.0]]),
            )
        ],
        3,
    )
    # what stands in for clips that cannot be read is left out, if there is another
    assert clips.features.tolist() == [[3], [5], [1], [6], [4], [7]]
    assert clips.counts.tolist() == [2, 2, 2]


@pytest.fixture(scope='module')
def data(mars_root):
    stmn_plugin.register()
    with contextlib.redirect_stdout(io.StringIO()):
        return VideoDataManager(
            mars_root, 'mars', height=HEIGHT, width=WIDTH, seq_len=L, workers=0, use_gpu=False
        )


def embedder(model, plan, **options):
    return Embedder(model, plan, height=HEIGHT, width=WIDTH, batch_size=3, **options)


@pytest.mark.parametrize('frames', ['rrs', 'all'])
@pytest.mark.parametrize('kind', [Directed, WholeClips])
def test_the_clips_of_a_tracklet_are_kept(kind, frames, data, tmp_path):
    model, plan = kind().eval(), ClipPlan(L, frames)
    tracklets = data.test_dataset['mars']['gallery']
    found = embedder(model, plan)(tracklets)
    counts = [plan.count(len(paths)) for paths, *_ in tracklets]
    assert found.clips.counts.tolist() == counts
    assert max(counts) == 1 if frames == 'rrs' else max(counts) > 1
    for one, theirs in zip(tracklets[:5], parts(found.clips), strict=False):
        alone = embedder(model, plan)([one])  # the clips in their order
        torch.testing.assert_close(alone.clips.features, theirs)
    size = V if kind is Directed else 2 * V
    assert found.features.shape == (len(tracklets), size)
    if kind is Directed:  # from kept vectors, too
        store = FeatureFolder(str(tmp_path))
        again = embedder(model, plan, store=store)(tracklets, 'mars-gallery')
        torch.testing.assert_close(again.clips.features, found.clips.features)
    mirrored = embedder(model, plan, flip=True)(tracklets)
    assert mirrored.clips.features.shape == found.clips.features.shape
    assert not torch.allclose(mirrored.clips.features, found.clips.features, atol=1e-3)


def test_parts_are_joined_with_their_clips():
    two = [
        TrackletFeatures(torch.ones(2, 3), np.array([1, 2]), np.array([0, 0]), some_clips(c, 0))
        for c in ([1, 2], [3, 1])
    ]
    joined = join_tracklets(two)
    assert joined.clips.counts.tolist() == [1, 2, 3, 1] and len(joined.features) == 4
    assert torch.equal(joined.clips.features, torch.cat([part.clips.features for part in two]))
    plain = [part._replace(clips=None) for part in two]
    assert join_tracklets(plain).clips is None


def test_a_clip_that_is_not_finite_is_named():
    pairs = torch.zeros(3, 2)
    pairs[1, 0] = torch.nan
    owners = torch.tensor([0, 1, 1])
    none = torch.zeros(3, dtype=torch.bool)
    batch = ClipFeatures(torch.ones(3, 2), torch.ones(3).double(), owners, none, pairs)
    tracklets = [(['a.jpg'], 0, 0, 0), (['b.jpg'], 1, 0, 0)]
    with pytest.raises(InputError, match=r'NaN or infinite for 1 of 2 tracklets, first b\.jpg'):
        mean_over_clips([batch], tracklets)


@pytest.mark.parametrize('protocol', ['torchreid', 'official'])
def test_a_target_is_ranked_by_the_scores_of_clips(protocol, data):
    model, plan = Directed().eval(), ClipPlan(L, 'all')
    lists = data.test_dataset['mars']
    target = Target(lists['query'], lists['gallery'], gallery_needs_queries=True)
    settings, options = TestSettings(protocol, plan), TestOptions('cosine')
    evaluator = Evaluator(model, embedder(model, plan), {'mars': target}, settings, options)
    searched = evaluator.features('mars')
    query, gallery = searched
    adds = protocol == 'official'
    assert len(gallery.pids) == len(target.gallery) + adds * len(target.query)
    expected = [slow_row(one, parts(gallery.clips), model) for one in parts(query.clips)]
    rows = torch.cat(list(evaluator.distances(searched)))
    torch.testing.assert_close(rows, torch.tensor(expected))
    found = evaluator.rank('mars', searched, 0.0)
    # the metric of the run is not used, and not reported
    assert (found.dist_metric, found.feature_dim) == ('score_pairs', V)
    assert 0 < found.ranking.mean_ap <= 1 and not found.collapsed
    other = Searched(query, gallery._replace(features=gallery.features + 5))
    assert evaluator.rank('mars', other, 0.0).ranking.mean_ap == found.ranking.mean_ap
    for option in ({'rerank': True}, {'normalize_feature': True}):
        with pytest.raises(InputError, match='Directed scores pairs of tracklets itself'):
            Evaluator(model, embedder(model, plan), {}, settings, TestOptions(**option))


# --- the nearest are ordered anew ---


class Rescoring(Directed):
    """Adds how far the first frames of the mean clips are apart, in their order."""

    score_pairs = join_scores = None
    rescored = 3

    def rescore(self, query, gallery):
        assert query.shape == gallery.shape
        return 5 * (query[:, 0] - 2 * gallery[:, 1])


def slowly_rescored(row, own, others, model):
    """A row of distances whose nearest have changed places, one pair at a time."""
    nearest = sorted(range(len(row)), key=lambda place: row[place])[: model.rescored]
    keys = {j: row[j] + float(model.rescore(own[None], others[j][None])) for j in nearest}
    result = list(row)
    for distance, j in zip(
        sorted(row[j] for j in nearest), sorted(nearest, key=keys.get), strict=True
    ):
        result[j] = distance
    return result


@pytest.mark.parametrize('count', [1, 3, 6, 50])
def test_the_nearest_exchange_their_distances(count):
    model, generator = Rescoring(), torch.Generator().manual_seed(0)
    model.rescored = count
    rows, query, gallery = (
        torch.randn(size, generator=generator) for size in ((7, 6), (7, 4), (6, 4))
    )
    chunks = list(rescored_rows(rows.split(4), query, gallery, model.rescore, count))
    assert [len(chunk) for chunk in chunks] == [4, 3]
    expected = [
        slowly_rescored(*pair, gallery, model) for pair in zip(rows.tolist(), query, strict=True)
    ]
    found = torch.cat(chunks)
    torch.testing.assert_close(found, torch.tensor(expected), rtol=0, atol=0)
    assert torch.equal(found, rows) == (count == 1)
    assert torch.equal(found.sort(dim=1).values, rows.sort(dim=1).values)


@pytest.mark.parametrize('frames', ['rrs', 'all'])
def test_a_target_is_ranked_by_distances_whose_nearest_are_ordered_anew(frames, data):
    model, plan = Rescoring().eval(), ClipPlan(L, frames)
    lists = data.test_dataset['mars']
    target = Target(lists['query'], lists['gallery'], gallery_needs_queries=True)
    settings, options = TestSettings('official', plan), TestOptions('cosine')
    evaluator = Evaluator(model, embedder(model, plan), {'mars': target}, settings, options)
    searched = evaluator.features('mars')
    every_clip = embedder(Directed().eval(), plan)(target.query).clips
    means = torch.stack([one.mean(dim=0) for one in parts(every_clip)])
    torch.testing.assert_close(searched.query.clips.features, means)  # of the clips of a tracklet
    assert (searched.gallery.clips.counts == 1).all()
    query, gallery = searched.query, searched.gallery
    plain = pairwise_distances(query.features, gallery.features)
    others = gallery.clips.features
    expected = [
        slowly_rescored(row.tolist(), own, others, model)
        for row, own in zip(plain, query.clips.features, strict=True)
    ]
    found = torch.cat(list(evaluator.distances(searched)))
    torch.testing.assert_close(found, torch.tensor(expected), rtol=0, atol=1e-6)
    assert not torch.allclose(found, plain, atol=1e-4)
    assert evaluator.rank('mars', searched, 0.0).dist_metric == 'cosine, nearest 3 rescored'
    refused = r'Rescoring orders the nearest 3 of each query anew'
    for others in (
        {'options': TestOptions(rerank=True)},
        {'settings': TestSettings(verification=True)},
    ):
        with pytest.raises(InputError, match=refused):
            Evaluator(model, embedder(model, plan), {}, **others)
