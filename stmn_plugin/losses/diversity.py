"""Attention maps of one frame → how much they overlap: the Hellinger penalty of DRSA (CVPR 2018).

Letters: S maps of a frame, each sums to 1 over K positions; G overlaps of two maps, Q penalty of a
frame. Maps come as logarithms: the root of a probability that is rounded to 0 has no finite
gradient, half of its logarithm has one.
"""

import torch
from torch import Tensor

PENALTIES = ('squared', 'frame_norm', 'batch_norm')
CODE_EPSILON = 1e-5  # under the roots of the released code


def overlaps(log_maps: Tensor) -> Tensor:
    """G = R R^T with R = sqrt(a), of log a (..., S, K): (..., S, S).

    An entry is 1 minus the squared Hellinger distance of two maps: 1 of equal, 0 of disjoint ones.
    """
    roots = (0.5 * log_maps).exp()  # R (..., S, K)
    return roots @ roots.mT


def diversity_penalty(log_maps: Tensor) -> Tensor:
    """Q = ||G - I||_F^2 of log a (..., S, K), (...): S*(S-1) of equal maps, 0 of disjoint ones."""
    eye = torch.eye(log_maps.shape[-2], dtype=log_maps.dtype, device=log_maps.device)
    return (overlaps(log_maps) - eye).square().sum(dim=(-2, -1))


def diversity_loss(penalties: Tensor, kind: str = 'squared') -> Tensor:
    """The penalties Q of all frames, in any shape → a scalar.

    Args:
        penalties: not negative.
        kind: 'squared' is their mean (the paper); 'frame_norm' the mean of sqrt(Q + 1e-5), of the
            first version of the released code; 'batch_norm' sqrt(sum of Q + 1e-5), of its last,
            which grows with the number of frames.

    Raises:
        ValueError: another kind.
    """
    if kind not in PENALTIES:
        raise ValueError(f'kind must be one of {PENALTIES}, got {kind!r}')
    if kind == 'frame_norm':
        return (penalties + CODE_EPSILON).sqrt().mean()
    if kind == 'batch_norm':
        return (penalties.sum() + CODE_EPSILON).sqrt()
    return penalties.mean()
