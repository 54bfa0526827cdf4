"""Measure whether a memory is spread, collapsed or flat, and whether it changes the features.

No truth is needed. Letters are those of ``models/stmn/memory.py``; C clips.
"""

import numpy as np

from ..clip_statistics import Floats, Indices, SpatialUse, entropy
from .measure import INTERVAL, Claim, Measure, bootstrap, judge

HALF_THE_ITEMS = 0.5
FLAT = 0.05  # of log(items)
NEARLY_CONSTANT = 0.01  # of the mean square
NEGLIGIBLE_CHANGE = 0.01  # of the features' length
AVERAGE_POOLING = 0.02  # of the weight

USAGE = (
    'Each access of the memory gives probabilities p over its items. usage_entropy = H(mean p) / '
    'log(items): 1 when all items are used equally over the dataset, 0 when only one is. '
    'effective_items = exp(H(mean p)). access_entropy = mean H(p) / log(items): 0 when every '
    'access reads one item, 1 when every access mixes all alike. information = usage_entropy - '
    'access_entropy: the mutual information of access and item over log(items), how much the item '
    'read depends on the query; a flat softmax has a high usage entropy, too, but no '
    f'information. Spread when effective_items > {HALF_THE_ITEMS} x items (else collapsed), then '
    f'information > {FLAT} (else flat). {INTERVAL}'
)
READOUT = (
    'o^s = sum_n a_n v_n (Eq. 2) at every position of every frame, before the BN of Eq. 3. '
    'varying_share = var / (var + |mean|^2), var being the variance over positions summed over '
    'channels: 0 is the same vector everywhere, and the BN, which subtracts the mean, then removes '
    'what was read and leaves magnified differences. change = sqrt(mean |f^s - f^o|^2 / mean '
    f'|f^o|^2). It works as intended when varying_share > {NEARLY_CONSTANT} (else nearly '
    f'constant), then change > {NEGLIGIBLE_CHANGE}. {INTERVAL}'
)
ATTENTION = (
    'Temporal attention a over the L frames of a clip. moved = mean over clips of sum_l '
    '|a_l - 1/L| / 2, the share of the weight that is not where average pooling puts it. largest = '
    'mean of max_l a_l x L, 1 in average pooling. between_clips = moved, against the mean '
    'attention of all clips instead of 1/L: 0 when every clip gets the same attention. It does its '
    f'job when moved > {AVERAGE_POOLING} (else average pooling), then between_clips > '
    f'{AVERAGE_POOLING} (else one fixed attention). {INTERVAL}'
)
READOUT_CLAIMS = (
    Claim(
        'varying_share', NEARLY_CONSTANT, 'what is read varies', 'what is read is nearly constant'
    ),
    Claim(
        'change',
        NEGLIGIBLE_CHANGE,
        'the refinement changes the features by more than a little',
        'the refinement changes hardly anything',
    ),
)
ATTENTION_CLAIMS = (
    Claim(
        'moved',
        AVERAGE_POOLING,
        'this is more than average pooling',
        'this is average pooling: hardly any weight is moved',
    ),
    Claim(
        'between_clips',
        AVERAGE_POOLING,
        'attention differs between clips',
        'one fixed attention for all clips',
    ),
)


def usage(mean_probs: Floats, entropies: Floats, clip_persons: Indices, seed: int = 0) -> Measure:
    """Measure whether the items of a memory are used, and whether the choice depends on the query.

    Args:
        mean_probs: (C, items) mean probabilities of the accesses of a clip, the same number in
            each.
        entropies: (C,) mean entropy of those accesses, nats.
        clip_persons: (C,)
        seed: of the bootstrap.
    """
    items = mean_probs.shape[1]
    largest = np.log(items) if items > 1 else 1.0

    def statistic(rows: Indices) -> dict[str, float]:
        used = entropy(mean_probs[rows].mean(axis=0, dtype=np.float64))
        accessed = entropies[rows].mean(dtype=np.float64)
        return {
            'usage_entropy': used / largest,
            'effective_items': np.exp(used),
            'access_entropy': accessed / largest,
            'information': (used - accessed) / largest,
        }

    values = bootstrap(statistic, clip_persons, seed)
    effective = f'about {values["effective_items"].value:.1f} of {items} items are used'
    claims = (
        Claim(
            'effective_items',
            HALF_THE_ITEMS * items,
            f'more than {HALF_THE_ITEMS * items:g} of {items} items are used',
            f'collapsed: {effective}',
        ),
        Claim(
            'information',
            FLAT,
            'the item that is read depends on the query',
            f'flat: every access reads nearly the same mixture of the {items} items',
        ),
    )
    spread = (
        f'Spread: {effective}, and which of them depends on the query '
        f'(information {values["information"]}).'
    )
    counts = {'clips': len(mean_probs), 'items': items}
    return Measure(USAGE, values, counts, *judge(values, claims, 'memory', spread))


def read_out(
    use: SpatialUse,
    memory_values: Floats,
    original_energy: Floats,
    change_energy: Floats,
    clip_persons: Indices,
    seed: int = 0,
) -> Measure:
    """Measure whether the spatial memory's read-out varies, and how much it changes the features.

    Args:
        use: accesses of :func:`stmn_plugin.looking.clip_statistics.reduce_clips`.
        memory_values: v^s, (M, D).
        original_energy: mean |f^o|^2, (C,).
        change_energy: mean |f^s - f^o|^2, (C,).
        clip_persons: (C,)
        seed: of the bootstrap.
    """
    gram = memory_values.astype(np.float64) @ memory_values.T.astype(np.float64)  # (M, M)
    squares = np.einsum('cmn,mn->c', use.second_moments, gram)  # (C,) mean |o^s|^2 of each clip

    def statistic(rows: Indices) -> dict[str, float]:
        mean = use.mean_probs[rows].mean(axis=0)
        square = squares[rows].mean()
        constant = mean @ gram @ mean  # |mean o^s|^2
        change = change_energy[rows].mean() / max(original_energy[rows].mean(), 1e-30)
        return {
            'varying_share': max(square - constant, 0) / max(square, 1e-30),
            'change': np.sqrt(change),
        }

    values = bootstrap(statistic, clip_persons, seed)
    does = (
        f'What is read varies over positions ({values["varying_share"].value:.0%} of it), and the '
        f'refinement changes the features by {values["change"].value:.0%} of their length.'
    )
    verdict = judge(values, READOUT_CLAIMS, 'memory', does)
    return Measure(READOUT, values, {'clips': len(clip_persons)}, *verdict)


def attention_use(attention: Floats, clip_persons: Indices, seed: int = 0) -> Measure:
    """Measure whether temporal attention differs from average pooling, and between clips.

    Args:
        attention: (C, L), rows sum to 1.
        clip_persons: (C,)
        seed: of the bootstrap.
    """
    attention = attention.astype(np.float64)
    length = attention.shape[1]

    def statistic(rows: Indices) -> dict[str, float]:
        own = attention[rows]
        return {
            'moved': np.abs(own - 1 / length).sum(axis=1).mean() / 2,
            'largest': own.max(axis=1).mean() * length,
            'between_clips': np.abs(own - own.mean(axis=0)).sum(axis=1).mean() / 2,
        }

    values = bootstrap(statistic, clip_persons, seed)
    does = (
        f'{values["moved"].value:.0%} of the weight is moved away from average pooling, and '
        f'{values["between_clips"].value:.0%} differs between clips.'
    )
    verdict = judge(values, ATTENTION_CLAIMS, 'temporal attention', does)
    return Measure(ATTENTION, values, {'clips': len(attention), 'frames': length}, *verdict)
