"""Samplers of training batches; the batches of an epoch are a function of (seed, epoch)."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeAlias

import numpy as np
import torchreid
from torch.utils.data import Sampler

from stmn_plugin.config.rules import HOST_SAMPLERS, IDENTITY_PASS
from stmn_plugin.distributed import shard
from stmn_plugin.errors import InputError
from stmn_plugin.numerals import counted
from stmn_plugin.randomness import seeded

from .clips import ClipRequest
from .host_lists import host_errors_named
from .tracklets import Tracklet

Draw: TypeAlias = Callable[[int], list[list[int]]]
"""Epoch → batches of indices."""

HOST_IDENTITIES, HOST_CAMERAS = 'RandomIdentitySampler', 'RandomDomainSampler'
GROUPED = {  # sampler → place in a tracklet, key and name of what its batches are divided into
    HOST_CAMERAS: (2, 'sampler.num_cams', 'camera'),
    'RandomDatasetSampler': (3, 'sampler.num_datasets', 'dataset'),
}
TRAIN_SAMPLERS = (IDENTITY_PASS, *HOST_SAMPLERS)


def epoch_batches(
    tracklets: Sequence[Tracklet],
    name: str,
    batch_size: int,
    *,
    num_instances: int,
    num_cams: int,
    num_datasets: int,
    seed: int,
) -> Draw:
    """Return the function epoch → batches of the named sampler.

    Args:
        tracklets: the host's 4-tuples (img_paths, pid, camid, dsetid).
        name: one of TRAIN_SAMPLERS.
        batch_size: tracklets in a batch.
        num_instances: tracklets of each identity in a batch.
        num_cams: cameras in a batch of the host's RandomDomainSampler.
        num_datasets: datasets in a batch of the host's RandomDatasetSampler.
        seed: see :func:`identity_batches`.

    Returns:
        Epoch → batches; it raises InputError if no batch of this size can be made.
    """
    sampler: Iterable[int] | None = None

    def draw(epoch: int) -> list[list[int]]:
        nonlocal sampler
        if name in (IDENTITY_PASS, HOST_IDENTITIES) and batch_size % num_instances:
            raise InputError(
                f'train.batch_size {batch_size} is no multiple of '
                f'sampler.num_instances {num_instances}'
            )
        if name == IDENTITY_PASS:
            pids = [pid for _, pid, _, _ in tracklets]
            return identity_batches(pids, batch_size // num_instances, num_instances, seed, epoch)
        if name in GROUPED:
            check_groups(tracklets, name, batch_size, num_cams, num_datasets)
        refused = (
            f'sampler.train_sampler {name} cannot make batches of {batch_size} '
            'from this training data'
        )
        with host_errors_named(refused, default_reason='too few identities'):
            sampler = sampler or torchreid.data.sampler.build_train_sampler(
                tracklets,
                name,
                batch_size=batch_size,
                num_instances=num_instances,
                num_cams=num_cams,
                num_datasets=num_datasets,
            )
            return host_batches(sampler, batch_size, seed, epoch)

    return draw


def check_groups(
    tracklets: Sequence[Tracklet], name: str, batch_size: int, num_cams: int, num_datasets: int
) -> None:
    """Raise InputError if a batch may ask a camera or dataset for more tracklets than it has.

    The host would notice in the first epoch that draws such a group, which may be a late one.
    """
    place, key, kind = GROUPED[name]
    sizes = Counter(tracklet[place] for tracklet in tracklets)
    asked = num_cams if name == HOST_CAMERAS else num_datasets
    groups = asked if asked > 0 else len(sizes)  # as the host
    each = batch_size // groups
    if batch_size % groups:
        problem = f'train.batch_size {batch_size} is no multiple of {key} {groups}'
    elif len(sizes) < groups:
        problem = f'{key} {groups}: the training data has {counted(len(sizes), kind)}'
    elif min(sizes.values()) < each:
        fewest = min(sizes.values())
        problem = f'{key} {groups}: a batch takes {each} tracklets of a {kind}, one has {fewest}'
    else:
        return
    raise InputError(f'sampler.train_sampler {name}: {problem}')


def identity_batches(
    pids: Iterable[int], num_ids: int, num_instances: int, seed: int, epoch: int
) -> list[list[int]]:
    """Draw P x K batches; an epoch is one pass over the identities (Sec. 4.1).

    Corner cases: tracklets of an identity with fewer than K are drawn with replacement, otherwise
    without; identities that do not fill a last batch are not used in this epoch (others in the
    next). 625 identities at P=8 make 78 batches.

    Args:
        pids: identity of every tracklet.
        num_ids: P, identities in a batch.
        num_instances: K, tracklets of each.
        seed: seed of the generator.
        epoch: epoch from 0; with the seed it determines the batches.

    Returns:
        Batches, each a list of P*K indices into ``pids``, K in a row per identity.

    Raises:
        InputError: fewer identities than P.
    """
    tracklets: dict[int, list[int]] = {}  # pid → its tracklets
    for index, pid in enumerate(pids):
        tracklets.setdefault(pid, []).append(index)
    if len(tracklets) < num_ids:
        raise InputError(
            f'a batch needs {num_ids} identities (train.batch_size / sampler.num_instances), '
            f'but the training data has {len(tracklets)}'
        )
    rng = np.random.default_rng((seed, epoch))
    order = rng.permutation(sorted(tracklets)).tolist()
    batches = []
    for start in range(0, len(order) - num_ids + 1, num_ids):
        batch: list[int] = []
        for pid in order[start : start + num_ids]:
            own = tracklets[pid]
            batch += rng.choice(own, num_instances, replace=len(own) < num_instances).tolist()
        batches.append(batch)
    return batches


def host_batches(sampler: Iterable[int], batch_size: int, seed: int, epoch: int) -> list[list[int]]:
    """Draw full batches by one of the host's index samplers, as a function of (seed, epoch).

    The host's samplers use the global generators, which are seeded for the draw and then restored.
    """
    with seeded(seed, epoch):
        indices = [int(index) for index in sampler]
    return [
        indices[start : start + batch_size]
        for start in range(0, len(indices) - batch_size + 1, batch_size)
    ]


class EpochBatchSampler(Sampler[list[ClipRequest]]):
    """Batches of :class:`ClipRequest`, epoch by epoch; each process gets its part of each batch.

    An iteration ends by selecting the next epoch, as the host's own engines need;
    :meth:`set_epoch` selects any. The length is that of a whole epoch.

    Args:
        draw: epoch → list of batches of indices.
    """

    def __init__(self, draw: Draw):
        self.draw = draw
        self.set_epoch(0)

    def set_epoch(self, epoch: int, first: int = 0) -> None:
        """Continue with batch ``first`` of the epoch."""
        self.epoch, self.first = epoch, first
        self.batches = self.draw(epoch)

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[list[ClipRequest]]:
        epoch, first = self.epoch, self.first
        position = sum(map(len, self.batches[:first]))
        for batch in self.batches[first:]:
            requests = [ClipRequest(index, epoch, position + i) for i, index in enumerate(batch)]
            yield requests[shard([1] * len(requests))]
            position += len(batch)
        self.set_epoch(epoch + 1)
