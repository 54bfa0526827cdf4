"""Prepare the next batch on the GPU during the current step, and measure waiting times."""

import time
from collections.abc import Callable, Iterator
from typing import Any, TypeAlias

import torch

Batch: TypeAlias = dict[str, Any]

END: Any = object()


def prefetch(
    batches: Iterator[Batch], prepare: Callable[[Batch], Batch], side: 'SideStream'
) -> Iterator[Batch]:
    """Read and prepare the next batch while the step of the last one runs.

    An error of the next batch is raised when that batch is requested, after the step before it.

    Args:
        batches: batches of a loader, read one ahead.
        prepare: batch → batch on the GPU.
        side: stream on which it runs.
    """
    ahead = next(batches, END)
    if ahead is not END:
        ahead = side.launch(prepare, ahead)
    while ahead is not END:
        # wait before launching the next batch, so that the step does not wait for that one
        batch, error = side.join_current_stream(ahead), None
        try:
            ahead = next(batches, END)
            if ahead is not END:
                ahead = side.launch(prepare, ahead)
        except Exception as caught:
            error = caught
        yield batch
        if error is not None:
            raise error


class SideStream:
    """A second queue of work on the current GPU."""

    def __init__(self) -> None:
        self.stream = torch.cuda.Stream()

    def launch(self, prepare: Callable[[Batch], Batch], batch: Batch) -> Batch:
        """Queue the work; the result may be used after :meth:`join_current_stream`."""
        with torch.cuda.stream(self.stream):
            return prepare(batch)

    def join_current_stream(self, batch: Batch) -> Batch:
        """Let the current stream, not the CPU, wait for the work launched so far."""
        current = torch.cuda.current_stream()
        current.wait_stream(self.stream)
        for value in batch.values():
            if isinstance(value, torch.Tensor) and value.is_cuda:
                value.record_stream(current)  # keeps its memory until the step has finished
        return batch


class TimedIterator:
    """An iterator that measures for how long it blocks its user."""

    def __init__(self, iterator: Iterator[Any]):
        self.iterator = iterator
        self.seconds = 0.0

    def __iter__(self) -> 'TimedIterator':
        return self

    def __next__(self) -> Any:
        start = time.perf_counter()
        try:
            return next(self.iterator)
        finally:
            self.seconds += time.perf_counter() - start

    def pop_seconds(self) -> float:
        """Return the seconds since the last call."""
        seconds, self.seconds = self.seconds, 0.0
        return seconds
