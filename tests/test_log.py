"""What a run says, in which order and how often; as a library it prints nothing."""

import contextlib
import io
import logging
import os
import subprocess
import sys

import pytest
from conftest import small_run_words
from tqdm import tqdm

from stmn_plugin.cli import command_line
from stmn_plugin.console import robust_console
from stmn_plugin.log import PACKAGE, kept_by, not_shown, prints_logged, shown_on

logger = logging.getLogger(f'{PACKAGE}.tests')


def run_python(repository, *words, **environment):
    """A Python process in the repository, warnings shown as by default; its output and errors."""
    return subprocess.run(
        [sys.executable, *map(str, words)],
        cwd=repository,
        env={**os.environ, 'OMP_NUM_THREADS': '1', 'PYTHONPATH': str(repository), **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=True,
    ).stdout.splitlines()


DEVICE, TRAIN_LIST = 'Device: CPU, 1 thread', 'mars train '
LISTS = ['mars query ', 'mars gallery ']
MODEL = 'Model: arch stmn, parameters '
# the host's lines: shown of an evaluation within the training, in place of the last a table
SCORES = ['##### mars: protocol official #####', 'mAP: ', 'CMC curve']
SCORES += ['Rank-1 ', 'Rank-5 ', 'Rank-10 ', 'Rank-20 ']
TRAINED = [
    *[DEVICE, 'data ', '----', TRAIN_LIST, *LISTS, MODEL],
    *['epoch: [1/2][', 'Epoch 1/2: loss ', *SCORES, 'epoch: [2/2][', 'Epoch 2/2: loss '],
]
TABLE = ['protocol official, frames rrs', '', 'dataset queries', '----', 'mars 11/11']


def assert_begins(lines, beginnings):
    assert len(lines) == len(beginnings), '\n'.join(lines)
    lines = [' '.join(line.split()) for line in lines]
    for line, beginning in zip(lines, beginnings, strict=True):
        assert line.startswith(beginning), (line, beginning)


def logged(path):
    """The lines of a run's log: (level, message)."""
    lines = [line.split(maxsplit=3) for line in path.read_text().splitlines()]
    return [(level, ''.join(text)) for _, _, level, *text in lines]


@pytest.mark.slow
def test_a_run_says_each_thing_once_and_in_order(repository, mars_root, tmp_path):
    config = ['--config-file', 'configs/stmn_mars.yaml', '--root', mars_root]
    folder = tmp_path / 'run'
    words = [*config, *small_run_words(folder), 'train.max_epoch', 2, 'train.print_freq', 2]
    words += ['test.eval_freq', 1]
    lines = run_python(repository, 'tools/main.py', *words)
    (log,) = folder.glob('train.log-*')
    end = [
        f'Written into {folder}: model/model.pth.tar-2, metrics.json, {log.name}',
        f'Next: python tools/report.py --run {folder}',
    ]
    assert_begins(lines, [*TRAINED, *TABLE, *end])
    said = logged(log)
    assert [text for level, text in said if level == 'INFO'] == lines
    details = [text for level, text in said if level == 'DEBUG']
    assert 'Building train transforms ...' in details  # the host's
    first = details.index(SCORES[0])
    assert_begins(details[first : first + len(SCORES)], SCORES)
    assert {level for level, _ in said} == {'INFO', 'DEBUG'}

    weights = ['test.evaluate', True, 'model.load_weights', folder / 'model/model.pth.tar-2']
    words = [*config, *small_run_words(tmp_path / 'test'), *weights]
    lines = run_python(repository, 'tools/main.py', *words)
    (log,) = (tmp_path / 'test').glob('test.log-*')
    end = [f'Written into {tmp_path / "test"}: metrics.json, {log.name}', 'Next: python tools/rep']
    assert_begins(lines, [DEVICE, 'data ', '----', *LISTS, MODEL, *TABLE, *end])
    page = run_python(repository, *lines[-1].removeprefix('Next: python ').split())
    assert page[-1].startswith(f'Wrote {tmp_path / "test"}/report.html')


@pytest.mark.slow
def test_a_library_says_nothing(repository):
    code = (
        'import stmn_plugin, stmn_plugin.host.runner\n'
        'from stmn_plugin.config import load_config\n'
        'stmn_plugin.register(load_config("configs/stmn_mars.yaml", []))\n'
        'import logging\n'
        'logging.getLogger("stmn_plugin.models").warning("for whoever listens")\n'
    )
    assert run_python(repository, '-c', code) == []


@pytest.mark.slow
@pytest.mark.parametrize('command', ['ranking', 'reading', 'train_step', 'extract'])
def test_benchmarks_do_not_show_the_hosts_advice_to_compile(repository, command):
    lines = run_python(repository, f'benchmarks/{command}.py', '--help')
    assert lines[0].startswith('usage: ') and 'Cython' not in '\n'.join(lines)


@contextlib.contextmanager
def shown_and_kept():
    """Two files, with what a command shows and what the log of its run keeps."""
    shown, kept = io.StringIO(), io.StringIO()
    with (
        contextlib.redirect_stdout(shown),
        robust_console() as console,
        shown_on(console),
        console.copied_to('log', kept),
        kept_by(console),
    ):
        yield shown, kept


def test_messages_are_shown_alone_and_kept_with_the_time_before_every_line():
    with shown_and_kept() as (shown, kept), robust_console() as console, shown_on(console):
        logger.debug('a detail')
        logger.info('two\nlines, 100 %')
        logger.warning('careful')
        print('a result')
    assert shown.getvalue() == 'two\nlines, 100 %\nWarning: careful\na result\n'
    *messages, result = kept.getvalue().splitlines()
    assert result == 'a result'
    assert [line[20:] for line in messages] == [
        'DEBUG   a detail',
        'INFO    two',
        'INFO    lines, 100 %',
        'WARNING careful',
    ]
    assert len({line[:10] for line in messages}) <= 2 and messages[0][4:5] == '-'
    assert not [h for h in logging.getLogger(PACKAGE).handlers if h.level]
    assert logging.getLogger(PACKAGE).level == logging.NOTSET


def test_one_process_of_many_shows_messages():
    with shown_and_kept() as (shown, _):
        with not_shown():
            with not_shown():
                logger.error('of another process')
            logger.error('of it, too')
        logger.info('mine')
    assert shown.getvalue() == 'mine\n'


def test_messages_come_above_bars():
    terminal = io.StringIO()
    terminal.isatty = lambda: True
    with (
        contextlib.redirect_stdout(terminal),
        contextlib.redirect_stderr(terminal),
        robust_console() as console,
        shown_on(console),
        tqdm(total=2, desc='bar', mininterval=0) as bar,
    ):
        logger.info('a message')
        bar.update()
    assert terminal.getvalue().split('\n')[0].split('\r')[-1] == 'a message'


def test_a_console_that_fails_costs_no_message_of_the_log():
    with (
        open('/dev/full', 'w') as full,
        contextlib.redirect_stdout(full),
        robust_console() as console,
        shown_on(console),
        console.copied_to('log', io.StringIO()) as _,
    ):
        logger.info('lost')
        assert not sys.stdout.isatty()
    kept = io.StringIO()
    with (
        open('/dev/full', 'w') as full,
        contextlib.redirect_stdout(full),
        robust_console() as console,
        shown_on(console),
        console.copied_to('log', kept),
        kept_by(console),
    ):
        logger.info('first')
        logger.info('second')
    lines = kept.getvalue().splitlines()
    assert [line[28:] for line in lines if 'INFO' in line] == ['first', 'second']
    assert 'stdout cannot be written (No space left on device): continuing without it' in lines


def test_what_a_library_prints_is_a_detail_and_its_progress_is_shown(caplog):
    caplog.set_level(logging.DEBUG, PACKAGE)
    shown = io.StringIO()
    with contextlib.redirect_stdout(shown):
        with prints_logged(logger):
            print('\nLoading', 'data\n')
            print('\r50 %', end='')
            print('\r100 %', end='')
            print()
            print('done', end='')
        print('after')
    assert caplog.messages == ['Loading data', 'done']
    assert shown.getvalue() == '\r50 %\r100 %\nafter\n'


@pytest.mark.parametrize(
    'script, expected',
    [
        ('{repository}/tools/main.py', 'python {repository}/tools/check_data.py'),
        ('/usr/bin/stmn-train', 'stmn-check-data'),
        ('python -m stmn_plugin train', 'python -m stmn_plugin check-data'),
        ('/usr/bin/pytest', 'python -m stmn_plugin check-data'),
    ],
)
def test_another_command_is_called_as_this_one(script, expected, repository, monkeypatch):
    monkeypatch.setattr(sys, 'argv', [script.format(repository=repository)])
    assert command_line.invocation_of('check-data') == expected.format(repository=repository)
