"""Locate where a memory loses its signal: the initial gradient, the read-out, the items.

Letters: C clips, L frames, P positions, D channels, M items.
"""

from collections.abc import Callable

import numpy as np
import torch
from scipy.cluster.vq import kmeans2
from torch import Tensor

from stmn_plugin.models.stmn.temporal import attend

from ..clip_statistics import Floats, Indices
from .against_truth import VARIES, correlation
from .measure import INTERVAL, Claim, Measure, bootstrap, judge, not_measured

GRADIENT = (
    'g_l = -d loss / d a_l, what the loss falls by per unit of attention on frame l, at the '
    'uniform attention a = 1/L. gain = mean over clips of g . (v - mean v) / |v - mean v|, what it '
    "falls by per unit of attention moved along the person's visibility v, over clips whose "
    f'visibility varies by at least {VARIES}. signal = gain / standard deviation of the same over '
    'clips: the steps needed to tell it from noise grow with its inverse square. pearson = '
    'correlation of g and v within a clip, averaged. positive = share of clips in which the loss '
    f'falls. Attention learns to follow visibility when gain > 0. {INTERVAL}'
)
ALIGNMENT = (
    'added = f^o of a frame minus f^o of the same frame with its distractors painted out, at '
    'positions weighted by the share m that the distractor mask covers. explained_X = the share of '
    'the energy of added that X takes out with the best single scale, (sum m X . added)^2 / (sum m '
    '|X|^2 sum m |added|^2), for X the read-out as it is (raw), minus its mean over all positions '
    '(centred, what BN in Eq. 3 subtracts) and that divided by its standard deviation (normalised, '
    'BN whole); negative where the scale would be negative. best_values = the share that the best '
    'values take out with the probabilities as they are (least squares on all positions, 0 being '
    'wanted outside the mask). The read-out is aligned when explained_normalised > 0.05. '
    f'{INTERVAL}'
)
ALIGNED = 0.05
ROUNDS = 20  # of k-means
GRADIENT_CLAIMS = (
    Claim(
        'gain',
        0,
        'the loss teaches attention to follow visibility',
        'the loss teaches attention to go against visibility',
    ),
)
ALIGNMENT_CLAIMS = (
    Claim(
        'explained_normalised',
        ALIGNED,
        'the read-out is aligned with what distractors add',
        'the read-out is hardly aligned with what distractors add',
    ),
)


def attention_gradient(
    frame_vectors: Tensor, loss_of: Callable[[Tensor], dict[str, Tensor]]
) -> dict[str, Tensor]:
    """Compute -d loss / d a_l at the uniform attention, by the name of a loss.

    Args:
        frame_vectors: GAP(f^s) of the clips of a batch, (B, L, D).
        loss_of: f^t (B, D), of Eq. 7 → losses by name, means over the clips.

    Returns:
        (B, L) per clip: the factor B undoes the mean over clips.
    """
    count, length, _ = frame_vectors.shape
    attention = frame_vectors.new_full((count, length), 1 / length).requires_grad_()
    losses = loss_of(attend(frame_vectors.detach(), attention))
    return {
        name: -count * torch.autograd.grad(loss, attention, retain_graph=True)[0]
        for name, loss in losses.items()
    }


def gradient_and_visibility(
    gradient: Floats, visibility: Floats, clip_persons: Indices, seed: int = 0
) -> Measure:
    """Measure whether the identification loss makes attention follow visibility.

    Args:
        gradient: g, (C, L) of :func:`attention_gradient`.
        visibility: (C, L) in 0..1.
        clip_persons: (C,)
        seed: of the bootstrap.
    """
    used = np.ptp(visibility, axis=1) >= VARIES
    if not used.any():
        return not_measured(GRADIENT, 'No clip has a person whose visibility varies.')
    shown = visibility[used].astype(np.float64)
    shown = shown - shown.mean(axis=1, keepdims=True)
    shown /= np.linalg.norm(shown, axis=1, keepdims=True)
    own = gradient[used].astype(np.float64)
    gains = (own * shown).sum(axis=1)  # (C',)
    pearson = correlation(own, shown)

    def statistic(rows: Indices) -> dict[str, float]:
        gain = gains[rows]
        return {
            'gain': float(gain.mean()),
            'signal': float(gain.mean() / max(gain.std(), 1e-30)),
            'pearson': float(pearson[rows].mean()),
            'positive': float((gain > 0).mean()),
        }

    values = bootstrap(statistic, clip_persons[used], seed)
    counts = {'clips': int(used.sum()), 'clips_left_out': int((~used).sum())}
    supported = f'The loss teaches attention to follow visibility (gain {values["gain"]}).'
    verdict = judge(values, GRADIENT_CLAIMS, 'identification loss', supported)
    return Measure(GRADIENT, values, counts, *verdict)


