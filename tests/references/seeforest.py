"""SeeForest's equations again in float64: one clip, one position and one gate at a time."""

import torch

BEFORE = {  # where the predecessor of a position lies
    'right': (0, -1),
    'left': (0, 1),
    'down': (-1, 0),
    'up': (1, 0),
    'down-right': (-1, -1),
    'up-left': (1, 1),
}


def sigmoid(x):
    return 1 / (1 + (-x).exp())


def temporal_attention(vectors, wx, wh, b, v, lstm, steps):
    """Of one clip, vectors (L, D) → states and attention, a list of a vector each step.

    Args:
        wx: (A, D); wh: (A, U); b, v: (A,).
        lstm: (weight_ih (4U, D), weight_hh (4U, U), bias_ih, bias_hh), gates input, forget,
            candidate, output.
    """
    weight_ih, weight_hh, bias_ih, bias_hh = lstm
    size = weight_hh.shape[1]
    h = c = vectors.new_zeros(size)
    states, attention = [], []
    for _ in range(steps):
        energies = [sum(v * torch.tanh(wx @ x + wh @ h + b)) for x in vectors]
        shares = [e.exp() for e in energies]
        alpha = [share / sum(shares) for share in shares]
        z = sum(weight * x for weight, x in zip(alpha, vectors, strict=True))
        gates = [weight_ih[k] @ z + bias_ih[k] + weight_hh[k] @ h + bias_hh[k]
                 for k in range(4 * size)]  # fmt: skip
        gates = torch.stack(gates)
        into, forget, candidate, out = (gates[k * size : (k + 1) * size] for k in range(4))
        c = sigmoid(forget) * c + sigmoid(into) * torch.tanh(candidate)
        h = sigmoid(out) * torch.tanh(c)
        states.append(h)
        attention.append(torch.stack(alpha))
    return states, attention


def sweep(inputs, recurrent, direction):
    """Of one pair, inputs (U, H, W) → {(i, j): g (U,)}, asking each for its predecessor."""
    _, height, width = inputs.shape
    down, right = BEFORE[direction]
    known = {}

    def at(i, j):
        if not (0 <= i < height and 0 <= j < width):
            return None
        if (i, j) not in known:
            before = at(i + down, j + right)
            total = inputs[:, i, j] if before is None else inputs[:, i, j] + recurrent @ before
            known[i, j] = torch.where(total > 0, total, torch.zeros_like(total))
        return known[i, j]

    for i in range(height):
        for j in range(width):
            at(i, j)
    return known


def normalised(numbers, weight, bias, eps=1e-5):
    """Batch normalisation of one channel in training, and ReLU: a list of scalars each."""
    mean = sum(numbers) / len(numbers)
    variance = sum((one - mean) ** 2 for one in numbers) / len(numbers)
    scaled = [(one - mean) / (variance + eps).sqrt() * weight + bias for one in numbers]
    return [one if one > 0 else 0 * one for one in scaled]


def convolved(maps, weight, bn_weight, bn_bias):
    """A 1x1 convolution of maps (N, C, H, W), BN over the batch, ReLU → (N, C', H, W)."""
    count, _, height, width = maps.shape
    places = [(n, i, j) for n in range(count) for i in range(height) for j in range(width)]
    channels = [
        torch.stack(normalised([row @ maps[n, :, i, j] for n, i, j in places], scale, shift))
        for row, scale, shift in zip(weight, bn_weight, bn_bias, strict=True)
    ]
    return torch.stack(channels).view(len(weight), count, height, width).transpose(0, 1)


def pair_logits(first, second, weights, directions):
    """M of the clips of pairs (P, C, H, W) → logits (P, 2), in training.

    Args:
        weights: by the names of PairClassifier, as its state dict has them.
    """
    channels = weights['recurrent'].shape[1]
    joined = []
    for a, b in zip(first, second, strict=True):
        difference, maps = (a - b).abs(), []
        for r, direction in enumerate(directions):
            rows = slice(r * channels, (r + 1) * channels)
            weight, bias = weights['inputs.weight'][rows, :, 0, 0], weights['inputs.bias'][rows]
            inputs = torch.einsum('uc,chw->uhw', weight, difference) + bias[:, None, None]
            swept = sweep(inputs, weights['recurrent'][r], direction)
            _, height, width = inputs.shape
            maps.append(
                torch.stack(
                    [
                        torch.stack([swept[i, j] for j in range(width)], dim=1)
                        for i in range(height)
                    ],
                    dim=1,
                )
            )  # (U, H, W)
        joined.append(torch.cat(maps))
    fused = convolved(
        torch.stack(joined),
        weights['fuse.weight'][:, :, 0, 0],
        weights['fuse_bn.weight'],
        weights['fuse_bn.bias'],
    )
    return torch.stack(
        [weights['score.weight'] @ one.mean(dim=(1, 2)) + weights['score.bias'] for one in fused]
    )


def pair_loss(features, pids, logits_of):
    """Cross-entropy of the hardest pairs that exist.

    Args:
        logits_of: (clip, clip) → two logits.
    """
    terms = []
    for i, pid in enumerate(pids):
        away = [(features[i] - one).detach().square().sum().item() for one in features]
        same = [j for j, other in enumerate(pids) if other == pid and j != i]
        others = [j for j, other in enumerate(pids) if other != pid]
        for label, found in ((1, max(same, key=away.__getitem__, default=None)),
                             (0, min(others, key=away.__getitem__, default=None))):  # fmt: skip
            if found is not None:
                logits = logits_of(i, found)
                terms.append((logits.exp().sum()).log() - logits[label])
    return sum(terms) / max(len(terms), 1)
