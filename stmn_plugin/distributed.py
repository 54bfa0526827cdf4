"""One run in several processes of torchrun; the only file that uses torch.distributed.

Every process holds a part of each batch up to the encoder's output. :func:`gather` then gives each
of them the whole, so that everything from there on (BNNecks, classifiers, mining, spread) is that
of one process, done by all alike. Its gradient is that of the sum of the processes' losses; these
being one and the same number, DDP's mean over the processes makes it the gradient of that number.

With a single process every function is a no-op.
"""

import contextlib
import datetime
import os
import re
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from .errors import InputError
from .numerals import is_digits

# the others wait that long for the main process, which may draw data or re-rank a large gallery;
# a process that dies is noticed at once, by its closed connections and by torchrun
TIMEOUT = datetime.timedelta(hours=1)


# in the words of gloo, NCCL and torch's store; shapes that differ between processes are no such
CONNECTION_LOST = re.compile(
    r'closed|reset|broken pipe|timed out|timeout|refused|aborted|remote process|network|socket',
    re.IGNORECASE,
)


class PeerDied(InputError):
    """Another process of the run has ended, so this one cannot continue."""


@contextlib.contextmanager
def process_group(use_gpu: bool) -> Iterator[None]:
    """Join the processes that torchrun started, if several, within the block.

    A block within such a block changes nothing.

    Args:
        use_gpu (bool): each process takes the GPU of its local rank.

    Raises:
        InputError: an environment that does not fit; more processes than GPUs.
    """
    if from_environment('WORLD_SIZE', 1) == 1 or dist.is_initialized():
        yield  # the block around this one ends the group
        return
    if use_gpu:
        torch.cuda.set_device(_local_gpu())
    try:
        dist.init_process_group('cpu:gloo,cuda:nccl' if use_gpu else 'gloo', timeout=TIMEOUT)
    except (ValueError, RuntimeError) as error:
        reason = ' '.join(str(error).split())
        raise InputError(f'the processes of the run cannot meet: {reason[:300]}') from error
    yield
    with peer_errors():
        max_over_ranks(0)  # wait until all processes have finished
    dist.destroy_process_group()  # not after an error: it may wait for a process that is gone


def from_environment(name: str, default: int) -> int:
    """Read a number that torchrun sets for its processes; raise InputError if it is invalid."""
    value = os.environ.get(name, str(default))
    if not is_digits(value):
        raise InputError(f'the processes of the run cannot meet: {name} is {value!r}')
    return int(value)


def _local_gpu() -> int:
    number, count = from_environment('LOCAL_RANK', 0), torch.cuda.device_count()
    if number >= count:
        raise InputError(
            f'torchrun --nproc-per-node: {count} GPUs cannot take {number + 1} processes or more '
            '(use_gpu False runs them on the CPU)'
        )
    return number


@contextlib.contextmanager
def peer_errors() -> Iterator[None]:
    """Convert a lost connection in a ``with`` block to :class:`PeerDied`; pass other errors on."""
    try:
        yield
    except RuntimeError as error:
        of_group = isinstance(error, dist.DistError) or 'gloo' in str(error).lower()
        if not (of_group and CONNECTION_LOST.search(str(error))):
            raise
        raise PeerDied(
            "another process of this run died, its own message or torchrun's report says why; "
            'model.resume auto resumes from the last checkpoint'
        ) from error


def world_size() -> int:
    """Return the number of processes."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Return the number of this process, from 0."""
    return dist.get_rank() if world_size() > 1 else 0


def is_main() -> bool:
    """Return whether this process is the one that prints, ranks and writes files."""
    return rank() == 0


@contextlib.contextmanager
def main_first() -> Iterator[None]:
    """Run a ``with`` block in the main process, then in the first of other nodes, then in the rest.

    Later processes find the data, indexes and downloads that earlier ones have made.
    """
    turn = 0 if is_main() else 1 if from_environment('LOCAL_RANK', 0) == 0 else 2
    for now in range(3):
        if now == turn:
            yield
        max_over_ranks(0)


def shard(sizes: Sequence[int]) -> slice:
    """Return this process's part of a list: contiguous, in rank order, balanced by size.

    Args:
        sizes (sequence of int): of each element.

    Returns:
        slice: into the list; may be empty. Equal sizes are dealt evenly where that is possible.
    """
    counts = np.asarray(sizes, dtype=np.int64)
    # an element belongs to the process in whose share of the total its middle lies
    owners = (2 * np.cumsum(counts) - counts) * world_size() // max(2 * counts.sum(), 1)
    start, end = np.searchsorted(np.minimum(owners, world_size() - 1), [rank(), rank() + 1])
    return slice(int(start), int(end))


def gather(rows: Tensor) -> Tensor:
    """Concatenate the rows of all processes in rank order, with gradients.

    Args:
        rows (torch.Tensor, optional): shape (n, ...), n the same on all; None stays None.

    Returns:
        torch.Tensor: shape (world size * n, ...); ``rows`` itself in a single process.
    """
    return rows if rows is None or world_size() == 1 else _Gather.apply(rows)


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor) -> Tensor:
        ctx.num_rows = len(rows)
        parts = [torch.empty_like(rows) for _ in range(world_size())]
        dist.all_gather(parts, rows.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        start = rank() * ctx.num_rows
        return total_over_ranks(gradient)[start : start + ctx.num_rows]


def total(values: Tensor) -> Tensor:
    """Sum a tensor over all processes, element by element, with gradients."""
    return values if world_size() == 1 else _Total.apply(values)


class _Total(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        return total_over_ranks(values)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return total_over_ranks(gradient)


def total_over_ranks(values: Tensor) -> Tensor:
    """Sum a tensor over all processes, without gradients."""
    values = values.clone(memory_format=torch.contiguous_format)
    dist.all_reduce(values)
    return values


def max_over_ranks(number: int) -> int:
    """Return the largest of the processes' integers; every process waits for all others."""
    if world_size() == 1:
        return number
    numbers = torch.tensor(number)
    dist.all_reduce(numbers, dist.ReduceOp.MAX)
    return int(numbers)


def broadcast(value: Any) -> Any:
    """Return the main process's value, any object that can be pickled, in every process."""
    if world_size() == 1:
        return value
    values = [value]
    dist.broadcast_object_list(values)
    return values[0]


def gather_objects(value: Any) -> list[Any]:
    """Gather values that can be pickled, in rank order, on the main process; [] elsewhere."""
    if world_size() == 1:
        return [value]
    values = [None] * world_size() if is_main() else None
    dist.gather_object(value, values)
    return values or []


def broadcast_buffers(model: torch.nn.Module) -> None:
    """Give every process the main one's buffers: running statistics of batch normalisation."""
    if world_size() > 1:
        for buffer in model.buffers():
            dist.broadcast(buffer, 0)


def replicate(model: torch.nn.Module, **options: Any) -> torch.nn.Module | None:
    """Return the model as DDP, for the forward passes of training; None in a single process.

    Args:
        model (nn.Module): on its device; gets the main process's weights and buffers.
        **options: of torch's DDP.

    Returns:
        DistributedDataParallel: averages the gradients of the processes' losses, for the parameters
        that train now. A forward pass starts from the main process's buffers.
    """
    if world_size() == 1:
        return None
    return torch.nn.parallel.DistributedDataParallel(model, **options)
