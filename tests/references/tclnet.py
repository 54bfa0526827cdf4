"""Slow oracles of TCLNet in float64: loops over frames, rows and positions of one clip or pair.

Letters: L frames, C channels, H W positions; frames of a clip are a list of maps (C, H, W).
"""

import torch
from references.non_local import batch_norm, linear, softmax
from references.stmn import dot, length, weighted_sum


def mean_over_positions(maps):
    """(C, H, W) → (C,)."""
    vectors = [maps[:, i, j] for i in range(maps.shape[1]) for j in range(maps.shape[2])]
    return sum(vectors[1:], vectors[0]) / len(vectors)


def box_mean(maps):
    """M(i,j) = [X(i,j) + X(i-1,j) + X(i,j-1) + X(i-1,j-1)] / 4, zeros outside."""
    rows = []
    for i in range(maps.shape[1]):
        row = []
        for j in range(maps.shape[2]):
            total = maps[:, i, j]
            for above, left in ((1, 0), (0, 1), (1, 1)):
                if i >= above and j >= left:
                    total = total + maps[:, i - above, j - left]
            row.append(total / 4)
        rows.append(torch.stack(row, dim=1))
    return torch.stack(rows, dim=1)


def unit(vector):
    return vector / length(vector)


def boost_weights(frames):
    """a_t(s, k) as a list over t of dicts (s, i, j) → weight."""
    weights = []
    for t, own in enumerate(frames):
        query = unit(mean_over_positions(own))
        places, logits = [], []
        for s, other in enumerate(frames):
            if s == t:
                continue
            memory = box_mean(other)
            for i in range(other.shape[1]):
                for j in range(other.shape[2]):
                    places.append((s, i, j))
                    logits.append(5 * dot(query, unit(memory[:, i, j])))
        weights.append(dict(zip(places, softmax(logits), strict=True)))
    return weights


def boosted(module, clips):
    """TSB of clips (B, L, C, H, W): X_t + BN(W r_t + b), statistics over all B*L vectors."""
    rows = []
    for frames in clips:
        for weights in boost_weights(list(frames)):
            values = [frames[s, :, i, j] for s, i, j in weights]
            rows.append(linear(module.linear, weighted_sum(list(weights.values()), values)))
    added = torch.stack(batch_norm(module.norm, rows)).view(*clips.shape[:3], 1, 1)
    return clips + added


def erased_rows(row_means):
    """Numbers of the erased rows; row_means is a list."""
    count = len(row_means)

    def at(i):
        return row_means[i] if 0 <= i < count else 0.0

    best, middle = None, None
    for i in range(count):
        score = at(i - 1) + at(i) + at(i + 1)
        if best is None or score > best:
            best, middle = score, i
    return [i for i in (middle - 1, middle, middle + 1) if 0 <= i < count]


def enhancements(module, vectors):
    """E of a list of vectors: BN(U v + c)."""
    return batch_norm(module.norm, [linear(module.linear, vector) for vector in vectors])


def for_learner_1(module, firsts):
    """x0' of the first frames of pairs (N, C, H, W)."""
    added = enhancements(module, [mean_over_positions(maps) for maps in firsts])
    return torch.stack([x + e[:, None, None] for x, e in zip(firsts, added, strict=True)])


def for_learner_2(module, seconds, founds):
    """x1' of the second frames (N, C, H, W), and the erased rows of each."""
    kept_vectors, masked, erased = [], [], []
    for maps, found in zip(seconds, founds, strict=True):
        channels, height, width = maps.shape
        vector = mean_over_positions(found).detach()
        projected = torch.stack([dot(row, vector) for row in module.project.weight])
        f = [
            [dot(projected, maps[:, i, j]) / channels**0.5 for j in range(width)]
            for i in range(height)
        ]
        rows = erased_rows([sum(numbers).item() / width for numbers in f])
        places = [(i, j) for i in range(height) for j in range(width) if i not in rows]
        weights = softmax([f[i][j] for i, j in places])
        kept_vectors.append(weighted_sum(weights, [maps[:, i, j] for i, j in places]))
        mask = torch.ones(height, width, dtype=maps.dtype)
        for i in rows:
            mask[i] = 0
        masked.append(maps * mask)
        erased.append(rows)
    added = enhancements(module, kept_vectors)
    return torch.stack([x + e[:, None, None] for x, e in zip(masked, added, strict=True)]), erased


def features(model, clips):
    """f_1 and f_2 (B, D) of clips (B, L, 3, height, width), L even, with the model's weights."""
    encoder = model.encoder

    def each_frame(layer, maps):
        flat = layer(maps.reshape(-1, *maps.shape[2:]))
        return flat.reshape(*maps.shape[:2], *flat.shape[1:])

    maps = clips
    for layer in (encoder.stem, encoder.conv2, encoder.conv3):
        maps = each_frame(layer, maps)
    maps = each_frame(encoder.conv4, boosted(model.boosting, maps))
    firsts, seconds = [], []
    for clip in maps:
        for t in range(0, len(clip), 2):
            firsts.append(clip[t])
            seconds.append(clip[t + 1])
    found = model.learners[0](encoder.conv5(for_learner_1(model.erasing, firsts)))
    second, _ = for_learner_2(model.erasing, seconds, found)
    found_2 = model.learners[1](encoder.conv5(second))
    pairs = clips.shape[1] // 2
    pooled = []
    for norm, y in zip(model.norms, (found, found_2), strict=True):
        vectors = [torch.stack([channel.max() for channel in maps]) for maps in y]
        clip_means = [
            sum(vectors[b * pairs + 1 : (b + 1) * pairs], vectors[b * pairs]) / pairs
            for b in range(len(clips))
        ]
        pooled.append(torch.stack(batch_norm(norm, clip_means)))
    return pooled
