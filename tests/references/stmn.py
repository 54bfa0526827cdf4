"""Slow, obvious oracles, written from the paper and DATASETS.md, for the tests alone.

Every function takes float64 tensors (or plain numbers), loops over frames, positions, channels and
items, and shares no code with the package. Torch is there so that gradients can be compared too.

Letters: B clips, L frames, T = B*L frames of a batch, D channels, H W positions, K = H*W,
M or N memory items, P memory accesses, Q queries, G gallery tracklets.
"""

import itertools
import math

import torch


def relative_error(actual, expected):
    """Largest difference over the largest magnitude of what is expected; 0/0 is 0."""
    assert actual.shape == expected.shape, (actual.shape, expected.shape)
    difference = (actual.double() - expected.double()).abs().max().item()
    size = expected.double().abs().max().item()
    return difference / size if size else difference


def dot(a, b):
    """Inner product of two vectors."""
    return (a * b).sum()


def length(a):
    """Euclidean length of a vector."""
    return dot(a, a).sqrt()


def scaled_cosine_softmax(query, keys, scale):
    """Eq. 1 and Eq. 5 for one query (D,): a list of M probabilities."""
    weights = []
    for key in keys:
        cosine = dot(query, key) / (length(query) * length(key))
        weights.append((scale * cosine).exp())
    total = sum(weights[1:], weights[0])
    return [weight / total for weight in weights]


def weighted_sum(weights, rows):
    """Eq. 2, Eq. 6 and the sum of Eq. 7: sum_n weights[n] * rows[n]."""
    total = weights[0] * rows[0]
    for n in range(1, len(weights)):
        total = total + weights[n] * rows[n]
    return total


def batch_norm_training(columns, weight, bias, eps=1e-5):
    """BN of Eq. 3 in training, for one channel: a list of numbers in, a list of numbers out.

    Returns also the mean and the unbiased variance, which go into the running statistics.
    """
    count = len(columns)
    mean = sum(columns[1:], columns[0]) / count
    squares = [(x - mean) ** 2 for x in columns]
    total = sum(squares[1:], squares[0])
    biased = total / count
    out = [weight * (x - mean) / (biased + eps).sqrt() + bias for x in columns]
    return out, mean, total / (count - 1)


def batch_norm_eval(columns, weight, bias, mean, var, eps=1e-5):
    """BN of Eq. 3 with its running statistics, for one channel."""
    return [weight * (x - mean) / (var + eps).sqrt() + bias for x in columns]


def running_update(running, observed, momentum=0.1):
    """What one training step does to a running statistic."""
    return (1 - momentum) * running + momentum * observed


def spatial_memory(frame_features, queries, keys, values, bn, scale, training):
    """Eq. 1-3 at every position of every frame.

    Args:
        frame_features, queries: (T, D, H, W); keys, values: (M, D).
        bn: dict with weight, bias, mean and var, each (D,), and eps.

    Returns:
        dict: probs (T*H*W, M), read (T, D, H, W) = o^s, refined (T, D, H, W) = f^s,
        pooled (T, D) = GAP(f^s), and the running mean and var (D,) after the step.
    """
    t_count, d_count, h_count, w_count = frame_features.shape
    places = [
        (t, h, w) for t in range(t_count) for h in range(h_count) for w in range(w_count)
    ]  # frame-major, then rows of the map
    probs, read = [], []
    for t, h, w in places:
        query = torch.stack([queries[t, d, h, w] for d in range(d_count)])
        row = scaled_cosine_softmax(query, keys, scale)
        probs.append(torch.stack(row))
        read.append(weighted_sum(row, values))

    normalised, means, variances = [], [], []
    for d in range(d_count):
        column = [vector[d] for vector in read]
        weight, bias, eps = bn['weight'][d], bn['bias'][d], bn['eps']
        if training:
            out, mean, var = batch_norm_training(column, weight, bias, eps)
            means.append(running_update(bn['mean'][d], mean.detach()))
            variances.append(running_update(bn['var'][d], var.detach()))
        else:
            out = batch_norm_eval(column, weight, bias, bn['mean'][d], bn['var'][d], eps)
            means.append(bn['mean'][d])
            variances.append(bn['var'][d])
        normalised.append(out)

    def maps(numbers):  # numbers[place][d] -> (T, D, H, W)
        at = dict(zip(places, numbers, strict=True))
        return torch.stack(
            [
                torch.stack(
                    [
                        torch.stack(
                            [
                                torch.stack([at[t, h, w][d] for w in range(w_count)])
                                for h in range(h_count)
                            ]
                        )
                        for d in range(d_count)
                    ]
                )
                for t in range(t_count)
            ]
        )

    refined = maps(
        [
            [frame_features[t, d, h, w] - normalised[d][p] for d in range(d_count)]
            for p, (t, h, w) in enumerate(places)
        ]
    )
    return {
        'probs': torch.stack(probs),
        'read': maps(read),
        'refined': refined,
        'pooled': gap(refined),
        'running_mean': torch.stack(means),
        'running_var': torch.stack(variances),
    }


