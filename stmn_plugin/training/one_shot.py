"""One-shot learning in steps (EUG, CVPR 2018): split, schedule and pseudo-labels, pure functions.

Y. Wu et al., "Exploit the Unknown Gradually". One tracklet of each identity is labelled. Each step
trains a new network on the labelled and on pseudo-labelled tracklets, whose number grows by p per
cent of the unlabelled ones per step. Letters: n_l labelled, n_u unlabelled tracklets, p the
enlarging factor in per cent, k the step from 0, D feature dimensions. S_k are the pseudo-labelled
tracklets of step k; S_0 is empty.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

ROWS = 512  # unlabelled features per chunk of distances


def chosen_counts(num_unlabelled: int, factor: int) -> list[int]:
    """Return the sizes of S_1, S_2, ..., one per training: min(floor(n_u (k+1) p / 100), n_u).

    There are 100 // p + 1 trainings (released code), or one if no tracklet is unlabelled. No
    training uses the last selection.

    Args:
        num_unlabelled: n_u.
        factor: p, a whole number from 1 to 100.

    >>> chosen_counts(57, 30)
    [17, 34, 51, 57]

    Raises:
        ValueError: another p.
    """
    if not 1 <= factor <= 100:
        raise ValueError(f'the enlarging factor is from 1 to 100 per cent, got {factor}')
    steps = 100 // factor + 1 if num_unlabelled else 1
    return [min(num_unlabelled * (k + 1) * factor // 100, num_unlabelled) for k in range(steps)]


def draw_labelled(pids: Sequence[int], camids: Sequence[int], seed: int) -> list[int]:
    """Draw one tracklet of every identity from its lowest camera (released code).

    Args:
        pids: identity of every training tracklet.
        camids: camera of every training tracklet.
        seed: seed of a separate generator; identities draw in ascending order.

    Returns:
        Indices of tracklets, in the order of the identities.
    """
    own: dict[int, list[int]] = {}
    for index, pid in enumerate(pids):
        own.setdefault(pid, []).append(index)
    rng = np.random.default_rng(seed)
    drawn = []
    for pid in sorted(own):
        lowest = min(camids[index] for index in own[pid])
        candidates = [index for index in own[pid] if camids[index] == lowest]
        drawn.append(candidates[int(rng.integers(len(candidates)))])
    return drawn


class PseudoLabels(NamedTuple):
    """Estimated labels of the unlabelled tracklets, in their order."""

    labels: NDArray[np.int64]  # (n_u,)
    scores: NDArray[np.float64]  # (n_u,) negative distances: larger is more reliable


def nearest_labels(unlabelled: Tensor, labelled: Tensor, identities: Sequence[int]) -> PseudoLabels:
    """Label tracklets by the nearest labelled one, by the Euclidean distance of unit vectors.

    Args:
        unlabelled: features (n_u, D), not necessarily normalised.
        labelled: features (n_l, D).
        identities: identities of the labelled tracklets.
    """
    return nearest_of_rows(_distances(_unit(unlabelled), _unit(labelled)), identities)


def nearest_of_rows(rows: Iterable[Tensor], identities: Sequence[int]) -> PseudoLabels:
    """Label tracklets from chunks of distances (n, n_l); the first of equal distances wins."""
    names = np.asarray(identities, dtype=np.int64)
    labels, scores = [np.zeros(0, np.int64)], [np.zeros(0, np.float64)]
    for distances in rows:
        values = distances.double().cpu().numpy()
        nearest = values.argmin(axis=1)  # numpy's takes the first of equal values, torch's any
        labels.append(names[nearest])
        scores.append(-values[np.arange(len(values)), nearest])
    return PseudoLabels(np.concatenate(labels), np.concatenate(scores))


def most_reliable(scores: NDArray[np.float64], count: int) -> NDArray[np.int64]:
    """Return the indices of the ``count`` largest scores in descending order; ties by index."""
    return np.argsort(-scores, kind='stable')[:count]


def _distances(unlabelled: Tensor, labelled: Tensor) -> Iterator[Tensor]:
    # from differences, not products, so that equal vectors have distance 0 and a distance does not
    # depend on the position in the chunk
    for some in unlabelled.split(ROWS):
        yield torch.cdist(some, labelled, compute_mode='donot_use_mm_for_euclid_dist')


def _unit(features: Tensor) -> Tensor:
    features = features.detach().cpu().double()
    lengths: Tensor = torch.linalg.vector_norm(features, dim=1, keepdim=True)
    return features / lengths.clamp_min(torch.finfo(torch.double).tiny)
