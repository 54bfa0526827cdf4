"""One-shot learning in steps: split, schedule, pseudo-labels, files, and the whole procedure."""

import json
import multiprocessing
import os
import re
import shutil
import signal
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torchvision
from hypothesis import given
from hypothesis import strategies as st
from references import eug as reference
from test_distributed import narrow_resnet, reserved_port
from test_every_model import narrow_resnet as narrow_in_all_stages

from stmn_plugin.cli import one_shot, train
from stmn_plugin.config import load_config
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
from stmn_plugin.host import one_shot_start as start
from stmn_plugin.host.registration import register
from stmn_plugin.interrupt import Interrupted
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
from stmn_plugin.training.trainer import Trainer

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


# --- the procedure -------------------------------------------------------------------------------

TEXT = (
    'model.pretrained False eug.backbone resnet18 eug.embedding_dim 8 data.height 32 data.width 16 '
    'data.workers 0 video.seq_len 2 test.frames rrs train.max_epoch 2 train.batch_size 5 '
    'one_shot.factor 100'
)
WORDS = TEXT.split()
KILLED_AFTER = (0, 2, 6, 4, 3, 5, 8)  # whole files written by each process


def call(*words):
    """Run the command in this process → exit code."""
    try:
        one_shot.main([str(word) for word in words])
    except SystemExit as stop:
        return stop.code or 0
    return 0


