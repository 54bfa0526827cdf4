"""Signals that ask a run to stop, by whom and when ever they are sent; Ctrl-C while it loads."""

import os
import signal
import subprocess
import sys

import pytest

from stmn_plugin import interrupt
from stmn_plugin.cli import train
from stmn_plugin.console import run_tool
from stmn_plugin.interrupt import Interrupted, Interruption, signals_to_handle
from stmn_plugin.training.checkpoint import load_checkpoint
from stmn_plugin.training.trainer import Trainer

NOTICES = [signal.SIGHUP, signal.SIGUSR1]
PRESSES = """
import os, signal, sys

class Pressed:
    def find_spec(self, name, path=None, target=None):
        if name == '{module}':
            os.kill(os.getpid(), signal.SIGINT)

sys.meta_path.insert(0, Pressed())
"""


@pytest.fixture(autouse=True)
def handlers():
    """Of a process that was not started by nohup; put back at the end."""
    before = {signum: signal.signal(signum, signal.SIG_DFL) for signum in NOTICES}
    yield
    for signum, handler in before.items():
        signal.signal(signum, handler)


@pytest.fixture
def ended(monkeypatch):
    """Exit codes of ends at once."""
    codes = []
    monkeypatch.setattr(interrupt.os, '_exit', codes.append)
    return codes


@pytest.mark.parametrize('signum', NOTICES)
def test_a_notice_is_a_request_that_repeats_and_is_followed_by_sigterm(signum, ended):
    with pytest.raises(Interrupted) as caught, Interruption() as interruption:
        for number in (signum, signum, signal.SIGTERM):
            os.kill(os.getpid(), number)
        assert interruption.agreed() and not ended
        interruption.stop()
    assert caught.value.code == 128 + signum
    assert signal.getsignal(signum) is signal.SIG_DFL


@pytest.mark.parametrize('first', [signal.SIGINT, signal.SIGTERM])
def test_the_second_ctrl_c_or_sigterm_ends_at_once(first, ended):
    with Interruption():
        for number in (signal.SIGHUP, first, signal.SIGUSR1):
            os.kill(os.getpid(), number)
        assert not ended
        os.kill(os.getpid(), signal.SIGTERM)
    assert ended == [143]


def test_a_signal_while_the_work_that_may_stop_at_once_begins_stops_it():
    class Late(Interruption):
        """A signal comes just when it is looked whether one has come."""

        sent = False

        @property
        def requested(self):
            before = self.signum is not None
            if not self.sent:
                self.sent = True
                os.kill(os.getpid(), signal.SIGTERM)
            return before

    with pytest.raises(Interrupted), Late() as interruption, interruption.at_once():
        pytest.fail('began')


def test_what_nohup_ignores_stays_ignored():
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    assert signal.SIGHUP not in signals_to_handle() and signal.SIGUSR1 in signals_to_handle()
    with Interruption() as interruption:
        os.kill(os.getpid(), signal.SIGHUP)
        assert not interruption.requested
    assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN


@pytest.mark.slow
def test_a_run_saves_itself_within_an_epoch(
    repository, mars_root, small_run, tmp_path, monkeypatch
):
    signum = signal.SIGHUP
    original = Trainer.train_batch

    def signalled(self, data):
        os.kill(os.getpid(), signum)
        return original(self, data)

    monkeypatch.setattr(Trainer, 'train_batch', signalled)
    config = str(repository / 'configs' / 'stmn_mars.yaml')
    with pytest.raises(SystemExit) as caught:
        train.main(['--config-file', config, '--root', mars_root, *small_run])
    assert caught.value.code == 128 + signum
    (path,) = (tmp_path / 'run' / 'model').iterdir()
    assert load_checkpoint(str(path))['unfinished']['batches'] == 1


@pytest.mark.slow
def test_a_signal_during_the_last_save_is_not_lost(
    repository, mars_root, small_run, tmp_path, monkeypatch
):
    """The steps of one-shot learning would go on, though the console has promised to stop."""
    save = Trainer.save

    def signalled(self, is_best=False):
        if self.log is None:  # the epoch is reported
            os.kill(os.getpid(), signal.SIGTERM)
        save(self, is_best)

    config = str(repository / 'configs' / 'stmn_mars.yaml')
    words = ['--config-file', config, '--root', mars_root, *small_run]
    with monkeypatch.context() as patch, pytest.raises(SystemExit) as caught:
        patch.setattr(Trainer, 'save', signalled)
        train.main(words)
    assert caught.value.code == 143
    names = {path.name for path in (tmp_path / 'run' / 'model').iterdir()}
    assert names == {'model.pth.tar-1', 'model-best.pth.tar'}
    results = (tmp_path / 'run' / 'metrics.json').read_bytes()
    train.main([*words, 'model.resume', 'auto'])  # nothing is left to do
    assert (tmp_path / 'run' / 'metrics.json').read_bytes() == results


def test_ctrl_c_is_one_line_and_130(capfd, monkeypatch):
    def pressed():
        raise KeyboardInterrupt

    for rank, line in (('0', 'interrupted\n'), ('1', '')):
        monkeypatch.setenv('RANK', rank)
        with pytest.raises(SystemExit) as caught:
            run_tool(pressed)
        assert caught.value.code == 130 and capfd.readouterr().err == line


@pytest.mark.slow
@pytest.mark.parametrize(
    'tool, module',
    [
        ('main', 'yaml.error'),
        ('main', 'numpy.exceptions'),
        ('main', 'torch._utils'),
        ('-m', 'yaml.error'),
        ('-m', 'torch._utils'),
        ('compare', 'torch._utils'),
        ('report', 'torch._utils'),
        ('visualize', 'torch._utils'),
        ('check_data', 'torch._utils'),
        ('cost_curve', 'yaml.error'),
    ],
)
def test_ctrl_c_while_a_command_loads(tool, module, repository, tmp_path):
    """When a library looks for a module of its own: in the middle of its import."""
    words = {
        'main': ['--config-file', str(repository / 'configs' / 'stmn_synthetic.yaml')],
        '-m': ['stmn_plugin', 'train', '--config', 'stmn_synthetic'],
        'cost_curve': [],
        'compare': ['--archs', 'stmn', 'resnet18', '--dry-run'],
        'report': ['--run', 'nothing'],
        'visualize': ['--run', 'nothing'],
        'check_data': ['-s', 'mars', '--root', 'nothing'],
    }
    script = tool if tool == '-m' else str(repository / 'tools' / f'{tool}.py')
    (tmp_path / 'sitecustomize.py').write_text(PRESSES.format(module=module))
    done = subprocess.run(
        [sys.executable, script, *words[tool]],
        env={
            **os.environ,
            'PYTHONPATH': os.pathsep.join([str(tmp_path), str(repository)]),
            'OMP_NUM_THREADS': '1',
        },
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr) == (130, 'interrupted\n')
