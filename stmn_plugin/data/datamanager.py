"""Names of datasets → loaders of clips, in the shape the host's engines expect.

The host builds its datasets; their lists of tracklets are then served by our ``ClipDataset``. Thus
sums of sources, other start methods of workers and every host dataset work alike.
"""

import contextlib
import functools

import torch
import torchreid
from torch.utils.data import DataLoader

from stmn_plugin.config import check_transforms
from stmn_plugin.distributed import world_size
from stmn_plugin.errors import InputError
from stmn_plugin.interrupt import leave_signals_to_parent
from stmn_plugin.ranking import count_matchable

from .clip_plans import ClipPlan, PlannedClips, collate_clips
from .clips import ClipDataset, ClipTransform, Normalize, collate_items
from .frame_samplers import FRAME_SAMPLERS
from .identity_sampler import EpochBatchSampler, host_batches, identity_batches
from .validation import hold_out, validation_name

IDENTITY_PASS = 'IdentityPassSampler'  # ours: P x K, an epoch is one pass over the identities
HOST_SAMPLERS = tuple(torchreid.data.sampler.AVAI_SAMPLERS)
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class VideoDataManager(torchreid.data.VideoDataManager):
    """The host's video data manager, serving clips.

    Arguments are the host's (see ``torchreid.data.VideoDataManager``), by keyword, and:

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
        as_uint8 (bool): batches are uint8, to be passed on the device through :attr:`augmentation`
            with the batch's ``augmentation``, if it has that, and :attr:`normalize`; by default
            they are finished floats, as the host's engines want them.

    Raises:
        InputError: an unknown name; a missing or broken dataset; batches that cannot be made; a
            target without any matchable query.
    """

    def __init__(
        self,
        *,
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
        seed=1,
        rrs_chunks='balanced',
        skip_bad=False,
        validation_ids=0,
        validation_seed=0,
        as_uint8=False,
    ):
        if sample_method not in FRAME_SAMPLERS:
            raise InputError(
                f'video.sample_method: {sample_method!r} is not one of {", ".join(FRAME_SAMPLERS)}'
            )
        if train_sampler not in (IDENTITY_PASS, *HOST_SAMPLERS):
            raise InputError(
                f'sampler.train_sampler: {train_sampler!r} is not one of '
                f'{", ".join((IDENTITY_PASS, *HOST_SAMPLERS))}'
            )
        if batch_size_train % world_size():
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
        self.normalize = Normalize(norm_mean or IMAGENET_MEAN, norm_std or IMAGENET_STD)
        extra = {'chunks': rrs_chunks} if sample_method == 'rrs' else {}
        sampler = functools.partial(FRAME_SAMPLERS[sample_method], seq_len=seq_len, **extra)
        self.plan = ClipPlan(seq_len, sample_method, rrs_chunks=rrs_chunks)
        self.skip_bad = skip_bad
        self.loader_options = {
            'num_workers': workers,
            'pin_memory': self.use_gpu,
            'worker_init_fn': leave_signals_to_parent,
        }
        self.test_transform = ClipTransform(height, width, [], self.normalize, as_uint8)

        def clips(tracklets, names):
            transform = ClipTransform(height, width, names, self.normalize, as_uint8)
            return ClipDataset(tracklets, sampler, transform, seed, skip_bad)

        tracklets = self.train_loader.dataset.train
        if validation_ids:
            tracklets = self._hold_out(tracklets, validation_ids, validation_seed)
        self.batch_sampler = EpochBatchSampler(
            self._draw_batches(
                tracklets,
                train_sampler,
                batch_size_train,
                num_instances,
                num_cams,
                num_datasets,
                seed,
            )
        )
        if len(self.batch_sampler) == 0:
            raise InputError(
                f'train.batch_size: no batch of {batch_size_train} can be made from '
                f'{len(tracklets)} training tracklets'
            )
        self.train_loader = DataLoader(
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
                loaders[mode] = DataLoader(
                    clips(self.test_dataset[name][mode], []),
                    batch_size=batch_size_test,
                    collate_fn=collate_items,
                    generator=torch.Generator(),
                    **self.loader_options,
                )

    def planned_clips(self, tracklets, plan, batch_size):
        """A loader of the clips of a plan, ``ClipBatch`` by ``ClipBatch``.

        Its workers end with it: forking them takes less than half a second, kept ones would hold
        their memory through the training between two evaluations.

        Args:
            tracklets (list): the host's 4-tuples, for example ``test_dataset[name]['query']``.
            plan (ClipPlan): which frames, in which clips.
            batch_size (int): clips at a time.
        """
        return DataLoader(
            PlannedClips(tracklets, plan, self.test_transform, self.skip_bad),
            batch_size=batch_size,
            collate_fn=collate_clips,
            generator=torch.Generator(),
            **self.loader_options,
        )

    @staticmethod
    def _draw_batches(tracklets, name, batch_size, num_instances, num_cams, num_datasets, seed):
        """The function epoch → batches of the chosen sampler."""
        identity_wise = name in (IDENTITY_PASS, 'RandomIdentitySampler')
        if identity_wise and batch_size % num_instances:
            raise InputError(
                f'train.batch_size {batch_size} is no multiple of '
                f'sampler.num_instances {num_instances}'
            )
        if name == IDENTITY_PASS:
            pids = [pid for _, pid, _, _ in tracklets]
            num_ids = batch_size // num_instances
            return lambda epoch: identity_batches(pids, num_ids, num_instances, seed, epoch)
        sampler = None

        def draw(epoch):
            nonlocal sampler
            try:
                sampler = sampler or torchreid.data.sampler.build_train_sampler(
                    tracklets,
                    name,
                    batch_size=batch_size,
                    num_instances=num_instances,
                    num_cams=num_cams,
                    num_datasets=num_datasets,
                )
                return host_batches(sampler, batch_size, seed, epoch)
            except (AssertionError, ValueError) as error:
                raise InputError(
                    f'sampler.train_sampler {name} cannot make batches of {batch_size} '
                    f'from this training data: {str(error) or "too few identities"}'
                ) from error

        return draw

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

    def _check_target(self, name):
        query, gallery = self.test_dataset[name]['query'], self.test_dataset[name]['gallery']
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


@contextlib.contextmanager
def host_errors_named():
    """The host's own complaints about data, of many types, as one InputError each."""
    try:
        yield
    except InputError:
        raise
    except (RuntimeError, AssertionError, OSError, ValueError, LookupError, ImportError) as error:
        reason = ' '.join(str(error).split()) or type(error).__name__
        raise InputError(f'dataset cannot be loaded: {reason}') from error
