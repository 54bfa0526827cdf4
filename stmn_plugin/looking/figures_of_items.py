"""One run or two, looked at → what their memories hold: Figures 5, 6 and 9 of the paper.

Each function takes the subject, the one it is compared with (or None) and the options.
"""

import numpy as np
from scipy.special import softmax

from .figure_parts import CaptionedFigure, models_and_data, shown_items, strip_of, thumbnail_of
from .figures import item_frames, item_strips, probability_maps
from .gathering import highest
from .subject import has_memory

TOP_FRAMES = 5
TOP_CLIPS = 3


def figure_5(subject, against, options):
    """Matching probabilities of both memories, of random places and clips of the gallery."""
    subjects = [subject] if against is None else [against, subject]
    subjects = [s for s in subjects if has_memory(s)]
    probes, places = subject.choice.probes, subject.choice.places
    maps = []
    for run in subjects:
        views = [run.gathered.kept[row] for row in probes]
        spatial = temporal = None
        if views[0].spatial_probs is not None:
            spatial = np.stack([at_place(v, p) for v, p in zip(views, places, strict=True)])
        if views[0].temporal_probs is not None:
            temporal = np.stack([view.temporal_probs for view in views])
        maps.append(probability_maps.ProbabilityMaps(_spread_in_words(run), spatial, temporal))
    caption = (
        f'Figure 5. Matching probabilities of {len(probes)} queries (rows) with the items of each '
        'memory (columns): spatial queries of random positions in random frames of the gallery, '
        'temporal queries of the clips that those lie in; drawn with seed '
        f'{options.seed}. {models_and_data(*subjects)}'
    )
    return CaptionedFigure(probability_maps.draw(maps, caption), caption)


def figure_6(subject, against, options):
    """The frames that address each spatial item most, from different tracklets."""
    spatial = subject.gathered.spatial
    items = []
    for item in shown_items(spatial.best_probs.shape[1], options):
        frames = []
        best = spatial.best_probs[:, item]  # (T,)
        for row in highest(best, TOP_FRAMES, np.arange(len(best))):
            frame, *place = spatial.best_places[row, item].tolist()
            pixels = thumbnail_of(subject, row, frame)
            frames.append(item_frames.TopFrame(pixels, tuple(place), float(best[row])))
        items.append((item + 1, frames))
    caption = (
        f'Figure 6. For each spatial item the {len(items[0][1])} frames that address it most, from '
        'different tracklets, with the matching probability; the box marks the position of the '
        f'{subject.grid[0]} x {subject.grid[1]} feature map, which sees more of the frame than the '
        f'box. {models_and_data(subject)}'
    )
    return CaptionedFigure(item_frames.draw(items, subject.grid, caption), caption)


def figure_9(subject, against, options):
    """The clips that address each temporal item most, and the attention that the item stores."""
    gathered, probs = subject.gathered, subject.gathered.temporal_probs
    stored = softmax(subject.engine.model.temporal_memory.values.detach().cpu().numpy(), axis=1)
    items = []
    for item in shown_items(len(stored), options):
        strips = []
        for clip in highest(probs[:, item], TOP_CLIPS, gathered.clip_tracklets):
            frames = gathered.clip_frames[clip]
            pictures = strip_of(subject, gathered.clip_tracklets[clip], frames)
            strips.append((pictures, float(probs[clip, item])))
        items.append(item_strips.Item(item + 1, stored[item], strips))
    caption = (
        f'Figure 9. For each temporal item the {len(items[0].strips)} clips that address it most, '
        'of different tracklets, with the matching probability, above the attention that the item '
        f'stores, softmax(v_n); dashed: average pooling, 1/{stored.shape[1]}. '
        f'{models_and_data(subject)}'
    )
    return CaptionedFigure(item_strips.draw(items, caption), caption)


def at_place(view, place):
    """Spatial probabilities (M,) of a place in 0..1 of the frames, rows and columns of a clip."""
    shape = view.spatial_probs.shape[:-1]
    return view.spatial_probs[tuple(int(p * size) for p, size in zip(place, shape, strict=True))]


def _spread_in_words(subject):
    kind = 'with' if subject.cfg.loss.spread.weight > 0 else 'without'
    return f'{kind} spread loss: {subject.name}'
