"""Signals, kill -9, full disks, dead workers: a run can resume from what is left."""

import json
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import signalled
import torch
from test_resume import KEYS, assert_equal, assert_same_end, epoch_lines

from stmn_plugin.cli import train
from stmn_plugin.data import clip_plans, clips
from stmn_plugin.errors import InputError, resource_errors
from stmn_plugin.interrupt import SIGNALS, Interrupted, Interruption
from stmn_plugin.models import STMN
from stmn_plugin.training.checkpoint import BEST, load_checkpoint, save_checkpoint, saved_epochs
from stmn_plugin.training.metric_files import append_line, keep_lines, read_epoch_lines
from stmn_plugin.training.resumable import newest_checkpoint
from stmn_plugin.training.run_state import EpochLog
from stmn_plugin.training.trainer import Trainer

pytestmark = pytest.mark.slow


@pytest.fixture
def command(repository, mars_root):
    """The words of a small run in a folder, for a shell."""

    def words(folder, *more):
        config = str(repository / 'configs' / 'stmn_mars.yaml')
        start = [sys.executable, str(repository / 'tools' / 'main.py'), '--config-file', config]
        keys = [*KEYS, 'data.save_dir', folder, 'model.resume', 'auto', *more]
        return [*start, '--root', mars_root, *map(str, keys)]

    return words


@pytest.fixture
def environment(repository):
    return {**os.environ, 'OMP_NUM_THREADS': '1', 'PYTHONPATH': str(repository)}


def save_for_ever(folder, pipe):
    """The state says which epoch it is of, in every element."""
    epoch = 0
    while True:
        epoch += 1
        state = {'state_dict': {'w': torch.full((500_000,), epoch)}, 'epoch': epoch}
        state.update(optimizer={'state': {}, 'param_groups': []}, scheduler={'last_epoch': epoch})
        save_checkpoint(state, folder, epoch, keep_last=2, is_best=epoch % 3 == 1)
        os.write(pipe, epoch.to_bytes(4, 'big'))


@pytest.mark.slow
def test_the_last_good_checkpoint_survives_kill_9_at_any_moment(tmp_path, capsys):
    fork = multiprocessing.get_context('fork')  # an import of torch takes longer than all the rest
    luck, in_the_middle = random.Random(0), 0
    for number in range(24):
        folder = tmp_path / str(number)
        reader, writer = os.pipe()
        child = fork.Process(target=save_for_ever, args=(str(folder), writer), daemon=True)
        child.start()
        os.close(writer)
        os.read(reader, 4)  # the first is there
        time.sleep(luck.uniform(0, 0.1))
        child.kill()
        child.join()
        announced = b''.join(iter(lambda fd=reader: os.read(fd, 4096), b''))
        os.close(reader)
        last = int.from_bytes(announced[-4:], 'big') or 1
        path = newest_checkpoint(str(folder))
        epoch = load_checkpoint(path)['epoch']
        assert last <= epoch <= last + 1 and path.endswith((f'tar-{epoch}', BEST))
        for file in (*folder.glob('model.pth.tar-*[0-9]'), folder / 'model-best.pth.tar'):
            if '.tmp-' not in file.name:
                state = load_checkpoint(str(file))
                assert (state['state_dict']['w'] == state['epoch']).all()
        assert len(saved_epochs(str(folder))) <= 3
        in_the_middle += any('.tmp-' in name for name in os.listdir(folder))
    assert 'Skipped' not in capsys.readouterr().out  # whole or absent, never damaged
    assert in_the_middle >= 5  # else the test hits nothing


