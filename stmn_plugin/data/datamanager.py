"""The video data manager: names of datasets → loaders of clips, as the host's engines need them.

The host builds its datasets; ``ClipDataset`` reads clips of their tracklets. Therefore sums of
sources, all start methods of workers and every dataset of the host work in the same way.
"""

import functools
import logging
from collections.abc import Iterable, Sequence
from typing import TypeAlias

import torch
import torchreid

from stmn_plugin.config import check_ranges, check_transforms
from stmn_plugin.distributed import world_size
from stmn_plugin.errors import InputError
from stmn_plugin.log import prints_logged
from stmn_plugin.numerals import counted

from .clip_plans import clip_loader
from .clips import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    ClipDataset,
    ClipTransform,
    Normalize,
    collate_items,
)
from .frame_samplers import FRAME_SAMPLERS, ClipPlan
from .host_lists import hold_out_target, read_target, read_training, summary_table, unique_names
from .identity_sampler import TRAIN_SAMPLERS, EpochBatchSampler, epoch_batches
from .loaders import FrameLoader, check_shared_memory
from .tracklets import Frames, Tracklet
from .train_list import labelled_anew
from .validation import validation_name

logger = logging.getLogger(__name__)

HostManager: TypeAlias = torchreid.data.VideoDataManager  # registering replaces it by ours


