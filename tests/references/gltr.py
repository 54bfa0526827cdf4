"""Slow, obvious oracles of GLTR in float64, loop by loop; nothing is shared with the package.

Letters: L frames, d numbers of a frame vector, C channels of F.
"""

import torch

from .stmn import batch_norm_eval, batch_norm_training, dot, softmax


def dilated(x, taps, dilation):
    """One clip x (L, d), taps (d', d, 3) → (L, d'): past, present and future frame of each."""
    rows = []
    for t in range(len(x)):
        row = []
        for out in range(len(taps)):
            total = x[0, 0] * 0
            for j in (-1, 0, 1):
                at = t + j * dilation
                if 0 <= at < len(x):
                    total = total + dot(taps[out, :, j + 1], x[at])
            row.append(total)
        rows.append(torch.stack(row))
    return torch.stack(rows)


def stacked(x, branches, dilations, with_frames=True):
    """One clip x (L, d) → F (L, C)."""
    parts = [x] if with_frames else []
    parts += [dilated(x, taps, r) for taps, r in zip(branches, dilations, strict=True)]
    return torch.cat(parts, dim=1)


def linear(x, weight, bias):
    """Rows x (L, n), weight (m, n), bias (m,) → (L, m)."""
    return torch.stack(
        [torch.stack([dot(w, row) + b for w, b in zip(weight, bias, strict=True)]) for row in x]
    )


def attention(queries, keys):
    """Rows (L, C') of one clip → A (L, L): row t is the softmax over s of q_t k_s."""
    return torch.stack([torch.stack(softmax([dot(q, k) for k in keys])) for q in queries])


def self_attention(clips, weights, norm, training):
    """Clips F (B, L, C) → F' (B, L, C) and A of each clip.

    Args:
        weights: name → (weight, bias), of theta, phi, g and out.
        norm: weight, bias, mean and var, each (C,).
    """
    outputs, maps = [], []
    for rows in clips:
        q, k, v = (linear(rows, *weights[name]) for name in ('theta', 'phi', 'g'))
        a = attention(q, k)
        read = []
        for t in range(len(rows)):
            total = a[t, 0] * v[0]
            for s in range(1, len(rows)):
                total = total + a[t, s] * v[s]
            read.append(total)
        outputs.append(linear(torch.stack(read), *weights['out']))
        maps.append(a)
    outputs = torch.stack(outputs)  # (B, L, C)
    channels = []
    for c in range(outputs.shape[2]):
        numbers, scale, shift = list(outputs[:, :, c].flatten()), norm['weight'][c], norm['bias'][c]
        if training:
            numbers, _, _ = batch_norm_training(numbers, scale, shift)
        else:
            numbers = batch_norm_eval(numbers, scale, shift, norm['mean'][c], norm['var'][c])
        channels.append(torch.stack(numbers).view(outputs.shape[:2]))
    return clips + torch.stack(channels, dim=2), torch.stack(maps)


def mean_over_frames(clips):
    """(B, L, C) → (B, C)."""
    rows = []
    for clip in clips:
        total = clip[0]
        for t in range(1, len(clip)):
            total = total + clip[t]
        rows.append(total / len(clip))
    return torch.stack(rows)
