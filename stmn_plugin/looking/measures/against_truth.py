"""Compare attention with the person's visibility, and refinement with distractors.

Both are also compared with a baseline that ignores the clip: one fixed attention, one fixed map.
It is the mean over the clips at hand, in a resample those drawn: that of few persons points
somewhere by chance, which the interval must show. A memory that ignores its input gets exactly the
values of the baseline. Letters are those of ``models/stmn/memory.py``; C clips.
"""

import numpy as np
from scipy.stats import rankdata

from ..clip_statistics import Changes, Floats, Indices
from .measure import INTERVAL, NOISE, Claim, Measure, bootstrap, judge, not_measured

VARIES = 0.05
SMALL_GAIN = 0.005

ATTENTION = (
    'Temporal attention of a frame against the visible share of the person in it, over clips whose '
    f'visibility varies by at least {VARIES} (others are left out). pearson, spearman: correlation '
    'within a clip, averaged over clips; a clip with constant attention counts 0. pooled_pearson, '
    'pooled_spearman: over all frames of those clips at once. fixed_pearson: pearson with the mean '
    'attention of those clips in place of their own. beyond_fixed = pearson - fixed_pearson. '
    'visibility_gain = mean over clips of sum_l a_l visibility_l - mean_l visibility_l, what '
    'weighting shows more of the person than average pooling does; best_gain = the same with all '
    'weight on the frame that shows most. It follows when pearson > 0, then beyond_fixed > 0, then '
    f'visibility_gain > {SMALL_GAIN}. {INTERVAL}'
)
REFINEMENT = (
    'Positions of the feature maps weighted by the share m that the distractor mask covers (scene '
    'objects, occluders): inside = sum m e / sum m, outside = sum (1 - m) e / sum (1 - m), over '
    'all positions of all frames, of the energy e = |f^s - f^o|^2. ratio = inside / outside. '
    'fixed_ratio: the same with the mean of e over all frames in place of their own, what a memory '
    'that only knows the place in the crop gets. beyond_fixed = ratio - fixed_ratio. norm_inside, '
    'norm_outside: the same means of |f^s| - |f^o|, below 0 where features are suppressed. '
    'suppression = norm_outside - norm_inside. It "changes nothing" when e is 0 everywhere; it '
    f'aims at distractors when ratio > 1, then beyond_fixed > 0, then suppression > 0. {INTERVAL}'
)
ATTENTION_CLAIMS = (
    Claim('pearson', 0, 'attention follows visibility', 'attention goes against visibility'),
    Claim(
        'beyond_fixed',
        0,
        'attention follows visibility better than one fixed attention for all clips would',
        'attention follows visibility less than one fixed attention for all clips would',
    ),
    Claim(
        'visibility_gain',
        SMALL_GAIN,
        'more of the person is seen, though attention follows visibility',
        'attention follows visibility, but it hardly matters',
    ),
)
REFINEMENT_CLAIMS = (
    Claim(
        'ratio',
        1,
        'the refinement changes distractors more than the rest',
        'the refinement changes distractors less than the rest',
    ),
    Claim(
        'beyond_fixed',
        0,
        'the refinement aims at distractors better than one fixed map of the crop would',
        'the refinement aims at distractors less than one fixed map of the crop would',
    ),
    Claim(
        'suppression',
        0,
        'the refinement suppresses the distractors that it changes',
        'the refinement changes distractors more, but does not suppress them',
    ),
)
NO_TRUTH = 'No truth for this dataset: only synthetic data knows {}.'


def attention_and_visibility(
    attention: Floats, visibility: Floats, clip_persons: Indices, seed: int = 0
) -> Measure:
    """Measure whether temporal attention follows the person's visibility.

    Args:
        attention: (C, L), rows sum to 1.
        visibility: (C, L) in 0..1.
        clip_persons: (C,)
        seed: of the bootstrap.
    """
    used = np.ptp(visibility, axis=1) >= VARIES
    counts = {'clips': int(used.sum()), 'clips_left_out': int((~used).sum())}
    if counts['clips'] == 0:
        return not_measured(ATTENTION, 'No clip has a person whose visibility varies.')
    attention = (attention[used] / NOISE).round().astype(np.float64) * NOISE  # (C', L)
    visibility = visibility[used].astype(np.float64)
    shown = visibility - visibility.mean(axis=1, keepdims=True)
    of_clip = {
        'pearson': correlation(attention, visibility),
        'spearman': correlation(rankdata(attention, axis=1), rankdata(visibility, axis=1)),
        'visibility_gain': (attention * shown).sum(axis=1),
        'best_gain': shown.max(axis=1),
    }  # each (C',)

    def statistic(rows: Indices) -> dict[str, float]:
        means = {name: values[rows].mean() for name, values in of_clip.items()}
        fixed = attention[rows].mean(axis=0)  # (L,)
        fixed_pearson = correlation(fixed, visibility[rows]).mean()
        weights, shares = attention[rows].ravel(), visibility[rows].ravel()
        return {
            **means,
            'fixed_pearson': fixed_pearson,
            'beyond_fixed': means['pearson'] - fixed_pearson,
            'pooled_pearson': correlation(weights, shares),
            'pooled_spearman': correlation(rankdata(weights), rankdata(shares)),
        }

    values = bootstrap(statistic, clip_persons[used], seed)
    gain, best = values['visibility_gain'].value, values['best_gain'].value
    followed = (
        f'Attention follows visibility (pearson {values["pearson"]}, a fixed attention '
        f'{values["fixed_pearson"].value:.3g}): the person is seen {gain:.1%} more, '
        f'where {best:.1%} is possible.'
    )
    verdict = judge(values, ATTENTION_CLAIMS, 'temporal attention', followed)
    return Measure(ATTENTION, values, counts, *verdict)


