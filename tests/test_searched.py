"""Which queries were searched, and whether features say anything, against plain loops."""

import math
import shutil

import numpy as np
import pytest
import torch

from stmn_plugin.evaluation.distances import distance_rows
from stmn_plugin.evaluation.features import TrackletFeatures
from stmn_plugin.evaluation.protocols import PROTOCOLS, Evaluation
from stmn_plugin.evaluation.ranking import score_queries, summarize
from stmn_plugin.evaluation.searched import count_searched, is_collapsed


def tracklet(folder, name, pid, camid, contents):
    paths = []
    for number, content in enumerate(contents):
        path = folder / name / f'{number:04}.jpg'
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        paths.append(str(path))
    return tuple(paths), pid, camid, 0


def test_a_query_is_searched_where_its_frames_are_among_the_searched(tmp_path):
    queries = [tracklet(tmp_path, f'q{i}', i, 0, [b'%d first' % i, b'x', b'%d last' % i]) for i in
               range(4)]  # fmt: skip
    paths, pid, camid, _ = queries[0]
    others = [
        tracklet(tmp_path, 'camera', 0, 1, [b'0 first', b'x', b'0 last']),
        tracklet(tmp_path, 'person', 1, 0, [b'0 first', b'x', b'0 last']),
        tracklet(tmp_path, 'longer', 0, 0, [b'0 first', b'x', b'x', b'0 last']),
        tracklet(tmp_path, 'first', 0, 0, [b'0 First', b'x', b'0 last']),
        tracklet(tmp_path, 'last', 0, 0, [b'0 first', b'x', b'0 lasT']),
    ]
    assert count_searched(queries, others) == 0
    assert count_searched(queries, others + queries) == 4
    shutil.copytree(tmp_path / 'q2', tmp_path / 'copies' / 'q2')
    copy = [str(tmp_path / 'copies' / 'q2' / f'{i:04}.jpg') for i in range(3)]
    assert count_searched(queries, [*others, (tuple(copy), 2, 0, 0)]) == 1
    shutil.rmtree(tmp_path / 'q2')  # a frame that is not there is no frame of another
    assert count_searched(queries, [*others, (tuple(copy), 2, 0, 0)]) == 0
    assert count_searched([(paths[0], pid, camid)], [(paths[0], pid, camid)]) == 1  # image data


def slow_collapse(parts, metric):
    rows = [row for part in parts for row in part.double().tolist()]
    if metric == 'cosine':
        rows = [[x / math.hypot(*row) if any(row) else 0.0 for x in row] for row in rows]
    mean = [sum(column) / len(rows) for column in zip(*rows, strict=True)]
    deviation = max(math.dist(row, mean) for row in rows)
    return deviation**2 <= 1e-6 * max(math.hypot(*row) for row in rows) ** 2


@pytest.mark.parametrize('metric', ['cosine', 'euclidean'])
@pytest.mark.parametrize('scale', [1.0, 1e20, 1e-30])
def test_equal_features_are_told_at_any_scale(metric, scale):
    draw = torch.Generator().manual_seed(0)
    base, noise = torch.randn(8, generator=draw), torch.randn(30, 8, generator=draw)
    cases = {
        'equal': base.expand(30, 8),
        'rounding': base + 1e-7 * noise,
        'apart': base + 0.1 * noise,
        'one apart': torch.cat([base.expand(29, 8), noise[:1]]),
        'lengths': base * torch.linspace(1, 2, 30)[:, None],
        'zeros': torch.zeros(30, 8),
    }
    for name, features in cases.items():
        parts = [features[:4] * scale, features[4:] * scale]
        expected = slow_collapse(parts, metric)
        assert is_collapsed(parts, metric) == expected, name
        known = {'equal': True, 'rounding': True, 'zeros': True, 'apart': False, 'one apart': False}
        assert expected == known.get(name, metric == 'cosine')


def evaluation_of(features, num_query=6):
    pids, camids = np.arange(len(features)) % 3, np.arange(len(features)) % 2
    query = TrackletFeatures(features[:num_query], pids[:num_query], camids[:num_query])
    gallery = TrackletFeatures(features[num_query:], pids[num_query:], camids[num_query:])
    protocol = PROTOCOLS['torchreid']
    rows = distance_rows(query.features, gallery.features, 'euclidean')
    labels = query.pids, gallery.pids, query.camids, gallery.camids
    scores = score_queries(rows, *labels)
    return Evaluation(
        dataset='mars',
        ranking=summarize(scores, len(gallery.pids)),
        protocol='torchreid',
        **protocol._asdict(),
        frames='rrs',
        flip=False,
        dist_metric='euclidean',
        reranked=False,
        num_query=num_query,
        num_gallery=len(gallery.pids),
        feature_dim=features.shape[1],
        seconds={},
        num_query_tied=int(scores.tied.sum()),
        collapsed=is_collapsed([query.features, gallery.features], 'euclidean'),
    )


def test_a_score_of_ties_says_so():
    some = torch.randn(30, 4, generator=torch.Generator().manual_seed(1))
    good = evaluation_of(some)
    assert good.doubt == '' and good.as_dict([1])['num_query_tied'] == 0
    collapsed = evaluation_of(torch.ones(30, 4))
    assert 'collapsed' in collapsed.doubt and collapsed.as_dict([1])['collapsed']
    assert collapsed.num_query_tied == collapsed.ranking.num_valid == 6
    two = torch.where(some[:, :1] > 0, 1.0, 2.0).expand(30, 4)  # two different features
    tied = evaluation_of(two)
    assert not tied.collapsed and tied.num_query_tied == 6
    assert 'order of the gallery' in tied.doubt and tied.as_dict([1])['doubt'] == tied.doubt
