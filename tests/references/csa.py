"""Slow, obvious oracles of CSA, from its equations: loops over pairs, frames and channels, float64.

Letters: N snippets, L frames, D channels of a frame, d of an embedding, P probe and G gallery
snippets.
"""

import math

import torch


def softmax(numbers):
    weights = [number.exp() for number in numbers]
    total = sum(weights[1:], weights[0])
    return [weight / total for weight in weights]


def attend(values, keys, query, by='channel'):
    """One snippet (L, d) towards one query (d,) → (d,)."""
    length, dim = values.shape
    if by == 'frame':
        shares = softmax([sum(query[c] * keys[t, c] for c in range(dim)) for t in range(length)])
        weights = [[shares[t]] * dim for t in range(length)]
    else:
        columns = [softmax([query[c] * keys[t, c] for t in range(length)]) for c in range(dim)]
        weights = [[columns[c][t] for c in range(dim)] for t in range(length)]
    pooled = [sum(weights[t][c] * values[t, c] for t in range(length)) for c in range(dim)]
    return torch.stack(pooled)


def co_attend(values, keys, queries, by='channel'):
    """Gallery snippets (G, L, d) and queries of probes (P, d) → (P, G, d)."""
    rows = []
    for query in queries:
        rows.append(
            torch.stack([attend(v, k, query, by) for v, k in zip(values, keys, strict=True)])
        )
    return torch.stack(rows)


def batch_norm(rows, weight, bias, eps=1e-5):
    """Of rows (n, d) in training, channel by channel."""
    columns = []
    for c in range(rows.shape[1]):
        column = rows[:, c]
        mean = sum(column) / len(column)
        variance = sum((x - mean) ** 2 for x in column) / len(column)
        columns.append(torch.stack([(x - mean) / (variance + eps).sqrt() for x in column]))
        columns[-1] = columns[-1] * weight[c] + bias[c]
    return torch.stack(columns, dim=1)


def linear(row, weight, bias):
    return torch.stack([(w * row).sum() + b for w, b in zip(weight, bias, strict=True)])


def frame_head(raw, head, normalized=False):
    """(N, L, D) → (N, L, d) in training: linear, BN over all frames, unit length if asked."""
    count, length = raw.shape[:2]
    rows = torch.stack(
        [
            linear(raw[n, t], head.linear.weight, head.linear.bias)
            for n in range(count)
            for t in range(length)
        ]
    )
    rows = batch_norm(rows, head.norm.weight, head.norm.bias)
    if normalized:
        rows = torch.stack([row / row.square().sum().sqrt() for row in rows])
    return rows.view(count, length, -1)


def lstm(frames, parts, state='last'):
    """One snippet (L, D) → its query (d,): gates i, f, g, o, starting from zero."""
    dim = parts.weight_hh_l0.shape[1]
    hidden, cell, states = frames.new_zeros(dim), frames.new_zeros(dim), []
    for frame in frames:
        gates = linear(frame, parts.weight_ih_l0, parts.bias_ih_l0)
        gates = gates + linear(hidden, parts.weight_hh_l0, parts.bias_hh_l0)
        i, f, g, o = (gates[k * dim : (k + 1) * dim] for k in range(4))
        cell = f.sigmoid() * cell + i.sigmoid() * g.tanh()
        hidden = o.sigmoid() * cell.tanh()
        states.append(hidden)
    return states[-1] if state == 'last' else sum(states[1:], states[0]) / len(states)


def pair_logits(probe, gallery, matcher):
    """e(p) (P, d) and e(g|p) (P, G, d) → z (P, G, 2), BN in training."""
    delta = [
        (probe[p] - gallery[p, g]) ** 2 for p in range(len(probe)) for g in range(len(gallery[0]))
    ]
    rows = batch_norm(torch.stack(delta), matcher.norm.weight, matcher.norm.bias)
    logits = [linear(row, matcher.linear.weight, matcher.linear.bias) for row in rows]
    return torch.stack(logits).view(len(probe), -1, 2)


def verification(logits, same, negative_weight=3.0):
    """Weighted sum of binary cross-entropies of P(same), z (P, G, 2)."""
    positives = sum(bool(x) for row in same for x in row)
    negatives = same.numel() - positives
    terms, weights = [], []
    for p in range(len(logits)):
        for g in range(len(logits[0])):
            different, alike = softmax(list(logits[p, g]))
            terms.append(-(alike.log() if same[p, g] else different.log()))
            weights.append(1.0 if same[p, g] else negative_weight * positives / negatives)
    total = sum(weights)
    return sum(w / total / 10 * term for w, term in zip(weights, terms, strict=True))


def oim(features, pids, table, scale=30.0):
    """Mean cross-entropy of scaled inner products."""
    loss = 0
    for feature, pid in zip(features, pids, strict=True):
        probs = softmax([scale * (feature * row).sum() for row in table])
        loss = loss - probs[int(pid)].log() / len(features)
    return loss


def moved_table(table, features, pids, momentum=0.5):
    """One sample after another."""
    rows = [row.clone() for row in table]
    for feature, pid in zip(features, pids, strict=True):
        row = momentum * rows[int(pid)] + (1 - momentum) * feature
        rows[int(pid)] = row / row.square().sum().sqrt()
    return torch.stack(rows)


def aggregate(matrix, percentile=20.0):
    """Numbers → the mean of those at or below a percentile, which is interpolated."""
    numbers = sorted(float(x) for row in matrix for x in row)
    place = percentile / 100 * (len(numbers) - 1)
    low = math.floor(place)
    high = min(low + 1, len(numbers) - 1)
    limit = numbers[low] + (place - low) * (numbers[high] - numbers[low])
    kept = [x for x in numbers if x <= limit]
    return sum(kept) / len(kept)


def released_snippets(num_frames, length, stride):
    """Frames of the snippets that the released code cuts a tracklet into."""
    starts = [start for start in range(0, num_frames, stride) if start < num_frames - length]
    return [[min(start + t, num_frames - 1) for t in range(length)] for start in (starts or [0])]
