"""Image data (``data.type image``) by the host's data manager; a test reads the targets alone."""

import logging
from collections.abc import Mapping
from typing import Any

import torchreid
from torch.utils.data import DataLoader

from stmn_plugin.log import prints_logged
from stmn_plugin.numerals import counted

from .host_lists import host_errors_named
from .loaders import FrameLoader, check_shared_memory

logger = logging.getLogger(__name__)

# arguments of the host's image datasets
DATASET_OPTIONS = (
    'root',
    'split_id',
    'cuhk03_labeled',
    'cuhk03_classic_split',
    'market1501_500k',
)


class ImageTargets(torchreid.data.datamanager.DataManager):  # type: ignore[misc]  # no types there
    """Data manager of the targets alone, with the attributes of the host's ``ImageDataManager``.

    The sources are not read and no training batch is drawn. A target's own training images must be
    in its folder, because the host's datasets read all their splits.

    Args:
        batch_size_test: images per batch.
        workers: worker processes of a loader.
        dataset_options: arguments of the host's ``init_image_dataset``.
        **options: arguments of the host's ``DataManager``.
    """

    data_type = 'image'

    def __init__(
        self,
        batch_size_test: int,
        workers: int,
        dataset_options: Mapping[str, Any],
        **options: Any,
    ):
        super().__init__(**options, transforms=[])
        self._num_train_pids = self._num_train_cams = None
        self.train_loader = DataLoader[Any]([])  # type: ignore[arg-type]  # a list serves
        self.test_loader: dict[str, dict[str, DataLoader[Any]]] = {}
        self.test_dataset: dict[str, dict[str, list[Any]]] = {}
        for name in self.targets:
            loaders = self.test_loader[name] = {}
            lists = self.test_dataset[name] = {}
            for mode in ('query', 'gallery'):
                dataset = torchreid.data.datasets.init_image_dataset(
                    name, mode=mode, transform=self.transform_te, verbose=False, **dataset_options
                )
                lists[mode] = dataset.data
                loaders[mode] = DataLoader(
                    dataset,
                    batch_size=batch_size_test,
                    num_workers=workers,
                    pin_memory=self.use_gpu,
                )


def build_image_data(options: Mapping[str, Any], test_only: bool) -> Any:
    """Build the host's ``ImageDataManager``, or :class:`ImageTargets` for a test.

    Args:
        options: arguments of ``ImageDataManager``.
        test_only: read the targets only.

    Raises:
        InputError: a missing or broken dataset; batches do not fit into shared memory.
    """
    with host_errors_named(), prints_logged(logger):
        if test_only:
            own = ('sources', 'targets', 'height', 'width', 'norm_mean', 'norm_std', 'use_gpu')
            datamanager = ImageTargets(
                options['batch_size_test'],
                options['workers'],
                {key: options[key] for key in DATASET_OPTIONS},
                **{key: options[key] for key in own},
            )
        else:
            datamanager = torchreid.data.ImageDataManager(**options)
    logger.info(image_data_line(datamanager))
    image_bytes = 4 * 3 * options['height'] * options['width']
    batches = {'test.batch_size': options['batch_size_test'] * image_bytes}
    if not test_only:
        batches['train.batch_size'] = options['batch_size_train'] * image_bytes
    check_shared_memory(options['workers'], batches)
    datamanager.train_loader = FrameLoader.like(datamanager.train_loader)
    for loaders in datamanager.test_loader.values():
        for mode, loader in loaders.items():
            loaders[mode] = FrameLoader.like(loader)
    return datamanager


def image_data_line(datamanager: Any) -> str:
    """Describe the data of an image data manager."""
    parts = []
    if datamanager.num_train_pids:
        parts.append(
            f'trained on {", ".join(datamanager.sources)}: {datamanager.num_train_pids} ids, '
            f'{len(datamanager.train_loader.dataset):,} images, '
            f'{counted(datamanager.num_train_cams, "camera")}'
        )
    for name, lists in datamanager.test_dataset.items():
        query, gallery = len(lists['query']), len(lists['gallery'])
        parts.append(f'tested on {name}: {query:,} queries, {gallery:,} gallery images')
    return f'Data: {"; ".join(parts)}'
