"""Slow oracles of NVAN and STE-NVAN in float64: loops over frames, stripes and positions.

Letters: L frames of one clip, C channels, H W positions, S stripes.
"""

import torch
from references.non_local import residual


def attend(block, clips, stripes, window):
    """Maps (B, L, C, H, W) with the block's residual added, group by group.

    Args:
        stripes: S; 0 for all positions.
        window: frames of a group.
    """
    length, height, width = clips.shape[1], clips.shape[3], clips.shape[4]
    rows = height // stripes if stripes else 1
    groups, places = [], []
    for b in range(len(clips)):
        for start in range(0, length, window):
            tokens, of_group = [], []
            for t in range(start, start + window):
                for top in range(0, height, rows):
                    band = [(i, j) for i in range(top, top + rows) for j in range(width)]
                    for members in [band] if stripes else [[place] for place in band]:
                        vectors = [clips[b, t, :, i, j] for i, j in members]
                        tokens.append(sum(vectors[1:], vectors[0]) / len(vectors))
                        of_group.append([(b, t, i, j) for i, j in members])
            groups.append(torch.stack(tokens))
            places.append(of_group)
    added = residual(block, torch.stack(groups))
    at = {
        place: added[g, n]
        for g, of_group in enumerate(places)
        for n, members in enumerate(of_group)
        for place in members
    }
    return torch.stack(
        [
            torch.stack([frame_of(clips[b, t], at, b, t) for t in range(length)])
            for b in range(len(clips))
        ]
    )


def frame_of(maps, at, b, t):
    """(C, H, W) with what belongs to each of its positions added."""
    height, width = maps.shape[1:]
    rows = []
    for i in range(height):
        rows.append(torch.stack([maps[:, i, j] + at[b, t, i, j] for j in range(width)], dim=1))
    return torch.stack(rows, dim=1)


def pair_maximum(clips):
    """(B, L, C, H, W) → (B, L/2, C, H, W)."""
    merged = []
    for t in range(0, clips.shape[1], 2):
        merged.append(torch.maximum(clips[:, t], clips[:, t + 1]))
    return torch.stack(merged, dim=1)


def conv5_maps(model, clips, stripes, halve):
    """A clip through all stages of a network of this kind, with the model's weights.

    Args:
        stripes: S at conv3 and at conv4, 0 for all positions of all frames.
        halve: maximum over pairs of frames, twice.
    """
    encoder = model.encoder

    def each_frame(layer, maps):
        flat = layer(maps.reshape(-1, *maps.shape[2:]))
        return flat.reshape(*maps.shape[:2], *flat.shape[1:])

    maps = each_frame(encoder.conv2, each_frame(encoder.stem, clips))
    stages = (
        (encoder.conv3, model.conv3_attention, stripes and stripes[0]),
        (encoder.conv4, model.conv4_attention, stripes and stripes[1]),
    )
    for stage, blocks, bands in stages:
        for number, layer in enumerate(stage):
            maps = each_frame(layer, maps)
            place = number - (len(stage) - len(blocks))
            if place >= 0:
                window = 2 if bands and halve else maps.shape[1]
                maps = attend(blocks[place], maps, bands, window)
        if halve:
            maps = pair_maximum(maps)
    return each_frame(encoder.conv5, maps)