def read_out_and_distractors(
    probs: Floats,
    memory_values: Floats,
    added: Floats,
    mask_share: Floats,
    position_persons: Indices,
    seed: int = 0,
) -> Measure:
    """Measure whether the spatial memory's read-out is what distractors add to f^o.

    Args:
        probs: A^s of the positions, (P, M).
        memory_values: v^s, (M, D).
        added: (P, D).
        mask_share: m, (P,) in 0..1.
        position_persons: (P,)
        seed: of the bootstrap.
    """
    weight = mask_share.astype(np.float64)
    counts = {'positions': len(weight), 'mask_covers': float(weight.mean())}
    if weight.sum() == 0:
        return not_measured(ALIGNMENT, 'The distractor masks cover nothing.')
    target = weight[:, None] * added  # (P, D)
    raw = probs.astype(np.float64) @ memory_values
    centred = raw - raw.mean(axis=0)
    best, *_ = np.linalg.lstsq(probs.astype(np.float64), target, rcond=None)  # (M, D)
    read = {
        'raw': raw,
        'centred': centred,
        'normalised': centred / np.maximum(centred.std(axis=0), 1e-12),
    }
    products = {name: weight * (x * added).sum(axis=1) for name, x in read.items()}  # (P,)
    squares = {name: weight * np.square(x).sum(axis=1) for name, x in read.items()}
    energy = weight * np.square(added).sum(axis=1)
    left = np.square(target - probs @ best).sum(axis=1)
    whole = np.square(target).sum(axis=1)
    persons, person = np.unique(position_persons, return_inverse=True)

    def by_person(values: Floats) -> Floats:
        sums: Floats = np.zeros(len(persons))
        np.add.at(sums, person, values)
        return sums

    products = {name: by_person(values) for name, values in products.items()}
    squares = {name: by_person(values) for name, values in squares.items()}
    energy, left, whole = by_person(energy), by_person(left), by_person(whole)

    def statistic(rows: Indices) -> dict[str, float]:
        found = {}
        for name in read:
            product, size = products[name][rows].sum(), squares[name][rows].sum()
            share = product * abs(product) / max(size * energy[rows].sum(), 1e-30)
            found[f'explained_{name}'] = float(share)
        found['best_values'] = float(1 - left[rows].sum() / max(whole[rows].sum(), 1e-30))
        return found

    values = bootstrap(statistic, np.arange(len(persons)), seed)
    supported = f'The read-out is aligned with what distractors add ({values["explained_raw"]}).'
    verdict = judge(values, ALIGNMENT_CLAIMS, 'spatial memory', supported)
    return Measure(ALIGNMENT, values, counts, *verdict)


def oracle_memory(
    added: Floats, mask_share: Floats, num_items: int, seed: int = 0
) -> tuple[Floats, Indices]:
    """Build an oracle memory whose values are the mean additions to f^o of kinds of distractors.

    The first item stands for no distractor, with the value 0. The others are the centres of a
    k-means of the vectors in the mask (at least half covered). Its read-out is the ceiling of
    Eq. 1-3 with so many items: each position addresses one item, the right one.

    Args:
        added: (P, D).
        mask_share: (P,) in 0..1.
        num_items: M, at least 2.
        seed: seed of the first centres.

    Returns:
        Values (M, D), and the item (P,) that each position addresses.

    Raises:
        ValueError: fewer than two items, or fewer covered positions than items.
    """
    inside = np.flatnonzero(mask_share >= 0.5)
    if num_items < 2 or len(inside) < num_items - 1:
        raise ValueError(f'{num_items} items for {len(inside)} covered positions')
    rng = np.random.default_rng(seed)
    vectors = added[inside].astype(np.float64)
    centres, nearest = kmeans2(vectors, num_items - 1, iter=ROUNDS, minit='++', seed=rng)
    items = np.zeros(len(added), dtype=np.int64)
    items[inside] = nearest + 1
    return np.concatenate([np.zeros((1, added.shape[1])), centres]), items
