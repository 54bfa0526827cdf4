"""One-shot learning: split, schedule, pseudo-labels, files; its steps are in test_one_shot_run."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from references import eug as reference

from stmn_plugin.data.host_lists import Training
from stmn_plugin.data.train_list import (
    data_digest,
    labelled_anew,
    read_train_list,
    train_list,
    write_train_list,
)
from stmn_plugin.errors import InputError
from stmn_plugin.evaluation.evaluator import Evaluator
from stmn_plugin.evaluation.features import TrackletFeatures
from stmn_plugin.host import one_shot as procedure
from stmn_plugin.training.one_shot import (
    PseudoLabels,
    chosen_counts,
    draw_labelled,
    most_reliable,
    nearest_labels,
    nearest_of_rows,
)
from stmn_plugin.training.one_shot_files import (
    Split,
    read_chosen,
    read_split,
    split_of,
    write_chosen,
    write_split,
)

# --- schedule ------------------------------------------------------------------------------------

MARS, DUKEV = 7_673, 1_494  # unlabelled tracklets


def test_the_published_schedules():
    assert chosen_counts(MARS, 10) == [
        *(767, 1534, 2301, 3069, 3836, 4603, 5371, 6138, 6905, 7673, 7673)
    ]
    assert chosen_counts(MARS, 5)[:5] == [383, 767, 1150, 1534, 1918]
    assert chosen_counts(DUKEV, 10)[:5] == [149, 298, 448, 597, 747]
    assert chosen_counts(DUKEV, 5)[:5] == [74, 149, 224, 298, 373]
    assert chosen_counts(57, 10) == [5, 11, 17, 22, 28, 34, 39, 45, 51, 57, 57]
    assert [len(chosen_counts(MARS, p)) for p in (5, 10, 20, 30, 100)] == [21, 11, 6, 4, 2]
    assert chosen_counts(0, 10) == [0]


def trained_on(num_labelled, num_unlabelled, factor):
    return [num_labelled + m for m in [0, *chosen_counts(num_unlabelled, factor)[:-1]]]


def test_sizes_of_the_training_sets():
    assert trained_on(625, MARS, 10)[:3] == [625, 1392, 2159]
    assert trained_on(625, MARS, 10)[-1] == 8298
    assert trained_on(625, MARS, 30) == [625, 2926, 5228, 7530]
    assert trained_on(625, MARS, 100) == [625, 8298]
    assert sum(trained_on(625, MARS, 5)) == 93_682


@given(st.integers(1, 60), st.integers(1, 100))
def test_the_schedule_equals_the_slow_one(num_unlabelled, factor):
    assert trained_on(3, num_unlabelled, factor) == reference.sizes_trained_on(
        3, num_unlabelled, factor
    )


@pytest.mark.parametrize('factor', [0, 101, -5])
def test_an_impossible_factor_is_refused(factor):
    with pytest.raises(ValueError, match='from 1 to 100'):
        chosen_counts(10, factor)


# --- split ---------------------------------------------------------------------------------------


def test_the_labelled_tracklet_is_of_the_lowest_camera_that_has_one():
    rng = np.random.default_rng(0)
    pids = rng.permutation(np.repeat(np.arange(20), 7)).tolist()
    camids = rng.integers(1, 4, len(pids)).tolist()
    drawn = draw_labelled(pids, camids, 5)
    assert [pids[index] for index in drawn] == list(range(20))
    for index in drawn:
        assert camids[index] == min(
            camid for pid, camid in zip(pids, camids, strict=True) if pid == pids[index]
        )
    assert draw_labelled(pids, camids, 5) == drawn
    others = [draw_labelled(pids, camids, seed) for seed in range(40)]
    assert drawn not in others[:5] + others[6:]
    for pid, index in enumerate(drawn):  # each candidate is drawn by some seed
        candidates = {i for i in range(len(pids)) if pids[i] == pid and camids[i] == camids[index]}
        assert candidates == {other[pid] for other in others}
    torch.manual_seed(0), np.random.seed(0)
    state = np.random.get_state()[1].copy()
    draw_labelled(pids, camids, 5)
    assert (np.random.get_state()[1] == state).all()  # the generator is its own


def test_an_identity_with_one_tracklet_has_no_unlabelled_part():
    assert draw_labelled([4, 9], [2, 2], 0) == [0, 1]
    assert split_of([0, 2], 3) == Split([0, 2], [1])


# --- pseudo-labels -------------------------------------------------------------------------------


def test_the_example():
    labelled = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    unlabelled = torch.tensor([[0.8, 0.6], [0.8, 0.6], [0.96, 0.28], [0.0, 1.0]])
    found = nearest_labels(unlabelled, labelled, [0, 1])
    assert found.labels.tolist() == [0, 0, 0, 1]
    assert found.scores == pytest.approx([-0.6325, -0.6325, -0.2828, 0], abs=5e-5)
    picked = [most_reliable(found.scores, m).tolist() for m in range(1, 5)]
    assert picked == [[3], [3, 2], [3, 2, 0], [3, 2, 0, 1]]


@pytest.mark.parametrize('rows', [1, 4, 600])
def test_pseudo_labels_equal_the_loops(rows):
    generator = torch.Generator().manual_seed(rows)
    unlabelled = torch.randn(rows, 5, dtype=torch.float64, generator=generator)
    labelled = torch.randn(7, 5, dtype=torch.float64, generator=generator)
    identities = [3, 1, 4, 0, 6, 2, 5]
    found = nearest_labels(unlabelled, labelled, identities)
    labels, scores = reference.nearest(unlabelled.tolist(), labelled.tolist(), identities)
    assert found.labels.tolist() == labels
    assert found.scores == pytest.approx(scores, abs=1e-9)
    count = rows // 2
    assert most_reliable(found.scores, count).tolist() == reference.best_places(scores, count)


def test_order_and_length_of_features_do_not_matter():
    generator = torch.Generator().manual_seed(0)
    unlabelled = torch.randn(30, 4, generator=generator)
    labelled = torch.randn(6, 4, generator=generator)
    found = nearest_labels(unlabelled, labelled, range(6))
    order = torch.randperm(30, generator=generator)
    permuted = nearest_labels(unlabelled[order], labelled, range(6))
    assert (permuted.labels == found.labels[order.numpy()]).all()
    assert (permuted.scores == found.scores[order.numpy()]).all()
    longer = nearest_labels(64 * unlabelled, labelled / 8, range(6))
    assert (longer.labels == found.labels).all()
    assert longer.scores == pytest.approx(found.scores, abs=1e-12)


def test_a_perfect_feature_and_a_constant_one():
    one_hot = torch.eye(3)
    truth = [2, 0, 1, 1, 2]
    found = nearest_labels(one_hot[truth], one_hot, range(3))
    assert found.labels.tolist() == truth and not found.scores.any()
    assert most_reliable(found.scores, 3).tolist() == [0, 1, 2]
    found = nearest_labels(torch.full((600, 7), 0.3), torch.full((3, 7), 0.3), [2, 0, 1])
    assert set(found.labels.tolist()) == {2} and not found.scores.any()
    assert nearest_labels(torch.zeros(0, 3), one_hot, range(3)).labels.shape == (0,)


def test_a_score_of_pairs_takes_the_place_of_the_distance():
    found = nearest_of_rows([torch.tensor([[-1.0, -3.0, -3.0]]), torch.zeros(1, 3)], [5, 6, 7])
    assert found.labels.tolist() == [6, 5] and found.scores.tolist() == [3, 0]


class PrefersFar(torch.nn.Module):
    """Scores pairs itself, and against the distance."""

    join_scores = None

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))

    def score_pairs(self, query, gallery):
        return torch.cdist(query, gallery)


@pytest.mark.parametrize('model', [torch.nn.Linear(1, 1), PrefersFar()])
def test_a_network_that_scores_pairs_says_which_is_nearest(model):
    seen = []

    def embedder(tracklets, name):
        seen.extend(tracklets)
        features = torch.tensor([[float(paths[0]), 1.0] for paths, *_ in tracklets])
        labels = np.array([[pid, camid] for _, pid, camid, _ in tracklets])
        return TrackletFeatures(features, labels[:, 0], labels[:, 1])

    engine = SimpleNamespace(
        model=model, embedder=embedder, evaluator=lambda: Evaluator(model, embedder, {})
    )
    tracklets = [(('0',), 0, 5, 0), (('9',), 1, 5, 0), (('8',), 1, 6, 0), (('0.1',), 0, 6, 0)]
    found = procedure.estimate_labels(engine, tracklets, Split([0, 1], [2, 3]))
    scores_pairs = isinstance(model, PrefersFar)
    assert found.labels.tolist() == ([0, 1] if scores_pairs else [1, 0])
    assert (found.scores > 0).all() == scores_pairs
    assert {(pid, camid) for _, pid, camid, _ in seen} == {(-1, -1)}  # frames alone


# --- files ---------------------------------------------------------------------------------------


@pytest.fixture
def tracklets():
    """Identities 0, 1, 2 with two tracklets each, and a third one of identity 2."""
    return [
        ((f'{i}a.jpg', f'{i}b.jpg'), pid, i % 2, 0) for i, pid in enumerate((0, 0, 1, 1, 2, 2, 2))
    ]


def test_a_split_is_read_as_written(tracklets, tmp_path):
    path, split = str(tmp_path / 'split.json'), Split([1, 2, 4], [0, 3, 5, 6])
    write_split(path, split, tracklets, 7)
    assert read_split(path, tracklets) == split
    content = json.loads((tmp_path / 'split.json').read_text())
    assert content['seed'] == 7 and content['tracklets'] == 7
    assert content['labelled'][1] == {
        'index': 2, 'identity': 1, 'camera': 0, 'frames': 2, 'first_frame': '2a.jpg'
    }  # fmt: skip


@pytest.mark.parametrize(
    'change, said',
    [
        (lambda c: c['labelled'].pop(), 'one tracklet of each identity'),
        (lambda c: c['labelled'][0].update(index=2), 'one tracklet of each identity'),
        (lambda c: c['labelled'][0].update(index=7), 'beyond the last'),
        (lambda c: c['labelled'][0].update(index='1'), 'must hold "data"'),
        (lambda c: c.update(labelled=None), 'must hold "data"'),
        (lambda c: c.update(data='0'), 'is of other training data'),
        (lambda c: c.update(tracklets=8), r'other training data \(8 tracklets; these are 7\)'),
    ],
)
def test_a_split_that_does_not_fit_is_refused(change, said, tracklets, tmp_path):
    path = tmp_path / 'split.json'
    write_split(str(path), Split([1, 2, 4], [0, 3, 5, 6]), tracklets, 0)
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
    with pytest.raises(InputError, match=f'one_shot.split_file: .*{said}'):
        read_split(str(path), tracklets)


def test_what_a_step_has_chosen_is_read_as_written(tracklets, tmp_path):
    path, split = str(tmp_path / 'chosen-01.json'), Split([1, 2, 4], [0, 3, 5, 6])
    estimated = PseudoLabels(np.array([0, 1, 0, 2]), np.array([-0.3, -0.1, -0.2, -0.9]))
    write_chosen(path, estimated, 3, split, tracklets)
    chosen = read_chosen(path, 3, split)
    assert list(chosen.labels.items()) == [(3, 1), (5, 0), (0, 0)]
    assert chosen.right == pytest.approx(2 / 3) and chosen.right_of_all == 0.75
    rows = json.loads((tmp_path / 'chosen-01.json').read_text())['chosen']
    assert rows[1] == {'index': 5, 'label': 0, 'score': -0.2, 'right': False}
    for count, other in (
        (2, split),
        (3, Split([0, 2, 4], [1, 3, 5, 6])),
        (3, Split([1], [0, 3, 5])),
    ):
        with pytest.raises(InputError, match='chosen-01.json is damaged or of another split'):
            read_chosen(path, count, other)
    nothing = PseudoLabels(np.zeros(0, np.int64), np.zeros(0))
    write_chosen(path, nothing, 0, Split([1, 2, 4], []), tracklets)
    assert read_chosen(path, 0, Split([1, 2, 4], [])) == ({}, None, None)


def test_a_train_list_takes_the_place_of_tracklets_and_labels(tracklets, tmp_path):
    path = str(tmp_path / 'list.json')
    content = train_list([(5, 0), (1, 2)], tracklets)
    write_train_list(path, content)
    assert read_train_list(path) == content == ({1: 2, 5: 0}, data_digest(tracklets), 7)
    training = labelled_anew(Training(tracklets, 3, 2), path)
    assert training.tracklets == [(tracklets[1][0], 2, 1, 0), (tracklets[5][0], 0, 1, 0)]
    assert training.num_pids == 3
    for labels in ([(7, 0)], [(0, 3)]):
        write_train_list(path, train_list(labels, tracklets))
        with pytest.raises(InputError, match=r'data\.train_list: .* is beyond the 7 tracklets'):
            labelled_anew(Training(tracklets, 3, 2), path)


@pytest.mark.parametrize('place', range(4))
def test_data_are_other_data_when_any_part_of_a_tracklet_differs(place, tracklets):
    paths, pid, camid, dsetid = tracklets[3]
    changed = [((*paths, 'c.jpg'), pid, camid, dsetid), (('x', 'b'), pid, camid, dsetid),
               (paths, pid + 1, camid, dsetid), (paths, pid, camid + 1, dsetid)][place]  # fmt: skip
    assert data_digest([*tracklets[:3], changed, *tracklets[4:]]) != data_digest(tracklets)


@pytest.mark.parametrize(
    'text, said',
    [
        ('{', 'is no JSON'),
        ('[]', 'must hold'),
        ('{"labels": [[0, 1], [0, 2]], "data": "", "tracklets": 7}', 'none twice'),
        ('{"labels": [[0, -1]], "data": "", "tracklets": 7}', 'must hold'),
        ('{"labels": [[0, 1]], "data": "", "tracklets": 7}', 'is of other training data'),
        (None, 'cannot read'),
    ],
)
def test_a_train_list_that_does_not_fit_is_refused(text, said, tracklets, tmp_path):
    path = tmp_path / 'list.json'
    if text is not None:
        path.write_text(text)
    with pytest.raises(InputError, match=f'data.train_list: .*{said}'):
        labelled_anew(Training(tracklets, 3, 2), str(path))
