"""Files are whole or what was there before, whatever ends their writer, wherever they lie."""

import multiprocessing
import os
import stat

import pytest
import torch

from stmn_plugin import whole_files
from stmn_plugin.errors import InputError
from stmn_plugin.training.run_folder import hold_folder
from stmn_plugin.whole_files import atomic_path, remove_leftovers, whole_file, write_text


@pytest.fixture
def small_files():
    """A limit in bytes for what this process writes, as a disk that is full."""
    resource = pytest.importorskip('resource')
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_an_error_of_the_block_is_not_one_of_the_disk(tmp_path):
    for error in (RuntimeError('mat1 and mat2'), BrokenPipeError(32, 'worker'), OSError('frame')):
        with pytest.raises(type(error)) as caught, whole_file(tmp_path / 'file') as file:
            file.write(b'half')
            raise error
        assert caught.value is error and os.listdir(tmp_path) == []


@pytest.mark.parametrize('size', [0, 100, 1000, 20_000, 400_500])
def test_a_disk_that_fills_anywhere_in_a_checkpoint_is_one_line(size, tmp_path, small_files):
    path = write_text(tmp_path / 'file', 'old')
    small_files(size)
    line = f'cannot write {path}: File too large'
    with pytest.raises(InputError) as caught, whole_file(path) as file:
        torch.save({'w': torch.zeros(100_000)}, file)
    small_files(-1)
    assert str(caught.value) == line
    assert path.read_text() == 'old' and os.listdir(tmp_path) == ['file']


def test_devices_are_written_to_and_what_is_no_file_is_refused(tmp_path):
    write_text('/dev/null', 'text')
    assert stat.S_ISCHR(os.stat('/dev/null').st_mode)
    with pytest.raises(InputError, match='cannot write /dev/full: No space left'):
        write_text('/dev/full', 'text')
    os.mkfifo(tmp_path / 'fifo')  # no process reads it: opening it would wait for ever
    os.mkdir(tmp_path / 'folder')
    os.symlink('loop', tmp_path / 'loop')
    for name in ('fifo', 'folder', 'loop'):
        with pytest.raises(InputError, match=f'cannot write {tmp_path / name}: '):
            write_text(tmp_path / name, 'text')
    assert sorted(os.listdir(tmp_path)) == ['fifo', 'folder', 'loop']


def test_links_are_followed_and_permissions_stay(tmp_path):
    (tmp_path / 'there').mkdir()
    target, link = tmp_path / 'there' / 'file', tmp_path / 'link'
    link.symlink_to(target)
    previous = os.umask(0o027)
    try:
        write_text(link, 'new')  # the link led nowhere
        assert stat.S_IMODE(target.stat().st_mode) == 0o640
        target.chmod(0o604)
        write_text(link, 'newer')
    finally:
        os.umask(previous)
    assert stat.S_IMODE(target.stat().st_mode) == 0o604
    assert link.is_symlink() and target.read_text() == 'newer'
    assert os.listdir(tmp_path / 'there') == ['file']


def write_for_ever(path, pipe):
    with whole_file(path) as file:
        file.write(b'half')
        file.flush()
        pipe.send('writing')
        multiprocessing.Event().wait()


@pytest.fixture
def writer(tmp_path):
    """A process that is writing ``tmp_path / 'store.npy'``."""
    fork = multiprocessing.get_context('fork')
    receiver, sender = fork.Pipe(duplex=False)
    process = fork.Process(target=write_for_ever, args=(tmp_path / 'store.npy', sender))
    process.start()
    assert receiver.recv() == 'writing'
    yield process
    process.kill()
    process.join()


def test_what_a_killed_writer_left_goes_with_the_next_write_into_the_folder(writer, tmp_path):
    mine = {'notes.tmp-77', '.store.npy.tmp-0123abcd', '.a.tmp-0123abcd.lock.old'}
    for name in mine:
        (tmp_path / name).write_text('mine')
    remove_leftovers(tmp_path)
    assert len(os.listdir(tmp_path)) == 2 + len(mine)  # it is alive: its file and its lock stay
    writer.kill()
    writer.join()
    whole_files._clean_once.cache_clear()  # as a process of its own
    write_text(tmp_path / 'other', 'text')
    assert set(os.listdir(tmp_path)) == {'other', *mine}


def fork_and_wait(folder, pipe):
    with hold_folder(str(folder)):
        orphan = multiprocessing.get_context('fork').Process(target=tell_and_wait, args=(pipe,))
        orphan.start()
        orphan.join()


def tell_and_wait(pipe):
    """Tell of itself: here the hooks of the fork, which close the lock, are over."""
    pipe.send(os.getpid())
    multiprocessing.Event().wait()


def test_a_worker_that_outlives_its_run_does_not_keep_the_folder(tmp_path):
    fork = multiprocessing.get_context('fork')
    receiver, sender = fork.Pipe(duplex=False)
    process = fork.Process(target=fork_and_wait, args=(tmp_path, sender))
    process.start()
    orphan = receiver.recv()
    try:
        with (
            pytest.raises(InputError, match='another process works in'),
            hold_folder(str(tmp_path)),
        ):
            pass
        process.kill()
        process.join()
        with hold_folder(str(tmp_path)):
            os.kill(orphan, 0)  # it lives
    finally:
        os.kill(orphan, 9)


def test_a_path_for_a_block_becomes_the_file(tmp_path):
    with atomic_path(tmp_path / 'new' / 'file') as temporary:
        with open(temporary, 'w') as file:
            file.write('text')
        assert os.listdir(tmp_path / 'new') != ['file']
    assert os.listdir(tmp_path / 'new') == ['file']
    assert (tmp_path / 'new' / 'file').read_text() == 'text'
