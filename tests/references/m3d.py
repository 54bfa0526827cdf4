"""M3D's layers again in float64: one channel, one frame and one position at a time.

Letters: B clips, C channels, T frames, H W positions; x is (B, C, T, H, W).
"""

import itertools
import math

import torch

EPS = 1e-5


def normalised(values, weight, bias, statistics):
    """BN of a channel: a dict of numbers → the same keys; statistics (mean, var) or None."""
    if statistics is None:
        mean = sum(values.values()) / len(values)
        variance = sum((one - mean) ** 2 for one in values.values()) / len(values)
    else:
        mean, variance = statistics
    return {
        key: (one - mean) / (variance + EPS).sqrt() * weight + bias for key, one in values.items()
    }


def relu(number):
    return number if number > 0 else number * 0


def stacked(values, shape):
    """A dict from indices to numbers → a tensor."""
    return torch.stack([values[place] for place in places(shape)]).view(shape)


def places(shape):
    return itertools.product(*map(range, shape))


def mean_of_groups(x, size):
    """The frames k*size, ..., (k+1)*size - 1 that exist, averaged."""
    groups = []
    for start in range(0, x.shape[2], size):
        frames = [x[:, :, t] for t in range(start, min(start + size, x.shape[2]))]
        groups.append(sum(frames) / len(frames))
    return torch.stack(groups, dim=2)


def m3d_layer(x, convs, norms, stride, with_relu, statistics=None):
    """pool(x) + sum over i of BN_i(conv_i(x)).

    Args:
        convs: the weights (C, C, 3) of conv_1, conv_2, ...; dilation i.
        norms: (weight (C,), bias (C,)) of each BN.
        statistics: of each BN a (mean (C,), var (C,)), or None for those of the batch.
    """
    clips, channels, frames, height, width = x.shape
    y = mean_of_groups(x, stride)
    for i, (conv, (weight, bias)) in enumerate(zip(convs, norms, strict=True), start=1):
        branch = {}
        for c in range(channels):
            sums = {}
            for b, t, h, w in places((clips, math.ceil(frames / stride), height, width)):
                total = x[0, 0, 0, 0, 0] * 0
                for tap, at in enumerate((t * stride - i, t * stride, t * stride + i)):
                    if 0 <= at < frames:
                        total = total + sum(
                            conv[c, d, tap] * x[b, d, at, h, w] for d in range(channels)
                        )
                sums[b, t, h, w] = total
            known = statistics and (statistics[i - 1][0][c], statistics[i - 1][1][c])
            for (b, *place), one in normalised(sums, weight[c], bias[c], known).items():
                branch[(b, c, *place)] = relu(one) if with_relu else one
        y = y + stacked(branch, y.shape)
    return y


def two_linear(rows, before, norm, after):
    """Rows (B, n) → W' BN(ReLU(W row)), with the statistics of the batch."""
    hidden = {}
    for k in range(len(before)):
        column = {b: relu((before[k] * row).sum()) for b, row in enumerate(rows)}
        for b, one in normalised(column, norm[0][k], norm[1][k], None).items():
            hidden[b, k] = one
    hidden = stacked(hidden, (len(rows), len(before)))
    out = {
        (b, k): (after[k] * hidden[b]).sum() for b in range(len(rows)) for k in range(len(after))
    }
    return stacked(out, (len(rows), len(after)))


def residual_attention(x, spatial, channel, time):
    """x/2 + m*x, m = sigmoid(S Ch Tm), with the statistics of the batch.

    Args:
        spatial: (3x3 convolution (1, C, 3, 3), (weight, bias) of BN, 1x1 convolution (1, 1, 1, 1)).
        channel, time: (W, (weight, bias) of BN, W').
    """
    clips, channels, frames, height, width = x.shape
    means = sum(x[:, :, t] for t in range(frames)) / frames  # (B, C, H, W)
    sums = {}
    for b, h, w in places((clips, height, width)):
        total = x[0, 0, 0, 0, 0] * 0
        for i, j in places((3, 3)):
            if 0 <= h + i - 1 < height and 0 <= w + j - 1 < width:
                total = total + (spatial[0][0, :, i, j] * means[b, :, h + i - 1, w + j - 1]).sum()
        sums[b, h, w] = relu(total)
    mask_s = normalised(sums, spatial[1][0][0], spatial[1][1][0], None)
    of_channels = sum(means[:, :, h, w] for h, w in places((height, width))) / (height * width)
    mask_c = two_linear(of_channels, *channel)
    of_frames = sum(x[:, c, :, h, w] for c, h, w in places((channels, height, width))) / (
        channels * height * width
    )
    mask_t = two_linear(of_frames, *time)
    out = {}
    for b, c, t, h, w in places(x.shape):
        z = spatial[2][0, 0, 0, 0] * mask_s[b, h, w] * relu(mask_c[b, c]) * mask_t[b, t]
        out[b, c, t, h, w] = x[b, c, t, h, w] * (0.5 + 1 / (1 + (-z).exp()))
    return stacked(out, x.shape)
