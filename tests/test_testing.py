"""What an evaluation says it did, and in which order it writes and prints."""

import contextlib
import io
import json

import numpy as np
import pytest
import torch
from torch import nn

import stmn_plugin
from stmn_plugin.data import VideoDataManager
from stmn_plugin.errors import InputError
from stmn_plugin.evaluation.evaluator import Evaluator, Target
from stmn_plugin.evaluation.features import TrackletFeatures
from stmn_plugin.evaluation.pair_scores import scored_rows
from stmn_plugin.evaluation.protocols import results_table
from stmn_plugin.evaluation.searched import count_searched
from stmn_plugin.evaluation.settings import TestOptions, TestSettings
from stmn_plugin.evaluation.testing import evaluate_targets
from stmn_plugin.host.engine import VideoEngine
from stmn_plugin.training.run_record import RunRecord

LISTS = Target(
    [(f'q{i}.jpg', i % 3, 0, 0) for i in range(6)], [(f'g{i}.jpg', i % 3, 1, 0) for i in range(9)]
)


def evaluator(features, model=None, **options):
    """Of images with the targets 'one' and 'two', whose features (15, D) are given."""

    def embed(tracklets, name):
        target, _, split = name.partition('-')
        if target not in features:
            raise InputError(f'{target}: a frame cannot be read')
        own = dict(zip(('query', 'gallery'), features[target].split([6, 9]), strict=True))[split]
        pids, camids = (np.array([tracklet[i] for tracklet in tracklets]) for i in (1, 2))
        return TrackletFeatures(own, pids, camids)

    settings = TestSettings(protocol='torchreid')
    targets = {'one': LISTS, 'two': LISTS}
    model = nn.Linear(1, 1) if model is None else model
    return Evaluator(model, embed, targets, settings, TestOptions(**options))


def some_features(seed):
    return torch.randn(15, 4, generator=torch.Generator().manual_seed(seed))


def test_what_a_target_gave_is_on_disk_when_the_next_one_fails(tmp_path, messages):
    with pytest.raises(InputError, match='two'):
        evaluate_targets(evaluator({'one': some_features(1)}), RunRecord(), str(tmp_path))
    kept = json.loads((tmp_path / 'metrics.json').read_text())
    assert [e['dataset'] for e in kept['evaluations']] == ['one'] and kept['bad_frames'] == []
    assert '##### one' in messages()


def test_results_are_on_disk_before_they_are_printed(tmp_path, monkeypatch):
    both, record = evaluator({'one': some_features(1), 'two': some_features(2)}), RunRecord()
    seen = []

    class Console(io.StringIO):
        def write(self, text):
            file = tmp_path / 'metrics.json'
            kept = json.loads(file.read_text())['evaluations'] if file.exists() else []
            seen.append((text, [e['dataset'] for e in kept]))
            return len(text)

    with contextlib.redirect_stdout(Console()):
        first, _ = evaluate_targets(both, record, str(tmp_path))
    for text, kept in seen:
        if 'one' in text:
            assert 'one' in kept
        if 'two' in text:
            assert kept == ['one', 'two']
    assert first.ranking.rank(1) == pytest.approx(record.evaluations[0]['rank-1'], abs=1e-6)


def test_a_collapsed_model_says_so(tmp_path, messages):
    both = evaluator({'one': torch.ones(15, 4), 'two': some_features(2)})
    evaluate_targets(both, RunRecord(), str(tmp_path))
    out = messages()
    assert 'Warning: The features of all tracklets of one are equal: the model collapsed.' in out
    assert out.count('Warning') == 1
    stored = json.loads((tmp_path / 'metrics.json').read_text())['evaluations']
    *_, head, _, first, second = results_table(stored).splitlines()
    assert head.split()[-1] == 'doubt' and first.split()[-1] == 'collapsed'
    assert second.split()[0] == 'two' and 'collapsed' not in second
    one, two = stored
    assert one['collapsed'] and one['num_query_tied'] == 6 and 'collapsed' in one['doubt']
    assert not two['collapsed'] and two['num_query_tied'] == 0 and two['doubt'] == ''


SEARCHED = {  # dataset, protocol → are the queries searched
    ('mars', 'official'): True,
    ('mars', 'torchreid'): False,
    ('dukemtmcvidreid', 'official'): True,
    ('dukemtmcvidreid', 'torchreid'): True,  # its gallery holds them
    ('lsvid', 'A'): True,
    ('lsvid', 'C'): False,
    ('tracklets', 'official'): False,
    ('tracklets', 'matlab'): False,
}


@pytest.mark.parametrize('name, protocol', list(SEARCHED), ids='-'.join)
def test_it_is_told_from_the_data_whether_queries_are_searched(name, protocol, miniature_roots):
    stmn_plugin.register()
    with contextlib.redirect_stdout(io.StringIO()):
        data = VideoDataManager(
            miniature_roots[name], name, height=32, width=16, batch_size_train=2, workers=0
        )
    model = nn.Linear(1, 1)
    engine = VideoEngine(data, model, None, testing=TestSettings(protocol), use_gpu=False)
    queries, tracklets = engine.evaluator().tracklets(name)
    expected = len(queries) if SEARCHED[name, protocol] else 0
    assert count_searched(queries, tracklets) == expected


class Pairs(nn.Linear):
    """Scores a pair by its inner product with a matrix that is not symmetric."""

    def __init__(self):
        super().__init__(4, 4, bias=False)
        self.pairs = 0

    def score_pairs(self, query, gallery):
        pairs = query[:, None] * self(gallery)[None]  # (q, g, D)
        self.pairs = max(self.pairs, len(query) * len(gallery))
        return pairs.sum(dim=2)


@pytest.mark.parametrize('limit', [1, 16 * 7, 16 * 24, 1 << 20])
def test_pairs_are_scored_in_chunks_of_queries_and_gallery(limit):
    torch.manual_seed(0)
    model, query, gallery = Pairs(), torch.randn(5, 4), torch.randn(11, 4)
    rows = torch.cat(list(scored_rows(query, gallery, model.score_pairs, limit=limit)))
    expected = [[-float(q @ model.weight.detach() @ g) for g in gallery] for q in query]
    torch.testing.assert_close(rows, torch.tensor(expected), rtol=1e-5, atol=1e-5)
    assert model.pairs <= max(limit // 16, 1)  # of 4 numbers of 4 bytes


def test_a_score_of_pairs_ranks_and_refuses_what_needs_distances():
    torch.manual_seed(0)
    model, features = Pairs(), some_features(1)
    found = evaluator({'one': features}, model).evaluate('one', epoch=3)
    aps = []
    for row in range(6):  # its protocol leaves nothing out: the gallery has another camera
        scores = [float(features[row] @ model.weight.detach() @ features[6 + g]) for g in range(9)]
        order = sorted(range(9), key=lambda g, scores=scores: -scores[g])
        hits = [place for place, g in enumerate(order, 1) if g % 3 == row % 3]
        aps.append(sum((n + 1) / place for n, place in enumerate(hits)) / len(hits))
    assert found.ranking.mean_ap == pytest.approx(sum(aps) / 6)
    assert (found.dist_metric, found.epoch) == ('score_pairs', 3)
    # every run has a metric: it is not used
    assert evaluator({'one': features}, model, dist_metric='cosine').evaluate(
        'one'
    ).dist_metric == ('score_pairs')
    for option, word in (
        ({'rerank': True}, 'test.rerank'),
        ({'normalize_feature': True}, 'test.normalize_feature'),
    ):
        with pytest.raises(InputError, match=f'{word}: Pairs scores pairs of tracklets itself'):
            evaluator({}, model, **option)