class VideoDataManager(HostManager):  # type: ignore[misc]  # no types there
    """The host's video data manager, serving clips.

    Arguments not listed are the host's, see ``torchreid.data.VideoDataManager``.

    Args:
        batch_size_train: clips per batch, over all processes.
        sample_method: frame sampler, a name in FRAME_SAMPLERS.
        train_sampler: 'IdentityPassSampler' or one of the host's.
        seed: seed that, with the epoch, determines batches and clips.
        rrs_chunks: 'balanced' or 'ceil', see :func:`sample_rrs`.
        skip_bad: skip unreadable frames; batches list them in ``bad_frames``.
        validation_ids: share or number of training identities to hold out and test on instead of
            the targets, which are not read then; 0 for none, see
            :func:`stmn_plugin.data.validation.hold_out`.
        validation_seed: seed that selects them.
        train_list: file of the training tracklets to use, with their labels, see
            :mod:`stmn_plugin.data.train_list`; '' uses all with their own labels.
        test_only: load the targets only. The sources are not read and may be missing, unless
            identities of them are held out; there are no training batches, and
            :attr:`num_train_pids` is None if nothing was read.
        as_uint8: return uint8 batches, to be processed on the device by :attr:`augmentation`, with
            the batch's ``augmentation`` if present, and :attr:`normalize`. By default batches are
            finished floats, as the host's engines need them.

    Raises:
        InputError: an unknown name; a missing or broken dataset; no batch of this size can be made;
            a labelled target has no query with a match.
    """

    def __init__(
        self,
        root: str = '',
        sources: str | list[str] | None = None,
        targets: str | list[str] | None = None,
        height: int = 256,
        width: int = 128,
        transforms: str | list[str] = 'random_flip',
        norm_mean: Sequence[float] | None = None,
        norm_std: Sequence[float] | None = None,
        use_gpu: bool = True,
        split_id: int = 0,
        combineall: bool = False,
        batch_size_train: int = 3,
        batch_size_test: int = 3,
        workers: int = 4,
        num_instances: int = 4,
        num_cams: int = 1,
        num_datasets: int = 1,
        train_sampler: str = 'RandomSampler',
        seq_len: int = 15,
        sample_method: str = 'evenly',
        *,
        seed: int = 1,
        rrs_chunks: str = 'balanced',
        skip_bad: bool = False,
        validation_ids: float = 0,
        validation_seed: int = 0,
        train_list: str = '',
        test_only: bool = False,
        as_uint8: bool = False,
    ):
        _check_names(sample_method, train_sampler, transforms)
        check_ranges(
            {
                'video.seq_len': seq_len,
                'data.workers': workers,
                'train.batch_size': batch_size_train,
                'test.batch_size': batch_size_test,
            }
        )
        if batch_size_train % world_size() and not test_only:
            raise InputError(
                f'train.batch_size {batch_size_train}, the clips of all processes together, '
                f'cannot be dealt evenly to {world_size()} processes'
            )
        # skip the constructor of the host's video data manager, which always reads the sources
        with prints_logged(logger):  # prints a list of transforms that are not used
            super(HostManager, self).__init__(
                sources=unique_names('data.sources', sources),
                targets=unique_names('data.targets', targets),
                height=height,
                width=width,
                transforms=transforms,
                norm_mean=norm_mean,
                norm_std=norm_std,
                use_gpu=use_gpu,
            )
        self.normalize = Normalize(norm_mean or IMAGENET_MEAN, norm_std or IMAGENET_STD)
        self.plan = ClipPlan(seq_len, sample_method, rrs_chunks=rrs_chunks)
        self.as_uint8, self.skip_bad = as_uint8, skip_bad
        self.loader_options = {'workers': workers, 'pin_memory': self.use_gpu}

        options = {'root': root, 'combineall': combineall, 'split_id': split_id}
        options |= {'seq_len': seq_len, 'sample_method': sample_method}
        training = None
        if validation_ids or not test_only:
            training = read_training(self.sources, options)
        if training and validation_ids:
            training, target = hold_out_target(training, validation_ids, validation_seed)
            found = {validation_name(self.sources): target}
        else:
            found = {name: read_target(name, options) for name in self.targets}
        if training and train_list and not test_only:
            training = labelled_anew(training, train_list)
        self.targets: list[str] = list(found)
        self.test_dataset = {
            name: {'query': target.query, 'gallery': target.gallery}
            for name, target in found.items()
        }
        self.gallery_needs_queries = {  # target → whether its official protocol searches queries
            name: target.gallery_needs_queries for name, target in found.items()
        }
        self._num_train_pids = training.num_pids if training else None
        self._num_train_cams = training.num_cams if training else None
        tracklets = training.tracklets if training else []
        self._log_summary(tracklets)

        extra = {'chunks': rrs_chunks} if sample_method == 'rrs' else {}
        sampler = functools.partial(FRAME_SAMPLERS[sample_method], seq_len=seq_len, **extra)

        def clips(tracklets: Sequence[Tracklet], names: str | list[str]) -> ClipDataset:
            transform = ClipTransform(height, width, names, self.normalize, as_uint8)
            return ClipDataset(tracklets, sampler, transform, seed, skip_bad)

        draw = epoch_batches(
            tracklets,
            train_sampler,
            batch_size_train,
            num_instances=num_instances,
            num_cams=num_cams,
            num_datasets=num_datasets,
            seed=seed,
        )
        self.batch_sampler = EpochBatchSampler(_no_batches if test_only else draw)
        if len(self.batch_sampler) == 0 and not test_only:
            raise InputError(
                f'train.batch_size: no batch of {batch_size_train} can be made from '
                + counted(len(tracklets), 'training tracklet')
            )
        trained_clips = clips(tracklets, transforms)
        self.train_loader = FrameLoader(
            trained_clips,
            batch_sampler=self.batch_sampler,
            collate_fn=collate_items,
            generator=torch.Generator(),
            persistent_workers=workers > 0,
            **self.loader_options,
        )
        self.augmentation = trained_clips.transform.augmentation
        self.test_loader = {
            name: {
                mode: FrameLoader(
                    clips(part, []),
                    batch_size=batch_size_test,
                    collate_fn=collate_items,
                    generator=torch.Generator(),
                    **self.loader_options,
                )
                for mode, part in parts.items()
            }
            for name, parts in self.test_dataset.items()
        }
        clip_bytes = seq_len * 3 * height * width * (1 if as_uint8 else 4)
        trained = 0 if test_only else batch_size_train // world_size()
        tested = min(batch_size_test, self._most_tested_frames())
        check_shared_memory(
            workers,
            {'train.batch_size': trained * clip_bytes, 'test.batch_size': tested * clip_bytes},
        )

    @property
    def num_train_pids(self) -> int | None:
        """Number of training identities; None if no source was read."""
        return self._num_train_pids

    def planned_clips(
        self, tracklets: Iterable[Tracklet | Frames], plan: ClipPlan, batch_size: int
    ) -> FrameLoader:
        """Return :func:`.clip_plans.clip_loader` with the frame size and workers of this one."""
        return clip_loader(
            tracklets,
            plan,
            self.height,
            self.width,
            self.normalize.mean,
            self.normalize.std,
            batch_size=batch_size,
            as_uint8=self.as_uint8,
            skip_bad=self.skip_bad,
            **self.loader_options,
        )

    def _log_summary(self, tracklets: list[Tracklet]) -> None:
        parts: list[tuple[str, str, Sequence[Tracklet]]] = []
        if tracklets:
            parts.append(('+'.join(self.sources), 'train', tracklets))
        for name, lists in self.test_dataset.items():
            parts += [(name, mode, part) for mode, part in lists.items()]
        logger.info(summary_table(parts))

    def _most_tested_frames(self) -> int:
        """Count the frames of the largest test list, an upper bound of its clips."""
        lists = [part for parts in self.test_dataset.values() for part in parts.values()]
        return max((sum(len(paths) for paths, *_ in part) for part in lists), default=0)


def _check_names(sample_method: str, train_sampler: str, transforms: str | list[str]) -> None:
    for key, name, known in (
        ('video.sample_method', sample_method, FRAME_SAMPLERS),
        ('sampler.train_sampler', train_sampler, TRAIN_SAMPLERS),
    ):
        if name not in known:
            raise InputError(f'{key}: {name!r} is not one of {", ".join(known)}')
    check_transforms(transforms)


def _no_batches(epoch: int) -> list[list[int]]:
    return []
