"""Slow oracles of what the authors' released code computes, in explicit loops, for the tests alone.

Written from docs/released-code.md; float64, and none of the package's code. Letters: B clips, L
frames of a clip, T = B*L, D channels, H W positions, K = H*W, M or N items.
"""

import torch
from references.stmn import (
    batch_norm_eval,
    batch_norm_training,
    dot,
    gap,
    length,
    lstm_last_hidden,
    memory_spread,
    softmax,
    weighted_sum,
)


def channel_keys(keys):
    """Keys (M, D) with each channel divided by its length over the items."""
    columns = []
    for d in range(keys.shape[1]):
        column = [keys[n, d] for n in range(keys.shape[0])]
        size = sum(x * x for x in column) ** 0.5
        columns.append(torch.stack([x / size for x in column]))
    return torch.stack(columns, dim=1)


def match(query, keys, scale):
    """Softmax over the items of scale * (query / its length) . key, with keys as they are."""
    return softmax([scale * dot(query, key) / length(query) for key in keys])


def groups(maps):
    """Rows of D numbers of maps (T, D, H, W), in the order in which a frame's numbers lie.

    Returns:
        The rows, and for each of them where its numbers come from: (t, d, h, w).
    """
    count, dim, height, width = maps.shape
    rows, places = [], []
    for t in range(count):
        numbers, origins = [], []
        for d in range(dim):
            for h in range(height):
                for w in range(width):
                    numbers.append(maps[t, d, h, w])
                    origins.append((t, d, h, w))
        for start in range(0, len(numbers), dim):
            rows.append(torch.stack(numbers[start : start + dim]))
            places.append(origins[start : start + dim])
    return rows, places


def group_memory(frame_features, queries, keys, values, bn, scale, training):
    """The spatial memory addressed by groups; arguments as ``references.stmn.spatial_memory``.

    Keys are used as they are: :func:`channel_keys`, or divided by their lengths, before.
    """
    rows, places = groups(queries)
    probs = [match(row, keys, scale) for row in rows]
    read = [weighted_sum(row, values) for row in probs]
    taken, means, variances = {}, [], []
    for j in range(values.shape[1]):
        column = [row[j] for row in read]
        weight, bias = bn['weight'][j], bn['bias'][j]
        if training:
            out, mean, var = batch_norm_training(column, weight, bias, bn['eps'])
            means.append(0.9 * bn['mean'][j] + 0.1 * mean.detach())
            variances.append(0.9 * bn['var'][j] + 0.1 * var.detach())
        else:
            out = batch_norm_eval(column, weight, bias, bn['mean'][j], bn['var'][j], bn['eps'])
        for number, origin in zip(out, places, strict=True):
            taken[origin[j]] = number
    count, dim, height, width = frame_features.shape
    refined = torch.stack(
        [
            frame_features[t, d, h, w] - taken[t, d, h, w]
            for t in range(count)
            for d in range(dim)
            for h in range(height)
            for w in range(width)
        ]
    ).view(count, dim, height, width)
    return {
        'probs': torch.stack([torch.stack(row) for row in probs]),
        'refined': refined,
        'pooled': gap(refined),
        'running_mean': torch.stack(means) if training else bn['mean'],
        'running_var': torch.stack(variances) if training else bn['var'],
    }


def temporal_memory(clip_queries, frame_vectors, keys, values, lstm, scale):
    """As ``references.stmn.temporal_memory``, with keys used as they are."""
    probs, outputs = [], []
    for queries, vectors in zip(clip_queries, frame_vectors, strict=True):
        row = match(lstm_last_hidden(list(queries), *lstm), keys, scale)
        probs.append(torch.stack(row))
        outputs.append(weighted_sum(softmax(list(weighted_sum(row, values))), vectors))
    return {'probs': torch.stack(probs), 'output': torch.stack(outputs)}


def spread_of_parts(probs, num_clips, margin, reduction, parts):
    """Eq. 9 of each part of a batch, and their mean: ceil(B / parts) clips go to each GPU."""
    rows = len(probs) // num_clips  # accesses of a clip
    share = -(-num_clips // parts)
    losses = []
    for first in range(0, num_clips, share):
        last = min(first + share, num_clips)
        own = torch.stack([probs[r] for r in range(first * rows, last * rows)])
        losses.append(memory_spread(own, margin, reduction))
    return sum(losses) / len(losses)


def frame_logits(refined, weight, classifier, eps=1e-5):
    """Deep supervision in training: BNNeck of every frame of (B, L, D), logits, their mean."""
    count, frames, dim = refined.shape
    normalised = {}
    for d in range(dim):
        column = [refined[b, i, d] for b in range(count) for i in range(frames)]
        normalised[d] = batch_norm_training(column, weight[d], 0.0, eps)[0]
    logits = []
    for b in range(count):
        own = []
        for i in range(frames):
            vector = torch.stack([normalised[d][b * frames + i] for d in range(dim)])
            own.append(torch.stack([dot(vector, w) for w in classifier]))
        logits.append(sum(own[1:], own[0]) / frames)
    return torch.stack(logits)


def all_frames_clips(num_frames, seq_len):
    """All-frames testing: the clips of a tracklet, lists of frames; one frame alone repeats."""
    frames = list(range(num_frames))
    while len(frames) < seq_len:
        frames.append(frames[-2] if len(frames) > 1 else frames[0])
    count = len(frames) // seq_len
    return [[frames[j * count + i] for j in range(seq_len)] for i in range(count)]