def gap(maps):
    """Global average pooling (T, D, H, W) -> (T, D), by adding up the positions."""
    t_count, d_count, h_count, w_count = maps.shape
    rows = []
    for t in range(t_count):
        row = []
        for d in range(d_count):
            total = maps[t, d, 0, 0] * 0
            for h in range(h_count):
                for w in range(w_count):
                    total = total + maps[t, d, h, w]
            row.append(total / (h_count * w_count))
        rows.append(torch.stack(row))
    return torch.stack(rows)


def lstm_last_hidden(sequence, weight_ih, weight_hh, bias_ih, bias_hh):
    """Eq. 4 for one clip: the hidden state (D,) after the last of L steps of a one-layer LSTM.

    The gates lie in the rows of the weights in the order input, forget, candidate, output.
    """
    size = weight_hh.shape[1]
    hidden = [sequence[0][0] * 0 for _ in range(size)]
    cell = [sequence[0][0] * 0 for _ in range(size)]
    for x in sequence:
        before = torch.stack(hidden)
        next_hidden, next_cell = [], []
        for j in range(size):
            gates = []
            for gate in range(4):
                r = gate * size + j
                gates.append(
                    dot(weight_ih[r], x) + bias_ih[r] + dot(weight_hh[r], before) + bias_hh[r]
                )
            enter = 1 / (1 + (-gates[0]).exp())
            forget = 1 / (1 + (-gates[1]).exp())
            candidate = tanh(gates[2])
            leave = 1 / (1 + (-gates[3]).exp())
            c = forget * cell[j] + enter * candidate
            next_cell.append(c)
            next_hidden.append(leave * tanh(c))
        hidden, cell = next_hidden, next_cell
    return torch.stack(hidden)


def tanh(x):
    """Hyperbolic tangent from exponentials."""
    return (x.exp() - (-x).exp()) / (x.exp() + (-x).exp())


def softmax(numbers):
    """Softmax of a list of scalars."""
    exponentials = [x.exp() for x in numbers]
    total = sum(exponentials[1:], exponentials[0])
    return [x / total for x in exponentials]


def temporal_memory(clip_queries, frame_vectors, keys, values, lstm, scale, attention_scale=1):
    """Eq. 4-7 for every clip; the paper has no ``attention_scale``.

    Args:
        clip_queries, frame_vectors: (B, L, D); keys (N, D); values (N, L).
        lstm: (weight_ih, weight_hh, bias_ih, bias_hh).

    Returns:
        dict: probs (B, N), attention (B, L) = o-hat^t, output (B, D) = f^t.
    """
    probs, attentions, outputs = [], [], []
    for queries, vectors in zip(clip_queries, frame_vectors, strict=True):
        context = lstm_last_hidden(list(queries), *lstm)
        row = scaled_cosine_softmax(context, keys, scale)
        read = weighted_sum(row, values)
        attention = softmax([attention_scale * number for number in read])
        probs.append(torch.stack(row))
        attentions.append(torch.stack(attention))
        outputs.append(weighted_sum(attention, vectors))
    return {
        'probs': torch.stack(probs),
        'attention': torch.stack(attentions),
        'output': torch.stack(outputs),
    }


