"""Digest model, config and frames, to detect whether stored vectors are still valid.

Everything counts except listed exceptions: a new key, attribute of a model or line of code counts
until it is listed, so none can be forgotten. Keys that all architectures share are listed here; an
architecture marks its own keys (``in_vectors=False``).
"""

import dataclasses
import functools
import hashlib
import json
import os
import types
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from stmn_plugin.config.sections import SECTIONS, is_of_another, is_video_model
from stmn_plugin.config.settings import settings_of
from stmn_plugin.data.tracklets import Tracklet
from stmn_plugin.models import FrameByFrame, VideoModel

# shared keys that change no vector beyond rounding, given the weights and the frames
FREE_KEYS = """
    use_gpu model.pretrained model.load_weights model.resume
    data.root data.sources data.targets data.workers data.split_id data.combineall data.transforms
    data.k_tfm data.save_dir data.load_train_targets data.train_list data.validation_ids
    data.validation_seed data.bad_frames market1501.use_500k_distractors
    cuhk03.labeled_images cuhk03.classic_split cuhk03.use_metric_cuhk03
    sampler.train_sampler sampler.train_sampler_t sampler.num_instances sampler.num_cams
    sampler.num_datasets video.sample_method video.pooling_method video.rrs_chunks
    train.optim train.lr train.weight_decay train.max_epoch train.start_epoch train.batch_size
    train.fixbase_epoch train.open_layers train.staged_lr train.new_layers train.base_lr_mult
    train.lr_scheduler train.stepsize train.gamma train.print_freq train.seed train.sync_bn
    train.save_freq train.keep_last train.accumulate train.clip_grad_norm train.memory_lr_mult
    train.amp
    train.channels_last train.fused train.checkpoint_activations train.deterministic
    train.allow_changed train.overwrite data.download sgd.momentum sgd.dampening sgd.nesterov
    rmsprop.alpha adam.beta1 adam.beta2
    loss.softmax.label_smooth loss.triplet.margin loss.triplet.weight_t loss.triplet.weight_x
    loss.spread.weight loss.spread.margin loss.spread.reduction
    loss.spread.reach loss.spread.replicas
    test.batch_size test.dist_metric test.normalize_feature test.ranks test.evaluate test.eval_freq
    test.start_eval test.rerank test.visrank test.visrank_topk test.frames
    test.clips_per_tracklet test.best test.all_clips test.features_dir test.flip test.protocol
    test.verification test.false_positive_rate
    synthetic.preset synthetic.seed synthetic.paint_out
    one_shot.factor one_shot.split_seed one_shot.split_file one_shot.warm_start
"""
FREE_IN_VECTORS = frozenset(FREE_KEYS.split())
FREE_ATTRIBUTES = {'training', 'checkpoint_activations', 'spread_reach', 'spec'}
EMPTY = nn.Module()  # its attributes are torch's own
PLAIN = bool | int | float | complex | str | bytes | torch.dtype | torch.device
ARRAYS = torch.Tensor | np.ndarray | np.generic
NAMED = nn.Module | nn.Parameter | type | types.ModuleType  # only their names are digested
PACKAGE = Path(__file__).parents[1]
CODE = (
    'models',
    'data/frames.py',
    'data/clips.py',
    'evaluation/embedder.py',
    'evaluation/features.py',
    'training/speed.py',
)


def is_free(key: str, arch: str = '') -> bool:
    """Return whether a key of the config changes no vector of an architecture, '' being any."""
    section, _, name = key.rpartition('.')
    if not is_video_model(section):
        return key in FREE_IN_VECTORS
    if arch and is_of_another(key, arch):
        return True
    return any(one.name == name and not one.in_vectors for one in settings_of(SECTIONS[section]))


def fingerprint(
    model: nn.Module,
    tracklets: Iterable[Tracklet],
    config: Mapping[str, Any] | None = None,
    **settings: Any,
) -> dict[str, Any]:
    """Return everything that vectors depend on, by name, so that a mismatch can be named.

    Args:
        model: the model; weights, buffers and structure count.
        tracklets: the host's 4-tuples; names, sizes and times of their files count, the
            folder they lie in does not.
        config: key → plain value.
        **settings: further plain values.
    """
    config = config or {}
    arch = config.get('model.name', '')
    counting = {key: value for key, value in config.items() if not is_free(key, arch)}
    content = {
        'weights': weights_digest(model),
        'model': structure_digest(model),
        'frames': _frames_digest(tracklets),
        'code': _code_digest(),
        **counting,
        **settings,
    }
    as_in_file: dict[str, Any] = json.loads(json.dumps(content, default=str))
    return as_in_file


