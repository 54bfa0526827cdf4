"""Training tracklets → the batches of an epoch, a function of (seed, epoch)."""

import numpy as np
import torchreid
from torch.utils.data import Sampler

from stmn_plugin.distributed import shard
from stmn_plugin.errors import InputError
from stmn_plugin.randomness import seeded

from .clips import ClipRequest
from .host_errors import host_errors_named

IDENTITY_PASS = 'IdentityPassSampler'  # ours: P x K, an epoch is one pass over the identities
HOST_IDENTITIES = 'RandomIdentitySampler'
HOST_SAMPLERS = tuple(torchreid.data.sampler.AVAI_SAMPLERS)
TRAIN_SAMPLERS = (IDENTITY_PASS, *HOST_SAMPLERS)


def epoch_batches(tracklets, name, batch_size, *, num_instances, num_cams, num_datasets, seed):
    """The function epoch → batches of the chosen sampler.

    Args:
        tracklets (list): the host's 4-tuples (img_paths, pid, camid, dsetid).
        name (str): one of TRAIN_SAMPLERS.
        batch_size (int): tracklets in a batch.
        num_instances (int): tracklets of each identity in a batch.
        num_cams (int), num_datasets (int): of the host's RandomDomain- and RandomDatasetSampler.
        seed (int): see :func:`identity_batches`.

    Returns:
        callable: epoch → list of batches; InputError where the tracklets give none of this size.
    """
    sampler = None

    def draw(epoch):
        nonlocal sampler
        if name in (IDENTITY_PASS, HOST_IDENTITIES) and batch_size % num_instances:
            raise InputError(
                f'train.batch_size {batch_size} is no multiple of '
                f'sampler.num_instances {num_instances}'
            )
        if name == IDENTITY_PASS:
            pids = [pid for _, pid, _, _ in tracklets]
            return identity_batches(pids, batch_size // num_instances, num_instances, seed, epoch)
        refused = (
            f'sampler.train_sampler {name} cannot make batches of {batch_size} '
            'from this training data'
        )
        with host_errors_named(refused, unsaid='too few identities'):
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


def identity_batches(pids, num_ids, num_instances, seed, epoch):
    """P x K batches; an epoch is one pass over the identities (Sec. 4.1).

    Corner cases: an identity with fewer than K tracklets is drawn with replacement, one with more
    is drawn without; identities that do not fill a last batch sit this epoch out (others will in
    the next). 625 identities at P=8 make 78 batches.

    Args:
        pids (list): identity of every tracklet.
        num_ids (int): P, identities in a batch.
        num_instances (int): K, tracklets of each.
        seed (int), epoch (int): the batches depend on nothing else.

    Returns:
        list: batches, each a list of P*K indices into ``pids``, K in a row per identity.

    Raises:
        InputError: fewer identities than P.
    """
    tracklets = {}  # pid → its tracklets
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
        batch = []
        for pid in order[start : start + num_ids]:
            own = tracklets[pid]
            batch += rng.choice(own, num_instances, replace=len(own) < num_instances).tolist()
        batches.append(batch)
    return batches


def host_batches(sampler, batch_size, seed, epoch):
    """Full batches of one of the host's index samplers, made a function of (seed, epoch).

    The host's samplers draw from the global generators: these are seeded for the draw and put back.
    """
    with seeded(seed, epoch):
        indices = [int(index) for index in sampler]
    return [
        indices[start : start + batch_size]
        for start in range(0, len(indices) - batch_size + 1, batch_size)
    ]


class EpochBatchSampler(Sampler):
    """Batches of :class:`ClipRequest`, epoch by epoch; on many processes the own part of each.

    Iterating moves on to the next epoch by itself, so the host's own engines work with it;
    :meth:`set_epoch` puts it anywhere. Its length is that of a whole epoch.

    Args:
        draw (callable): epoch → list of batches of indices.
    """

    def __init__(self, draw):
        self.draw = draw
        self.set_epoch(0)

    def set_epoch(self, epoch, first=0):
        """Go on with batch ``first`` of the epoch."""
        self.epoch, self.first = epoch, first
        self.batches = self.draw(epoch)

    def __len__(self):
        return len(self.batches)

    def __iter__(self):
        epoch, first = self.epoch, self.first
        position = sum(map(len, self.batches[:first]))
        for batch in self.batches[first:]:
            requests = [ClipRequest(index, epoch, position + i) for i, index in enumerate(batch)]
            yield requests[shard([1] * len(requests))]
            position += len(batch)
        self.set_epoch(epoch + 1)
