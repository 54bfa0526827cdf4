"""Convert a state dict of the authors' released code to STMN's weights, in our names and layouts.

docs/released-code.md describes what that code computes. In its state dict ``features.backbone``
has the names of a torchvision ResNet with three copies of ``layer4``; ``smem`` and ``tmem`` are the
memories; ``bn_s`` and ``cls_s`` belong to the frames (deep supervision), ``bn_t`` and ``cls_t`` to
the clip. The output of ``bn_t`` is the feature.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from stmn_plugin.errors import InputError

from .weight_files import named_tensors, read_weight_file
from .weights import check_finite, fits, is_dense, without_wrappers

# our names → theirs: full names of weights, or prefixes of names
NAMES = {
    'encoder.trunk.0.': 'features.backbone.conv1.',
    'encoder.trunk.1.': 'features.backbone.bn1.',
    'encoder.trunk.4.': 'features.backbone.layer1.',
    'encoder.trunk.5.': 'features.backbone.layer2.',
    'encoder.trunk.6.': 'features.backbone.layer3.',
    'encoder.frame_head.': 'features.backbone.layer4_val.',
    'encoder.spatial_head.': 'features.backbone.layer4_key_s.',
    'encoder.temporal_head.': 'features.backbone.layer4_key_t.',
    'spatial_memory.keys': 'smem.key',
    'spatial_memory.values': 'smem.val',
    'spatial_memory.bn.': 'smem.bn.',
    'temporal_memory.keys': 'tmem.key',
    'temporal_memory.values': 'tmem.val',
    'temporal_memory.lstm.': 'tmem.lstm.',
    'bnneck_frame.': 'bn_s.',
    'bnneck_clip.': 'bn_t.',
    'classifier_frame.': 'cls_s.',
    'classifier_clip.': 'cls_t.',
}
NECKS = ('bn_s', 'bn_t')
MEMORIES = ('smem.key', 'smem.val', 'tmem.key', 'tmem.val')
COUNTER = 'num_batches_tracked'


def read_authors_weights(path: str) -> dict[str, Tensor]:
    """Read the authors' checkpoint, without DataParallel's ``module.`` and with one item per row.

    Raises:
        InputError: the file is missing or damaged, or was written by other code; or a memory's
            shape does not tell rows from columns.
    """
    tensors = without_wrappers(named_tensors(read_weight_file(path), path), path)
    for name in ('bn_t.weight', 'bn_t.running_mean', *MEMORIES, 'cls_t.weight'):
        _check_known(name in tensors, path, f'it has no {name}')
    for name, tensor in tensors.items():
        _check_known(is_dense(tensor), path, f'{name} is no dense tensor')
        _check_known(tensor.numel() > 0, path, f'{name} is empty')
    _check_known(tensors['bn_t.weight'].dim() == 1, path, 'bn_t.weight is no vector')
    _check_known(tensors['cls_t.weight'].dim() == 2, path, 'cls_t.weight is no matrix')
    dim = len(tensors['bn_t.weight'])
    for name in ('smem.key', 'smem.val', 'tmem.key'):
        tensors[name] = _turned(tensors[name], 1, dim, f'{path}: {name}')
    num_items = len(tensors['tmem.key'])
    tensors['tmem.val'] = _turned(tensors['tmem.val'], 0, num_items, f'{path}: tmem.val')
    return tensors


def settings_in_authors_weights(tensors: Mapping[str, Tensor]) -> dict[str, int]:
    """Return the config keys that follow from the shapes of the tensors."""
    num_items, seq_len = tensors['tmem.val'].shape
    return {
        'stmn.spatial_items': len(tensors['smem.key']),
        'stmn.temporal_items': num_items,
        'video.seq_len': seq_len,
    }


def converted(tensors: Mapping[str, Tensor], model: nn.Module, path: str) -> dict[str, Tensor]:
    """Convert the authors' tensors to a state dict for ``model.load_state_dict``.

    Args:
        tensors: the tensors of :func:`read_authors_weights`.
        model: an STMN of the same backbone and sizes.
        path: path of the checkpoint, for errors.

    Raises:
        InputError: a tensor is missing, unknown, not finite, or of another shape or type, or a
            BNNeck has a bias that cannot be folded; or ``model`` has other parts than theirs.
    """
    own = {_their_name(name): tensor for name, tensor in model.state_dict().items()}
    # our BNNecks have no bias
    expected = own | {f'{neck}.bias': own[f'{neck}.weight'] for neck in NECKS}
    weights = {}
    for name, tensor in tensors.items():
        if name.endswith(COUNTER):  # without effect; half-precision files round them
            continue
        _check_known(name in expected, path, f'unknown tensor {name}')
        like = expected[name]
        if tensor.shape != like.shape:
            shapes = f'{tuple(tensor.shape)}, the config says {tuple(like.shape)}'
            raise InputError(f'{path}: {name} has shape {shapes}')
        if not fits(tensor, like):
            raise InputError(f'{path}: {name} is of type {tensor.dtype}, not {like.dtype}')
        weights[name] = tensor.to(like.dtype)
    check_finite(weights, path)
    for name in own:
        if name.endswith(COUNTER):
            fitting = name in tensors and fits(tensors[name], own[name])
            weights[name] = tensors[name] if fitting else torch.zeros((), dtype=torch.long)
        _check_known(name in weights, path, f'it has no {name}')
    for neck in NECKS:
        _fold_bias(weights, neck, path)
    return {name: weights[_their_name(name)] for name in model.state_dict()}


def _their_name(name: str) -> str:
    start = next((start for start in NAMES if name.startswith(start)), None)
    if start is None:
        raise InputError(f"the config's network has {name}, the authors' released code has none")
    return NAMES[start] + name.removeprefix(start)


def _turned(tensor: Tensor, dimension: int, size: int, name: str) -> Tensor:
    """Return the matrix whose given dimension has the given size, transposing it if necessary.

    If both dimensions have that size, the layout of the authors' code is assumed.
    """
    if tensor.dim() == 2 and tensor.shape[dimension] == size:
        return tensor
    if tensor.dim() == 2 and tensor.shape[1 - dimension] == size:
        return tensor.T.contiguous()
    raise InputError(
        f'{name} has shape {tuple(tensor.shape)}: neither its rows nor its columns are {size}'
    )


def _fold_bias(weights: dict[str, Tensor], neck: str, path: str) -> None:
    """Fold the bias of a BNNeck into its running mean: ours has no bias, theirs is not trained."""
    bias = weights.pop(f'{neck}.bias', None)
    if bias is None or not bias.any():
        return
    weight, mean, var = (
        weights[f'{neck}.{name}'].double() for name in ('weight', 'running_mean', 'running_var')
    )
    shift = bias * (var + nn.BatchNorm1d(1).eps).sqrt() / weight
    folded = mean.where(bias == 0, mean - shift).to(bias.dtype)
    if not folded.isfinite().all():
        raise InputError(f'{path}: {neck}.bias cannot be folded into its mean: ours has no bias')
    weights[f'{neck}.running_mean'] = folded


def _check_known(known: bool, path: str, reason: str) -> None:
    if not known:
        raise InputError(f"{path} holds no weights of the authors' released code: {reason}")
