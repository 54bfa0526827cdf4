"""Loaders whose workers fail: one line, never a wait."""

import os
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest
import torch
from torch.utils.data import DataLoader

from stmn_plugin.data import loaders
from stmn_plugin.data.loaders import FrameLoader, check_shared_memory
from stmn_plugin.errors import InputError, WorkerError, resource_errors

MIB = 2**20
FULL = 'unable to allocate shared memory(shm) for file </torch_7_1_0>: No space left on device (28)'


class Unsendable:
    """Cannot be handed over: what happens when /dev/shm is full, in the thread that sends."""

    def __reduce__(self):
        raise RuntimeError(FULL)


class Items(torch.utils.data.Dataset):
    def __init__(self, make):
        self.make = make

    def __len__(self):
        return 8

    def __getitem__(self, index):
        return self.make(index)


def one_line(loader):
    with pytest.raises(InputError) as caught, resource_errors('train.batch_size', '; note'):
        list(loader)
    message = str(caught.value)
    assert message.startswith('data.workers: ') and '/dev/shm' in message
    assert message.endswith('; note') and '\n' not in message
    return message


def as_it_is(item):
    return item


def test_a_batch_that_cannot_be_sent_ends_the_loader(capfd):
    loader = FrameLoader(Items(lambda _: Unsendable()), 2, batch_size=None, collate_fn=as_it_is)
    assert 'exited unexpectedly' in one_line(loader)
    assert capfd.readouterr().err == ''

    def full(_):  # torch's collation puts a batch there, too
        raise RuntimeError(FULL)

    assert FULL in one_line(FrameLoader(Items(full), 1))


def test_a_worker_that_is_stuck(monkeypatch):
    monkeypatch.setattr(loaders, 'PATIENCE_SECONDS', 2)
    loader = FrameLoader(Items(lambda _: time.sleep(60)), 1)
    assert 'timed out after 2 seconds' in one_line(loader)


def test_processes_that_cannot_be_started(monkeypatch):
    def refused(_):
        raise OSError(11, 'Resource temporarily unavailable')

    monkeypatch.setattr(DataLoader, '__iter__', refused)
    loader = FrameLoader(Items(int), 3)
    assert '3 processes cannot be started (Resource temporarily unavailable)' in one_line(loader)


@pytest.mark.parametrize('error', [EOFError(), ConnectionResetError(104, 'reset by peer')])
def test_a_broken_pipe_to_a_worker_is_a_dead_worker(error, monkeypatch):
    def broken(_):
        raise error
        yield

    monkeypatch.setattr(DataLoader, '__iter__', broken)
    assert f'died ({type(error).__name__})' in one_line(FrameLoader(Items(int), 1))
    elsewhere = pytest.raises(type(error))  # it is a bug
    with elsewhere, resource_errors('train.batch_size'):
        raise error


@pytest.mark.parametrize('workers', [0, 1])
@pytest.mark.parametrize('kind', [EOFError, ConnectionResetError, RuntimeError, InputError])
def test_errors_of_the_dataset_stay_what_they_are(kind, workers):
    def broken(_):
        raise kind('in the dataset')

    with pytest.raises(kind, match='in the dataset') as caught:
        list(FrameLoader(Items(broken), workers))
    assert not isinstance(caught.value, WorkerError)


def test_batches_are_those_of_the_hosts_loader():
    torch.manual_seed(0)
    host = DataLoader(Items(float), batch_size=3, shuffle=True, drop_last=True)
    expected = [batch.tolist() for batch in host]
    for workers in (0, 2):
        host = DataLoader(Items(float), 3, shuffle=True, drop_last=True, num_workers=workers)
        ours = FrameLoader.like(host)
        torch.manual_seed(0)
        assert len(ours) == 2 and [batch.tolist() for batch in ours] == expected


def test_too_little_shared_memory_is_said_at_the_start(tmp_path, monkeypatch):
    sizes = {'train.batch_size': 10 * MIB, 'test.batch_size': 20 * MIB}
    monkeypatch.setattr(loaders.shutil, 'disk_usage', lambda _: SimpleNamespace(free=64 * MIB))
    for workers in (0, 1):  # of 3 batches of 20 MiB
        check_shared_memory(workers, sizes)
    with pytest.raises(InputError) as caught:
        check_shared_memory(3, {'train.batch_size': 10 * MIB})
    expected = (
        'data.workers 3: up to 7 batches (train.batch_size) of 10.0 MiB lie in /dev/shm, which has '
        '64.0 MiB free; set data.workers 2 or make it larger (docker run --shm-size)'
    )
    assert str(caught.value) == expected
    with pytest.raises(InputError, match=r'\(test.batch_size\) of 20.0 MiB .* data.workers 1 or'):
        check_shared_memory(2, {'train.batch_size': MIB, 'test.batch_size': 20 * MIB})
    monkeypatch.setenv('LOCAL_WORLD_SIZE', 'two')
    with pytest.raises(InputError, match="LOCAL_WORLD_SIZE is 'two'"):
        check_shared_memory(1, {'train.batch_size': 1})
    monkeypatch.setenv('LOCAL_WORLD_SIZE', '2')  # their workers share it
    with pytest.raises(InputError, match='data.workers 0 or'):
        check_shared_memory(1, sizes)
    monkeypatch.setattr(loaders, 'SHARED_MEMORY', str(tmp_path / 'none'))  # macOS, Windows
    check_shared_memory(100, sizes)


SCRIPT = """
import torch
from stmn_plugin.data.loaders import FrameLoader
from stmn_plugin.errors import exit_on_input_error, resource_errors
with exit_on_input_error(), resource_errors('train.batch_size'):
    for _ in FrameLoader(torch.zeros(8, 3, 256, 128), 1, batch_size=4):
        pass
"""


@pytest.mark.slow
@pytest.mark.parametrize('size', ['4k', '500k'])
def test_a_full_dev_shm_ends_the_loader(size):
    """Needs the right to mount; 4k has no place for a lock, 500k none for a second batch."""
    if subprocess.run(['unshare', '-m', 'true'], capture_output=True, check=False).returncode:
        pytest.skip('no right to mount')
    mount = f'mount -t tmpfs -o size={size} none /dev/shm && exec "$0" -c "$1"'
    done = subprocess.run(
        ['unshare', '-m', 'bash', '-c', mount, sys.executable, SCRIPT],
        capture_output=True, text=True, check=False, env={**os.environ},
    )  # fmt: skip
    lines = [line for line in done.stderr.splitlines() if line.startswith('error')]
    assert done.returncode == 2 and len(lines) == 1, done.stderr
    assert lines[0].startswith('error: data.workers: ') and '/dev/shm' in lines[0]