def refinement_and_distractors(
    changes: Changes, distractor_share: Floats, clip_persons: Indices, seed: int = 0
) -> Measure:
    """Measure whether the spatial memory changes positions of distractors more than others.

    Args:
        changes: changes of ``clip_statistics.reduce_clips``, (C, L, H, W).
        distractor_share: m, (C, L, H, W) in 0..1.
        clip_persons: (C,)
        seed: of the bootstrap.
    """
    inside = distractor_share.astype(np.float64)
    outside = 1 - inside
    counts = {'clips': len(inside), 'mask_covers': float(inside.mean())}
    if inside.sum() == 0 or outside.sum() == 0:
        return not_measured(REFINEMENT, 'The distractor masks cover nothing, or everything.')
    energy = np.square(changes.change_norms, dtype=np.float64)
    maps = {
        'energy': energy,
        'norm': changes.norm_changes,
        'weight': np.ones_like(energy),
    }
    places = (1, 2, 3)
    sums_in = {name: (values * inside).sum(axis=places) for name, values in maps.items()}  # (C,)
    sums_out = {name: (values * outside).sum(axis=places) for name, values in maps.items()}
    energy_at = energy.mean(axis=1).reshape(len(energy), -1)  # (C, H*W)
    in_at, out_at = (m.sum(axis=1).reshape(len(m), -1) for m in (inside, outside))  # (C, H*W)

    def statistic(rows: Indices) -> dict[str, float]:
        def mean(sums: dict[str, Floats], name: str) -> float:
            return float(sums[name][rows].sum() / max(sums['weight'][rows].sum(), 1e-30))

        def fixed_mean(weights: Floats) -> float:
            own = weights[rows].sum(axis=0)
            return float(fixed @ own / max(own.sum(), 1e-30))

        fixed = energy_at[rows].mean(axis=0)  # (H*W,)
        ratio = mean(sums_in, 'energy') / max(mean(sums_out, 'energy'), 1e-30)
        fixed_ratio = fixed_mean(in_at) / max(fixed_mean(out_at), 1e-30)
        return {
            'inside': mean(sums_in, 'energy'),
            'outside': mean(sums_out, 'energy'),
            'ratio': ratio,
            'fixed_ratio': fixed_ratio,
            'beyond_fixed': ratio - fixed_ratio,
            'norm_inside': mean(sums_in, 'norm'),
            'norm_outside': mean(sums_out, 'norm'),
            'suppression': mean(sums_out, 'norm') - mean(sums_in, 'norm'),
        }

    values = bootstrap(statistic, clip_persons, seed)
    aimed = (
        f'The refinement aims at distractors (energy inside/outside {values["ratio"]}, a fixed map '
        f'{values["fixed_ratio"].value:.3g}) and shortens the features there.'
    )
    if energy.any():
        verdict = judge(values, REFINEMENT_CLAIMS, 'spatial memory', aimed)
    else:
        verdict = (
            'The refinement changes nothing. The spatial memory does not work as intended.',
            False,
        )
    return Measure(REFINEMENT, values, counts, *verdict)


def correlation(a: Floats, b: Floats) -> Floats:
    """Compute Pearson's correlation over the last dimension; 0 if either is constant."""
    a = a - a.mean(axis=-1, keepdims=True)
    b = b - b.mean(axis=-1, keepdims=True)
    size = np.sqrt((a * a).sum(axis=-1) * (b * b).sum(axis=-1))
    constant = size < 1e-12
    return np.where(constant, 0.0, (a * b).sum(axis=-1) / np.where(constant, 1.0, size))
