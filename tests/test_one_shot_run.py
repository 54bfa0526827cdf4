"""The procedure of one-shot learning on miniatures: its steps, interruptions and refusals."""

import json
import multiprocessing
import os
import re
import shutil
import signal
import subprocess
import sys

import pytest
import torch
import torchvision
from miniatures import save_frame
from processes import reserved_port
from test_distributed_training import narrow_resnet
from test_every_model import narrow_resnet as narrow_in_all_stages

from stmn_plugin.cli import one_shot, train
from stmn_plugin.config import load_config
from stmn_plugin.host import one_shot as procedure
from stmn_plugin.host import one_shot_start as start
from stmn_plugin.host.registration import register
from stmn_plugin.interrupt import Interrupted
from stmn_plugin.training.trainer import Trainer

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


@pytest.mark.slow
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


@pytest.mark.slow
def test_killed_at_any_moment_the_same_command_resumes(whole, words, tmp_path):
    folder, codes = tmp_path / 'steps', []
    for allowed in (*KILLED_AFTER, 10_000):
        process = multiprocessing.get_context('fork').Process(
            target=killed_command, args=(words(folder), allowed)
        )
        process.start(), process.join()
        codes.append(process.exitcode)
    assert codes == [-signal.SIGKILL] * len(KILLED_AFTER) + [0]
    assert_same_end(whole, folder)


@pytest.mark.slow
@pytest.mark.parametrize('place', ['in an epoch', 'before the choice', 'after it'])
def test_interrupted_in_and_between_steps_it_resumes(
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


@pytest.mark.slow
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
    alone = tmp_path / 'alone'  # killed before a step had a config
    alone.mkdir()
    shutil.copy(copied / 'split.json', alone)
    told = bad(words(alone, 'one_shot.split_seed', 1), capsys)
    assert 'split.json is another split' in told
    # a split file of other data, here with identities held out
    given = ['one_shot.split_file', whole / 'split.json', 'data.validation_ids', 4]
    told = bad(words(tmp_path / 'other', *given), capsys)
    assert 'is of other training data (29 tracklets; these are ' in told
    damaged = copied / 'chosen-01.json'
    damaged.write_text('{}')
    assert 'chosen-01.json is damaged' in bad(words(copied), capsys)


def test_removed_folders_of_steps_hide_no_other_recipe(copied, words, capsys):
    """The recipe is that of the first step that is there."""
    (copied / 'chosen-02.json').unlink()
    shutil.rmtree(copied / 'step-00')
    for more, said in ((['train.lr', 0.2], 'train.lr was 0.1, is 0.2'),
                       (['test.flip', True], 'test.flip was False, is True')):  # fmt: skip
        assert said in bad(words(copied, *more), capsys)
    shutil.rmtree(copied / 'step-01')
    for more in ([], ['train.lr', 0.2]):
        told = bad(words(copied, *more), capsys)
        assert f'{copied}/chosen-01.json was chosen by a recipe that no' in told
    assert not (copied / 'step-01').exists()


def test_a_removed_folder_of_a_finished_step_costs_no_result(copied, whole, words):
    shutil.rmtree(copied / 'step-00')
    assert call(*words(copied)) == 0
    for name in ('steps.json', 'steps.md'):
        assert (copied / name).read_bytes() == (whole / name).read_bytes()
    (copied / 'steps.json').unlink()
    assert call(*words(copied)) == 0
    first, last = content(copied / 'steps.json')['steps']
    assert first['evaluations'] == [] and last == content(whole / 'steps.json')['steps'][1]


def test_another_choice_than_the_next_step_was_trained_on_is_refused(copied, words, capsys):
    path = copied / 'chosen-01.json'
    choice = content(path)
    choice['chosen'][0]['label'] = (choice['chosen'][0]['label'] + 1) % 10
    path.write_text(json.dumps(choice))
    told = bad(words(copied), capsys)
    assert f'{copied}/step-01/train_list.json holds other labels' in told
    assert f'{copied}/chosen-02.json' in told


@pytest.mark.parametrize('text', ['', '[]', '{"steps": [{"step": 0, "evaluations": [3]}]}'])
def test_a_damaged_table_is_named(text, copied, words, capsys):
    (copied / 'steps.json').write_text(text)
    assert f'{copied}/steps.json is' in bad(words(copied), capsys)


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


@pytest.mark.slow
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


PASSES = {  # training tracklets as (person, camera, name), and the sizes of the steps
    'a camera each': ([('a', '1', 't'), ('b', '2', 't'), ('c', '3', 't')], [3]),
    'one unlabelled': ([('a', '1', 't'), ('b', '2', 't'), ('a', '3', 't')], [2, 2, 3]),
    'cameras of one person': ([(p, p, t) for p in ('1', '2') for t in 'xyz'], [2, 4, 6]),
}


@pytest.mark.slow
@pytest.mark.parametrize('name', PASSES)
def test_few_tracklets_and_cameras_of_one_person(name, tmp_path):
    rows = [('train', *one, ('1.jpg', '2.jpg')) for one in PASSES[name][0]]
    rows += [('query', 'q', '1', 't', ('1.jpg',)), ('gallery', 'q', '2', 't', ('1.jpg',))]
    for split, *place, frames in rows:
        for number, frame in enumerate(frames):
            path = tmp_path.joinpath('tracklets', split, *place, frame)
            save_frame(path, len(str(place)), 1, number)
    words = ['--root', tmp_path, '-s', 'tracklets', '-t', 'tracklets', *WORDS]
    words += ['train.max_epoch', 1, 'train.batch_size', 2, 'one_shot.factor', 50]
    assert call(*words, 'data.save_dir', tmp_path / 'steps') == 0
    steps = content(tmp_path / 'steps' / 'steps.json')['steps']
    assert [step['trained_on'] for step in steps] == PASSES[name][1]
    cameras = {row['camera'] for row in content(tmp_path / 'steps' / 'split.json')['labelled']}
    assert len(cameras) == len({person for person, *_ in PASSES[name][0]})


def test_one_person_is_refused(tmp_path, capsys):
    for place in ('train/a/1/t', 'train/a/2/t', 'query/a/1/t', 'gallery/a/2/t'):
        save_frame(tmp_path / 'tracklets' / place / '1.jpg', 1, 1, 1)
    words = ['--root', tmp_path, '-s', 'tracklets', '-t', 'tracklets', *WORDS]
    told = bad([*words, 'data.save_dir', tmp_path / 'steps'], capsys)
    assert 'no batch of 5 can be made from 1 training tracklet' in told


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


@pytest.mark.slow
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
