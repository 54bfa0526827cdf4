"""QAN's equations again in float64: one frame, one position and one number at a time."""

import math


def sigmoid(z):
    """1 / (1 + e^-z) of a scalar tensor."""
    return 1 / (1 + (-z).exp())


def pooled(scores, features, softmax=False):
    """Scores z (B, L), features f (B, L, D) → weights w and features F, lists of lists."""
    weights, clips = [], []
    for z, f in zip(scores, features, strict=True):
        q = [one.exp() if softmax else sigmoid(one) for one in z]
        total = sum(q)
        w = [one / total for one in q]
        weights.append(w)
        clips.append([sum(w[i] * f[i, d] for i in range(len(w))) for d in range(f.shape[1])])
    return weights, clips


def quality(maps, conv, bn_weight, bn_bias, statistics, linear, bias, eps=1e-5):
    """The quality unit of maps (T, C, H, W) → a list of scores z.

    Args:
        conv: (channels, C, 3, 3), stride 2 and padding 1.
        statistics: a mean and a variance for each channel, or None for those of the batch.
        linear: (channels,).
    """
    frames, _, height, width = maps.shape
    rows, columns = math.ceil(height / 2), math.ceil(width / 2)
    scores = [bias] * frames
    for channel in range(len(conv)):
        sums = {
            (t, i, j): sum(
                (conv[channel, :, a, b] * maps[t, :, y, x]).sum()
                for a in range(3)
                for b in range(3)
                if 0 <= (y := 2 * i + a - 1) < height and 0 <= (x := 2 * j + b - 1) < width
            )
            for t in range(frames)
            for i in range(rows)
            for j in range(columns)
        }
        if statistics is None:
            mean = sum(sums.values()) / len(sums)
            variance = sum((one - mean) ** 2 for one in sums.values()) / len(sums)
        else:
            mean, variance = (one[channel] for one in statistics)
        for (t, _, _), one in sums.items():
            normal = (one - mean) / (variance + eps).sqrt() * bn_weight[channel] + bn_bias[channel]
            if normal > 0:
                scores[t] = scores[t] + linear[channel] * normal / (rows * columns)
    return scores
