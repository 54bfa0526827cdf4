"""The same run again, in pieces, and in pieces of an epoch: bit by bit the same result."""

import contextlib
import json
import os
import random
import signal
from dataclasses import asdict
from pathlib import Path

import miniatures
import numpy as np
import pytest
import torch

from stmn_plugin.cli.train import main
from stmn_plugin.config import get_default_config, load_config
from stmn_plugin.config.defaults import flatten
from stmn_plugin.config.sections import general_key
from stmn_plugin.data.identity_sampler import EpochBatchSampler
from stmn_plugin.errors import InputError
from stmn_plugin.evaluation.evaluator import Evaluator
from stmn_plugin.randomness import deterministic_algorithms, seed_everything, seeded
from stmn_plugin.training.checkpoint import BEST, UNFINISHED, load_checkpoint, save_checkpoint
from stmn_plugin.training.resumable import newest_checkpoint
from stmn_plugin.training.resuming import FREE_KEYS, changed_keys, resume_run
from stmn_plugin.training.run_state import EpochLog, RunFacts
from stmn_plugin.training.trainer import Trainer

pytestmark = pytest.mark.slow
EPOCHS, BATCHES = 4, 5  # of the miniature: 10 identities in batches of 2 x 2
KEYS = (  # of a model whose checkpoints are small
    'model.name osnet_x0_25 stmn.backbone resnet18 model.pretrained False '
    'video.image_models frames data.type video data.height 64 data.width 32 '
    'data.workers 0 train.optim adam train.batch_size 4 sampler.num_instances 2 video.seq_len 2 '
    f'train.print_freq 1 train.max_epoch {EPOCHS} train.stepsize [2] test.eval_freq 2'
).split()


@pytest.fixture(scope='module')
def train(repository, mars_root):
    """Run tools/main.py in this process → exit code."""

    def call(folder, *words, root=mars_root, flags=()):
        flags = ['--config-file', str(repository / 'configs' / 'stmn_mars.yaml'), *flags]
        words = [*KEYS, 'data.save_dir', folder, *words]
        try:
            main([*flags, '--root', root, *map(str, words)])
        except SystemExit as stop:
            return stop.code
        return 0

    return call


@pytest.fixture(scope='module')
def straight(train, tmp_path_factory):
    """The folder of a run without interruption."""
    folder = tmp_path_factory.mktemp('straight')
    assert train(folder) == 0
    return folder


def assert_equal(one, other, where=''):
    assert type(one) is type(other), where
    if isinstance(one, torch.Tensor):
        assert torch.equal(one, other), where
    elif isinstance(one, dict):
        assert list(one) == list(other), where
        for key in one:
            assert_equal(one[key], other[key], f'{where}/{key}')
    elif isinstance(one, (list, tuple)):
        assert len(one) == len(other), where
        for index, (a, b) in enumerate(zip(one, other, strict=True)):
            assert_equal(a, b, f'{where}/{index}')
    else:
        assert one == other, where


def assert_same_end(folder, other, epoch=EPOCHS):
    """Weights, optimizer, schedule, best mAP, evaluations and losses."""
    states = [load_checkpoint(str(f / 'model' / f'model.pth.tar-{epoch}')) for f in (folder, other)]
    for state in states:
        del state['config']  # the folder and what else may differ
    assert states[0]['epoch'] == epoch and states[0]['unfinished'] is None
    assert_equal(*states)
    assert_equal(*(results(f) for f in (folder, other)))
    lines = [epoch_lines(f) for f in (folder, other)]
    assert [line['epoch'] for line in lines[0]] == list(range(1, epoch + 1))
    assert_equal(*lines)


def results(folder):
    evaluations = json.loads((folder / 'metrics.json').read_text())['evaluations']
    cost = ('seconds', 'peak_memory')
    return [{k: v for k, v in e.items() if k not in cost} for e in evaluations]


def epoch_lines(folder):
    """What of ``metrics.jsonl`` is not a matter of time."""
    lines = map(json.loads, (folder / 'metrics.jsonl').read_text().splitlines())
    return [{key: line[key] for key in ('epoch', 'losses', 'lr')} for line in lines]


@contextlib.contextmanager
def signal_in_step(number, signum=signal.SIGTERM):
    """Send this process a signal while it is in its step ``number``, from 1."""
    original, seen = Trainer.train_batch, [0]

    def step(self, data):
        seen[0] += 1
        if seen[0] == number:
            os.kill(os.getpid(), signum)
        return original(self, data)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, 'train_batch', step)
        yield


