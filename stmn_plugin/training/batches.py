"""Read the batches of an epoch from any batch on, seeded and timed, and one ahead for a GPU.

Randomness in a step depends only on (seed, epoch, step), not on the batches read before.
"""

import functools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from torch import Tensor

from stmn_plugin.data.prefetch import SideStream, TimedIterator, prefetch
from stmn_plugin.distributed import rank
from stmn_plugin.randomness import seed_everything


class Batch(NamedTuple):
    """A batch and the time spent waiting for it."""

    number: int  # in the epoch, from 0
    data: dict[str, Any]  # of the loader; finished if read ahead, see ``EpochBatches.finish``
    waited: float  # seconds blocked on the loader since the previous batch


class EpochBatches:
    """The batches of a loader, epoch by epoch.

    Args:
        loader: loader of dictionaries in the host's format.
        prepare: images and their random draws → finished images on the device, see ``Prepare``.
        sampler: sampler of the loader, if it can start in the middle of an epoch as ours can.
        seed: seed of all randomness in a step; None does not seed.
        ahead: read one batch ahead during the current step; for a GPU.
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

    def start_at(self, epoch: int, first: int = 0) -> None:
        """Start the next pass at batch ``first`` of an epoch; both count from 0."""
        if self.sampler is not None:
            self.sampler.set_epoch(epoch, first)

    def of_epoch(self, epoch: int, first: int = 0) -> Iterator[Batch]:
        """Yield the batches of an epoch from ``first`` on, seeding each step before its batch."""
        self.start_at(epoch, first)
        reading = TimedIterator(self._read(epoch, first))
        batches = prefetch(reading, self.finish, self._side) if self.ahead else reading
        for index, data in enumerate(batches, first):
            self._seed(epoch, index + 1)  # reading ahead may have used the generators
            yield Batch(index, data, reading.pop_seconds())

    def _read(self, epoch: int, first: int) -> Iterator[dict[str, Any]]:
        count = len(self)
        self._seed(epoch, 0)  # the host's loaders draw their order here
        batches = iter(self.loader)
        # the host's loaders start at the first batch: finished batches are read and discarded
        index = first if self.sampler is not None else 0
        while index < count:
            self._seed(epoch, index + 1)  # the host's loaders augment here
            data = next(batches, None)
            if data is None:  # the host's RandomIdentitySampler overstates its length
                return
            if index >= first:
                yield data
            index += 1

    def finish(self, data: dict[str, Any]) -> dict[str, Any]:
        """Finish the images of a batch and move its identities to the device, unless done."""
        images: Tensor = self.prepare(data['img'], data.get('augmentation'))
        return {**data, 'img': images, 'pid': data['pid'].to(images.device, non_blocking=True)}

    def _seed(self, epoch: int, step: int) -> None:
        """Seed the generators; data do not depend on them, dropout differs between processes."""
        if self.seed is not None:
            seed_everything(self.seed, epoch, step, rank())

    @functools.cached_property
    def _side(self) -> SideStream:
        return SideStream()  # one for all epochs, because each stream reserves its own memory


def count_images(images: Tensor) -> int:
    """Count the images of a batch of clips (B, L, 3, H, W) or images (B, 3, H, W)."""
    return images.shape[0] * (images.shape[1] if images.dim() == 5 else 1)