@pytest.fixture(scope='module', autouse=True)
def narrow():
    """A step takes less than a second."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torchvision.models, 'get_model', narrow_resnet)
        yield


@pytest.fixture
def words(mars_root):
    def of(folder, *more):
        return ['--root', mars_root, *WORDS, 'data.save_dir', folder, *more]

    return of


@pytest.fixture(scope='module')
def whole(narrow, mars_root, tmp_path_factory):
    """The folder of a run that nothing disturbed."""
    folder = tmp_path_factory.mktemp('whole') / 'steps'
    assert call('--root', mars_root, *WORDS, 'data.save_dir', folder) == 0
    return folder


@pytest.fixture
def copied(whole, tmp_path):
    return shutil.copytree(whole, tmp_path / 'copied')


def content(path):
    return json.loads(path.read_text())


def weights(folder, step):
    path = folder / f'step-{step:02}' / 'model' / 'model.pth.tar-2'
    return torch.load(path, weights_only=True)['state_dict']


def assert_same_end(one, other):
    names = ['split.json', *sorted(path.name for path in one.glob('chosen-*.json'))]
    assert names == ['split.json', *sorted(path.name for path in other.glob('chosen-*.json'))]
    for name in names:
        assert content(one / name) == content(other / name)
    for step in range(2):
        own, others = weights(one, step), weights(other, step)
        assert own.keys() == others.keys()
        assert all(torch.equal(own[key], others[key]) for key in own)
    tables = [content(folder / 'steps.json')['steps'] for folder in (one, other)]
    for row in [row for table in tables for row in table]:
        for evaluation in row['evaluations']:
            for key in ('seconds', 'peak_memory'):
                del evaluation[key]
    assert tables[0] == tables[1]


def test_two_steps_on_mars(whole, mars_root):
    split, first, last = (
        content(whole / n) for n in ('split.json', 'chosen-01.json', 'chosen-02.json')
    )
    assert len(split['labelled']) == 10 and split['tracklets'] == 29 and split['seed'] == 0
    labelled = {row['index'] for row in split['labelled']}
    assert first['unlabelled'] == len(first['chosen']) == len(last['chosen']) == 19
    assert {row['index'] for row in first['chosen']} == set(range(29)) - labelled
    scores = [row['score'] for row in first['chosen']]
    assert scores == sorted(scores, reverse=True)
    assert first['right'] == first['right_of_all'] == sum(r['right'] for r in first['chosen']) / 19
    # what a step saw: its list, and no more
    lists = [content(whole / f'step-0{step}' / 'train_list.json')['labels'] for step in (0, 1)]
    assert lists[0] == sorted([row['index'], row['identity']] for row in split['labelled'])
    chosen = [[row['index'], row['label']] for row in first['chosen']]
    assert lists[1] == sorted(lists[0] + chosen)
    table = content(whole / 'steps.json')
    assert table['arch'] == 'eug' and table['factor'] == 100
    steps = table['steps']
    assert [row['trained_on'] for row in steps] == [10, 29]
    assert [row['pseudo_labels_right'] for row in steps] == [None, first['right']]
    assert [row['estimated_right'] for row in steps] == [
        first['right_of_all'],
        last['right_of_all'],
    ]
    results = content(whole / 'step-01' / 'metrics.json')['evaluations']
    assert steps[1]['evaluations'] == results and results[0]['epoch'] == 2
    text = (whole / 'steps.md').read_text()
    assert f'{100 * results[0]["mAP"]:.1f}' in text and 'one labelled tracklet' in text
    # each step begins anew, from the same start
    assert load_config(str(whole / 'step-01' / 'config.yaml')).model.load_weights == ''


def killed_command(words, allowed):
    """In a process of its own: end like kill -9 before the next file of many gets its name."""
    replace, done = os.replace, []

    def replace_or_die(*names):
        if len(done) == allowed:
            os.kill(os.getpid(), signal.SIGKILL)
        done.append(names)
        return replace(*names)

    os.replace = replace_or_die
    os._exit(call(*words))


def test_killed_at_any_moment_the_same_command_goes_on(whole, words, tmp_path):
    folder, codes = tmp_path / 'steps', []
    for allowed in (*KILLED_AFTER, 10_000):
        process = multiprocessing.get_context('fork').Process(
            target=killed_command, args=(words(folder), allowed)
        )
        process.start(), process.join()
        codes.append(process.exitcode)
    assert codes == [-signal.SIGKILL] * len(KILLED_AFTER) + [0]
    assert_same_end(whole, folder)


@pytest.mark.parametrize('place', ['in an epoch', 'before the choice', 'after it'])
def test_interrupted_in_and_between_steps_it_goes_on(
    place, copied, whole, words, monkeypatch, messages
):
    shutil.rmtree(copied / 'step-01')
    (copied / 'chosen-02.json').unlink()
    if place == 'before the choice':
        (copied / 'chosen-01.json').unlink()
        monkeypatch.setattr(procedure, 'write_chosen', stop)
    elif place == 'after it':
        monkeypatch.setattr(procedure, 'write_train_list', stop)
    else:
        update, taken = Trainer.update_weights, []

        def interrupt_in_epoch_2(trainer):
            update(trainer)
            taken.append(trainer.epoch)
            if taken == [0, 0, 0, 0, 0, 1, 1]:
                os.kill(os.getpid(), signal.SIGTERM)

        monkeypatch.setattr(Trainer, 'update_weights', interrupt_in_epoch_2)
    assert call(*words(copied)) == 128 + signal.SIGTERM
    monkeypatch.undo()
    assert (copied / 'step-01' / 'model' / 'unfinished.pth.tar').exists() == (
        place == 'in an epoch'
    )
    messages()
    assert call(*words(copied)) == 0
    resumed = {'in an epoch': 'after epoch 1 and batch 2', 'before the choice': 'after epoch 2'}
    assert resumed.get(place, 'starting from the beginning') in messages()
    assert_same_end(whole, copied)


def stop(*_, **__):
    raise Interrupted(signal.SIGTERM)


def test_a_finished_run_only_says_its_table_again(copied, words, messages, monkeypatch):
    monkeypatch.setattr(procedure, 'run', None)
    for step in (0, 1):
        shutil.rmtree(copied / f'step-0{step}' / 'model')
    assert call(*words(copied)) == 0
    assert 'right of all estimated' in messages()


def test_true_labels_of_unlabelled_tracklets_change_nothing(whole, words, tmp_path, monkeypatch):
    """Other identities are said of them: the same networks and the same choice."""
    from stmn_plugin.data import datamanager

    read, labelled = (
        start.read_training,
        [row['index'] for row in content(whole / 'split.json')['labelled']],
    )

    def read_lies(*arguments):
        training = read(*arguments)
        lies = [
            one if index in labelled else (one[0], (one[1] + 3) % 10, *one[2:])
            for index, one in enumerate(training.tracklets)
        ]
        return training._replace(tracklets=lies)

    for module in (start, datamanager):
        monkeypatch.setattr(module, 'read_training', read_lies)
    monkeypatch.setattr(start, 'draw_labelled', lambda *_: labelled)
    assert call(*words(tmp_path / 'steps')) == 0
    for step in (0, 1):
        own, others = weights(whole, step), weights(tmp_path / 'steps', step)
        assert all(torch.equal(own[key], others[key]) for key in own)
    chosen = [content(f / 'chosen-01.json')['chosen'] for f in (whole, tmp_path / 'steps')]
    for rows in chosen:
        for row in rows:
            del row['right']
    assert chosen[0] == chosen[1]


def bad(words, capsys):
    """The one line of a command that is refused."""
    assert call(*words) == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line.removeprefix('error: ')


@pytest.mark.parametrize(
    'more, said',
    [
        ('one_shot.factr 10', 'one_shot.factr.*nearest.*one_shot.factor'),
        ('one_shot.factor 0', 'one_shot.factor takes a whole number from 1 to 100'),
        ('one_shot.factor 101', 'one_shot.factor takes a whole number from 1 to 100'),
        ('one_shot.factor 7.5', 'one_shot.factor takes a whole number from 1 to 100'),
        ('one_shot.split_file no.json', 'one_shot.split_file: cannot read no.json'),
        ('train.batch_size 11', 'train.batch_size: no batch of 11'),
        ('train.max_epoch 0', 'train.max_epoch 0: the steps would train nothing'),
        ('test.evaluate True', 'test.evaluate True: one-shot learning sets this itself'),
        ('train.overwrite True', 'train.overwrite True: one-shot'),
        ('data.train_list list.json', 'data.train_list list.json: one-shot'),
        ('data.type image -a resnet18', 'data.type image: one-shot learning needs video'),
        ('-a eugg', "model.name: 'eugg' is no architecture; the nearest is 'eug'"),
        ('-s no_such', 'no_such'),
        ('data.validation_ids 99', 'holds out 99 of 10'),
    ],
)
def test_bad_input_is_one_line(more, said, words, capsys, tmp_path):
    assert re.search(said, bad(words(tmp_path / 'steps', *more.split()), capsys))


def test_a_folder_of_other_steps_is_refused(copied, words, capsys, whole, tmp_path):
    told = bad(words(copied, 'one_shot.split_seed', 1), capsys)
    assert 'one_shot.split_seed was 0, is 1' in told
    assert 'train.lr was 0.1, is 0.2' in bad(words(copied, 'train.lr', 0.2), capsys)
    assert 'train.max_epoch was 2, is 3' in bad(words(copied, 'train.max_epoch', 3), capsys)
    assert 'one_shot.factor was 100, is 50' in bad(words(copied, 'one_shot.factor', 50), capsys)
    # features give the pseudo-labels, and a step starts from given weights
    assert 'test.frames was' in bad(words(copied, 'test.frames', 'all'), capsys)
    assert 'test.flip was False, is True' in bad(words(copied, 'test.flip', True), capsys)
    clips = words(copied, 'test.clips_per_tracklet', 2)
    assert 'test.clips_per_tracklet was 1, is 2' in bad(clips, capsys)
    assert 'test.amp was' in bad(words(copied, 'test.amp', 'bf16'), capsys)
    begin = words(copied, 'model.load_weights', whole / 'step-00' / 'model' / 'model.pth.tar-2')
    assert 'model.load_weights was' in bad(begin, capsys)
    shutil.rmtree(copied / 'step-00')  # killed before it had a config
    told = bad(words(copied, 'one_shot.split_seed', 1), capsys)
    assert 'split.json is another split' in told
    # a split file of other data, here with identities held out
    given = ['one_shot.split_file', whole / 'split.json', 'data.validation_ids', 4]
    told = bad(words(tmp_path / 'other', *given), capsys)
    assert 'is of other training data (29 tracklets; these are ' in told
    damaged = copied / 'chosen-01.json'
    damaged.write_text('{}')
    assert 'chosen-01.json is damaged' in bad(words(copied), capsys)


def test_a_split_is_used_again(whole, words, tmp_path):
    """It is that of the file, whatever the seed."""
    folder, path = tmp_path / 'steps', tmp_path / 'given.json'
    given = content(whole / 'split.json')
    row = next(one for one in given['labelled'] if one['identity'] == 4)
    row['index'] += 1  # another tracklet of the same identity
    path.write_text(json.dumps(given))
    _, root, *pairs = map(str, words(folder, 'one_shot.split_file', path))
    cfg = load_config('one_shot_mars', ['data.root', root, *pairs])
    register(cfg)
    tracklets = start.training_set(cfg)
    folder.mkdir()
    split = start.split_of_folder(cfg, tracklets)
    assert split.labelled == [one['index'] for one in given['labelled']]
    assert content(folder / 'split.json')['seed'] is None
    assert start.split_of_folder(cfg, tracklets) == split


def test_a_dry_run_says_the_plan_and_writes_nothing(words, tmp_path, messages):
    assert call('--dry-run', *words(tmp_path / 'steps', 'one_shot.factor', 10)) == 0
    assert '10 labelled and 19 unlabelled tracklets' in messages()
    assert not (tmp_path / 'steps').exists()


def test_nothing_unlabelled_is_one_step(words, tmp_path, monkeypatch):
    read = start.read_training

    def read_first(*arguments):
        training = read(*arguments)
        first = {pid: one for one in reversed(training.tracklets) for pid in [one[1]]}
        return training._replace(tracklets=[first[pid] for pid in sorted(first)])

    monkeypatch.setattr(start, 'read_training', read_first)
    monkeypatch.setattr('stmn_plugin.data.datamanager.read_training', read_first)
    assert call(*words(tmp_path / 'steps', 'train.max_epoch', 1)) == 0
    assert len(content(tmp_path / 'steps' / 'steps.json')['steps']) == 1
    assert content(tmp_path / 'steps' / 'chosen-01.json')['chosen'] == []


@pytest.mark.slow
def test_a_warm_start_begins_where_the_last_step_ended(words, tmp_path):
    """Of an untrained second step nothing differs but the number of the epoch."""
    folder = tmp_path / 'steps'
    still = ['train.lr', 0, 'train.max_epoch', 1, 'train.weight_decay', 0]
    assert call(*words(folder, 'one_shot.warm_start', True, *still)) == 0
    config = load_config(str(folder / 'step-01' / 'config.yaml'))
    assert config.model.load_weights == str(folder / 'step-00' / 'model' / 'model.pth.tar-1')
    states = [
        torch.load(folder / f'step-0{step}' / 'model' / 'model.pth.tar-1', weights_only=True)
        for step in (0, 1)
    ]
    counts = [state['state_dict']['classifier.norm.num_batches_tracked'] for state in states]
    assert counts[1] == counts[0] + 5  # 29 clips in batches of 5, after those of step 0


@pytest.mark.slow
@pytest.mark.parametrize('arch', ['stmn', 'resnet18'])
@pytest.mark.parametrize('name', ['mars', 'dukemtmcvidreid', 'tracklets'])
def test_any_network_on_any_data(arch, name, miniature_roots, tmp_path):
    keys = ['stmn.backbone', 'resnet18', 'train.staged_lr', False, 'train.batch_size', 2]
    folder = tmp_path / 'steps'
    words = ['--root', miniature_roots[name], '-a', arch, '-s', name, '-t', name, *WORDS, *keys]
    assert call(*words, 'data.save_dir', folder, 'train.max_epoch', 1) == 0
    table = content(folder / 'steps.json')
    assert table['arch'] == arch and len(table['steps']) == 2
    assert all(row['evaluations'][0]['dataset'] == name for row in table['steps'])


def test_a_network_of_whole_clips(words, monkeypatch, tmp_path):
    """M3D joins frames inside its trunk: the labels are those of its clip features."""
    monkeypatch.setattr(torchvision.models, 'get_model', narrow_in_all_stages)
    folder = tmp_path / 'steps'
    own = ['-a', 'm3d', 'stmn.backbone', 'resnet18', 'train.new_layers', '[heads]']
    assert call(*words(folder, *own, 'train.max_epoch', 1)) == 0
    table = content(folder / 'steps.json')
    assert table['arch'] == 'm3d' and len(table['steps']) == 2
    assert len(content(folder / 'chosen-01.json')['chosen']) == 19
    state = torch.load(folder / 'step-01/model/model.pth.tar-1', weights_only=True)['state_dict']
    assert 'layers.0.convs.0.weight' in state


@pytest.mark.slow
def test_a_step_is_an_ordinary_run(copied, mars_root):
    """Its config trains it, or tests it, by the ordinary command."""
    config = copied / 'step-01' / 'config.yaml'
    test = ['test.evaluate', 'True', 'model.load_weights', copied / 'step-01/model/model.pth.tar-2']
    other = ['data.save_dir', copied / 'other', 'data.root', mars_root, 'model.resume', '']
    train.main(['--config', str(config), *map(str, [*test, *other])])
    results = [
        content(copied / name / 'metrics.json')['evaluations'][0] for name in ('other', 'step-01')
    ]
    assert results[0]['mAP'] == results[1]['mAP']


@pytest.mark.slow
def test_two_processes_take_the_steps_together(words, repository, tmp_path):
    keys = ['train.max_epoch', 1, 'train.batch_size', 4]
    with reserved_port() as port:
        done = subprocess.run(
            [
                *(sys.executable, '-m', 'torch.distributed.run', '--nproc-per-node', '2'),
                *('--master-port', str(port), str(repository / 'tools' / 'one_shot.py')),
                *map(str, words(tmp_path / 'steps', *keys)),
            ],
            env={**os.environ, 'OMP_NUM_THREADS': '1', 'PYTHONPATH': str(repository)},
            capture_output=True,
            text=True,
        )
    assert done.returncode == 0, done.stderr
    for line in ('Step 0 of 1', 'Step 1 of 1', 'Epoch 1/1', 'right of all estimated'):
        assert done.stdout.count(line) == (2 if line == 'Epoch 1/1' else 1), line
    steps = content(tmp_path / 'steps' / 'steps.json')['steps']
    assert [row['trained_on'] for row in steps] == [10, 29]
