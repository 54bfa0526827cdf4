"""A command in a process of its own: its output, its signals, and why it failed."""

import os
import signal
import subprocess
import sys

import pytest

from stmn_plugin.comparing.child_process import last_error, run_process
from stmn_plugin.errors import InputError
from stmn_plugin.interrupt import Interrupted


@pytest.mark.parametrize(
    'text, code, expected',
    [
        ('Epoch 1\nerror: data.root: nothing there\nlast words\n', 2, 'data.root: nothing there'),
        ('Traceback\n  File\nZeroDivisionError: by zero\n\n', 1, 'ZeroDivisionError: by zero'),
        ('', 7, 'exit code 7'),
        ('whatever\n', -9, 'killed by SIGKILL'),
    ],
)
def test_why_a_process_failed(text, code, expected, tmp_path):
    log = tmp_path / 'console.log'
    log.write_text('error: of an earlier run\n' + text)
    assert last_error(str(log), len('error: of an earlier run\n'), code) == expected


def test_a_command_runs_with_its_output_in_a_file(tmp_path):
    log = tmp_path / 'log'
    log.write_text('before\n')
    code = "import sys; print('out'); print('err', file=sys.stderr); sys.exit(3)"
    handlers = [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)]
    assert run_process([sys.executable, '-c', code], str(log), lambda: None) == 3
    lines = log.read_text().splitlines()
    assert lines[0] == 'before' and lines[1].startswith('$ ') and {'out', 'err'} == {*lines[2:]}
    assert [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)] == handlers


@pytest.mark.parametrize('error', [OSError(5, 'of the watch'), InputError('of the watch')])
def test_no_command_is_left_running_when_watching_it_fails(error, tmp_path):
    log = tmp_path / 'log'
    code = 'import os, time; print(os.getpid(), flush=True); time.sleep(60)'

    def watch():
        if log.read_text().count('\n') == 2:
            raise error

    with pytest.raises(type(error), match='of the watch') as caught:
        run_process([sys.executable, '-c', code], str(log), watch)
    assert caught.value is error  # not 'cannot run with a log in ...'
    with pytest.raises(ProcessLookupError):
        os.kill(int(log.read_text().splitlines()[1]), 0)


FOLLOWS = """
import os, sys, time
from stmn_plugin.parent_process import end_with_parent
end_with_parent()
with open(sys.argv[1], 'w') as pipe:
    print('empty', os.read(0, 1), file=pipe, flush=True)
    time.sleep(60)
    print('lived on', file=pipe)
"""


@pytest.mark.slow
def test_a_command_ends_when_the_process_that_runs_it_is_killed(tmp_path):
    pipe = tmp_path / 'pipe'
    os.mkfifo(pipe)
    code = (
        'import sys\n'
        'from stmn_plugin.comparing.child_process import run_process\n'
        f'command = [sys.executable, "-c", {FOLLOWS!r}, {str(pipe)!r}]\n'
        f'run_process(command, {str(tmp_path / "log")!r}, lambda: None)\n'
    )
    parent = subprocess.Popen([sys.executable, '-c', code])
    with open(pipe) as told:  # ends with the last process that holds the other end
        assert told.readline() == "empty b''\n"  # children get an empty stdin
        parent.kill()
        parent.wait()
        assert told.read() == ''


@pytest.mark.parametrize('signum', [signal.SIGINT, signal.SIGTERM])
def test_a_signal_is_passed_to_the_command_which_ends_in_its_own_time(signum, tmp_path):
    code = (
        'import signal, sys, time\n'
        'def save(signum, _):\n'
        '    time.sleep(0.7)\n'
        "    print('saved', signum, flush=True)\n"
        '    sys.exit(0)\n'
        'signal.signal(signal.SIGINT, save)\n'
        'signal.signal(signal.SIGTERM, save)\n'
        "print('ready', flush=True)\n"
        'time.sleep(60)\n'
    )
    log, sent = tmp_path / 'log', []

    def watch():
        if not sent and 'ready' in log.read_text().splitlines():
            sent.append(signum)
            os.kill(os.getpid(), signum)

    with pytest.raises(Interrupted) as stop:
        run_process([sys.executable, '-c', code], str(log), watch)
    assert stop.value.code == 128 + signum
    assert log.read_text().splitlines()[-1] == f'saved {int(signum)}'
