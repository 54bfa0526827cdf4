"""MGH's graphs and its feature again in float64: one node, one neighbour and one number at a time.

Letters: B clips, L frames, p parts of a frame, N = L*p nodes, I and 2E numbers of a node, D
channels, G graphs.
"""

import torch
from references.non_local import batch_norm, linear
from references.stmn import length


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


def relu(vector):
    return torch.stack([number if number > 0 else number * 0 for number in vector])


def graph_layer(layer, clips, parts, count=2, window=3):
    """BN(ReLU([W_s x + b_s ; W_n m + b_n] / its length)): (B, N, I) → (B, N, 2E)."""
    rows = []
    for nodes in clips:
        for node, chosen in zip(nodes, neighbours(nodes, parts, count, window), strict=True):
            mean = sum(nodes[j] for j in chosen) / max(len(chosen), 1) + node * 0
            row = torch.cat([linear(layer.own, node), linear(layer.others, mean)])
            rows.append(relu(row / length(row)))
    return torch.stack(batch_norm(layer.bn, rows)).view(*clips.shape[:2], -1)


def mean(vectors):
    vectors = list(vectors)
    return sum(vectors[1:], vectors[0]) / len(vectors)


def features(model, bands):
    """Means of the finest bands (B, L, n, D) → f (B, D + G*2E), before the BNNeck."""
    rows = []
    for clip in bands:
        row = mean(band for frame in clip for band in frame)
        rows.append(relu(row / length(row)))
    columns = [torch.stack(batch_norm(model.bn_global, rows))]
    for graph in model.graphs:
        size = bands.shape[2] // graph.parts  # bands of a part
        nodes = torch.stack([
            torch.stack([
                mean(frame[part * size : (part + 1) * size])
                for frame in clip
                for part in range(graph.parts)
            ])
            for clip in bands
        ])  # fmt: skip
        for layer in graph.layers:
            config = model.config
            nodes = graph_layer(layer, nodes, graph.parts, config.neighbours, config.window)
        columns.append(torch.stack([mean(clip) for clip in nodes]))
    return torch.cat(columns, dim=1)
