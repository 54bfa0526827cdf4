"""Prefetching: one batch ahead, in order, errors where they belong, seconds that are true."""

import contextlib
from types import SimpleNamespace

import pytest
import torch

from stmn_plugin.data.prefetch import SideStream, TimedIterator, prefetch
from stmn_plugin.training.batches import EpochBatches


class FakeSide:
    """Writes down what a side stream would do."""

    def __init__(self, happened):
        self.happened = happened

    def launch(self, prepare, batch):
        self.happened.append(f'launch {batch}')
        return prepare(batch)

    def join_current_stream(self, batch):
        self.happened.append(f'hand over {batch}')
        return batch


def reading(happened, count, error=None):
    for number in range(count):
        happened.append(f'read {number}')
        yield number
    if error is not None:
        raise error


def steps(happened, count, prepare=lambda batch: batch, error=None):
    for batch in prefetch(reading(happened, count, error), prepare, FakeSide(happened)):
        happened.append(f'step {batch}')


def test_the_next_batch_is_launched_before_a_step_and_after_the_wait_for_its_own():
    happened = []
    steps(happened, 3)
    assert happened == [
        *('read 0', 'launch 0'),
        *('hand over 0', 'read 1', 'launch 1', 'step 0'),
        *('hand over 1', 'read 2', 'launch 2', 'step 1'),
        *('hand over 2', 'step 2'),
    ]


def test_whoever_stops_has_read_one_batch_ahead():
    happened = []
    batches = prefetch(reading(happened, 10), lambda batch: batch, FakeSide(happened))
    assert [next(batches), next(batches)] == [0, 1]
    batches.close()
    assert [event for event in happened if 'read' in event] == ['read 0', 'read 1', 'read 2']


def test_an_epoch_without_batches_has_no_step():
    happened = []
    steps(happened, 0)
    assert happened == []


@pytest.mark.parametrize('count', [0, 2])
def test_an_error_of_reading_comes_after_the_steps_before_it(count):
    happened = []
    with pytest.raises(OSError, match='worker'):
        steps(happened, count, error=OSError('worker'))
    assert [event for event in happened if 'step' in event] == [f'step {i}' for i in range(count)]


def test_an_error_of_preparing_comes_after_the_steps_before_it():
    def prepare(batch):
        if batch == 1:
            raise RuntimeError('out of memory')
        return batch

    happened = []
    with pytest.raises(RuntimeError, match='out of memory'):
        steps(happened, 3, prepare)
    assert happened[-1] == 'step 0' and 'read 2' not in happened


def test_the_current_stream_waits_for_the_side_stream_and_keeps_what_it_gave(monkeypatch):
    happened = []

    class FakeStream:
        def wait_stream(self, other):
            happened.append(f'{self.name} waits for {other.name}')

    main, other = FakeStream(), FakeStream()
    main.name, other.name = 'main', 'side'
    current = [main]

    @contextlib.contextmanager
    def work_on(stream):
        current.append(stream)
        yield
        current.pop()

    class Recorded(torch.Tensor):
        is_cuda = True

        def record_stream(self, stream):
            happened.append(f'kept for {stream.name}')

    monkeypatch.setattr(torch.cuda, 'Stream', lambda: other)
    monkeypatch.setattr(torch.cuda, 'stream', work_on)
    monkeypatch.setattr(torch.cuda, 'current_stream', lambda: current[-1])
    side = SideStream()

    def prepare(batch):
        happened.append(f'prepared on {torch.cuda.current_stream().name}')
        images = torch.zeros(2).as_subclass(Recorded)
        return {'img': images, 'camid': torch.zeros(2), 'bad_frames': batch}

    batch = side.join_current_stream(side.launch(prepare, ['a.jpg']))
    assert batch['bad_frames'] == ['a.jpg']
    assert happened == ['prepared on side', 'main waits for side', 'kept for main']


@pytest.fixture
def clock(monkeypatch):
    """Seconds that pass only when a test says so."""
    now = [0.0]
    monkeypatch.setattr(
        'stmn_plugin.data.prefetch.time', SimpleNamespace(perf_counter=lambda: now[0])
    )
    return now


def test_seconds_are_those_blocked_in_the_iterator(clock):
    def slow():
        for number in range(2):
            clock[0] += 5
            yield number
        clock[0] += 1

    timed = TimedIterator(slow())
    assert next(timed) == 0
    clock[0] += 100  # the step
    assert (timed.pop_seconds(), timed.pop_seconds()) == (5, 0)
    assert list(timed) == [1]
    assert timed.pop_seconds() == 6


class Loader:
    """Draws from the global generators, as the host's loaders do in the main process."""

    def __init__(self, clock, error):
        self.clock, self.error, self.first = clock, error, 0

    def __len__(self):
        return 4

    def set_epoch(self, epoch, first):
        assert epoch == 3
        self.first = first

    def __iter__(self):
        for number in range(max(self.first, 1), 4):
            self.clock[0] += 10
            yield {'img': torch.rand(3) + number, 'pid': torch.tensor([number])}
        if self.error is not None:
            raise self.error


def loop(ahead, clock, first, error=None):
    loader = Loader(clock, error)
    prepare = lambda images, draws: images  # noqa: E731
    return EpochBatches(loader, prepare, loader, seed=7, ahead=ahead).of_epoch(3, first)


def test_a_step_sees_the_same_batch_and_generators_with_and_without_prefetching(clock, monkeypatch):
    monkeypatch.setattr('stmn_plugin.training.batches.SideStream', lambda: FakeSide([]))
    seen = []
    for ahead in (False, True):
        for index, data, waited in loop(ahead, clock, 1):
            seen.append((ahead, index, waited, data['img'].tolist(), torch.rand(1).item()))
            clock[0] += 1000  # the step
    plain, ahead = seen[:3], seen[3:]
    assert [s[1] for s in plain] == [s[1] for s in ahead] == [1, 2, 3]
    assert [s[3:] for s in plain] == [s[3:] for s in ahead]
    assert len({s[4] for s in plain}) == 3
    # what is read ahead is waited for ahead
    assert [s[2] for s in plain] == [10, 10, 10]
    assert [s[2] for s in ahead] == [20, 10, 0]


@pytest.mark.parametrize('ahead', [False, True])
def test_a_worker_that_fails_costs_no_step_before_it(ahead, clock, monkeypatch):
    monkeypatch.setattr('stmn_plugin.training.batches.SideStream', lambda: FakeSide([]))
    done = []
    with pytest.raises(OSError, match='worker'):
        for index, _, _ in loop(ahead, clock, 0, OSError('worker')):
            done.append(index)
    assert done == [0, 1, 2]