def weights_digest(model: nn.Module) -> str:
    """Return the SHA-256 of a model's weights and buffers, independent of DataParallel."""
    digest = hashlib.sha256()
    for key, value in sorted(model.state_dict().items()):
        digest.update(key.removeprefix('module.').encode())
        digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def digest_of(model: nn.Module) -> str:
    """Return the digest of the weights as a checkpoint holds them."""
    return weights_digest(model.network if isinstance(model, FrameByFrame) else model)


def structure_digest(model: nn.Module) -> str:
    """Digest the classes of a model's parts and all their attributes except the weights.

    Of an architecture for clips the classifiers are left out: they run in training alone.
    """
    if isinstance(model, nn.DataParallel | nn.parallel.DistributedDataParallel):
        model = model.module
    digest = hashlib.sha256()
    for name, part in model.named_modules():
        if isinstance(model, VideoModel) and name.startswith('classifier'):
            continue
        own = {
            key: _described(value)
            for key, value in _attributes(part).items()
            if not hasattr(EMPTY, key) and key not in FREE_ATTRIBUTES
        }
        digest.update(repr((name, type(part).__qualname__, sorted(own.items()))).encode())
    return digest.hexdigest()


def _attributes(part: nn.Module) -> dict[str, Any]:
    """Return the attributes that affect vectors of frames, without pooling and free settings."""
    if isinstance(part, FrameByFrame):
        return {}
    own = dict(vars(part))
    if isinstance(part, VideoModel) and dataclasses.is_dataclass(own.get('config')):
        own['config'] = {
            one.name: getattr(part.config, one.name)
            for one in dataclasses.fields(part.config)
            if one.metadata.get('in_vectors', True)
        }
    return own


def _described(value: Any, holders: tuple[int, ...] = ()) -> str | list[Any]:
    """Convert a value to nested lists of texts and numbers, the same in every process.

    Args:
        value: any value.
        holders: ids of the objects that contain the value; a reference back to one is cut.
    """
    if value is None or isinstance(value, PLAIN):
        return repr(value)
    if isinstance(value, ARRAYS) and not isinstance(value, nn.Parameter):
        return [str(value.dtype), value.tolist()]
    name = getattr(value, '__qualname__', type(value).__qualname__)
    # parameters, which an LSTM also lists, are in the other digest
    if id(value) in holders or isinstance(value, NAMED):
        return name
    holders = (*holders, id(value))
    if isinstance(value, functools.partial):
        value = [value.func, value.args, value.keywords]
    if isinstance(value, set | frozenset):
        value = sorted(value, key=repr)
    if not isinstance(value, dict | list | tuple):
        value = {**getattr(value, '__dict__', {}), **_slots(value)}
    items = value.items() if isinstance(value, dict) else enumerate(value)
    return [name, [[_described(x, holders) for x in item] for item in items]]


def _slots(value: object) -> dict[str, Any]:
    slots = (vars(kind).get('__slots__', ()) for kind in type(value).__mro__)
    names = [name for own in slots for name in ([own] if isinstance(own, str) else own)]
    return {name: getattr(value, name) for name in names if hasattr(value, name)}


def _frames_digest(tracklets: Iterable[Tracklet]) -> str:
    frames = hashlib.sha256()
    for paths, _, _, _ in tracklets:
        for path in paths:
            try:
                stat = os.stat(path)
                state = f'{stat.st_size} {stat.st_mtime_ns}'
            except OSError:
                state = 'missing'
            frames.update(f'{os.path.basename(path)} {state}'.encode('utf-8', 'surrogateescape'))
        frames.update(b'end of tracklet')
    return frames.hexdigest()


@functools.cache
def _code_digest() -> str:
    """Return the SHA-256 of the code that computes vectors, and of the host's version."""
    import torchreid  # slow to import, and stored vectors alone need it

    digest = hashlib.sha256(getattr(torchreid, '__version__', '').encode())
    for name in CODE:
        path = PACKAGE / name
        for file in sorted(path.rglob('*.py')) if path.is_dir() else [path]:
            digest.update(file.read_bytes())
    return digest.hexdigest()