def temporal_mlp(clip_queries, frame_vectors, first, second, lstm):
    """The MLP of Sec. 4.2 in the memory's place: first (hidden, D), second (L, hidden)."""
    attentions, outputs = [], []
    for queries, vectors in zip(clip_queries, frame_vectors, strict=True):
        context = lstm_last_hidden(list(queries), *lstm)
        hidden = [dot(row, context) for row in first]
        hidden = torch.stack([x if x > 0 else x * 0 for x in hidden])
        attention = softmax([dot(row, hidden) for row in second])
        attentions.append(torch.stack(attention))
        outputs.append(weighted_sum(attention, vectors))
    return {'attention': torch.stack(attentions), 'output': torch.stack(outputs)}


def temporal_average(frame_vectors):
    """The baseline's temporal average pooling: (B, L, D) -> (B, D)."""
    return torch.stack(
        [sum(list(vectors)[1:], vectors[0]) / len(vectors) for vectors in frame_vectors]
    )


def memory_spread(probs, margin, reduction='sum'):
    """Eq. 9 of one memory, probs (P, M): sum (or mean) over the items."""
    total = probs[0, 0] * 0
    for n in range(probs.shape[1]):
        smallest = largest = probs[0, n]
        for p in range(1, probs.shape[0]):
            if probs[p, n] < smallest:
                smallest = probs[p, n]
            if probs[p, n] > largest:
                largest = probs[p, n]
        term = smallest - largest + margin
        if term > 0:
            total = total + term
    return total if reduction == 'sum' else total / probs.shape[1]


def cross_entropy(logits, labels, smoothing=0.0):
    """Mean over the batch of -sum_c target_c log p_c."""
    total = logits[0, 0] * 0
    for row, label in zip(logits, labels, strict=True):
        probs = softmax(list(row))
        for c, p in enumerate(probs):
            target = smoothing / len(probs) + (1 - smoothing) * (c == int(label))
            total = total - target * p.log()
    return total / len(logits)


def batch_hard_triplet(features, pids, margin=None):
    """Batch-hard triplet, Euclidean: soft margin for ``None``, else the hinge. Mean of anchors.

    An anchor is its own positive at distance 0, which matters only when it has no other.
    """
    zero = features[0, 0] * 0
    total = zero
    for i in range(len(pids)):
        farthest, nearest = zero, None
        for j in range(len(pids)):
            if i == j:
                continue
            distance = length(features[i] - features[j])
            if pids[i] == pids[j]:
                if distance > farthest:
                    farthest = distance
            elif nearest is None or distance < nearest:
                nearest = distance
        difference = farthest - nearest
        if margin is None:
            total = total + (1 + difference.exp()).log()
        elif difference + margin > 0:
            total = total + difference + margin
    return total / len(pids)


def bnneck_training(features, weight, eps=1e-5):
    """BNNeck without a bias over the batch (B, D), in training."""
    columns = []
    for d in range(features.shape[1]):
        column = [features[b, d] for b in range(features.shape[0])]
        columns.append(torch.stack(batch_norm_training(column, weight[d], 0.0, eps)[0]))
    return torch.stack(columns, dim=1)


def bnneck_eval(features, weight, mean, var, eps=1e-5):
    """BNNeck without a bias and with running statistics, (B, D)."""
    rows = []
    for row in features:
        out = [
            batch_norm_eval([row[d]], weight[d], 0.0, mean[d], var[d], eps)[0]
            for d in range(len(row))
        ]
        rows.append(torch.stack(out))
    return torch.stack(rows)


def linear(features, weight):
    """Bias-free classifier (B, D) x (C, D) -> (B, C)."""
    return torch.stack([torch.stack([dot(row, w) for w in weight]) for row in features])


def residual_block(x, block, last_relu):
    """A torchvision residual block from its weights; the last ReLU is optional.

    Running statistics are not touched in training mode.
    """

    def normalise(y, bn):
        shape = (1, -1, 1, 1)
        mean, var = bn.running_mean, bn.running_var
        if bn.training:
            mean = y.mean(dim=(0, 2, 3))
            var = (y - mean.view(shape)).square().mean(dim=(0, 2, 3))
        y = (y - mean.view(shape)) / (var.view(shape) + bn.eps).sqrt()
        return y * bn.weight.view(shape) + bn.bias.view(shape)

    def convolve(y, conv):
        return torch.nn.functional.conv2d(y, conv.weight, None, conv.stride, conv.padding)

    pairs = [(block.conv1, block.bn1), (block.conv2, block.bn2)]
    if hasattr(block, 'conv3'):
        pairs.append((block.conv3, block.bn3))
    y = x
    for i, (conv, bn) in enumerate(pairs):
        y = normalise(convolve(y, conv), bn)
        if i < len(pairs) - 1:
            y = torch.where(y > 0, y, torch.zeros_like(y))
    shortcut = x
    if block.downsample is not None:
        shortcut = normalise(convolve(x, block.downsample[0]), block.downsample[1])
    y = y + shortcut
    return torch.where(y > 0, y, torch.zeros_like(y)) if last_relu else y


