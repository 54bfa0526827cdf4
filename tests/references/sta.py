"""Slow, obvious oracles of STA, written from its equations: loops, float64, no code of the package.

Letters: B clips, L frames, D channels, H W positions, P parts. Torch is there for gradients.
"""

import torch


def total(numbers):
    """The sum of a list of scalars."""
    out = numbers[0]
    for number in numbers[1:]:
        out = out + number
    return out


def spread_of_frame(frame, kind='energy'):
    """g of one map (D, H, W), (H, W): energy over its sum, or its root over their norm."""
    d_count, h_count, w_count = frame.shape
    energy = [
        [total([frame[d, h, w] ** 2 for d in range(d_count)]) for w in range(w_count)]
        for h in range(h_count)
    ]
    everything = total([energy[h][w] for h in range(h_count) for w in range(w_count)])
    rows = []
    for row in energy:
        shares = [e / everything for e in row]
        if kind == 'norm':
            # sqrt(e) over the root of sum sqrt(e)^2 = sum e
            shares = [share.sqrt() for share in shares]
        rows.append(torch.stack(shares))
    return torch.stack(rows)


def band_of(h, height, parts):
    """The part of a row of equal bands."""
    return h // (height // parts)


def clip_feature(maps, parts, kind='energy'):
    """Maps of a clip (L, D, H, W) -> S (L, P), u (2*D,)."""
    l_count, d_count, h_count, w_count = maps.shape
    places = [
        [(h, w) for h in range(h_count) for w in range(w_count) if band_of(h, h_count, parts) == k]
        for k in range(parts)
    ]
    shares = []
    for n in range(l_count):
        g = spread_of_frame(maps[n], kind)
        shares.append([total([g[h, w] for h, w in places[k]]) for k in range(parts)])
    scores = [
        [shares[n][k] / total([shares[m][k] for m in range(l_count)]) for k in range(parts)]
        for n in range(l_count)
    ]
    means = [
        [
            [total([maps[n, d, h, w] for h, w in places[k]]) / len(places[k]) for k in range(parts)]
            for d in range(d_count)
        ]
        for n in range(l_count)
    ]
    best, summed = [], []
    for d in range(d_count):
        chosen, weighted = [], []
        for k in range(parts):
            winner = 0
            for n in range(1, l_count):
                if scores[n][k] > scores[winner][k]:
                    winner = n
            chosen.append(means[winner][d][k])
            weighted.append(total([scores[n][k] * means[n][d][k] for n in range(l_count)]))
        best.append(total(chosen) / parts)
        summed.append(total(weighted) / parts)
    return torch.stack([torch.stack(row) for row in scores]), torch.stack(best + summed)


def map_distance(one, other):
    """Reg of two g (H, W)."""
    h_count, w_count = one.shape
    squares = [(one[h, w] - other[h, w]) ** 2 for h in range(h_count) for w in range(w_count)]
    return (total(squares) + 1e-12).sqrt()


def head(fused, weight, norm, training):
    """u (B, 2*D) -> FC without bias, BN, ReLU, (B, E)."""
    b_count, e_count = fused.shape[0], weight.shape[0]
    hidden = [[(weight[e] * fused[b]).sum() for b in range(b_count)] for e in range(e_count)]
    columns = []
    for e in range(e_count):
        mean, var = norm.running_mean[e], norm.running_var[e]
        if training:
            mean = total(hidden[e]) / b_count
            var = total([(x - mean) ** 2 for x in hidden[e]]) / b_count
        out = [
            norm.weight[e] * (x - mean) / (var + norm.eps).sqrt() + norm.bias[e] for x in hidden[e]
        ]
        columns.append(torch.stack([x if x > 0 else 0 * x for x in out]))
    return torch.stack(columns, dim=1)
