"""Names of datasets → loaders of clips, in the shape the host's engines expect.

The host builds its datasets; their lists of tracklets are then served by our ``ClipDataset``. Thus
sums of sources, other start methods of workers and every host dataset work alike.
"""

import functools

import torch
import torchreid

from stmn_plugin.config import check_ranges, check_transforms
from stmn_plugin.distributed import world_size
from stmn_plugin.errors import InputError
from stmn_plugin.labels import count_matchable

from .clip_plans import ClipPlan, clip_loader
from .clips import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    ClipDataset,
    ClipTransform,
    Normalize,
    collate_items,
)
from .frame_samplers import FRAME_SAMPLERS
from .host_errors import host_errors_named
from .identity_sampler import TRAIN_SAMPLERS, EpochBatchSampler, epoch_batches
from .loaders import FrameLoader, check_shared_memory
from .sources import names_once, refuse_empty_tracklets, refuse_shared_frames
from .validation import hold_out, validation_name


class VideoDataManager(torchreid.data.VideoDataManager):
    """The host's video data manager, serving clips.

    Arguments are the host's (see ``torchreid.data.VideoDataManager``), and by keyword:

    Args:
        batch_size_train (int): of all processes together.
        sample_method (str): frame sampler, one of FRAME_SAMPLERS: 'rrs' or one of the host's.
        train_sampler (str): 'IdentityPassSampler' or one of the host's.
        seed (int): batches and clips are a function of it and the epoch.
        rrs_chunks (str): 'balanced' or 'ceil', see :func:`sample_rrs`.
        skip_bad (bool): leave unreadable frames out; the batches list them in ``bad_frames``.
        validation_ids (float): 0, or the share or number of training identities that are held out
            and tested on instead of the targets, which are not looked at then; see
            :func:`stmn_plugin.data.validation.hold_out`.
        validation_seed (int): draws them.
        test_only (bool): make no batches to train on, from however few tracklets.
        as_uint8 (bool): batches are uint8, to be passed on the device through :attr:`augmentation`
            with the batch's ``augmentation``, if it has that, and :attr:`normalize`; by default
            they are finished floats, as the host's engines want them.

    Raises:
        InputError: an unknown name; a missing or broken dataset; batches that cannot be made; a
            target without any matchable query.
    """

    def __init__(
        self,
        root='',
        sources=None,
        targets=None,
        height=256,
        width=128,
        transforms='random_flip',
        norm_mean=None,
        norm_std=None,
        use_gpu=True,
        split_id=0,
        combineall=False,
        batch_size_train=3,
        batch_size_test=3,
        workers=4,
        num_instances=4,
        num_cams=1,
        num_datasets=1,
        train_sampler='RandomSampler',
        seq_len=15,
        sample_method='evenly',
        *,
        seed=1,
        rrs_chunks='balanced',
        skip_bad=False,
        validation_ids=0,
        validation_seed=0,
        test_only=False,
        as_uint8=False,
    ):
        if sample_method not in FRAME_SAMPLERS:
            raise InputError(
                f'video.sample_method: {sample_method!r} is not one of {", ".join(FRAME_SAMPLERS)}'
            )
        if train_sampler not in TRAIN_SAMPLERS:
            raise InputError(
                f'sampler.train_sampler: {train_sampler!r} is not one of '
                f'{", ".join(TRAIN_SAMPLERS)}'
            )
        check_ranges(
            {
                'video.seq_len': seq_len,
                'data.workers': workers,
                'train.batch_size': batch_size_train,
                'test.batch_size': batch_size_test,
            }
        )
        sources, targets = names_once('data.sources', sources), names_once('data.targets', targets)
        if batch_size_train % world_size() and not test_only:
            raise InputError(
                f'train.batch_size {batch_size_train}, the clips of all processes together, '
                f'cannot be dealt evenly to {world_size()} processes'
            )
        check_transforms(transforms)
        with host_errors_named():
            super().__init__(
                root=root,
                sources=sources,
                targets=[] if validation_ids else targets,
                height=height,
                width=width,
                transforms=transforms,
                norm_mean=norm_mean,
                norm_std=norm_std,
                use_gpu=use_gpu,
                split_id=split_id,
                combineall=combineall,
                batch_size_train=1,
                batch_size_test=1,
                workers=0,
                train_sampler='SequentialSampler',
                seq_len=seq_len,
                sample_method=sample_method,
            )
        tracklets = self.train_loader.dataset.train
        refuse_shared_frames(self.sources, tracklets)
        refuse_empty_tracklets(tracklets)
        self.normalize = Normalize(norm_mean or IMAGENET_MEAN, norm_std or IMAGENET_STD)
        extra = {'chunks': rrs_chunks} if sample_method == 'rrs' else {}
        sampler = functools.partial(FRAME_SAMPLERS[sample_method], seq_len=seq_len, **extra)
        self.plan = ClipPlan(seq_len, sample_method, rrs_chunks=rrs_chunks)
        self.skip_bad = skip_bad
        self.loader_options = {'workers': workers, 'pin_memory': self.use_gpu}
        self.as_uint8 = as_uint8

        def clips(tracklets, names):
            transform = ClipTransform(height, width, names, self.normalize, as_uint8)
            return ClipDataset(tracklets, sampler, transform, seed, skip_bad)

        if validation_ids:
            tracklets = self._hold_out(tracklets, validation_ids, validation_seed)
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
                f'{len(tracklets)} training tracklets'
            )
        self.train_loader = FrameLoader(
            clips(tracklets, transforms),
            batch_sampler=self.batch_sampler,
            collate_fn=collate_items,
            generator=torch.Generator(),
            persistent_workers=workers > 0,
            **self.loader_options,
        )
        self.augmentation = self.train_loader.dataset.transform.augmentation
        self.gallery_needs_queries = {}  # target → does its official protocol search the queries?
        for name, loaders in self.test_loader.items():
            dataset = getattr(loaders['query'], 'dataset', None)  # None of the validation part
            self.gallery_needs_queries[name] = getattr(dataset, 'gallery_needs_queries', False)
            self._check_target(name)
            for mode in ('query', 'gallery'):
                loaders[mode] = FrameLoader(
                    clips(self.test_dataset[name][mode], []),
                    batch_size=batch_size_test,
                    collate_fn=collate_items,
                    generator=torch.Generator(),
                    **self.loader_options,
                )
        clip_bytes = seq_len * 3 * height * width * (1 if as_uint8 else 4)
        trained = 0 if test_only else batch_size_train // world_size()
        tested = min(batch_size_test, self._most_tested_frames())
        check_shared_memory(
            workers,
            {'train.batch_size': trained * clip_bytes, 'test.batch_size': tested * clip_bytes},
        )

    def planned_clips(self, tracklets, plan, batch_size):
        """:func:`.clip_plans.clip_loader` with the frame size and workers of this manager."""
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

    def _hold_out(self, tracklets, validation_ids, seed):
        """What is left to train on; the validation part becomes the only target."""
        split = hold_out(tracklets, validation_ids, seed)
        name = validation_name(self.sources)
        self._num_train_pids = len({pid for _, pid, _, _ in split.train})
        self.targets = [name]
        self.test_dataset = {name: {'query': split.query, 'gallery': split.gallery}}
        self.test_loader = {name: {'query': None, 'gallery': None}}
        print(
            f'Held out for validation: {len({pid for _, pid, _, _ in split.gallery})} identities, '
            f'{len(split.gallery)} tracklets, {len(split.query)} of them queries; '
            f'trained on: {self._num_train_pids} identities, {len(split.train)} tracklets'
        )
        return split.train

    def _most_tested_frames(self):
        """Frames of the largest list that is tested; a clip has at least one."""
        lists = [part for parts in self.test_dataset.values() for part in parts.values()]
        return max((sum(len(paths) for paths, *_ in part) for part in lists), default=0)

    def _check_target(self, name):
        query, gallery = self.test_dataset[name]['query'], self.test_dataset[name]['gallery']
        refuse_empty_tracklets(query + gallery)
        searched = gallery + query if self.gallery_needs_queries[name] else gallery
        if not count_matchable(
            [pid for _, pid, _, _ in query],
            [pid for _, pid, _, _ in searched],
            [camid for _, _, camid, _ in query],
            [camid for _, _, camid, _ in searched],
        ):
            raise InputError(
                f'data.targets {name}: none of the {len(query)} queries has a match in the '
                'gallery (same person, another camera)'
            )


def _no_batches(epoch):
    return []
