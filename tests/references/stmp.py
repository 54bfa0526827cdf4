"""Slow oracles of STMP: loops over frames, positions and channels, for the tests alone.

Letters: B clips, L frames, C channels, H W positions, R reduced channels.
"""

import torch
from references.stmn import batch_norm_eval, batch_norm_training, dot


def normalised(vectors, norm, training, eps):
    """BN of a list of vectors, channel by channel."""
    channels = []
    for r in range(len(norm.weight)):
        column, weight, bias = [v[r] for v in vectors], norm.weight[r], norm.bias[r]
        if training:
            channels.append(batch_norm_training(column, weight, bias, eps)[0])
        else:
            mean, var = norm.running_mean[r], norm.running_var[r]
            channels.append(batch_norm_eval(column, weight, bias, mean, var, eps))
    return [torch.stack([channel[n] for channel in channels]) for n in range(len(vectors))]


def rectified(vector):
    return torch.stack([x if x > 0 else 0 * x for x in vector])


def refined(unit, maps, training):
    """The recurrent unit on maps x (B, L, C, H, W) → h, as many."""
    clips, length, channels, height, width = maps.shape
    places = [(i, j) for i in range(height) for j in range(width)]
    reduce = unit.reduce.weight[:, :, 0, 0]  # (R, 2C)
    first = unit.spatial[0].weight[:, 0]  # (hidden, H, W)
    second = unit.spatial[2].weight[:, :, 0, 0]  # (H*W, hidden)
    of_channel = unit.channel.weight[:, :, 0, 0]  # (C, R)
    states = [maps[b, 0] for b in range(clips)]
    frames = []
    for t in range(length):
        vectors = []
        for b in range(clips):
            for i, j in places:
                now = maps[b, t, :, i, j]
                appearance = states[b][:, i, j] - now
                motion = now - maps[b, t - 1, :, i, j] if t > 0 else 0 * now
                both = torch.cat([appearance, motion])
                vectors.append(torch.stack([dot(row, both) for row in reduce]))
        vectors = [rectified(v) for v in normalised(vectors, unit.norm, training, 1e-3)]
        following = []
        for b in range(clips):
            own = vectors[b * len(places) : (b + 1) * len(places)]
            means = [v.sum() / len(v) for v in own]  # over R
            hidden = []
            for kernel in first:
                number = sum(m * kernel[i, j] for m, (i, j) in zip(means, places, strict=True))
                hidden.append(number if number > 0 else 0 * number)
            spatial = [dot(row, torch.stack(hidden)) for row in second]
            pooled = sum(own[1:], own[0]) / len(own)
            channel = [dot(row, pooled) for row in of_channel]
            state = []
            for c in range(channels):
                for place, (i, j) in enumerate(places):
                    z = 1 / (1 + (-spatial[place] * channel[c]).exp())
                    state.append((1 - z) * states[b][c, i, j] + z * maps[b, t, c, i, j])
            following.append(torch.stack(state).reshape(channels, height, width))
        states = following
        frames.append(torch.stack(states))
    return torch.stack(frames, dim=1)


def integrated(module, maps, training):
    """The integration module on refined maps (B, L, C, H, W) → features (B, E)."""
    clips, length, _, height, width = maps.shape
    places = [(t, i, j) for t in range(length) for i in range(height) for j in range(width)]
    keys = [(b, *place) for b in range(clips) for place in places]
    point = module[0].weight[:, :, 0, 0, 0]
    rows = [torch.stack([dot(row, maps[b, t, :, i, j]) for row in point]) for b, t, i, j in keys]
    rows = [rectified(row) for row in normalised(rows, module[1], training, 1e-5)]
    inner = dict(zip(keys, rows, strict=True))
    kernels = module[3].weight  # (E, E, 3, 3, 3)
    rows = []
    for b, t, i, j in keys:
        out = 0 * inner[b, t, i, j]
        for dt in range(3):
            for di in range(3):
                for dj in range(3):
                    near = (b, t + dt - 1, i + di - 1, j + dj - 1)
                    if near in inner:
                        kernel = kernels[:, :, dt, di, dj]
                        out = out + torch.stack([dot(row, inner[near]) for row in kernel])
        rows.append(out)
    rows = [rectified(row) for row in normalised(rows, module[4], training, 1e-5)]
    features = []
    for b in range(clips):
        own = rows[b * len(places) : (b + 1) * len(places)]
        features.append(sum(own[1:], own[0]) / len(own))
    return torch.stack(features)


def part_vectors(maps):
    """(B, L, C, H, W) → (B, C, H)."""
    clips, length, channels, height, width = maps.shape
    out = torch.zeros(clips, channels, height, dtype=maps.dtype)
    for b in range(clips):
        for c in range(channels):
            for i in range(height):
                total = sum(maps[b, t, c, i, j] for t in range(length) for j in range(width))
                out[b, c, i] = total / (length * width)
    return out


def triplet(features, pids, margin):
    """Batch-hard with a hinge, the mean over anchors."""
    terms = []
    for a in range(len(features)):
        distances = [(features[a] - other).square().sum().sqrt() for other in features]
        same = [d for d, pid in zip(distances, pids, strict=True) if pid == pids[a]]
        different = [d for d, pid in zip(distances, pids, strict=True) if pid != pids[a]]
        terms.append(max(max(same) - min(different) + margin, torch.tensor(0.0)))
    return sum(terms) / len(terms)
