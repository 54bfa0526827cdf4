"""A loader → the batches of an epoch from any batch on, seeded and timed, on a GPU one ahead.

What is random in a step depends on (seed, epoch, step) only, whatever was read before it.
"""

import functools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from torch import Tensor

from stmn_plugin.data.prefetch import SideStream, TimedIterator, prefetch
from stmn_plugin.distributed import rank
from stmn_plugin.randomness import seed_everything


class Batch(NamedTuple):
    number: int  # in the epoch, from 0
    data: dict[str, Any]  # of the loader; read ahead it is finished, see ``EpochBatches.finish``
    waited: float  # seconds blocked on the loader since the batch before


class EpochBatches:
    """The batches of a loader, epoch by epoch.

    Args:
        loader: of dictionaries as the host's loaders give them.
        prepare: images and their draws → finished images on the device, see ``Prepare``.
        sampler: of the loader, if it is ours and can begin in the middle of an epoch.
        seed: of all that is random in a step; None leaves the generators alone.
        ahead: read one batch ahead, beside the step that works on the last; for a GPU.
    """

    def __init__(
        self,
        loader: Any,
        prepare: Callable[..., Tensor],
        sampler: Any = None,
        seed: int | None = None,
        ahead: bool = False,
    ):
        self.loader = loader
        self.prepare = prepare
        self.sampler = sampler
        self.seed = seed
        self.ahead = ahead

    def __len__(self) -> int:
        return len(self.loader)

    def go_to(self, epoch: int, first: int = 0) -> None:
        """Begin the next pass with batch ``first`` of an epoch, both from 0."""
        if self.sampler is not None:
            self.sampler.set_epoch(epoch, first)

    def of_epoch(self, epoch: int, first: int = 0) -> Iterator[Batch]:
        """The batches of an epoch from ``first`` on; before each the step is seeded."""
        self.go_to(epoch, first)
        reading = TimedIterator(self._read(epoch, first))
        batches = prefetch(reading, self.finish, self._side) if self.ahead else reading
        for index, data in enumerate(batches, first):
            self._seed(epoch, index + 1)  # whatever has been read since: the next batch, say
            yield Batch(index, data, reading.take_seconds())

    def _read(self, epoch: int, first: int) -> Iterator[dict[str, Any]]:
        count = len(self)
        self._seed(epoch, 0)  # the host's loaders draw their order here
        batches = iter(self.loader)
        # the host's loaders start at their beginning: batches that are done are read and dropped
        index = first if self.sampler is not None else 0
        while index < count:
            self._seed(epoch, index + 1)  # the host's loaders augment here
            data = next(batches, None)
            if data is None:  # the host's RandomIdentitySampler promises more than it has
                return
            if index >= first:
                yield data
            index += 1

    def finish(self, data: dict[str, Any]) -> dict[str, Any]:
        """A batch with images finished and identities on the device; a finished one as it is."""
        images: Tensor = self.prepare(data['img'], data.get('augmentation'))
        return {**data, 'img': images, 'pid': data['pid'].to(images.device, non_blocking=True)}

    def _seed(self, epoch: int, step: int) -> None:
        """Data do not depend on these generators; dropout differs from process to process."""
        if self.seed is not None:
            seed_everything(self.seed, epoch, step, rank())

    @functools.cached_property
    def _side(self) -> SideStream:
        return SideStream()  # one for all epochs: each stream keeps memory of its own


def count_images(images: Tensor) -> int:
    """Of a batch of clips (B, L, 3, H, W) or images (B, 3, H, W)."""
    return images.shape[0] * (images.shape[1] if images.dim() == 5 else 1)