@pytest.mark.slow
def test_two_epochs_and_two_are_four(train, tmp_path):
    own = ['model.name', 'stmn', 'train.memory_lr_mult', 20]
    assert train(tmp_path / '4', *own) == 0
    for workers in (0, 2):
        keys = [*own, 'data.workers', workers]
        folder = tmp_path / f'2 and 2 with {workers}'
        assert train(folder, *keys, 'train.max_epoch', 2) == 0
        assert train(folder, *keys, 'model.resume', 'auto') == 0
        assert_same_end(folder, tmp_path / '4')


@pytest.mark.parametrize(
    'step, signum, workers',
    [(3, signal.SIGTERM, 0), (2 * BATCHES + 2, signal.SIGINT, 2), (2 * BATCHES, signal.SIGTERM, 0)],
)
def test_a_run_interrupted_in_an_epoch_resumes_with_the_next_batch(
    step, signum, workers, train, straight, tmp_path, capsys
):
    keys = ['data.workers', workers, 'train.save_freq', 3]
    before = [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)]
    with signal_in_step(step, signum):
        assert train(tmp_path, *keys) == 128 + signum
    assert [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)] == before
    epoch, batch = divmod(step, BATCHES)
    path = newest_checkpoint(str(tmp_path / 'model'))
    assert (os.path.basename(path) == UNFINISHED) == (batch > 0)  # a name of its own
    state = load_checkpoint(path)
    assert state['epoch'] == epoch
    assert (state['unfinished']['batches'] if batch else BATCHES) == (batch or BATCHES)
    capsys.readouterr()
    assert train(tmp_path, *keys, 'model.resume', 'auto') == 0
    out = capsys.readouterr().out
    if batch:
        assert f'epoch: [{epoch + 1}/{EPOCHS}][{batch + 1}/{BATCHES}]' in out
        assert f'[{epoch + 1}/{EPOCHS}][{batch}/' not in out
    assert_same_end(tmp_path, straight)
    assert not (tmp_path / 'model' / UNFINISHED).exists()


def test_an_interrupted_evaluation_is_made_up_for(train, straight, tmp_path, monkeypatch):
    original = Evaluator.features

    def interrupted(self, name):
        os.kill(os.getpid(), signal.SIGTERM)
        return original(self, name)

    with monkeypatch.context() as patch:
        patch.setattr(Evaluator, 'features', interrupted)
        assert train(tmp_path) == 143
    assert not (tmp_path / 'metrics.json').exists() and len(epoch_lines(tmp_path)) == 1
    assert train(tmp_path, 'model.resume', 'auto') == 0
    assert_same_end(tmp_path, straight)


def contents_of(folder):
    """Path → bytes of all but logs."""
    files = [path for path in folder.rglob('*') if path.is_file() and '.log-' not in path.name]
    return {path: path.read_bytes() for path in files}


def test_going_back_needs_a_request_and_forgets_what_came_after(train, straight, tmp_path, capsys):
    assert train(tmp_path, 'train.max_epoch', 3) == 0
    path, before = tmp_path / 'model' / 'model.pth.tar-2', contents_of(tmp_path)
    assert train(tmp_path, 'model.resume', path) == 2
    err = capsys.readouterr().err
    assert f'beyond {path}' in err and 'model.pth.tar-3' in err and len(err.splitlines()) == 1
    assert contents_of(tmp_path) == before
    assert train(tmp_path, 'model.resume', path, 'train.overwrite', True) == 0
    assert_same_end(tmp_path, straight)
    assert_equal(*(load_checkpoint(str(f / 'model' / BEST))['epoch'] for f in (tmp_path, straight)))


@pytest.mark.parametrize('workers', [0, 2])
def test_image_data_and_dropout_resume_exactly(workers, train, tmp_path):
    miniatures.make_market(tmp_path, people=6)
    words = ['data.type', 'image', 'sampler.train_sampler', 'RandomSampler', 'loss.name', 'softmax']
    words += ['data.transforms', "['random_flip','random_crop']", 'data.workers', workers]
    words += ['train.max_epoch', 2, 'test.eval_freq', -1]
    flags = ['-a', 'squeezenet1_0', '-s', 'market1501', '-t', 'market1501']
    options = {'root': str(tmp_path), 'flags': flags}
    assert train(tmp_path / 'straight', *words, **options) == 0
    with signal_in_step(5):  # of 2 x 3
        assert train(tmp_path / 'pieces', *words, **options) == 143
    assert train(tmp_path / 'pieces', *words, 'model.resume', 'auto', **options) == 0
    assert_same_end(tmp_path / 'pieces', tmp_path / 'straight', epoch=2)


