"""Slow, obvious oracles of DRSA from its equations: loops, float64, no code of the package.

Letters: B clips, L frames, D channels, K positions, S spatial models, E numbers of a part. Torch is
there for gradients.
"""

import math

import torch
from references.stmn import dot, length, softmax, weighted_sum


def relu(x):
    """max(x, 0) of a vector."""
    return torch.stack([number if number > 0 else 0 * number for number in x])


def responses(positions, hidden, first_bias, row, last_bias):
    """e of one model at positions (K, D): w2 . relu(W1 f + b1) + b2, a list of K numbers."""
    out = []
    for f in positions:
        inner = torch.stack([dot(w, f) + b for w, b in zip(hidden, first_bias, strict=True)])
        out.append(dot(row, relu(inner)) + last_bias)
    return out


def part_of_frame(positions, probs, weight, bias):
    """y of positions (K, D) by a map (list of K): the embedding of their sum, of length 1."""
    x = weighted_sum(probs, positions)
    embedded = torch.stack([dot(w, x) + b for w, b in zip(weight, bias, strict=True)])
    return embedded / length(embedded)


def clip_feature(parts, temporal):
    """Parts (L, S, E), weights of S models (V1, c1, v2, c2) -> t (L, S), F (S*E,)."""
    columns, blocks = [], []
    for s, (hidden, first_bias, row, last_bias) in enumerate(temporal):
        weights = softmax(responses(parts[:, s], hidden, first_bias, row, last_bias))
        columns.append(torch.stack(weights))
        blocks.append(weighted_sum(weights, parts[:, s]))
    return torch.stack(columns, dim=1), torch.cat(blocks)


def squared_hellinger(one, other):
    """H^2 = 1/2 sum (sqrt a - sqrt b)^2 of two maps (K,)."""
    total = 0
    for a, b in zip(one, other, strict=True):
        total = total + (a.sqrt() - b.sqrt()) ** 2
    return total / 2


def penalty(maps):
    """Q of maps (S, K): the sum over i != j of (1 - H^2)^2."""
    total = maps.sum() * 0
    for i, one in enumerate(maps):
        for j, other in enumerate(maps):
            if i != j:
                total = total + (1 - squared_hellinger(one, other)) ** 2
    return total


def positions_used(probs):
    """exp of the entropy of one map, a list of numbers above zero."""
    return math.exp(-sum(p * math.log(p) for p in probs))
