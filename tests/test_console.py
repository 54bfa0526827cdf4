"""A console that is absent, full, closed or short of characters costs a run nothing."""

import contextlib
import io
import logging
import os
import sys
import warnings

import pytest
from tqdm import tqdm

from stmn_plugin import console
from stmn_plugin.cli import train
from stmn_plugin.console import robust_console
from stmn_plugin.errors import InputError, exit_on_input_error


def without_reader():
    reader, writer = os.pipe()
    os.close(reader)
    return os.fdopen(writer, 'w')


def closed():
    with open(os.devnull, 'w') as stream:
        return stream


def full():
    return open('/dev/full', 'w')  # noqa: SIM115, the fixture closes it


BROKEN = {
    'no reader': (without_reader, 'stdout cannot be written (Broken pipe)'),
    'full': (full, 'stdout cannot be written (No space left on device)'),
    'closed': (closed, 'stdout cannot be written (I/O operation on closed file.)'),
    'absent': (lambda: None, 'stdout is closed'),
}


@pytest.fixture(params=BROKEN)
def broken(request):
    """A stream that fails, and what is said of it."""
    make, word = BROKEN[request.param]
    stream = make()
    yield stream, word
    if stream is not None:
        stream.close()  # what is in its buffer does not fail either


def test_a_console_that_fails_is_dropped_with_a_word_in_the_log(broken):
    stream, word = broken
    log = io.StringIO()
    with (
        contextlib.redirect_stdout(stream),
        robust_console() as out,
        out.copied_to('log', log),
    ):
        for number in range(3):
            print('line', number, flush=True)
        assert not sys.stdout.isatty()
    lines = log.getvalue().splitlines()
    assert [line for line in lines if line.startswith('line')] == ['line 0', 'line 1', 'line 2']
    assert [line for line in lines if word in line] == [f'{word}: continuing without it']


def test_bars_and_errors_on_a_broken_console_raise_nothing(broken):
    stream, word = broken
    log = io.StringIO()
    with (
        contextlib.redirect_stdout(io.StringIO()) as shown,
        contextlib.redirect_stderr(stream),
        pytest.raises(SystemExit) as ended,
        exit_on_input_error(),
        robust_console() as out,
        out.copied_to('log', log),
    ):
        for number in tqdm(range(3), disable=False, mininterval=0):
            print(number)
        sys.stderr.writelines(['two\n', 'lines\n'])
        raise InputError('wrong')
    assert ended.value.code == 2
    word = word.replace('stdout', 'stderr')
    assert word in log.getvalue() and log.getvalue().endswith('InputError: wrong\n')
    assert shown.getvalue().splitlines()[-1] == '2' or word in shown.getvalue()


def test_warnings_and_what_libraries_log_are_in_the_log_and_bars_are_not():
    log = io.StringIO()
    with (
        contextlib.redirect_stdout(io.StringIO()) as shown,
        contextlib.redirect_stderr(io.StringIO()) as errors,
        robust_console() as out,
        out.copied_to('log', log),
    ):
        print('before')
        for _ in tqdm(range(2), desc='bar', disable=False, mininterval=0, leave=False):
            # what showwarning does, which pytest replaces
            sys.stderr.write(warnings.formatwarning('many workers', UserWarning, 'a.py', 1, ''))
        logging.StreamHandler().emit(logging.makeLogRecord({'msg': 'a library'}))
        print('after')
    lines = log.getvalue().splitlines()
    assert [lines[0], *lines[-2:]] == ['before', 'a library', 'after']
    assert log.getvalue().count('UserWarning: many workers') == 2 and 'bar' not in log.getvalue()
    assert shown.getvalue() == 'before\nafter\n'
    assert all(word in errors.getvalue() for word in ('bar', 'many workers', 'a library'))


@pytest.mark.parametrize('encoding', ['ascii', 'latin-1'])
def test_characters_that_an_encoding_lacks_are_escaped(encoding):
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding)
    with contextlib.redirect_stdout(stream), robust_console():
        print('Übung 人 \udcff')
    stream.flush()
    assert raw.getvalue().decode(encoding).replace('\\xdc', 'Ü') == 'Übung \\u4eba \\udcff\n'


def test_a_log_that_fails_is_dropped_with_a_word_on_the_console():
    shown = io.StringIO()
    with (
        contextlib.redirect_stdout(shown),
        open('/dev/full', 'w', buffering=1) as log,
        contextlib.suppress(InputError),
        robust_console() as out,
        out.copied_to('train.log', log),
    ):
        print('first')
        print('second')
        raise InputError('what really failed')
    word = 'train.log cannot be written (No space left on device): continuing without it'
    assert shown.getvalue().splitlines() == ['first', word, 'second']


def test_a_slow_reader_loses_text_and_not_its_place():
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    with os.fdopen(writer, 'w', buffering=1) as stream, contextlib.redirect_stdout(stream):
        with robust_console():
            for _ in range(100):
                print('x' * 10_000)
            while len(os.read(reader, 1 << 20)) == 1 << 20:
                pass
            print('there again')
        assert b'there again' in os.read(reader, 1 << 20)
    os.close(reader)


def test_lines_are_printed_above_bars_and_whole():
    terminal = io.StringIO()
    terminal.isatty = lambda: True
    with (
        contextlib.redirect_stdout(terminal),
        contextlib.redirect_stderr(terminal),
        robust_console(),
        tqdm(total=2, desc='bar', mininterval=0) as bar,
    ):
        print('a', 'line')
        bar.update()
    lines = terminal.getvalue().split('\n')
    assert lines[0].split('\r')[-1] == 'a line'


def test_descriptors_that_are_closed_lead_nowhere():
    code = pid = os.fork()
    if pid == 0:
        os.close(0), os.close(2)
        console._open_closed_descriptors()
        good = all(os.path.samestat(os.fstat(fd), os.stat(os.devnull)) for fd in (0, 2))
        os._exit(0 if good and os.get_inheritable(2) else 1)
    _, code = os.waitpid(pid, 0)
    assert code == 0


class Reader(io.StringIO):
    """Goes away when it has read what it was waiting for."""

    def __init__(self, last):
        super().__init__()
        self.last, self.gone = last, False

    def write(self, text):
        if self.gone:
            raise BrokenPipeError(32, 'Broken pipe')
        self.gone = self.last in text
        return super().write(text)


@pytest.mark.slow
def test_a_run_whose_reader_goes_ends_well(small_run, mars_root, repository, tmp_path):
    words = ['--config-file', str(repository / 'configs' / 'stmn_mars.yaml'), '--root', mars_root]
    reader = Reader('epoch: [1/1][1/')
    with contextlib.redirect_stdout(reader):
        train.main([*words, *small_run])
    assert reader.gone and (tmp_path / 'run' / 'metrics.json').exists()
    [log] = (tmp_path / 'run').glob('train.log-*')
    assert 'stdout cannot be written (Broken pipe)' in log.read_text()
    assert 'Checkpoint saved' in log.read_text()
