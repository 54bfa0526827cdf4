"""EUG's network and procedure, written again in plain loops from the equations."""

import math

import torch


def mean_over_frames(vectors):
    """(B, L, D) → (B, D)."""
    rows = []
    for clip in vectors:
        total = torch.zeros_like(clip[0])
        for frame in clip:
            total = total + frame
        rows.append(total / len(clip))
    return torch.stack(rows)


def head_logits(feature, weights, eps=1e-5):
    """(B, D) → (B, C) in training without dropout: linear, BN by the batch, ReLU, linear.

    Args:
        feature: (B, D).
        weights: name → tensor, of the head.
    """
    embedded = []
    for row in feature:
        embedded.append(
            [
                sum(row[d] * w[d] for d in range(len(row))) + b
                for w, b in zip(weights['embedding.weight'], weights['embedding.bias'], strict=True)
            ]
        )
    count = len(embedded)
    for j in range(len(embedded[0])):
        mean = sum(row[j] for row in embedded) / count
        variance = sum((row[j] - mean) ** 2 for row in embedded) / count
        for row in embedded:
            value = (row[j] - mean) / torch.sqrt(variance + eps)
            value = value * weights['norm.weight'][j] + weights['norm.bias'][j]
            row[j] = value if value > 0 else value * 0
    return torch.stack(
        [
            torch.stack(
                [
                    sum(row[j] * w[j] for j in range(len(row))) + b
                    for w, b in zip(
                        weights['classifier.weight'], weights['classifier.bias'], strict=True
                    )
                ]
            )
            for row in embedded
        ]
    )


def sizes_trained_on(num_labelled, num_unlabelled, factor):
    """How many tracklets each training has, counted one by one in hundredths of a tracklet."""
    sizes, percent = [], 0
    while percent <= 100:
        chosen = sum(100 * (u + 1) <= num_unlabelled * percent for u in range(num_unlabelled))
        sizes.append(num_labelled + chosen)
        percent += factor
    return sizes


def nearest(unlabelled, labelled, identities):
    """Lists of vectors → labels and scores."""
    labels, scores = [], []
    for one in map(unit, unlabelled):
        best, label = math.inf, None
        for other, identity in zip(map(unit, labelled), identities, strict=True):
            distance = math.sqrt(sum((a - b) ** 2 for a, b in zip(one, other, strict=True)))
            if distance < best:
                best, label = distance, identity
        labels.append(label)
        scores.append(-best)
    return labels, scores


def unit(vector):
    length = math.sqrt(sum(x * x for x in vector))
    return [x / length for x in vector]


def best_places(scores, count):
    """Places of the largest scores, one after the other; of equal ones the first."""
    left, places = list(range(len(scores))), []
    for _ in range(count):
        best = left[0]
        for place in left:
            if scores[place] > scores[best]:
                best = place
        left.remove(best)
        places.append(best)
    return places
