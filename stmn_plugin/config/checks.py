"""Check a merged config; an error names the key and its allowed values."""

import os
from collections.abc import Mapping, Sequence

from yacs.config import CfgNode

from stmn_plugin.errors import InputError

from .defaults import flatten, get_default_config
from .rules import AUTO, TRANSFORMS
from .sections import RANGES, has_own_losses, is_video_model, kept_at_default

IDENTITY_SAMPLERS = ('IdentityPassSampler', 'RandomIdentitySampler')  # P x K batches


def check_config(cfg: CfgNode) -> None:
    """Check keys of a config against each other; rules check each key separately.

    Raises:
        InputError: names the key, its value and what is possible.
    """
    values = flatten(cfg)
    if is_video_model(cfg.model.name) and cfg.data.type != 'video':
        raise InputError(f'model.name {cfg.model.name} needs data.type video')
    if cfg.loss.name == 'stmn' and cfg.data.type != 'video':
        raise InputError('loss.name stmn needs data.type video')
    if cfg.loss.name != 'softmax':
        no_recipe = cfg.loss.triplet.weight_t + cfg.loss.triplet.weight_x == 0
        own_losses = has_own_losses(values)
        if no_recipe and not own_losses:
            raise InputError('loss.triplet.weight_t and weight_x are both 0: nothing to train')
        if cfg.loss.triplet.weight_t > 0 and not cfg.test.evaluate:
            check_identities(cfg)
        if cfg.loss.triplet.weight_x == 0 and cfg.train.fixbase_epoch > 0 and not own_losses:
            raise InputError(
                'train.fixbase_epoch needs the classifier to be trained: set loss.triplet.weight_x'
            )
    if cfg.train.fixbase_epoch > 0 and not cfg.train.open_layers:
        raise InputError('train.fixbase_epoch needs train.open_layers: nothing would train')
    if cfg.train.lr_scheduler == 'single_step' and len(cfg.train.stepsize) > 1:
        raise InputError(
            'train.lr_scheduler single_step repeats a single train.stepsize, '
            f'got {cfg.train.stepsize}: multi_step takes several'
        )
    first, end = cfg.train.start_epoch, cfg.train.max_epoch
    if first and first >= end and not (cfg.test.evaluate or cfg.model.resume):
        raise InputError(f'train.start_epoch {first} leaves nothing of train.max_epoch {end}')
    check_validation(cfg)
    if cfg.train.compile and cfg.train.checkpoint_activations:
        raise InputError(
            'train.compile and train.checkpoint_activations exclude each other: '
            'compiled code decides itself what it computes again'
        )
    if cfg.cuhk03.use_metric_cuhk03:
        raise InputError('cuhk03.use_metric_cuhk03 True is not supported: use the new split')
    for key in ('test.visrank', 'test.rerank', 'test.features_dir', 'test.verification'):
        if values[key] and not cfg.test.evaluate:
            raise InputError(f'{key} needs test.evaluate True')
    if cfg.test.verification and cfg.test.rerank:
        raise InputError(
            'test.verification: a distance after test.rerank depends on the other tracklets, no '
            'threshold of it holds elsewhere'
        )
    if cfg.test.best == 'rank-1' and 1 not in cfg.test.ranks:
        raise InputError(f'test.best rank-1 needs 1 among test.ranks, got {cfg.test.ranks}')
    if cfg.video.sample_method == 'all':
        raise InputError(
            'video.sample_method all gives training clips of any length: use test.frames all'
        )
    if cfg.test.clips_per_tracklet > 1 and (
        cfg.test.frames == 'all' or cfg.video.sample_method != 'rrs'
    ):
        raise InputError(
            'test.clips_per_tracklet needs test.frames rrs and video.sample_method rrs'
        )
    kept = kept_at_default(values)
    defaults = flatten(get_default_config()) if kept else {}
    for key, because_of in kept.items():
        if values[key] != defaults[key]:
            raise InputError(f'{key} must be {defaults[key]} with {because_of}, got {values[key]}')
    for key in ('model.load_weights', 'model.resume'):
        if key == 'model.resume' and values[key] == AUTO:
            continue
        path = os.path.expanduser(values[key])
        if path and not os.path.isfile(path):
            what = 'is no regular file' if os.path.exists(path) else 'no such file'
            raise InputError(f'{key}: {values[key]}: {what}')


def check_identities(cfg: CfgNode) -> None:
    """Check that a batch can hold the two identities, with positives, that a triplet loss needs.

    Other samplers draw as they do: that a batch of theirs holds one is found at that batch.
    """
    clips, instances = cfg.train.batch_size, cfg.sampler.num_instances
    if clips < 2:
        raise InputError(
            f'train.batch_size {clips} holds one identity: the triplet loss needs two '
            f'(loss.triplet.weight_t {cfg.loss.triplet.weight_t})'
        )
    if cfg.sampler.train_sampler not in IDENTITY_SAMPLERS:
        return
    if instances < 2:
        raise InputError(
            'sampler.num_instances must be at least 2 with a triplet loss '
            f'(loss.triplet.weight_t {cfg.loss.triplet.weight_t}), got {instances}'
        )
    if clips < 2 * instances:
        raise InputError(
            f'train.batch_size {clips} holds fewer than two identities of '
            f'sampler.num_instances {instances}: the triplet loss needs two'
        )


def check_validation(cfg: CfgNode) -> None:
    """Check that ``data.validation_ids`` can be held out."""
    share = cfg.data.validation_ids
    if share >= 1 and share != int(share):
        raise InputError(
            f'data.validation_ids is a share below 1 or a whole number of identities, got {share}'
        )
    if share and cfg.data.type != 'video':
        raise InputError('data.validation_ids needs data.type video')
    if share and cfg.data.combineall:
        raise InputError('data.validation_ids: data.combineall would train on the test set')


def check_ranges(numbers: Mapping[str, float]) -> None:
    """Raise InputError for a number, by its key, that no config can hold; for Python callers."""
    for key, number in numbers.items():
        if RANGES[key].read(str(number)) is None:
            raise InputError(f'{key} takes {RANGES[key]}, got {number}')


def check_transforms(names: str | Sequence[str] | None) -> list[str]:
    """Return names of ``data.transforms`` in lower case; raise InputError for an unknown one."""
    names = [names] if isinstance(names, str) else list(names or [])
    for name in names:
        if name.lower() not in TRANSFORMS:
            raise InputError(f'data.transforms: {name!r} is not one of {", ".join(TRANSFORMS)}')
    return [name.lower() for name in names]
