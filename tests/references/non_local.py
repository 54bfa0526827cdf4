"""A slow oracle of the non-local block: loops over tokens, in float64, for the tests alone.

Letters: G groups, n tokens of a group, C channels, I inner width.
"""

import torch
from references.stmn import batch_norm_eval, batch_norm_training, dot, weighted_sum


def linear(layer, vector):
    """W x + b for one vector, number by number."""
    return torch.stack([dot(row, vector) for row in layer.weight]) + layer.bias


def softmax(numbers):
    weights = [number.exp() for number in numbers]
    total = sum(weights[1:], weights[0])
    return [weight / total for weight in weights]


def attended(block, tokens, positions=None):
    """A g(X) of one group: a list of n vectors (C,) → a list of n vectors (I,).

    With positions (H, W), phi and g are max-pooled over 2x2 positions.
    """
    queries, keys, values = (
        [linear(layer, token) for token in tokens] for layer in (block.theta, block.phi, block.g)
    )
    if positions is not None:
        keys, values = max_pooled(keys, *positions), max_pooled(values, *positions)
    rows = []
    for query in queries:
        rows.append(weighted_sum(softmax([dot(query, key) for key in keys]), values))
    return rows


def max_pooled(vectors, height, width):
    pooled = []
    for top in range(0, height - 1, 2):
        for left in range(0, width - 1, 2):
            best = vectors[top * width + left]
            for row, column in ((0, 1), (1, 0), (1, 1)):
                best = torch.maximum(best, vectors[(top + row) * width + left + column])
            pooled.append(best)
    return pooled


def batch_norm(norm, rows):
    """BN of a list of vectors (C,), in the mode that the layer is in."""
    columns = []
    for channel in range(len(rows[0])):
        numbers = [row[channel] for row in rows]
        scale, shift = norm.weight[channel], norm.bias[channel]
        if norm.training:
            columns.append(batch_norm_training(numbers, scale, shift, norm.eps)[0])
        else:
            mean, var = norm.running_mean[channel], norm.running_var[channel]
            columns.append(batch_norm_eval(numbers, scale, shift, mean, var, norm.eps))
    return [torch.stack(row) for row in zip(*columns, strict=True)]


def residual(block, groups, positions=None):
    """BN(out(A g(X))): tokens (G, n, C) → (G, n, C)."""
    rows = [
        linear(block.out, vector)
        for tokens in groups
        for vector in attended(block, list(tokens), positions)
    ]
    return torch.stack(batch_norm(block.bn, rows)).view(groups.shape)
