"""MGH's graphs again in float64: one node, one neighbour and one number at a time."""

import torch


def length(vector):
    return (vector * vector).sum().sqrt()


def neighbours(nodes, parts, count=2, window=3):
    """Nodes (N, I) of one clip → a list of the neighbours of each."""
    nodes, chosen = nodes.detach(), []
    for i, node in enumerate(nodes):
        others = [
            (-float((node * other).sum() / (length(node) * length(other))), j)
            for j, other in enumerate(nodes)
            if j != i and abs(i // parts - j // parts) <= window
        ]
        chosen.append([j for _, j in sorted(others)[:count]])
    return chosen


def unit_rows(nodes, parts, own, others):
    """[W_s x + b_s ; W_n m + b_n] / its length, of one clip (N, I); own, others: (W, b)."""
    rows = []
    for node, chosen in zip(nodes, neighbours(nodes, parts), strict=True):
        mean = sum(nodes[j] for j in chosen) / max(len(chosen), 1) + node * 0
        both = [
            (weight * x).sum() + bias
            for (weights, biases), x in ((own, node), (others, mean))
            for weight, bias in zip(weights, biases, strict=True)
        ]
        row = torch.stack(both)
        rows.append(row / length(row))
    return torch.stack(rows)


def graph_layer(clips, parts, own, others, weight, bias, eps=1e-5):
    """Nodes (B, N, I) → (B, N, 2E), with the statistics of the batch."""
    rows = torch.cat([unit_rows(nodes, parts, own, others) for nodes in clips])
    columns = []
    for k in range(rows.shape[1]):
        column = [row[k] if row[k] > 0 else row[k] * 0 for row in rows]
        mean = sum(column) / len(column)
        variance = sum((one - mean) ** 2 for one in column) / len(column)
        normal = [(one - mean) / (variance + eps).sqrt() for one in column]
        columns.append(torch.stack(normal) * weight[k] + bias[k])
    return torch.stack(columns, dim=1).view(*clips.shape[:2], -1)