def query_map(encoder, head, frames):
    """conv5 of a head on the trunk's map, without the very last ReLU: (T, D, H, W)."""
    maps = encoder.trunk(frames)
    *blocks, last = head
    for block in blocks:
        maps = residual_block(maps, block, last_relu=True)
    return residual_block(maps, last, last_relu=False)


def rrs_chunks(num_frames, seq_len, chunks='balanced'):
    """The frames each of the L chunks may draw, a list of L lists (DATASETS.md)."""
    if chunks == 'balanced':
        result = []
        for i in range(seq_len):
            first = math.floor(i * num_frames / seq_len)
            last = math.floor((i + 1) * num_frames / seq_len)
            result.append(list(range(first, last)) or [first])
        return result
    size = math.ceil(num_frames / seq_len)
    strip = list(range(num_frames))
    while len(strip) < size * seq_len:
        strip.append(num_frames - 1)
    return [strip[i * size : (i + 1) * size] for i in range(seq_len)]


def rrs_test(num_frames, seq_len, chunks='balanced'):
    """The first frame of each chunk."""
    return [chunk[0] for chunk in rrs_chunks(num_frames, seq_len, chunks)]


def windows(num_frames, seq_len):
    """Every clip of consecutive frames, from the first start on; a short tracklet is played again.

    As in the sheets of MGH and COSAM, with the last start, which their codes leave out.
    """
    if num_frames < seq_len:
        played = list(range(num_frames))
        while len(played) < seq_len:
            played.append(played[-num_frames])
        return [played]
    strip = list(range(num_frames))
    return [strip[start : start + seq_len] for start in strip if start + seq_len <= num_frames]


def every_8th(num_frames, seq_len):
    """Every clip of the sheet of TCLNet for training: spread over 8L - 7 adjacent frames.

    Empty for a tracklet of fewer than 8L frames, of which frames are drawn.
    """
    strip = list(range(num_frames))
    spread = [strip[start:][: 8 * seq_len - 7] for start in strip]
    whole = [frames for frames in spread if len(frames) == 8 * seq_len - 7]
    return [frames[::8] for frames in whole] if num_frames >= 8 * seq_len else []


def every_8th_test(num_frames, seq_len):
    """The clip of the sheet of TCLNet for its tests during training, from the first frame on."""
    for step in (8, 4, 2, 1):
        clip = list(range(num_frames))[::step][:seq_len]
        if len(clip) == seq_len:
            return clip
    return windows(num_frames, seq_len)[0]


def evenly(num_frames, seq_len):
    """The host's 'evenly': a constant step, the remainder dropped, short tracklets padded."""
    if num_frames < seq_len:
        return [min(i, num_frames - 1) for i in range(seq_len)]
    step = (num_frames - num_frames % seq_len) // seq_len
    return [i * step for i in range(seq_len)]


def stable_order(distances):
    """Gallery positions by distance; equal distances keep their order (insertion sort)."""
    order = []
    for g, distance in enumerate(distances):
        at = len(order)
        while at > 0 and distances[order[at - 1]] > distance:
            at -= 1
        order.insert(at, g)
    return order


def official_average_precision(is_junk, is_good):
    """compute_AP.m of the MARS release, line by line, over a ranked list of flags."""
    good_total = sum(is_good)
    old_recall, old_precision, ap = 0.0, 1.0, 0.0
    intersect_size = j = good_now = 0
    for junk, good in zip(is_junk, is_good, strict=True):
        if junk:
            continue
        if good:
            good_now += 1
            intersect_size += 1
        recall = intersect_size / good_total
        precision = intersect_size / (j + 1)
        ap += (recall - old_recall) * ((old_precision + precision) / 2)
        old_recall, old_precision = recall, precision
        j += 1
        if good_now == good_total:
            break
    return ap


