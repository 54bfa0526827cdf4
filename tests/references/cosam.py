"""A slow oracle of COSAM's module: loops over frames, positions and channels, for the tests alone.

Letters: B clips, L frames, C channels, H W positions, R reduced channels.
"""

import torch
from references.stmn import batch_norm_eval, batch_norm_training, dot


def linear(weight, bias, vector):
    """W x + b for one vector: a list of numbers."""
    return [dot(weight[n], vector) + bias[n] for n in range(len(weight))]


def normalised(columns, norm, training):
    """BN of vectors (a list), channel by channel."""
    channels = []
    for r in range(len(norm.weight)):
        column, weight, bias = [v[r] for v in columns], norm.weight[r], norm.bias[r]
        if training:
            channels.append(batch_norm_training(column, weight, bias)[0])
        else:
            mean, var = norm.running_mean[r], norm.running_var[r]
            channels.append(batch_norm_eval(column, weight, bias, mean, var))
    return [torch.stack([channel[n] for channel in channels]) for n in range(len(columns))]


def rectified(vector):
    return torch.stack([x if x > 0 else 0 * x for x in vector])


def standardised(vector):
    """Less the mean, by the deviation (divisor R - 1) + 1e-4."""
    count = len(vector)
    mean = sum(vector[1:], vector[0]) / count
    squares = [(x - mean) ** 2 for x in vector]
    variance = sum(squares[1:], squares[0]) / (count - 1)
    deviation = variance.sqrt() if variance > 0 else variance
    return torch.stack([(x - mean) / (deviation + 1e-4) for x in vector])


def co_segmentation(module, maps, training, two_layers=True, adds=True):
    """Steps 1 to 7 for maps (B, L, C, H, W) → output, masks (B, L, H, W), gates (B, C)."""
    clips, length, channels, height, width = maps.shape
    places = [
        (b, t, h, w)
        for b in range(clips)
        for t in range(length)
        for h in range(height)
        for w in range(width)
    ]
    conv, norm = module.reduce[0], module.reduce[1]
    weight = conv.weight[:, :, 0, 0]
    rows = [torch.stack(linear(weight, conv.bias, maps[b, t, :, h, w])) for b, t, h, w in places]
    rows = [standardised(rectified(row)) for row in normalised(rows, norm, training)]
    descriptors = dict(zip(places, rows, strict=True))

    related = []
    for b, t, h, w in places:
        own, numbers = descriptors[b, t, h, w], []
        for s in range(length):
            if s == t:
                continue
            for i in range(height):
                for j in range(width):
                    numbers.append(dot(own, descriptors[b, s, i, j]) / len(own))
        related.append(torch.stack(numbers))
    if two_layers:
        conv, norm = module.summarise[0], module.summarise[1]
        weight = conv.weight[:, :, 0, 0]
        rows = [torch.stack(linear(weight, conv.bias, row)) for row in related]
        related = [rectified(row) for row in normalised(rows, norm, training)]
    weight = module.mask.weight[:, :, 0, 0]
    scores = [linear(weight, module.mask.bias, row)[0] for row in related]
    masks = torch.stack([1 / (1 + (-score).exp()) for score in scores])
    masks = masks.reshape(clips, length, height, width)

    first, second = module.gate[0], module.gate[2]
    outputs, gates = [], []
    for b in range(clips):
        masked, of_frames = [], []
        for t in range(length):
            masked.append(torch.stack([maps[b, t, c] * masks[b, t] for c in range(channels)]))
            means = torch.stack([masked[t][c].sum() / (height * width) for c in range(channels)])
            hidden = torch.stack([x.tanh() for x in linear(first.weight, first.bias, means)])
            last = linear(second.weight, second.bias, hidden)
            of_frames.append([1 / (1 + (-x).exp()) for x in last])
        gate = torch.stack([sum(frame[c] for frame in of_frames) / length for c in range(channels)])
        factor = [1 + gate[c] if adds else gate[c] for c in range(channels)]
        frames = [torch.stack([y[c] * factor[c] for c in range(channels)]) for y in masked]
        outputs.append(torch.stack(frames))
        gates.append(gate)
    return torch.stack(outputs), masks, torch.stack(gates)