def test_deterministic_runs_are_equal(train, tmp_path):
    for name in ('one', 'other'):
        torch.manual_seed(len(name))  # whatever was drawn before
        keys = ['train.deterministic', True, 'train.max_epoch', 1]
        assert train(tmp_path / name, *keys) == 0
        assert not torch.are_deterministic_algorithms_enabled()
    assert_same_end(tmp_path / 'one', tmp_path / 'other', epoch=1)


def test_the_switch_of_deterministic_algorithms():
    with deterministic_algorithms(True):
        assert torch.are_deterministic_algorithms_enabled()
        assert torch.is_deterministic_algorithms_warn_only_enabled()
        assert torch.backends.cudnn.deterministic and not torch.backends.cudnn.benchmark
    with deterministic_algorithms(False):
        assert not torch.are_deterministic_algorithms_enabled()
    assert not torch.backends.cudnn.deterministic


def draws():
    return random.random(), float(np.random.rand()), float(torch.rand(()))


def test_generators_are_a_function_of_the_numbers():
    seed_everything(1, 2, 3)
    first = draws()
    seed_everything(1, 2, 4)
    assert all(a != b for a, b in zip(first, draws(), strict=True))
    seed_everything(1, 2, 3)
    assert draws() == first
    seed_everything(5)
    expected = draws()
    seed_everything(5)
    with seeded(1, 2, 3):
        assert draws() == first
    assert draws() == expected


def test_batches_from_the_middle_of_an_epoch():
    sampler = EpochBatchSampler(lambda epoch: [[epoch, 1], [2], [3, 4]])
    sampler.set_epoch(7)
    whole = list(sampler)
    assert sampler.epoch == 8  # by itself
    for first in range(4):
        sampler.set_epoch(7, first)
        assert len(sampler) == 3 and list(sampler) == whole[first:]


def test_the_recipe():
    config = flatten(get_default_config())
    assert {general_key(key) for key in config} >= FREE_KEYS
    assert changed_keys(config, config) == {}
    free = {'data.workers': 9, 'test.flip': True, 'train.max_epoch': 99, 'use_gpu': None}
    assert changed_keys(config, {**config, **free}) == {}
    new = {**config, 'train.lr': 1.0, 'data.sources': ['mars'], 'sgd.nesterov': True}
    assert changed_keys(config, new) == {
        'data.sources': (['market1501'], ['mars']),
        'train.lr': (0.0003, 1.0),
        'sgd.nesterov': (False, True),
    }
    # a cosine ends where the run ends
    cosine = {**config, 'train.lr_scheduler': 'cosine'}
    assert set(changed_keys(cosine, {**cosine, 'train.max_epoch': 99})) == {'train.max_epoch'}
    # a checkpoint from before a key existed did what the key's default does
    older = {key: value for key, value in config.items() if key != 'train.lr'}
    assert changed_keys(older, config) == {}
    assert changed_keys(older, new)['train.lr'] == (0.0003, 1.0)
    # the config in a checkpoint is that of a whole run: YAML's lists and ours compare
    assert all(isinstance(v, (bool, int, float, str, list)) for v in config.values())


def test_another_recipe_is_refused_naming_the_keys(train, straight, tmp_path, capsys):
    path = straight / 'model' / 'model.pth.tar-2'
    keys = ['model.resume', path, 'train.lr', '0.5', 'video.seq_len', 3]
    assert train(tmp_path, *keys) == 2
    err = capsys.readouterr().err
    assert len(err.strip().splitlines()) == 1
    for part in (str(path), 'train.lr was 0.0001, is 0.5', 'video.seq_len was 2, is 3'):
        assert part in err
    assert 'train.allow_changed' in err and 'data.save_dir' not in err
    assert not (tmp_path / 'model').exists()


