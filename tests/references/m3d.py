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


def positive(x):
    """ReLU of a tensor; at 0, where whole rows of small maps are, its slope is 0."""
    return torch.where(x > 0, x, torch.zeros_like(x))


def fixed_norm(norm, maps):
    """BN in eval mode of a map (B, C, H, W)."""
    scale, shift, mean, var = (
        x[:, None, None] for x in (norm.weight, norm.bias, norm.running_mean, norm.running_var)
    )
    return (maps - mean) / (var + norm.eps).sqrt() * scale + shift


def means_of(frames, size):
    """A list of maps → the means of its groups."""
    groups = [frames[start : start + size] for start in range(0, len(frames), size)]
    return [sum(group) / len(group) for group in groups]


def layer_of_frames(layer, frames):
    """An M3D layer with its own weights, on a list of maps (B, C, H, W)."""
    out = means_of(frames, layer.stride)
    for i, (conv, norm) in enumerate(zip(layer.convs, layer.norms, strict=True), start=1):
        for k in range(len(out)):
            total = 0
            for tap, at in enumerate(k * layer.stride + i * step for step in (-1, 0, 1)):
                if 0 <= at < len(frames):
                    total = total + torch.einsum(
                        'oc,bchw->bohw', conv.weight[:, :, tap, 0, 0], frames[at]
                    )
            branch = fixed_norm(norm, total)
            out[k] = out[k] + (positive(branch) if layer.released else branch)
    return out


def attended_frames(attention, frames):
    """RAL with its own weights, on a list of maps."""
    mean = sum(frames) / len(frames)
    first, _, norm, last = attention.spatial
    padded = torch.nn.functional.pad(mean, (1, 1, 1, 1))
    height, width = mean.shape[2:]
    total = sum(
        torch.einsum('c,bchw->bhw', first.weight[0, :, i, j], padded[:, :, i : i + height,
                                                                     j : j + width])
        for i, j in places((3, 3))
    ).unsqueeze(1)  # fmt: skip
    spatial = last.weight[0, 0] * fixed_norm(norm, positive(total))  # (B, 1, H, W)

    def hidden(branch, rows):
        norm = branch[2]
        rows = positive(rows @ branch[0].weight.T)
        rows = (rows - norm.running_mean) / (norm.running_var + norm.eps).sqrt()
        return (rows * norm.weight + norm.bias) @ branch[3].weight.T

    channel = positive(hidden(attention.channel, mean.mean(dim=(2, 3))))[:, :, None, None]
    time = hidden(attention.time, torch.stack([x.mean(dim=(1, 2, 3)) for x in frames], dim=1))
    factors = (
        0.5 + 1 / (1 + (-spatial * channel * one[:, None, None, None]).exp())
        for one in time.unbind(dim=1)
    )
    return [x * factor for x, factor in zip(frames, factors, strict=True)]


def temporal_maps(model, clips):
    """The temporal stream in eval mode, frame by frame: (B, L, 3, h, w) → (B, C, T, H, W)."""
    encoder = model.encoders['temporal']
    conv, norm, _, pool = encoder.stem
    frames = [positive(fixed_norm(norm, conv(x))) for x in clips.unbind(dim=1)]
    frames = [pool(x) for x in layer_of_frames(model.layers[0], frames)]
    stages = encoder.conv2, encoder.conv3, encoder.conv4, encoder.conv5
    for number, (stage, layer) in enumerate(zip(stages, list(model.layers)[1:], strict=True)):
        first, *others = stage
        pairs = [(first.conv1, first.bn1), (first.conv2, first.bn2)]
        if hasattr(first, 'conv3'):
            pairs.append((first.conv3, first.bn3))
        inner = frames
        for conv, norm in pairs[:-1]:
            inner = [positive(fixed_norm(norm, conv(x))) for x in inner]
        if first.downsample is not None:
            conv, norm = first.downsample
            frames = [fixed_norm(norm, conv(x)) for x in frames]
        conv, norm = pairs[-1]
        frames = [
            positive(fixed_norm(norm, conv(x)) + shortcut)
            for x, shortcut in zip(
                layer_of_frames(layer, inner), means_of(frames, layer.stride), strict=True
            )
        ]
        for block in others:
            frames = [block(x) for x in frames]
        if number < len(model.attentions):
            frames = attended_frames(model.attentions[number], frames)
    return torch.stack(frames, dim=2)