@pytest.mark.slow
def test_whole_runs_survive_signals_and_kills_with_the_same_end(
    command, environment, repository, tmp_path
):
    """Three attempts are cut short, the fourth ends; one that is left alone ends alike."""
    folder = tmp_path / 'cut'
    for signum, step in (
        (signal.SIGTERM, (1, 1)),
        (signal.SIGKILL, (2, 3)),
        (signal.SIGINT, (3, 1)),
    ):
        send = f'os.killpg(0, {int(signum)})'  # workers, too, as Ctrl-C and schedulers do
        done = subprocess.run(
            command(folder, 'data.workers', 2),
            env=signalled.environment(tmp_path / signum.name, repository, send, step),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        output = done.stdout
        assert done.returncode == (-9 if signum == signal.SIGKILL else 128 + signum), output
        assert 'Traceback' not in output
    # went on where the first was stopped, as the second could not save anything
    assert 'Resumed from' in output and 'epoch: [1/4][1/5]' not in output
    subprocess.run(command(folder), env=environment, check=True, capture_output=True)
    alone = tmp_path / 'alone'
    subprocess.run(command(alone), env=environment, check=True, capture_output=True)
    assert_same_end(folder, alone)


def run_python(code, **options):
    return subprocess.Popen(
        [sys.executable, '-c', code], stdout=subprocess.PIPE, text=True, **options
    )


@pytest.mark.parametrize('signum', [signal.SIGINT, signal.SIGTERM])
def test_a_second_signal_ends_at_once(signum, environment):
    code = (
        'import time\nfrom stmn_plugin.interrupt import Interruption\n'
        'with Interruption() as interruption:\n'
        '    print("ready", flush=True)\n'
        '    while not interruption.requested: time.sleep(0.01)\n'
        '    print("asked", flush=True)\n'
        '    time.sleep(60)\n'
    )
    process = run_python(code, env=environment, stderr=subprocess.PIPE)
    for expected in ('ready\n', 'asked\n'):
        assert process.stdout.readline() == expected
        process.send_signal(signum)
    _, err = process.communicate()
    assert process.returncode == 128 + signum and signal.Signals(signum).name in err


def test_an_interruption_asks_and_puts_everything_back():
    before = signal.getsignal(signal.SIGTERM)
    with Interruption() as interruption:
        assert not interruption.requested
        os.kill(os.getpid(), signal.SIGTERM)
        assert interruption.requested
        with pytest.raises(Interrupted) as caught, interruption.at_once():
            raise AssertionError('must not be entered')
    assert caught.value.code == 143
    with pytest.raises(Interrupted) as caught, Interruption() as other, other.at_once():
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(5)
    assert caught.value.code == 130
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.slow
def test_workers_leave_signals_to_their_parent_and_do_not_outlive_it(environment):
    code = (
        'import signal\nfrom torch.utils.data import DataLoader\n'
        'from stmn_plugin.interrupt import leave_signals_to_parent\n'
        'loader = DataLoader(range(99), num_workers=2, persistent_workers=True,\n'
        '                    worker_init_fn=leave_signals_to_parent)\n'
        'batches = iter(loader)\nfor _ in range(9): next(batches)\n'
        'from stmn_plugin.interrupt import SIGNALS\n'
        'for signum in SIGNALS: signal.signal(signum, signal.SIG_IGN)\n'
        'print("ready", flush=True)\ninput()\nprint(len(list(batches)), flush=True)\n'
        'import builtins; builtins.batches = batches  # nothing cleans it up before the end\n'
    )
    process = run_python(code, env=environment, start_new_session=True, stdin=subprocess.PIPE)
    assert process.stdout.readline() == 'ready\n'
    for signum in SIGNALS:
        os.killpg(process.pid, signum)
    time.sleep(0.5)
    assert process.communicate('\n')[0] == '90\n' and process.returncode == 0
    with pytest.raises(ProcessLookupError):  # the group is empty
        os.killpg(process.pid, 0)


@pytest.fixture
def run(repository, mars_root, small_run, capsys):
    """Run tools/main.py in this process → exit code, stdout, stderr."""

    def call(*keys):
        config = str(repository / 'configs' / 'stmn_mars.yaml')
        code = 0
        try:
            train.main(['--config-file', config, '--root', mars_root, *small_run, *map(str, keys)])
        except SystemExit as stop:
            code = stop.code
        return (code, *capsys.readouterr())

    return call


def test_a_full_gpu_names_the_batch_size_and_the_last_checkpoint(run, tmp_path, monkeypatch):
    original = Trainer.train_batch

    def full(self, data):
        if self.epoch == 1:
            raise torch.cuda.OutOfMemoryError('CUDA out of memory.\nTried to allocate 9 GiB')
        return original(self, data)

    monkeypatch.setattr(Trainer, 'train_batch', full)
    code, _, err = run('train.max_epoch', 3, 'train.save_freq', 1)
    (line,) = err.strip().splitlines()
    good = tmp_path / 'run' / 'model' / 'model.pth.tar-1'
    assert code == 2 and 'train.batch_size' in line and '9 GiB' in line and str(good) in line
    assert load_checkpoint(str(good))['epoch'] == 1
    assert [line['epoch'] for line in epoch_lines(tmp_path / 'run')] == [1]


@pytest.mark.parametrize('method', ['encode_frames', 'embed'])
def test_a_full_gpu_in_testing_names_its_batch_size(method, run, tmp_path, monkeypatch):
    original = getattr(STMN, method)

    def full(self, batch, **more):
        if len(batch) > 1:
            raise torch.cuda.OutOfMemoryError('CUDA out of memory.')
        return original(self, batch, **more)  # the run looks at the size of the model

    monkeypatch.setattr(STMN, method, full)
    code, _, err = run('test.evaluate', True, 'test.features_dir', tmp_path / 'features')
    assert code == 2 and 'test.batch_size' in err and len(err.strip().splitlines()) == 1


def test_other_errors_stay_what_they_are():
    with pytest.raises(RuntimeError, match='shape'), resource_errors('train.batch_size'):
        raise RuntimeError('shape mismatch')
    expected = pytest.raises(InputError, match='train.batch_size.*; note')
    with expected, resource_errors('train.batch_size', '; note'):
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory")


@pytest.mark.parametrize('kind', [clips.ClipDataset, clip_plans.PlannedClips])
def test_a_killed_worker_ends_the_run_and_names_the_workers(kind, run, tmp_path, monkeypatch):
    main_process = os.getpid()

    def killed(self, key):
        assert os.getpid() != main_process
        os.kill(os.getpid(), signal.SIGKILL)

    monkeypatch.setattr(kind, '__getitem__', killed)
    code, _, err = run('data.workers', 2)
    (line,) = err.strip().splitlines()
    assert code == 2 and 'data.workers' in line
    # killed in testing, the epoch is kept and only its evaluation is to be made up for
    kept = newest_checkpoint(str(tmp_path / 'run' / 'model'))
    assert (kept is None) == (kind is clips.ClipDataset)
    if kept:
        assert load_checkpoint(kept)['unfinished']['trained']
        assert not (tmp_path / 'run' / 'metrics.jsonl').exists()
        monkeypatch.undo()
        assert run('model.resume', 'auto')[0] == 0
        assert len(epoch_lines(tmp_path / 'run')) == 1


def test_a_folder_that_cannot_be_written_is_named(run, tmp_path):
    (tmp_path / 'file').write_text('')
    code, _, err = run('data.save_dir', tmp_path / 'file' / 'run')
    assert code == 2 and str(tmp_path / 'file') in err and len(err.strip().splitlines()) == 1


def test_an_epoch_is_a_line(run, tmp_path):
    code, out, _ = run('train.max_epoch', 2, 'test.eval_freq', 2)
    assert code == 0
    first, second = read_epoch_lines(str(tmp_path / 'run'))
    assert (first['epoch'], second['epoch']) == (1, 2)
    assert {'loss', 'triplet_clip', 'spread_spatial', 'acc'} <= set(first['losses'])
    assert first['lr'] == pytest.approx(1e-4) and 0 <= first['data_wait'] <= 1
    # two batches of 8 clips of 4 frames; seconds are rounded
    assert first['images_per_second'] == pytest.approx(2 * 8 * 4 / first['seconds'], rel=0.05)
    assert first['evaluations'] == [] and second['evaluations'][0]['dataset'] == 'mars'
    written = json.loads((tmp_path / 'run' / 'metrics.json').read_text())['evaluations']
    assert second['evaluations'] == written
    lines = [line for line in out.splitlines() if line.startswith('Epoch 2/2: loss ')]
    assert len(lines) == 1 and 'images/s' in lines[0] and 'ETA 0:00:00' in lines[0]


def test_averages_and_shares_of_an_epoch():
    log = EpochLog(3)
    assert log.images_per_second == log.data_wait == 0.0
    log.add({'loss': 1.0, 'acc': torch.tensor(50.0)}, 24, 2.0, 0.5)
    log.add(None, 24, 1.0, 0.25)
    log.add({'loss': 2.0}, 24, 1.0, 0.25)
    assert log.averages == {'loss': 1.5, 'acc': 50.0}
    assert log.images_per_second == 18.0 and log.data_wait == 0.25
    assert log.as_line([])['seconds'] == 4.0


def line(epoch):
    return {'epoch': epoch, 'losses': {}, 'seconds': 1.0}


def test_half_a_line_and_lines_of_lost_epochs_go(tmp_path):
    folder = str(tmp_path)
    assert read_epoch_lines(folder) == []
    for epoch in (1, 2, 3):
        append_line(folder, line(epoch))
    with open(tmp_path / 'metrics.jsonl', 'a') as file:
        file.write('{"epoch": 4, "los')
    assert [values['epoch'] for values in read_epoch_lines(folder)] == [1, 2, 3]
    keep_lines(folder, 2)
    append_line(folder, {**line(3), 'again': True})
    assert_equal(read_epoch_lines(folder), [line(1), line(2), {**line(3), 'again': True}])
    keep_lines(folder, 0)
    assert os.listdir(tmp_path) == []


def test_a_full_disk_is_named_by_the_epochs_line(tmp_path):
    with pytest.raises(InputError, match='metrics.jsonl: No space left'):
        os.symlink('/dev/full', tmp_path / 'metrics.jsonl')
        append_line(str(tmp_path), {'epoch': 1})


def test_what_killed_runs_left_half_written_is_removed(run, tmp_path):
    model = tmp_path / 'run' / 'model'
    model.mkdir(parents=True)
    names = (model / '.model.pth.tar-3.tmp-0123abcd', tmp_path / 'run' / '.x.tmp-0123abcd')
    left = [Path(f'{name}{end}') for name in names for end in ('', '.lock')]
    mine = tmp_path / 'run' / 'notes.tmp-77'
    for path in (*left, mine):
        Path(path).write_bytes(b'half')
    assert run()[0] == 0
    assert not any(path.exists() for path in left) and mine.exists()
