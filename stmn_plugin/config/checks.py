"""A merged config → nothing, or one error that names the key and what it may be."""

import os

from stmn_plugin.errors import InputError

from .defaults import AUTO, flatten

TRANSFORMS = ('random_flip', 'random_crop', 'random_patch', 'color_jitter', 'random_erase')
CHOICES = {
    'data.type': ('image', 'video'),
    'loss.name': ('softmax', 'triplet', 'stmn'),
    'loss.spread.reduction': ('sum', 'mean'),
    'stmn.backbone': ('resnet18', 'resnet34', 'resnet50', 'resnet101', 'resnet152'),
    'stmn.spatial_mode': ('memory', 'none'),
    'stmn.temporal_mode': ('memory', 'mlp', 'average'),
    'video.sample_method': ('rrs', 'evenly', 'random', 'all'),
    'video.pooling_method': ('avg', 'max'),
    'video.rrs_chunks': ('balanced', 'ceil'),
    'train.optim': ('adam', 'amsgrad', 'sgd', 'rmsprop', 'radam'),
    'train.lr_scheduler': ('single_step', 'multi_step', 'cosine'),
    'train.amp': ('off', 'bf16', 'fp16'),
    'test.amp': ('off', 'bf16', 'fp16'),
    'test.dist_metric': ('euclidean', 'cosine'),
    'data.bad_frames': ('raise', 'skip'),
    'test.frames': ('rrs', 'all'),
    'synthetic.preset': ('default', 'tiny', 'study'),
    'test.protocol': ('official', 'torchreid', 'matlab', 'A', 'B', 'C'),
}
AT_LEAST = {
    'stmn.spatial_items': 1,
    'stmn.temporal_items': 1,
    'video.seq_len': 1,
    'data.height': 1,
    'data.width': 1,
    'data.workers': 0,
    'data.validation_ids': 0,
    'data.validation_seed': 0,
    'train.seed': 0,
    'train.batch_size': 1,
    'train.accumulate': 1,
    'train.clip_grad_norm': 0,
    'train.save_freq': 1,
    'train.keep_last': 1,
    'test.batch_size': 1,
    'test.clips_per_tracklet': 1,
    'sampler.num_instances': 1,
    'train.max_epoch': 0,
    'train.print_freq': 1,
    'train.lr': 0,
    'train.weight_decay': 0,
    'train.gamma': 0,
    'test.visrank_topk': 1,
    'loss.spread.weight': 0,
    'loss.spread.margin': 0,
    'loss.triplet.weight_t': 0,
    'loss.triplet.weight_x': 0,
}


def check_config(cfg):
    """Everything about a config that can be known before data is looked at.

    Raises:
        InputError: names the key, its value and what is possible.
    """
    values = flatten(cfg)
    for key, choices in CHOICES.items():
        if values[key] not in choices:
            raise InputError(f'{key}: {values[key]!r} is not one of {", ".join(choices)}')
    for key, least in AT_LEAST.items():
        if values[key] < least:
            raise InputError(f'{key} must be at least {least}, got {values[key]}')
    check_transforms(cfg.data.transforms)
    check_lists(values)
    if cfg.train.seed >= 2**32:
        raise InputError(f'train.seed must be below {2**32}, got {cfg.train.seed}')
    scale = cfg.stmn.similarity_scale
    if scale != AUTO and (isinstance(scale, str) or scale <= 0):
        raise InputError(f'stmn.similarity_scale must be auto or a positive number, got {scale!r}')
    if cfg.model.name == 'stmn':
        if cfg.data.type != 'video':
            raise InputError('model.name stmn needs data.type video')
        if cfg.loss.name != 'stmn':
            raise InputError(f'model.name stmn needs loss.name stmn, got {cfg.loss.name!r}')
    if cfg.loss.name == 'stmn' and cfg.data.type != 'video':
        raise InputError('loss.name stmn needs data.type video')
    if cfg.loss.name != 'softmax':
        if cfg.loss.triplet.weight_t + cfg.loss.triplet.weight_x == 0:
            raise InputError('loss.triplet.weight_t and weight_x are both 0: nothing to train')
        if cfg.loss.triplet.weight_t > 0 and cfg.sampler.num_instances < 2:
            raise InputError(
                'sampler.num_instances must be at least 2 with a triplet loss '
                f'(loss.triplet.weight_t {cfg.loss.triplet.weight_t}), '
                f'got {cfg.sampler.num_instances}'
            )
        if cfg.loss.triplet.weight_t > 0 and cfg.train.batch_size < 2 * cfg.sampler.num_instances:
            raise InputError(
                f'train.batch_size {cfg.train.batch_size} holds fewer than two identities of '
                f'sampler.num_instances {cfg.sampler.num_instances}: the triplet loss needs two'
            )
        if cfg.loss.triplet.weight_x == 0 and cfg.train.fixbase_epoch > 0:
            raise InputError(
                'train.fixbase_epoch needs the classifier to be trained: set loss.triplet.weight_x'
            )
    check_validation(cfg)
    if cfg.train.compile and cfg.train.checkpoint_activations:
        raise InputError(
            'train.compile and train.checkpoint_activations exclude each other: '
            'compiled code decides itself what it computes again'
        )
    if cfg.data.k_tfm != 1:
        raise InputError('data.k_tfm must be 1: no engine here takes several copies of an image')
    if cfg.cuhk03.use_metric_cuhk03:
        raise InputError('cuhk03.use_metric_cuhk03 True is not supported: use the new split')
    for key in ('test.visrank', 'test.rerank'):
        if values[key] and not cfg.test.evaluate:
            raise InputError(f'{key} needs test.evaluate True')
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
    for key in ('model.load_weights', 'model.resume'):
        if key == 'model.resume' and values[key] == AUTO:
            continue
        if values[key] and not os.path.isfile(os.path.expanduser(values[key])):
            raise InputError(f'{key}: no file {values[key]}')


def check_validation(cfg):
    """Whether ``data.validation_ids`` can be held out."""
    share = cfg.data.validation_ids
    if share >= 1 and share != int(share):
        raise InputError(
            f'data.validation_ids is a share below 1 or a whole number of identities, got {share}'
        )
    if share and cfg.data.type != 'video':
        raise InputError('data.validation_ids needs data.type video')
    if share and cfg.data.combineall:
        raise InputError('data.validation_ids: data.combineall would train on the test set')


def check_lists(values):
    """Element types and lengths of the lists, given as full key → value."""
    for key in ('data.sources', 'data.targets'):
        if not values[key] or not all(isinstance(name, str) for name in values[key]):
            raise InputError(f'{key} must name at least one dataset, got {values[key]}')
    for key in ('train.stepsize', 'test.ranks'):
        if not values[key] or not all(isinstance(n, int) and n > 0 for n in values[key]):
            raise InputError(f'{key} must be a list of positive integers, got {values[key]}')
    for key in ('data.norm_mean', 'data.norm_std'):
        numbers = all(isinstance(x, (int, float)) for x in values[key])
        if len(values[key]) != 3 or not numbers or (key == 'data.norm_std' and 0 in values[key]):
            raise InputError(f'{key} must be three numbers, none of norm_std 0, got {values[key]}')


def check_transforms(names):
    """The names of ``data.transforms`` in lower case; InputError for one that does not exist."""
    names = [names] if isinstance(names, str) else list(names or [])
    for name in names:
        if name.lower() not in TRANSFORMS:
            raise InputError(f'data.transforms: {name!r} is not one of {", ".join(TRANSFORMS)}')
    return [name.lower() for name in names]
