"""A model of any architecture → its size and cost, and which frames and batches it can take."""

import torch
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.flop_counter import FlopCounterMode

from stmn_plugin.distributed import world_size
from stmn_plugin.errors import InputError

NATURAL_SIZES = ((256, 128), (160, 64), (299, 299))  # some architecture is made for each


def model_facts(cfg, model):
    """Name, size and cost of the model at test time, for the log, metrics.json and checkpoints.

    GFLOPs are those of convolutions and matrix products for one frame, a multiply-add being two.

    Raises:
        InputError: the model cannot take such frames, or takes clips, or gives no features. An
            error that it raises whatever it is given is its own, and goes on as it is.
    """
    size = sum(
        p.numel() for name, p in model.named_parameters() if not name.startswith('classifier')
    )
    model.eval()
    with FlopCounterMode(display=False) as counter:
        feature = frame_feature(cfg, model)
    if not isinstance(feature, torch.Tensor) or feature.dim() != 2:
        found = tuple(feature.shape) if isinstance(feature, torch.Tensor) else type(feature)
        raise InputError(
            f'model.name {cfg.model.name}: in eval mode it must give features of shape (B, D), '
            f'not {getattr(found, "__name__", found)}'
        )
    facts = {
        'arch': cfg.model.name,
        'parameters': size,
        'gflops_per_frame': round(counter.get_total_flops() / 1e9, 4),
        'feature_dim': feature.shape[1],
    }
    if cfg.data.type == 'video':
        facts['seq_len'] = cfg.video.seq_len
    return facts


def frame_feature(cfg, model):
    """What the model makes of a black frame."""
    height, width = cfg.data.height, cfg.data.width
    try:
        return _forward(model, 1, 3, height, width)
    except Exception as error:  # goes on unless it is shown to be of the frame
        reason = ' '.join(str(error).split())[:200]
        if any(_takes(model, 1, 3, *size) for size in NATURAL_SIZES):
            raise InputError(
                f'data.height, data.width: {cfg.model.name} cannot take frames of '
                f'{height}x{width}: {reason}'
            ) from error
        if any(
            _takes(model, 1, cfg.video.seq_len, 3, *size)
            for size in ((height, width), *NATURAL_SIZES)
        ):
            raise InputError(
                f'model.name {cfg.model.name} takes clips (B, L, 3, H, W), not frames '
                '(B, 3, H, W): of such models stmn alone can be run'
            ) from error
        raise


@torch.no_grad()
def _forward(model, *shape):
    return model(torch.zeros(shape))


def _takes(model, *shape):
    try:
        _forward(model, *shape)
    except Exception:  # whatever it is
        return False
    return True


def check_batch(cfg, model):
    """InputError for batches of one through a batch norm, which normalises nothing then.

    Every batch of training has as many clips, so that this is known before the first.
    """
    clips = cfg.train.batch_size
    if cfg.model.name == 'stmn':  # its BNNecks have the clips of all processes
        if clips < 2:
            raise InputError(
                f'train.batch_size {clips}: the batch norms before the classifiers of stmn take '
                'two clips or more'
            )
        return
    synced = cfg.train.sync_bn or world_size() == 1
    frames = (clips if synced else clips // world_size()) * (
        cfg.video.seq_len if cfg.data.type == 'video' else 1
    )
    if frames < 2 and normalises_vectors(cfg, model):
        length = f', video.seq_len {cfg.video.seq_len}' if cfg.data.type == 'video' else ''
        where = '' if world_size() == 1 else f' in each of {world_size()} processes'
        raise InputError(
            f'train.batch_size {clips}{length}: the batch norms of {cfg.model.name} take two '
            f'frames or more{where}'
        )


def normalises_vectors(cfg, model):
    """Whether a batch norm of the model sees a single value per channel of a frame."""
    seen = []
    hooks = [
        module.register_forward_pre_hook(
            lambda module, inputs: seen.append(inputs[0].numel() == module.num_features)
        )
        for module in model.modules()
        if isinstance(module, _BatchNorm)
    ]
    try:
        _forward(model, 1, 3, cfg.data.height, cfg.data.width)
    finally:
        for hook in hooks:
            hook.remove()
    return any(seen)
