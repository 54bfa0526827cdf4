"""Only regular files are opened, whatever lies under the name, and nothing waits."""

import contextlib
import os
import socket

import pytest

from stmn_plugin.input_files import open_regular


@pytest.fixture
def short_folder(tmp_path, monkeypatch):
    """The current folder: a socket's address holds about 100 letters."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def make_socket(path):
    with contextlib.closing(socket.socket(socket.AF_UNIX)) as server:
        server.bind(path)


def make_loop(path):
    os.symlink(path, path)


NO_FILES = {
    'pipe': (os.mkfifo, 'is a pipe'),
    'pipe behind a link': (lambda p: os.mkfifo('pipe') or os.symlink('pipe', p), 'is a pipe'),
    'folder': (os.mkdir, 'is a folder'),
    'device': (lambda path: os.symlink('/dev/zero', path), 'is a device'),
    'terminal': (lambda path: os.symlink('/dev/tty', path), 'device|no regular'),
    'socket': (make_socket, 'is no regular file'),
    'loop': (make_loop, 'symbolic links'),
    'dangling link': (lambda path: os.symlink('nothing', path), 'No such file'),
    'nothing': (lambda path: None, 'No such file'),
}


@pytest.mark.parametrize('name', NO_FILES)
def test_what_is_no_regular_file_is_refused_at_once(name, short_folder):
    make, reason = NO_FILES[name]
    make('x.jpg')
    open_files = set(os.listdir('/proc/self/fd'))
    with pytest.raises(OSError, match=reason) as caught:
        open_regular('x.jpg')
    assert caught.value.strerror and caught.value.filename == 'x.jpg'
    assert set(os.listdir('/proc/self/fd')) <= open_files  # some may be closed by the collector


@pytest.mark.parametrize('path', ['a\0b.jpg', 'half \ud83d.jpg'])
def test_a_name_that_no_file_can_have_is_an_os_error(path):
    with pytest.raises(OSError, match='no file can be called so'):
        open_regular(path)


def test_a_file_and_a_link_to_it_are_read_as_bytes_or_text(short_folder):
    (short_folder / 'file').write_bytes('\ufeffé\r\n'.encode())
    os.symlink('file', 'link')
    with open_regular('link') as file:
        assert file.read() == b'\xef\xbb\xbf\xc3\xa9\r\n' and file.name == 'link'
    with open_regular('file', encoding='utf-8-sig') as file:
        assert file.read() == 'é\n'
    with open_regular('file', encoding='utf-8-sig', newline='') as file:
        assert file.read() == 'é\r\n'


@pytest.mark.skipif(not hasattr(os, 'geteuid') or os.geteuid() != 0, reason='needs root')
def test_a_file_of_somebody_else_is_refused(short_folder):
    (short_folder / 'x.jpg').write_bytes(b'')
    os.chmod('x.jpg', 0)
    child = os.fork()
    if not child:
        code = 1
        with contextlib.suppress(BaseException):
            os.setuid(65534)
            try:
                open_regular('x.jpg')
            except PermissionError as error:
                code = 0 if error.strerror == 'Permission denied' else 2
        os._exit(code)
    assert os.waitpid(child, 0)[1] == 0