def test_an_allowed_change_takes_effect(train, straight, tmp_path, capsys):
    path = straight / 'model' / 'model.pth.tar-2'
    changed = ['model.resume', path, 'train.lr', '0.01', 'train.stepsize', '[3]']
    assert train(tmp_path, *changed, 'train.allow_changed', True) == 0
    out = capsys.readouterr().out
    assert 'train.lr was 0.0001, is 0.01' in out and 'after epoch 2' in out
    rates = {line['epoch']: line['lr'] for line in epoch_lines(tmp_path)}
    assert rates == {3: pytest.approx(0.01), 4: pytest.approx(0.001)}  # one step, after epoch 3
    state = load_checkpoint(str(tmp_path / 'model' / 'model.pth.tar-4'))
    assert state['config']['train.lr'] == 0.01
    steps = {float(v['step']) for v in state['optimizer']['state'].values()}
    assert steps == {EPOCHS * BATCHES}  # the moments are those of the checkpoint


def test_other_training_data_under_the_same_root_is_refused(train, tmp_path, capsys):
    root, run = tmp_path / 'data', tmp_path / 'run'
    miniatures.make_tracklets(root)
    own = ['data.sources', "['tracklets']", 'data.targets', "['tracklets']"]
    own += ['model.resume', 'auto', 'train.max_epoch']
    assert train(run, *own, 1, root=str(root)) == 0
    root = root.rename(tmp_path / 'moved')
    assert train(run, *own, 2, root=str(root)) == 0
    before = contents_of(run)
    next(root.glob('**/train/*/*/*/*')).unlink()  # a frame
    capsys.readouterr()
    assert train(run, *own, 3, root=str(root)) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert 'training data was ' in line and 'train.allow_changed' in line
    assert contents_of(run) == before
    assert train(run, *own, 3, 'train.allow_changed', True, root=str(root)) == 0
    assert 'Resuming with another recipe: training data was' in capsys.readouterr().out
    saved = [load_checkpoint(str(run / 'model' / f'model.pth.tar-{n}')) for n in (2, 3)]
    assert saved[0]['trained_on'] != saved[1]['trained_on']


def test_a_checkpoint_without_its_training_data_resumes(tmp_path):
    model = torch.nn.Linear(2, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1)
    state = {'state_dict': model.state_dict(), 'epoch': 3, 'optimizer': optimizer.state_dict()}
    state['scheduler'] = scheduler.state_dict()
    for known in ({}, {'trained_on': ''}, {'trained_on': 'a'}):
        path = save_checkpoint({**state, **known}, str(tmp_path), 3)
        for run in (RunFacts(trained_on='a'), RunFacts()):
            assert resume_run(path, model, optimizer, scheduler, run).epochs == 3
    with pytest.raises(InputError, match="training data was 'a', is 'b'"):
        resume_run(path, model, optimizer, scheduler, RunFacts(trained_on='b'))


def resumable(folder, epoch, **more):
    state = {'state_dict': {'w': torch.full((1000,), epoch)}, 'epoch': epoch}
    state['optimizer'] = {'state': {}, 'param_groups': []}
    state['scheduler'] = {'last_epoch': epoch}
    return save_checkpoint({**state, **more}, str(folder), epoch)


