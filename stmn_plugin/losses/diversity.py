"""The Hellinger penalty of DRSA (CVPR 2018) on the overlap of a frame's attention maps.

Letters: S maps of a frame, each sums to 1 over K positions; G overlaps of two maps, Q penalty of a
frame. Maps are given as logarithms: the square root has no finite gradient at a probability that
is rounded to 0, half of the logarithm has one.
"""

import torch
from torch import Tensor

PENALTIES = ('squared', 'frame_norm', 'batch_norm')
CODE_EPSILON = 1e-5  # under the roots of the released code


def overlaps(log_maps: Tensor) -> Tensor:
    """Compute G = R R^T with R = sqrt(a) from log a (..., S, K): (..., S, S).

    An entry is 1 minus the squared Hellinger distance of two maps: 1 for equal maps, 0 for disjoint
    ones.
    """
    roots = (0.5 * log_maps).exp()  # R (..., S, K)
    return roots @ roots.mT


def diversity_penalty(log_maps: Tensor) -> Tensor:
    """Compute Q = ||G - I||_F^2, shape (...), from log a (..., S, K).

    Q is S*(S-1) for equal maps and 0 for disjoint ones.
    """
    eye = torch.eye(log_maps.shape[-2], dtype=log_maps.dtype, device=log_maps.device)
    return (overlaps(log_maps) - eye).square().sum(dim=(-2, -1))


def diversity_loss(penalties: Tensor, kind: str = 'squared') -> Tensor:
    """Reduce the penalties Q of all frames to a scalar.

    Args:
        penalties: Q >= 0, of any shape.
        kind: 'squared' is their mean (the paper); 'frame_norm' the mean of sqrt(Q + 1e-5), as in
            the first version of the released code; 'batch_norm' sqrt(sum of Q + 1e-5), as in its
            last version, which grows with the number of frames.

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
