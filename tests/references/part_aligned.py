"""Slow, obvious oracles of Part-Aligned in float64; nothing is shared with the package.

Letters: K positions, Ca and Cp channels of appearance and parts, d numbers of a sketch.
"""

import torch

from .stmn import dot, length


def products(appearance, parts):
    """a (Ca, K), p (Cp, K) → M (Ca, Cp)."""
    rows = []
    for i in range(len(appearance)):
        row = []
        for j in range(len(parts)):
            total = appearance[i, 0] * parts[j, 0]
            for k in range(1, appearance.shape[1]):
                total = total + appearance[i, k] * parts[j, k]
            row.append(total)
        rows.append(torch.stack(row))
    return torch.stack(rows)


def sketch(matrix, h1, s1, h2, s2, dim):
    """M (Ca, Cp) → c (d,), entry by entry."""
    numbers = [matrix[0, 0] * 0 for _ in range(dim)]
    for i in range(len(matrix)):
        for j in range(matrix.shape[1]):
            place = (int(h1[i]) + int(h2[j])) % dim
            numbers[place] = numbers[place] + int(s1[i]) * int(s2[j]) * matrix[i, j]
    return torch.stack(numbers)


def sketch_by_fourier(appearance, parts, h1, s1, h2, s2, dim):
    """a (Ca, K), p (Cp, K) → c (d,): circular convolutions of sketches, summed over positions."""

    def own_sketch(vector, places, signs):
        bins = torch.zeros(dim, dtype=torch.float64)
        for number, place, sign in zip(vector, places, signs, strict=True):
            bins[int(place)] += int(sign) * number
        return torch.fft.fft(bins)

    total = torch.zeros(dim, dtype=torch.complex128)
    for k in range(appearance.shape[1]):
        total += own_sketch(appearance[:, k], h1, s1) * own_sketch(parts[:, k], h2, s2)
    return torch.fft.ifft(total).real


def clip_feature(sketches):
    """c of the frames of a clip (L, d) → F (d,), the mean of c / |c|."""
    total = sketches[0] / length(sketches[0])
    for row in sketches[1:]:
        total = total + row / length(row)
    return total / len(sketches)


def all_triplets(features, pids, margin):
    """Squared distances, the mean of the triplets above 0; 0 if there is none."""
    total, active = features[0, 0] * 0, 0
    for a in range(len(pids)):
        for p in range(len(pids)):
            for n in range(len(pids)):
                if p == a or pids[p] != pids[a] or pids[n] == pids[a]:
                    continue
                near, far = features[a] - features[p], features[a] - features[n]
                value = dot(near, near) - dot(far, far) + margin
                if value > 0:
                    total, active = total + value, active + 1
    return total / active if active else total