def test_auto_takes_the_newest_whole_checkpoint(tmp_path, messages):
    assert newest_checkpoint(str(tmp_path / 'none')) is None
    paths = [Path(resumable(tmp_path, epoch)) for epoch in (1, 2, 3, 4, 5)]
    assert newest_checkpoint(str(tmp_path)) == str(paths[4])
    data = bytearray(paths[4].read_bytes())
    paths[4].write_bytes(data[: len(data) // 2])
    data = bytearray(paths[3].read_bytes())
    data[data.index(bytes(torch.full((9,), 4).numpy()))] ^= 1  # one bit of the weights
    paths[3].write_bytes(data)
    paths[2].write_bytes(b'')
    (tmp_path / 'model.pth.tar-9.tmp-1').write_bytes(b'half')
    messages()
    assert newest_checkpoint(str(tmp_path)) == str(paths[1])
    words = messages().strip().splitlines()
    assert len(words) == 3
    for path, why in zip(paths[2:], ('empty', 'wrong checksum', 'damaged'), strict=True):
        assert sum(w.startswith(f'Warning: Skipped: {path} ') and why in w for w in words) == 1


@pytest.mark.parametrize('trained', [True, False])
def test_what_a_run_has_reached_comes_back(trained, tmp_path):
    model = torch.nn.Linear(2, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1)
    log = EpochLog(3 if trained else 4, batches=2, totals={'loss': [3.0, 2]}, trained=trained)
    config = flatten(get_default_config())
    state = {'state_dict': model.state_dict(), 'epoch': 3, 'rank1': 0.25, 'best_map': 0.75}
    state.update(optimizer=optimizer.state_dict(), scheduler=scheduler.state_dict())
    state.update(config=config, unfinished=asdict(log))
    path = save_checkpoint(state, str(tmp_path), 3)
    parts = path, model, optimizer, scheduler
    reached = resume_run(*parts, RunFacts(config=config))
    assert (reached.epochs, reached.path) == (3, path)
    assert (reached.best_map, reached.rank1, reached.unfinished) == (0.75, 0.25, log)
    # with other batches a position among them means nothing, an outstanding evaluation still does
    run = RunFacts(config={**config, 'train.batch_size': 2})
    reached = resume_run(*parts, run, allow_changed=True)
    assert (reached.epochs, reached.unfinished) == (3, log if trained else None)


def test_auto_starts_from_the_beginning_when_there_is_nothing(train, straight, tmp_path, capsys):
    (tmp_path / 'model').mkdir()
    (tmp_path / 'model' / 'model.pth.tar-7').write_bytes(b'nothing')
    assert train(tmp_path, 'model.resume', 'auto', 'train.max_epoch', 1) == 0
    out = capsys.readouterr().out
    assert (
        'model.pth.tar-7 holds no weights: it is a text file' in out
        and 'starting from the beginning' in out
    )
    assert_equal(epoch_lines(tmp_path), epoch_lines(straight)[:1])


def test_a_finished_run_has_nothing_to_do(train, straight, capsys):
    lines = (straight / 'metrics.jsonl').read_text()
    assert train(straight, 'model.resume', 'auto') == 0
    out = capsys.readouterr().out
    last = results(straight)[-1]
    assert 'Nothing to train: 4 of 4 epochs are finished' in out
    assert 'official' in out and f'{100 * last["mAP"]:.1f}' in out  # its table
    assert (straight / 'metrics.jsonl').read_text() == lines
    assert [e['epoch'] for e in results(straight)] == [2, 4]
    before = contents_of(straight)
    # the same command once more loses nothing, and says how to resume; nor does another count
    for words in ([], ['train.start_epoch', EPOCHS, 'train.max_epoch', EPOCHS + 1]):
        assert train(straight, *words) == 2
        (line,) = capsys.readouterr().err.strip().splitlines()
        assert 'holds a run already' in line and 'model.resume auto' in line
        assert contents_of(straight) == before
    assert len(list(straight.glob('events*'))) == 1


def test_a_position_beyond_the_end_of_an_epoch_is_no_epoch(train, straight, tmp_path, capsys):
    state = load_checkpoint(str(straight / 'model' / 'model.pth.tar-2'))
    path = tmp_path / 'unfinished.pth.tar'
    for batches, code in ((BATCHES - 1, 0), (BATCHES, 2)):
        state['unfinished'] = asdict(EpochLog(3, batches=batches))
        torch.save(state, path)
        folder = tmp_path / str(batches)
        assert train(folder, 'model.resume', path) == code
    err = capsys.readouterr().err
    assert f'batch {BATCHES} of an epoch, an epoch has {BATCHES} here' in err and str(path) in err
    assert not (folder / 'metrics.jsonl').exists() and not (folder / 'config.yaml').exists()


def test_a_run_is_overwritten_on_request(train, straight, tmp_path):
    assert train(tmp_path, 'train.max_epoch', 1, 'train.seed', 9) == 0
    (tmp_path / 'notes.txt').write_text('mine')
    counted = ['train.start_epoch', 1, 'train.max_epoch', 2]
    assert train(tmp_path, 'train.overwrite', True, *counted) == 0
    assert [line['epoch'] for line in epoch_lines(tmp_path)] == [2]  # none of the other run
    assert train(tmp_path, 'train.overwrite', True) == 0
    assert_same_end(tmp_path, straight)
    assert len(list(tmp_path.glob('events*'))) == 1 and (tmp_path / 'notes.txt').exists()
    # who takes the folder's config for another run overwrites nothing by that
    assert not load_config(str(tmp_path / 'config.yaml')).train.overwrite