def rank_queries(
    distances, query_pids, gallery_pids, query_camids, gallery_camids, average_precision
):
    """CMC (a list as long as the gallery), mAP, mINP and the number of queries with a match.

    Gallery pid -1 is junk; the same pid under the same camera is removed; queries without a match
    are left out. With no query left the result is ``None``.
    """
    num_gallery = len(gallery_pids)
    cmc = [0.0] * num_gallery
    sum_ap = sum_inp = 0.0
    num_valid = 0
    for q, row in enumerate(distances):
        junk, good = [], []
        for g in stable_order(list(row)):
            same = gallery_pids[g] == query_pids[q]
            same_camera = gallery_camids[g] == query_camids[q]
            junk.append(bool(gallery_pids[g] == -1 or (same and same_camera)))
            good.append(bool(same and not same_camera and gallery_pids[g] != -1))
        if not any(good):
            continue
        num_valid += 1
        kept = [flag for flag, dropped in zip(good, junk, strict=True) if not dropped]
        ranks = [r for r, flag in enumerate(kept, start=1) if flag]
        for r in range(ranks[0], num_gallery + 1):
            cmc[r - 1] += 1
        if average_precision == 'trapezoid':
            sum_ap += official_average_precision(junk, good)
        else:
            sum_ap += sum((i + 1) / rank for i, rank in enumerate(ranks)) / len(ranks)
        sum_inp += len(ranks) / ranks[-1]
    if num_valid == 0:
        return None
    return [c / num_valid for c in cmc], sum_ap / num_valid, sum_inp / num_valid, num_valid


def flipped(clip):
    """The mirrored clip (L, 3, H, W)."""
    out = clip.clone()
    for place in pixels(clip):
        frame, channel, y, x = place
        out[place] = clip[frame, channel, y, clip.shape[3] - 1 - x]
    return out


def shifted(clip, top, left):
    """Enlarged by an eighth with bilinear interpolation, cut out at (top, left); whole grey levels.

    Centres of pixels lie at halves, and beyond the border the last pixel goes on.
    """
    height, width = clip.shape[2:]
    tall, wide = round(height * 1.125), round(width * 1.125)
    out = clip.clone()
    for place in pixels(clip):
        frame, channel, y, x = place
        row = min(max((y + top + 0.5) * height / tall - 0.5, 0), height - 1)
        column = min(max((x + left + 0.5) * width / wide - 0.5, 0), width - 1)
        value = 0.0
        for r in (math.floor(row), math.floor(row) + 1):
            for c in (math.floor(column), math.floor(column) + 1):
                weight = (1 - abs(row - r)) * (1 - abs(column - c))
                value += weight * clip[frame, channel, min(r, height - 1), min(c, width - 1)].item()
        out[place] = round(value)
    return out


def recoloured(clip, brightness, contrast):
    """Brightness, then contrast around the mean luma of the frame; fractions are cut off."""
    bright = clip.clone()
    for place in pixels(clip):
        bright[place] = int(min(clip[place].item() * brightness, 255))
    out = bright.clone()
    for index, frame in enumerate(bright.double()):
        red, green, blue = (channel.flatten().tolist() for channel in frame)
        lumas = [
            int(0.2989 * r + 0.587 * g + 0.114 * b)
            for r, g, b in zip(red, green, blue, strict=True)
        ]
        mean = sum(lumas) / len(lumas)
        for place in pixels(frame):
            value = contrast * frame[place].item() + (1 - contrast) * mean
            out[(index, *place)] = int(min(max(value, 0), 255))
    return out


def erased(clip, boxes, fill):
    """Each frame's box (top, left, height, width) in the colour of three grey levels."""
    out = clip.clone()
    for place in pixels(clip):
        frame, channel, y, x = place
        top, left, height, width = boxes[frame]
        if top <= y < top + height and left <= x < left + width:
            out[place] = fill[channel]
    return out


def pixels(images):
    """Every index of a tensor, as a tuple."""
    return itertools.product(*map(range, images.shape))
