"""Batches of a loader → the same batches, one ahead: ready on the GPU when their step begins."""

import time
from collections.abc import Callable, Iterator
from typing import Any, TypeAlias

import torch

Batch: TypeAlias = dict[str, Any]

END: Any = object()


def prefetch(
    batches: Iterator[Batch], prepare: Callable[[Batch], Batch], side: 'SideStream'
) -> Iterator[Batch]:
    """Read and prepare the next batch beside the step that works on the last.

    An error of the next batch comes when that one is asked for: the step before it is done.

    Args:
        batches: of a loader; read once per batch yielded, and once ahead.
        prepare: batch → batch on the GPU, a dictionary.
        side: where it works.
    """
    ahead = next(batches, END)
    if ahead is not END:
        ahead = side.launch(prepare, ahead)
    while ahead is not END:
        # waited for before the next is launched: the step must not wait for that, too
        batch, error = side.hand_over(ahead), None
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
        """Queue the work; the result may be used after :meth:`hand_over`."""
        with torch.cuda.stream(self.stream):
            return prepare(batch)

    def hand_over(self, batch: Batch) -> Batch:
        """Let the current stream, not the CPU, wait for the work launched so far."""
        current = torch.cuda.current_stream()
        current.wait_stream(self.stream)
        for value in batch.values():
            if isinstance(value, torch.Tensor) and value.is_cuda:
                value.record_stream(current)  # its memory is not used anew before the step is done
        return batch


class TimedIterator:
    """An iterator that adds up for how long its user was blocked in it."""

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

    def take_seconds(self) -> float:
        """Seconds since the last time."""
        seconds, self.seconds = self.seconds, 0.0
        return seconds
